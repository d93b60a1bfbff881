"""The same, for machines: ``ci_build`` and ``ci_test``.

Plain output, no terminal, an exit status, files to keep (in ``ci`` of the project's folder), and a summary in Markdown,
which GitHub shows beside the run when it is appended to ``$GITHUB_STEP_SUMMARY``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base import commands
from tasks.base.errors import UserError
from tasks.base.files import write_json
from tasks.base.formatting import cell, seconds_text, size_text
from tasks.base.settings import ROOT
from tasks.history.statistics import runs
from tasks.history.store import Build, Status
from tasks.planning.action import Action
from tasks.planning.plan import Decision
from tasks.run import Run
from tasks.stack import bringup, checkout, ephemeral_stack, images
from tasks.stack.status import rows_of

E2E = "tests/e2e"
_HISTORY = 1000
_NOT_BUILT = "not built"


# ---- ci_build


def build(run: Run) -> None:
    """Build everything that is stale, go on where one image fails, and leave report and summary. ``UserError`` when
    anything could not be built; the report and the summary say what, also then."""
    began, clock = time.time(), time.monotonic()
    planned = run.decisions()
    status = doit(["run", "--continue", "build_optimized"])
    seconds = time.monotonic() - clock
    built = built_since(run.history.recent(limit=_HISTORY), began)
    report = build_report(run.project.name, planned, built, status, seconds)
    path = run.folder / "ci" / "build.json"
    write_json(path, report)
    tell(build_summary(report))
    if status:
        bad = [image["name"] for image in report["images"] if image["status"] in (Status.FAILED, _NOT_BUILT)]
        raise UserError(f"{', '.join(bad) or 'the build'} could not be built", remedy=f"the report is {path}")


def doit(words: Sequence[str]) -> int:
    """Run doit itself with these words, plainly, everything that it says to standard error; its exit status."""
    argv = [sys.executable, "-m", "doit", *words]
    return passed_on(argv, {**os.environ, "CI": os.environ.get("CI") or "1"})


def passed_on(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command, pass on to standard error what it says, and return its exit status."""
    with commands.start(argv, cwd=ROOT, env=env) as process:
        for data in process.output():
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
    return process.returncode


def built_since(builds: Sequence[Build], began: float) -> dict[str, Build]:
    """The builds of the run that began next after this time, by image: the last of each. ``builds``: newest first."""
    ours = next((run.id for run in runs(builds) if run.started >= began), None)
    return {build.image: build for build in reversed(builds) if build.run == ours}


def build_report(
    project: str, planned: Mapping[str, Decision], built: Mapping[str, Build], status: int, seconds: float
) -> dict[str, Any]:
    """What a build came to, as plain data."""
    return {
        "project": project,
        "status": "failed" if status else "passed",
        "exit_status": status,
        "seconds": round(seconds, 3),
        "images": [_image(decision, built.get(name)) for name, decision in planned.items()],
    }


def _image(planned: Decision, build: Build | None) -> dict[str, Any]:
    status = build.status if build else _NOT_BUILT if planned.stale else Action.FRESH
    return {
        "name": planned.name,
        "image": planned.inputs.image.ref,
        "action": planned.action,
        "reasons": list(planned.reasons),
        "status": status,
        "seconds": round(build.seconds, 3) if build else 0.0,
        "steps": build.work_steps if build else 0,
        "cached_steps": build.cached_steps if build else 0,
        "size": build.size if build else planned.local_image.size if planned.local_image else None,
        "fingerprint": planned.inputs.fingerprint,
        "image_id": build.image_id if build else planned.local_image.id if planned.local_image else "",
    }


def build_summary(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    images: list[Mapping[str, Any]] = report["images"]
    fresh = sum(image["status"] == Action.FRESH for image in images)
    lines = [
        f"## Build of {cell(report['project'])}: {report['status']}",
        "",
        f"{len(images)} images in {seconds_text(report['seconds'])}, {fresh} of them fresh.",
        "",
        "| image | what | time | cached steps | size | why |",
        "|---|---|--:|--:|--:|---|",
    ]
    for image in images:
        what = image["status"] if image["status"] == Action.FRESH else f"{image['action']} {image['status']}"
        bold = f"**{what}**" if image["status"] not in (Action.FRESH, Status.DONE) else what
        cached = f"{image['cached_steps']} of {image['steps']}" if image["steps"] else "–"
        size = size_text(image["size"]) if image["size"] else "–"
        cells = [cell(image["name"]), bold, seconds_text(image["seconds"]), cached, size]
        lines.append(f"| {' | '.join([*cells, cell('; '.join(image['reasons']))])} |")
    return "\n".join([*lines, ""])


def tell(summary: str) -> None:
    """Print a summary to standard output, and append it to GitHub's."""
    print(summary)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as file:
            file.write(f"{summary}\n")


# ---- ci_test


def test(run: Run, words: Sequence[str]) -> None:
    """Start a stack of its own, run the end-to-end tests against it, and remove it, whatever happens. ``UserError``
    when it does not become healthy or a test fails; the containers' logs are kept then."""
    folder = run.folder / "ci"
    began = time.monotonic()
    terms = bringup.terms(run, f"ci-{os.getpid()}")
    try:
        with ephemeral_stack.running(checkout.project_of(run), terms, images.built(run)) as running:
            try:
                _use(running, words, folder, began)
            except BaseException:
                kept = ephemeral_stack.collect(running.compose, folder / "logs" / running.compose.project)
                print(f"the containers' logs are in {kept[0].parent if kept else folder}", file=sys.stderr)
                raise
    finally:
        terms.log.unlink(missing_ok=True)


def _use(running: ephemeral_stack.EphemeralStack, words: Sequence[str], folder: Path, began: float) -> None:
    if not running.outcome.healthy:
        raise UserError(bringup.explain(running.outcome, running.compose))
    up_seconds = time.monotonic() - began
    rows = rows_of(running.outcome)
    print(f"{running.compose.project} is healthy after {seconds_text(up_seconds)}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"e2e.{os.getpid()}.partial.xml"
    try:
        status = passed_on(pytest_argv(words, partial), test_environ(running, os.environ))
        if partial.exists():
            tell(test_summary(partial.read_text(), status, up_seconds, rows))
            partial.replace(folder / "e2e.xml")
    finally:
        partial.unlink(missing_ok=True)
    if status:
        raise UserError(f"the end-to-end tests ended with status {status}", remedy=f"see {folder / 'e2e.xml'}")


def pytest_argv(words: Sequence[str], junit: Path) -> list[str]:
    """How the end-to-end tests are run."""
    return [sys.executable, "-m", "pytest", E2E, "-p", "no:cacheprovider", f"--junitxml={junit}", *words]


def test_environ(running: ephemeral_stack.EphemeralStack, environ: Mapping[str, str]) -> dict[str, str]:
    """What the tests are told: where the services are and whose containers they may kill. No secret."""
    return {**environ, **running.urls, "E2E_PROJECT": running.compose.project}


def test_summary(junit: str, status: int, up_seconds: float, rows: Sequence[Mapping[str, Any]]) -> str:
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
