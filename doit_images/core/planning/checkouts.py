"""Which other checkouts of this machine use these images, and which of them do they need?

Each project's folder in a ``.doit-images`` is written down in the user's state folder, with the day of its last run.
Its records then say which images the working tree there was last built to. That only keeps ``cache_prune`` from
removing them: what is lost here costs a build, never a wrong image. What is gone is forgotten, but only when nothing
ran there for a week: ``git stash`` takes a Compose file away for a moment, a disk may not be mounted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from doit_images.core.base import checked_json, places
from doit_images.core.base.references import tag_of
from doit_images.core.base.timestamps import DAY
from doit_images.core.planning import record

_FORGOTTEN = 7 * DAY


@cache
def register(folder: Path) -> None:
    """Write down that a project with this folder is built on this machine, at most once a day; what cannot be written
    is left."""
    text = os.fsencode(folder)
    path = _registry() / hashlib.sha256(text).hexdigest()[:16]
    with contextlib.suppress(OSError):
        if not path.exists() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        elif _age(path) > DAY:
            path.touch()


def needs(own: Path) -> Iterator[tuple[str, Path]]:
    """The images that other projects than the one with the folder ``own`` need, by the reference under which they are
    kept, each with the folder of that project."""
    for path, folder in entries():
        with contextlib.suppress(OSError, ValueError):
            if _age(path) > _FORGOTTEN and (not folder.is_dir() or gone(folder)):
                path.unlink()
            elif folder != own:
                for kept in folder.glob("images/*.json"):
                    known = record.read(folder, kept.stem)
                    if known:
                        yield tag_of(known.ref, known.fingerprint), folder


def entries() -> Iterator[tuple[Path, Path]]:
    """All that is written down: the file, and the folder of a project in a ``.doit-images`` of this user's."""
    for path in sorted(_registry().glob("*")):
        with contextlib.suppress(OSError, ValueError):
            yield path, Path(os.fsdecode(path.read_bytes()))


def gone(folder: Path) -> bool:
    """Whether this is the folder of a project whose Compose file is not there any more."""
    known = (checked_json.recall(folder / "project.json") or {}).get("project")
    files = known.get("files") if isinstance(known, dict) else None
    first = files[0] if isinstance(files, list) and files else None
    if not isinstance(first, str):
        return False
    try:
        Path(first).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # it may not be looked at, or is no path
        return False
    return False


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _registry() -> Path:
    return places.state_folder() / "checkouts"
