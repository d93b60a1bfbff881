"""Whose results are taken?

The readers' list, ``trusted-builders.toml``, lies in the repository and is reviewed like code. Of each builder it has a
name, the public key or the identity that a CI gives it, and from when until when that counts; ``revoked`` ends it
whatever a signature says of its time. ``may`` says what the builder signs: images, tests that passed, or, by default,
both.

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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings, root
from doit_images.share import reaching, signing
from doit_images.share.signing import IMAGES, PREDICATES

if TYPE_CHECKING:
    from doit_images.share.keyless import Sigstore

LIST = "trusted-builders.toml"
KEYLESS = "keyless:"
"""What SHARE_KEY begins with where a machine has an identity and no key; its name in the list follows."""
ANYBODY = "any"
SIGNED = "signed"
_LOCKS = ("requirements-keyless.txt", "tasks/requirements-keyless.txt")  # here, and where these tasks were adopted
_DAY = 86400
_SOON = 30 * _DAY
_CLOCKS_DIFFER = 300  # seconds by which a signature may be of the future
_MOST = 64  # signatures in one builder's name that are checked: whoever may push may attach any number
_NO_SIGNATURE = "its attachment is not a signature of it"


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
        when = f"ends on {datetime.fromtimestamp(self.ends, UTC).date()}, in {int((self.ends - now) // _DAY)} days"
        if self.identity:
            return f"the identity of {self.name} {when}: give it a later `until` in {LIST}"
        return f"the key of {self.name} {when}: `doit share_key {self.name} NEW-FILE`, which SHARE_KEY then names"

    @property
    def hint(self) -> str:
        """What a bundle says that it is by, if it is by this one."""
        return self.identity or signing.hint_of(self.key)


class Claimed(NamedTuple):
    """What somebody says: that the manifest with this digest is the result of a fingerprint for a platform, and what
    that is ``about``: an image or tests."""

    digest: str
    fingerprint: str
    platform: str
    about: str = IMAGES


class Keyless(NamedTuple):
    """Signing by an identity: this machine's ``name`` in the list, "" where it does not sign so, and the ``instance``
    of Sigstore, a file; None is the public one."""

    name: str = ""
    instance: Path | None = None


class Trust:
    """Whose results count for one run: of ``need`` builders, 0 for anybody's. ``key`` is the file of this machine's
    own, None without one."""

    def __init__(
        self, need: int, builders: Sequence[Builder] = (), key: Path | None = None,
        now: Callable[[], float] = time.time, keyless: Keyless = Keyless(),  # noqa: B008  a tuple
    ) -> None:  # fmt: skip
        self.need = need
        self._builders = builders
        self._file = key
        self._now = now
        self._keyless = keyless
        self.say: Callable[[str], None] | None = None
        """Who is told, once, that what this machine signs with ends soon."""

    @cached_property
    def _sigstore(self) -> Sigstore:
        try:
            from doit_images.share.keyless import Sigstore  # it takes its time to load
        except ImportError:
            lock = next((name for name in _LOCKS if (root() / name).is_file()), _LOCKS[0])
            remedy = f"pip install -r {lock}"
            raise UserError("signatures by identity need the library sigstore", remedy=remedy) from None
        return Sigstore(self._keyless.instance)

    @cached_property
    def key(self) -> signing.Key | None:
        """This machine's own key. Raises ``UserError``."""
        return signing.Key(self._file) if self._file else None

    @cached_property
    def own(self) -> Builder | None:
        """This machine as the list has it. Raises ``UserError``."""
        if name := self._keyless.name:
            return next((each for each in self._builders if each.identity and each.name == name), None)
        key = self.key
        return next((each for each in self._builders if key and each.key == key.public), None)

    @property
    def cannot_sign(self) -> str:
        """Why nobody would accept the images that this machine pushes, "" if they do. Raises ``UserError``."""
        return self.cannot_sign_of(IMAGES)

    def cannot_sign_of(self, about: str) -> str:
        """The same of results of any kind."""
        if self is NOBODY:
            return "nobody has said whose results count"
        if not self.need:
            return ""
        if self._file is None and not self._keyless.name:
            return "it has no SHARE_KEY"
        if not self.own:
            return f"its SHARE_KEY belongs to no builder in {LIST}"
        return self.own.problem(self._now()) or _forbidden(self.own, about)

    def ending(self) -> list[str]:
        """What is to be done about each builder whose last key or identity ends within 30 days."""
        last = {each.name: each for each in sorted(self._builders, key=lambda builder: builder.ends)}
        return [sentence for each in last.values() if (sentence := each.renewal(self._now()))]

    def sign(self, digest: str, fingerprint: str, platform: str) -> bytes:
        """A bundle in which this machine says that it built this. Raises as ``sign_claimed``."""
        return self.sign_claimed(Claimed(digest, fingerprint, platform))

    def sign_claimed(self, claimed: Claimed, predicate: Mapping[str, Any] | None = None) -> bytes:
        """A bundle in which this machine says this, and this of it. ``ValueError`` where nobody would take it,
        ``NotSigned`` where a signature by its identity cannot be had."""
        if not self.own:
            raise ValueError("a machine without a key signs nothing")
        if self.say and (sentence := self.own.renewal(self._now())):
            self.say(sentence)
        self.say = None
        claim = signing.Claim(*claimed[:3], self.own.name, int(self._now()), claimed.about, predicate or {})
        if self.key:
            return self.key.sign(claim)
        bundle = self._sigstore.sign(claim)
        if self._problem(bundle.decode(), self.own, claimed):
            who = signing.hinted(bundle.decode())
            raise signing.NotSigned(f"this machine is {who}, and {self.own.name} in {LIST} is {self.own.identity}")
        return bundle

    def refuses(self, digest: str, fingerprint: str, platform: str, bundles: Iterable[str]) -> str:
        """Why the image with this digest is not taken as the result of that fingerprint, "" if it is. ``bundles`` is
        what is attached to it, of which nothing is believed."""
        return self.judge(Claimed(digest, fingerprint, platform), bundles)[0]

    def judge(self, claimed: Claimed, bundles: Iterable[str]) -> tuple[str, dict[str, str]]:
        """Why an image is not taken as what it is claimed to be, "" if it is, and the bundles that speak for it, by
        builder: no more of them than are needed."""
        good: dict[str, str] = {}
        problems: list[str] = []
        looked = Counter[str]()
        for bundle in bundles if self.need else ():
            builder, problem = self._hinted(bundle)
            if builder and builder.name not in good:
                looked[builder.name] += 1
                if looked[builder.name] > _MOST:
                    continue
                problem = self._problem(bundle, builder, claimed)
                if not problem:
                    good[builder.name] = bundle
            problems.append(problem)
            if len(good) == self.need:
                break
        if len(good) >= self.need:
            return "", good
        if good:
            return f"{len(good)} of the {self.need} required builders signed it", good
        for name, count in looked.items():
            if count > _MOST:
                what = f"of more than {_MOST} signatures in the name of {name} the first {_MOST} are not good"
                return f"{what}, and no more are looked at", good
        return next(filter(None, problems), "it is not signed"), good

    def _hinted(self, bundle: str) -> tuple[Builder | None, str]:
        """The builder that a bundle says it is by, which nobody has checked; None with the reason if it names none."""
        try:
            hint = signing.hinted(bundle)
        except signing.Forged:
            return None, _NO_SIGNATURE
        builder = next((each for each in self._builders if each.hint == hint), None)
        return builder, "" if builder else "no trusted builder signed it"

    def _problem(self, bundle: str, builder: Builder, wanted: Claimed) -> str:
        """Why a bundle does not count as this builder's word that this is what is wanted, "" if it does."""
        now = self._now()
        try:
            if builder.identity:
                claim = self._sigstore.claim_of(bundle, builder.issuer, builder.identity)
            else:
                claim = signing.claim_of(bundle, builder.key)
        except signing.Forged:
            return _NO_SIGNATURE
        if claim.builder != builder.name or (*claim[:3], claim.about) != wanted:
            return "its signature is for something else"
        if problem := _forbidden(builder, claim.about) or builder.problem(now) or builder.problem(claim.signed):
            return problem
        return "its signature is of the future" if claim.signed > now + _CLOCKS_DIFFER else ""


