"""Which base are the images built on? The tasks that bring it, and make it again."""

from __future__ import annotations

import sys
from glob import glob

from doit_images.cli.action import Task, act, quiet
from doit_images.cli.process import current
from doit_images.core.base.errors import UserError
from doit_images.core.planning.plan import built_for
from doit_images.core.run import Run
from doit_images.share import connection
from tasks import ROOT
from tasks.bases import declared
from tasks.bases.base import FOLDER, rebuild
from tasks.bases.debian import PACKAGES, declares_base


def task_base_image() -> Task | None:
    """The Debian-with-Python image that everything is built on: from a registry, else from Debian's packages."""
    if not declares_base(ROOT):
        return None
    return {
        "actions": [(act, [_ensure])],
        "uptodate": [Present()],
        "targets": sorted(glob(f"{ROOT / FOLDER}/rootfs*.tar")),  # noqa: PTH207  pathlib fails where it may not look
        "file_dep": [str(ROOT / PACKAGES)],
        "clean": True,
        "meta": {"quiet": True},  # it says itself what it does, if anything
        "io": {"capture": False},
    }


def task_rebuild_base() -> Task | None:
    """Make the base again, from today's packages, share it, and write the day into docker/base/date.txt"""
    return quiet(_rebuild) if declares_base(ROOT) else None


class Present:
    """Whether the engine holds the base, for each platform that is built; asked only when a task needs it."""

    def __call__(self, task: object, values: object) -> bool:
        """Ask the engine; an engine that does not answer, or a wrong setting, holds nothing. A base that nothing in
        this run is built on need not be there."""
        try:
            run = current()
            base = declared.of(run)
            return base is None or base.is_here() or _nobody_builds_on_it(run)
        except UserError:
            return False

    def __repr__(self) -> str:
        """What ``doit info`` says."""
        return "BASE_IMAGE is in the engine"


def _nobody_builds_on_it(run: Run) -> bool:
    """Whether images were asked for, and none is built here that stands on the base: what is pulled needs none."""
    if not run.selected:
        return False
    decisions = run.planner.decisions()
    return not any(
        run.local_images.on_own_base(decisions[name].inputs.bases) for name in built_for(run.selected, decisions)
    )


def _ensure(run: Run) -> None:
    if not _nobody_builds_on_it(run):  # doit comes here, too, because it has not seen the list of packages yet
        run.external_bases.bring_own()


def _rebuild(run: Run) -> None:
    base = declared.DeclaredBase(run)
    done = rebuild(run.settings, base.local_image(), connection.of(run).share, others=base.others)
    run.local_images.changed()
    print(done, file=sys.stderr)
