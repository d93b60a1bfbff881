"""Machines whose results of the same inputs differ come to agree: two real engines, one real registry, and steps that
make other bytes each time."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.core.engine.client import Snapshot
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS, REBUILT
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.agreement import Agreement, remembered, verdict
from doit_images.core.planning.asked import LastAsked
from doit_images.core.planning.plan import ANOTHER, REBUILT_ELSEWHERE, Decision, Known, plan
from doit_images.core.planning.shared_image import SharedImage
from tests import loopback
from tests.conftest import docker
from tests.core.planning.test_plan import APP, BASE, ON_BASE, engine, facts_of, found, local_image, made
from tests.share.test_share import (
    WITH_OTHER,
    Machine,
    machines,  # noqa: F401
    outcomes,
    second_engine,  # noqa: F401
    server,  # noqa: F401
)
from tests.waiting import patience

LABEL = f'{{{{index .Config.Labels "{REBUILT}"}}}}'
Machines = tuple[Machine, Machine]
ALL = ("base", "app", "other")
ANOTHER_FILE = "FROM base\nRUN head -c 9 /dev/urandom > /other\n"


@pytest.fixture
def pair(machines: Machines) -> Machines:  # noqa: F811
    for machine in machines:
        base = "FROM tst-busybox:1\nRUN head -c 8 /dev/urandom > /PREFIX\n"
        machine.write({**WITH_OTHER, "base.Dockerfile": base, "other.Dockerfile": ANOTHER_FILE})
    return machines


def alone(machine: Machine, *tasks: str) -> None:
    """Let the machine build before it knows of the registry."""
    done = machine.doit(*tasks or ("build_optimized",), CACHE_REGISTRY="")
    assert done.returncode == 0, done.stderr


def edit(machines: Machines, text: str) -> None:  # noqa: F811
    for machine in machines:
        (machine.folder / "app.py").write_text(text)


def in_registry(server: loopback.Service, machine: Machine) -> dict[str, str]:  # noqa: F811
    """The digest of every result that is shared."""
    digests = {}
    for name in ALL:
        for tag in (tag for tag in loopback.tags(server, f"{machine.prefix}/{name}") if tag.startswith("in-")):
            url = f"http://127.0.0.1:{server.port}/v2/{machine.prefix}/{name}/manifests/{tag}"
            wanted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
            with urllib.request.urlopen(urllib.request.Request(url, headers=wanted)) as answer:
                digests[f"{name}:{tag}"] = answer.headers["Docker-Content-Digest"]
    return digests


@pytest.mark.engine
def test_who_built_a_parent_before_seeing_the_others_takes_theirs_and_then_its_children(pair: Machines) -> None:
    first, second = pair
    for machine in pair:
        alone(machine, "build_optimized:base")
    assert first.contents() != second.contents()
    # The base was made before there was a registry: it goes there with its first child.
    assert first.did() == {"app": "built", "other": "built"}
    assert second.actions() == dict.fromkeys(ALL, "pull")
    assert second.plan()["base"]["reasons"] == [ANOTHER]
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()
    assert second.did() == first.did() == {}


@pytest.mark.engine
def test_a_whole_machine_that_went_its_own_way_comes_back_when_that_costs_no_build(pair: Machines) -> None:
    first, second = pair
    first.did()
    alone(second)
    assert not set(first.contents().values()) & set(second.contents().values())
    # With nothing to build nobody is asked, and nothing is replaced.
    assert second.did() == {}
    edit(pair, "two")
    assert first.did() == {"app": "built"}
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()


@pytest.mark.engine
def test_who_cannot_agree_yet_builds_its_own_and_leaves_what_is_shared_alone(
    pair: Machines,
    server: loopback.Service,  # noqa: F811
) -> None:
    first, second = pair
    assert first.doit("build_optimized:app").returncode == 0
    alone(second)  # its `other`, which nobody shares, stands on its own base
    theirs, before = second.contents()["base"], dict[str, str]()
    for number in range(2):  # each of the two is first once
        edit(pair, f"{number}")
        order = pair if number % 2 else pair[::-1]
        for machine in order:
            done = machine.doit("build_optimized:app")
            assert outcomes(done.stderr) == {"app": "built"}, done.stderr
        assert first.actions()["app"] == second.actions()["app"] == "fresh"
        shared = in_registry(server, first)
        assert len(shared) == number + 3, "the base, and app for each text, the first one included"
        assert before.items() <= shared.items(), "what was shared was replaced"
        before = shared
    assert second.contents()["base"] == theirs
    # Once all that stands on it is shared, the next change brings the second machine back.
    assert first.did() == {"other": "built"}
    edit(pair, "last")
    assert first.did() == {"app": "built"}
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()


@pytest.mark.engine
def test_a_deliberate_rebuild_reaches_who_holds_the_old_one(pair: Machines) -> None:
    first, second = pair
    first.did()
    assert second.did() == dict.fromkeys(ALL, "pulled")
    old = first.contents()
    assert first.doit("rebuild_optimized:base").returncode == 0
    assert first.contents()["base"] != old["base"]
    assert second.actions(CACHE_ASK="1h") == dict.fromkeys(ALL, "fresh"), "it asked a moment ago"
    # Nobody has built children on it yet.
    second.environ["CACHE_ASK"] = "0s"
    assert second.actions() == {"base": "pull", "app": "build", "other": "build"}
    assert second.plan()["base"]["reasons"] == [REBUILT_ELSEWHERE]
    assert first.did() == {"app": "built", "other": "built"}
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()
    assert second.did() == {}
    # A child of what was rebuilt on purpose was not rebuilt on purpose, although labels are inherited.
    marks = [docker("image", "inspect", "--format", LABEL, first.ref(name)).stdout.strip() for name in ALL]
    assert marks[0].isdecimal()
    assert marks[1:] == ["", ""]
    # And the other way round, all of them.
    assert second.doit("rebuild_optimized").returncode == 0
    first.environ["CACHE_ASK"] = "0s"
    assert first.did() == dict.fromkeys(ALL, "pulled")
    assert first.contents() == second.contents()
    assert second.did() == first.did() == {}


@pytest.mark.engine
def test_a_rebuilt_image_that_does_not_come_is_left_alone_for_a_while(
    pair: Machines,
    server: loopback.Service,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, second = pair
    first.did()
    second.did()
    contents = second.contents()
    assert first.doit("rebuild_optimized:base").returncode == 0
    [tag] = [one for one in loopback.tags(server, f"{first.prefix}/base") if one.startswith("in-")]
    url = f"http://127.0.0.1:{server.port}/v2/{first.prefix}/base/manifests/{tag}"
    wanted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=wanted)) as answer:
        layer = json.load(answer)["layers"][-1]["digest"].removeprefix("sha256:")
    [blob] = (tmp_path / "registry/data").rglob(f"sha256/{layer[:2]}/{layer}/data")
    blob.unlink()
    for file in (second.folder / ".doit-images").rglob("asked-*"):
        file.unlink()
    assert second.did() == {}
    assert second.said.count("cannot be pulled") == 1
    assert second.did() == {}
    assert "pull" not in second.said
    assert second.contents() == contents


@pytest.mark.engine
def test_of_two_that_build_the_same_image_at_the_same_time_the_second_takes_the_firsts(pair: Machines) -> None:
    seconds = patience(2)
    for machine in pair:
        machine.write(
            {"base.Dockerfile": f"FROM tst-busybox:1\nRUN sleep {4 * seconds:.0f}; head -c 8 /dev/urandom > /PREFIX\n"}
        )
    running, said = [], ["", ""]
    for number, machine in enumerate(pair):
        process = machine.start("build_optimized")
        assert process.stdout is not None
        for line in process.stdout:
            said[number] += line
            if line.startswith("building base"):
                break
        running.append(process)
        time.sleep(seconds)  # one ends before the other, and long enough before for a push
    for number, process in enumerate(running):
        said[number] += process.communicate()[0]
        assert process.returncode == 0, said[number]
    done = [outcomes(text) for text in said]
    assert sorted(one["base"] for one in done) == ["built", "pulled"], said
    assert "another machine shared its result first, which is taken" in said[0] + said[1]
    assert pair[0].contents()["base"] == pair[1].contents()["base"]
    assert [machine.did() for machine in pair] == [{}, {}]


@pytest.mark.engine
def test_a_registry_that_is_down_or_silent_when_it_is_asked_about_what_is_fresh(
    pair: Machines,
    server: loopback.Service,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, _ = pair
    first.did()
    relay = loopback.Relay(server.port)
    relay.silent = True
    try:
        for address, said in ((relay.address, "does not answer in time"), ("localhost:1", "does not answer")):
            first.environ["CACHE_REGISTRY"] = address
            assert first.did() == {}
            assert first.said.count(said) == 1
            # It is left alone for a while: a run with nothing to do does not wait for it again and again.
            assert first.did() == {}
            assert "registry" not in first.said
    finally:
        relay.close()


# ---- what needs no engine

OTHER = made("other", "ot", "fd", {"base": "base"})
ON_THEIRS = "base=theirs"


def theirs(one: ImageInputs, parents: str = "", content: str = "theirs", rebuilt: str = "") -> SharedImage:
    """Another machine's result."""
    offer = found(one, parents)
    return replace(offer, content=content, labels={**offer.labels, REBUILT: rebuilt})


