"""What does the package index know of a package: which releases, since when, and what is known to be wrong with one?

The Simple API in its JSON form (PEP 691, with the times of uploads of PEP 700), and for advisories the field
``vulnerabilities`` of PyPI's JSON API beside it, which few mirrors have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import requests
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from doit_images.core.base.errors import UserError

_JSON = "application/vnd.pypi.simple.v1+json"
_SECONDS = (10.0, 30.0)
_WORKERS = 8


class Release(NamedTuple):
    """A version that is not yanked, and when its first and its last file came (seconds since the epoch; None: not
    told)."""

    version: Version
    uploaded: float | None
    complete: float | None


class Advisory(NamedTuple):
    """What is known to be wrong with a version: the advisory's id, other ids of it (a CVE), where it is described, and
    the versions that mend it."""

    id: str
    aliases: tuple[str, ...]
    link: str
    fixed_in: tuple[str, ...]


class Known(NamedTuple):
    """All that the index knows of a package and of one version of it: its releases, oldest first, whether that version
    is yanked, and its advisories (None: this index does not tell)."""

    releases: tuple[Release, ...]
    yanked: bool
    advisories: tuple[Advisory, ...] | None


class PackageIndex:
    """The index at ``url``, the address of its Simple API; ``trust`` is a file of certificates, "" for the usual."""

    def __init__(self, url: str, trust: str = "") -> None:
        self.url = (url or _pips_own()).rstrip("/")
        self._session = requests.Session()
        self._session.verify = trust or True
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_WORKERS))
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_WORKERS))

    def look_up(
        self, pinned: Iterable[tuple[str, str]], advised: Collection[str] | None = None
    ) -> dict[tuple[str, str], Known]:
        """What is known of each package (normal name) and the version of it that is locked; of advisories only those of
        the packages ``advised``, if these are given. ``UserError`` where the index does not answer, or is too old to
        tell."""
        asked = sorted(set(pinned))
        with ThreadPoolExecutor(_WORKERS) as pool:
            answers = pool.map(lambda pin: self._known(pin[0], pin[1], advised is None or pin[0] in advised), asked)
            return dict(zip(asked, answers, strict=True))

    def _known(self, name: str, version: str, advised: bool) -> Known:
        answer = self._get(f"{self.url}/{name}/")
        if answer is None:
            raise UserError(f"the package index does not know {name}", where=self.shown)
        files, locked = versioned(answer.get("files") or ()), Version(version)
        own = [_yanked(file) for of, file in files if of == locked]
        advisories = self._advisories(name, version) if advised else None
        return Known(releases(files), bool(own) and all(own), advisories)

    def _advisories(self, name: str, version: str) -> tuple[Advisory, ...] | None:
        answer = self._get(f"{self.url.removesuffix('/simple')}/pypi/{name}/{version}/json")
        if answer is None or "vulnerabilities" not in answer:
            return None
        return tuple(
            Advisory(each["id"], tuple(each.get("aliases") or ()), each.get("link") or "", tuple(each["fixed_in"]))
            for each in answer["vulnerabilities"]
            if not each.get("withdrawn")
        )

    def _get(self, url: str) -> Any:
        """An answer as JSON; None where there is no such page."""
        try:
            answer = self._session.get(url, headers={"Accept": f"{_JSON}, application/json"}, timeout=_SECONDS)
        except requests.RequestException as error:
            raise UserError(f"the package index does not answer: {type(error).__name__}", where=self.shown) from None
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            raise UserError(f"the package index answers {answer.status_code}", where=self.shown)
        try:
            return answer.json()
        except ValueError:
            remedy = "name another index by PIP_INDEX_URL"
            raise UserError("the package index has no JSON (PEP 691)", where=self.shown, remedy=remedy) from None

    @property
    def shown(self) -> str:
        """Its address without a password."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"


def _pips_own() -> str:
    """The index that pip asks when it is told none."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        raise UserError("no package index is set, and pip is not here", remedy="set PIP_INDEX_URL") from None
    return str(PyPI.simple_url)


def versioned(files: Iterable[dict[str, Any]]) -> list[tuple[Version, dict[str, Any]]]:
    """The files of a package, as the index lists them, each with its version; those that have none are left out."""
    return [(version, file) for file in files if (version := _version_of(file)) is not None]


def releases(files: Iterable[tuple[Version, dict[str, Any]]]) -> tuple[Release, ...]:
    """The releases that these files make up, oldest version first."""
    uploads: dict[Version, list[float]] = {}
    for version, file in files:
        if not _yanked(file):
            uploads.setdefault(version, []).extend(_time(file.get("upload-time")))
    return tuple(
        Release(version, min(times, default=None), max(times, default=None))
        for version, times in sorted(uploads.items(), key=lambda pair: pair[0])
    )


def _yanked(file: dict[str, Any]) -> bool:
    return bool(file.get("yanked"))


def _version_of(file: dict[str, Any]) -> Version | None:
    name = str(file.get("filename") or "")
    try:
        return parse_wheel_filename(name)[1] if name.endswith(".whl") else parse_sdist_filename(name)[1]
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None


def _time(text: Any) -> list[float]:
    try:
        return [datetime.fromisoformat(text).timestamp()]
    except (TypeError, ValueError):
        return []
