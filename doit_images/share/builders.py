"""Who may sign, as the readers' list has it?

``trusted-builders.toml`` lies in the repository and is reviewed like code. Of each builder it has a name, the public
key or the identity that a CI gives it, and from when until when that counts; ``revoked`` ends it whatever a signature
says of its time. ``may`` says what the builder signs: images, tests that passed, or, by default, both.

    [[builder]]
    name = "ci"
    key = "MCowBQYDK2VwAyEA…"
    from = 2026-11-01
    until = 2027-11-01
    may = ["images", "tests"]
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings, root
from doit_images.core.base.timestamps import DAY
from doit_images.share import signing
from doit_images.share.signing import IMAGES, PREDICATES

LIST = "trusted-builders.toml"
_SOON = 30 * DAY


@dataclass(frozen=True)
class Builder:
    """Who may sign: a name and a public key, or the ``identity`` that an ``issuer`` of tokens gives (then ``key`` is
    ""), which counts from ``since`` until ``until`` (seconds since the epoch), ``revoked`` from then on."""

    name: str
    key: str
    since: float
    until: float
    revoked: float = float("inf")
    issuer: str = ""
    identity: str = ""
    may: tuple[str, ...] = tuple(PREDICATES)

    def problem(self, now: float) -> str:
        """Why the key or the identity does not count now, "" if it does."""
        which = f"the {'identity' if self.identity else 'key'} of {self.name}"
        if now >= self.revoked:
            return f"{which} is revoked"
        if now >= self.until:
            return f"{which} has expired"
        return "" if now >= self.since else f"{which} is not valid yet"

    @property
    def ends(self) -> float:
        """When it counts no more."""
        return min(self.until, self.revoked)

    def renewal(self, now: float) -> str:
        """When it ends, and what to do before; "" where that is not within 30 days."""
        if not 0 < self.ends - now <= _SOON:
            return ""
        when = f"ends on {datetime.fromtimestamp(self.ends, UTC).date()}, in {int((self.ends - now) // DAY)} days"
        if self.identity:
            return f"the identity of {self.name} {when}: give it a later `until` in {LIST}"
        return f"the key of {self.name} {when}: `doit share_key {self.name} NEW-FILE`, which SHARE_KEY then names"

    @property
    def hint(self) -> str:
        """What a bundle says that it is by, if it is by this one."""
        return self.identity or signing.hint_of(self.key)

    def forbids(self, about: str) -> str:
        """Why this builder may not sign that, "" if it may; a document about an image needs what an image needs."""
        about = about if about in PREDICATES else IMAGES
        return "" if about in self.may else f"{self.name} may not sign {about}"


def list_of(settings: Settings) -> Path:
    """Where the list of trusted builders lies, or would."""
    return root() / (settings.share_builders or LIST)


def begin(settings: Settings, name: str, file: Path | None, days: int) -> tuple[Path, Path]:
    """Make a key for a builder and list it; returns the files of the key and of the list. Raises ``UserError``."""
    listed = _list_for(settings, name, days)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    file = (file or home / "doit-images" / f"{name}.key").absolute()
    public = signing.make_key(file)
    with listed.open("a") as out:
        out.write(entry(name, {"key": public}, days, time.time()))
    return file, listed


def add_identity(settings: Settings, name: str, issuer: str, identity: str, days: int) -> Path:
    """List a builder that signs by the identity which an issuer of tokens gives it; returns the list's file. Raises
    ``UserError``."""
    listed = _list_for(settings, name, days)
    if any(re.search(r'[\s"\\]', word) or "://" not in word for word in (issuer, identity)):
        raise UserError("an issuer and an identity are URLs, as they stand in the certificate")
    if listed.is_file() and identity in (each.identity for each in read(listed)):
        raise UserError("that identity is listed already", where=str(listed))
    with listed.open("a") as out:
        out.write(entry(name, {"issuer": issuer, "identity": identity}, days, time.time()))
    return listed


def _list_for(settings: Settings, name: str, days: int) -> Path:
    """The list that a builder may be added to."""
    if not re.fullmatch(r"[\w.@-]{1,64}", name, re.ASCII) or not 0 < days < 36500:
        raise UserError("a builder's name has letters, digits and .@_- only, and its key counts for at least one day")
    listed = list_of(settings)
    if listed.is_file():
        read(listed)  # nothing is added to what cannot be read
    return listed


def read(file: Path) -> list[Builder]:
    """The builders in a list. Raises ``UserError`` with the place in the file."""
    try:
        given = tomllib.loads(file.read_text())
        entries = given.pop("builder", [])
        if given or not isinstance(entries, list):
            raise ValueError(f"it holds [[builder]] tables and nothing else, not {', '.join(given) or 'builder'}")
        builders = [_builder(entry, number) for number, entry in enumerate(entries, 1)]
        if len({builder.hint for builder in builders}) < len(builders):
            raise ValueError("two builders have the same key or identity")
        return builders
    except FileNotFoundError:
        raise UserError(
            "there is no list of trusted builders", where=str(file), remedy="doit share_key NAME FILE begins one"
        ) from None
    except OSError as error:
        raise UserError(f"the list of trusted builders cannot be read: {error.strerror}", where=str(file)) from None
    except ValueError as error:
        raise UserError(f"the list of trusted builders is not understood: {error}", where=str(file)) from None


def entry(name: str, by: Mapping[str, str], days: int, now: float) -> str:
    """The lines of a list for a new builder whose key or identity counts from today on for so many days.

    >>> print(entry("ci", {"key": "MCow"}, 365, 0.0), end="")
    <BLANKLINE>
    [[builder]]
    name = "ci"
    key = "MCow"
    from = 1970-01-01
    until = 1971-01-01
    """
    since, until = (datetime.fromtimestamp(at, UTC).date() for at in (now, now + days * DAY))
    lines = [f'{field} = "{value}"' for field, value in {"name": name, **by}.items()]
    return "\n".join(["", "[[builder]]", *lines, f"from = {since}", f"until = {until}", ""])


def _builder(given: object, number: int) -> Builder:
    """One entry; ``ValueError`` says what is wrong with it."""
    which = f"builder {number}"
    if not isinstance(given, dict) or not isinstance(name := given.get("name"), str) or not name:
        raise ValueError(f"{which} has no name")
    which = f"{which} ({name})"
    if unknown := given.keys() - {"name", "key", "issuer", "identity", "from", "until", "revoked", "may"}:
        raise ValueError(f"{which} has {', '.join(sorted(unknown))}, which is unknown")
    key, identity = "", {field: given[field] for field in ("issuer", "identity") if field in given}
    if identity:
        if "key" in given or len(identity) < 2 or not all(isinstance(each, str) and each for each in identity.values()):
            raise ValueError(f"{which} needs an issuer and an identity, and then no key")
    else:
        try:
            key = signing.text_of(signing.public_key(given["key"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{which} has no Ed25519 public key, as `doit share_key` prints it") from None
    may = given.get("may", [*PREDICATES])
    if not isinstance(may, list) or not may or any(each not in PREDICATES for each in may):
        raise ValueError(f"{which}: may must be a list of {' and '.join(PREDICATES)}")
    revoked = given.get("revoked", False)
    since = _moment(given.get("from"), f"{which}: from")
    until = _moment(given.get("until"), f"{which}: until")
    ends = float("inf") if revoked is False else 0.0 if revoked is True else _moment(revoked, f"{which}: revoked")
    return Builder(name, key, since, until, ends, **identity, may=tuple(may))


def _moment(value: object, what: str) -> float:
    if not isinstance(value, date):
        raise ValueError(f"{what} must be a date such as 2026-11-25")
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
