"""How the engine is asked: in one version of its API, over a socket, ssh, or TLS."""

from __future__ import annotations

import contextlib
import grp
import http.server
import json
import os
import resource
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import temporary_engine
from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base.errors import UserError
from doit_images.core.engine import api
from doit_images.core.engine.api import OURS, Api, ssh_argv
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import endpoint, leading_to, tls
from tests import loopback
from tests.conftest import Lab, docker
from tests.faults.test_state_runs import WITHOUT_OVERRIDE
from tests.loopback import free_port
from tests.waiting import until

Answers = dict[str, Any]


class Listening:
    """An engine's socket: what was asked there, each as method and path."""

    def __init__(self, place: Path, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        self.asked: list[str] = []
        self.address = f"unix://{place}"
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if self.raw_requestline and self.parse_request():
                    asked.append(f"{self.command} {self.path}")
                    answer(self)
                self.close_connection = True

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(place), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def pretended(place: Path, version: str, answers: Answers) -> Iterator[Listening]:
    """An engine whose newest API is this version, and that says these things."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        found = answers.get(request.path, {})
        body = json.dumps(found).encode()
        request.wfile.write(b"HTTP/1.1 %d x\r\n" % (400 if "message" in found else 200))
        request.wfile.write(f"Api-Version: {version}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    one = Listening(place, answer)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(("theirs", "used"), [("1.43", "1.43"), ("1.9", "1.9"), (OURS, OURS), ("1.60", OURS)])
def test_one_version_that_both_understand(tmp_path: Path, theirs: str, used: str) -> None:
    with pretended(tmp_path / "s", theirs, {f"/v{used}/version": {"Os": "linux", "Arch": "arm64"}}) as engine:
        one = Engine(engine.address)
        one.ask()
        assert one.snapshot().platform == "linux/arm64"
        one.config_of("sha256:1")
        asked = ["/_ping", f"/v{used}/version", f"/v{used}/images/json", f"/v{used}/images/sha256:1/json"]
        assert sorted(engine.asked) == sorted(f"GET {path}" for path in asked)  # two of them are under way at once


def test_a_run_that_has_more_files_open_than_select_knows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= 1200
    said = {"/v1.43/version": {"Os": "linux", "Arch": "amd64"}}
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    try:
        with contextlib.ExitStack() as stack, pretended(tmp_path / "s", "1.43", said) as engine:
            while stack.enter_context(open(os.devnull)).fileno() < 1024:  # noqa: PTH123
                pass
            assert Engine(engine.address).snapshot().platform == "linux/amd64"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_engine_that_speaks_only_newer_versions_says_so(tmp_path: Path) -> None:
    refusal = {"message": f"client version {OURS} is too old. Minimum supported API version is 1.70"}
    said = r"Minimum supported API version is 1\.70 \(it is newer than this doit knows"
    with (
        pretended(tmp_path / "s", "1.80", {f"/v{OURS}/version": refusal}) as engine,
        pytest.raises(UserError, match=said),
    ):
        Engine(engine.address).snapshot()


def test_podman_is_told_from_docker(tmp_path: Path) -> None:
    """As Podman 5.4.2 answers: it builds without BuildKit, and its images are called otherwise."""
    components = [{"Name": "Podman Engine", "Version": "5.4.2"}, {"Name": "Conmon", "Version": "2.1.12"}]
    answers = {"/v1.41/version": {"Os": "linux", "Arch": "amd64", "Components": components}}
    with (
        pretended(tmp_path / "s", "1.41", answers) as engine,
        pytest.raises(UserError, match=r"is Podman, which has no BuildKit to build with \(set DOCKER_HOST"),
    ):
        Engine(engine.address).snapshot()


@pytest.mark.parametrize(("times", "fails"), [(3, False), (4, True)])
def test_images_are_listed_again_while_one_is_removed(tmp_path: Path, times: int, fails: bool) -> None:
    """What containerd's store said in the moment in which another process removed an image."""
    removed = [{"message": "NotFound: content digest sha256:aa04: not found"}] * times

    class Answering(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            return removed.pop() if path.endswith("/images/json") and removed else super().get(path, default)

    answers = Answering({f"/v{OURS}/version": {"Os": "linux", "Arch": "arm64"}, f"/v{OURS}/images/json": []})
    with (
        pretended(tmp_path / "s", OURS, answers) as engine,
        pytest.raises(UserError, match="content digest") if fails else contextlib.nullcontext(),
    ):
        assert Engine(engine.address).snapshot().platform == "linux/arm64"


def test_a_name_that_another_process_sets_at_the_same_moment_is_set_again(tmp_path: Path) -> None:
    """What containerd's store said when two checkouts gave one name to their images."""
    both = [{"message": 'after deleting the existing one: image "docker.io/app/c:latest": already exists'}] * 2
    asked: list[str] = []

    class Answering(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            asked.append(path)
            return both.pop() if "/tag?" in path and both else super().get(path, default)

    tag = f"/v{OURS}/images/sha256:5e/tag?repo=app%2Fc&tag=latest"
    with pretended(tmp_path / "s", OURS, Answering({tag: {}})) as engine:
        Engine(engine.address).tag("sha256:5e", "app/c")
    assert asked.count(tag) == 3, asked


RECORD = {"ID": "a", "Type": "regular", "Size": 7, "Parents": ["b"]}


@pytest.mark.parametrize("said", [{"BuildCache": [RECORD]}, {"BuildCacheUsage": {"TotalSize": 7, "Items": [RECORD]}}])
def test_the_build_cache_as_either_api_tells_it(tmp_path: Path, said: Answers) -> None:
    """API 1.52 says both, without the old one where ``verbose`` is asked for; 1.53 and later only the new one."""
    path = f"/v{OURS}/system/df?type=build-cache&verbose=1"
    with pretended(tmp_path / "s", OURS, {path: said}) as engine:
        found = Engine(engine.address).build_cache()
    assert [(one.id, one.size, one.parents) for one in found] == [("a", 7, ("b",))]


@pytest.mark.engine
def test_the_real_engines(newer: TemporaryEngine) -> None:
    for address in (endpoint(), newer.address):
        server = json.loads(docker("--host", address, "version", "--format", "{{json .Server}}").stdout)
        theirs = tuple(map(int, server["ApiVersion"].split(".")))
        assert Api(address).version() == (OURS if theirs > tuple(map(int, OURS.split("."))) else server["ApiVersion"])
        assert Engine(address).snapshot().platform == f"linux/{server['Arch']}"
        assert isinstance(Engine(address).build_cache(), tuple)


PROJECT = {
    "compose.yml": "name: PREFIX\nservices:\n  app: {image: PREFIX/app, build: app}\n",
    "app/Dockerfile": "FROM scratch\nCOPY file /\n",
    "app/file": "1",
}


@pytest.mark.engine
def test_a_run_with_nothing_to_do_asks_three_things(lab: Lab) -> None:
    lab.write(PROJECT)
    lab.build()
    real = endpoint().removeprefix("unix://")

    def passed_on(request: http.server.BaseHTTPRequestHandler) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(real)
            engine.sendall(f"{request.requestline}\r\nHost: docker\r\nConnection: close\r\n\r\n".encode())
            while data := engine.recv(65536):
                request.wfile.write(data)

    between = Listening(lab.folder / "s", passed_on)
    try:
        lab.doit("build_optimized", DOCKER_HOST=between.address)  # Compose's answer is kept for each DOCKER_HOST
        between.asked.clear()
        done = lab.doit("build_optimized", DOCKER_HOST=between.address)
    finally:
        between.close()
    assert done.returncode == 0, done.stderr
    version = Api(endpoint()).version()
    asked = sorted(["GET /_ping", f"GET /v{version}/version", f"GET /v{version}/images/json"])
    assert sorted(between.asked) == asked


# ---- ssh


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://far", "-- far docker system dial-stdio"),
        ("ssh://me@far:2222", "-l me -p 2222 -- far docker system dial-stdio"),
        ("ssh://far/run/user/1/docker.sock", "-- far docker --host unix:///run/user/1/docker.sock system dial-stdio"),
    ],
)
def test_the_command_that_leads_to_an_engine_behind_ssh(address: str, words: str) -> None:
    assert ssh_argv(address) == ["ssh", "-o", "ConnectTimeout=30", "-T", *words.split()]


def command(folder: Path, name: str, text: str) -> dict[str, str]:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)
    return {"PATH": f"{folder}/bin:{os.environ['PATH']}"}


