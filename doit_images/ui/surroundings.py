"""Are git, the home folder, temporary files, disks, the clock and the environment as a run expects them?

None of them stops a run, so nobody would notice what is lost.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import clean
from doit_images.core.inputs.environment import CLEARED
from doit_images.core.run import Run
from doit_images.pruning.repairs import Repair

_LITTLE_SPACE = 5_000_000_000  # bytes: the stack, the standard images and a full build cache need about that
_LITTLE_FOR_TEMPORARY = 100_000_000  # what travels through them besides is told when it does not fit
_AHEAD = 60.0  # seconds by which the clocks of two machines, or of a file server, may differ
_SHOWN = 3


class Severity(StrEnum):
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
    verdict: Severity
    detail: str
    remedy: str = ""
    repairs: tuple[Repair, ...] = ()


def look(run: Run) -> Iterator[Finding]:
    """All of these, in this order."""
    yield git(run.files[0].parent)
    yield home(os.environ)
    yield _disk("disk", str(run.files[0].parent), _LITTLE_SPACE, "doit cache_prune")
    yield from _engine_disk(run)
    yield temporary(os.environ.get("TMPDIR", ""))
    yield _times(run)
    yield from variables(run.environ)


def variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What buildx would read of the environment and no build gets, where it is set."""
    kept = [name for name in sorted(CLEARED) if environ.get(name, "").lower() not in ("", "0", "f", "false")]
    if kept:
        lost = f"{', '.join(kept)}: no build gets what it says (docs/staleness.md tells why)"
        yield Finding("environment", Severity.WARN, lost, "unset it")


def git(folder: Path) -> Finding:
    """Whether there is a git for a project that needs one."""
    if shutil.which("git"):
        return Finding("git", Severity.OK, "is installed")
    if not any((above / ".git").exists() for above in (folder, *folder.parents)):
        return Finding("git", Severity.OK, "is not installed, and this project is in no repository")
    lost = "is not installed: history names no commits, and what other branches need cannot be known"
    return Finding("git", Severity.WARN, lost, "install git")


def home(environ: Mapping[str, str]) -> Finding:
    """Whether there is a home that can be written, and is one's own."""
    place = environ.get("HOME", "")
    remedy = "set HOME to a folder of your own"
    lost = "logins, Docker contexts and the list of checkouts are not kept there"
    if not place:
        return Finding("home", Severity.WARN, f"HOME is not set: {lost}", remedy)
    if not os.path.isdir(place):  # noqa: PTH112 it may be no text
        return Finding("home", Severity.WARN, f"HOME is {clean(place)}, which is not a folder: {lost}", remedy)
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("home", Severity.WARN, f"HOME is {clean(place)}, which may not be written: {lost}", remedy)
    if os.stat(place).st_uid != os.geteuid():  # noqa: PTH116
        others = f"HOME is {clean(place)}, which is another user's: files that are made there will not be theirs"
        return Finding("home", Severity.WARN, others, "sudo -H, or set HOME to a folder of your own")
    return Finding("home", Severity.OK, clean(place))


def temporary(wanted: str) -> Finding:
    """Whether there is room for temporary files, where ``TMPDIR`` wants them."""
    remedy = "make room, or set TMPDIR"
    try:
        folder = tempfile.gettempdir()
    except OSError:
        return Finding("temporary files", Severity.FAIL, "no folder for them can be written", remedy)
    if wanted and os.path.realpath(wanted) != os.path.realpath(folder):
        wrong = f"TMPDIR is {clean(wanted)}, where nothing can be written: {folder} is used instead"
        return Finding("temporary files", Severity.WARN, wrong, "make that folder, or set TMPDIR to another")
    return _disk("temporary files", folder, _LITTLE_FOR_TEMPORARY, remedy)


def _engine_disk(run: Run) -> Iterator[Finding]:
    """The disk of an engine on this machine; that of another cannot be seen."""
    with suppress(UserError, OSError):
        root = str(run.engine.info().get("DockerRootDir") or "")
        if run.engine.address.startswith("unix://") and os.path.isdir(root):  # noqa: PTH112
            yield _disk("the engine's disk", root, _LITTLE_SPACE, "doit cache_prune")


def _times(run: Run) -> Finding:
    """Whether files that images are made of, or that runs wrote, are of the future: then they come from a machine whose
    clock is ahead, or this one's was set back."""
    now = time.time()
    try:
        paths = {path for inputs in run.planner.declared().values() for path in inputs.file_dep()}
    except UserError:  # told already
        paths = set()
    records = map(str, run.common.glob("*/images/*.json"))
    ahead = sorted(path for path in (*paths, *records) if _written(path) > now + _AHEAD)
    if not ahead:
        return Finding(
            "clock", Severity.OK, f"{datetime.fromtimestamp(now):%Y-%m-%d %H:%M}, no file is from the future"
        )
    shown = ", ".join(clean(path) for path in ahead[:_SHOWN]) + (", …" if len(ahead) > _SHOWN else "")
    wrong = f"files from the future are read again by each run ({len(ahead)}): {shown}"
    return Finding("clock", Severity.WARN, wrong, "set the clock right, then touch them")


def _written(path: str) -> float:
    try:
        status = os.lstat(path)
    except OSError:
        return 0.0
    return max(status.st_mtime, status.st_ctime)


def _disk(subject: str, folder: str, little: int, remedy: str) -> Finding:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.0f} GB free in {clean(folder)}"
    return Finding(subject, Severity.OK, detail) if free > little else Finding(subject, Severity.WARN, detail, remedy)
