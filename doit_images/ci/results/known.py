"""What passed before, wherever that was; and how a run of tests is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from doit_images.ci.history import TESTED
from doit_images.ci.results import local, shared
from doit_images.ci.results.result import Result
from doit_images.core.base.errors import UserError
from doit_images.core.history.store import Build, Status, StepRecord
from doit_images.core.run import Run


class Ended(NamedTuple):
    """Tests that ended: what they are called, by which reference the history tells them from other projects', on which
    fingerprint ("" for none), when they began (seconds since the epoch) and how long they took, why they were run, the
    images that they needed, and what went wrong ("" for nothing). ``saved``: they were not run, which saved so many
    seconds."""

    name: str
    ref: str
    fingerprint: str
    began: float
    seconds: float
    reasons: tuple[str, ...]
    images: tuple[str, ...] = ()
    error: str = ""
    saved: float = 0.0


def look(run: Run, wanted: Mapping[str, str], *, ask: bool = True) -> dict[str, Result]:
    """The results that are known for these fingerprints, each with the repository of the shared registry that it would
    lie in; what others have is kept here too. Without ``ask`` the registry is not asked."""
    here = {number: result for number in wanted if (result := local.look(number))}
    there = shared.look(run, {number: path for number, path in wanted.items() if number not in here}) if ask else {}
    for result in there.values():
        local.keep(result)
    return {**here, **there}


def keep(run: Run, path: str, result: Result) -> None:
    """Keep that tests passed, for this machine and, in this repository, for the others."""
    local.keep(result)
    shared.put(run, path, result, result.kept())


def withdraw(run: Run, path: str, result: Result) -> None:
    """Tests failed on just what they passed on before: that they passed counts for nobody any more."""
    local.forget(result.fingerprint)
    shared.put(run, path, result, None)
    run.events.say(f"{result.name} is flaky: it failed on just what it passed on before, which does not count any more")


def note(run: Run, ended: Ended) -> None:
    """Add an entry to the history; of tests that were not run only one for each fingerprint. A history that cannot be
    written is said, and fails nothing."""
    try:
        if ended.saved:
            last = run.history.recent(ended.name, limit=1)
            if last and last[0].fingerprint == ended.fingerprint:
                return
        run.history.add(_row(run, ended))
    except UserError as error:
        run.events.say(f"{ended.name}: {error}")


def _row(run: Run, ended: Ended) -> Build:
    seconds = round(ended.saved or ended.seconds, 6)
    title = f"[{ended.name} 1/1] run the test"
    step = StepRecord(title, ended.name, 1, 1, None, seconds, cached=bool(ended.saved), error=ended.error)
    return Build(
        image=ended.name,
        ref=ended.ref,
        fingerprint=ended.fingerprint,
        action=TESTED,
        status=Status.FAILED if ended.error else Status.DONE,
        reasons=ended.reasons,
        started=ended.began,
        seconds=ended.seconds,
        waited=max(0.0, ended.began - run.began),
        steps=(step,),
        workers=run.workers,
        run=run.id,
        parents=ended.images,
    )
