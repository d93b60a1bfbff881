"""Damage that only an image shows: each test here failed when one line of ours was broken on purpose, and no other did.

The judge is what BuildKit made and what the engine holds: the files in an image, and the layers that it stands on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import loopback
from tests.conftest import Lab, docker
from tests.share.test_sent_again import contents
from tests.waiting import patience, until

pytestmark = pytest.mark.engine

PAIR = {
    "compose.yml": """
        name: PREFIX
        services:
          base: {image: PREFIX/base, build: base, scale: 0}
          app: {image: PREFIX/app, build: {context: app, additional_contexts: {base: "service:base"}}}
        """,
    "base/Dockerfile": "FROM scratch\nCOPY base.txt /\n",
    "base/base.txt": "base of PREFIX\n",
    "app/Dockerfile": "FROM base\nCOPY app.txt /\n",
    "app/app.txt": "app of PREFIX\n",
}


def layers(lab: Lab, image: str) -> list[str]:
    """The layers of an image, from the base up."""
    found: list[str] = json.loads(
        docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", lab.ref(image)).stdout
    )
    return found


def test_two_folders_that_change_places(lab: Lab) -> None:
    """The same digests in another order: which content comes from where is part of what an image is."""
    build = "{context: ., additional_contexts: {left: left, right: right}}"
    lab.write(
        {
            "compose.yml": f"name: PREFIX\nservices: {{app: {{image: PREFIX/app, build: {build}}}}}\n",
            "Dockerfile": "FROM scratch\nCOPY --from=left . /left/\nCOPY --from=right . /right/\n",
            "left/f": "left of PREFIX",
            "right/f": "right of PREFIX",
        }
    )
    lab.build()
    (lab.folder / "left").rename(lab.folder / "aside")
    (lab.folder / "right").rename(lab.folder / "left")
    (lab.folder / "aside").rename(lab.folder / "right")
    assert lab.build() == {"app": "built"}
    assert contents(lab, "app")["left/f"][1] == f"right of {lab.prefix}"


def test_a_parent_that_moves_during_a_build(lab: Lab, busybox: str) -> None:
    """Rebuilt by another run to other content under the same names, when its child was half way on the old one."""
    lab.write(PAIR)
    lab.write({"base/Dockerfile": f"FROM {busybox}\nCOPY base.txt /\nRUN cat /proc/sys/kernel/random/uuid >/id\n"})
    lab.write({"app/Dockerfile": f"FROM base\nCOPY app.txt /\nRUN sleep {patience(4):.0f}\n"})
    assert lab.doit("build_optimized:base").returncode == 0
    run = lab.start("build_optimized:app")
    until(lambda: any("sleep" in log.read_text() for log in lab.folder.glob(".doit-images/**/logs/app.log")))
    _make_anew(lab, "base")
    output, _ = run.communicate(timeout=patience())
    if run.returncode:
        assert "a parent changed while it was built" in output
        assert lab.image_id(lab.ref("app")) == ""
        lab.build()
    base = layers(lab, "base")
    assert layers(lab, "app")[: len(base)] == base, output


def _make_anew(lab: Lab, image: str) -> None:
    """Build an image again without cache, with the labels and the names that it has."""
    argv = ["docker", "buildx", "build", "--no-cache", "--quiet", str(lab.folder / image)]
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", lab.ref(image)).stdout)
    for name, value in labels.items():
        argv += ["--label", f"{name}={value}"]
    for tag in [name for name in lab.images() if f"/{image}:" in name]:
        argv += ["--tag", tag]
    subprocess.run(argv, check=True, capture_output=True)


class Between:
    """Stands before a registry and may answer in its place: ``answer(request)`` gives a status, headers and a body, or
    None to pass the request on."""

    def __init__(self, target: loopback.Service) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes] | None] = lambda request: None
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, headers, body = between.answer(self) or _passed(target, self)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", headers.get("Length") or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 http.server's name

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _passed(target: loopback.Service, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
    wanted = urllib.request.Request(f"http://127.0.0.1:{target.port}{request.path}", method=request.command)
    wanted.add_header("Accept", ", ".join(request.headers.get_all("Accept") or ["*/*"]))
    try:
        with urllib.request.urlopen(wanted) as got:
            status, found, body = got.status, got.headers, got.read()
    except urllib.error.HTTPError as error:
        status, found, body = error.code, error.headers, error.read()
    kept = {name: found[name] for name in ("Content-Type", "Docker-Content-Digest") if found[name]}
    return status, kept | {"Length": found["Content-Length"] or str(len(body))}, body


@pytest.fixture
def between(lab: Lab, busybox: str) -> Iterator[Between]:
    """A pair of images that a registry holds and this engine no longer does; between both one may lie."""
    lab.write(PAIR)
    with loopback.registry(lab.folder / "registry") as server:
        lab.environ["CACHE_REGISTRY"] = server.address
        lab.build()
        one = Between(server)
        yield one
        one.close()


def _forget(lab: Lab) -> None:
    docker("image", "rm", "--force", *lab.images())
    shutil.rmtree(lab.folder / ".doit-images")


def test_a_good_configuration_under_an_image_that_somebody_else_made_is_not_believed(
    lab: Lab, between: Between
) -> None:
    """A registry, or a cache before it, shows us a configuration with all the right labels, and would give the engine
    something else."""
    registry = lab.environ["CACHE_REGISTRY"]
    [tag] = [name for name in lab.images() if "/base:in-" in name]
    target = f"{registry}/{tag}"
    repository, number = tag.split(":")
    manifest = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{number}")
    manifest.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    with urllib.request.urlopen(manifest) as answer:
        digest = json.load(answer)["config"]["digest"]
    with urllib.request.urlopen(f"http://{registry}/v2/{repository}/blobs/{digest}") as answer:
        good = answer.read()
    lab.write({"evil/Dockerfile": "FROM scratch\nCOPY base.txt /\n", "evil/base.txt": "EVIL of PREFIX\n"})
    argv = ["buildx", "build", "--quiet", "--tag", target, str(lab.folder / "evil")]
    assert docker(*argv).returncode == 0
    assert docker("push", "--quiet", target).returncode == 0
    docker("image", "rm", target)
    _forget(lab)

    lies: list[str] = []

    def answer_us(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes] | None:
        ours = "/blobs/" in request.path and f"/{repository}/" in request.path
        if ours and "docker/" not in request.headers.get("User-Agent", ""):
            lies.append(request.path)
            return 200, {"Content-Type": "application/octet-stream"}, good
        return None

    between.answer = answer_us
    lab.environ["CACHE_REGISTRY"] = between.address
    lab.environ["CACHE_WRITE"] = "0"
    assert lab.actions()["base"] == "build"
    assert lies, "it was told"
    done = lab.build()
    lab.nameless |= {name for name in lab.images() if between.address in name}
    assert done["base"] == "built"
    assert contents(lab, "base")["base.txt"][1] == f"base of {lab.prefix}\n"
    assert contents(lab, "app")["base.txt"][1] == f"base of {lab.prefix}\n"


def test_a_signed_url_of_a_registry_is_not_told(lab: Lab, between: Between) -> None:
    """Registries send the engine to a store with a signature in the URL, which it repeats when that fails."""

    def elsewhere(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes] | None:
        if "/manifests/" in request.path and "docker/" in request.headers.get("User-Agent", ""):
            return 307, {"Location": f"http://127.0.0.1:1{request.path}?X-Amz-Signature=HUSH"}, b""
        return None

    _forget(lab)
    between.answer = elsewhere
    lab.environ["CACHE_REGISTRY"] = between.address
    lab.environ["CACHE_WRITE"] = "0"
    done = lab.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    assert "cannot be pulled" in done.stderr or "does not give what it has" in done.stderr, done.stderr
    assert "HUSH" not in done.stderr + done.stdout
    kept = [
        path for path in (lab.folder / ".doit-images").rglob("*") if path.is_file() and b"HUSH" in path.read_bytes()
    ]
    assert kept == []


def test_a_parent_that_is_pulled_is_a_reason(lab: Lab, between: Between) -> None:
    lab.write({"base/base.txt": "another base of PREFIX\n"})
    lab.build()
    lab.write(PAIR | {"app/app.txt": "another app of PREFIX\n"})
    docker("image", "rm", "--force", *[name for name in lab.images() if "/base:" in name])
    plan = lab.plan()
    assert (plan["base"]["action"], plan["app"]["action"]) == ("pull", "build")
    assert plan["app"]["reasons"] == ["`app/app.txt` changed", "`base` is made again"]
    lab.build()
    base = layers(lab, "base")
    assert layers(lab, "app")[: len(base)] == base


def test_no_argument_that_sounds_like_a_secret_is_kept_or_shown(lab: Lab) -> None:
    """Neither its value nor what it was before, in what people see and in what is kept of builds."""
    names = ["NPM_TOKEN", "DB_PASSWORD", "passwd", "CLIENT_SECRET", "CREDENTIALS", "APIKEY", "API_KEY", "PRIVATE_PEM"]
    values = ", ".join(f"{name}: HUSH1" for name in names)
    build = f"{{context: ., args: {{{values}}}, labels: {{its.token: HUSH1}}}}"
    compose = f"name: PREFIX\nservices: {{app: {{image: PREFIX/app, build: {build}}}}}\n"
    lab.write({"compose.yml": compose, "Dockerfile": f"FROM scratch\nARG {' '.join(names)}\nCOPY f /\n", "f": "PREFIX"})
    said = lab.doit("build_optimized").stderr
    lab.write({"compose.yml": compose.replace("HUSH1", "HUSH2")})
    planned = lab.doit("plan", "--json")
    reasons = json.loads(planned.stdout)["images"][0]["reasons"]
    assert sorted(reasons) == sorted([*(f"arg `{name}` changed" for name in names), "label `its.token` changed"])
    built = lab.doit("build_optimized")
    assert "built app" in built.stderr
    shown = lab.doit("history", "app").stdout
    assert "HUSH" not in said + planned.stdout + planned.stderr + built.stdout + built.stderr + shown
    kept = [path for name in ("images/app.json", "history/*") for path in lab.folder.glob(f".doit-images/**/{name}")]
    assert len(kept) > 1
    assert [path.name for path in kept if b"HUSH" in path.read_bytes()] == []


def test_a_proxy_that_the_docker_command_is_configured_with(lab: Lab, busybox: str) -> None:
    """buildx gives it to every build; a step after ``ARG HTTP_PROXY`` may write it down."""
    lab.write({"compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: .}}\n"})
    lab.write({"Dockerfile": f"FROM {busybox}\nARG HTTP_PROXY\nRUN echo PREFIX $HTTP_PROXY >/proxy\n"})
    lab.environ |= {"DOCKER_CONFIG": str(lab.folder / "docker"), "HTTP_PROXY": "", "http_proxy": ""}
    for number in ("1", "2"):
        proxies = {"proxies": {"default": {"httpProxy": f"http://127.0.0.{number}:9"}}}
        lab.write({"docker/config.json": json.dumps(proxies)})
        assert lab.build() == {"app": "built"}
        assert contents(lab, "app")["proxy"][1] == f"{lab.prefix} http://127.0.0.{number}:9\n"
