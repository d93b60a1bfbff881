"""``bases_check``: is there anything newer than the bases, and than what images took from them? As JSON, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, NamedTuple

from doit_images.ci.updating import debian, managers
from doit_images.ci.updating.managers import Pending
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings
from doit_images.core.base.timestamps import DAY
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from doit_images.share.bases import PINNED, Base, Bases
from doit_images.ui import bases_view
from doit_images.ui.plan_view import print_json

_BASE = "base:"  # no image is called so


class Packages(NamedTuple):
    """What a base's own package manager said: its name, "" for none; what is newer in the base and in the images on it,
    by their names, None where it did not say that; and then why."""

    manager: str = ""
    newer: Mapping[str, list[Pending]] | None = None
    why: str = ""


def check(run: Run, *, as_json: bool) -> None:
    """Print to standard output of each external base whether its registry has another, and what its package manager
    says is newer. ``UserError`` where that is reason to act (a base that moved, security fixes, a base that this
    project makes and that is older than is wanted), and where nothing could be found out."""
    decisions = run.planner.decisions()
    bases = Bases(run).ask(decision.inputs for decision in decisions.values())
    found = _found(run, bases, decisions)
    days = age_of(run.own_base.date, date.today()) if run.own_base else None
    if as_json:
        allowed = _allowed(run.settings)
        own = {"date": run.own_base.date, "days": days, "allowed_days": allowed} if run.own_base else None
        print_json({"own_base": own, "bases": [_promised(*one) for one in zip(bases, found, strict=True)]})
    else:
        if run.own_base and days is not None:
            print(f"{run.own_base.task}: its packages are {days} days old ({_allowed(run.settings):g} are allowed)")
        for base, packages in zip(bases, found, strict=True):
            print("\n".join(text(base, packages)))
        if not bases:
            print("no image is built on one from outside")
    _complain(run, bases, found, days)


def _found(run: Run, bases: Iterable[Base], decisions: Mapping[str, Decision]) -> list[Packages]:
    """What is said of each base; of an image on two of Debian's, by the first."""
    told: set[str] = set()
    found = []
    for base in bases:
        on = {name: one for name, one in decisions.items() if name in bases_view.standing_on(decisions, base)}
        found.append(_packages(run, base, {name: one for name, one in on.items() if name not in told}))
        told |= (found[-1].newer or {}).keys()
    return found


def _packages(run: Run, base: Base, on: Mapping[str, Decision]) -> Packages:
    local = run.local_images
    held = local.base(base.ref, base.platform)
    if held is None:
        return Packages(why="the engine does not hold it")
    if base.platform != local.snapshot().platform:
        return Packages(why=f"nothing for {base.platform} is run here")
    try:
        manager = managers.of(run.engine, held[1].id)
        if not manager:
            return Packages(why="it has no apt, apk or dnf, so its registry's digest alone is known")
        if manager != "apt":
            return Packages(manager, {_BASE: managers.newer(held[0], manager)})
        images = {name: image for name, one in on.items() if (image := local.snapshot().get(one.inputs.image.ref))}
        known = {name: debian.list_of(run.engine, image.id) for name, image in {_BASE: held[1], **images}.items()}
        return Packages(manager, debian.pending(held[1].id, {name: some for name, some in known.items() if some}))
    except UserError as error:
        return Packages(why=str(error))


def _complain(run: Run, bases: list[Base], found: list[Packages], days: int | None) -> None:
    """``UserError`` where that is reason to act."""
    own = run.own_base
    moved = [base.ref for base in bases if base.moved and base.here]
    remedy = "doit build --pull" if moved else own.renew if own else "no newer base is there: a RUN step installs them"
    fixes = sum(bool(each.security) for one in found for some in (one.newer or {}).values() for each in some)
    asked = zip(bases, found, strict=True)
    unknown = [(base, one) for base, one in asked if one.newer is None and not base.there and base.stays != PINNED]
    if fixes:
        raise UserError(f"{fixes} security fixes are not in the images", remedy=remedy)
    if moved:
        raise UserError(f"moved in their registries: {', '.join(moved)}", remedy=remedy)
    if own and days is not None and days > _allowed(run.settings):
        raise UserError(f"the base is {days} days old, and {_allowed(run.settings):g} are allowed", remedy=own.renew)
    if unknown:
        told = (f"{base.ref} ({'; '.join(filter(None, (base.why, one.why)))})" for base, one in unknown)
        raise UserError(f"nothing could be found out about {', '.join(told)}")


def _allowed(settings: Settings) -> float:
    return settings.base_max_age / DAY


def age_of(day: str, today: date) -> int | None:
    """How many days ago a day was (``2026-11-25``); None where that is no day.

    >>> age_of("2026-11-25", date(2026, 12, 1)), age_of("", date(2026, 12, 1))
    (6, None)
    """
    try:
        return (today - date.fromisoformat(day)).days
    except ValueError:
        return None


def text(base: Base, packages: Packages) -> list[str]:
    """What was found out about a base, for people: a line for its registry, one for its packages, and one for each
    image that has packages of its kind."""
    lines = bases_view.heading(base) if base.moved else bases_view.others([base])
    if packages.newer is None:
        return [*lines, f"  packages: {packages.why}"]
    names = {name: packages.manager if name == _BASE else name for name in packages.newer}
    width = max(map(len, names.values()))
    return [*lines, *(f"  {names[name]:{width}}  {_counted(some)}" for name, some in packages.newer.items())]


def _counted(packages: list[Pending]) -> str:
    shown = sorted(packages, key=lambda each: (not each.security, each.name))
    fixes = sum(bool(each.security) for each in packages)
    told = "" if any(each.security is None for each in packages) else f", {fixes} of them security fixes"
    named = ", ".join(f"{each.name} {each.installed} → {each.available}" for each in shown)
    return f"{len(packages)} newer{told}{': ' * bool(named)}{named}"


def _promised(base: Base, packages: Packages) -> dict[str, Any]:
    newer = {name: [each._asdict() for each in some] for name, some in (packages.newer or {}).items()}
    own = newer.pop(_BASE, None)
    asked = {"manager": packages.manager or None, "newer": own, "packages_why": packages.why, "images": newer}
    return {**bases_view.state(base), **asked}
