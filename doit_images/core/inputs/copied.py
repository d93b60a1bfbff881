"""Which images copy what does not belong into any, and which ignore file would leave it out?

A Dockerfile that copies everything copies ``.env`` with its passwords too, where no ignore file hides it: whoever gets
the image has them. So that is refused, unless the ignore file says ``!.env``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.inputs.image_inputs import ContextPart, ImageInputs
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import Selection, select
from doit_images.core.inputs.view import View


class Copied(NamedTuple):
    """What these ``images`` copy, as the lines of the file ``ignore`` that would hide it, which may not be there."""

    ignore: Path
    images: tuple[str, ...]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        names, lines = ", ".join(self.images), ", ".join(self.lines)
        verb, whose = ("copies", "its image") if len(self.images) == 1 else ("copy", "their images")
        return f"{names} {verb} {lines} into {whose}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"put a line for each into {self.ignore}{'' if self.ignore.is_file() else ', which is not there'}"


def copied(images: Iterable[ImageInputs], paths: Iterable[Path]) -> list[Copied]:
    """Which of these files and folders the images copy, by the ignore file that would hide them."""
    paths = list(dict.fromkeys(paths))
    lines: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    names: defaultdict[Path, dict[str, None]] = defaultdict(dict)
    for inputs in images:
        for part in filter(lambda part: part.sent, inputs.parts):
            ignore = part.ignore.path or part.root / ".dockerignore"
            for line in _within(part, paths):
                lines[ignore][line] = names[ignore][inputs.name] = None
    return [Copied(ignore, tuple(names[ignore]), tuple(lines[ignore])) for ignore in lines]


def _within(part: ContextPart, paths: Iterable[Path]) -> list[str]:
    """Those of these paths that an image reads from one folder, relative to it."""
    relative = [os.path.relpath(path, part.root).replace(os.sep, "/") for path in paths]
    return [path for path in relative if not path.startswith("../") and part.selection.has(path)]


def refused(view: View, selection: Selection, copies: Sequence[Copy], where: str, files: Iterable[str]) -> str:
    """Why the ``selection`` that a Dockerfile (named ``where``) reads of a folder by these ``copies`` is refused: one
    of these ``files`` with passwords (absolute, real paths) is in it, and the ignore file does not show it by its name;
    "" if none is."""
    root = view.tree.root
    inside = f"{root.rstrip('/')}/"
    for path in (file.removeprefix(inside) for file in files if file.startswith(inside)):
        if not selection.has(path) or view.ignore.shows_by_name(path):
            continue
        copy = next(copy for copy in copies if select(view, [copy], where).has(path))
        ignore = view.ignore.path or Path(root, ".dockerignore")
        return str(
            UserError(
                f"{copy.instruction} takes {path}, which may hold passwords",
                where=f"{where}:{copy.line}" if copy.line else where,
                remedy=f"put a line {path} into {ignore}, or !{path} if that is what you want",
            )
        )
    return ""