LOOK = """
from doit_images.core.engine.client import Engine
print(len(Engine().snapshot().by_name) > 0, Engine().uses_containerd_store())
"""


def look(environ: dict[str, str], by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*by, sys.executable, "-c", LOOK]
    return subprocess.run(argv, env={**os.environ, **environ}, capture_output=True, text=True)


@pytest.mark.engine
def test_ssh_that_fails_says_why(tmp_path: Path) -> None:
    path = command(tmp_path, "ssh", "#!/bin/sh\necho 'me@far: Permission denied (publickey).' >&2\nexit 255\n")
    done = look({**path, "DOCKER_HOST": "ssh://me@far"})
    assert "no Docker engine answers at ssh://me@far: me@far: Permission denied (publickey)." in done.stderr
    assert "see that `docker --host ssh://me@far version` works" in done.stderr


def test_without_ssh_that_is_said(tmp_path: Path) -> None:
    assert "there is no ssh command (install openssh-client)" in look({"PATH": "", "DOCKER_HOST": "ssh://far"}).stderr


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real sshd on loopback that lets us in; gives the environment in which ``ssh`` reaches it, and DOCKER_HOST."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or _unpacked_sshd(tmp_path)
    if os.geteuid() != 0:
        pytest.skip("sshd is started as root")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    port = free_port()
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": tmp_path / "host", "StrictModes": "no", "UsePAM": "no",
        "AuthorizedKeysFile": tmp_path / "key.pub", "PidFile": "none", "PermitRootLogin": "yes", "LogLevel": "ERROR",
        "SetEnv": f"PATH={os.environ['PATH']}", "MaxStartups": 100,
    }  # fmt: skip
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    libraries = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "root/usr/lib/x86_64-linux-gnu")}
    libexec = tmp_path / "root/usr/lib/openssh"
    if libexec.is_dir():
        with (tmp_path / "sshd_config").open("a") as config:
            config.write(f"SshdSessionPath {libexec}/sshd-session\nSshdAuthPath {libexec}/sshd-auth\n")
    # It wants a user of its own, which only it sees here.
    (tmp_path / "passwd").write_text(Path("/etc/passwd").read_text() + "sshd:x:65533:65534::/run/sshd:/bin/false\n")
    start = f"mount --bind {tmp_path}/passwd /etc/passwd && exec {server} -D -e -f {tmp_path}/sshd_config"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", start]
    with (tmp_path / "sshd.log").open("w") as log, subprocess.Popen(argv, env=libraries, stderr=log) as process:
        wrapper = f"-F none -i {tmp_path}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        path = command(tmp_path, "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} {wrapper} -o LogLevel=ERROR "$@"\n')
        try:
            _await(port, process, tmp_path / "sshd.log")
            yield {**path, "DOCKER_HOST": f"ssh://root@127.0.0.1:{port}"}
        finally:
            process.terminate()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until(lambda: process.poll() is not None or loopback.listens(port))
    assert process.poll() is None, log.read_text()


