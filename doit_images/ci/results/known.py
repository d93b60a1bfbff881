"""Which tests passed before, here or elsewhere, and how is a run of tests remembered?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from doit_images.ci.results import local
from doit_images.ci.results.result import Result
from doit_images.ci.results.shared import SharedResults
from doit_images.core.base.errors import UserError
from doit_images.core.history.store import Build, Status, StepRecord
from doit_images.core.run import Run


def look(shared: SharedResults, wanted: Mapping[str, str], *, ask: bool = True) -> dict[str, Result]:
    """The results that are known for these fingerprints, each with the repository of the shared registry that it would
    lie in; what others have is kept here too. Without ``ask`` the registry is not asked."""
    here = {number: result for number in wanted if (result := local.look(number))}
    asked = {number: path for number, path in wanted.items() if number not in here}
    there = shared.look(asked) if ask else {}
    for result in there.values():
        local.keep(result)
    return {**here, **there}


def keep(shared: SharedResults, path: str, result: Result) -> None:
    """Keep that tests passed, for this machine and, in this repository, for the others."""
    local.keep(result)
    shared.put(path, result, result.kept())


def withdraw(shared: SharedResults, path: str, result: Result) -> None:
    """Tests failed on just what they passed on before: that they passed counts for nobody any more."""
    local.forget(result.fingerprint)
    shared.put(path, result, None)
    shared.say(f"{result.name} is flaky: it failed on just what it passed on before, which does not count any more")


def note(run: Run, ended: Build, error: str = "", saved: float = 0.0) -> None:
    """Add tests that ended to the history, with what went wrong ("" for nothing). ``saved``: they were not run, which
    saved so many seconds; of such only one for each fingerprint is kept. A history that cannot be written is said, and
    fails nothing."""
    try:
        if saved:
            last = run.history.recent(ended.image, limit=1)
            if last and last[0].fingerprint == ended.fingerprint:
                return
        seconds, title = round(saved or ended.seconds, 6), f"[{ended.image} 1/1] run the test"
        step = StepRecord(title, ended.image, 1, 1, None, seconds, cached=bool(saved), error=error)
        status, waited = Status.FAILED if error else Status.DONE, max(0.0, ended.started - run.began)
        run.history.add(replace(ended, status=status, waited=waited, steps=(step,), workers=run.workers, run=run.id))
    except UserError as wrong:
        run.events.say(f"{ended.image}: {wrong}")
