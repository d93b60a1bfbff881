"""What does ``doit adopt`` do, and what does it say?"""

from __future__ import annotations

import difflib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from textwrap import indent

from tasks.adopting import copies
from tasks.adopting.copies import Action, Change, Copy
from tasks.base import commands
from tasks.base.confirm import confirm
from tasks.base.errors import UserError
from tasks.base.memory import OWN_FOLDER
from tasks.base.settings import ROOT, Settings, read_env
from tasks.compose.project import compose_files
from tasks.inputs.copied import copied
from tasks.run import Run

_PLAN = [sys.executable, "-m", "doit", "plan"]
_DIFF_LINES = 20
# What images that copy everything would copy: what was put in, passwords, and the list of builders.
_NO_IMAGES = ("dodo.py", "doitw", "tasks", ".env", "trusted-builders.toml")
_MADE_LATER = (OWN_FOLDER, ".env", "trusted-builders.toml")
# What is said of files that the user changed.
_CHANGED = {
    Action.KEEP: "kept: nothing is new in it",
    Action.MERGE: "merged with what is new in it",
    Action.BESIDE: "kept: the new one is put beside it, as NAME.new, to be merged by hand",
}
_NEXT = """\
next, in {project}:
  git add dodo.py doitw tasks .gitignore
  ./doitw         builds what is stale (its first run installs tasks/requirements.txt into .doit-images/venv)
  ./doitw list    what else there is; dodo.py is yours: take out what you do not want
settings come from the environment or .env; tasks/base/settings.py says which there are"""


def adopt(_: Run, folders: Sequence[str], update: bool, dry_run: bool, yes: bool) -> None:
    """Write a copy of these tasks into a project, or update it, and show the plan that it makes there.

    ``dry_run`` prints the files that would be written to standard output, one a line. Before files are removed, or a
    copy becomes an older version, the user has to agree, unless ``yes``. ``UserError`` where nothing can be written, or
    the copy cannot plan.
    """
    project = _project(folders)
    environ = _environ_of(project, os.environ)
    copy = copies.copy_of(ROOT)
    before = partial(copies.was_put_in, ROOT)
    changes = copies.update(copy, project, before) if update else copies.first(copy, project)
    for change in changes:
        if dry_run:
            print(change.action, change.written)
        if change.action in _CHANGED:
            _say(*changed(change, project))
    if dry_run:
        return
    _agree(copy, changes, project, yes)
    copies.apply(copy, changes, project)
    _say(f"{project} has version {copy.version}: {summary(changes)}", *hints(project))
    leave_out(project, environ, yes)
    if commands.show(_PLAN, cwd=project, env=environ):
        raise UserError("the files are in place, but `plan` fails there, as it says above", where=str(project))
    _say(_NEXT.format(project=project))


def _project(folders: Sequence[str]) -> Path:
    """The folder of the project that is named, as its caller means it."""
    if len(folders) != 1:
        raise UserError("adopt takes the folder of one project", remedy="./doitw adopt /path/to/project")
    project = Path(os.environ.get("DOITW_FROM", ""), folders[0]).resolve()
    if not project.is_dir():
        raise UserError("there is no such folder", where=str(project))
    if project == ROOT:
        raise UserError("this is where the tasks come from", where=str(project), remedy="name another project")
    return project


def _environ_of(project: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for the project: ``COMPOSE_FILE`` of another one is left out. ``UserError`` where none of its
    Compose files is there."""
    files = compose_files(environ, project)
    if not all(file.is_relative_to(project) for file in files):
        environ = {name: value for name, value in environ.items() if name != "COMPOSE_FILE"}
        files = compose_files(environ, project)
    for file in files:
        if not file.is_file():
            raise UserError("there is no Compose file", where=str(file), remedy="name it by COMPOSE_FILE in .env there")
    return dict(environ)


def _agree(copy: Copy, changes: Sequence[Change], project: Path, yes: bool) -> None:
    """Ask before something goes; ``UserError`` if the user does not agree."""
    removed = [change.name for change in changes if change.action is Action.REMOVE]
    before = copies.read_record(project)["version"] if (project / copies.RECORD).exists() else copy.version
    older = tuple(map(int, copy.version.split("."))) < tuple(map(int, before.split(".")))
    if removed:
        _say(f"this removes {', '.join(removed)}, which you did not change")
    if older:
        _say(f"this makes version {before} the older {copy.version}")
    if (removed or older) and not yes:
        confirm()


def changed(change: Change, project: Path) -> Iterator[str]:
    """What the user changed in a file, as a diff: against what was put in, or against the new one if that is not known;
    and what becomes of it."""
    if change.content is None:
        yield f"you changed {change.name}, which is kept: it is no longer part of these tasks"
        return
    yield f"you changed {change.name}, which is {_CHANGED[change.action]}"
    before, yours = change.before or change.content, (project / change.name).read_bytes()
    old, new = (text.decode(errors="replace").splitlines() for text in (before, yours))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    yield from (f"  {line}" for line in lines[:_DIFF_LINES])
    if len(lines) > _DIFF_LINES:
        yield f"  … and {len(lines) - _DIFF_LINES} lines more"


def summary(changes: Sequence[Change]) -> str:
    """How many files were added, replaced, removed and kept, in words."""
    words = {
        Action.ADD: "added",
        Action.REPLACE: "replaced",
        Action.REMOVE: "removed",
        Action.KEEP: "kept as you have them",
        Action.MERGE: "merged",
        Action.BESIDE: "kept with the new one beside",
    }
    counts = Counter(change.action for change in changes)
    return ", ".join(f"{counts[action]} {word}" for action, word in words.items() if counts[action]) or "nothing is new"


def hints(project: Path) -> Iterator[str]:
    """What a person should know: variables of the project that are settings too."""
    names = {entry.name.upper() for entry in fields(Settings)}
    both = [name for file in (".env", ".env.example") for name in read_env(project / file) if name in names]
    if both:
        yield f"{', '.join(dict.fromkeys(both))} of .env are settings of these tasks too: see tasks/base/settings.py"


def leave_out(project: Path, environ: Mapping[str, str], yes: bool) -> None:
    """Say which images copy what was put in, or what is for one machine. Where a context has no ignore file, one is
    made if the user says so (``yes`` says nothing of it); none is changed."""
    run = Run(None, environ, project)
    try:
        images = run.declared().values()
    except UserError:  # which the plan tells
        return
    for each in copied(images, [project / name for name in _NO_IMAGES]):
        folder = each.lines[0].removesuffix(Path(each.lines[0]).name)
        lines = "".join(f"{line}\n" for line in dict.fromkeys([*each.lines, *(folder + name for name in _MADE_LATER)]))
        ask = not (yes or each.ignore.exists()) and sys.stdin.isatty()
        how = "would be made with" if ask else "needs"
        _say(
            str(each), f"to leave these out, and what is made later, {each.ignore} {how}:", indent(lines, "  ").rstrip()
        )
        if ask and _agreed():
            each.ignore.write_text(lines)
            _say(f"made {each.ignore}: commit it with the rest")


def _agreed() -> bool:
    try:
        confirm()
    except UserError:
        return False
    return True


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