class Asking:
    """A plan with a registry, and what that was asked about, round by round."""

    def __init__(self, images: list[ImageInputs], snapshot: Snapshot, **holds: SharedImage) -> None:
        self.rounds: list[list[str]] = []
        self._images = {one.name: one for one in images}
        self._snapshot = snapshot
        self._holds = holds

    def planned(self, offers: Mapping[str, SharedImage], taken: Collection[str]) -> dict[str, Decision]:
        return plan(self._images, Known(self._snapshot, facts_of, lambda name: None), offers, taken)

    def look(self, names: Collection[str]) -> dict[str, SharedImage]:
        if names:
            self.rounds.append(list(names))
        return {name: self._holds[name] for name in names if name in self._holds}

    def actions(self, *ask: str, whole: bool = True) -> dict[str, str]:
        own = self.planned({}, ())
        decided, self.taken = Agreement(
            own, self.planned, self.look, lambda one, local_image: facts_of(local_image).content
        ).reach(ask, whole=whole)
        self.decided = decided
        return {name: one.action for name, one in decided.items()}


def test_a_parent_that_nothing_fresh_stands_on_gives_way_to_the_shared_one() -> None:
    asking = Asking([BASE, APP], engine(local_image(BASE)), base=theirs(BASE), app=theirs(APP, ON_THEIRS))
    assert asking.actions() == {"base": "pull", "app": "pull"}
    assert asking.decided["base"].reasons == (ANOTHER,)
    assert asking.taken == {"base"}
    assert asking.rounds == [["base", "app"]]
    # The child is built on the shared one, so that others can use it.
    assert Asking([BASE, APP], engine(local_image(BASE)), base=theirs(BASE)).actions() == {
        "base": "pull",
        "app": "build",
    }