def _unpacked_sshd(folder: Path) -> str:
    """sshd from Debian's package, which is not installed: that would start it on this machine."""
    packages = ["openssh-server", "libwrap0", "libwtmpdb0"]
    got = subprocess.run(["apt-get", "-qq", "download", *packages], cwd=folder, capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"there is no sshd, nor its package: {got.stderr.strip().splitlines()[-1]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder / "root")], check=True)
    return str(folder / "root/usr/sbin/sshd")


@pytest.mark.engine
def test_everything_works_through_a_real_sshd(lab: Lab, busybox: str, sshd: dict[str, str]) -> None:
    if not endpoint().startswith("unix:///var/run/docker.sock"):
        sshd["DOCKER_HOST"] += endpoint().removeprefix("unix://")
    assert look(sshd).stdout.split()[:1] == ["True"], look(sshd).stderr
    lab.write(PROJECT)
    lab.environ = sshd
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"app": "fresh"}
    done = lab.doit("ps_optimized")
    assert done.returncode == 0, done.stderr


# ---- TLS


def certificates(folder: Path) -> None:
    """An authority, and what it signed for the engine at 127.0.0.1 and for a client."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-subj", "/CN=ca", "-keyout", "ca-key.pem", "-out", "ca.pem")
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
        openssl(
            "req", "-x509", *key, "-subj", f"/CN={name}", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
            "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", f"{name}-key.pem", "-out", f"{name}.pem",
        )  # fmt: skip


@pytest.fixture
def behind_tls(tmp_path: Path, engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A dockerd that wants a client's certificate, and the environment whose current context leads to it."""
    certificates(tmp_path)
    port = free_port()
    plain = temporary_engine._config

    def config(folder: Path, address: str, *more: Any) -> dict[str, object]:
        names = {"tlscacert": "ca.pem", "tlscert": "server.pem", "tlskey": "server-key.pem"}
        files = {name: str(tmp_path / file) for name, file in names.items()}
        hosts = [address, f"tcp://127.0.0.1:{port}"]
        return {**plain(folder, address, *more), "hosts": hosts, "tlsverify": True, **files}

    monkeypatch.setattr(temporary_engine, "_config", config)
    environ = {"DOCKER_CONFIG": str(tmp_path / "config"), "DOCKER_CONTEXT": "far", "DOCKER_HOST": ""}
    where = f"host=tcp://127.0.0.1:{port},ca={tmp_path}/ca.pem,cert={tmp_path}/client.pem,key={tmp_path}/client-key.pem"
    made = ["docker", "context", "create", "far", "--docker", where]
    subprocess.run(made, env={**os.environ, **environ, "DOCKER_CONTEXT": ""}, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(temporary_engine.temporary_engine("tst-tls-", in_memory=True))
        except UserError as trouble:
            pytest.skip(str(trouble))
        yield environ


@pytest.mark.engine
def test_an_engine_behind_tls_that_a_context_names(lab: Lab, behind_tls: dict[str, str], tmp_path: Path) -> None:
    done = look(behind_tls)
    assert done.stdout.split() == ["False", "False"], done.stderr
    lab.write(PROJECT)
    with loopback.registry(tmp_path / "registry") as server:
        lab.environ = {**behind_tls, "CACHE_REGISTRY": server.address}
        assert lab.build() == {"app": "built"}
        assert loopback.tags(server, f"{lab.prefix}/app") != []
    assert lab.actions() == {"app": "fresh"}
    assert lab.doit("ps_optimized").returncode == 0
    assert docker("image", "inspect", lab.ref("app")).returncode != 0, "it went to the engine here"


@pytest.mark.engine
def test_a_context_without_its_key_says_so(behind_tls: dict[str, str]) -> None:
    for file in Path(behind_tls["DOCKER_CONFIG"]).rglob("key.pem"):
        file.unlink()
    said = look(behind_tls).stderr
    assert "no Docker engine answers at tcp://127.0.0.1:" in said
    assert "key" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("gid", "remedy"),
    [
        (1, f"join its group: sudo usermod -aG {grp.getgrgid(1).gr_name} $USER, then log in again"),
        (0, "set DOCKER_HOST to an engine that you may use"),
    ],
)
def test_an_engine_that_this_user_may_not_use(tmp_path: Path, gid: int, remedy: str) -> None:
    if os.geteuid() or subprocess.run([*WITHOUT_OVERRIDE, "true"]).returncode:
        pytest.skip("only root can give a socket away, and give up that it may use it all the same")
    place = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        os.chown(place, 12345, gid)
        place.chmod(0o660 if gid else 0o600)
        said = look({"DOCKER_HOST": f"unix://{place}"}, WITHOUT_OVERRIDE).stderr
    assert f"you may not use the Docker engine at unix://{place}: Permission denied ({remedy}" in said


