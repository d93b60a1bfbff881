"""What BuildKit, registries, Redis and other versions of ourselves may say: it is used, or it counts as unknown."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base import checked_json
from doit_images.core.buildkit import failure
from doit_images.core.buildkit.progress import Progress
from doit_images.core.compose import project
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import ImageConfig
from doit_images.core.history.store import steps_of
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.core.inputs.image_configs import ImageConfigCache
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.planning import checkouts, reasons, record
from doit_images.share import client, transport
from doit_images.share.index import ResultIndex
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.redis_client import RedisClient
from doit_images.share.registry import Registry
from doit_images.share.transport import Answer
from tests.faults.fuzzing import JSON, as_json, cases, damaged, mutated, watched

CAPTURED = Path(__file__).parent.parent / "buildkit"
MESSAGE = {
    "vertexes": [
        {
            "digest": "sha256:1",
            "name": "[stage 1/2] RUN x",
            "inputs": ["sha256:0"],
            "started": "2026-01-01T00:00:00Z",
            "completed": "2026-01-01T00:00:01.5Z",
            "cached": False,
            "error": 'process "/bin/sh -c x" did not complete successfully: exit code: 137',
        }
    ],
    "statuses": [{"id": "x", "vertex": "sha256:1", "name": "sending", "total": 5, "current": 2, "timestamp": "x"}],
    "logs": [{"vertex": "sha256:1", "stream": 1, "data": "aGVsbG8K", "timestamp": "2026-01-01T00:00:00Z"}],
    "warnings": [{"vertex": "sha256:1", "level": 1, "short": "eA==", "detail": ["eA=="], "url": "x"}],
}


@cases()
@given(
    st.sampled_from(sorted(CAPTURED.glob("*.rawjson"))).flatmap(lambda path: damaged(path.read_bytes()[:20_000]))
    | st.lists(mutated(MESSAGE).map(as_json), max_size=4).map(b"\n".join)
    | st.binary(max_size=200),
    st.integers(1, 5000),
    st.text(max_size=50),
)
def test_progress(whole: bytes, size: int, dockerfile: str) -> None:
    with watched():
        progress = Progress()
        for at in range(0, len(whole), size):
            progress.feed(whole[at : at + size])
        progress.finish()
        progress.summary()
        for step in progress.steps:
            assert step.seconds >= 0
            assert isinstance(step.text + step.label, str)
            progress.transfer(step)
            progress.log_lines(step)
        steps_of(progress)
        failure.explain(Image("a", "a", "/"), progress, dockerfile, Path("log"), 1)
        failure.hint(whole.decode(errors="replace"))


RECORD = {
    "image": "app", "ref": "shop/app", "action": "build", "fingerprint": "f" * 64, "parents": {"base": "f" * 64},
    "image_id": "sha256:1", "size": 5, "finished": 1e9, "seconds": 1.5,
    "build_inputs": {"files": {"a": "file 644 00"}, "settings": {"args": {"A": "1"}}, "bases": {}, "remotes": []},
}  # fmt: skip
PROJECT = {
    "format": 7, "key": "x", "sources": ["/a"],
    "project": {"name": "p", "directory": "/a", "files": ["/a/compose.yml"], "images": [{"name": "app", "ref": "a"}]},
}  # fmt: skip
CONFIGS = {
    "format": 2,
    "sha256:1": {"content": "c", "platform": "linux/amd64", "env": {"A": "b"}, "onbuild": ["RUN x"]},
}
OURS = {"record": RECORD, "project": PROJECT, "reads": {"k": {"copies": []}}, "facts": CONFIGS}


@cases()
@given(st.fixed_dictionaries({name: mutated(content) for name, content in OURS.items()}))
def test_records_of_another_version(root: Path, kept: dict[str, Any]) -> None:
    """Whole, with a checksum that is right, and not of the form that this version gives them."""
    folder = root / ".doit-images/compose.yml"
    for name, content in kept.items():
        path = folder / ("images/app.json" if name == "record" else f"{name}.json")
        checked_json.remember(path, content if isinstance(content, dict) else {})
    with watched(root / ".doit-images"):
        found = record.read(folder, "app")
        if found:
            list(reasons.differences(found.build_inputs, BuildInputs({}, {}, {}, ())))
        checkouts.gone(folder)
        plain = project.Project("p", root, (root / "compose.yml",), {"app": Image("app", "app", str(root))})
        InputResolver(plain, root / ".doit-images", {}).resolve("linux/amd64", lambda ref, wanted: None)
        cache = ImageConfigCache(folder / "facts.json", lambda image_id: ImageConfig("c", "linux/amd64"))
        cache.get("sha256:1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


INDEX = {
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [{"digest": "sha256:1", "platform": {"os": "linux", "architecture": "amd64", "variant": "v2"}}],
}
MANIFEST = {
    "config": {"digest": "sha256:c"},
    "layers": [{"digest": "sha256:l", "size": 5}],
    "tags": ["a", "b"],
    "rootfs": {"diff_ids": ["sha256:d"]},
    "os": "linux",
    "architecture": "amd64",
}
BODIES = mutated(INDEX).map(as_json) | mutated(MANIFEST, 1).map(as_json) | JSON.map(as_json) | st.binary(max_size=50)
STATUS = st.sampled_from([200, 200, 200, 200, 401, 404, 429, 500])


@pytest.fixture(scope="module")
def no_rests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_PATIENCE", 0.0)
        patch.setattr(transport, "_PAUSES", ())
        yield


@cases()
@given(st.lists(st.tuples(STATUS, BODIES), min_size=1, max_size=6))
def test_answers_of_registries(no_rests: None, answers: list[tuple[int, bytes]]) -> None:
    registry = Registry("localhost:1/team")
    turn = itertools.cycle(Answer(status, {}, body) for status, body in answers)
    registry.client.transport.ask = lambda *words: next(turn)  # type: ignore[method-assign]
    with watched():
        _ask_all(registry)


def _ask_all(registry: Registry) -> None:
    for platform in ("linux/amd64", "linux/amd64, linux/arm64"):
        with contextlib.suppress(NoImage, Unavailable):
            image = registry.image("a/b", "t", platform)
            if image:
                assert isinstance(image.digest, str)
                assert all(isinstance(size, int) for size in image.layers.values())
    with contextlib.suppress(NoImage, Unavailable):
        assert all(isinstance(tag, str) for tag in registry.tags("a/b"))
    with contextlib.suppress(NoImage, Unavailable):
        registry.raw_manifest("a/b", "sha256:1")


class Wire:
    """A server that writes these bytes to whoever connects, whatever is asked, and hangs up."""

    def __init__(self) -> None:
        self.answers: Iterator[bytes] = iter(())
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"localhost:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._socket.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                client.recv(65536)
                client.sendall(next(self.answers, b""))
                client.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


DEEP = b"[" * 100_000
HEADERS = st.sampled_from(
    [
        b"Content-Length: 5, 5", b"Content-Length: -1", b"Content-Length: 9e9", b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked", b"Location: http://[", b"Location: //\xff\xfe:x/", b"Location: ?",
        b"Location: /v2/",
        b"Location: http://127.0.0.1:1/", b"Location: file:///etc/passwd", b"Retry-After: -1", b"Retry-After: \xb2",
        b"Retry-After: Wed, 99 Foo 1 1:1:1", b'WWW-Authenticate: Bearer realm="http://["',
        b'WWW-Authenticate: Bearer realm="http://127.0.0.1:PORT/t",service="\xff"', b"WWW-Authenticate: Basic",
        b"Content-Encoding: gzip", b"X" * 70_000 + b": 1", b"no colon", b"\x00: \x00", b" folded: 1",
    ]
)  # fmt: skip
LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 401 no", b"HTTP/1.1 302 x", b"HTTP/1.1 307 x", b"HTTP/1.1 429 x", b"HTTP/1.1 100 x",
     b"HTTP/9 200", b"200", b"HTTP/1.1 99999 x", b"", b"\xff"]
)  # fmt: skip
WHOLE = st.builds(
    lambda line, headers, body: b"\r\n".join([line, *headers, b"", body]),
    LINES,
    st.lists(HEADERS, max_size=3),
    BODIES | st.sampled_from([DEEP, b'{"token": 5}', b"5\r\nhello\r\n-1\r\n"]),
)  # fmt: skip


@cases()
@given(st.lists(WHOLE | st.binary(max_size=30), min_size=1, max_size=5))
def test_what_comes_over_the_wire(wire: Wire, no_rests: None, whole: list[bytes]) -> None:
    """Status lines, headers, redirects, tokens and bodies that are none."""
    port = wire.address.partition(":")[2].encode()
    wire.answers = itertools.cycle(each.replace(b"PORT", port) for each in whole)
    with watched():
        _ask_all(Registry(wire.address))


MADE = mutated({"digest": "sha256:1", "seconds": 1.5, "size": 5}).map(json.dumps)


@cases()
@given(st.lists(MADE | st.text(max_size=20) | st.none(), max_size=4))
def test_answers_of_the_index(answers: list[Any]) -> None:
    store = RedisClient("redis://localhost:1/0", lambda text: None)
    store.do = lambda ask: answers  # type: ignore[method-assign]
    with watched():
        for made in ResultIndex(store).lookup([f"{number}" for number in range(len(answers))]).values():
            assert isinstance(made.digest, str)
            assert 0 <= made.seconds < 1e9
            assert isinstance(made.size, int)
