"""``--watch``: what an edit makes stale is built, or planned, as it happens, until Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.again import doit
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run
from doit_images.stack.edits import edited, moments, stats_of
from doit_images.stack.secrets import ENV
from doit_images.ui import plan_view


def watch(run: Run, images: Sequence[str], *, plan: bool = False) -> None:
    """Build these images and what they need (default: all), or print the ``plan`` of them, now and after each edit that
    makes it another one. What cannot be built, or read, is said, and tried again after the next edit."""
    folders, last = frozenset(path.parent for path in run.files), dict[str, tuple[str, str]]()
    print("following edits; Ctrl-C ends that", file=sys.stderr)
    while not commands.stopping():
        before = stats_of(folders)
        try:
            folders |= _folders(run)  # of a Dockerfile that is half written nothing is known
            before = stats_of(folders)  # what is edited from here on is an edit
            now = run.anew()
            decisions = plan_view.chosen(now.planner.decisions(), map(now.project.image, images))
            seen = {name: (decision.action.value, decision.inputs.fingerprint) for name, decision in decisions.items()}
            if seen != last:
                stale, last = not last or any(decision.stale for decision in decisions.values()), seen
                if plan:
                    plan_view.show(now, images, "")
                elif stale:
                    doit(["run", "--continue", *(run.parts.names(f"build:{name}") for name in images or decisions)])
        except UserError as error:
            print(str(error), file=sys.stderr)
        for _ in moments(folders):
            if edited(before, stats_of(folders)):
                break


def _folders(run: Run) -> frozenset[Path]:
    """The folders in which something may change that the plan depends on."""
    now = run.anew()
    root = now.project.directory
    paths = {*run.files, root / ENV}
    for inputs in now.planner.declared().values():
        paths |= {root / inputs.image.dockerfile, *(root / path for path in inputs.paths())}
    return frozenset(folder for path in paths if (folder := path.parent).is_dir())
