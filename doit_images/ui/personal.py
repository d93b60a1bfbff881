"""Which images copy what is for one machine, or for those who share results, and no image's?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from doit_images.core.inputs.copied import Copied, copied
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run
from doit_images.share import trusted


def told(run: Run, images: Iterable[ImageInputs]) -> list[Copied]:
    """What these images copy of it."""
    settings = run.settings
    files = [trusted.list_of(settings)]
    if settings.share_key and not settings.share_key.startswith(trusted.KEYLESS):
        files.append(Path(settings.share_key).expanduser().absolute())
    return copied(images, files)
