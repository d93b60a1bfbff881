"""Whose results are taken?

The readers' list, ``trusted-builders.toml``, lies in the repository and is reviewed like code. Of each builder it has a
name, the public key, and from when until when that counts; ``revoked`` ends it whatever a signature says of its time.

    [[builder]]
    name = "ci"
    key = "MCowBQYDK2VwAyEA…"
    from = 2026-11-01
    until = 2027-11-01
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.base.errors import UserError
from tasks.base.settings import ROOT, Settings

if TYPE_CHECKING:
    from tasks.sharing.signing import Key

LIST = "trusted-builders.toml"
ANYBODY = "any"
SIGNED = "signed"
_DAY = 86400
_CLOCKS_DIFFER = 300  # seconds by which a signature may be of the future
_MOST = 64  # signatures of one image that are looked at: whoever may push may attach any number


@dataclass(frozen=True)
class Builder:
    """Who may sign: a name and a public key that counts from ``since`` until ``until`` (seconds since the epoch),
    ``revoked`` from then on."""

    name: str
    key: str
    since: float
    until: float
    revoked: float = float("inf")

    def problem(self, now: float) -> str:
        """Why the key does not count now, "" if it does."""
        if now >= self.revoked:
            return f"the key of {self.name} is revoked"
        if now >= self.until:
            return f"the key of {self.name} has expired"
        return "" if now >= self.since else f"the key of {self.name} does not count yet"


class Claimed(NamedTuple):
    """What somebody says: that the image with this digest is the result of a fingerprint for a platform."""

    digest: str
    fingerprint: str
    platform: str


class Trust:
    """Whose results count for one run: of ``need`` builders, 0 for anybody's. ``key`` is the file of this machine's
    own, None without one."""

    def __init__(
        self, need: int, builders: Sequence[Builder] = (), key: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.need = need
        self._builders = builders
        self._file = key
        self._now = now

    @cached_property
    def key(self) -> Key | None:
        """This machine's own key. Raises ``UserError``."""
        from tasks.sharing.signing import Key

        return Key(self._file) if self._file else None

    @cached_property
    def own(self) -> Builder | None:
        """This machine as the list has it. Raises ``UserError``."""
        key = self.key
        return next((each for each in self._builders if key and each.key == key.public), None)

    @property
    def cannot_sign(self) -> str:
        """Why nobody would take what this machine pushes, "" if they do. Raises ``UserError``."""
        if not self.need:
            return ""
        if self._file is None:
            return "it has no SHARE_KEY"
        return self.own.problem(self._now()) if self.own else f"its SHARE_KEY is of no builder in {LIST}"

    def sign(self, digest: str, fingerprint: str, platform: str) -> bytes:
        """A bundle in which this machine says that it made this. ``ValueError`` where nobody would take that."""
        from tasks.sharing.signing import Claim

        if not (self.key and self.own):
            raise ValueError("a machine without a key signs nothing")
        return self.key.sign(Claim(digest, fingerprint, platform, self.own.name, int(self._now())))

    def refuses(self, digest: str, fingerprint: str, platform: str, bundles: Iterable[str]) -> str:
        """Why the image with this digest is not taken as the result of that fingerprint, "" if it is. ``bundles`` is
        what is attached to it, of which nothing is believed."""
        return self.judge(Claimed(digest, fingerprint, platform), bundles)[0]

    def judge(self, claimed: Claimed, bundles: Iterable[str]) -> tuple[str, dict[str, str]]:
        """Why an image is not taken as what it is claimed to be, "" if it is, and the bundles that speak for it, by
        builder."""
        good: dict[str, str] = {}
        problems = []
        for _, bundle in zip(range(_MOST), bundles if self.need else (), strict=False):
            name, problem = self._signer(bundle, claimed)
            problems.append(problem)
            if name:
                good.setdefault(name, bundle)
        if len(good) >= self.need:
            return "", good
        if good:
            return f"{len(good)} of the {self.need} builders that are needed signed it", good
        return next(filter(None, problems), "it is not signed"), good

    def _signer(self, bundle: str, wanted: Claimed) -> tuple[str, str]:
        """The builder who says in a bundle that this is what is wanted; "" with the reason if nobody does."""
        from tasks.sharing import signing

        now = self._now()
        try:
            hint = signing.hinted(bundle)
            builder = next((each for each in self._builders if signing.hint_of(each.key) == hint), None)
            if builder is None:
                return "", "it is signed by nobody whom the list of trusted builders names"
            claim = signing.claim_of(bundle, builder.key)
        except signing.Forged:
            return "", "what is attached to it is no signature of it"
        if claim.builder != builder.name or claim[:3] != wanted:
            return "", "its signature is of something else"
        if problem := builder.problem(now) or builder.problem(claim.signed):
            return "", problem
        return ("", "its signature is of the future") if claim.signed > now + _CLOCKS_DIFFER else (builder.name, "")


