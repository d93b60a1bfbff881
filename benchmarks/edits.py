"""Which edits are typical, and where in this project are the files for them?

Found from what the images read, so that it works for any project: an image's *code* is a source file that it alone
reads, its *requirements* a list of packages that it alone reads; *shared* files are read by several. An edit is one
line more, a comment, so that both ways of building go on with the same packages and the same program.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_COMMENTS = {
    **dict.fromkeys((".py", ".sh", ".rb", ".pl", ".ex"), "#"),
    **dict.fromkeys((".js", ".mjs", ".ts", ".go", ".rs", ".java", ".kt", ".cs", ".c", ".cpp", ".php", ".swift"), "//"),
}
_REQUIREMENTS = {"requirements.txt": "#", "pyproject.toml": "#", "Gemfile": "#", "go.mod": "//", "Cargo.toml": "#"}


@dataclass(frozen=True)
class Edit:
    """A line that is put at the end of a file, and how comments begin there."""

    path: str
    comment: str

    def apply(self, folder: Path, salt: str) -> None:
        """Edit the file below ``folder``; ``salt`` makes it another edit than all before."""
        with (folder / self.path).open("a") as file:
            file.write(f"\n{self.comment} {salt}\n")


def code_of(image: str, inputs: Mapping[str, Collection[str]]) -> Edit | None:
    """An edit in the source code that only this image is made of; None if there is none."""
    found = (path for path in sorted(_alone(image, inputs)) if _is_code(path))
    path = next(found, None)
    return Edit(path, _COMMENTS[PurePosixPath(path).suffix]) if path else None


def requirements_of(image: str, inputs: Mapping[str, Collection[str]]) -> Edit | None:
    """An edit in the list of packages that only this image installs; None if there is none."""
    found = (path for path in sorted(_alone(image, inputs)) if PurePosixPath(path).name in _REQUIREMENTS)
    path = next(found, None)
    return Edit(path, _REQUIREMENTS[PurePosixPath(path).name]) if path else None


def services(images: Iterable[str], inputs: Mapping[str, Collection[str]]) -> list[str]:
    """Those of ``images`` that a day's work changes: with code and requirements of their own. A store that is made from
    a distribution's packages is not among them."""
    return [name for name in images if code_of(name, inputs) and requirements_of(name, inputs)]


def shared_code(inputs: Mapping[str, Collection[str]]) -> Edit | None:
    """An edit in source code that the most images are made of, and at least two."""
    readers: dict[str, int] = {}
    for paths in inputs.values():
        for path in paths:
            if _is_code(path):
                readers[path] = readers.get(path, 0) + 1
    several = [path for path, count in readers.items() if count > 1]
    if not several:
        return None
    path = min(several, key=lambda path: (PurePosixPath(path).suffix == ".sh", -readers[path], path))
    return Edit(path, _COMMENTS[PurePosixPath(path).suffix])


def _alone(image: str, inputs: Mapping[str, Collection[str]]) -> set[str]:
    others = {path for name, paths in inputs.items() if name != image for path in paths}
    return set(inputs[image]) - others


def _is_code(path: str) -> bool:
    file = PurePosixPath(path)
    return file.suffix in _COMMENTS and not file.name.startswith("__init__")
