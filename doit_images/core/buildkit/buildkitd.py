"""Is a ``buildkitd.toml`` what BuildKit would read?

BuildKit passes over keys that it does not know, and buildx refuses some files with a parser's words, so a mistyped
limit would be no limit at all. The keys are those of BuildKit 0.13 to August 2026
(``cmd/buildkitd/config/config.go``). Pure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from doit_images.core.base.errors import UserError, meant

_PART = r"""[\w-]+|"[^"]*"|'[^']*'"""
_DOTTED = rf"(?:{_PART})(?:\s*\.\s*(?:{_PART}))*"
_LINE = re.compile(rf"\s*(?:\[\[?\s*({_DOTTED})|({_DOTTED})\s*=)")  # the header of a table, or a key that is set
_FREE = "*"  # stands for every key of a table whose keys are free


class _Value(NamedTuple):
    """What a key holds: in words, and the test of it."""

    words: str
    fits: Callable[[Any], object]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _whole_or(pattern: str, words: str) -> _Value:
    return _Value(words, lambda value: _is_whole(value) or (isinstance(value, str) and re.fullmatch(pattern, value)))


_anything = _Value("anything", lambda value: True)
_text = _Value("a text in quotes", lambda value: isinstance(value, str))
_switch = _Value("true or false", lambda value: isinstance(value, bool))
_whole = _Value("a whole number", _is_whole)
_texts = _Value(
    "a list of texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
)
_size = _whole_or(r"(?i)\d+(\.\d+)? ?([kmgtp]i?)?b?|\d+%", 'bytes, or a text such as "10GB" or "30%"')
_duration = _whole_or(
    r"\d+|(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", 'seconds, or a text such as "48h" (hours are the largest unit)'
)

_POLICY = {
    "all": _switch, "filters": _texts, "keepDuration": _duration, "keepBytes": _size,
    "reservedSpace": _size, "maxUsedSpace": _size, "minFreeSpace": _size,
}  # fmt: skip
_WORKER = {
    "enabled": _switch, "labels": {_FREE: _text}, "platforms": _texts, "snapshotter": _text, "rootless": _switch,
    "gc": _switch, "gckeepstorage": _size, "reservedSpace": _size, "maxUsedSpace": _size, "minFreeSpace": _size,
    "gcpolicy": [_POLICY], "networkMode": _text, "cniConfigPath": _text, "cniBinaryPath": _text, "cniPoolSize": _whole,
    "bridgeName": _text, "bridgeSubnet": _text, "apparmor-profile": _text, "selinux": _switch,
    "max-parallelism": _whole, "defaultCgroupParent": _text,
}  # fmt: skip
_OCI = {
    "noProcessSandbox": _switch, "userRemapUnsupported": _text, "binary": _text, "proxySnapshotterPath": _text,
    "stargzSnapshotter": {_FREE: _anything},
}  # fmt: skip
_CONTAINERD = {
    "address": _text, "namespace": _text, "runtime": {"name": _text, "path": _text, "options": {_FREE: _anything}},
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
    "registry": {_FREE: _REGISTRY},
    "dns": {"nameservers": _texts, "options": _texts, "searchDomains": _texts},
    "history": {"maxAge": _duration, "maxEntries": _whole},
    "frontend": {
        "dockerfile.v0": {"enabled": _switch},
        "gateway.v0": {"enabled": _switch, "allowedRepositories": _texts},
    },
    "system": {"platformsCacheMaxAge": _duration, "maxRegistryConcurrency": _whole},
    "cache": {"gha": {_FREE: _anything}},
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
            inside = known.get(key, known.get(_FREE))
            if inside is None:
                # `gcconfig` is often copied around, and has never been a key.
                instead = "policies are [[worker.oci.gcpolicy]]" if key == "gcconfig" else meant(key, sorted(known))
                raise UserError(
                    f"BuildKit knows no key {key!r} in {f'[{shown}]' if shown else 'the file itself'}",
                    where=place((*path, key)),
                    remedy=instead,
                )
            _look(value, inside, (*path, key), place)
    elif not known.fits(content):
        raise UserError(f"{shown} must be {known.words}, not {content!r}", where=place(path))


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line on which a key stands: the first one that sets it in a table of that path, else its table's, else 1."""
    table: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if not (match := _LINE.match(line)):
            continue
        names = tuple(part.strip("\"'") for part in re.findall(_PART, match[1] or match[2]))
        table, whole = (names, names) if match[1] else (table, (*table, *names))
        if whole[: len(path)] == path:
            return number
        common = sum(a == b for a, b in zip(table, path, strict=False))
        if common > depth:
            best, depth = number, common
    return best
