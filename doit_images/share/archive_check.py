"""Is an archive what it says, before the engine sees any of it?

What ``docker load`` would take is named inside ``images.tar``, in up to three places: each name there must be one of
the index, each blob be what its name says, and each image carry the fingerprint that its name is made of. So an archive
cannot bring a base, or give any image another name than that of its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import tag_of
from doit_images.core.engine.client import normalise
from doit_images.core.engine.labels import FINGERPRINT, translated

_HEX = "[0-9a-f]{64}"
_BLOB = re.compile(rf"blobs/sha256/({_HEX})")
_OLD = re.compile(rf"({_HEX})\.json|{_HEX}/(?:VERSION|json|layer\.tar)")  # as engines before 25 write it
_FILE = re.compile(rf"manifest\.json|index\.json|oci-layout|repositories|{_BLOB.pattern}|{_OLD.pattern}")
_FOLDER = re.compile(rf"blobs|blobs/sha256|{_HEX}")
_LINK = re.compile(rf"\.\./{_HEX}/layer\.tar")  # of these engines, for a layer that two images have
_LARGEST = 8_000_000  # bytes of a manifest or a configuration
_NAME = "io.containerd.image.name"
_TAG = "org.opencontainers.image.ref.name"


class _Wrong(ValueError):
    """What is wrong with an archive, as the end of a sentence."""


def check_files(folder: Path, listed: Mapping[str, object], also: Collection[str]) -> None:
    """``UserError`` where a folder does not hold just what is ``listed``, each file as ``measured`` finds it, and may
    hold the files of ``also``; and for links."""
    missing = {*listed}
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        for name in (*folders, *files):
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise UserError(f"{inside} is a link: an export holds none", where=str(folder))
            if name in files and inside not in listed and inside not in also:
                raise UserError(f"{inside} is not in the list of exported files", where=str(folder))
            if inside in missing and not (path.is_file() and measured(path) == listed[inside]):
                raise UserError(f"{inside} is not what was exported: it was changed or damaged", where=str(folder))
            missing.discard(inside)
    if missing:
        raise UserError(f"{', '.join(sorted(missing))} is missing", where=str(folder), remedy="export it again")


def measured(path: Path) -> dict[str, Any]:
    """What the list of an archive says of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": file.tell()}


def check_images(file: Path, images: Sequence[Mapping[str, str]]) -> None:
    """``UserError`` where ``docker load`` of this file would give the engine anything else than these ``images``, each
    with its ``ref`` and its ``fingerprint``."""
    fingerprints = {}
    for image in images:
        if image["ref"] != tag_of(image["ref"], image["fingerprint"]):
            raise UserError(f"{image['ref']} is not the name of its fingerprint", where=str(file))
        fingerprints[normalise(image["ref"])] = image["fingerprint"]
    try:
        with tarfile.open(file, "r:") as tar:
            _Archive(tar, fingerprints).check()
    except _Wrong as wrong:
        raise UserError(str(wrong), where=str(file)) from None
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError("it is not an archive of images", where=str(file)) from None


class _Archive:
    def __init__(self, tar: tarfile.TarFile, fingerprints: Mapping[str, str]) -> None:
        self._tar, self._fingerprints = tar, fingerprints
        self._members: dict[str, tarfile.TarInfo] = {}

    def check(self) -> None:
        for member in self._tar:
            self._check_member(member)
        named = list(self._in_manifest())
        if "index.json" in self._members:
            named += self._in_index()
        if "repositories" in self._members:
            named += [(f"{path}:{tag}", "") for path, tags in self._json("repositories").items() for tag in tags]
        for ref, config in named:
            fingerprint = self._fingerprints.get(normalise(ref))
            if fingerprint is None:
                raise _Wrong(f"it holds {ref}, which was not exported")
            if config:
                self._check_config(ref, config, fingerprint)
        if missing := self._fingerprints.keys() - {normalise(ref) for ref, _ in named}:
            raise _Wrong(f"it does not hold {', '.join(sorted(missing))}")

    def _check_member(self, member: tarfile.TarInfo) -> None:
        name = member.name
        kind = _FOLDER if member.isdir() else _FILE
        link = member.issym() and _OLD.fullmatch(name) and _LINK.fullmatch(member.linkname)
        if not (member.isreg() or member.isdir() or link) or not kind.fullmatch(name):
            raise _Wrong(f"it holds {name!r}, which is not part of an image")
        if name in self._members and not member.isdir():
            raise _Wrong(f"it holds {name} twice")
        self._members[name] = member
        digest = _BLOB.fullmatch(name) or re.fullmatch(rf"({_HEX})\.json", name)
        if digest and hashlib.file_digest(self._open(name), "sha256").hexdigest() != digest[1]:
            raise _Wrong(f"{name} is not what its name says")

    def _in_manifest(self) -> Iterator[tuple[str, str]]:
        """Each name that the classic store takes from it, and its configuration's place."""
        for image in self._json("manifest.json"):
            for ref in image["RepoTags"]:
                yield str(ref), str(image["Config"])

    def _in_index(self) -> Iterator[tuple[str, str]]:
        """Each name that containerd's store takes from it, and the configurations' places."""
        for entry in self._json("index.json")["manifests"]:
            notes = entry.get("annotations") or {}
            ref, tag = notes[_NAME], notes.get(_TAG, "")
            if normalise(ref) in self._fingerprints and tag not in ("", ref.rpartition(":")[2], ref):
                raise _Wrong(f"it holds {tag}, which was not exported")
            configs = list(self._configs(entry["digest"]))
            if not configs:
                raise _Wrong(f"it holds nothing of {ref}")
            for config in configs:
                yield str(ref), config

    def _configs(self, digest: str) -> Iterator[str]:
        """The places of the configurations that a manifest or an index leads to, as far as they are in the archive."""
        name = f"blobs/{digest.replace(':', '/')}"
        if name not in self._members:
            return
        whole = self._json(name)
        if "config" in whole:
            yield f"blobs/{whole['config']['digest'].replace(':', '/')}"
        for entry in whole.get("manifests", ()):
            if (entry.get("platform") or {}).get("os") != "unknown":  # attestations
                yield from self._configs(entry["digest"])

    def _check_config(self, ref: str, name: str, fingerprint: str) -> None:
        config = self._json(name)
        labels = translated((config.get("config") or {}).get("Labels") or {})
        if labels.get(FINGERPRINT) != fingerprint:
            raise _Wrong(f"what it holds as {ref} was not made of that fingerprint")

    def _json(self, name: str) -> Any:
        with self._open(name) as file:
            return json.loads(file.read(_LARGEST))

    def _open(self, name: str) -> Any:
        if name not in self._members:
            raise _Wrong(f"it lacks {name}")
        file = self._tar.extractfile(self._members[name])
        if file is None:
            raise _Wrong(f"{name} is not a file")
        return file


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}")
