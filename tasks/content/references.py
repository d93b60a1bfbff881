"""What does a name in a Dockerfile point to: an image, a URL, a git repository?"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

_SCP = re.compile(r"[\w-]+@[a-zA-Z0-9.-]+:")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?"
_TAGGABLE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?")
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})")


def familiar(reference: str) -> str:
    """An image's name as BuildKit compares names: without Docker Hub's host, ``library/`` and ``:latest``.

    ``docker.io/library/alpine:latest`` and ``alpine`` are ``alpine``; a digest stays.
    """
    name, at, digest = reference.partition("@")
    host, slash, rest = name.partition("/")
    if slash and host in ("docker.io", "index.docker.io"):
        name = rest
    if name.startswith("library/") and name.count("/") == 1:
        name = name.removeprefix("library/")
    return f"{name}@{digest}" if at else name.removesuffix(":latest")


def is_taggable(reference: str) -> bool:
    """May an image be given this name? One with a digest or with upper case may not. (``distribution/reference``)"""
    return len(reference) <= 255 and _TAGGABLE.fullmatch(reference) is not None


def is_git(source: str) -> bool:
    """Does BuildKit clone this source? (``dfgitutil.ParseGitRef``)"""
    if _SCP.match(source) or source.startswith(("git://", "ssh://")):
        return True
    return source.startswith(("http://", "https://")) and urlsplit(source).path.endswith(".git")


def is_remote(source: str) -> bool:
    """Does ``ADD`` fetch this source instead of reading it from the context?"""
    return is_git(source) or source.startswith(("http://", "https://"))


def is_pinned(source: str, checksum: str) -> bool:
    """Does the text alone fix the content of a remote source: by ``--checksum``, or by a commit?"""
    if checksum:
        return True
    if not is_git(source):
        return False
    before, _, fragment = source.partition("#")
    query = parse_qs(before.partition("?")[2])
    named = [fragment.partition(":")[0], *query.get("ref", []), *query.get("commit", []), *query.get("checksum", [])]
    return any(_COMMIT.fullmatch(name) for name in named)
