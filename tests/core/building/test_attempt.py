"""What an attempt at building, or a pull, came to: does it count, in a run that only seems to be one?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.building import build_image, fetch, results
from doit_images.core.building.attempt import Attempt, BuiltImage, ImageBuild, InputsChanged
from doit_images.core.building.build_target import Transfer
from doit_images.core.building.parents import PinnedParents
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import ImageConfig, LocalImage, Snapshot
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.stamps import Changes
from doit_images.core.planning.plan import Action, Decision, Known
from tests.core.planning.test_plan import APP, ON_BASE, engine, found

DECISION = Decision("app", Action.BUILD, ("never built here",), APP, parents_label=ON_BASE)


@dataclass
class SeemingRun:
    """What ``_changed`` and ``_fetched`` ask of a run: what is decided now, and what the engine holds now."""

    after: Decision = DECISION
    held: Snapshot = field(default_factory=engine)
    platform: str = "linux/amd64"
    index: str = ""
    content: str = f"content of id-{APP.name}"
    folder: Path = Path("/nowhere")
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local_images = self.planner = self  # it plays both

    def decide_again(self, name: str) -> Decision:
        return self.after

    def snapshot(self) -> Snapshot:
        return self.held

    def base(self, ref: str, platform: str) -> tuple[str, None]:
        return ref, None

    def changed(self) -> None:
        self.said.append("asked anew")

    def config_of(self, local_image: LocalImage) -> ImageConfig:
        return ImageConfig(self.content, self.platform)

    def index_of(self, inputs: object, local_image: LocalImage) -> str:
        return self.index

    def content_of(self, inputs: ImageInputs, local_image: LocalImage) -> str:
        return Known(self.held, self.config_of, {}.get, self.index_of).content_of(inputs, local_image)

    @property
    def peers(self) -> Any:
        def refuse(wanted: object, why: str) -> None:
            self.said.append(f"refused: {why}")

        return SimpleNamespace(results=SimpleNamespace(pull=lambda wanted, offer, *_: REF, refuse=refuse))

    @property
    def engine(self) -> Any:
        return SimpleNamespace(tagged=lambda ref: "later")


def moved(files: Sequence[str] = (), folders: Sequence[str] = ()) -> Changes:
    return Changes(tuple(files), tuple(folders), doubtful=False)


def changed(
    run: SeemingRun, attempt: Attempt | None = None, changes: Changes | None = None, **tagged: str
) -> InputsChanged | None:
    build = ImageBuild(run, DECISION, attempt or Attempt())
    return build._changed(changes or moved(), tagged, "id-made")


def test_an_attempt_counts_when_nothing_moved() -> None:
    assert changed(SeemingRun()) is None


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (DECISION._replace(inputs=replace(APP, fingerprint="f9" * 16, settings={"target": "dev"})), "target"),
        (DECISION._replace(parents_label="base=another"), "a parent changed"),
        (DECISION._replace(parents_label="", coming=("base",)), "its parent `base` was removed"),
        (
            DECISION._replace(
                inputs=replace(APP, parent_fingerprints={"base": "f1"}), parents_label="", coming=("base",)
            ),
            "a parent changed",
        ),
    ],
)
def test_inputs_and_parents_that_moved_while_it_was_built(after: Decision, said: str) -> None:
    why = changed(SeemingRun(after))
    assert why is not None
    assert said in str(why)
    assert why.result is None, "no second attempt can prove it"


def test_a_file_that_was_written_to_is_named_and_a_folder_can_be_proved() -> None:
    why = changed(SeemingRun(), changes=moved([f"/src/{name}" for name in "abcde"], ["/src/d"]))
    assert str(why) == "`a`, `b`, `c`, 2 more were written to or replaced"
    assert str(changed(SeemingRun(), changes=moved(["/src/a"], []))) == "`a` was written to or replaced"
    folder = changed(SeemingRun(), changes=moved([], ["/src/d"]))
    assert folder is not None
    assert (str(folder), folder.result) == (
        "something came or went in `d`",
        BuiltImage(APP.fingerprint, ON_BASE, "id-made"),
    )
    again = Attempt(1, proves=folder.result)
    assert changed(SeemingRun(), again, moved([], ["/src/d"])) is None
    other = Attempt(1, proves=replace(folder.result, image_id="id-other") if folder.result else None)
    assert str(changed(SeemingRun(), other, moved([], ["/src/d"]))) == "something came or went in `d`"
    assert str(changed(SeemingRun(), again, moved(["/src/a"], []))) == "`a` was written to or replaced"


@pytest.mark.parametrize(("when", "said"), [("later", None), ("before", "its base `python:3` was given a name")])
def test_a_base_that_was_given_a_name_while_it_was_built_has_to_be_proved(when: str, said: str | None) -> None:
    """It may have been another image for that time; one that is pinned cannot be."""
    on_bases = replace(APP, read_for=dict.fromkeys(("python:3", "debian@sha256:1"), ("linux/amd64",)))
    decision = DECISION._replace(inputs=on_bases)
    tagged = {"python:3": when}
    why = ImageBuild(SeemingRun(decision), decision, Attempt())._changed(moved(), tagged, "id-made")
    assert (why and str(why)) == said
    if why:
        assert (
            ImageBuild(SeemingRun(decision), decision, Attempt(1, proves=why.result))._changed(
                moved(), tagged, "id-made"
            )
            is None
        )


def test_a_parent_that_the_engine_lost_meanwhile_is_named() -> None:
    pins = PinnedParents({"base": "a reference"}, {"base": "id-base", "more": "id-more"}, {})
    run = SeemingRun(held=engine(*(LocalImage(f"id-{name}", (f"{name}:1",)) for name in ("base", "more"))))
    assert (pins.lost(run), run.said) == ("", ["asked anew"])
    assert pins.lost(SeemingRun(held=engine(LocalImage("id-base", ("base:1",))))) == "more"
    assert PinnedParents({}, {}, {}).lost(SeemingRun()) == ""


@pytest.mark.parametrize(("made", "good"), [("linux/amd64", True), ("linux/arm64", False)])
def test_what_was_built_for_another_platform_is_refused(made: str, good: bool) -> None:
    refused = pytest.raises(UserError, match="app: linux/arm64 was built, and linux/amd64 is wanted")
    with contextlib.nullcontext() if good else refused:
        build_image._refuse_foreign(SeemingRun(platform=made), DECISION, "id-made", None)


# ---- a pull

REF = "reg:5000/app/app@sha256:d"
GOOD = {INPUT_DIGEST: APP.input_digest, PARENTS: ON_BASE}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was named, recorded and taken away."""
    done: list[str] = []
    monkeypatch.setattr(results, "name_image", lambda *given: done.append(f"named {given[-1]}"))
    monkeypatch.setattr(results, "keep", lambda run, decision, made, began: done.append(f"kept {made.id}"))
    monkeypatch.setattr(temporary_tag, "give_back", lambda engine, ref: done.append(f"not {ref}"))
    monkeypatch.setattr(Transfer, "layout_of", lambda self, inputs: None)
    return done


