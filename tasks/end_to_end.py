"""``ci_test``: do the end-to-end tests pass on these images, and did they before?

They run against a stack of their own that is always removed. What passed is kept under the fingerprint of all that the
tests see, so that a commit that changes nothing of that starts no stack.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from doit_images.ci import seen as stack_seen
from doit_images.ci.build import tell
from doit_images.ci.history import TESTED
from doit_images.ci.results import known, shared
from doit_images.ci.results.result import Result, fingerprint, times
from doit_images.core.base import files, leftovers
from doit_images.core.base.again import passed_on
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import cell, seconds_text
from doit_images.core.base.references import path_of
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.history.store import Build, Status
from doit_images.core.planning.plan import own_only
from doit_images.core.run import Run
from doit_images.stack import bringup, checkout, ephemeral_stack, images, secrets
from doit_images.stack.containers import Containers
from doit_images.stack.ephemeral_stack import EphemeralStack, variable
from doit_images.stack.events import rows_of
from tasks import ROOT

E2E = "tests/e2e"
_NAME, _JUNIT = "e2e/test", "e2e.xml"
# What the end-to-end tests are made of and run with.
_TESTS = (E2E, "tests/__init__.py", "tests/conftest.py", "pyproject.toml", "requirements-dev.txt")


def run_tests(run: Run, words: Sequence[str], *, again: bool = False, runs: str = "1") -> None:
    """Start a stack of its own, run the end-to-end tests against it, so many times, and remove it, whatever happens;
    unless they passed before on all that they see (``again``: also then). ``UserError`` when the stack does not become
    healthy or a test fails, and the containers' logs are kept then; else it is kept that they passed."""
    count = times(runs)
    asked = what_passed(run, words)
    if asked.result and not again and count == 1:
        passed_before(run, asked)
        return
    began, clock = time.time(), time.monotonic()
    ended = replace(_ended(run.project, asked, began, _why(asked)), parents=tuple(run.project.images))
    try:
        for _ in range(count):
            junit = _on_a_stack(run, words, time.monotonic())
    except UserError as error:
        known.note(run, replace(ended, seconds=time.monotonic() - clock), str(error))
        if asked.result:
            known.withdraw(shared.of(run), _repository(run.project), asked.result)
        raise
    ended = replace(ended, seconds=(time.monotonic() - clock) / count)
    known.note(run, ended)
    if not asked.fingerprint:  # it may have been another while they ran
        return
    run.local_images.changed()
    if seen(run.anew(), words) == asked.fingerprint:
        result = Result(_NAME, asked.fingerprint, ended.seconds, time.time(), junit)
        known.keep(shared.of(run), _repository(run.project), result)
    else:
        print("what they saw changed while they ran, so the pass is not kept", file=sys.stderr)


class PlannedRun(NamedTuple):
    """The end-to-end tests as they would be run: the fingerprint of all that they see ("" where that is not known), and
    how they passed on it before, if they did."""

    fingerprint: str
    result: Result | None


def what_passed(run: Run, words: Sequence[str]) -> PlannedRun:
    """Whether the end-to-end tests passed before on all that they would see now."""
    number = seen(run, words)
    found = known.look(shared.of(run), {number: _repository(run.project)}) if number else {}
    return PlannedRun(number, found.get(number))


def passed_before(run: Run, asked: PlannedRun) -> None:
    """Say how they passed, and bring their JUnit file back."""
    result = asked.result
    if result is None:
        raise ValueError("they did not pass before")
    folder = run.folder / "ci"
    if result.junit:
        files.write(folder / _JUNIT, result.junit)
    seconds = seconds_text(result.seconds)
    title = "## End-to-end tests: passed before"
    tell(f"{title}\n\nOn just these images, tests and settings, in {seconds}; not run again.\n")
    ended = _ended(run.project, asked, time.time(), "they passed before on just this")
    known.note(run, ended, saved=result.seconds)


def _ended(project: Project, asked: PlannedRun, began: float, why: str) -> Build:
    return Build(_NAME, f"{project.name}#e2e", asked.fingerprint, TESTED, Status.DONE, (why,), began, 0.0)


def seen(run: Run, words: Sequence[str]) -> str:
    """The fingerprint of all that the end-to-end tests see: the images, the services as declared, what is mounted in
    them, the tests, their settings and what they are run with; "" where some of it is not known."""
    of_stack = stack_seen.of_stack(run.local_images, run.planner, checkout.project_of(run))
    every = (decision.inputs for decision in run.planner.decisions().values())
    if not all(of_stack.images.values()) or any(map(own_only, every)):
        return ""
    own = {name: value for name, value in os.environ.items() if name.startswith("E2E_")}
    paths = stack_seen.digest_of((ROOT / path for path in _TESTS), ROOT)
    told = {"stack": of_stack, "tests": paths, "words": list(words), "settings": own, "python": sys.version}
    return fingerprint({"end to end": told}, run.local_images.snapshot().platform)


