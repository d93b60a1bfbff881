"""What does a build see of a project that holds our own folder?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.content.survey import Surveyed
from tasks.project import Image


def without_our_folder(one: Surveyed, folder: Path) -> Image:
    """The image as BuildKit gets it. Where its ignore file lets ``.build`` in, its Dockerfile is put into ``folder``,
    beside an ignore file that hides it: it changes during a build, so an image that copies a whole project would never
    be fresh, and would hold its own past."""
    if not one.ignore:
        return one.image
    dockerfile = folder / (Path(one.image.dockerfile).name or "Dockerfile")
    for path, text in ((dockerfile, one.dockerfile_text), (Path(f"{dockerfile}.dockerignore"), one.ignore)):
        path.write_bytes(text.encode(errors="surrogateescape"))
    return replace(one.image, dockerfile=str(dockerfile), dockerfile_inline=None)