def test_it_stays_while_something_fresh_would_have_to_be_built_again() -> None:
    here = engine(local_image(BASE), local_image(OTHER, parents=ON_BASE))
    asking = Asking([BASE, APP, OTHER], here, base=theirs(BASE), app=theirs(APP, ON_THEIRS))
    assert asking.actions() == {"base": "fresh", "app": "build", "other": "fresh"}
    assert asking.taken == frozenset()
    assert asking.rounds == [["base", "app"], ["other"]]
    # ... and no longer than that.
    all_shared = {"base": theirs(BASE), "app": theirs(APP, ON_THEIRS), "other": theirs(OTHER, ON_THEIRS)}
    asking = Asking([BASE, APP, OTHER], here, **all_shared)
    assert asking.actions() == {"base": "pull", "app": "pull", "other": "pull"}
    assert asking.taken == {"base", "other"}
    # Part of a project does not show what stands on an image.
    assert Asking([BASE, APP], here, **all_shared).actions(whole=False)["base"] == "fresh"


def test_equal_content_is_no_reason_for_anything() -> None:
    asking = Asking([BASE, APP], engine(local_image(BASE)), base=found(BASE), app=found(APP, ON_BASE))
    assert asking.actions() == {"base": "fresh", "app": "pull"}
    assert asking.rounds == [["base", "app"]]
    again = theirs(BASE, content="content of id-base", rebuilt="900")
    assert Asking([BASE], engine(local_image(BASE)), base=again).actions("base") == {"base": "fresh"}


def test_another_result_of_an_image_that_nothing_waits_for_is_left_alone() -> None:
    assert Asking([BASE], engine(local_image(BASE)), base=theirs(BASE)).actions("base") == {"base": "fresh"}