def _why(asked: PlannedRun) -> str:
    if asked.result:
        return "asked for again"
    return "they never passed on what they see now" if asked.fingerprint else "what they see is not known"


def _repository(project: Project) -> str:
    """Where the shared registry has the results: beside the first of the images."""
    return path_of(project.images[min(project.images)].ref)


def _on_a_stack(run: Run, words: Sequence[str], began: float) -> str:
    """Start a stack, run the tests, and remove it; what their JUnit file says, without the values of secrets.
    ``UserError`` when anything fails."""
    folder = run.folder / "ci"
    terms = bringup.terms(run, f"ci-{os.getpid()}")
    try:
        with ephemeral_stack.running(checkout.project_of(run), terms, images.built(run)) as running:
            try:
                return _use(running, words, folder, began)
            except BaseException:
                kept = collect(running.compose, folder / "logs" / running.compose.project)
                print(f"the containers' logs are in {kept[0].parent if kept else folder}", file=sys.stderr)
                raise
    finally:
        terms.log.unlink(missing_ok=True)


def collect(compose: Compose, folder: Path) -> list[Path]:
    """Write the log of every container of a project to ``folder``, without the values of secrets; the files."""
    project = Containers(compose.project)
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for container in project.look():
        path = folder / f"{container.name.removeprefix(compose.project).lstrip('-_')}.log"
        state = f"{container.service}: {container.state} {container.health}, status {container.exit_code}, "
        state += f"restarted {container.restarts} times\n"
        path.write_text(state + secrets.hider(compose.directory, compose.environ)(project.logs(container.id)))
        kept.append(path)
    return kept


def _use(running: EphemeralStack, words: Sequence[str], folder: Path, began: float) -> str:
    if not running.outcome.healthy:
        raise UserError(bringup.explain(running.outcome, running.compose))
    up_seconds = time.monotonic() - began
    rows = rows_of(running.outcome)
    print(f"{running.compose.project} is healthy after {seconds_text(up_seconds)}", file=sys.stderr)
    hide, junit = secrets.hider(running.compose.directory, running.compose.environ), ""
    with leftovers.folder("e2e-") as scratch:  # nothing that is kept holds what pytest wrote as it is
        raw = scratch / _JUNIT
        status = passed_on(pytest_argv(words, raw), test_environ(running, os.environ))
        if raw.exists():
            said = raw.read_text()
            tell(hide(test_summary(said, status, up_seconds, rows)))
            junit = hide(said)
            files.write(folder / _JUNIT, junit)
    if status:
        raise UserError(f"the end-to-end tests ended with status {status}", remedy=f"see {folder / _JUNIT}")
    return junit


def urls(stack: EphemeralStack) -> dict[str, str]:
    """Where the first published port of each service is found, as ``AUTH_URL`` → ``http://127.0.0.1:20001``."""
    services, addresses = stack.compose.services(), {}
    for container in stack.outcome.containers:
        published = services[container.service].ports if container.service in services else ()
        if published and published[0] in container.ports:
            address = container.ports[published[0]].replace("0.0.0.0:", "127.0.0.1:")
            addresses[f"{variable(container.service)}_URL"] = f"http://{address}"
    return addresses


def pytest_argv(words: Sequence[str], junit: Path) -> list[str]:
    """How the end-to-end tests are run."""
    return [sys.executable, "-m", "pytest", E2E, "-p", "no:cacheprovider", f"--junitxml={junit}", *words]


def test_environ(running: EphemeralStack, environ: Mapping[str, str]) -> dict[str, str]:
    """What the tests are told: where the services are and whose containers they may kill. No secret."""
    return {**environ, **urls(running), "E2E_PROJECT": running.compose.project}


def test_summary(junit: str, status: int, up_seconds: float, rows: Sequence[Mapping[str, object]]) -> str:
    """What pytest's JUnit file says, as Markdown."""
    from xml.etree import ElementTree

    suite = next(ElementTree.fromstring(junit).iter("testsuite"))  # noqa: S314  our own pytest wrote it
    ends = ("failure", "error")
    bad = [case for case in suite.iter("testcase") if any(case.find(end) is not None for end in ends)]
    passed = int(suite.get("tests", 0)) - len(bad) - int(suite.get("skipped", 0))
    lines = [
        f"## End-to-end tests: {'failed' if status else 'passed'}",
        "",
        f"{len(rows)} containers healthy after {seconds_text(up_seconds)}; {passed} tests passed, {len(bad)} failed, "
        f"{suite.get('skipped', 0)} skipped in {seconds_text(float(suite.get('time', 0)))}.",
        "",
    ]
    lines += [f"- **{cell(case.get('classname', ''))}** {cell(case.get('name', ''))}" for case in bad]
    return "\n".join(lines)
