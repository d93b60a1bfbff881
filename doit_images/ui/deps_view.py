"""``deps_check`` and ``deps_update``: which packages are behind, and what was brought up to date; as JSON, as text."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from doit_images.ci.updating import behind, locks, update
from doit_images.ci.updating.behind import Package
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import age
from doit_images.core.run import Run

_DAY = 86400.0


def check(run: Run, as_json: bool) -> None:
    """Print which locked packages are behind, since when, and which have a known advisory, to standard output."""
    root = run.project.directory
    texts = locks.texts(root)
    relative = {path.relative_to(root).as_posix(): text for path, text in texts.items()}
    packages = behind.packages(relative, update.look_up(run, texts))
    print(json.dumps(list(map(as_data, packages)), indent=2) if as_json else text(packages, time.time()))


def bring_up_to_date(run: Run, packages: Sequence[str], cooldown: str, as_json: bool) -> None:
    """Take newer releases, build and test what they are in, and print what changed to standard output."""
    try:
        seconds = age(cooldown)
    except ValueError as error:
        raise UserError(f"--cooldown {cooldown}: this is {error}") from None
    changes = update.update(run, packages, seconds)
    if as_json:
        root = run.project.directory
        data = [{**each._asdict(), "lock": each.lock.relative_to(root).as_posix()} for each in changes]
        print(json.dumps(data, indent=2))
    else:
        print(f"{len(changes)} changed" if changes else f"nothing newer has been there for {cooldown}")


def as_data(package: Package) -> dict[str, Any]:
    """What is known of a package, as plain data; times in ISO 8601."""
    advisories = None if package.advisories is None else [each._asdict() for each in package.advisories]
    since = None if package.since is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(package.since))
    return {**package._asdict(), "behind": package.behind, "since": since, "advisories": advisories}


def text(packages: Sequence[Package], now: float) -> str:
    """The packages that are behind, yanked or have an advisory, as a table; ``now`` is the time, in seconds."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("package", "locked", "newest", "behind for", "known", "in"):
        table.add_column(heading, overflow="fold")
    shown = [each for each in packages if each.behind or each.advisories or each.yanked]
    for each in shown:
        days = f"{(now - each.since) / _DAY:.0f} days" if each.since is not None else ""
        table.add_row(each.name, each.version, each.newest, days, _known(each), ", ".join(each.locks))
    stream = StringIO()
    terminal = sys.stdout.isatty()
    Console(file=stream, width=None if terminal else 160, force_terminal=terminal).print(table)
    return "\n".join([*([stream.getvalue().rstrip(), ""] if shown else []), _summary(packages)])


def _known(package: Package) -> str:
    names = [_cve(each.aliases) or each.id for each in package.advisories or ()]
    return ", ".join([*(["yanked"] if package.yanked else []), *names])


def _cve(aliases: Sequence[str]) -> str:
    return next((alias for alias in aliases if re.match("CVE-", alias)), "")


def _summary(packages: Sequence[Package]) -> str:
    behind_ = sum(package.behind for package in packages)
    if not packages:
        return "no requirements are locked here: `uv pip compile --generate-hashes` locks some"
    line = f"{behind_} of {len(packages)} packages are behind"
    if all(package.advisories is None for package in packages):
        return f"{line}; this package index does not tell of advisories"
    return f"{line}, {sum(bool(package.advisories) for package in packages)} have a known advisory"
