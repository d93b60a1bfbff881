"""Which builds go on at once, and in which order: those that the machine has room for, longest path first."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.ci.testing import stage
from doit_images.ci.verifying import once_more
from doit_images.core import external_bases
from doit_images.core.around import Alone
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings
from doit_images.core.building import build_image, build_lock, make, prune_lock
from doit_images.core.building.attempt import Attempt, ImageBuild
from doit_images.core.building.events import ImageNoted
from doit_images.core.building.prune_lock import SharedLock
from doit_images.core.capacity import Capacity
from doit_images.core.compose.needs import NOTHING, Needs, parse
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import shared_ref_of
from doit_images.core.run import Parts, Run
from doit_images.share.lease import BuildCoordinator
from tests import loopback
from tests.conftest import ROOT, Lab, file_in
from tests.core.planning.test_plan import made
from tests.waiting import patience, until

FILE = Path("compose.yml")


def test_what_a_project_declares() -> None:
    declared = {"web": {"cpus": 1.5, "memory": "2g"}, "ml": {"memory": 5}}
    assert parse(declared, ["web", "ml", "db"], FILE) == {"web": Needs(1.5, 2 * 1024**3), "ml": Needs(0, 5)}
    assert parse(None, ["web"], FILE) == {}


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"wbe": {"cpus": 1}}, "there is no image wbe"),
        ({"web": {"cpu": 1}}, "web has cpu"),
        ({"web": {"cpus": "many"}}, "cpus of web"),
        ({"web": {"cpus": -1}}, "cpus of web"),
        ({"web": {"cpus": True}}, "cpus of web"),
        ({"web": {"cpus": float("nan")}}, "cpus of web"),
        ({"web": {"memory": "lots"}}, "memory of web"),
        ({"web": {"memory": -5}}, "memory of web"),
        ({"web": 3}, "web is 3"),
        ([1], "a mapping"),
    ],
)
def test_a_declaration_that_is_wrong_is_one_sentence(declared: object, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        parse(declared, ["web"], FILE)
    assert str(caught.value).startswith("compose.yml: x-build-needs")


def together(room: Capacity, needs: list[tuple[float, Needs]]) -> tuple[list[int], list[list[int]]]:
    """Let a thread for each of these take the room, while the whole of it is taken; the order in which they came in,
    and who was in it whenever somebody came in."""
    order: list[int] = []
    inside: set[int] = set()
    seen: list[list[int]] = []
    lock = threading.Lock()
    waiting: set[int] = set()

    def work(number: int, urgency: float, needed: Needs) -> None:
        with room.taken(urgency, needed, lambda: waiting.add(number)):
            with lock:
                order.append(number)
                inside.add(number)
                seen.append(sorted(inside))
            time.sleep(0.01)
            with lock:
                inside.discard(number)

    threads = [threading.Thread(target=work, args=(n, *each)) for n, each in enumerate(needs)]
    with room.taken(0, Needs(room.cpus, room.memory), lambda: None):
        for thread in threads:
            thread.start()
        until(lambda: len(waiting) == len(needs))
    for thread in threads:
        thread.join(patience())
        assert not thread.is_alive()
    return order, seen


def test_the_most_urgent_comes_first() -> None:
    order, seen = together(Capacity(2, 100), [(1, Needs(2, 0)), (3, Needs(2, 0)), (2, Needs(2, 0))])
    assert order == [1, 2, 0]
    assert all(len(each) == 1 for each in seen)


def test_one_that_does_not_fit_keeps_the_others_from_its_place() -> None:
    """Else small ones would go by for ever, and the longest path with them."""
    order, _ = together(Capacity(4, 100), [(9, Needs(4, 0)), (1, Needs(1, 0)), (1, Needs(1, 0))])
    assert order[0] == 0


def test_what_needs_more_than_there_is_goes_alone() -> None:
    order, seen = together(Capacity(2, 100), [(2, Needs(0, 500)), (1, Needs(0, 1))])
    assert order == [0, 1]
    assert seen[0] == [0]


def test_what_needs_nothing_never_waits() -> None:
    room = Capacity(2, 100)
    with room.taken(1, Needs(2, 100), lambda: None):
        passed = threading.Thread(target=lambda: room.taken(0, NOTHING, lambda: None).__enter__())
        passed.start()
        passed.join(patience())
        assert not passed.is_alive()


class Others(Alone):
    """The other machines, of which one builds an image until it is told to end."""

    reads = writes = on = True

    def __init__(self, building: str) -> None:
        self._turn = turn_of(building)
        self.asked, self.ends = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def acquire(self, turn: str, *_: object) -> Iterator[bool]:
        if turn == self._turn:
            self.asked.set()
            assert self.ends.wait(patience())
        yield True


def run_with_room_for_one(folder: Path, others: Any, names: Sequence[str]) -> Run:
    """A run on a machine with room for the build of one of these images, each of which has to be built."""
    run = Run((folder / "compose.yml",), {}, parts=Parts(lambda run: others))
    decisions = {name: Decision(name, Action.BUILD, (), made(name, fingerprint=f"{name}-f")) for name in names}
    vars(run).update(
        settings=Settings(redis_url="redis://there", cache_registry="reg:5000"),
        folder=folder,
        project=SimpleNamespace(needs=dict.fromkeys(decisions, Needs(1, 0))),
        engine=SimpleNamespace(
            address=str(folder), info=lambda: {"NCPU": 1}, untag=lambda ref: None, tagged=lambda ref: ""
        ),
        expected=SimpleNamespace(builds={}),
        local_images=SimpleNamespace(
            snapshot=lambda: SimpleNamespace(platform="linux/amd64", get=lambda ref: None),
            changed=lambda: None,
            on_own_base=lambda refs: False,
        ),
        planner=SimpleNamespace(
            declared=lambda: {name: each.inputs for name, each in decisions.items()},
            decide=decisions.__getitem__,
            decide_again=decisions.__getitem__,
        ),
    )
    return run


def notes_of(run: Run) -> list[str]:
    """What is noted of images from now on."""
    noted = list[str]()
    run.events.listen(lambda event: isinstance(event, ImageNoted) and noted.append(f"{event.image} {event.text}"))
    return noted


def begins_builds(
    monkeypatch: pytest.MonkeyPatch, run: Run, builds: Callable[[str], None]
) -> Callable[[str], threading.Thread]:
    """What begins to build an image of ``run_with_room_for_one``; ``builds`` is called for each that is built."""

    def ends(build: ImageBuild) -> None:
        builds(build.name)
        raise UserError("that is all")

    monkeypatch.setattr(build_lock, "taken", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(SharedLock, "take", lambda self, waits: False)
    monkeypatch.setattr(external_bases, "refuse_foreign", lambda local_images, inputs: None)
    monkeypatch.setattr(build_image, "begin", lambda run: None)
    monkeypatch.setattr(build_image, "built", ends)

    def build(name: str) -> None:
        with contextlib.suppress(UserError):
            make.make_image(run, name, SharedLock(run.engine))

    def begin(name: str) -> threading.Thread:
        thread = threading.Thread(target=build, args=(name,), daemon=True)
        thread.start()
        return thread

    return begin


def all_end(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(patience())
        assert not thread.is_alive()


def test_who_waits_for_another_machine_takes_no_capacity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a machine with room for one build would do nothing until another machine's is done."""
    others, built = Others("waits"), threading.Event()
    run = run_with_room_for_one(tmp_path, others, ("waits", "goes"))
    begin = begins_builds(monkeypatch, run, lambda name: built.set() if name == "goes" else None)
    waits = begin("waits")
    assert others.asked.wait(patience())
    goes = begin("goes")
    assert built.wait(patience()), "it has the room, and waits for another machine"
    others.ends.set()
    all_end(waits, goes)


