"""What would run, and why: every decision, from what is held and what was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.base.references import tag_of
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import ImageConfig, LocalImage, Snapshot, snapshot_of
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Decision, Known, plan
from doit_images.core.planning.reasons import DUE
from doit_images.core.planning.record import Record
from doit_images.core.planning.shared_image import SharedImage


def made(name: str, own: str = "o1", fingerprint: str = "f1", parents: Mapping[str, str] | None = None) -> ImageInputs:
    image = Image(name=name, ref=f"app/{name}", context="/src")
    named = dict(parents or {})
    prints = dict.fromkeys(named.values(), "f0")
    return ImageInputs(
        image,
        Path("/src"),
        input_digest=own,
        fingerprint=fingerprint * 16,
        parents=named,
        parent_fingerprints=prints,
        platforms=("linux/amd64",),
    )


def facts_of(local_image: LocalImage) -> ImageConfig:
    return ImageConfig(
        f"content of {local_image.id}", "linux/arm64" if local_image.id.startswith("arm") else "linux/amd64"
    )


def local_image(
    one: ImageInputs,
    *,
    parents: str = "",
    ident: str = "",
    names: tuple[str, ...] | None = None,
    number: str | None = None,
) -> LocalImage:
    """What a build of this makes, and its names there; ``number`` is the fingerprint in its label."""
    tags = (tag_of(one.image.ref, one.fingerprint), f"{one.image.ref}:latest") if names is None else names
    number = one.fingerprint if number is None else number
    labels = {INPUT_DIGEST: one.input_digest, PARENTS: parents, FINGERPRINT: number}
    return LocalImage(ident or f"id-{one.name}", tags, labels)


def engine(*images: LocalImage) -> Snapshot:
    listed = [{"Id": one.id, "RepoTags": list(one.tags), "Labels": dict(one.labels)} for one in images]
    return snapshot_of(listed, "linux/amd64")


def decide(
    images: list[ImageInputs], snapshot: Snapshot, records: Mapping[str, Record] | None = None
) -> dict[str, Decision]:
    return plan({one.name: one for one in images}, Known(snapshot, facts_of, (records or {}).get))


def record(one: ImageInputs, **more: object) -> Record:
    known: dict[str, object] = {"build_inputs": BuildInputs(), "parents": {}, **more}
    return Record(
        one.name, one.image.ref, "build", one.fingerprint, image_id="", size=0, finished=0, seconds=1, **known
    )


BASE = made("base", "ob", "fb")
APP = made("app", "oa", "fa", {"base": "base"})
ON_BASE = "base=content of id-base"


def test_fresh_with_parent() -> None:
    decided = decide([BASE, APP], engine(local_image(BASE), local_image(APP, parents=ON_BASE)))
    assert [(one.action, one.reasons, one.stale) for one in decided.values()] == [("fresh", (), False)] * 2


def test_never_built() -> None:
    decided = decide([BASE, APP], engine())
    assert [(one.action, one.reasons) for one in decided.values()] == [("build", ("never built here",))] * 2


def test_right_name_but_built_by_somebody_else() -> None:
    other = LocalImage("x", ("app/base:latest",))
    assert decide([BASE], engine(other))["base"].reasons == ("`app/base` was not built by these tasks",)


def test_right_name_and_inputs_but_another_parent() -> None:
    decided = decide(
        [BASE, APP],
        engine(local_image(BASE), local_image(APP, parents="base=content of another")),
        {"app": record(APP)},
    )
    assert decided["base"].action == "fresh"
    assert decided["app"].action == "build"


def test_a_missing_name_is_a_retag_and_says_which() -> None:
    only_fingerprint = local_image(BASE, names=(tag_of("app/base", BASE.fingerprint),))
    decided = decide([BASE], engine(only_fingerprint))["base"]
    assert (decided.action, decided.reasons) == ("retag", ("tag `app/base` is missing",))
    assert decided.local_image == only_fingerprint


OLD = "ab" * 32


@pytest.mark.parametrize(
    ("names", "number"),
    [
        (("app/base:building-0123",), None),
        (("app/base:latest",), None),
        (("app/base:debug",), None),
        (("app/base:in-progress",), None),
        (("app/base:in-progress", "app/base:latest"), "progress"),
        (("app/base:in-",), ""),
        (("app/base:in-0123456789abcdef",), None),
        (("app/base:latest", tag_of("app/base", "fb" * 16)), OLD),
        (("app/base:in-abababababababab-2",), OLD),
        ((tag_of("app/other", OLD), "app/base:latest"), OLD),
        ((tag_of("elsewhere/app/base", OLD), "app/base:latest"), OLD),
    ],
)
def test_what_no_tag_of_its_own_fingerprint_proves_is_built(names: tuple[str, ...], number: str | None) -> None:
    """A killed build leaves an image whose inputs nobody read again; ``docker commit`` and ``FROM`` copy all labels."""
    assert decide([BASE], engine(local_image(BASE, names=names, number=number)))["base"].action == "build"


def test_a_tag_that_proves_nothing_is_named() -> None:
    decided = decide([BASE], engine(local_image(BASE, names=("app/base:in-progress",))))["base"]
    assert decided.reasons == ("`app/base:in-progress` does not count: it is not the fingerprint in the image's label",)


def test_the_tag_of_its_own_fingerprint_proves_an_image_under_any_other() -> None:
    here = local_image(BASE, names=(tag_of("app/base", OLD), tag_of("app/base", "cd" * 32)), number=OLD)
    assert decide([BASE], engine(here))["base"].action == "retag"
    both = here._replace(tags=(*here.tags, tag_of("app/base", BASE.fingerprint), "app/base:latest"))
    assert decide([BASE], engine(both))["base"].action == "fresh"


def test_what_another_checkout_built_is_not_built_again_where_only_compose_names_it() -> None:
    """Without `image:` in the files an image is called after the project, and that after the checkout's folder."""

    def called(ref: str, fingerprint: str = "fb") -> ImageInputs:
        one = made("base", "ob", fingerprint)
        return dataclasses.replace(one, image=dataclasses.replace(one.image, ref=ref))

    there = local_image(called("shop-base"))
    decided = decide([called("fix-base")], engine(there))["base"]
    assert (decided.action, decided.local_image) == ("retag", there)
    moved = local_image(called("shop-base"), names=(*there.tags, tag_of("shop-base", OLD)), number=OLD)
    assert decide([called("fix-base")], engine(moved))["base"].action == "retag", "which was named there, too"
    stranger = local_image(called("shop-base"), number=OLD)
    assert decide([called("fix-base")], engine(stranger))["base"].action == "build"
    assert decide([called("fix-base", "fc")], engine(there))["base"].action == "build"
    assert decide([called("app/base")], engine(there))["base"].action == "build", "the files call it otherwise"
    assert decide([called("fix-base")], engine(local_image(called("app/base"))))["base"].action == "build"


