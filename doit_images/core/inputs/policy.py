"""Which build policy decides about an image, and what does it read?

buildx from 0.31 on asks ``<Dockerfile>.rego``, where there is one, about every source of a build: it may refuse it, or
pin it to a digest. Older ones do not know it; it counts all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from doit_images.core.base import files
from doit_images.core.compose.image import Image
from doit_images.core.inputs.image_inputs import ContextPart
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.view import View


def beside(dockerfile: str) -> str:
    """Where the policy of a Dockerfile is."""
    return f"{dockerfile}.rego"


def of(image: Image) -> dict[str, str]:
    """The policy of an image's Dockerfile, by its path; empty where there is none. That of a remote context is there.
    ``UserError`` where it cannot be read."""
    path = beside(image.dockerfile)
    if not image.dockerfile or image.remote_context or not os.path.exists(path):  # noqa: PTH110  of each image, in each run
        return {}
    return {path: files.text(Path(path))}


def parts(
    image: Image, policies: Iterable[str], directory: Path, view: Callable[[Path], View]
) -> Iterator[ContextPart]:
    """The files that these policies of an image read; ``directory`` is where buildx runs, ``view`` shows a folder with
    all that is in it."""
    context = Path(image.context)
    for text in policies:
        from doit_images.core.inputs import rego  # most images have no policy

        found = rego.loaded(text, lambda name: files.text(path) if (path := context / name).is_file() else "")
        for label, root, sources in (("policy", context, found.context), ("policy cwd", directory, found.directory)):
            if sources:
                seen = view(root)
                some = Copy("", sources, instruction="RUN --mount", optional=True)
                yield ContextPart(label, root, seen.ignore, select(seen, [some], label), sent=False)
