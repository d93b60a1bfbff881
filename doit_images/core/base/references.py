"""What does a name in a Dockerfile point to: an image, a URL, a git repository?"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qs, urlsplit

_SCP = re.compile(r"[\w-]+@[a-zA-Z0-9.-]+:", re.ASCII)
_GIT = re.compile(r"(?:git|ssh)://", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
# What no BuildKit can fail to read as a git source. Of others some versions may find that they are a path.
_PLAIN_GIT = re.compile(
    r"[\w-]+@[a-zA-Z0-9.-]+:[^?\n]*|"
    r"(?:git|ssh)://(?:[\w.-]+(?::[\w.-]*)?@)?[\w.-]+(?::[0-9]*)?(?:/[\w./~+@=:-]*)?(?:#[\w./~+@=:-]*)?",
    re.ASCII | re.IGNORECASE,
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?"
_TAGGABLE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?")
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})")
KEPT = "in-"  # how the tags begin under which images are kept
TESTED = "test-"  # and those of tests that passed, in the shared registry
_DIGITS = {KEPT: 16, TESTED: 32}  # hexadecimal digits of a fingerprint in such a tag
_NUMBER = re.compile("[0-9a-f]+")


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


def beside(reference: str, platform: str, folder: str = "bases") -> str:
    """The name under which an engine keeps the image of another platform than the one that it has under a reference:
    a name is of one platform only in the classic store. Nothing can listen on its port, so nobody outside is asked
    (see ``doit_images/core/building/parents.py``).

    >>> beside("python:3.13", "linux/arm64")
    'localhost:0/bases/python:linux-arm64-57b5b9aef43c'
    """
    name = re.sub(r"[^a-z0-9]+", "-", repository(reference).rpartition("/")[2].lower()).strip("-")
    digest = hashlib.sha256(familiar(reference).encode()).hexdigest()[:12]
    return f"localhost:0/{folder}/{name or 'base'}:{platform.replace('/', '-')}-{digest}"


def stand_in(reference: str, platform: str) -> str:
    """What a base is called that is made from Debian's packages and stands in for the image of this reference. That
    name it never gets: everybody who builds on this engine would start from it, and it has no ``pip``.

    >>> stand_in("python:3.13", "linux/amd64")
    'localhost:0/stand-ins/python:linux-amd64-57b5b9aef43c'
    """
    return beside(reference, platform, "stand-ins")


def is_taggable(reference: str) -> bool:
    """May an image be given this name? One with a digest or with upper case may not. (``distribution/reference``)"""
    return len(reference) <= 255 and _TAGGABLE.fullmatch(reference) is not None


def is_git(source: str) -> bool:
    """Does BuildKit clone this source? (``dfgitutil.ParseGitRef``)"""
    if _SCP.match(source) or _GIT.match(source):
        return True
    return _WEB.match(source) is not None and urlsplit(source).path.endswith(".git")


def is_web(source: str) -> bool:
    """Does ``ADD`` fetch this source, whatever follows its first letters? (``isHTTPSource``, which minds their case)"""
    return source.startswith(("http://", "https://"))


def is_remote(source: str) -> bool:
    """Does ``ADD`` fetch this source instead of reading it from the context?"""
    return is_web(source) or is_git(source)


def may_be_path(source: str) -> bool:
    """Could BuildKit take this source for a path of the context, as it does with a URL that it cannot parse?"""
    return not is_web(source) and not _PLAIN_GIT.fullmatch(source)


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


def tag_of(ref: str, number: str) -> str:
    """The reference under which an image with this fingerprint is kept: ``name:in-<fingerprint>``.

    >>> tag_of("localhost:5000/app/auth:optimized", "ab" * 32)
    'localhost:5000/app/auth:in-abababababababab'
    """
    return f"{repository(ref)}:{numbered(KEPT, number)}"


def numbered(kind: str, number: str) -> str:
    """The tag of a fingerprint: ``kind`` is ``KEPT`` or ``TESTED``."""
    return f"{kind}{number[: _DIGITS[kind]]}"


def kind_of(tag: str) -> str:
    """``KEPT`` or ``TESTED`` for a tag that is the one or the other and a fingerprint; "" for any other tag. It is no
    proof of what the image is: see ``LocalImage.proofs``.

    >>> kind_of("in-0123456789abcdef"), kind_of("in-progress"), kind_of("latest")
    ('in-', '', '')
    """
    for kind, digits in _DIGITS.items():
        number = tag.removeprefix(kind)
        if number != tag and len(number) == digits and _NUMBER.fullmatch(number):
            return kind
    return ""


def repository(ref: str) -> str:
    """A reference without its tag and digest."""
    name = ref.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.split(':')[0]}"


def path_of(ref: str) -> str:
    """The repository of a reference without the registry that it may begin with.

    >>> path_of("localhost:5000/app/auth:optimized"), path_of("vllm-swarm/auth:optimized")
    ('app/auth', 'vllm-swarm/auth')
    """
    name = repository(ref)
    head, slash, rest = name.partition("/")
    return rest if slash and (head == "localhost" or re.search(r"[.:]", head)) else name


def place_of(ref: str) -> tuple[str, str, str]:
    """The registry that a reference leads to, the repository there, and the tag.

    >>> place_of("python:3.13"), place_of("localhost:5000/app/auth@sha256:0")
    (('docker.io', 'library/python', '3.13'), ('localhost:5000', 'app/auth', 'latest'))
    """
    name, path = repository(ref), path_of(ref)
    host = name.removesuffix(path).rstrip("/")
    tag = ref.partition("@")[0].removeprefix(name).lstrip(":") or "latest"
    if host in ("", "docker.io", "index.docker.io"):
        return "docker.io", path if "/" in path else f"library/{path}", tag
    return host, path, tag


def digest_of(content: bytes) -> str:
    """The digest by which a registry knows these bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
