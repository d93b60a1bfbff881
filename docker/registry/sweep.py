#!/usr/bin/env python3
"""Let a registry that does not serve forget the manifests that nothing needs any more: sweep.py FOLDER SECONDS

Debian's registry keeps every manifest that was ever pushed, also those whose tag names another by now. Its own
`garbage-collect --delete-untagged` takes too much: the images of an index, and what is attached to an image, have no
tags. Here a manifest stays that a tag names, that such a one lists, that is attached to one (a `subject`, or a tag
`sha256-…`, as OCI and cosign have it), or that had a tag in the last SECONDS. FOLDER is the storage's
`docker/registry/v2`. Blobs are left to `garbage-collect`, but for links to those that no manifest here has any more.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.\w+)?")


class Repository:
    """One repository: its manifests by their digests' digits, which of them each tag names, and named before."""

    def __init__(self, folder: Path, blobs: Path) -> None:
        self._folder = folder
        revisions = folder / "_manifests" / "revisions"
        if any(each.name != "sha256" for each in revisions.glob("*")):
            raise ValueError("it has digests that are not of sha256")
        self._revisions = {each.name: each for each in revisions.glob("sha256/*")}
        self._manifests = {name: _manifest(blobs, name) for name in self._revisions}
        self._tags = {each.name: each for each in (folder / "_manifests" / "tags").glob("*")}
        self._named: dict[str, str] = {}
        for tag, place in self._tags.items():
            with contextlib.suppress(FileNotFoundError):
                self._named[tag] = (place / "current" / "link").read_text().strip().rpartition(":")[2]

    def sweep(self, before: float) -> int:
        """Forget what nobody needs, and had no tag since then, in seconds since the epoch; how many manifests."""
        needed = self._reached(name for tag, name in self._named.items() if not self._about(tag))
        needed |= self._reached(self._since(needed, before))
        for tag, name in self._named.items():
            if name not in needed and (subject := self._about(tag)) and subject not in needed:
                shutil.rmtree(self._tags[tag])
                del self._tags[tag]
        # What a tag that stays is about stays with it: else nobody would know later what that is.
        gone = self._revisions.keys() - needed - set(map(self._about, self._tags))
        forgotten = sum((self._revisions[name] / "link").exists() for name in gone)  # else it was deleted before
        histories = (each for tag in self._tags.values() for each in (tag / "index" / "sha256").glob("*"))
        for place in (*(each for each in histories if each.name in gone), *map(self._revisions.__getitem__, gone)):
            shutil.rmtree(place)
        blobs = {each for name in self._revisions.keys() - gone for each in _blobs(self._manifests[name])}
        for link in (self._folder / "_layers" / "sha256").glob("*"):
            if link.name not in blobs:
                shutil.rmtree(link)
        return forgotten

    def _about(self, tag: str) -> str:
        """What a tag lists attachments of, if that is or was here: else it is as good as any other tag."""
        match = _ABOUT.fullmatch(tag)
        return match[1] if match and match[1] in self._revisions else ""

    def _reached(self, roots: Iterable[str]) -> set[str]:
        """These manifests, with all that they list, and all that is attached to any of them."""
        attached = defaultdict(set)
        for name, manifest in self._manifests.items():
            attached[_digits(manifest.get("subject"))].add(name)
        for tag, name in self._named.items():
            attached[self._about(tag)].add(name)
        found, todo = set[str](), list(roots)
        while todo:
            name = todo.pop()
            if name and name not in found:
                found.add(name)
                todo += [*map(_digits, self._manifests.get(name, {}).get("manifests") or ()), *attached[name]]
        return found

    def _since(self, needed: set[str], before: float) -> list[str]:
        """The manifests beside those needed that were pushed or lost their tag later than that."""
        since = {name: _time(place) for name, place in self._revisions.items() if name not in needed}
        for tag in self._tags.values():
            times = {each.name: _time(each) for each in (tag / "index" / "sha256").glob("*")}
            for name in times.keys() & since.keys():
                later = [at for at in times.values() if at > times[name]]
                since[name] = max(since[name], min(later, default=_time(tag / "current")))
        return [name for name, at in since.items() if at >= before]


def _manifest(blobs: Path, name: str) -> dict[str, Any]:
    """What a manifest says; nothing of one that is gone."""
    try:
        manifest = json.loads((blobs / name[:2] / name / "data").read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(manifest, dict) or not ("manifests" in manifest or "config" in manifest):
        raise ValueError(f"it has a manifest of a kind that is not known: {name}")
    return manifest


def _blobs(manifest: Mapping[str, Any]) -> list[str]:
    """What a manifest is made of; an index may list blobs, too, as BuildKit's of a cache does."""
    listed = (*(manifest.get("layers") or ()), *(manifest.get("manifests") or ()))
    return [_digits(each) for each in (manifest.get("config"), *listed) if each]


def _digits(described: Mapping[str, Any] | None) -> str:
    return str(described["digest"]).rpartition(":")[2] if described else ""


def _time(folder: Path) -> float:
    """When a link was written; long ago where it is gone."""
    try:
        return (folder / "link").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def main(folder: Path, seconds: float) -> None:
    """Sweep each repository, and say what was done; one that is not understood is left as it is."""
    gone = 0
    for place in sorted((folder / "repositories").rglob("_manifests")):
        try:
            gone += Repository(place.parent, folder / "blobs" / "sha256").sweep(time.time() - seconds)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{place.parent}: nothing is forgotten here: {error}", file=sys.stderr)
    print(f"manifests forgotten: {gone}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
