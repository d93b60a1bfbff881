"""A stack of its own for a measurement, healthy, and gone when that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from doit_images.cli.process import current
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.stack import bringup, ephemeral_stack, images
from doit_images.stack.checkout import project_of


@contextlib.contextmanager
def started(what: str) -> Iterator[ephemeral_stack.EphemeralStack]:
    """The stack of this project for the block, which measures ``what``. A ``UserError`` here or in the block, however
    many at once, ends the program: a sentence each, and status 1."""
    commands.stop_on_signals()
    run = current()
    failed: tuple[BaseException, ...] = ()
    try:
        with ephemeral_stack.running(project_of(run), bringup.terms(run, what), images.built(run)) as running:
            if not running.outcome.healthy:
                raise UserError(bringup.explain(running.outcome, running.compose))
            yield running
    except* UserError as errors:
        failed = errors.exceptions
    if failed:  # not above: what is raised there comes as a group
        raise SystemExit("\n".join(map(str, failed)))
