"""Whose results are taken?

Those that the settings say: anybody's, or those that so many of the listed ``builders`` signed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings, root
from doit_images.share import builders, reaching, signing
from doit_images.share.builders import LIST, Builder
from doit_images.share.signing import IMAGES

if TYPE_CHECKING:
    from doit_images.share.keyless import Sigstore

KEYLESS = "keyless:"
"""What SHARE_KEY begins with where a machine has an identity and no key; its name in the list follows."""
ANYBODY = "any"
SIGNED = "signed"
_LOCKS = ("requirements-keyless.txt", "tasks/requirements-keyless.txt")  # here, and where these tasks were adopted
_CLOCKS_DIFFER = 300  # seconds by which a signature may be of the future
_MOST = 64  # signatures in one builder's name that are checked: whoever may push may attach any number
_NO_SIGNATURE = "its attachment is not a signature of it"


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
        return self.own.problem(self._now()) or self.own.forbids(about)

    def ending(self) -> list[str]:
        """What is to be done about each builder whose last key or identity ends within 30 days."""
        last = {each.name: each for each in sorted(self._builders, key=lambda builder: builder.ends)}
        return [sentence for each in last.values() if (sentence := each.renewal(self._now()))]

    def sign(self, digest: str, fingerprint: str, platform: str) -> bytes:
        """A bundle in which this machine says that it built this. Raises as ``sign_claimed``."""
        return self.sign_claimed(Claimed(digest, fingerprint, platform))

    def sign_claimed(self, claimed: Claimed, predicate: Mapping[str, object] | None = None) -> bytes:
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
        """Why the image with this digest is not taken as the result of that fingerprint, "" if it is. ``bundles`` are
        attached to the image, and are not trusted."""
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
        if problem := builder.forbids(claim.about) or builder.problem(now) or builder.problem(claim.signed):
            return problem
        return "its signature is of the future" if claim.signed > now + _CLOCKS_DIFFER else ""


EVERYBODY = Trust(0)
NOBODY = Trust(0)
"""Where nobody has said yet whose results count: none is read, and none is shared."""


def of(settings: Settings) -> Trust:
    """Whose results count by the settings. Raises ``UserError`` for a list that cannot be read, and for one that is
    needed and not there."""
    file = builders.list_of(settings)
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
    return Trust(need, builders.read(file), key, keyless=Keyless(keyless, instance))


def own_files(settings: Settings) -> list[Path]:
    """What is for those who share results, or for this machine alone, and for no image: the list and the keys."""
    keys = [key for key in (settings.share_key, settings.secrets_key) if key and not key.startswith(KEYLESS)]
    return [builders.list_of(settings), *(Path(key).expanduser().absolute() for key in keys)]


def anybody(address: str) -> str:
    """What it means to trust everybody."""
    return f"anyone who may push to {address} decides what is pulled from there, because nothing has to be signed"


def undecided(address: str) -> tuple[str, str]:
    """What it means that nobody has said whose results count, and what to do about it."""
    said = f"results of {address} are not read, and none are pushed there, as nobody has said whose count"
    signed, anything = "`doit share_key NAME` begins a list of who signs them", "takes what anybody may push"
    return said, f"{signed}; `echo SHARE_TRUST={ANYBODY} >> .env` {anything}"