def test_who_waits_for_room_has_no_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else other machines would wait for one that does nothing. And who then has room, but finds that another machine
    has begun meanwhile, gives it back."""
    first, third, built = threading.Event(), threading.Event(), list[str]()

    def builds(name: str) -> None:
        built.append(name)
        assert {"first": first, "third": third}.get(name, first).wait(patience())

    with loopback.redis(tmp_path / "redis") as service:
        ours, other = (BuildCoordinator(f"redis://127.0.0.1:{service.port}/0", print) for _ in range(2))
        run = run_with_room_for_one(tmp_path, Leases(ours), ("first", "second", "third"))
        begin = begins_builds(monkeypatch, run, builds)
        noted = notes_of(run)
        threads = [begin("first")]
        until(lambda: built == ["first"])
        threads.append(begin("second"))
        until(lambda: any(each.startswith("second waits for 1 of 1 processors") for each in noted))
        with other.acquire(turn_of("second"), lambda who: None) as waited:
            assert not waited, "it was given back before anybody was told that there is no room"
            first.set()
            until(lambda: any(each.startswith(f"second waits for {os.uname().nodename}") for each in noted))
            threads.append(begin("third"))
            until(lambda: built == ["first", "third"])
            third.set()
        all_end(*threads)
    assert built == ["first", "third", "second"]


class Leases(Alone):
    """No results of others, and the leases of a Redis."""

    reads = writes = on = True

    def __init__(self, coordinator: BuildCoordinator) -> None:
        vars(self).update(acquire=coordinator.acquire, holds=coordinator.holds)


@pytest.mark.parametrize("dies", [True, False])
def test_who_may_not_push_builds_after_all_where_no_result_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dies: bool
) -> None:
    """Its lease runs out, or it gives it back and nothing that counts is shared."""
    built = list[str]()
    with loopback.redis(tmp_path / "redis") as service:
        url = f"redis://127.0.0.1:{service.port}/0"
        others = Alone()
        vars(others).update(reads=True, on=True, watch=BuildCoordinator(url, print, 1.0 if dies else 60.0).watch)
        run = run_with_room_for_one(tmp_path, others, ("web",))
        begin = begins_builds(monkeypatch, run, built.append)
        noted = notes_of(run)
        holder = BuildCoordinator(url, print, 1.0)
        if dies:
            monkeypatch.setattr(BuildCoordinator, "_renew", lambda *words: None)
        with holder.acquire(turn_of("web"), lambda who: None):
            thread = begin("web")
            until(lambda: noted)
            assert noted[0].startswith(f"web waits for {os.uname().nodename}")
            assert not built
            if dies:
                all_end(thread)
        all_end(thread)
    assert built == ["web"]


class OneLeaseEach(Alone):
    """No other machine, and Redis, which keeps a second lease on an image waiting."""

    reads = writes = on = True

    def __init__(self) -> None:
        self.held: list[str] = []

    @contextlib.contextmanager
    def acquire(self, turn: str, *_: object) -> Iterator[bool]:
        assert turn not in self.held, "it waits for itself"
        self.held.append(turn)
        yield False
        self.held.remove(turn)

    def holds(self, turn: str) -> bool:
        return turn in self.held


def test_what_has_to_be_built_after_all_does_not_wait_for_its_own_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was there when the lease was had, and was pruned before it got its name."""
    run, built, retag = run_with_room_for_one(tmp_path, OneLeaseEach(), ("web",)), list[str](), [Action.RETAG]
    decision = run.planner.decide("web")
    vars(run.planner).update(
        decide_again=lambda name: decision._replace(action=retag.pop() if retag else Action.BUILD),
    )
    monkeypatch.setattr(make._Job, "_tag", lambda self, decision: False)
    begin = begins_builds(monkeypatch, run, built.append)
    all_end(begin("web"))
    assert (built, retag) == (["web"], [])


