"""doit tasks that build, share, run and measure the Docker images of a Compose project.

A ``dodo.py`` of three lines has them all::

    import doit_images

    globals().update(doit_images.tasks())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doit_images.core.around import LocalBase
    from doit_images.core.run import Run

__version__ = "0.3.0"


def tasks(
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    base: Callable[[Run], LocalBase | None] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The tasks, as the names that a ``dodo.py`` is to have, and ``DOIT_CONFIG`` with them.

    ``prefix`` stands before the name of each task, ``names`` gives some another one; ``config`` is the project's own
    ``DOIT_CONFIG``, which comes first, but for where doit keeps its state; ``base`` gives the base image that the
    project makes itself. ``beside`` are the names of a ``dodo.py`` with tasks of its own (``globals()``, at its end):
    its ``DOIT_CONFIG`` counts as ``config``, and its tasks stay what ``doit`` alone runs, one after the other. The
    project is that of the working folder, which is the dodo file's when doit loads it. Raises doit's
    ``InvalidDodoFile``, which doit prints as one sentence, where the settings are wrong or names collide.
    """
    from doit_images.cli import process

    process.begin()
    from doit_images.cli import catalogue

    return catalogue.loaded(catalogue.named(prefix, names or {}), config or {}, base, beside or {})
