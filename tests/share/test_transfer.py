"""An index of several platforms between a layout and a registry: a real one, and ones that misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.buildkit import oci_transfer
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, LABEL, OURS
from doit_images.share import transfer
from doit_images.share.login import Credentials, Login
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry
from doit_images.share.transfer import Whole
from tests import loopback

BOTH = ["linux/amd64", "linux/arm64"]
TOGETHER = ", ".join(BOTH)


def put(folder: Path, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = oci_transfer.blob_of(folder, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest


def entry_of(folder: Path, content: Any, kind: str, **more: Any) -> dict[str, Any]:
    data = json.dumps(content).encode()
    return {
        "mediaType": f"application/vnd.oci.image.{kind}.v1+json",
        "digest": put(folder, data),
        "size": len(data),
        **more,
    }


def layout(folder: Path, own: dict[str, str], of_labels: str = LABEL) -> tuple[str, str]:
    """A layout of an image for the platforms that ``own`` gives labels for; the digests of its index and of the first
    configuration."""
    entries, configs = [], []
    for platform, label in own.items():
        system, processor = platform.split("/")
        of = {"os": system, "architecture": processor}
        layer = f"the layer of {processor}".encode()
        made = {
            **of,
            "rootfs": {"diff_ids": ["sha256:" + "0" * 64]},
            "config": {"Labels": {f"{of_labels}own": label, f"{of_labels}fingerprint": label}},
        }
        config = entry_of(folder, made, "config")
        layers = [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": put(folder, layer), "size": len(layer)}
        ]
        manifest = {"schemaVersion": 2, "config": config, "layers": layers}
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
        entries.append(entry_of(folder, manifest, "manifest", platform=of))
        configs.append(str(config["digest"]))
    media = "application/vnd.oci.image.index.v1+json"
    top = entry_of(folder, {"schemaVersion": 2, "mediaType": media, "manifests": entries}, "index")
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return str(top["digest"]), configs[0]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Registry]:
    with loopback.registry(tmp_path / "registry") as service:
        yield Registry(f"{service.address}/team")


@pytest.mark.parametrize("of_labels", OURS)
def test_an_index_goes_there_and_comes_back_whole(real: Registry, tmp_path: Path, of_labels: str) -> None:
    digest, config = layout(tmp_path / "one", dict.fromkeys(BOTH, "o1"), of_labels)
    transfer.push(real, "app/auth", ["in-1", "cache"], Whole(digest, digest, tmp_path / "one"))
    transfer.push(
        real, "app/auth", ["in-1"], Whole(digest, digest, tmp_path / "one")
    )  # what is there is not sent again
    found = real.image("app/auth", "in-1", TOGETHER)
    assert found is not None
    assert (found.digest, found.content, found.platform, found.labels) == (
        digest,
        digest,
        TOGETHER,
        {INPUT_DIGEST: "o1", FINGERPRINT: "o1"},
    )
    assert real.image("app/auth", "cache", "linux/arm64") is not None
    assert real.image("app/auth", "in-1", f"{TOGETHER}, linux/s390x") is None
    transfer.fetch(real, "app/auth", digest, tmp_path / "two")
    assert oci_transfer.whole(tmp_path / "two", config, BOTH, {INPUT_DIGEST: "o1"}) == digest
    assert oci_transfer.whole(tmp_path / "two", config, BOTH, {INPUT_DIGEST: "o2"}) == ""
    assert oci_transfer.whole(tmp_path / "two", "sha256:" + "1" * 64, BOTH, {INPUT_DIGEST: "o1"}) == ""
    blobs = [{path.name for path in (tmp_path / name / "blobs" / "sha256").iterdir()} for name in ("one", "two")]
    assert blobs[0] == blobs[1]


def test_what_was_pushed_for_each_platform_becomes_one_index_and_only_then_gets_a_name(
    real: Registry, tmp_path: Path
) -> None:
    parts = {}
    for platform in BOTH:
        top, _ = layout(tmp_path / platform, {platform: "o1"})
        parts[platform] = str(
            json.loads(oci_transfer.blob_of(tmp_path / platform, top).read_bytes())["manifests"][0]["digest"]
        )
        transfer.push(real, "app/auth", [], Whole(top, top, tmp_path / platform))
    assert real.tags("app/auth") == []
    digest = transfer.joined(real, "app/auth", parts)
    assert real.tags("app/auth") == []
    transfer.push(real, "app/auth", ["in-1", "cache"], Whole(digest, digest))
    held = real.image("app/auth", "in-1", TOGETHER)
    assert held is not None
    assert (held.digest, held.labels, sorted(real.tags("app/auth"))) == (
        digest,
        {INPUT_DIGEST: "o1", FINGERPRINT: "o1"},
        ["cache", "in-1"],
    )
    with pytest.raises(NoImage, match="does not hold the image for linux/s390x"):
        transfer.joined(real, "app/auth", {**parts, "linux/s390x": parts["linux/amd64"]})
    lost = f"sha256:{'0' * 64}"
    with pytest.raises(NoImage, match="does not hold all of it"):
        transfer.push(real, "app/auth", ["in-2"], Whole(lost, lost))


def test_platforms_that_are_not_of_one_build_are_nobodys(real: Registry, tmp_path: Path) -> None:
    digest, _ = layout(tmp_path / "one", {"linux/amd64": "o1", "linux/arm64": "o2"})
    transfer.push(real, "app/auth", ["in-1"], Whole(digest, digest, tmp_path / "one"))
    found = real.image("app/auth", "in-1", TOGETHER)
    assert found is not None
    assert found.labels == {}


def test_a_single_image_is_no_index(real: Registry, tmp_path: Path) -> None:
    digest, _ = layout(tmp_path / "one", {"linux/amd64": "o1"})
    transfer.push(real, "app/auth", ["in-1"], Whole(digest, digest, tmp_path / "one"))
    assert real.image("app/auth", "in-1", "linux/amd64") is not None
    assert real.image("app/auth", "in-1", TOGETHER) is None


def test_a_layout_that_lacks_a_layer_is_not_pushed(real: Registry, tmp_path: Path) -> None:
    digest, _ = layout(tmp_path / "one", dict.fromkeys(BOTH, "o1"))
    layer = hashlib.sha256(b"the layer of arm64").hexdigest()
    (tmp_path / "one" / "blobs" / "sha256" / layer).unlink()
    with pytest.raises(NoImage):
        transfer.push(real, "app/auth", ["in-1"], Whole(digest, digest, tmp_path / "one"))
    assert real.image("app/auth", "in-1", "linux/amd64") is None


class Liar:
    """A registry that serves a layout, with other bytes where ``lies`` has some, and takes uploads at a signed URL of
    another host, which it refuses."""

    def __init__(self, folder: Path) -> None:
        self.lies: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                liar.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                digest = self.path.rpartition("/")[2]
                body, status, headers = b"", 404, {}
                if self.command == "GET" and digest.startswith("sha256:"):
                    body, status = liar.lies.get(digest, oci_transfer.blob_of(folder, digest).read_bytes()), 200
                elif self.command == "POST" and not self.headers.get("Authorization"):
                    status, headers = 401, {"WWW-Authenticate": 'Basic realm="here"'}
                elif self.command == "POST":
                    port = liar.server.server_port
                    status, headers = 202, {"Location": f"http://127.0.0.1:{port}/up?signature=hidden"}
                elif self.command == "PUT":
                    status = 500
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        for verb in ("GET", "HEAD", "POST", "PUT"):
            setattr(Handler, f"do_{verb}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.registry = Registry(f"localhost:{self.server.server_port}")


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Liar]:
    (tmp_path / "one").mkdir()
    one = Liar(tmp_path / "one")
    yield one
    one.server.shutdown()


@pytest.mark.parametrize(("what", "more"), [("layer", b""), ("layer", b" "), ("manifest", b" "), ("index", b" ")])
def test_what_is_not_what_its_digest_says_is_not_taken(liar: Liar, tmp_path: Path, what: str, more: bytes) -> None:
    """Neither where it is longer than it should be, nor where it is just as long."""
    digest, config = layout(tmp_path / "one", dict.fromkeys(BOTH, "o1"))
    index = json.loads(oci_transfer.blob_of(tmp_path / "one", digest).read_bytes())
    digests = {"layer": f"sha256:{hashlib.sha256(b'the layer of arm64').hexdigest()}", "index": digest}
    wrong = digests.get(what, index["manifests"][1]["digest"])
    liar.lies[wrong] = oci_transfer.blob_of(tmp_path / "one", wrong).read_bytes().replace(b"arm64", b"evil!") + more
    two = tmp_path / "two"
    two.mkdir()
    (two / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    with pytest.raises((NoImage, Unavailable)):
        transfer.fetch(liar.registry, "app/auth", digest, two)
    assert not oci_transfer.blob_of(two, wrong).exists()
    assert oci_transfer.whole(two, config, BOTH, {}) == ""
    assert json.loads((two / "index.json").read_text())["manifests"] == []
    assert not [path for path in (two / "blobs" / "sha256").iterdir() if path.name.startswith(".")]


def test_a_blob_that_is_longer_than_was_said_is_not_read_to_its_end(liar: Liar, tmp_path: Path) -> None:
    """Whoever signed a manifest signed its sizes: a disk is not filled with what nobody promised."""
    digest = put(tmp_path / "one", b"12345")
    with pytest.raises(NoImage, match="wrong digest"):
        liar.registry.take_blob("app/auth", digest, tmp_path / "blob", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    liar.registry.take_blob("app/auth", digest, tmp_path / "blob", 5)
    assert (tmp_path / "blob").read_bytes() == b"12345"


def test_a_signed_url_is_not_told_and_gets_no_login(
    liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Login, "credentials", Credentials("me", "secret"))
    digest, _ = layout(tmp_path / "one", dict.fromkeys(BOTH, "o1"))
    with pytest.raises(Unavailable) as refused:
        transfer.push(liar.registry, "app/auth", ["in-1"], Whole(digest, digest, tmp_path / "one"))
    assert str(refused.value) == "answers with status 500"
    put_to = [(path, login) for command, path, login in liar.asked if command == "PUT"]
    assert [login for _, login in put_to] == [""]
    assert put_to[0][0].startswith("/up?signature=hidden&digest=sha256")
    assert any(command == "POST" and login.startswith("Basic ") for command, _, login in liar.asked)


def test_a_line_that_stalls_while_a_blob_is_sent_is_waited_for(tmp_path: Path) -> None:
    """For longer than a connection may take: of what is sent only the whole has a limit."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Location", "/upload")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.answer(404)

        def do_POST(self) -> None:
            self.answer(202)

        def do_PUT(self) -> None:
            time.sleep(1)
            sent.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(201)

        def log_message(self, *args: object) -> None:
            pass

    sent: list[int] = []
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(30_000_000))  # more than the system takes before anybody reads
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        registry = Registry(f"localhost:{server.server_port}", connect=0.3)
        registry.give_blob("app/auth", f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}", blob)
        server.shutdown()
    assert sent == [30_000_000]
