"""What is an image made from, as one number?

Pure: no clock, no network, no engine, no file. ``own`` covers what belongs to the image itself;
``fingerprint`` adds the fingerprints of its parents and so names the whole ancestry. Both are the same on
every machine that holds the same inputs and the same external bases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Raised whenever the meaning of what goes in changes: every image is then built once more.
VERSION = 2


class BuildInputs(NamedTuple):
    """All that an image is made from, by name, each as a short text that is safe to keep and to print.

    ``files`` maps a path (relative to the project's folder where it lies inside) to kind, mode and digest.
    ``settings`` are the build settings that can change the result; ``bases`` maps an external reference to
    the content that the engine holds under it, or ``""`` where that is not known; ``remotes`` are sources
    that only a build could look at, counted by their text.
    """

    files: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}
    bases: Mapping[str, str] = {}
    remotes: tuple[str, ...] = ()


def input_digest(build_inputs: BuildInputs, files: str) -> str:
    """The digest of an image's own build_inputs, without its parents; ``files`` is the digest of all its files, whose
    single digests are not needed here."""
    return _sha256([VERSION, files, build_inputs.settings, build_inputs.bases, list(build_inputs.remotes)])


def fingerprint(digest: str, parents: Mapping[str, str]) -> str:
    """The fingerprint of an image from its own digest and its parents' fingerprints, by context name."""
    return _sha256([digest, dict(parents)])


def digest_of_files(entries: Iterable[tuple[str, str]]) -> str:
    """One digest over (path, kind+mode+digest) pairs; the order in which they come does not matter."""
    total = hashlib.sha256()
    for path, what in sorted(entries):
        total.update(path.encode(errors="surrogateescape") + b"\0" + what.encode() + b"\0")
    return total.hexdigest()


def digest_of_text(text: str) -> str:
    """The digest of one text, whatever bytes it was read from."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _sha256(content: object) -> str:
    return digest_of_text(json.dumps(content, sort_keys=True))