def _forbidden(builder: Builder, about: str) -> str:
    """Why a builder may not sign that, "" if it may; a document about an image needs what an image needs."""
    about = about if about in PREDICATES else IMAGES
    return "" if about in builder.may else f"{builder.name} may not sign {about}"


EVERYBODY = Trust(0)
NOBODY = Trust(0)
"""Where nobody has said yet whose results count: none is read, and none is shared."""


def of(settings: Settings) -> Trust:
    """Whose results count by the settings. Raises ``UserError`` for a list that cannot be read, and for one that is
    needed and not there."""
    file = list_of(settings)
    keyless = settings.share_key.removeprefix(KEYLESS) if settings.share_key.startswith(KEYLESS) else ""
    key = Path(settings.share_key).expanduser() if settings.share_key and not keyless else None
    listed = settings.share_builders or file.is_file()
    host = settings.cache_registry.partition("/")[0]
    if host and not (settings.share_trust or settings.share_key or listed or reaching.on_loopback(host)):
        return NOBODY
    wanted = settings.share_trust or (SIGNED if settings.share_key or listed else ANYBODY)
    if wanted == ANYBODY:
        return EVERYBODY
    instance = root() / settings.share_sigstore if settings.share_sigstore else None
    need = 1 if wanted == SIGNED else int(wanted)
    return Trust(need, read(file), key, keyless=Keyless(keyless, instance))


def list_of(settings: Settings) -> Path:
    """Where the list of trusted builders lies, or would."""
    return root() / (settings.share_builders or LIST)


def own_files(settings: Settings) -> list[Path]:
    """What is for those who share results, or for this machine alone, and for no image: the list and the key."""
    keyed = bool(settings.share_key) and not settings.share_key.startswith(KEYLESS)
    return [list_of(settings), *([Path(settings.share_key).expanduser().absolute()] if keyed else [])]


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


def anybody(address: str) -> str:
    """What it means to trust everybody."""
    return f"whoever may push to {address} decides what is pulled from there, as nothing has to be signed"


def undecided(address: str) -> tuple[str, str]:
    """What it means that nobody has said whose results count, and what to do about it."""
    said = f"results of {address} are not read, and none are pushed there, as nobody has said whose count"
    signed, anything = "`doit share_key NAME` begins a list of who signs them", "takes what anybody may push"
    return said, f"{signed}; `echo SHARE_TRUST={ANYBODY} >> .env` {anything}"


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
    since, until = (datetime.fromtimestamp(at, UTC).date() for at in (now, now + days * _DAY))
    lines = [f'{field} = "{value}"' for field, value in {"name": name, **by}.items()]
    return "\n".join(["", "[[builder]]", *lines, f"from = {since}", f"until = {until}", ""])


def _builder(given: Any, number: int) -> Builder:
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


def _moment(value: Any, what: str) -> float:
    if not isinstance(value, date):
        raise ValueError(f"{what} must be a date such as 2026-11-25")
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
