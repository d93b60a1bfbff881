"""What of an image can be built while its parents are?

Its stages that need no other image of the project: an image that installs packages in a stage of its own and copies
them onto a parent does not have to wait for the parent to do so. What they make stays in the builder's cache, where the
image's own build finds it. ``docker buildx bake`` has this from solving all images at once.

Only as long as fewer images are being built than there are processors: with two of them and three builds, early stages
took from the longest build what it needed, and everything took 20.4 s instead of 17.1 s.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import replace

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.building import build_target, sending, turns
from doit_images.core.building.context import as_built
from doit_images.core.buildkit import by_bake
from doit_images.core.engine import plugins
from doit_images.core.inputs import stamps
from doit_images.core.planning.action import Action
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run


class Busy:
    """How many images a run is working on; a context manager for each."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.count -= 1


class _Begun:
    """The images of a run whose early stages were begun, and whether they are done."""

    def __init__(self) -> None:
        self.done: dict[str, threading.Event] = {}
        self.lock = threading.Lock()


def build_next(run: Run, names: Sequence[str]) -> None:
    """Build the early stages of the first of these images that has to wait and has not been begun. Whether it works or
    not, the image's own build comes to the same result, and says what is wrong."""
    with contextlib.suppress(UserError, commands.Stopped):
        decision = _next(run, names)
        if decision is None:
            return
        try:
            with turns.free(run, decision) as ours:
                for stage in decision.inputs.early if ours else ():
                    _build(run, decision, stage)
        finally:
            run.kept(_Begun).done[decision.name].set()


def wait_for(run: Run, name: str) -> None:
    """Wait until the early stages of an image are built, if they were begun. BuildKit would join the two builds, but
    what ends the first can then end the second ("no active sessions")."""
    if begun := run.kept(_Begun).done.get(name):
        begun.wait()


def worthwhile(run: Run, decision: Decision) -> bool:
    """Whether an image waits for a parent, and nothing but a build here can give what its early stages make: no cache
    of others, no other machine that may be building it."""
    inputs, image = decision.inputs, decision.inputs.image
    parents = {run.decide(parent).action for parent in inputs.parents.values()}
    return (
        decision.builds
        and bool(parents & {Action.BUILD, Action.PULL})
        and all(inputs.bases.values())
        and inputs.name not in run.project.needs  # of its stages nothing is known
        and not (image.no_cache or image.no_cache_filter or image.pull)
        and not run.settings.dedicated_builder
        and not run.peers.leases.on
        and not build_target.caches(run, decision)
    )


def _next(run: Run, names: Sequence[str]) -> Decision | None:
    begun = run.kept(_Begun)
    with begun.lock:
        if run.kept(Busy).count >= max(2, os.cpu_count() or 1):
            return None
        for name in names:
            decision = run.decide(name)
            if name not in begun.done and worthwhile(run, decision):
                begun.done[name] = threading.Event()
                return decision
    return None


def _build(run: Run, decision: Decision, stage: str) -> None:
    index = decision.inputs.index
    with leftovers.folder("early-") as folder, sending.contexts(index, run.common):
        image = as_built(decision.inputs, folder, run.common)
        nothing = folder / "no-parent"
        nothing.mkdir()
        # BuildKit looks up what a context stands for also where the stage does not need it, and a name that it needs
        # and that stands for nothing in a registry.
        contexts = {**image.contexts, **dict.fromkeys(decision.inputs.parents, str(nothing))}
        image = replace(image, target=stage, contexts=contexts)
        argv = build_target.stage_argv(run, decision, build_target.Stage(image, f"{folder}/id"), {})
        text = None if image.dockerfile_inline is None else image.dockerfile_inline.encode()
        env, directory = run.build_environ, run.project.directory
        argv, stdin = by_bake.fitting(argv, text, env, directory)
        before = stamps.look(decision.inputs.parts)
        # The image's own build says it all again.
        commands.run(plugins.direct(argv, env), cwd=directory, env=env, stdin=stdin)
        sending.changes_since(index, before)