def fetched(run: SeemingRun, decision: Decision = DECISION) -> LocalImage | None:
    return fetch.fetched(run, decision._replace(action=Action.PULL, offer=found(APP, ON_BASE)))


def pulled(**labels: str) -> Snapshot:
    return engine(LocalImage("id-pulled", (REF,), labels={**GOOD, **labels}))


def test_what_was_pulled_is_named_and_recorded_when_it_is_what_was_promised(kept: list[str]) -> None:
    run = SeemingRun(held=pulled())
    local_image = fetched(run)
    assert local_image is not None
    assert local_image.id == "id-pulled"
    assert kept == ["named id-pulled", f"not {REF}", "kept id-pulled"]
    assert run.said == ["asked anew"] * 2


BOTH = replace(APP, platforms=("linux/amd64", "linux/arm64"))


@pytest.mark.parametrize(
    ("run", "inputs"),
    [
        (SeemingRun(), APP),
        (SeemingRun(held=pulled(**{INPUT_DIGEST: "of another"})), APP),
        (SeemingRun(held=pulled(**{PARENTS: "base=another"})), APP),
        (SeemingRun(held=pulled(), platform="linux/arm64"), APP),
        (SeemingRun(held=pulled()), BOTH),
        (SeemingRun(held=pulled(), content="of another"), APP),
    ],
    ids=["not there", "inputs", "parents", "platform", "half of the platforms", "content"],
)
def test_what_was_pulled_and_is_not_what_was_promised_is_refused(run: SeemingRun, inputs: Any, kept: list[str]) -> None:
    assert fetched(run, DECISION._replace(inputs=inputs)) is None
    assert run.said[1] == "refused: it is not made from what its labels in the registry say"
    assert kept == [f"not {REF}"], "nothing is named, and the name that it came by goes"