def test_only_the_fingerprint_moved_while_the_content_did_not() -> None:
    moved = made("app", APP.input_digest, "f9", {"base": "base"})
    decided = decide([BASE, moved], engine(local_image(BASE), local_image(APP, parents=ON_BASE)))["app"]
    assert (decided.action, decided.reasons) == ("retag", ("made from the same content under another fingerprint",))


def test_a_child_waits_for_what_becomes_of_its_parent() -> None:
    decided = decide([BASE, APP], engine(local_image(APP, parents=ON_BASE)))
    assert decided["base"].action == "build"
    assert decided["app"].action == "build"
    assert decided["app"].reasons == ("`base` is rebuilt first (this image stays if the result is the same)",)


def test_a_broken_parent_breaks_its_children_only() -> None:
    broken = ImageInputs(BASE.image, Path("/src"), problem="Dockerfile:3: no such file")
    decided = decide([broken, APP, made("other")], engine())
    assert decided["base"].reasons == ("Dockerfile:3: no such file",)
    assert decided["app"].reasons == ("needs `base`, which is broken",)
    assert [one.action for one in decided.values()] == ["broken", "broken", "build"]


def found(one: ImageInputs, parents: str = "", platform: str = "linux/amd64") -> SharedImage:
    return SharedImage(
        "sha256:d",
        "sha256:c",
        platform,
        {INPUT_DIGEST: one.input_digest, PARENTS: parents},
        f"content of id-{one.name}",
        {"l": 1},
    )


