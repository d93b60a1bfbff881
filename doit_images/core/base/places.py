"""Where does what these tasks keep lie?

Beside the Compose file, in ``.doit-images``. What is remembered by content (hashes of files, image ids) lies there for
all projects of the folder. What belongs to one project (records, history, logs, reports, layouts that images travel
through, what doit remembers) lies in a folder of that project's own: Compose files of one folder may call different
images by one name, and so may one file under two values of ``COMPOSE_PROJECT_NAME``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from doit_images.core.base import checked_json
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError

OF_OLDER_VERSIONS = (
    "builds.lock", "buildx.json", "cache", "ci", "comparison", "dev", "doit.sqlite3", "history", "images",
    "index.sqlite3", "locks", "logs", "migration-images.json", "project.json", "reads.json", "report", "results",
    "sizes.json",
)  # fmt: skip
"""What lay straight in ``.doit-images`` before each project had a folder of its own, each context its own generations
(``index.sqlite3``), and buildx had to be new enough (``buildx.json``). Not ``migration.json``: it is there only while a
migration is under way, and is the way back."""
_FORMER = ".build"  # what the folder was called until it turned out that others' is called so, too
_MARK = "contexts.sqlite3"  # nobody else has this beside a `.gitignore` that ignores all
_COMMON = {"backups", "base", "builder.json", "comparison", *OF_OLDER_VERSIONS}
_MADE_AGAIN = {
    ".gitignore", _MARK, f"{_MARK}-journal", "contexts", "engines", "facts.json", "mutants", "pycache", "sending",
    "venv",
}  # fmt: skip
_SHOWN = 8  # hexadecimal digits of what tells projects apart that begin with the same file


def build_folder(files: Sequence[Path]) -> Path:
    """The folder ``.doit-images`` beside the first Compose file, where everything that we write lives. Made when it is
    not there, with a ``.gitignore`` by which it ignores itself. Where that cannot be done, it is told: what runs
    remember decides nothing. ``UserError`` when the Compose file's folder is not there."""
    first = files[0]
    folder = first.parent / OWN_FOLDER
    ignore = folder / ".gitignore"
    _entered(folder)
    if not ignore.exists():
        if not first.parent.is_dir():
            raise UserError("there is no such Compose file", where=str(first), remedy="see COMPOSE_FILE")
        _make(folder)
        try:
            _take_over(first.parent / _FORMER, folder)
            ignore.write_text("*\n")
        except OSError as error:
            checked_json.unwritten(ignore, error)
    return folder


def _take_over(former: Path, folder: Path) -> None:
    """Move what an older version kept: the data of a stack may be among it, which nothing hides from builds any more.
    What is not known to be ours stays."""
    mark, ignore = former / _MARK, former / ".gitignore"
    if not (os.path.isfile(mark) and os.path.isfile(ignore) and ignore.read_bytes() == b"*\n"):  # noqa: PTH113
        return
    for path in former.iterdir():
        ours = path.name in _COMMON or path.name.endswith(".migration.json") or (path / "project.json").is_file()
        if ours and not (folder / path.name).exists():
            path.rename(folder / path.name)
    if left := {path.name for path in former.iterdir()} - _MADE_AGAIN:
        what = f"what these tasks kept here is in {folder.name} now, the rest ({', '.join(sorted(left))}) is not theirs"
        checked_json.tell(f"{former}: {what}")
        mark.unlink()
        return
    import shutil  # once in the life of a checkout

    shutil.rmtree(former)


def project_folder(files: Sequence[Path], environ: Mapping[str, str]) -> Path:
    """The folder of one project in its ``.doit-images``; made when it is not there. Its time says when it was last
    asked for. ``UserError`` as from ``build_folder``."""
    folder = build_folder(files) / project_key(files, environ)
    if not folder.is_dir():
        _make(folder)
    _entered(folder)
    with contextlib.suppress(OSError):
        os.utime(folder)
    return folder


def project_key(files: Sequence[Path], environ: Mapping[str, str]) -> str:
    """What a project's folder is called: as its Compose file, and where more than that makes the project (further
    files, ``COMPOSE_PROJECT_NAME``) with some digits of a digest of it. Compose is not asked, which takes half as long
    as a run with nothing to do. The same in every checkout.

    >>> project_key([Path("/a/compose.yml")], {})
    'compose.yml'
    >>> project_key([Path("/a/compose.yml"), Path("/a/b/more.yml")], {}) == project_key(
    ...     [Path("/c/compose.yml"), Path("/c/b/more.yml")], {}
    ... )
    True
    """
    first = files[0]
    more = [os.path.relpath(file, first.parent) for file in files[1:]]
    name = environ.get("COMPOSE_PROJECT_NAME", "")
    # A file of another kind of name might be called as something else in `.doit-images` is.
    if first.suffix in (".yml", ".yaml") and not more and not name:
        return first.name
    digest = hashlib.sha256(json.dumps([first.name, more, name]).encode(errors="surrogateescape")).hexdigest()
    return f"{first.name}-{digest[:_SHOWN]}"


def state_folder() -> Path:
    """Where is kept what checkouts of this user must know of each other."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111  never raises
    return of_user(Path(state))


def of_user(within: Path) -> Path:
    """Our folder in one in which each program of a user has its own. That of a version before 0.3, which was called
    otherwise, is taken over where there is none yet."""
    folder, former = within / "doit-images", within / "vllm-local-swarm"
    if os.path.exists(folder) or not os.path.exists(former):  # noqa: PTH110  never raises
        return folder
    with contextlib.suppress(OSError):  # another process was first, or it is mounted there
        former.rename(folder)
    return folder if os.path.exists(folder) else former  # noqa: PTH110


def _entered(folder: Path) -> None:
    """``UserError`` for a folder of somebody else's into which we may not even look, as after a run with sudo: nothing
    in it can be told from what is not there."""
    if os.path.isdir(folder) and not os.access(folder, os.X_OK):  # noqa: PTH112  never raises
        remedy = checked_json.remedy(folder, PermissionError(errno.EACCES, ""))
        raise UserError("this folder is closed to you, as after a run with sudo", where=str(folder), remedy=remedy)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # logs and records say more than everybody on a machine is to read
    except OSError as error:
        checked_json.unwritten(folder, error)
