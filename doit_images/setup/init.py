"""``python -m doit_images init``: what does a project need to use the package?

A dodo file or lines in its own, a requirement, and a line that ignores what Python compiles, where nothing does yet
(``.doit-images`` ignores itself). With ``--wrapper`` a ``doitw`` instead of the requirement, which brings all itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import doit_images
from doit_images.cli import catalogue
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.project import compose_files
from doit_images.setup import lines
from doit_images.setup.changes import FileChange, read, told

DODO, WRAPPER, WRAPPER_NEEDS = "dodo.py", "doitw", "requirements-doitw.txt"
REQUIREMENTS = ("requirements-dev.in", "requirements-dev.txt", "requirements.in", "requirements.txt")
"""Files of pip's, the best place first. What is locked with hashes takes no line by hand."""
PREFIXES = ("docker_", "images_", "doit_images_")
"""What our tasks' names begin with where the project has some of them itself: the first that is in nobody's way."""
_COMPILED = "__pycache__/"
_BELOW = ("*/", "*/*/")  # so deep it is looked for Compose files
_OURS = "# doit, with everything ready that it needs"


def init(folder: Path, *, wrapper: bool, prefix: str | None, dry_run: bool) -> None:
    """Print what is written into the project of this folder, write it, and show the plan of its images. A second call
    writes nothing. Raises ``UserError``."""
    _need_compose_file(folder)
    if prefix and not re.fullmatch(r"[a-z_][a-z0-9_]*", prefix):
        raise UserError(f"{prefix!r} is not a valid prefix", remedy="lower-case letters, digits and _, such as docker_")
    changes = list(planned(folder, wrapper=wrapper, prefix=prefix))
    print(told(changes, folder) or "everything is there already: nothing to write")
    if dry_run:
        return
    for change in changes:
        change.write()
    if changes:
        print(f"wrote {sum(len(change.lines()) for change in changes)} lines in {len(changes)} files")
    prefix = _prefix_of(folder / DODO)
    start = f"./{WRAPPER}" if wrapper else "doit"
    print(f"next: `{start} {prefix}build` builds what is stale, `{start} list` shows all tasks\n", flush=True)
    commands.show([sys.executable, "-B", "-m", "doit", f"{prefix}plan"], cwd=folder)


def planned(folder: Path, *, wrapper: bool, prefix: str | None) -> Iterator[FileChange]:
    """What is to be written. Raises ``UserError``."""
    yield from _dodo(folder / DODO, prefix)
    if wrapper:
        yield from _wrapper(folder)
    elif not is_wrapper(read(folder / WRAPPER)):  # which brings the package
        yield from _requirement(folder)
    yield from _ignored(folder)


def is_wrapper(text: str | None) -> bool:
    """Whether this is a ``doitw`` of ours, of whatever version."""
    return bool(text) and _OURS in (text or "")[:200]


def _need_compose_file(folder: Path) -> None:
    files = compose_files(os.environ, folder)
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return
    names = ("compose.y*ml", "docker-compose.y*ml")
    below = sorted(
        str(path.relative_to(folder)) for deep in _BELOW for name in names for path in folder.glob(deep + name)
    )
    remedy = f"there is {', '.join(below)}: run it in such a folder, or name it in COMPOSE_FILE" if below else ""
    raise UserError("there is no Compose file", where=str(folder), remedy=remedy or "see COMPOSE_FILE")


def _dodo(path: Path, prefix: str | None) -> Iterator[FileChange]:
    text = read(path)
    if text is not None and lines.has(text):
        return
    if text is not None:
        prefix = _free(path, prefix)
    yield FileChange(path, text, lines.dodo(text, prefix or ""))


def _free(path: Path, prefix: str | None) -> str:
    """The prefix with which no name of ours is one of a dodo file's tasks: that which was asked for, else none, else
    the first that will do. ``UserError`` where there is none."""
    theirs = _tasks(path)
    wanted = ("", *PREFIXES) if prefix is None else (prefix,)
    free = [each for each in wanted if theirs.isdisjoint(catalogue.named(each, {}).values())]
    if not free:
        taken = sorted(theirs & {*catalogue.named(wanted[0], {}).values()})
        raise UserError(
            f"the task {taken[0]} is there already", where=str(path), remedy="--prefix gives ours other names"
        )
    if prefix is None and free[0]:
        print(
            f"{path.name} has tasks that are called as ours are, so ours begin with {free[0]} (--prefix gives another)"
        )
    return free[0]


