"""What a registry is asked and what its answers mean: against a real one, and against ones that misbehave."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.engine.client import Engine
from doit_images.share import transport
from doit_images.share.client import Client
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry
from doit_images.share.transport import Limits
from tests import loopback
from tests.conftest import ROOT, docker
from tests.waiting import patience, until

CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "rootfs": {"diff_ids": ["sha256:l"]},
    "config": {"Labels": {"a": "b"}, "Env": ["X=1"]},
}


def digest_of(content: Any) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


MANIFEST = {
    "schemaVersion": 2,
    "config": {"digest": digest_of(CONFIG), "size": 1},
    "layers": [{"digest": "sha256:x", "size": 70}, {"digest": "sha256:y", "size": 30}],
}


class Fake:
    """A registry whose answers a test chooses: a function from the request to (status, headers, body)."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]] = self.good
        self.seen: list[tuple[str, str]] = []
        self.methods: list[tuple[str, str]] = []
        self.connections = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake.connections += 1

            def do_GET(self) -> None:
                fake.seen.append((self.path, self.headers.get("Authorization", "")))
                fake.methods.append((self.command, self.path))
                status, headers, body = fake.answer(self)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(ConnectionError):  # whoever has heard enough hangs up
                    self.end_headers()
                    self.wfile.write(b"" if self.command == "HEAD" else body)

            do_HEAD = do_GET  # noqa: N815  as http.server calls it

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"localhost:{self.server.server_port}"

    def good(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.path in (f"/v2/app/auth/manifests/{name}" for name in ("in-1", digest_of(MANIFEST))):
            return 200, {"Docker-Content-Digest": digest_of(MANIFEST)}, json.dumps(MANIFEST).encode()
        if request.path == f"/v2/app/auth/blobs/{digest_of(CONFIG)}":
            return 200, {}, json.dumps(CONFIG).encode()
        return 404, {}, b"{}"

    def always(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.answer = lambda request: (status, {key.replace("_", "-"): value for key, value in headers.items()}, body)


@pytest.fixture
def fake() -> Iterator[Fake]:
    one = Fake()
    yield one
    one.server.shutdown()


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What `docker login` leaves behind, in a folder of the test."""

    def write(host: str, user: str = "ann", password: str = "HUSH") -> None:
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    return write


def test_an_image_is_its_manifest_and_its_configuration(fake: Fake) -> None:
    found = Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert found is not None
    assert (found.digest, found.config) == (digest_of(MANIFEST), digest_of(CONFIG))
    assert (found.platform, found.labels, found.size) == ("linux/amd64", {"a": "b"}, 100)
    assert Registry(fake.address).image("app/auth", "in-2", "linux/amd64") is None


def test_an_index_is_searched_for_the_platform(fake: Fake) -> None:
    entries = [
        {"digest": "sha256:other", "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": digest_of(MANIFEST), "platform": {"os": "linux", "architecture": "amd64"}},
    ]

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.path.endswith("in-1"):
            return 200, {}, json.dumps({"manifests": entries}).encode()
        if request.path.endswith(digest_of(MANIFEST)):
            return 200, {}, json.dumps(MANIFEST).encode()
        return fake.good(request)

    fake.answer = answer
    found = Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert found is not None
    assert found.digest == digest_of(MANIFEST)
    assert Registry(fake.address).image("app/auth", "in-1", "linux/s390x") is None


def test_a_path_before_all_repositories(fake: Fake) -> None:
    fake.always(404)
    assert Registry(f"{fake.address}/team").image("app/auth", "in-1", "linux/amd64") is None
    assert fake.seen == [("/v2/team/app/auth/manifests/in-1", "")]


def test_a_token_is_fetched_once_for_a_repository_with_the_login(fake: Fake, login: Callable[[str], None]) -> None:
    login(fake.address)
    realm = f"http://{fake.address}/token"

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.path.startswith("/token"):
            return 200, {}, b'{"token": "T0KEN"}'
        if request.headers.get("Authorization") != "Bearer T0KEN":
            return (
                401,
                {"WWW-Authenticate": f'Bearer realm="{realm}",service="reg",scope="repository:app/auth:pull"'},
                b"",
            )
        return fake.good(request)

    fake.answer = answer
    registry = Registry(fake.address)
    assert registry.image("app/auth", "in-1", "linux/amd64")
    assert registry.image("app/auth", "in-1", "linux/amd64")
    asked = [(path, how) for path, how in fake.seen if path.startswith("/token")]
    assert len(asked) == 1
    assert asked[0][0] == "/token?service=reg&scope=repository%3Aapp%2Fauth%3Apull"
    assert base64.b64decode(asked[0][1].removeprefix("Basic ")) == b"ann:HUSH"


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"WWW_Authenticate": "Basic realm=x"}, "refuses the credentials"),
        (403, {}, "refuses the credentials"),
        (401, {"WWW_Authenticate": "Negotiate"}, "an unknown kind of login"),
        (401, {}, "an unknown kind of login"),
        (500, {}, "answers with status 500"),
        (507, {}, "answers with status 507"),
    ],
)
def test_a_registry_that_refuses_is_unavailable(
    fake: Fake, login: Callable[[str], None], status: int, headers: dict[str, str], words: str
) -> None:
    login(fake.address)
    fake.always(status, **headers)
    with pytest.raises(Unavailable, match=words) as refused:
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert "HUSH" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"config": {}}',
        b'{"config": 3, "layers": 4}',
        b'{"manifests": [{}]}',
        b'{"manifests": [{"digest": [1], "platform": {"os": "linux", "architecture": "amd64"}}]}',
        b"x" * 9_000_000,
    ],
)
def test_something_else_than_an_image_is_no_image(fake: Fake, body: bytes) -> None:
    fake.always(200, body)
    with pytest.raises(NoImage):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")


def test_another_manifest_than_the_one_asked_for_is_not_believed(fake: Fake) -> None:
    entry = {"digest": f"sha256:{'0' * 64}", "platform": {"os": "linux", "architecture": "amd64"}}

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.path.endswith("in-1"):
            return 200, {}, json.dumps({"manifests": [entry]}).encode()
        return 200, {}, json.dumps(MANIFEST).encode()

    fake.answer = answer
    with pytest.raises(NoImage, match="a manifest with the wrong digest"):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")


@pytest.mark.parametrize("what", ["labels", "platform", "layers"])
def test_another_configuration_than_the_manifest_names_is_not_believed(fake: Fake, what: str) -> None:
    """Its labels say what an image was made from: who could change them could pass any image for any other."""
    forged = {
        "labels": CONFIG | {"config": {"Labels": {"a": "forged"}}},
        "platform": CONFIG | {"architecture": "arm64"},
        "layers": CONFIG | {"rootfs": {"diff_ids": ["sha256:other"]}},
    }[what]

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if "/blobs/" in request.path:
            return 200, {}, json.dumps(forged).encode()
        return fake.good(request)

    fake.answer = answer
    with pytest.raises(NoImage, match="a blob with the wrong digest"):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")


def test_the_bytes_of_a_manifest_are_those_that_were_asked_for(fake: Fake) -> None:
    fake.always(200, b"{}")
    with pytest.raises(NoImage, match="a manifest with the wrong digest"):
        Registry(fake.address).raw_manifest("app/auth", f"sha256:{'0' * 64}")


def test_a_registry_that_hangs_or_drips_is_given_up(fake: Fake) -> None:
    given_up = threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        given_up.wait(patience())
        return 200, {}, b"{}"

    fake.answer = hang
    with pytest.raises(Unavailable, match="does not answer in time"):
        Registry(fake.address, connect=0.3, read=0.3).image("app/auth", "in-1", "linux/amd64")
    given_up.set()


def drips(where: str) -> Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]:
    """An answer that comes byte by byte, for as long as anybody listens, in one of its parts."""

    def drip(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        token = request.path.startswith("/token")
        if where == "token" and not token:
            realm = f'Bearer realm="http://{request.headers["Host"]}/token"'
            return 401, {"WWW-Authenticate": realm}, b""
        if where == "redirect" and not request.path.startswith("/elsewhere"):
            return (
                307,
                {"Location": f"http://{request.headers['Host'].replace('localhost', '127.0.0.1')}/elsewhere"},
                b"",
            )
        with contextlib.suppress(OSError):
            if where == "headers":
                request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            else:
                request.send_response(200)
                request.end_headers()
            while True:
                request.wfile.write(b" ")
                time.sleep(0.02)
        return 200, {}, b""

    return drip


@pytest.mark.parametrize("where", ["body", "headers", "redirect", "token"])
def test_an_answer_that_drips_is_given_up_in_time(fake: Fake, where: str) -> None:
    fake.answer = drips(where)
    with pytest.raises(Unavailable, match="does not answer in time"):
        Registry(fake.address, connect=0.3, read=0.3).image("app/auth", "in-1", "linux/amd64")


def test_an_endless_token_is_given_up(fake: Fake) -> None:
    def endless(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if not request.path.startswith("/token"):
            return 401, {"WWW-Authenticate": f'Bearer realm="http://{fake.address}/token"'}, b""
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):
            while True:
                sent.append(request.wfile.write(b"x" * 65536))
        return 200, {}, b""

    sent: list[int] = []
    fake.answer = endless
    with pytest.raises(NoImage, match="returned more than an image could need"):
        Registry(fake.address, read=20).image("app/auth", "in-1", "linux/amd64")
    assert sum(sent) < 50_000_000


def test_a_run_that_is_stopped_waits_for_no_registry(fake: Fake) -> None:
    """SIGTERM while a look-up waits for the registry, and 19 for that one, each in a thread."""
    fake.answer = drips("headers")
    code = (
        "import sys\nfrom doit_images.core.base import commands\nfrom doit_images.share.share import Share\n"
        "from doit_images.core.planning.shared_image import SharedRef\n"
        "commands.stop_on_signals()\n"
        "share = Share(sys.argv[1], write=True, say=print)\nshare.registry.client._seconds = 600\n"
        "share.look({str(number): SharedRef(f'app/{number}', 'ab' * 32, 'linux/amd64') for number in range(20)})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, fake.address], cwd=ROOT) as process:
        until(lambda: len(fake.seen) > 0)
        process.terminate()
        assert process.wait(patience()) == 128 + signal.SIGTERM


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_registry_is_asked_again_when_it_wishes(fake: Fake, status: int) -> None:
    answers = [(status, {"Retry-After": "0"}, b"busy")]
    fake.answer = lambda request: answers.pop() if answers else fake.good(request)
    assert Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert len(fake.seen) == 4


def test_a_busy_registry_is_left_alone_for_as_long_as_it_asks_for_by_all(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(Limits, "rest", lambda self, seconds: rests.append(seconds))
    answers = [(429, {"Retry-After": "9"}, b"busy")]
    fake.answer = lambda request: answers.pop() if answers else fake.good(request)
    registry = Registry(fake.address)
    assert registry.image("app/auth", "in-1", "linux/amd64")
    assert 8 < rests[0] <= 9
    assert registry.image("app/auth", "in-2", "linux/amd64") is None
    assert len(rests) == len(fake.seen) - 1, "each question waits"


def test_who_was_refused_elsewhere_may_ask_again_when_the_registry_wishes(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(Limits, "rest", lambda self, seconds: rests.append(seconds))
    digest, registry = digest_of(MANIFEST), Registry(fake.address)
    answers = [(429, {"Retry-After": "50"}, b"busy")]
    fake.answer = lambda request: answers.pop() if answers else (200, {}, json.dumps(MANIFEST).encode())
    assert registry.client.rests("app/auth", digest, 0)
    assert 49 < max(rests) <= 50
    assert [registry.client.rests("app/auth", digest, number) for number in range(4)] == [True, True, True, False]
    fake.always(429, Retry_After="50")
    assert not registry.client.rests("app/auth", digest, 0), "together that is more than a minute"


@pytest.mark.parametrize("wish", ["3600", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_registry_that_asks_for_too_long_is_busy(fake: Fake, wish: str) -> None:
    fake.always(429, Retry_After=wish)
    with pytest.raises(Unavailable, match="status 429"):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert len(fake.seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_registry_does_not_show_to_one_who_is_logged_in_is_not_there(
    fake: Fake, login: Callable[[str], None], status: int
) -> None:
    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        asks = {"WWW-Authenticate": 'Basic realm="x"'}
        if request.path != "/v2/":
            return status, asks, b""
        return (200, {}, b"{}") if request.headers.get("Authorization") else (401, asks, b"")

    fake.answer = answer
    with pytest.raises(Unavailable, match="refuses the credentials"):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    login(fake.address)
    assert Registry(fake.address).image("app/auth", "in-1", "linux/amd64") is None
    assert Registry(fake.address).tags("app/auth") == []


@pytest.mark.parametrize("said", ["", "nonsense", "[" * 100000, '{"Username": 5, "Secret": []}', '["a"]', "exit 1"])
def test_a_credential_helper_that_talks_nonsense_is_no_login(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (tmp_path / "said").write_text(said)
    helper = tmp_path / "docker-credential-odd"
    helper.write_text(f"#!/bin/sh\n{said if said == 'exit 1' else f'cat {tmp_path}/said'}\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text('{"credsStore": "odd"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake.always(401, WWW_Authenticate="Basic realm=x")
    with pytest.raises(Unavailable, match="refuses the credentials"):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")


def test_a_credential_helper_is_asked_for_the_login(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-good"
    helper.write_text("""#!/bin/sh\n[ "$(cat)" = "$HOST" ] && echo '{"Username": "ann", "Secret": "HUSH"}'\n""")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {fake.address: "good"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOST", fake.address)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake.always(401, WWW_Authenticate="Basic realm=x")
    with pytest.raises(Unavailable):
        Registry(fake.address).image("app/auth", "in-1", "linux/amd64")
    assert base64.b64decode(fake.seen[1][1].removeprefix("Basic ")) == b"ann:HUSH"


def test_few_connections_are_used_again_and_again(fake: Fake) -> None:
    registry = Registry(fake.address)
    for _ in range(4):
        assert registry.image("app/auth", "in-1", "linux/amd64")
        assert registry.image("app/auth", "in-2", "linux/amd64") is None
    assert (len(fake.seen), fake.connections) == (10, 2), "and one to see that it speaks no TLS"


def test_a_registry_that_is_started_again_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PAUSES", (0.0, *[0.1] * 300))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(loopback.registry(tmp_path))
        registry = Registry(server.address, read=60)
        assert registry.tags("app/auth") == []
        server.kill()
        again = threading.Timer(0.3, lambda: stack.enter_context(loopback.registry(tmp_path, port=server.port)))
        again.start()
        assert registry.tags("app/auth") == []
        again.join()


def test_a_connection_that_is_reset_while_it_is_made_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a registry that is killed at this moment."""

    def reset(*words: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(socket.socket, "connect", reset)
    monkeypatch.setattr(transport, "_PAUSES", (0.0, 0.0))
    with pytest.raises(Unavailable, match="does not answer"):
        Registry(f"localhost:{loopback.free_port()}").image("app/auth", "in-1", "linux/amd64")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PAUSES", ())
    with pytest.raises(Unavailable, match="does not answer"):
        Registry("localhost:1").image("app/auth", "in-1", "linux/amd64")


def test_a_registry_elsewhere_is_asked_with_tls_only() -> None:
    assert Registry("registry.example.org:5000/team").client.base == "https://registry.example.org:5000"
    assert Registry("127.0.0.1:5000").client.base == "http://127.0.0.1:5000"
    assert Registry("localhost.example.org").client.base == "https://localhost.example.org"


@pytest.mark.engine
def test_a_real_registry_with_a_login(
    busybox: str, tmp_path: Path, login: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content that is computed from the registry is the one that the engine has, and so are labels and platform."""
    with loopback.registry(tmp_path / "registry", ("ann", "HUSH")) as server:
        login(server.address)
        name = f"{server.address}/cch-registry/one:in-1"
        folder = tmp_path / "context"
        folder.mkdir()
        (folder / "Dockerfile").write_text(
            f'FROM {busybox}\nLABEL a=b\nENV X=1\nEXPOSE 80\nVOLUME /v\nUSER 1\nWORKDIR /w\nCMD ["sh"]\n'
            'HEALTHCHECK --interval=3s CMD true\nONBUILD RUN true\nSTOPSIGNAL SIGINT\nSHELL ["sh", "-c"]\n'
        )
        try:
            built = docker("buildx", "build", "--tag", name, str(folder))
            assert built.returncode == 0, built.stderr
            pushed = docker("push", name)
            assert pushed.returncode == 0, pushed.stderr
            local_image = Engine().snapshot().get(name)
            assert local_image is not None
            facts = Engine().config_of(local_image.id)
            found = Registry(server.address).image("cch-registry/one", "in-1", "linux/amd64")
            assert found is not None
            assert (found.content, found.platform, found.config) == (facts.content, facts.platform, local_image.id)
            assert found.labels == local_image.labels
            assert Registry(server.address).tags("cch-registry/one") == ["in-1"]
            assert Registry(server.address).tags("cch-registry/nothing") == []
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "empty"))
            with pytest.raises(Unavailable, match="refuses the credentials"):
                Registry(server.address).image("cch-registry/one", "in-1", "linux/amd64")
        finally:
            docker("image", "rm", "--force", name)
            shutil.rmtree(folder)


def test_pages_of_what_is_attached_are_one_list_whatever_stands_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[Any] = [{"manifests": [{"digest": "a"}]}, {"manifests": 7}, {}, {"manifests": [{"digest": "b"}]}]
    answers = [transport.Answer(200, {}, json.dumps(page).encode()) for page in pages]
    monkeypatch.setattr(Client, "pages", lambda *_: iter(answers))
    assert Registry("localhost:1").listing("app", "referrers/x", "") == {
        "manifests": [{"digest": "a"}, {"digest": "b"}]
    }
