"""Decisions, whole: every field of each, also of duplicates, of several platforms, and of what others offer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doit_images.core.base.references import tag_of
from doit_images.core.engine.client import LocalImage
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS, REBUILT
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import (
    ANOTHER,
    PULLS,
    REBUILT_ELSEWHERE,
    Action,
    Decision,
    Known,
    is_for,
    made_from,
    offered,
    own_only,
    plan,
    rebuilt,
)
from doit_images.core.planning.reasons import DUE
from doit_images.core.planning.record import Record
from doit_images.core.planning.shared_image import SharedImage
from tests.core.planning.test_plan import APP, BASE, OLD, ON_BASE, engine, facts_of, found, local_image, made, record

BOTH = ("linux/amd64", "linux/arm64")
HERE, APP_HERE = local_image(BASE), local_image(APP, parents=ON_BASE)
INDEX = "sha256:index"


def decide(
    *images: ImageInputs,
    held: tuple[LocalImage, ...] = (),
    records: dict[str, Record] | None = None,
    offers: dict[str, SharedImage] | None = None,
    taken: tuple[str, ...] = (),
    index: str = "",
) -> list[Decision]:
    def index_of(inputs: ImageInputs, local_image: LocalImage) -> str:
        assert (inputs.name, local_image.id) == ("base", "id-base")
        return index

    known = Known(engine(*held), facts_of, (records or {}).get, index_of)
    return [*plan({one.name: one for one in images}, known, offers, taken).values()]


def test_what_is_here_is_fresh_with_its_image_and_what_its_parents_hold() -> None:
    assert decide(BASE, APP, held=(HERE, APP_HERE)) == [
        Decision("base", Action.FRESH, (), BASE, HERE),
        Decision("app", Action.FRESH, (), APP, APP_HERE, ON_BASE),
    ]


def test_what_is_broken_keeps_its_inputs_and_breaks_what_needs_it() -> None:
    broken = replace(BASE, problem="Dockerfile:3: no such file")
    above = made("above", parents={"app": "app", "other": "other"})
    assert decide(broken, APP, made("other"), above) == [
        Decision("base", Action.BROKEN, ("Dockerfile:3: no such file",), broken),
        Decision("app", Action.BROKEN, ("needs `base`, which is broken",), APP),
        Decision("other", Action.BUILD, ("never built here",), made("other")),
        Decision("above", Action.BROKEN, ("needs `app`, which is broken",), above),
    ]


def test_what_is_built_knows_its_parents_and_which_of_them_come_first() -> None:
    assert decide(BASE, APP) == [
        Decision("base", Action.BUILD, ("never built here",), BASE),
        Decision("app", Action.BUILD, ("never built here",), APP, None, "base=?", coming=("base",)),
    ]
    assert decide(BASE, APP, held=(HERE,))[1] == Decision(
        "app", Action.BUILD, ("never built here",), APP, None, ON_BASE
    )


def test_a_child_of_several_that_are_built_again_is_kept_until_they_were() -> None:
    child = made("child", "oc", "fc", {"one": "base", "two": "other", "again": "base"})
    here = local_image(child, parents="whatever")
    again = "`base`, `other` is rebuilt first (this image stays if the result is the same)"
    decided = decide(BASE, made("other"), child, held=(here,))[2]
    assert decided == Decision("child", Action.BUILD, (again,), child, here, coming=("base", "other"))
    due = replace(child, due=True)
    assert decide(BASE, made("other"), due, held=(here,))[2] == decided._replace(reasons=(DUE,), inputs=due)


def test_what_is_due_is_built_though_it_is_here() -> None:
    due = replace(APP, due=True)
    assert decide(BASE, due, held=(HERE, APP_HERE))[1] == Decision("app", Action.BUILD, (DUE,), due, None, ON_BASE)
    assert decide(BASE, due, held=(HERE,))[1].reasons == ("never built here",)


def test_a_label_names_each_context_in_order() -> None:
    child = made("child", parents={"z": "base", "a": "other", "m": "offered"})
    offer = replace(found(made("offered")), content="what is offered")
    decided = decide(BASE, made("other"), made("offered"), child, held=(HERE,), offers={"offered": offer})[3]
    assert (decided.parents_label, decided.coming) == (
        "a=? m=what is offered z=content of id-base",
        ("other", "offered"),
    )


# ---- one image under two services' names

FIRST = replace(BASE, image=replace(BASE.image, tags=("app/base:extra",)))
SECOND = replace(made("second"), image=replace(BASE.image, name="second", duplicate_of="base"), input_digest="ob")


def test_a_duplicate_is_what_the_first_is() -> None:
    reasons = ("the same image as `base`",)
    assert decide(BASE, SECOND)[1] == Decision("second", Action.BUILD, reasons, SECOND)
    offer = found(BASE)
    assert decide(BASE, SECOND, offers={"base": offer})[1] == Decision(
        "second", Action.PULL, reasons, SECOND, offer=offer
    )
    nameless = local_image(BASE, names=(tag_of("app/base", BASE.fingerprint),))
    assert decide(BASE, SECOND, held=(nameless,))[1] == Decision("second", Action.RETAG, reasons, SECOND, nameless)


def test_a_duplicate_of_what_is_fresh_is_so_under_its_own_names() -> None:
    second = replace(SECOND, fingerprint=BASE.fingerprint)
    assert decide(BASE, second, held=(HERE,))[1] == Decision("second", Action.FRESH, (), second, HERE)
    named = replace(second, image=replace(second.image, ref="app/second", tags=()))
    assert decide(BASE, named, held=(HERE,))[1].reasons == ("tag `app/second` is missing",)
    child = replace(second, parents=APP.parents, image=replace(second.image, duplicate_of="app", ref="app/app"))
    child = replace(child, fingerprint=APP.fingerprint)
    assert decide(BASE, APP, child, held=(HERE, APP_HERE))[2] == Decision(
        "second", Action.FRESH, (), child, APP_HERE, ON_BASE
    )


# ---- names


def test_each_name_that_is_missing_or_elsewhere_is_said() -> None:
    other = LocalImage("id-other", ("app/base:latest",))
    only_kept = local_image(BASE, names=(tag_of("app/base", BASE.fingerprint),))
    assert decide(FIRST, held=(only_kept, other)) == [
        Decision(
            "base",
            Action.RETAG,
            ("tag `app/base` points elsewhere", "tag `app/base:extra` is missing"),
            FIRST,
            only_kept,
        )
    ]


def test_the_image_with_the_tag_comes_first_and_then_any_of_the_repository() -> None:
    tag = tag_of("app/base", BASE.fingerprint)
    tagged = local_image(BASE, ident="id-tagged", names=(tag,))
    named = local_image(BASE, ident="id-named", names=("app/base:latest", tag_of("app/base", OLD)), number=OLD)
    assert decide(BASE, held=(named, tagged))[0].local_image == tagged
    assert decide(BASE, held=(named,))[0] == Decision(
        "base", Action.RETAG, ("made from the same content under another fingerprint",), BASE, named
    )
    # One that does not count is passed over, and the next one is looked at.
    loose = local_image(BASE, ident="id-loose", names=("app/base:latest",))
    old = local_image(BASE, ident="id-old", names=(tag_of("app/base", OLD),), number=OLD)
    assert decide(BASE, held=(loose, old))[0].local_image == old
    stranger = LocalImage("id-stranger", (tag,), labels={INPUT_DIGEST: "another"})
    assert decide(BASE, held=(stranger, old))[0] == Decision(
        "base", Action.RETAG, ("tag `app/base` is missing",), BASE, old
    )


def test_bases_that_are_pulled_each_time_are_mentioned() -> None:
    pulls = replace(BASE, image=replace(BASE.image, pull=True), bases={"outside": "sha256:o"})
    assert decide(pulls, held=(HERE,))[0] == Decision("base", Action.FRESH, (PULLS,), pulls, HERE)
    assert decide(replace(pulls, bases={}), held=(HERE,))[0].reasons == ()
    app = replace(APP, image=replace(APP.image, pull=True), bases={"outside": "sha256:o"})
    assert decide(BASE, app, held=(HERE, APP_HERE))[1] == Decision(
        "app", Action.FRESH, (PULLS,), app, APP_HERE, ON_BASE
    )
    nameless = local_image(BASE, names=(tag_of("app/base", BASE.fingerprint),))
    assert decide(pulls, held=(nameless,))[0].action == Action.RETAG


# ---- platforms

WIDE = replace(BASE, platforms=BOTH)


def test_an_image_of_another_platform_is_not_what_is_wanted() -> None:
    arm = local_image(BASE, ident="arm-base")
    reason = "the image here is linux/arm64, linux/amd64 is wanted"
    assert decide(BASE, held=(arm,))[0] == Decision("base", Action.BUILD, (reason,), BASE)
    offer = found(BASE)
    assert decide(BASE, held=(arm,), offers={"base": offer})[0] == Decision(
        "base", Action.PULL, (reason,), BASE, offer=offer
    )
    three = replace(BASE, platforms=("linux/s390x", "linux/ppc64le"))
    assert decide(three, held=(HERE,))[0].reasons == (
        "the image here is linux/amd64, linux/s390x, linux/ppc64le is wanted",
    )


def test_of_several_platforms_all_have_to_be_here() -> None:
    assert decide(WIDE, held=(HERE,))[0].reasons == ("not all of linux/amd64, linux/arm64 are here",)
    assert decide(WIDE, held=(HERE,), index=INDEX)[0] == Decision("base", Action.FRESH, (), WIDE, HERE)


def test_a_child_is_made_on_the_index_of_several_platforms() -> None:
    assert decide(WIDE, APP, held=(HERE,), index=INDEX)[1].parents_label == f"base={INDEX}"
    known = Known(engine(HERE), facts_of, {}.get)
    assert known.content_of(WIDE, HERE) == "?"
    assert known.content_of(BASE, HERE) == "content of id-base"


OFFERED = found(BASE)


@pytest.mark.parametrize(
    ("decision", "content"),
    [
        (Decision("base", Action.FRESH, (), BASE, HERE), "content of id-base"),
        (Decision("base", Action.RETAG, (), BASE, HERE), "content of id-base"),
        (Decision("base", Action.PULL, (), BASE, offer=OFFERED), OFFERED.content),
        (Decision("base", Action.FRESH, (), BASE, offer=OFFERED), OFFERED.content),  # the registry alone keeps it
        (Decision("base", Action.BUILD, (), BASE, HERE), ""),  # kept only if it comes out the same
        (Decision("base", Action.BROKEN, (), BASE), ""),
        (Decision("base", Action.FRESH, (), WIDE, HERE), ""),
    ],
)
def test_what_an_image_will_hold_is_known_unless_it_is_built(decision: Decision, content: str) -> None:
    assert Known(engine(HERE), facts_of, {}.get).content_after(decision) == content


@pytest.mark.parametrize(
    ("platforms", "shown", "engine", "fits"),
    [
        (("linux/amd64",), "linux/amd64", "linux/amd64", True),
        (("linux/amd64",), "linux/arm64", "linux/amd64", False),
        (("linux/arm64",), "linux/arm64", "linux/amd64", True),
        (BOTH, "linux/amd64", "linux/amd64", True),
        (BOTH, "linux/arm64", "linux/amd64", False),
        (BOTH, "linux/arm64", "linux/arm64", True),
        (BOTH, "linux/arm64", "linux/s390x", True),
    ],
)
def test_which_platform_an_engine_has_to_show(platforms: tuple[str, ...], shown: str, engine: str, fits: bool) -> None:
    assert is_for(replace(BASE, platforms=platforms), shown, engine) == fits


# ---- reasons


def test_why_something_is_built() -> None:
    other = LocalImage("x", ("app/base:latest",), labels={INPUT_DIGEST: "another"})
    assert decide(BASE, held=(other,))[0].reasons == ("the inputs changed, and no record says which",)
    both = record(APP, build_inputs=BuildInputs(settings={"target": "dev"}), parents={"base": "f0"})
    offer = {"base": found(BASE)}
    assert decide(BASE, APP, records={"app": both}, offers=offer)[1].reasons == (
        "target dev → nothing",
        "`base` is made again",
    )
    same = {"app": record(APP, parents={"base": "f0"})}
    here = local_image(APP, parents="base=another", names=(tag_of("app/app", APP.fingerprint),))
    assert decide(BASE, APP, held=(HERE, here), records=same)[1].reasons == ("a parent changed since this was built",)
    unknown = replace(APP, parent_fingerprints={})
    assert decide(BASE, unknown, held=(HERE, here), records={"app": record(APP, parents={"base": ""})})[1].reasons == (
        "a parent changed since this was built",
    )
    assert decide(BASE, APP, records={"base": record(BASE)}, offers=offer)[0].reasons == ("image was removed",)


# ---- what others offer


def mark(when: int, one: ImageInputs = BASE) -> dict[str, str]:
    return {INPUT_DIGEST: one.input_digest, PARENTS: "", FINGERPRINT: one.fingerprint, REBUILT: str(when)}


def test_what_is_offered_is_pulled_with_its_reason() -> None:
    offer = found(APP, ON_BASE)
    assert decide(BASE, APP, held=(HERE,), offers={"app": offer})[1] == Decision(
        "app", Action.PULL, ("never built here",), APP, None, ON_BASE, offer
    )
    after = decide(BASE, APP, records={"app": record(APP)}, offers={"base": found(BASE), "app": offer})[1]
    assert (after.action, after.reasons) == (Action.PULL, ("`base` is made again",))


def test_the_result_of_a_later_rebuild_takes_the_place_of_the_one_here() -> None:
    here = HERE._replace(labels=mark(5))
    offer = replace(found(BASE), labels=mark(6), content="another")
    assert decide(BASE, held=(here,), offers={"base": offer})[0] == Decision(
        "base", Action.PULL, (REBUILT_ELSEWHERE,), BASE, offer=offer
    )
    for stays in (replace(offer, labels=mark(5)), replace(offer, content="content of id-base")):
        assert decide(BASE, held=(here,), offers={"base": stays})[0].action == Action.FRESH
    taken = decide(BASE, held=(here,), offers={"base": replace(offer, labels=mark(5))}, taken=("base",))[0]
    assert (taken.action, taken.reasons) == (Action.PULL, (ANOTHER,))


def test_what_is_built_in_every_run_is_nobody_elses() -> None:
    for image in (replace(BASE.image, no_cache=True), replace(BASE.image, no_cache_filter=("stage",))):
        mine = replace(BASE, image=image)
        assert own_only(mine)
        assert decide(mine, offers={"base": found(BASE)})[0].action == Action.BUILD
    assert not own_only(BASE)


def test_an_offer_counts_for_all_its_platforms_in_their_order() -> None:
    assert offered(WIDE, replace(found(BASE), platform="linux/amd64, linux/arm64/v8"), "")
    assert not offered(WIDE, replace(found(BASE), platform="linux/arm64, linux/amd64"), "")
    assert not offered(WIDE, found(BASE), "")


def test_an_image_without_parents_needs_no_label_of_them() -> None:
    bare = {INPUT_DIGEST: BASE.input_digest}
    assert offered(BASE, replace(found(BASE), labels=bare), "")
    assert not offered(BASE, replace(found(BASE), labels=bare), "base=x")
    assert made_from(BASE, LocalImage("x", (), labels=bare), "")
    assert not made_from(BASE, LocalImage("x", (), labels=bare), "base=x")


@pytest.mark.parametrize(
    ("text", "when"), [("1795505378", 1795505378), ("9" * 15, 10**15 - 1), ("9" * 16, 0), ("", 0), ("-1", 0), ("²", 0)]
)
def test_when_something_was_rebuilt(text: str, when: int) -> None:
    assert rebuilt({REBUILT: text}) == when
    assert rebuilt({}) == 0