def test_a_rebuild_on_purpose_reaches_who_holds_the_old_one_and_what_stands_on_it() -> None:
    here = engine(local_image(BASE), local_image(APP, parents=ON_BASE))
    asking = Asking([BASE, APP], here, base=theirs(BASE, rebuilt="900"), app=theirs(APP, ON_THEIRS))
    assert asking.actions("base") == {"base": "pull", "app": "pull"}
    assert asking.decided["base"].reasons == (REBUILT_ELSEWHERE,)
    assert asking.rounds == [["base"], ["app"]]
    assert Asking([BASE, APP], here, base=theirs(BASE, rebuilt="900")).actions("base")["app"] == "build"
    every_time = replace(BASE, image=replace(BASE.image, no_cache=True))
    assert Asking([every_time], here, base=theirs(BASE, rebuilt="900")).actions("base") == {"base": "fresh"}
    own = local_image(BASE)._replace(labels={**local_image(BASE).labels, REBUILT: "901"})
    assert Asking([BASE], engine(own), base=theirs(BASE, rebuilt="900")).actions("base") == {"base": "fresh"}


def test_what_is_remembered_spares_a_question_about_what_is_not_here_and_decides_nothing_else() -> None:
    def actions(snapshot: Snapshot, *images: ImageInputs, **holds: SharedImage) -> dict[str, str]:
        asking = Asking(list(images), snapshot, **holds)
        decided = remembered(asking.planned({}, ()), asking.planned, asking.look)
        return {name: each.action for name, each in decided.items()}

    stands = engine(local_image(APP, parents=ON_BASE))
    assert actions(stands, BASE, APP, base=found(BASE)) == {"base": "pull", "app": "fresh"}
    # Else the registry is asked: about what would be built, and what is to be had for its own sake.
    assert actions(stands, BASE, APP, base=theirs(BASE)) == {}
    assert actions(stands, BASE, APP) == {}
    assert actions(stands, BASE, APP, OTHER, base=found(BASE), other=found(OTHER, ON_BASE)) == {}
    assert actions(engine(local_image(BASE)), BASE, APP, app=found(APP, ON_BASE)) == {}


@pytest.mark.parametrize(
    ("shared", "on_shared", "what"),  # of an image that was rebuilt on purpose at second 900
    [
        (None, True, "push"),
        (None, None, "push"),
        (None, False, "keep"),  # nobody else has what it stands on
        (found(made("base", "another")), True, "push"),  # somebody's under the same name, of no use to anybody
        (found(BASE), True, "keep"),  # equal content
        (theirs(BASE), True, "push"),
        (theirs(BASE, rebuilt="899"), True, "push"),
        (theirs(BASE, rebuilt="900"), True, "take"),  # who was first
        (theirs(BASE, rebuilt="901"), True, "take"),
        (theirs(BASE, "x=another"), True, "push"),
        (theirs(BASE, "x=another"), False, "keep"),
        (theirs(BASE, "x=another"), None, "keep"),
    ],
)
def test_what_becomes_of_a_result(shared: SharedImage | None, on_shared: bool | None, what: str) -> None:
    own = {INPUT_DIGEST: BASE.input_digest, PARENTS: "", REBUILT: "900"}
    assert verdict(own, "content of id-base".__str__, shared, on_shared_parents=on_shared) == what


def test_the_first_of_two_results_counts_if_nobody_rebuilt_on_purpose() -> None:
    own = {INPUT_DIGEST: BASE.input_digest, PARENTS: "", REBUILT: ""}
    assert verdict(own, "content of id-base".__str__, theirs(BASE), on_shared_parents=True) == "take"
    assert verdict(own, "content of id-base".__str__, found(BASE), on_shared_parents=True) == "keep"


def test_who_is_asked_about_what_is_fresh_is_remembered_for_a_while(tmp_path: Path) -> None:
    one = LastAsked(tmp_path, ["registry", "engine"], 60)
    assert one.due
    one.now()
    assert not LastAsked(tmp_path, ["registry", "engine"], 60).due
    assert LastAsked(tmp_path, ["registry", "engine"], 0).due
    assert LastAsked(tmp_path, ["another registry", "engine"], 60).due
    [file] = tmp_path.iterdir()
    for seconds in (time.time() - 61, time.time() + 60):
        os.utime(file, (seconds, seconds))
        assert one.due
    LastAsked(tmp_path / "nowhere", ["registry"], 60).now()
