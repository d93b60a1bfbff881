"""Which locked packages have a known advisory? pip-audit says, where it is installed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from doit_images.ci.updating.locks import NPM, pins
from doit_images.ci.updating.update import with_tools
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError


class Advisory(NamedTuple):
    """What is known to be wrong with a package that a lock pins: the advisory's id, other ids of it (a CVE), and the
    versions that mend it."""

    lock: Path
    name: str
    version: str
    id: str
    aliases: tuple[str, ...]
    fixed_in: tuple[str, ...]


class Audit(NamedTuple):
    """What pip-audit says: the advisories, and in its words of what nothing is known."""

    advisories: tuple[Advisory, ...] = ()
    skipped: tuple[str, ...] = ()


def known(environ: Mapping[str, str], locks: Iterable[Path]) -> Audit | None:
    """What is known of all that these locks pin; None where pip-audit is not installed. ``UserError`` where it gives no
    answer."""
    program = shutil.which("pip-audit", path=with_tools(environ)["PATH"])
    if not program:
        return None
    found = [*locks]
    audits = [_asked(environ, program, lock) for lock in found if lock.name != NPM]
    told = [
        f"{lock}: pip-audit knows nothing of npm's packages (`npm audit` does)" for lock in found if lock.name == NPM
    ]
    skipped = dict.fromkeys([*(words for audit in audits for words in audit.skipped), *told])
    return Audit(tuple(each for audit in audits for each in audit.advisories), tuple(skipped))


def _asked(environ: Mapping[str, str], program: str, lock: Path) -> Audit:
    with tempfile.TemporaryDirectory() as folder:
        asked, hashes = lock, "--require-hashes"
        if lock.suffix != ".txt":  # of a lock of another kind it gets what that pins
            asked, hashes = Path(folder, "requirements.txt"), "--no-deps"
            asked.write_text("".join(f"{name}=={version}\n" for name, version in pins(lock, lock.read_text()).items()))
        options = [hashes, "--disable-pip", "--progress-spinner=off", "--format=json", "--desc=off"]
        done = commands.run([program, *options, f"--requirement={asked}"], env=with_tools(environ))
    try:
        return answered(lock, done.stdout)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"pip-audit gives no answer: {done.why}", where=str(lock)) from None


def answered(lock: Path, text: str) -> Audit:
    """pip-audit's answer about a lock. ``ValueError``, ``KeyError``, ``TypeError`` for what is none."""
    packages = json.loads(text)["dependencies"]
    found = (
        Advisory(lock, each["name"], each["version"], one["id"], tuple(one["aliases"]), tuple(one["fix_versions"]))
        for each in packages
        for one in each.get("vulns", ())
    )
    return Audit(tuple(found), tuple(each["skip_reason"] for each in packages if "skip_reason" in each))