def test_a_result_that_another_machine_shared_is_pulled_without_the_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else all that waited would pull it one after the other. One that does not come is built, with the lease."""
    others, seen = OneLeaseEach(), list[tuple[str, int]]()
    run, actions = run_with_room_for_one(tmp_path, others, ("web",)), [Action.PULL, Action.BUILD]
    decision = run.planner.decide("web")
    vars(run.planner).update(decide_again=lambda name: decision._replace(action=actions.pop() if actions else "build"))
    monkeypatch.setattr(make._Job, "_decided", lambda self: self._looked(self.name))
    monkeypatch.setattr(make._Job, "_pull", lambda self, decision: seen.append(("pulls", len(others.held))))
    begin = begins_builds(monkeypatch, run, lambda name: seen.append(("builds", len(others.held))))
    all_end(begin("web"))
    assert seen == [("pulls", 0), ("builds", 1)]


def turn_of(name: str) -> str:
    """What a lease on the image ``name`` is on."""
    wanted = shared_ref_of(made(name, fingerprint=f"{name}-f"), "linux/amd64")
    assert wanted
    return wanted.turn


def of_stage(run: Run, name: str) -> None:
    planned = cast("Any", SimpleNamespace(test=SimpleNamespace(service=name), name=f"test:{name}"))
    stage.run_stage(run, planned, run.planner.decide(name).inputs, again=False)


def another(run: Run, name: str) -> None:
    with once_more.once_more(run, run.planner.decide(name), Attempt()):
        pass


@pytest.mark.parametrize(("module", "build"), [(stage, of_stage), (once_more, another)])
def test_stages_that_test_and_a_build_once_more_wait_for_room_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, build: Callable[[Run, str], None]
) -> None:
    run, built = run_with_room_for_one(tmp_path, None, ("first", "second")), list[str]()
    noted = notes_of(run)
    vars(run).update(changed=lambda: None)

    def ends(*_: object, **__: object) -> None:
        built.append("second")
        raise UserError("that is all")

    def second() -> None:
        with contextlib.suppress(UserError):
            build(run, "second")

    monkeypatch.setattr(module, "_built", ends)
    monkeypatch.setattr(prune_lock, "shared", lambda engine, waits: contextlib.nullcontext())
    thread = threading.Thread(target=second, daemon=True)
    with run.capacity.taken("first", print):
        thread.start()
        until(lambda: bool(noted or built))
        assert not built
    all_end(thread)
    assert noted == ["second waits for 1 of 1 processors, which other builds have"]
    assert built == ["second"]


@given(st.lists(st.tuples(st.integers(0, 5), st.builds(Needs, st.integers(0, 6), st.integers(0, 150))), max_size=8))
def test_never_more_than_there_is_and_all_come_in(needs: list[tuple[float, Needs]]) -> None:
    needs = [(urgency, needed) for urgency, needed in needs if any(needed)]
    order, seen = together(Capacity(4, 100), needs)
    assert sorted(order) == list(range(len(needs)))
    for inside in seen:
        cpus, memory = (sum(needs[number][1][kind] for number in inside) for kind in (0, 1))
        assert len(inside) == 1 or (cpus <= 4 and memory <= 100)


SIBLINGS = """
name: PREFIX
x-build-needs:
  a: {memory: 900t}
  b: {memory: 900t}
  c: {memory: 900t}