EVERYBODY = Trust(0)


def of(settings: Settings) -> Trust:
    """Whose results count by the settings. Raises ``UserError`` for a list that cannot be read, and for one that is
    needed and not there."""
    file = ROOT / (settings.share_builders or LIST)
    key = Path(settings.share_key).expanduser() if settings.share_key else None
    wanted = settings.share_trust or (SIGNED if key or settings.share_builders or file.is_file() else ANYBODY)
    if wanted == ANYBODY:
        return EVERYBODY
    return Trust(1 if wanted == SIGNED else int(wanted), read(file), key)


def begin(settings: Settings, name: str, file: Path | None, days: int) -> tuple[Path, Path]:
    """Make a key for a builder and list it; returns the files of the key and of the list. Raises ``UserError``."""
    from tasks.sharing import signing

    if not re.fullmatch(r"[\w.@-]{1,64}", name, re.ASCII) or not 0 < days < 36500:
        raise UserError("a builder's name has letters, digits and .@_- only, and its key counts for at least one day")
    listed = ROOT / (settings.share_builders or LIST)
    if listed.is_file():
        read(listed)  # nothing is added to what cannot be read
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = (file or home / "vllm-local-swarm" / f"{name}.key").absolute()
    public = signing.make_key(file)
    with listed.open("a") as out:
        out.write(entry(name, public, days, time.time()))
    return file, listed


def anybody(address: str) -> str:
    """What it means to trust everybody."""
    return f"whoever may push to {address} decides what is pulled from there, as nothing has to be signed"


def read(file: Path) -> list[Builder]:
    """The builders in a list. Raises ``UserError`` with the place in the file."""
    try:
        given = tomllib.loads(file.read_text())
        entries = given.pop("builder", [])
        if given or not isinstance(entries, list):
            raise ValueError(f"it holds [[builder]] tables and nothing else, not {', '.join(given) or 'builder'}")
        builders = [_builder(entry, number) for number, entry in enumerate(entries, 1)]
        if len({builder.key for builder in builders}) < len(builders):
            raise ValueError("two builders have the same key")
        return builders
    except FileNotFoundError:
        raise UserError(
            "there is no list of trusted builders", where=str(file), remedy="doit share_key NAME FILE begins one"
        ) from None
    except OSError as error:
        raise UserError(f"the list of trusted builders cannot be read: {error.strerror}", where=str(file)) from None
    except ValueError as error:
        raise UserError(f"the list of trusted builders is not understood: {error}", where=str(file)) from None


def entry(name: str, key: str, days: int, now: float) -> str:
    """The lines of a list for a new builder whose key counts from today on for so many days.

    >>> print(entry("ci", "MCow", 365, 0.0), end="")
    <BLANKLINE>
    [[builder]]
    name = "ci"
    key = "MCow"
    from = 1970-01-01
    until = 1971-01-01
    """
    since, until = (datetime.fromtimestamp(at, UTC).date() for at in (now, now + days * _DAY))
    return f'\n[[builder]]\nname = "{name}"\nkey = "{key}"\nfrom = {since}\nuntil = {until}\n'


def _builder(given: Any, number: int) -> Builder:
    """One entry; ``ValueError`` says what is wrong with it."""
    from tasks.sharing import signing

    which = f"builder {number}"
    if not isinstance(given, dict) or not isinstance(name := given.get("name"), str) or not name:
        raise ValueError(f"{which} has no name")
    which = f"{which} ({name})"
    if unknown := given.keys() - {"name", "key", "from", "until", "revoked"}:
        raise ValueError(f"{which} has {', '.join(sorted(unknown))}, which means nothing here")
    try:
        key = signing.text_of(signing.public_key(given["key"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{which} has no Ed25519 public key, as `doit share_key` prints it") from None
    revoked = given.get("revoked", False)
    since = _moment(given.get("from"), f"{which}: from")
    until = _moment(given.get("until"), f"{which}: until")
    if revoked is False:
        return Builder(name, key, since, until)
    return Builder(name, key, since, until, 0.0 if revoked is True else _moment(revoked, f"{which}: revoked"))


def _moment(value: Any, what: str) -> float:
    if not isinstance(value, date):
        raise ValueError(f"{what} must be a date such as 2026-11-25")
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
