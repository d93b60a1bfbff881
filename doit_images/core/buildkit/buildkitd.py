"""Is a ``buildkitd.toml`` what BuildKit would read?

BuildKit passes over keys that it does not know, and buildx refuses some files with a parser's words, so a mistyped
limit would be no limit at all. The keys are those of BuildKit 0.13 to August 2026
(``cmd/buildkitd/config/config.go``). Pure.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from doit_images.core.base.errors import UserError

_SIZE = re.compile(r"\d+(\.\d+)? ?([kmgtp]i?)?b?|\d+%", re.IGNORECASE)
_DURATION = re.compile(r"\d+|(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text in quotes"


def _switch(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _whole(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number"


def _texts(value: Any) -> str:
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "" if good else "a list of texts"


def _size(value: Any) -> str:
    good = not _whole(value) or (isinstance(value, str) and _SIZE.fullmatch(value))
    return "" if good else 'bytes, or a text such as "10GB" or "30%"'


def _duration(value: Any) -> str:
    good = not _whole(value) or (isinstance(value, str) and _DURATION.fullmatch(value))
    return "" if good else 'seconds, or a text such as "48h" (hours are the largest unit)'


class _Any(dict[str, Any]):
    """A table whose keys are free; ``inside`` is what each of them holds."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside


def _anything(value: Any) -> str:
    return ""


_POLICY = {
    "all": _switch, "filters": _texts, "keepDuration": _duration, "keepBytes": _size,
    "reservedSpace": _size, "maxUsedSpace": _size, "minFreeSpace": _size,
}  # fmt: skip
_WORKER = {
    "enabled": _switch, "labels": _Any(_text), "platforms": _texts, "snapshotter": _text, "rootless": _switch,
    "gc": _switch, "gckeepstorage": _size, "reservedSpace": _size, "maxUsedSpace": _size, "minFreeSpace": _size,
    "gcpolicy": [_POLICY], "networkMode": _text, "cniConfigPath": _text, "cniBinaryPath": _text, "cniPoolSize": _whole,
    "bridgeName": _text, "bridgeSubnet": _text, "apparmor-profile": _text, "selinux": _switch,
    "max-parallelism": _whole, "defaultCgroupParent": _text,
}  # fmt: skip
_OCI = {
    "noProcessSandbox": _switch, "userRemapUnsupported": _text, "binary": _text, "proxySnapshotterPath": _text,
    "stargzSnapshotter": _Any(_anything),
}  # fmt: skip
_CONTAINERD = {
    "address": _text, "namespace": _text, "runtime": {"name": _text, "path": _text, "options": _Any(_anything)},
}  # fmt: skip
_REGISTRY = {
    "mirrors": _texts, "http": _switch, "insecure": _switch, "ca": _texts, "tlsconfigdir": _texts,
    "keypair": [{"key": _text, "cert": _text}],
}  # fmt: skip
_KEYS: dict[str, Any] = {
    "debug": _switch, "trace": _switch, "root": _text, "insecure-entitlements": _texts, "proxyNetwork": _switch,
    "provenanceEnvDir": _text,
    "log": {"format": _text, "level": _text},
    "grpc": {
        "address": _texts, "debugAddress": _text, "uid": _whole, "gid": _whole, "securityDescriptor": _text,
        "tls": {"cert": _text, "key": _text, "ca": _text},
    },
    "otel": {"socketPath": _text},
    "cdi": {"disabled": _switch, "specDirs": _texts, "autoAllowed": _texts},
    "worker": {"oci": _WORKER | _OCI, "containerd": _WORKER | _CONTAINERD},
    "registry": _Any(_REGISTRY),
    "dns": {"nameservers": _texts, "options": _texts, "searchDomains": _texts},
    "history": {"maxAge": _duration, "maxEntries": _whole},
    "frontend": {
        "dockerfile.v0": {"enabled": _switch},
        "gateway.v0": {"enabled": _switch, "allowedRepositories": _texts},
    },
    "system": {"platformsCacheMaxAge": _duration, "maxRegistryConcurrency": _whole},
    "cache": {"gha": _Any(_anything)},
}  # fmt: skip


def check(text: str, where: str) -> None:
    """Raise ``UserError`` with the line of the first key or value that BuildKit would not take as it is meant.
    ``where`` is the file's name as it is said."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{where}:{line[1]}" if line else where
        raise UserError(f"this is not TOML: {re.sub(r' *.at (line|end).*', '', str(error))}", where=place) from None
    _look(content, _KEYS, (), lambda path: f"{where}:{_line_of(text, path)}")


def _look(content: Any, known: Any, path: tuple[str, ...], place: Callable[[tuple[str, ...]], str]) -> None:
    shown = ".".join(path)
    if isinstance(known, list):
        if not isinstance(content, list) or not all(isinstance(table, dict) for table in content):
            raise UserError(
                f"{shown} must be a list of tables", where=place(path), remedy=f"begin each with [[{shown}]]"
            )
        for table in content:
            _look(table, known[0], path, place)
    elif isinstance(known, dict):
        if not isinstance(content, Mapping):
            raise UserError(f"{shown} must be a table", where=place(path), remedy=f"begin it with [{shown}]")
        for key, value in content.items():
            inside = known.inside if isinstance(known, _Any) else known.get(key)
            if inside is None:
                raise UserError(
                    f"BuildKit knows no key {key!r} in {f'[{shown}]' if shown else 'the file itself'}",
                    where=place((*path, key)),
                    remedy=_instead(key, known, shown),
                )
            _look(value, inside, (*path, key), place)
    elif wanted := known(content):
        raise UserError(f"{shown} must be {wanted}, not {content!r}", where=place(path))


def _instead(key: str, known: Mapping[str, Any], table: str) -> str:
    # What is often copied around, and has never been a key.
    if key == "gcconfig":
        return "policies are [[worker.oci.gcpolicy]]"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"{table or 'it'} can hold " + ", ".join(sorted(known))


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line on which a key stands: the first one that sets it in a table of that path, else its table's, else 1."""
    table: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?([^\]]+(?:\"[^\"]*\"[^\]]*)*)\]\]?", line)
        if header:
            table = _parts(header[1])
            if table[: len(path)] == path:
                return number
        key = re.match(r"\s*((?:[\w-]+|\"[^\"]*\")(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"))*)\s*=", line)
        if not header and key:
            whole = (*table, *_parts(key[1]))
            if whole[: len(path)] == path:
                return number
        common = sum(1 for a, b in zip(table, path, strict=False) if a == b)
        if header and common > depth:
            best, depth = number, common
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip('"') for part in re.findall(r"\"[^\"]*\"|[^.\s]+", dotted))
