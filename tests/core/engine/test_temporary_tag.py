"""Names that last as long as a build: they go on every way out of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.building import results
from doit_images.core.building.parents import pinned
from doit_images.core.engine.client import LocalImage
from doit_images.core.engine.labels import FINGERPRINT
from tests import loopback
from tests.conftest import ROOT, Lab, docker

APP = {
    "compose.yml": "services: {app: {image: PREFIX/app, build: {context: .}}}\n",
    "Dockerfile": "FROM tst-busybox:1\nRUN head -c 9 /dev/urandom > /PREFIX\n",
}
# Builds the image; when BuildKit has named its result, what the first argument says happens.
BROKEN_OFF = """
import sys
from doit_images.cli.process import current
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.building.make import make
from doit_images.core.buildkit.progress import Progress
finish = Progress.finish
def end(self):
    if sys.argv[1] == "stop":
        commands.stop_all()
    else:
        raise {"trouble": UserError("broken off"), "interrupt": KeyboardInterrupt}[sys.argv[1]]
    return finish(self)
Progress.finish = end
sys.exit(str(make(current(), "app") or "") or 0)
"""
# Builds the image, and does not take for it what was pulled.
REFUSING = """
import sys
from doit_images.core.building import fetch, make
from doit_images.cli.process import current
from doit_images.ui.board import Board
current().events.listen(Board().heard)
made_from, pulled = fetch.made_from, []
fetch.made_from = lambda *words: bool(pulled) and made_from(*words) or pulled.append(1)
sys.exit(str(make.make(current(), "app") or "") or 0)
"""


def run(lab: Lab, script: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", script, *words]
    return subprocess.run(argv, cwd=ROOT, env=lab.env(**environ), capture_output=True, text=True)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("what", "said"), [("stop", "stopped"), ("trouble", "broken off"), ("interrupt", "KeyboardInterrupt")]
)
def test_a_build_that_is_broken_off_leaves_no_name(lab: Lab, busybox: str, what: str, said: str) -> None:
    lab.write(APP)
    done = run(lab, BROKEN_OFF, what)
    assert said in done.stderr
    log = (lab.folder / ".doit-images/compose.yml/logs/app.log").read_text()
    assert "/app:building-" in log, "BuildKit gave it"
    assert lab.images() == []


@pytest.mark.engine
def test_what_was_pulled_and_is_not_taken_keeps_no_name(lab: Lab, busybox: str, tmp_path: Path) -> None:
    lab.write(APP)
    with loopback.registry(tmp_path / "registry") as service:
        lab.environ = {"CACHE_REGISTRY": service.address}
        assert lab.build() == {"app": "built"}
        docker("image", "rm", *lab.images())
        assert lab.actions() == {"app": "pull"}
        done = run(lab, REFUSING, CACHE_WRITE="0")
        assert done.returncode == 0, done.stderr
        assert "is not taken, but built here" in done.stderr
        listed = docker("image", "ls", "--digests", "--format", "{{.Repository}}@{{.Digest}}").stdout.split()
        assert [name for name in listed if name.startswith(f"{service.address}/")] == []


@pytest.mark.engine
def test_a_digest_that_somebody_pulled_himself_keeps_its_name(lab: Lab, busybox: str, tmp_path: Path) -> None:
    lab.write(APP)
    with loopback.registry(tmp_path / "registry") as service:
        lab.environ = {"CACHE_REGISTRY": service.address}
        lab.build()
        docker("image", "rm", *lab.images())
        path = f"{service.address}/{lab.prefix}/app"
        [tag] = [tag for tag in loopback.tags(service, f"{lab.prefix}/app") if tag.startswith("in-")]
        [digest] = re.findall(r"^Digest: (\S+)", docker("pull", f"{path}:{tag}").stdout, re.MULTILINE)
        docker("image", "rm", f"{path}:{tag}")
        docker("pull", f"{path}@{digest}")
        assert lab.pulled() == [f"{path}@{digest}"]
        assert lab.build() == {"app": "pulled"}
        assert lab.pulled() == [f"{path}@{digest}"]


class NoEngine:
    """An engine that gives names, and answers nothing when the first one is to be taken away."""

    address = "unix:///nowhere.sock"

    def __init__(self) -> None:
        self.named: list[str] = []
        self.asked = 0

    def tag(self, image_id: str, ref: str) -> None:
        self.named.append(ref)

    def untag(self, ref: str) -> None:
        self.asked += 1
        if self.asked == 1:
            raise UserError("the engine does not answer")
        self.named.remove(ref)


def pins(engine: NoEngine) -> Any:
    """Two parents of one image, under temporary names in this engine."""
    snapshot = SimpleNamespace(get=lambda ref: SimpleNamespace(id=ref), every=list)
    images = {name: SimpleNamespace(ref=f"app/{name}") for name in ("one", "two")}
    local_images = SimpleNamespace(snapshot=lambda: snapshot, changed=lambda: None)
    tags = {name: f"app/{name}:in-0123" for name in images}
    inputs = SimpleNamespace(parents={name: name for name in images}, parent_tags=tags)
    return pinned(cast("Any", engine), cast("Any", local_images), cast("Any", inputs), registry_only=False)


def test_a_run_that_is_stopped_gives_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an image comes from: to take one that is here, or was pulled, needs no command that notices the stop."""
    ours = commands.Commands()
    monkeypatch.setattr(commands, "stopping", ours.stopping)
    engine, image = NoEngine(), SimpleNamespace(ref="app/one:1", names=("app/one:1",))
    held: tuple[Any, Any] = engine, SimpleNamespace(named=lambda image_id, refs: None)
    decision = SimpleNamespace(inputs=SimpleNamespace(image=image, fingerprint="f" * 64), local_image=None)
    results.name_image(*held, cast("Any", decision), "id")
    assert engine.named == ["app/one:in-ffffffffffffffff", "app/one:1"]
    engine.named.clear()
    ours.stop_all()
    with pytest.raises(commands.Stopped):
        results.name_image(*held, cast("Any", decision), "id")
    assert engine.named == []


def test_what_was_made_under_another_fingerprint_gets_the_name_that_proves_it_first() -> None:
    """A retag here, and what another machine pushed after one."""
    engine, image = NoEngine(), SimpleNamespace(ref="app/one:1", names=("app/one:1",))
    held: tuple[Any, Any] = engine, SimpleNamespace(named=lambda image_id, refs: None)
    here = LocalImage("id", ("else-one:in-abababababababab",), {FINGERPRINT: "ab" * 32})
    decision = SimpleNamespace(inputs=SimpleNamespace(image=image, fingerprint="f" * 64), local_image=here)
    results.name_image(*held, cast("Any", decision), "id")
    assert engine.named == ["app/one:in-abababababababab", "app/one:in-ffffffffffffffff", "app/one:1"]
    engine.named.clear()
    results.name_image(*held, cast("Any", decision), "another")
    assert engine.named == ["app/one:in-ffffffffffffffff", "app/one:1"], "it is not the image that was decided about"


def test_a_name_that_cannot_be_taken_away_keeps_no_other_and_fails_no_build() -> None:
    engine = NoEngine()
    with pins(engine):
        first, _ = engine.named
    assert engine.named == [first]


def test_a_name_that_cannot_be_taken_away_does_not_hide_what_ended_the_build() -> None:
    with pytest.raises(ZeroDivisionError), pins(NoEngine()):
        raise ZeroDivisionError
