"""``python -m doit_images remove``: what is removed when a project stops using the package?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from doit_images.core.base import commands, lock
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.building import prune_lock
from doit_images.core.run import Run
from doit_images.setup import lines, machine
from doit_images.setup.changes import FileChange, cut, read, told
from doit_images.setup.init import DODO, WRAPPER, WRAPPER_NEEDS, is_wrapper, requirement_files
from doit_images.setup.machine import Thing


def remove(folder: Path, *, dry_run: bool, yes: bool) -> None:
    """Print what is removed from the project of this folder, ask, and remove it. Raises ``UserError`` if the user does
    not agree, and at the end if something could not be removed."""
    run = Run(root=folder)
    changes = list(_changes(folder))
    if not changes and not machine.common_of(run.files).is_dir():
        print("nothing of doit-images is here")
        return
    things, stays = _things(run)
    if any(change.path.name == DODO and change.after is None for change in changes):
        things += [Thing(f"the file {path}", path.unlink) for path in (folder / "__pycache__").glob("dodo.*.pyc")]
    said = [*filter(None, [told(changes, folder)]), *(f"{thing.what}: goes" for thing in things), *stays]
    print("\n".join(said))
    if dry_run:
        return
    if not yes:
        confirm()
    for change in changes:
        change.write()
    with lock.exclusive(prune_lock.path_of(run.engine), "waiting for builds to end that use what is there"):
        failed = _gone(things)
    failed += _gone(machine.locks())
    if (compiled := folder / "__pycache__").is_dir() and not any(compiled.iterdir()):
        compiled.rmdir()
    if failed:
        raise UserError("; ".join(failed))
    print("it is gone; the package itself goes by `pip uninstall doit-images`, or by `uv sync`")


def _changes(folder: Path) -> Iterator[FileChange]:
    """What ``init`` wrote into the project, taken out again."""
    yield from cut(folder / DODO, lines.without_dodo)
    yield from cut(folder / ".gitignore", lines.without_ignored)
    yield from cut(folder / WRAPPER_NEEDS, lines.without_required)
    if is_wrapper(text := read(folder / WRAPPER)):
        yield FileChange(folder / WRAPPER, text, None)
    if not _used_elsewhere(folder):
        for path in requirement_files(folder):
            project = path.name == "pyproject.toml"
            yield from cut(path, lines.without_grouped if project else lines.without_required)


def _used_elsewhere(folder: Path) -> bool:
    """Whether another dodo file of the repository needs the requirement too."""
    argv = ["git", "-C", str(folder), "grep", "--untracked", "--full-name", "--files-with-matches", "doit_images"]
    own = commands.answer(["git", "-C", str(folder), "rev-parse", "--show-prefix"]) + DODO
    found = commands.answer([*argv, "--", f":(top,glob)**/{DODO}"])
    return bool(set(found.splitlines()) - {own})


def _things(run: Run) -> tuple[list[Thing], list[str]]:
    """What goes of this machine, and why some of it stays: an engine that does not answer, or Compose files that cannot
    be read, keep nobody from leaving."""
    things: list[Thing] = []
    stays = []
    try:
        things += machine.in_engine(run)
    except UserError as error:
        stays.append(f"what is in the engine stays: {error}")
    return [*things, *machine.in_files(run.files)], stays


def _gone(things: Iterable[Thing]) -> list[str]:
    """Let things go; those that cannot, and why."""
    failed = []
    for thing in things:
        try:
            thing.go()
        except (UserError, OSError) as error:
            failed.append(f"{thing.what} stays: {os_reason(error) if isinstance(error, OSError) else error}")
    return failed
