"""How do these tasks come into another project, and how does a copy become a newer version?

A copy is what ``dodo.py`` needs without its lines that are of this repository alone: the modules that it imports, the
data files beside them, the locked requirements, and ``doitw``. ``RECORD`` in it has the digest of each file, so that an
update knows what a person changed. Nothing of a person's is overwritten, and what cannot be done whole is undone.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tasks.adopting import merge
from tasks.base.errors import UserError
from tasks.base.memory import OWN_FOLDER

RECORD = "tasks/adopted.json"
NOT_COPIED = "# of this repository alone"
"""The comment that begins a paragraph of ``dodo.py`` which copies do not have."""
_SOURCES = {f"tasks/{name}": name for name in ("requirements.txt", "requirements-keyless.txt")}
"""Where files of a copy lie in this repository, if not under the same name."""
_DATA = ("*.*", "templates/*")
_IMPORTED = (
    "tasks", "docker", "doit", "dotenv", "e2b_dockerfile_utils", "jinja2", "redis", "requests", "rich", "urllib3",
    "yaml",
)  # fmt: skip
IGNORED = (f"{OWN_FOLDER}/", "__pycache__/")
"""What git is told to ignore: made on every machine."""


class Action(StrEnum):
    """What is done with a file."""

    ADD = "add"
    REPLACE = "replace"
    REMOVE = "remove"
    KEEP = "keep"
    """The person changed it, and it is not new."""
    MERGE = "merge"
    """The person changed it, and it is new: what is written has both changes."""
    BESIDE = "keep, new one beside"
    """As before, but both change the same lines, or what was put in is not known: it is kept, the new one is put
    beside it as ``NAME.new``."""


@dataclass(frozen=True)
class Change:
    """One file of a copy, by its name in the project. ``content`` is what it becomes, or would without the person's
    change, None for gone; ``before`` is what was put in, as far as that matters and is known."""

    name: str
    action: Action
    content: bytes | None = None
    before: bytes | None = None

    @property
    def written(self) -> str:
        """The name of the file that this changes."""
        return f"{self.name}.new" if self.action is Action.BESIDE else self.name


@dataclass(frozen=True)
class Copy:
    """A version of these tasks, as the content of its files by their names in a project."""

    version: str
    files: Mapping[str, bytes]

    def record(self) -> bytes:
        """What ``RECORD`` says of it."""
        files = {name: _digest(content) for name, content in self.files.items()}
        return (json.dumps({"version": self.version, "files": files}, indent=1) + "\n").encode()


def copy_of(root: Path) -> Copy:
    """What a project gets of the version in ``root``."""
    dodo = _shared((root / "dodo.py").read_bytes())
    modules = needed(root, dodo.decode())
    beside = (path for room in {module.parent for module in modules} for kind in _DATA for path in room.glob(kind))
    data = {path for path in beside if path.is_file() and path.suffix != ".py"}
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(modules | data)}
    files |= {"dodo.py": dodo} | {name: (root / _SOURCES.get(name, name)).read_bytes() for name in ("doitw", *_SOURCES)}
    return Copy(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"], files)


def _shared(dodo: bytes) -> bytes:
    """``dodo.py`` as a copy has it."""
    return b"\n\n".join(part for part in dodo.split(b"\n\n") if not part.startswith(NOT_COPIED.encode()))


def was_put_in(root: Path, name: str, digest: str) -> bytes | None:
    """The content with this digest that a file of a copy had in some version of ``root``; None if git has none."""
    for content in merge.versions(root, _SOURCES.get(name, name)):
        content = _shared(content) if name == "dodo.py" else content
        if _digest(content) == digest:
            return content
    return None


def needed(root: Path, text: str) -> set[Path]:
    """The modules of ``tasks`` that a module with this text imports, also in functions, and what these import."""
    modules: set[Path] = set()
    left = [text]
    while left:
        for name in _imported(ast.parse(left.pop())):
            for path in (root / f"{name}.py", root / name / "__init__.py"):
                if path.is_file() and path not in modules:
                    modules.add(path)
                    left.append(path.read_text())
    return modules


def _imported(tree: ast.AST) -> Iterator[str]:
    """All that may be a module or a package of ``tasks`` in what a module imports, or has imported by its name
    (``cli.action``), as paths."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"tasks\.[\w.]+:\w+", str(node.value)):
            names = [str(node.value).partition(":")[0]]
        for parts in (name.split(".") for name in names):
            if parts[0] == "tasks":
                yield from ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def first(copy: Copy, project: Path) -> list[Change]:
    """What adopting does in ``project``; ``UserError`` where something of the person's is in the way."""
    if (project / RECORD).exists():
        version = read_record(project)["version"]
        raise UserError(f"has these tasks, of version {version}", where=str(project), remedy="adopt --update")
    there = [project / "dodo.py", project / "doitw", project / "tasks"]
    there += (path for path in (project / "tasks").rglob("*") if "__pycache__" not in path.parts)
    there += (project / f"{name}{end}" for name in _IMPORTED for end in (".py", "/__init__.py"))
    for path in there:
        name = str(path.relative_to(project))
        folder = path.is_dir() and not path.is_symlink()
        if path.is_symlink() or (path.exists() and not folder and path.read_bytes() != copy.files.get(name)):
            raise UserError(
                f"{name} is there, and not from here; nothing was written",
                where=str(project),
                remedy="move it, or set COMPOSE_FILE to this project instead of a copy in it",
            )
    return [Change(name, Action.ADD, content) for name, content in copy.files.items()] + _ignore(project)


