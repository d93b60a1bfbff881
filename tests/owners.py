"""Whose is it? What tests make in an engine bears the name of the process that made it.

So what a process left that was killed goes with the next run, and nothing that a living one uses. A process is known by
its number, here and since this machine was started: others may use the same engine.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import uuid
from pathlib import Path

# How each kind of thing is listed, a thing a line with its id first, and how it is removed.
_KINDS = {
    "container": ("{{.ID}} {{.Names}} {{.Image}} {{.Labels}}", ["--all", "--no-trunc"], ["--force", "--volumes"]),
    "network": ("{{.ID}} {{.Name}} {{.Labels}}", ["--no-trunc"], []),
    "volume": ("{{.Name}} {{.Labels}}", [], ["--force"]),
    "image": ("{{.Repository}}:{{.Tag}}", [], ["--force"]),
}


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    told = (boot.read_text() if boot.exists() else "") + str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(told.encode()).hexdigest()[:4]


_HERE = _here() if Path("/proc/self/ns/pid").exists() else "none"
_NAME = re.compile(rf"tst-[a-z-]*[0-9a-f]{{8}}-{_HERE}x(\d+)")


def own(what: str = "") -> str:
    """A name that nothing else has, for what this process makes: of images, containers, Compose projects."""
    return f"tst-{what}{uuid.uuid4().hex[:8]}-{_HERE}x{os.getpid()}"


def is_left(line: str) -> bool:
    """Whether a line names something of a process that has ended."""
    return any(not Path("/proc", pid).exists() for pid in _NAME.findall(line))


def sweep() -> None:
    """Remove from the engine what processes left that have ended."""
    for kind, (form, how, rest) in _KINDS.items():
        listed = _docker(kind, "ls", *how, "--format", form)
        if left := [line.split()[0] for line in listed.splitlines() if is_left(line)]:
            _docker(kind, "rm", *rest, *left)


def _docker(*words: str) -> str:
    # Of two that sweep at once, one finds that something is gone already.
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout
