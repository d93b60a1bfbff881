"""``bases_check``: how old is the base, and what is newer than in the images? As JSON, and as text."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from doit_images.core.base.errors import UserError
from doit_images.core.base.timestamps import DAY
from doit_images.core.run import Run
from tasks import ROOT, debian_packages
from tasks.bases import declared
from tasks.bases.debian import DATE, date_of
from tasks.debian_packages import Pending

_REMEDY = "doit rebuild_base"


def check(run: Run, *, as_json: bool) -> None:
    """Print how old the base is and which of Debian's packages in the images have newer versions, to standard output.
    ``UserError`` where that is reason to make the base again: security fixes, or more days than are wanted."""
    pending = _pending(run)
    days = age_of(date_of(ROOT), date.today())
    allowed = run.settings.base_max_age / DAY
    if as_json:
        images = {name: [each._asdict() for each in packages] for name, packages in pending.items()}
        base = {"image": run.settings.base_image, "date": date_of(ROOT), "days": days, "allowed_days": allowed}
        print(json.dumps({"base": base, "images": images}, indent=2))
    else:
        print(text(run.settings.base_image, days, allowed, pending))
    fixes = sum(each.security for packages in pending.values() for each in packages)
    if fixes:
        raise UserError(f"{fixes} security fixes of Debian are not in the images", remedy=_REMEDY)
    if days is not None and days > allowed:
        raise UserError(f"the base is {days} days old, and {allowed:g} are allowed", where=str(DATE), remedy=_REMEDY)


def _pending(run: Run) -> dict[str, list[Pending]]:
    snapshot = run.local_images.snapshot()
    base = declared.DeclaredBase(run).local_image()
    if base is None:
        raise UserError(f"the engine does not hold {run.settings.base_image}", remedy="doit base_image")
    images = {"base": base} | {
        name: image for name, each in run.project.images.items() if (image := snapshot.get(each.ref))
    }
    known = {name: debian_packages.list_of(run.engine, image.id) for name, image in images.items()}
    lists = {name: packages for name, packages in known.items() if packages}
    return debian_packages.pending(base.id, lists)


def age_of(day: str, today: date) -> int | None:
    """How many days ago a day was (``2026-11-25``); None where that is no day.

    >>> age_of("2026-11-25", date(2026, 12, 1)), age_of("", date(2026, 12, 1))
    (6, None)
    """
    try:
        return (today - date.fromisoformat(day)).days
    except ValueError:
        return None


def text(base: str, days: int | None, allowed: float, pending: dict[str, list[Pending]]) -> str:
    """What was found, for people: a line for the base, and one for each image."""
    lines = [f"{base}: its packages are {days} days old ({allowed:g} are allowed)"] if days is not None else []
    width = max(map(len, pending), default=0)
    for name, packages in pending.items():
        fixes = sum(each.security for each in packages)
        lines.append(f"{name:{width}}  {len(packages)} newer, {fixes} of them security fixes{_named(packages)}")
    return "\n".join(lines)


def _named(packages: list[Pending]) -> str:
    shown: list[Any] = sorted(packages, key=lambda each: (not each.security, each.name))
    return ": " + ", ".join(f"{each.name} {each.installed} → {each.available}" for each in shown) if shown else ""