def update(copy: Copy, project: Path, before: Callable[[str, str], bytes | None]) -> list[Change]:
    """What makes the copy in ``project`` this one; ``before`` finds what was put in as a file, by its digest.
    ``UserError`` where there is no copy, or a file is in the way."""
    if not (project / RECORD).is_file():
        raise UserError(
            f"there is no {RECORD}, so nothing is known of a copy there",
            where=str(project),
            remedy="what was copied by hand has to move away, and then be adopted",
        )
    put_in: dict[str, str] = read_record(project)["files"]
    changes = []
    for name in sorted({*copy.files, *put_in}):
        content = copy.files.get(name)
        action = _action(project / name, put_in.get(name), content)
        if action is Action.BESIDE and content is not None:
            changes.append(_both(project / name, name, content, before(name, put_in.get(name, ""))))
        elif action:
            changes.append(Change(name, action, content))
    for change in changes:
        beside = project / change.written
        if change.action is Action.BESIDE and beside.exists():
            known = (put_in.get(change.name), _digest(copy.files[change.name]))
            if _digest(beside.read_bytes()) not in known:
                raise UserError("is not from here, and would be overwritten", where=str(beside), remedy="move it")
    return changes + _ignore(project)


def _action(path: Path, put_in: str | None, content: bytes | None) -> Action | None:
    """What is to be done with a file whose digest was ``put_in`` and which is ``content`` now; None for nothing."""
    here = _digest(path.read_bytes()) if path.is_file() else None
    if content is None:
        return None if here is None else Action.REMOVE if here == put_in else Action.KEEP
    if here is None:
        return Action.ADD
    new = _digest(content)
    if here == new:
        return None
    if here == put_in:
        return Action.REPLACE
    return Action.KEEP if put_in == new else Action.BESIDE


def _both(path: Path, name: str, content: bytes, before: bytes | None) -> Change:
    """What becomes of a file that the person and this version changed."""
    both = None if before is None else merge.merged(path.read_bytes(), before, content)
    return Change(name, Action.BESIDE, content, before) if both is None else Change(name, Action.MERGE, both, before)


def _ignore(project: Path) -> list[Change]:
    """The change of ``.gitignore`` after which it ignores what is made on every machine."""
    file = project / ".gitignore"
    text = file.read_bytes().decode(errors="surrogateescape") if file.is_file() else ""
    known = {line.strip().strip("/") for line in text.splitlines()}
    missing = [line for line in IGNORED if line.strip("/") not in known]
    if not missing:
        return []
    text += "" if not text or text.endswith("\n") else "\n"
    action = Action.REPLACE if file.exists() else Action.ADD
    return [
        Change(".gitignore", action, (text + "".join(f"{line}\n" for line in missing)).encode(errors="surrogateescape"))
    ]


def read_record(project: Path) -> dict[str, Any]:
    """The record of a copy: its version, and the digests of its files; ``UserError`` for one that is damaged."""
    try:
        record = json.loads((project / RECORD).read_bytes())
        if re.fullmatch(r"\d+(\.\d+)*", record["version"]) and not any(map(_outside, record["files"])):
            return {"version": record["version"], "files": dict(record["files"])}
        raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError("cannot be read", where=str(project / RECORD), remedy="git has it") from None


def _outside(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def apply(copy: Copy, changes: Sequence[Change], project: Path) -> None:
    """Make the changes, and write the record at last; all of them or none. ``UserError`` where that cannot be."""
    undo: list[tuple[Path, bytes | None]] = []
    path = project
    try:
        for change in (*changes, Change(RECORD, Action.REPLACE, copy.record())):
            if change.action is not Action.KEEP:
                path = project / change.written
                undo.append((path, path.read_bytes() if path.is_file() else None))
                _write(path, change.content, project)
    except BaseException as error:
        for written, before in reversed(undo):
            _write(written, before, project)
        _partial(project).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"cannot be written: {error.strerror}", where=str(path), remedy="nothing was changed"
            ) from None
        raise


def _write(path: Path, content: bytes | None, project: Path) -> None:
    """Give a file this content, whole or not at all; None removes it, with the folders that are empty then."""
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(project)
        partial.write_bytes(content)
        new = 0o755 if path.name == "doitw" else 0o644
        partial.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else new)
        partial.replace(path)
        return
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == project or (folder.is_dir() and {path.name for path in folder.iterdir()} - {"__pycache__"}):
            break
        shutil.rmtree(folder, ignore_errors=True)


def _partial(project: Path) -> Path:
    return project / ".adopt.partial"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
