"""Which images are built? One doit task for each image that is declared."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from doit_images.cli.action import Task, fail, quiet
from doit_images.cli.process import current, names
from doit_images.core.base.errors import UserError
from doit_images.core.compose.project import NO_IMAGES
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning import checkouts, forecast, record
from doit_images.core.run import Run


class Freshness:
    """A doit ``uptodate`` object: asks the plan, and whether the record here is of what the image is to be made from
    now; says why when it is printed (``doit info``).

    The record need not be where nothing is to be built: another checkout may have built and named just that, for a
    parent's edit which no file of this image shows. ``cache_prune`` keeps what records name, so they have to follow.
    """

    # For doit, which asks for it each time; to find out takes longer than the answer.
    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("task", "values")]
    )

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, task: Any, values: Mapping[str, str]) -> bool:
        """Whether nothing has to be done. An error counts as stale: the action then says it. So does ``build.pull``:
        only when the bases were pulled it is known. What is fresh is needed here, as what is built is. ``values`` hold
        the fingerprint in the record, as doit keeps it: it reads no file for each image."""
        task.value_savers.append(lambda: {"fingerprint": self._fingerprint()})
        try:
            decision = current().planner.decide(self._name)
            if decision.stale or decision.inputs.image.pull:
                return False
            checkouts.register(current().folder)
        except UserError:
            return False
        return values.get("fingerprint") == decision.inputs.fingerprint

    def __repr__(self) -> str:
        try:
            decision = current().planner.decide(self._name)
        except UserError as error:
            return str(error)
        why = "; ".join(decision.reasons) or "a base may be newer, or the record here is of other inputs"
        return f"{decision.action}: {why}"

    def _fingerprint(self) -> str:
        kept = record.read(current().folder, self._name)
        return kept.fingerprint if kept else ""


def task_build() -> Iterator[Task]:
    """Build the images whose inputs changed, in parallel, and say why"""
    doc = "build the images whose inputs changed, parents first (the default task)"
    # doit writes down that a task ran, and waits for the disk: a run with nothing to do has no reason to.
    yield {"name": None, "doc": doc, "uptodate": [True]}
    declared, failing = declared_images()
    if failing:
        yield failing
        return
    if not declared and not of_a_commit(sys.argv):
        says = quiet(lambda run: run.events.say(NO_IMAGES))
        yield {**says, "name": "nothing", "doc": "say that there is nothing to build"}
    run = current()
    folder = run.folder
    path = forecast.urgency(declared, run.expected.builds)
    # doit looks at them in this order: what the longest chain of builds hangs on comes first.
    for name in sorted(declared, key=lambda name: -path[name]):
        inputs = declared[name]
        yield {
            "name": name,
            "doc": f"build {inputs.image.ref} if its inputs changed",
            "actions": [(make_image, [name])],
            "file_dep": inputs.file_dep(),
            "targets": [str(record.path_of(folder, name))],
            "task_dep": _needs(inputs, run),
            "uptodate": [Freshness(name)],
            "meta": {"image": name},
            "io": {"capture": False},
        }


def declared_images() -> tuple[Mapping[str, ImageInputs], Task]:
    """What each image is made of; of a project that cannot be read no image, and a task that fails and says why. None
    for ``plan --at``, which is about a commit: to look at the working copy takes as long as all that it does."""
    if of_a_commit(sys.argv):
        return {}, {}
    try:
        return current().planner.declared(), {}
    except UserError as error:
        failing = {"actions": [(fail, [str(error)])], "meta": {"quiet": True}}
        return {}, {"name": "project", "doc": "why the project cannot be read", **failing}


def task__watch() -> Task:
    """Build what an edit makes stale, as it happens (`build --watch`)"""
    return quiet("doit_images.ui.watching:watch", words="images")


def task_build_base() -> Iterator[Task]:
    """Build only the images that other images build on"""
    declared, _ = declared_images()
    bases = list(dict.fromkeys(parent for inputs in declared.values() for parent in inputs.parents.values()))
    yield group(names()("build_base"), "build only the images that other images build on", bases)


def task__pull_bases() -> Task:
    """Pull the external bases that moved in their registries (`--pull`)"""
    return quiet("doit_images.ui.bases_view:pull")


def make_image(name: str) -> object:
    """The action of one image."""
    from doit_images.core.building.make import make

    return make(current(), name)


def rebuild_image(name: str) -> object:
    """The action of one image that is built without any cache."""
    from doit_images.core.building.make import rebuild

    return rebuild(current(), name)


def _needs(inputs: ImageInputs, run: Run) -> list[str]:
    base = [run.own_base.task] if run.own_base and run.local_images.on_own_base(inputs.bases) else []
    return [*(names()(f"build:{name}") for name in inputs.needs), *base]


def group(name: str, doc: str, images: list[str]) -> Task:
    """A task that has these images built, all of them where there are none."""
    return {
        "basename": name,
        "doc": doc,
        "actions": None,
        "task_dep": [names()(f"build:{image}") for image in images] or [names()("build")],
    }


def of_a_commit(argv: Sequence[str]) -> bool:
    """Whether a command line asks for ``plan --at`` and for nothing else: all that follows that task's name is its own.

    >>> of_a_commit(["doit", "plan", "--at", "HEAD"]), of_a_commit(["doit", "plan", "--at=HEAD", "--json"])
    (True, True)
    >>> of_a_commit(["doit", "plan"]), of_a_commit(["doit", "auth", "plan", "--at=HEAD"])
    (False, False)
    """
    return argv[1:2] == ["plan"] and any(word.partition("=")[0] == "--at" for word in argv[2:])