services:
"""


@pytest.mark.engine
def test_builds_that_do_not_fit_together_go_on_one_after_the_other(lab: Lab, busybox: str, tmp_path: Path) -> None:
    lines = [f"  {name}: {{image: PREFIX/{name}, build: {{context: {name}}}}}\n" for name in "abc"]
    step = "FROM tst-busybox:1\nRUN echo PREFIX; cat /proc/uptime > /began; sleep 1; cat /proc/uptime > /ended\n"
    lab.write({"compose.yml": SIBLINGS + "".join(lines), **{f"{name}/Dockerfile": step for name in "abc"}})
    for name in "abc":  # else BuildKit would see one step
        lab.write({f"{name}/Dockerfile": step.replace("echo", f"echo {name}")})
    done = lab.doit("build_optimized", BUILD_JOBS="3")
    assert done.returncode == 0, done.stderr
    assert "of memory, which other builds have" in done.stderr
    times = sorted(
        tuple(float(file_in(lab.ref(name), path, tmp_path).split()[0]) for path in ("/began", "/ended"))
        for name in "abc"
    )
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


DODO = """
from doit_images.cli import doit_order
doit_order.install()
DOIT_CONFIG = {"default_tasks": ["child"], "verbosity": 2, "par_type": "thread"}
def task_parent():
    return {"actions": [lambda: None]}
def task_child():
    for number in range(30):
        yield {"name": str(number), "actions": [f"echo {number}"], "task_dep": ["parent"]}
"""


def test_siblings_go_on_in_the_order_of_their_declaration(tmp_path: Path) -> None:
    (tmp_path / "dodo.py").write_text(DODO)
    argv = [sys.executable, "-m", "doit", "-f", str(tmp_path / "dodo.py"), "-n", "1", "--reporter", "zero"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(number) for number in range(30)]
