"""``deps_check`` and ``deps_update``: which packages are behind, and what was brought up to date; as JSON, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from doit_images.ci.updating import advisories, locks, update
from doit_images.ci.updating.advisories import Advisory
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import age
from doit_images.core.run import Run


def check(run: Run, cooldown: str, *, as_json: bool) -> None:
    """Print what ``deps_update`` would change, and which locked packages have a known advisory, to standard output."""
    root = run.project.directory
    if not any(locks.find(root)) and (strange := next(locks.left_out(root), "")):
        raise UserError(
            f"no lock here is understood: {strange}", where=str(root), remedy="docs/dependencies.md lists those"
        )
    changes, known = update.newer(run, _seconds(cooldown)), advisories.known(run.environ, locks.find(root))
    if as_json:
        audited = {"advisories": _plain(known.advisories, root), "not_audited": known.skipped} if known else {}
        print(json.dumps({"changes": _plain(changes, root), **audited}, indent=2))
        return
    audit = known or advisories.Audit()
    shown = (_shown(each, root) for each in audit.advisories)
    for line in (*(change.shown(root) for change in changes), *shown, *audit.skipped):
        print(line)
    if not locks.texts(root):
        print("no lock that is understood is here: `uv lock` and `uv pip compile --generate-hashes` make some")
        return
    told = "pip-audit is not installed, so nothing is known of advisories (pip install pip-audit)"
    print(f"{len(changes)} newer; {told if known is None else f'{len(audit.advisories)} known advisories'}")


def bring_up_to_date(run: Run, packages: Sequence[str], cooldown: str, *, as_json: bool) -> None:
    """Take newer releases, build and test what they are in, and print what changed to standard output."""
    changes = update.update(run, packages, _seconds(cooldown))
    if as_json:
        print(json.dumps(_plain(changes, run.project.directory), indent=2))
    else:
        print(f"{len(changes)} changed" if changes else f"nothing newer has been there for {cooldown}")


def _seconds(cooldown: str) -> float:
    try:
        return age(cooldown)
    except ValueError as error:
        raise UserError(f"--cooldown {cooldown}: this is {error}") from None


def _plain(found: Sequence[locks.LockChange | Advisory], root: Path) -> list[dict[str, object]]:
    return [{**each._asdict(), "lock": each.lock.relative_to(root).as_posix()} for each in found]


def _shown(advisory: Advisory, root: Path) -> str:
    names = ", ".join((advisory.id, *advisory.aliases))
    mended = f"mended in {', '.join(advisory.fixed_in)}" if advisory.fixed_in else "mended in no release"
    return f"{advisory.name} {advisory.version}: {names}, {mended} ({advisory.lock.relative_to(root)})"