def _tasks(path: Path) -> set[str]:
    """The names of a dodo file's tasks, as doit finds them."""
    from doit.loader import get_module, load_tasks

    try:
        return {task.name.partition(":")[0] for task in load_tasks(vars(get_module(str(path))))}
    except (Exception, SystemExit) as error:
        raise UserError(f"doit cannot load this: {error}", where=str(path), remedy="see `doit list`") from error


def _prefix_of(path: Path) -> str:
    """The prefix that stands in a dodo file."""
    found = re.search(r"tasks\(.*?prefix=[\"'](\w*)[\"']", read(path) or "")
    return found[1] if found else ""


def _requirement(folder: Path) -> Iterator[FileChange]:
    """The requirement, in the nearest file of the repository that takes one, else in a new one; nothing where it is
    there."""
    places = list(requirement_files(folder))
    if any(lines.has(read(path) or "") for path in places):
        return
    for path in places[:1]:
        text = read(path) or ""
        if path.name == "pyproject.toml":
            after = lines.grouped(text, _wanted(">="))
            if after == text:
                raise UserError("the group dev has an unsupported form", where=str(path),
                                remedy=f"add {_wanted('>=')} to it, and run this again")  # fmt: skip
        else:
            after = lines.required(text, _wanted("=="))
        yield FileChange(path, text, after)
        return
    free = next(name for name in ("requirements-dev.txt", "requirements-doit.txt") if not (folder / name).exists())
    yield FileChange(folder / free, None, lines.required("", _wanted("==")))


def requirement_files(folder: Path) -> Iterator[Path]:
    """The files that may take a requirement, nearest first: of this folder and those above in its repository."""
    above = [folder, *folder.parents]
    top = next((number for number, each in enumerate(above) if (each / ".git").exists()), 0)
    for each in above[: top + 1]:
        project = each / "pyproject.toml"
        if project.is_file() and ((each / "uv.lock").exists() or "\n[dependency-groups]" in project.read_text()):
            yield project
        for name in REQUIREMENTS:
            path = each / name
            if path.is_file() and (text := path.read_text()).strip() and "--hash=" not in text:
                yield path


def _wanted(how: str) -> str:
    """The requirement of this version; of what was installed from git, that commit."""
    try:
        origin = json.loads(metadata.distribution(lines.NAME).read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    if git := origin.get("vcs_info"):
        return f"{lines.NAME} @ {git['vcs']}+{origin['url']}@{git['commit_id']}"
    return f"{lines.NAME}{how}{doit_images.__version__}"


def _ignored(folder: Path) -> Iterator[FileChange]:
    """What Python compiles of a dodo file, where git would show it."""
    inside = commands.answer(["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"])
    if inside and not commands.answer(["git", "-C", str(folder), "check-ignore", f"{_COMPILED}dodo.pyc"]):
        path = folder / ".gitignore"
        text = read(path)
        yield FileChange(path, text, lines.ignored(text or "", _COMPILED))


def _wrapper(folder: Path) -> Iterator[FileChange]:
    """``doitw`` as this repository has it, but for where it installs: ``.venv`` and ``requirements.txt`` are the
    project's own."""
    path, needs = folder / WRAPPER, folder / WRAPPER_NEEDS
    before = read(path)
    if before is not None and not is_wrapper(before):
        raise UserError(f"there is another {WRAPPER} already", where=str(path))
    text = resources.files("doit_images.setup").joinpath(WRAPPER).read_text()
    for word, other in (("requirements.txt", WRAPPER_NEEDS), (".venv", ".doit-images/venv"), (" --require-hashes", ""),
                        ("build_optimized", "build")):  # fmt: skip
        text = text.replace(word, other)
    if text != before:
        yield FileChange(path, before, text, 0o777)
    if not lines.has(read(needs) or ""):
        yield FileChange(needs, read(needs), lines.required(read(needs) or "", _wanted("==")))
