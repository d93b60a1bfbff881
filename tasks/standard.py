"""Which images are declared in the standard way too, beside the optimized one, and how do their sizes differ?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.core.run import Run
from doit_images.ui import sizes_view

STANDARD = "docker-compose.yml"


def standard_of(files: tuple[Path, ...]) -> Path:
    """The declaration of the standard deployment, beside the optimized one; ``UserError`` where there is none."""
    path = files[0].parent / STANDARD
    if not path.is_file() or path in files:
        raise UserError(
            f"there is no standard deployment: no {STANDARD} beside {files[0].name}",
            where=str(files[0].parent),
            remedy="declare the standard images there, under the same service names",
        )
    return path


def declared_both_ways(run: Run) -> dict[str, tuple[str, str]]:
    """The images that are declared both ways, by service: the standard and the optimized reference."""
    standard = Compose((standard_of(run.files),), run.project.name, run.environ).services()
    images = run.project.images.items()
    return {
        name: (standard[name].image, image.ref) for name, image in images if name in standard and standard[name].builds
    }


def image_sizes(run: Run, names: Sequence[str], *, as_json: bool, setting: str) -> None:
    """The action of ``image_sizes``: beside the standard images, where these are declared."""
    standard: dict[str, str] = {}
    with contextlib.suppress(UserError):
        standard = {name: refs[0] for name, refs in declared_both_ways(run).items()}
    sizes_view.show_beside(standard, run, names, as_json=as_json, setting=setting)
