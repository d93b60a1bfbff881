"""What is damaged or left over of what runs keep, and can go without anybody missing it?

What ``doctor`` finds and ``doctor --fix`` does. Each run sees to what killed runs of its own project left, and does
without what is damaged; this looks at all projects of a ``.doit-images``, and at what no journal tells of any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from doit_images.core.base import checked_json, leftovers, lock
from doit_images.core.base.timestamps import DAY
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine
from doit_images.pruning import killed_runs

_ABANDONED = DAY  # what nobody touched for so long, and no process has, is nobody's
_REMEMBERED = (
    "env-made.json",
    "facts.json",
    "builder.json",
    "*/project.json",
    "*/answers.json",
    "*/reads.json",
    "*/sizes.json",
    "*/images/*.json",
)
_DATABASES = ("contexts.sqlite3", "*/doit.sqlite3", "*/history/history.sqlite3")
_HISTORY = "history.sqlite3"
_PARTIAL = re.compile(r".+?\.(?P<pid>\d+)(\.\d+)?\.partial")
_LOCKS = ("doit-images-*.lock", "vllm-swarm-*.lock")  # and until 0.2


@dataclass(frozen=True)
class Repair:
    """A repair: what is wrong, what would be done, and how. ``removes`` is false
    if nothing is lost. ``do`` raises ``OSError`` or ``UserError`` where it cannot be done."""

    wrong: str
    what: str
    do: Callable[[], object]
    removes: bool = True


def damaged(common: Path) -> Iterator[Repair]:
    """What runs of all projects of this ``.doit-images`` remember and cannot use: it counts as unknown, so it can go.
    Of a history, which nothing makes again, only the name changes."""
    for pattern in _REMEMBERED:
        yield from (_gone(path, wrong) for path in sorted(common.glob(pattern)) if (wrong := checked_json.flaw(path)))
    for pattern in _DATABASES:
        for path in sorted(common.glob(pattern)):
            wrong = checked_json.flaw_of_database(path)
            if wrong and path.name == _HISTORY:
                aside = path.with_name(f"{path.name}.damaged")
                move = partial(path.replace, aside)
                yield Repair(
                    f"{path}: {wrong}", f"{path} is kept as {aside.name}, a new one begins", move, removes=False
                )
            elif wrong:
                yield _gone(path, wrong)


def left_over(common: Path) -> Iterator[Repair]:
    """What killed runs left, for all projects of this ``.doit-images``: what their journals list, and half-written
    files that no journal lists."""
    for folder in sorted(common.glob("*/runs")):
        for journal in leftovers.abandoned(folder):
            told = ", ".join(sorted(entry[-1] for entry in leftovers.entries(journal))) or "nothing"
            wrong = f"{journal}: a killed run left {told}"
            yield Repair(wrong, f"remove what a killed run left: {told}", partial(killed_runs.sweep, [journal]))
    for pattern in ("*.partial", "*/*.partial", "*/*/*.partial"):
        for path in sorted(common.glob(pattern)):
            found = _PARTIAL.fullmatch(path.name)
            if found and _old(path) and not leftovers.lives(found["pid"]):
                yield _gone(path, "it is half written, by a process that is gone")


def names(engine: Engine, refs: Iterable[str]) -> Iterator[Repair]:
    """Of these names in the engine, those that were to last as long as a build, and are older than any."""
    for ref in sorted(refs):
        given = temporary_tag.given(ref)
        if given is not None and time.time() - given > _ABANDONED:
            wrong = f"{ref}: a killed build left this name in the engine"
            yield Repair(wrong, f"take the name {ref} away", partial(engine.untag, ref))


def locks(folder: Path, idle: float = _ABANDONED) -> Iterator[Repair]:
    """Our lock files that nobody holds, or used for so many seconds."""
    for path in sorted(path for pattern in _LOCKS for path in folder.glob(pattern)):
        if _old(path, idle) and not leftovers.locked(path):
            yield Repair(f"{path}: nobody has held this lock for a day", f"remove {path}", partial(_unlock, path))


def unusable(common: Path) -> str:
    """What of this ``.doit-images`` may not be written, and whose it is, in words; "" if all may."""
    if not common.is_dir():  # whoever asked for it tried to make it
        return f"{common} cannot be made"
    kept = [common, *common.glob("*"), *common.glob("*/*")]
    for path in kept:
        if not path.is_symlink() and not os.access(path, os.W_OK) and path.exists():
            return f"{path} may not be written, it belongs to {_owner(path)}"
    return ""


def _gone(path: Path, wrong: str) -> Repair:
    def do() -> None:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()  # nobody of us made it: what is in it is somebody's
        else:
            path.unlink(missing_ok=True)

    return Repair(f"{path}: {wrong}", f"remove {path}", do)


def _unlock(path: Path) -> None:
    with lock.try_exclusive(path) as ours:
        if ours:
            path.unlink(missing_ok=True)


def _old(path: Path, idle: float = _ABANDONED) -> bool:
    """Whether it is ours, and nobody wrote to it for so many seconds."""
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime > idle and path.lstat().st_uid == os.geteuid()
    return False


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return f"the user {path.stat().st_uid}"
