"""Which locked packages are behind, since when, and which of them have a known advisory? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from doit_images.ci.updating import locks
from doit_images.ci.updating.package_index import Advisory, Known, Release


class Package(NamedTuple):
    """A locked package: in which locks (relative paths), its version, the newest release and since when there is a
    newer one (seconds since the epoch; None: there is none, or the index does not tell), its advisories (None: not
    told), whether its version is yanked."""

    name: str
    locks: tuple[str, ...]
    version: str
    newest: str
    since: float | None
    advisories: tuple[Advisory, ...] | None
    yanked: bool

    @property
    def behind(self) -> bool:
        """Whether there is a newer release."""
        return self.newest != self.version


def packages(texts: Mapping[str, str], known: Mapping[tuple[str, str], Known]) -> list[Package]:
    """All packages of these locks (text by relative path), those with advisories first, then those longest behind."""
    places: dict[tuple[str, str], list[str]] = {}
    for path, text in texts.items():
        for pin in locks.pins(text).items():
            places.setdefault(pin, []).append(path)
    rows = [_package(pin, tuple(paths), known[pin]) for pin, paths in places.items()]
    return sorted(rows, key=lambda row: (not row.advisories, not row.yanked, row.since or float("inf"), row.name))


def _package(pin: tuple[str, str], paths: tuple[str, ...], known: Known) -> Package:
    name, version = pin
    newer = newer_than(version, known.releases)
    since = min((release.uploaded for release in newer if release.uploaded is not None), default=None)
    newest = str(newer[-1].version) if newer else version
    return Package(name, paths, version, newest, since, known.advisories, known.yanked)


def newer_than(version: str, releases: Sequence[Release]) -> list[Release]:
    """The releases after this version that also came after it, oldest version first; prereleases only after a
    prerelease. A project that once counted otherwise has versions that are high and old."""
    own = Version(version)
    since = next((each.uploaded for each in releases if each.version == own), None) or 0.0
    return [
        each
        for each in releases
        if each.version > own
        and (each.uploaded is None or each.uploaded >= since)
        and (own.is_prerelease or not each.version.is_prerelease)
    ]


def exceptions(known: Mapping[tuple[str, str], Known], cutoff: float) -> dict[str, Release]:
    """The packages of which a release younger than ``cutoff`` may be taken, each with the highest such: what is locked
    stays, and where nothing older mends an advisory, the oldest release that does may come."""
    allowed: dict[str, Release] = {}
    for (name, version), of in known.items():
        locked = [release for release in of.releases if release.version == Version(version)]
        young = [each for each in (*locked, *_fixes(version, of, cutoff)) if _younger(each, cutoff)]
        if young:
            allowed[name] = max(young, key=lambda release: release.version)
    return allowed


def _fixes(version: str, known: Known, cutoff: float) -> list[Release]:
    """For each advisory that nothing mends which is old enough: the oldest release that does."""
    newer = newer_than(version, known.releases)
    fixes = []
    for advisory in known.advisories or ():
        first = min(filter(None, map(_version, advisory.fixed_in)), default=None)
        mending = [each for each in newer if first and each.version >= first]
        if mending and all(_younger(each, cutoff) for each in mending):
            fixes.append(mending[0])
    return fixes


def _younger(release: Release, cutoff: float) -> bool:
    return release.uploaded is not None and release.uploaded > cutoff


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
