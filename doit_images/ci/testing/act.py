"""What does ``doit test_image:NAME`` do?

A pass is kept under the fingerprint of what the test saw, if that stayed the same to the end. A failure is never kept:
the next run tries again. A failure on what passed before withdraws that pass.
"""

from __future__ import annotations

import time
from pathlib import Path

from doit_images.ci.history import TESTED, expected_seconds
from doit_images.ci.results import known, shared
from doit_images.ci.results.result import Result, times
from doit_images.ci.testing.attempt import Trial
from doit_images.ci.testing.planned import Planned, PlannedState, plan, records_folder
from doit_images.core.base import files
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import because, seconds_text
from doit_images.core.base.references import path_of
from doit_images.core.history.store import Build, Status
from doit_images.core.planning import record
from doit_images.core.planning.record import Record
from doit_images.core.run import Run
from doit_images.stack import secrets

AGAIN = "asked for again"
PASSED = "it passed before on just this"
ELSEWHERE = "it ran on other layers than those of its image, so the pass is not kept"
MOVED = "what it saw changed while it ran, so the pass is not kept"


def run_test(run: Run, name: str, *, again: bool = False, runs: str = "1") -> None:
    """Run a test, so many times, unless it passed before on what it sees now (``again``: also then). ``UserError`` when
    it fails, and of how many runs it did; each has to pass."""
    count = times(runs)
    planned = plan(run, [name], again=True)[name]
    if planned.problem:
        raise UserError(f"{planned.name}: {planned.problem}")
    if planned.state == PlannedState.PASSED and not again and count == 1:
        passed_before(run, planned)
        return
    why = (AGAIN,) if planned.result else planned.reasons
    expected = expected_seconds(run.history, [planned.ref]).get(planned.ref)
    run.events.say(f"testing {name}{because(why)}{f', about {seconds_text(expected)}' if expected else ''}")
    failed = []
    moved = False
    for _ in range(count):
        attempt = attempted(run, planned, again=again or count > 1 or not planned.test.cache)
        _leave(run, planned, attempt, why)
        moved = moved or attempt.moved
        if attempt.status:
            failed.append(attempt)
        else:
            run.events.say(f"{name} passed in {seconds_text(attempt.seconds)}")
    if failed:
        if planned.result:
            known.withdraw(shared.of(run), path_of(run.project.images[planned.test.service].ref), planned.result)
        raise UserError(f"{f'{len(failed)} of {count} runs failed: ' if count > 1 else ''}{failed[0].why}")
    if moved:
        run.events.say(f"{name}: {MOVED}")
    elif planned.test.cache:
        _keep(run, planned, attempt)


def passed_before(run: Run, planned: Planned) -> None:
    """Say that a test passed before, and bring its JUnit file back."""
    result = planned.result
    if result is None:
        raise ValueError("it did not pass before")
    run.events.say(f"{planned.test.name} passed before on just this, in {seconds_text(result.seconds)}")
    if result.junit:
        files.write(junit_of(run.folder, planned.test.name), result.junit)
    ended = _ended(planned, Trial(0, time.time(), 0.0), (PASSED,))
    known.note(run, ended, saved=max(result.seconds, 0.001))


def junit_of(folder: Path, name: str) -> Path:
    """Where the JUnit file of a test is left."""
    return folder / "ci" / f"test-{name}.xml"


def attempted(run: Run, planned: Planned, *, again: bool) -> Trial:
    """Run it once; of what it says without the values of secrets, since others may read what is kept. ``again``: what
    only a stage that tests reaches is not taken from a cache. Raises ``UserError`` where it cannot be run."""
    if planned.inputs is None:
        raise ValueError("what cannot be run is not tried")
    if planned.test.target:
        from doit_images.ci.testing.stage import run_stage

        attempt = run_stage(run, planned, planned.inputs, again=again)
    else:
        from doit_images.ci.testing.command import run_command

        attempt = run_command(run, planned, planned.inputs)
    junit, why = map(secrets.hider(run.project.directory, run.environ), (attempt.junit, attempt.why))
    return attempt._replace(junit=junit, why=why)


def _leave(run: Run, planned: Planned, attempt: Trial, why: tuple[str, ...]) -> None:
    """Leave the JUnit file and an entry in the history, however it ended."""
    if attempt.junit:
        files.write(junit_of(run.folder, planned.test.name), attempt.junit)
    error = next(iter(attempt.why.splitlines()), "it failed") if attempt.status else ""
    known.note(run, _ended(planned, attempt, why), error)


def _ended(planned: Planned, attempt: Trial, why: tuple[str, ...]) -> Build:
    name, ref, number = planned.name, planned.ref, planned.fingerprint
    images = (planned.test.service, *planned.test.services)
    return Build(name, ref, number, TESTED, Status.DONE, why, attempt.began, attempt.seconds, parents=images)


def _keep(run: Run, planned: Planned, attempt: Trial) -> None:
    """Keep that it passed, where that can be said of one state of everything that it saw: what was not known before it
    ran may have been another while it did."""
    if not planned.fingerprint:
        return
    run.local_images.changed()
    after = plan(run, [planned.test.name], again=True, ask=False)[planned.test.name]
    if after.inputs is None or after.fingerprint != planned.fingerprint:
        run.events.say(f"{planned.test.name}: {MOVED}")
        return
    if planned.test.target:
        from doit_images.ci.testing.stage import ran_on_image

        if not ran_on_image(run, planned):
            run.events.say(f"{planned.test.name}: {ELSEWHERE}")
            return
    images = dict(after.images)
    result = Result(planned.test.name, after.fingerprint, attempt.seconds, time.time(), attempt.junit, images)
    known.keep(shared.of(run), path_of(run.project.images[planned.test.service].ref), result)
    kept = Record(
        image=planned.test.name,
        ref=planned.ref,
        action=TESTED,
        fingerprint=after.fingerprint,
        build_inputs=after.inputs.build_inputs(),
        parents=images,
        image_id="",
        size=0,
        finished=result.finished,
        seconds=attempt.seconds,
    )
    record.write(records_folder(run.folder), kept)
