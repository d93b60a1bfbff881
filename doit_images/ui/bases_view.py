"""``--pull``: which external bases moved, what changed in them, what is built again for it; and pulled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from doit_images.ci.sbom.compared import differences
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.formatting import clean
from doit_images.core.base.timestamps import utc
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.share.bases import Base, Bases, Side
from doit_images.ui import plan_view

_SHOWN = 20  # packages
Change = tuple[str, str, str]
"""What changed, before and now; "" where there was none, or is none."""


class Moved(NamedTuple):
    """A base that moved: labels and packages that changed (None where ``unknown`` says why nobody knows), and the
    images that would be built, or taken from elsewhere, because of it."""

    base: Base
    labels: Sequence[Change]
    packages: Sequence[Change] | None
    unknown: str
    images: Sequence[str]


def plan(run: Run, images: Sequence[str], *, as_json: bool) -> None:
    """Print which bases of ``images`` and what they need moved in their registries, and the plan as if they were here.
    Raises ``UserError`` as ``plan_view.show``."""
    before = plan_view.chosen(run.planner.decisions(), map(run.project.image, images))
    asked = Bases(run)
    bases = asked.ask(decision.inputs for decision in before.values())
    run.local_images.expect({(one.ref, one.platform): one.there.config for one in bases if one.moved and one.there})
    now = run.planner.decisions()
    stale = [name for name, one in before.items() if now[name].inputs.fingerprint != one.inputs.fingerprint]
    found = [
        _moved(asked, one, [name for name in stale if name in standing_on(now, one)]) for one in bases if one.moved
    ]
    if as_json:
        rest = [state(one) for one in bases if not one.moved]
        plan_view.show(run, images, "json", {"bases": [*map(_promised, found), *rest]})
        return
    for moved in found:
        print("\n".join(_lines(moved)), end="\n\n")
    for line in others(bases):
        print(line)
    print()
    plan_view.show(run, images)


def pull(run: Run) -> None:
    """Let the engine have what the registries have now of the bases that this run's images are built on, just those
    that were answered. ``UserError`` where one cannot be asked or does not come, for then nothing is to be built."""
    wanted = [run.project.images[name] for name in sorted(run.selected or ())]
    decisions = plan_view.chosen(run.planner.decisions(), wanted)
    bases = Bases(run).ask(decision.inputs for decision in decisions.values())
    if silent := [one for one in bases if one.why]:
        told = "; ".join(f"{one.ref}: {one.why}" for one in silent)
        raise UserError(f"it cannot be said which bases moved: {told}", remedy="without --pull what is here counts")
    own = run.local_images.snapshot().platform
    for one in bases:
        if one.moved and one.there:
            for line in heading(one):
                run.events.say(line)
            digest = one.there.digest if one.platform == own else one.there.manifest
            run.external_bases.take(one.ref, one.platform, digest)
        elif not one.stays:
            run.external_bases.known(one.ref, one.platform)


def standing_on(decisions: Mapping[str, Decision], base: Base) -> set[str]:
    """The images that read a base themselves or through what they need."""
    found: set[str] = set()
    for name, decision in decisions.items():  # parents first
        if base.platform in decision.inputs.read_for.get(base.ref, ()) or not found.isdisjoint(decision.inputs.needs):
            found.add(name)
    return found


def _moved(asked: Bases, base: Base, images: Sequence[str]) -> Moved:
    labels = _changes(base.here.labels if base.here else {}, base.there.labels if base.there else {})
    if base.here is None:
        return Moved(base, labels, None, "the engine holds none", images)
    sides = {"the image here": base.here, "the one in the registry": base.there}
    bills = {name: asked.bill(base.ref, side, base.platform) for name, side in sides.items()}
    old, new = bills.values()
    if old is None or new is None:
        lacking = " and ".join(name for name, bill in bills.items() if bill is None)
        return Moved(base, labels, None, f"no SBOM is attested to {lacking}", images)
    return Moved(base, labels, differences(old, new), "", images)


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    return [
        (key, before.get(key, ""), now.get(key, ""))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def heading(base: Base) -> list[str]:
    """That a base moved, from which digest to which."""
    old, new = (side.digest or side.config.content if side else "nothing" for side in (base.here, base.there))
    what = "moved" if base.here else "is not here yet"
    return [f"{base.ref} ({base.platform}) {what}: {old} → {new}"]


def _lines(moved: Moved) -> list[str]:
    """What changed, for people."""
    made = [utc(side.created) if side else "nothing" for side in (moved.base.here, moved.base.there)]
    lines = [*heading(moved.base), f"  created   {' → '.join(made)}"]
    lines += [f"  label     {_shown(each)}" for each in moved.labels] if moved.base.here else []
    if moved.packages is None:
        lines.append(f"  packages  not compared: {moved.unknown}")
    else:
        shown = ", ".join(map(_shown, moved.packages[:_SHOWN])) or "the same"
        more = len(moved.packages) - _SHOWN
        lines.append(f"  packages  {shown}{f' and {more} more (--json)' if more > 0 else ''}")
    return [*lines, f"  builds    {', '.join(moved.images) or 'nothing'}"]


def _shown(change: Change) -> str:
    name, old, new = (printable(clean(text)) for text in change)
    return f"{name} {old} → {new}" if old and new else f"{name} {new} added" if new else f"{name} {old} removed"


def others(bases: Iterable[Base]) -> list[str]:
    """What is to be said of the bases that did not move."""
    bases = list(bases)
    lines = [f"{one.ref}: it cannot be said whether it moved: {one.why}" for one in bases if one.why]
    lines += [f"{one.ref} stays: {one.stays}" for one in bases if one.stays]
    same = [one.ref for one in bases if one.there and not one.moved]
    return lines + ([f"not moved: {', '.join(dict.fromkeys(same))}"] if same else [])


def _promised(moved: Moved) -> dict[str, object]:
    packages = None if moved.packages is None else [*map(_plain, moved.packages)]
    changed = {"labels": [*map(_plain, moved.labels)], "packages": packages, "unknown": moved.unknown}
    return {**state(moved.base), **changed, "images": list(moved.images)}


def state(base: Base) -> dict[str, object]:
    """Where a base is here and in its registry, in the form that is promised to scripts."""
    state = "unknown" if base.why else "stays" if base.stays else "moved" if base.moved else "same"
    known = {"ref": base.ref, "platform": base.platform, "state": state, "why": base.why or base.stays}
    return {**known, "here": _side(base.here), "there": _side(base.there)}


def _plain(change: Change) -> dict[str, str | None]:
    return {"name": change[0], "before": change[1] or None, "now": change[2] or None}


def _side(side: Side | None) -> dict[str, object] | None:
    return {"digest": side.digest or None, "created": utc(side.created)} if side else None
