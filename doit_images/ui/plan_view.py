"""``doit plan``: what would run, why, in what order, for how long; as a table, as JSON, or as a bake definition."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from doit_images.ci.testing.planned import Planned
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.settings import CacheBackend, Settings
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import NO_IMAGES
from doit_images.core.engine.client import host_platform
from doit_images.core.inputs.copied import copied
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run
from doit_images.share import trusted
from doit_images.ui import tests_view

_COLOURS = {
    Action.BUILD: "yellow",
    Action.PULL: "cyan",
    Action.RETAG: "cyan",
    Action.FRESH: "green",
    Action.BROKEN: "red",
}


class Plan(NamedTuple):
    """A plan as it is shown: the project's name, the decisions, how long each image takes as far as that is known, and
    how many are worked on side by side."""

    project: str
    decisions: Mapping[str, Decision]
    expected: Mapping[str, float]
    workers: int

    @property
    def wall(self) -> float | None:
        """How long it takes in all, None if that is not known."""
        seconds = {name: _seconds(decision, self.expected) for name, decision in self.decisions.items()}
        if any(value is None for value in seconds.values()):
            return None
        from doit_images.core.planning import forecast

        needs = {name: decision.inputs.needs for name, decision in self.decisions.items()}
        return forecast.wall_seconds(needs, {name: value or 0.0 for name, value in seconds.items()}, self.workers)


def show(run: Run, images: Sequence[str], form: str = "", more: Mapping[str, object] = MappingProxyType({})) -> None:
    """Print the plan of ``images`` and what they need (all, when none is named) to standard output: as a table, or in
    the form ``json`` (with ``more`` beside it), ``inputs`` or ``bake``. Raises ``UserError`` if an image is broken,
    once the plan is printed."""
    decisions = chosen(run.planner.decisions(), map(run.project.image, images))
    shown = Plan(run.project.name, decisions, run.expected.planned(decisions), run.settings.build_jobs)
    _tell_trust(run.settings)
    for one in copied((decision.inputs for decision in decisions.values()), trusted.own_files(run.settings)):
        print(f"plan: {one} ({one.remedy})", file=sys.stderr)
    stand_ins = run.local_images.stand_ins(decision.inputs for decision in decisions.values())
    for ref, name in stand_ins.items():
        called = f"is called {name}" if name != ref else "has its name, by an older version: `doit doctor --fix`"
        print(f"plan: what stands in for {ref} was made from Debian's packages, and {called}", file=sys.stderr)
    tests = _tests(run, decisions)
    if form == "bake":
        from doit_images.core.buildkit import bake

        resolved = {name: decision.inputs for name, decision in decisions.items()}
        definition = bake.definition(resolved, stand_ins)
        print(json.dumps(definition, indent=2))
        for sentence in _untold(run, definition, resolved):
            print(f"plan: {sentence}", file=sys.stderr)
        if allow := bake.allowances(definition, run.project.directory):
            where = f"in {run.project.directory}, buildx from 0.19 on asks for"
            print(f"plan: {where}: docker buildx bake {shlex.join(allow)}", file=sys.stderr)
    elif form == "json":
        tested = tests_view.promised(run.history, tests)
        print_json({**promised(shown), "stand_ins": stand_ins, "tests": tested, **more})
    elif form == "inputs":
        own = {name: decisions[name] for name in images} or decisions
        paths = {printable(path) for decision in own.values() for path in decision.inputs.paths()}
        print("\n".join(sorted(paths)))
    else:
        print_table(shown)
        tests_view.print_table(run.history, tests)
    complain(decisions)


def _tests(run: Run, decisions: Mapping[str, Decision]) -> Mapping[str, Planned]:
    """What would be done about the tests of these images."""
    from doit_images.ci.testing import planned

    tests = planned.tests_of(run.project, run.planner)
    names = [name for name, test in tests.items() if test.service in decisions or test.problem]
    return planned.plan(run, names) if names else {}


def _tell_trust(settings: Settings) -> None:
    """Say on standard error where nothing has to be signed for it to be taken, and whose key ends soon."""
    if registry := settings.cache_registry:
        trust = trusted.of(settings)
        anybody = [f"{trusted.anybody(registry)} (SHARE_TRUST)"] if trust is trusted.EVERYBODY else []
        for sentence in (*anybody, *trust.ending()):
            print(f"plan: {sentence}", file=sys.stderr)


def _untold(run: Run, definition: Mapping[str, object], inputs: Mapping[str, ImageInputs]) -> list[str]:
    """What the definition leaves out, as sentences."""
    from doit_images.core.buildkit import bake

    version = commands.answer(["docker", "buildx", "version"])  # "" for none: it may be meant for another machine
    sentences = bake.untold(definition, inputs, version)
    with contextlib.suppress(UserError):
        kind = run.cache_backend.kind
        if kind != CacheBackend.NONE:
            sentences.append(f"bake neither reads nor writes the caches of CACHE_BACKEND ({kind})")
    return sentences


def chosen(decisions: Mapping[str, Decision], images: Iterable[Image]) -> dict[str, Decision]:
    """The decisions for these images and all that they need, parents first; for all images when none is named."""
    wanted: set[str] = set()
    todo = [image.name for image in images] or list(decisions)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo.extend(decisions[name].inputs.needs)
    return {name: decision for name, decision in decisions.items() if name in wanted}


def complain(decisions: Mapping[str, Decision]) -> None:
    """Say what only counts; ``UserError`` if an image is broken."""
    for name, decision in decisions.items():
        for key in decision.inputs.image.unsupported:
            print(f"plan: {name}: buildx has no option for build.{key}, so it only counts", file=sys.stderr)
    broken = [decision for decision in decisions.values() if decision.action == Action.BROKEN]
    if broken:
        raise UserError("\n".join(f"{decision.name}: {'; '.join(decision.reasons)}" for decision in broken))


def print_json(content: Mapping[str, object]) -> None:
    """Print it to standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def promised(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, in the form that is promised to scripts."""
    wall = plan.wall
    return {
        "project": plan.project,
        "workers": plan.workers,
        "estimated_wall_seconds": None if wall is None else round(wall, 1),
        "images": [_promised_image(decision, plan.expected) for decision in plan.decisions.values()],
    }


def _promised_image(decision: Decision, expected: Mapping[str, float]) -> dict[str, object]:
    inputs = decision.inputs
    seconds = _seconds(decision, expected)
    return {
        "name": decision.name,
        "image": inputs.image.ref,
        "action": decision.action,
        "stale": decision.stale,
        "reasons": list(decision.reasons),
        "inputs": inputs.paths(),
        "fingerprint": inputs.fingerprint,
        "platforms": list(inputs.platforms),
        "parents": list(dict.fromkeys(inputs.parents.values())),
        "external_bases": [{"ref": ref, "digest": digest or None} for ref, digest in inputs.bases.items()],
        "estimated_seconds": None if seconds is None else round(seconds, 1),
    }


def _seconds(decision: Decision, expected: Mapping[str, float]) -> float | None:
    if decision.action in (Action.FRESH, Action.RETAG, Action.BROKEN):
        return 0.0
    return expected.get(decision.name)


def print_table(plan: Plan) -> None:
    """Print it as a table, with what it comes to."""
    from rich.text import Text

    from doit_images.core.base.output import Output, table

    told = any(decision.inputs.platforms not in ((), (host_platform(),)) for decision in plan.decisions.values())
    drawn = table("image", "action", *["for"] * told, "why", numbers=("seconds",))
    for name, decision in plan.decisions.items():
        seconds = _seconds(decision, plan.expected)
        known = "?" if seconds is None else f"{seconds:.1f}" if decision.stale else ""
        why = "; ".join(decision.reasons) or "up to date"
        built_for = [", ".join(decision.inputs.platforms)] * told
        drawn.add_row(name, Text(decision.action, _COLOURS[decision.action]), *built_for, Text(why), known)
    console = Output()
    if not plan.decisions:
        console.print(NO_IMAGES)
        return
    console.print(drawn)
    stale = sum(decision.stale for decision in plan.decisions.values())
    if not stale:
        console.print(f"\nnothing to do: all {len(plan.decisions)} images are fresh")
    elif plan.wall is not None:
        console.print(f"\nabout {plan.wall:.0f} s with {plan.workers} workers")
