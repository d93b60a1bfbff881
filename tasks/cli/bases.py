"""Which base are the images built on? The tasks that bring it, and make it again."""

from __future__ import annotations

import sys

from tasks.base.errors import UserError
from tasks.base.settings import ROOT
from tasks.bases.base import FOLDER, ensure, rebuild
from tasks.bases.debian import PACKAGES, declares_base
from tasks.cli.action import Task, act, quiet
from tasks.run import Run, current


def task_base_image() -> Task | None:
    """The Debian-with-Python image that everything is built on: from a registry, else from Debian's packages."""
    if not declares_base(ROOT):
        return None
    return {
        "actions": [(act, [_ensure])],
        "uptodate": [Present()],
        "targets": sorted(str(tar) for tar in (ROOT / FOLDER).glob("rootfs*.tar")),
        "file_dep": [str(ROOT / PACKAGES)],
        "clean": True,
        "io": {"capture": False},
    }


def task_rebuild_base() -> Task | None:
    """Make the base again, from today's packages, share it, and write the day into docker/base/date.txt"""
    return quiet(_rebuild) if declares_base(ROOT) else None


class Present:
    """Whether the engine holds the base, for each platform that is built; asked only when a task needs it."""

    def __call__(self, task: object, values: object) -> bool:
        """Ask the engine; an engine that does not answer, or a wrong setting, holds nothing."""
        try:
            run = current()
            base = run.declared_base
            return all(base.counts(base.local_image(some), some) for some in ("", *run.other_base_platforms))
        except UserError:
            return False

    def __repr__(self) -> str:
        """What ``doit info`` says."""
        return "BASE_IMAGE is in the engine"


def _ensure(run: Run) -> None:
    if done := ensure(run.settings, ROOT, share=run.share, others=run.other_base_platforms):
        print(f"base_image: {done}", file=sys.stderr)
        run.changed()


def _rebuild(run: Run) -> None:
    local_image = run.snapshot().get(run.settings.base_image)
    done = rebuild(run.settings, local_image, run.share, others=run.other_base_platforms)
    run.changed()
    print(done, file=sys.stderr)