def shared(images: list[ImageInputs], snapshot: Snapshot, **offers: SharedImage) -> dict[str, str]:
    decided = plan({one.name: one for one in images}, Known(snapshot, facts_of, {}.get), offers)
    return {name: one.action for name, one in decided.items()}


def test_the_shared_registry_is_asked_last() -> None:
    assert shared([BASE], engine(local_image(BASE)), base=found(BASE)) == {"base": "fresh"}
    assert shared([BASE], engine(), base=found(BASE)) == {"base": "pull"}


def test_what_the_registry_says_of_an_image_must_be_what_a_build_here_would_make() -> None:
    assert shared([BASE], engine(), base=found(made("base", "another"))) == {"base": "build"}
    assert shared([BASE], engine(), base=found(BASE, platform="linux/arm64")) == {"base": "build"}
    assert shared([BASE], engine(), base=found(BASE, platform="linux/amd64/v1")) == {"base": "pull"}


def test_a_whole_graph_is_pulled_when_the_children_were_made_from_those_parents() -> None:
    assert shared([BASE, APP], engine(), base=found(BASE), app=found(APP, ON_BASE)) == {"base": "pull", "app": "pull"}
    other = found(APP, "base=content of another")
    assert shared([BASE, APP], engine(), base=found(BASE), app=other) == {"base": "pull", "app": "build"}


def test_a_child_is_not_pulled_on_a_parent_that_has_to_be_built() -> None:
    assert shared([BASE, APP], engine(), app=found(APP, ON_BASE)) == {"base": "build", "app": "build"}
    # What a build of the parent gives is not known yet: another content than the one in the registry, perhaps.
    assert shared([BASE, APP], engine(local_image(BASE)), app=found(APP, ON_BASE)) == {"base": "fresh", "app": "pull"}


def test_a_parent_that_is_pulled_is_the_reason_for_its_child() -> None:
    decided = plan(
        {"base": BASE, "app": APP},
        Known(engine(), facts_of, {"app": record(APP, parents={"base": "f0"})}.get),
        {"base": found(BASE)},
    )
    assert (decided["base"].action, decided["app"].action) == ("pull", "build")
    assert (decided["app"].reasons, decided["app"].coming) == (("`base` is made again",), ("base",))


def test_a_child_that_is_here_is_kept_when_its_parent_is_pulled_as_it_was() -> None:
    assert shared([BASE, APP], engine(local_image(APP, parents=ON_BASE)), base=found(BASE)) == {
        "base": "pull",
        "app": "fresh",
    }


def test_reasons_come_from_the_record() -> None:
    gone = {"base": record(BASE)}
    assert decide([BASE], engine(), gone)["base"].reasons == ("image was removed",)
    changed = {"base": record(BASE, build_inputs=BuildInputs(settings={"target": "dev"}))}
    assert decide([BASE], engine(), changed)["base"].reasons == ("target dev → nothing",)
    parent = {"app": record(APP, parents={"base": "another"})}
    on_held_base = decide([BASE, APP], engine(local_image(BASE)), parent)
    assert on_held_base["app"].reasons == ("one of its parents changed",)


def test_what_is_built_in_every_run_is_due_until_it_was_built() -> None:
    here = engine(local_image(BASE), local_image(APP, parents=ON_BASE))
    again = decide([replace(BASE, due=True), APP], here)
    assert (again["base"].action, again["base"].reasons) == ("build", (DUE,))
    assert (again["app"].action, again["app"].coming) == ("build", ("base",))
    assert {one.action for one in decide([BASE, APP], here).values()} == {"fresh"}
