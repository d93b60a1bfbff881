"""A dedicated builder that pushes: its command line, what counts as being there, and what gets a name. Real ones are in
test_builder.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doit_images.ci.testing import command
from doit_images.ci.verifying import verify
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.base.settings import BuilderDriver, BuildOutput, CacheBackend, Settings, load
from doit_images.core.building import build_target, make, prune_lock
from doit_images.core.building.attempt import Attempt, ImageBuild, InputsChanged
from doit_images.core.building.steps import Right, Work
from doit_images.core.buildkit import builder
from doit_images.core.buildkit.backends import Backend
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import SHARED, Action, Decision, Known, plan
from doit_images.core.planning.reasons import DUE
from doit_images.core.planning.shared_image import SharedImage, SharedRef
from doit_images.share import publish
from doit_images.share.connection import Machines
from doit_images.share.no_answer import Unavailable
from doit_images.share.registry_output import Pushing
from doit_images.share.share import Share
from doit_images.share.transfer import Whole
from doit_images.stack import images
from doit_images.ui import documents
from tasks import migrate
from tests.core.planning.test_plan import APP, BASE, ON_BASE, engine, facts_of, found, local_image

SETTINGS = Settings(
    builder_driver=BuilderDriver.REMOTE,
    builder_name="b",
    build_output=BuildOutput.REGISTRY,
    cache_registry="reg:5000/team",
    cache_backend=CacheBackend.NONE,
)
SHARED_BASE = found(BASE)
SHARED_APP = found(APP, parents=f"base={SHARED_BASE.content}")
DECISION = Decision("app", Action.BUILD, (), APP, parents_label=f"base={SHARED_BASE.content}")


def decided(
    *images: ImageInputs, offers: Mapping[str, SharedImage], held: tuple[ImageInputs, ...] = ()
) -> dict[str, Decision]:
    """The plan where the registry alone keeps images, although the engine holds some."""
    snapshot = engine(*(local_image(one, parents=ON_BASE if one.parents else "") for one in held))
    known = Known(snapshot, facts_of, {}.get, registry_only=True)
    return plan({one.name: one for one in images}, known, offers)


class SeemingRun:
    """What is asked of a run, with what is ``after`` a build decided about its images."""

    def __init__(self, tmp_path: Path, after: Decision, settings: Settings = SETTINGS) -> None:
        self.local_images = self.planner = self  # it plays both
        self.settings, self.folder, self.common = settings, tmp_path, tmp_path
        self.environ: Mapping[str, str] = {}
        self.after = {"base": Decision("base", Action.FRESH, (SHARED,), BASE, offer=SHARED_BASE), "app": after}
        self.events, self.noted, self.built_on = Events(), list[str](), ()
        self.events.listen(lambda event: self.noted.append(str(vars(event)["text"])))
        self.project = SimpleNamespace(images={"base": BASE.image, "app": APP.image}, directory=tmp_path)
        seen: Any = self
        self.peers = Machines(seen)
        self.share = Share("reg:5000/team", write=settings.cache_write, say=self.noted.append)
        self.held: dict[str, SharedImage | None] = {"app/base": SHARED_BASE, "app/app": after.offer}
        self.pushed: SharedImage | None = None
        vars(self.share)["registry"] = SimpleNamespace(
            image=lambda path, reference, _: self.pushed if ":" in reference else self.held[path],
            client=SimpleNamespace(expect=lambda paths: None),
        )
        self.built: Callable[[str], None] = self.noted.append
        self.engine: Any = None
        self.files: tuple[Path, ...] = ()
        self.cache_backend = Backend(CacheBackend.NONE)

    @property
    def share(self) -> Any:
        return self.peers.share

    @share.setter
    def share(self, share: Any) -> None:
        vars(self.peers)["share"] = share

    def decide(self, name: str) -> Decision:
        return self.after[name]

    def snapshot(self) -> Any:
        return engine()

    def changed(self) -> None:
        """As a run forgets what it knew."""


def test_only_what_the_registry_holds_is_there() -> None:
    both = {"base": SHARED_BASE, "app": SHARED_APP}
    there = decided(BASE, APP, offers=both)
    assert {name: (one.action, one.reasons, one.stale) for name, one in there.items()} == dict.fromkeys(
        both, (Action.FRESH, (SHARED,), False)
    )
    held = decided(BASE, APP, offers={}, held=(BASE, APP))
    assert [one.action for one in held.values()] == [Action.BUILD] * 2
    half = decided(BASE, APP, offers={"base": SHARED_BASE}, held=(BASE, APP))
    assert [one.action for one in half.values()] == [Action.FRESH, Action.BUILD]
    assert (half["app"].parents_label, half["app"].coming) == (DECISION.parents_label, ())
    other = decided(BASE, APP, offers={**both, "app": found(APP, parents="base=another")})
    assert other["app"].action == Action.BUILD


def test_what_is_built_in_every_run_is_built_once_in_each() -> None:
    always = replace(BASE, image=replace(BASE.image, no_cache=True))
    offers = {"base": SHARED_BASE}
    due = decided(replace(always, due=True), offers=offers)["base"]
    assert (due.action, due.reasons) == (Action.BUILD, (DUE,))
    assert decided(always, offers=offers)["base"].action == Action.FRESH


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "ready", lambda *words: None)
    run = SeemingRun(tmp_path, DECISION)
    target = build_target.choose(run, APP, {})
    pushes = (
        "type=image,name=reg:5000/team/app/app,push=true,push-by-digest=true,compression=gzip,force-compression=true,"
        "store=false"
    )
    assert target.extra == (
        "--builder", "b", "--build-context", f"base=docker-image://reg:5000/team/app/base@{SHARED_BASE.digest}",
        "--output", pushes,
    )  # fmt: skip
    assert (target.layout, target.pushed, target.parents, target.apart) == (None, True, {}, {})
    # Several nodes build one platform each.
    two = replace(APP, platforms=("linux/amd64", "linux/arm64"))
    run.settings = replace(SETTINGS, builder_endpoints=("tcp://amd:1", "tcp://arm:1"))
    target = build_target.choose(run, two, {})
    assert {name: apart.extra for name, apart in target.apart.items()} == dict.fromkeys(
        two.platforms, ("--output", pushes)
    )
    run = SeemingRun(tmp_path, DECISION)
    run.held["app/base"] = None
    with pytest.raises(UserError, match="reg:5000/team does not hold `base`"):
        build_target.choose(run, APP, {})


@pytest.mark.parametrize(
    ("inputs", "more", "trust", "why"),
    [
        (replace(APP, bases={"python": ""}), {}, "", "its base is unknown"),
        (APP, {"cache_write": False}, "", "is read-only here"),
        (APP, {}, "it has no SHARE_KEY", "nobody would accept what this machine pushes: it has no SHARE_KEY"),
        (APP, {}, "", "is unavailable"),
    ],
)
def test_what_could_not_be_pushed_is_not_built(
    tmp_path: Path, inputs: ImageInputs, more: dict[str, Any], trust: str, why: str
) -> None:
    run = SeemingRun(tmp_path, DECISION, replace(SETTINGS, **more))
    decision = DECISION._replace(inputs=inputs)
    run.share = SimpleNamespace(address="reg:5000/team", writes=not why, trust=SimpleNamespace(cannot_sign=trust))
    with pytest.raises(UserError, match=why):
        Pushing(run.peers).check(decision)
    run.settings, run.share.writes, run.share.trust.cannot_sign = SETTINGS, True, ""
    Pushing(run.peers).check(DECISION)


def named(run: SeemingRun, monkeypatch: pytest.MonkeyPatch, pushed: SharedImage | None) -> tuple[str, list[Whole]]:
    """What is kept of an image that the registry gives as ``pushed``, and what was shared."""
    given: list[Whole] = []
    monkeypatch.setattr(publish, "give", lambda machines, decision, made, seconds, whole: given.append(whole))
    run.pushed = pushed
    return Pushing(run.peers).named(
        DECISION, ImageBuild(run, DECISION, Attempt()).labels, "sha256:pushed", 1.0
    ).id, given


def test_what_counts_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ImageBuild(SeemingRun(tmp_path, DECISION), DECISION, Attempt()).labels
    pushed = replace(SHARED_APP, labels=labels)
    fresh = DECISION._replace(action=Action.FRESH, offer=replace(pushed, digest="sha256:tagged"))
    run = SeemingRun(tmp_path, fresh)
    assert named(run, monkeypatch, pushed) == ("sha256:tagged", [Whole("sha256:pushed", pushed.content)])
    assert run.noted == ["app"]
    run = SeemingRun(tmp_path, fresh._replace(offer=replace(pushed, content="another")))
    named(run, monkeypatch, pushed)
    assert run.noted == ["app", "another machine shared its result first, which is taken"]
    run = SeemingRun(tmp_path, DECISION)
    run.held["app/base"] = replace(SHARED_BASE, content="another")
    with pytest.raises(InputsChanged, match="a parent changed in the registry"):
        named(run, monkeypatch, pushed)
    with pytest.raises(UserError, match="holds no valid result of it"):
        named(SeemingRun(tmp_path, DECISION), monkeypatch, pushed)
    for wrong in ({INPUT_DIGEST: "other"}, {PARENTS: "base=another"}):
        with pytest.raises(UserError, match="returned another image for the digest"):
            named(SeemingRun(tmp_path, fresh), monkeypatch, replace(pushed, labels={**labels, **wrong}))
    for other in (None, replace(pushed, platform="linux/arm64")):
        with pytest.raises(UserError, match="what was built is not for linux/amd64"):
            named(SeemingRun(tmp_path, fresh), monkeypatch, other)


def test_a_registry_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    run = SeemingRun(tmp_path, DECISION)

    def breaks(*asked: object) -> None:
        raise Unavailable("does not answer in time")

    run.share.registry = SimpleNamespace(image=breaks)
    with pytest.raises(UserError, match="the shared registry reg:5000/team does not answer in time"):
        Pushing(run.peers).joined(APP.image, {"linux/amd64": "sha256:a"})


def test_whoever_had_to_wait_asks_the_registry_again(tmp_path: Path) -> None:
    run, asked = SeemingRun(tmp_path, DECISION), list[SharedRef]()
    run.engine = SimpleNamespace(address=f"unix://{tmp_path}/none")
    run.files = (tmp_path / "compose.yml",)
    run.share = SimpleNamespace(forget=asked.append)
    with ExitStack() as stack:
        job = make._Job(cast("Any", run), "app", prune_lock.SharedLock(run.engine), stack)
        work = job._wait_for_run(DECISION, Work(DECISION))
        assert (work.decision, work.held) == (None, {Right.BUILD_LOCK}), "it is decided again"
    assert [one.tag for one in asked] == [f"in-{APP.fingerprint[:16]}"]


@pytest.mark.parametrize(
    "task",
    [
        images.kept,
        lambda run: command.run_command(run, SimpleNamespace(test=None), APP),
        lambda run: verify.verify(run, "app", rebuild=False),
        lambda run: documents.make(run, [], None, None, attach=False),
        lambda run: migrate._begin(run, dry_run=True, yes=False),
    ],
)
def test_whoever_needs_the_images_here_is_told(tmp_path: Path, task: Callable[[Any], object]) -> None:
    with pytest.raises(UserError, match="that needs the images in the engine, and BUILD_OUTPUT=registry brings none"):
        task(SeemingRun(tmp_path, DECISION))


def test_what_it_is_for(tmp_path: Path) -> None:
    environ = {"BUILD_OUTPUT": "registry", "CACHE_REGISTRY": "reg:5000", "BUILDER_DRIVER": "remote"}
    assert load(tmp_path, environ).registry_only
    with pytest.raises(UserError, match="that needs the images in the engine"):
        load(tmp_path, environ).need_engine()
    load(tmp_path, {}).need_engine()
    for name in ("CACHE_REGISTRY", "BUILDER_DRIVER"):
        with pytest.raises(UserError, match="is for a dedicated builder that pushes to a shared registry"):
            load(tmp_path, {**environ, name: ""})