def test_the_docker_command_keeps_the_context_that_leads_there(tmp_path: Path) -> None:
    plain = {"DOCKER_CONFIG": str(tmp_path)}
    assert leading_to(endpoint(plain), plain) == plain
    assert leading_to("tcp://other:1", plain) == {**plain, "DOCKER_HOST": "tcp://other:1"}


def test_what_a_context_holds_for_tls(tmp_path: Path) -> None:
    environ = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "test"}
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    meta = tmp_path / "contexts/meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": "tcp://far:2376", "SkipTLSVerify": True}}}))
    assert tls(environ) == {"client_cert": None, "ca_cert": None, "verify": False}
    meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": "tcp://far:2376", "SkipTLSVerify": False}}}))
    assert tls(environ) is None
    folder = tmp_path / "contexts/tls" / digest / "docker"
    folder.mkdir(parents=True)
    (folder / "ca.pem").touch()
    assert tls(environ) == {"client_cert": None, "ca_cert": str(folder / "ca.pem"), "verify": True}
    assert tls({**environ, "DOCKER_HOST": "tcp://other:1"}) is None


# ---- one that works for long, one that hangs


class Slow:
    """An engine that answers ``/_ping`` at once, or not, and anything else after a while."""

    def __init__(self, folder: Path, seconds: float, pings: bool = True) -> None:
        self.address = f"unix://{folder}/slow.sock"
        self._seconds, self.pings, self.pinged = seconds, pings, 0
        self._over = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"{folder}/slow.sock")
        self._server.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            ping = b"/_ping" in client.recv(65536)
            self.pinged += ping
            if ping and not self.pings:
                self._over.wait()
            self._over.wait(0 if ping else self._seconds)
            with contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Length: 2\r\n\r\n{}")

    def close(self) -> None:
        self._over.set()
        self._server.close()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Slow]]:
    """Makes one, where patience is short."""
    monkeypatch.setattr(api, "_ALIVE_SECONDS", 0.3)
    monkeypatch.setattr(api, "_USUAL_SECONDS", 60.0)
    made: list[Slow] = []

    def make(*args: Any, **options: Any) -> Slow:
        made.append(Slow(tmp_path, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_takes_long_is_waited_for_as_long_as_the_engine_answers(slow: Callable[..., Slow]) -> None:
    engine = slow(1.0)
    assert api.Api(engine.address).call("POST", "/build/prune", 3600) == {}
    assert engine.pinged >= 3


def test_an_engine_that_hangs_meanwhile_is_said_soon(slow: Callable[..., Slow]) -> None:
    engine = slow(3600.0)
    asked = api.Api(engine.address)
    asked.version()
    engine.pings = False
    with pytest.raises(api.Hangs, match=r"slow\.sock hangs: it accepts connections but did not answer in 0 s"):
        asked.call("GET", "/images/json", 3600)
    pinged = engine.pinged
    with pytest.raises(api.Hangs):
        asked._ping()
    assert engine.pinged == pinged, "what is known is not asked again at once"
    assert "hangs" in asked.hangs()
    assert engine.pinged == pinged + 1, "who looks whether it still does asks"


def test_one_request_that_is_stuck_does_not_take_for_ever(slow: Callable[..., Slow]) -> None:
    engine = slow(3600.0)
    with pytest.raises(UserError, match="is stuck: it did not finish in 1 s what it was asked for"):
        api.Api(engine.address).call("GET", "/images/json", 1.0)
