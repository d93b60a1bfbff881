"""Is this machine able to build, and how well? ``doit doctor``."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tasks.base import commands
from tasks.base.errors import UserError
from tasks.base.settings import ROOT
from tasks.bases import base
from tasks.bases.debian import declares_base
from tasks.run import Run

_LEAST_COMPOSE = (2, 26)
_LITTLE_SPACE = 5_000_000_000  # bytes: the stack, the standard images and a full build cache need about that


class Verdict(StrEnum):
    """How well something is."""

    OK = "ok"
    WARN = "warn"
    """It works, but something is lost."""
    FAIL = "fail"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def examine(run: Run, as_json: bool = False) -> None:
    """Print every finding, as a table or as JSON; ``UserError`` if one is bad."""
    findings = list(look(run))
    if as_json:
        names = ("subject", "verdict", "detail", "remedy")
        print(json.dumps([{name: getattr(finding, name) for name in names} for finding in findings], indent=2))
    else:
        _print(findings)
    bad = [finding.subject for finding in findings if finding.verdict == Verdict.FAIL]
    if bad:
        raise UserError(f"this machine cannot build yet: {', '.join(bad)}")


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        remedy = f" — {finding.remedy}" if finding.remedy else ""
        print(f"{finding.verdict:5}{finding.subject:{width}}  {finding.detail}{remedy}")


def look(run: Run) -> Iterator[Finding]:
    """Look at the tools, the engine, the disk, the settings and the project, in this order."""
    from tasks.buildkit import buildx

    yield Finding("python", Verdict.OK, sys.version.split()[0])
    yield _tool("buildx", buildx.LEAST, "install docker-buildx")
    yield _tool("compose", _LEAST_COMPOSE, "install docker-compose (v2)")
    yield from _engine(run)
    free = shutil.disk_usage(run.files[0].parent).free
    verdict = Verdict.OK if free > _LITTLE_SPACE else Verdict.WARN
    yield Finding("disk", verdict, f"{free / 1e9:.0f} GB free", "" if verdict == Verdict.OK else "doit cache_prune")
    yield _settings(run)
    yield _project(run)


def _engine(run: Run) -> Iterator[Finding]:
    try:
        snapshot = run.snapshot()
        containerd = run.engine.uses_containerd_store()
    except UserError as error:
        yield Finding("engine", Verdict.FAIL, error.sentence, error.remedy)
        return
    yield Finding("engine", Verdict.OK, f"answers at {run.engine.address}, {snapshot.platform}")
    if containerd:
        yield Finding("image store", Verdict.OK, "containerd's: every kind of cache can be exported")
    else:
        remedy = 'set {"features": {"containerd-snapshotter": true}} in daemon.json for the others'
        yield Finding("image store", Verdict.WARN, "the classic one: caches can be exported inline only", remedy)
    if not declares_base(ROOT):
        return
    ref = run.settings.base_image
    local_image = base.wanted(snapshot.get(ref), run.settings, run.base_identity)
    source = "is in the engine" if local_image else "will be pulled, or made from Debian's packages"
    yield Finding("base image", Verdict.OK, f"{ref} {source}")


def _settings(run: Run) -> Finding:
    try:
        bundle = run.environ.get("BUILD_CA_CERT") or "the system's certificates"
    except UserError as error:
        return Finding("settings", Verdict.FAIL, str(error))
    return Finding("settings", Verdict.OK, f"{run.settings.build_jobs} builds at once; builds trust {bundle}")


def _project(run: Run) -> Finding:
    try:
        problems = [f"{inputs.name}: {inputs.problem}" for inputs in run.declared().values() if inputs.problem]
    except UserError as error:
        return Finding("project", Verdict.FAIL, str(error))
    if problems:
        return Finding("project", Verdict.FAIL, "; ".join(problems))
    return Finding("project", Verdict.OK, f"{run.project.name}: {len(run.project.images)} images")


def _tool(name: str, least: tuple[int, int], remedy: str) -> Finding:
    output = commands.answer(["docker", name, "version"])
    version = re.search(r"v?(\d+)\.(\d+)", output)
    if not version:
        return Finding(name, Verdict.FAIL, output or "is not installed", remedy)
    if (int(version[1]), int(version[2])) < least:
        return Finding(name, Verdict.FAIL, f"{version[0]} is older than {least[0]}.{least[1]}", remedy)
    return Finding(name, Verdict.OK, output.splitlines()[0])
