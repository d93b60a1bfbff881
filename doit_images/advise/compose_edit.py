"""How does a Compose file come to declare a base, and which services build on it? Comments, order and style stay.

Where something stands in the text the YAML library says; what it cannot say for sure (an anchor that others may merge)
is not edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_KEPT = ("<<", "context", "args", "secrets", "ssh", "network", "additional_contexts")
_ALIAS = re.compile(r"\s*:\s*(\*[^\s,}\]]+)")
_ANCHOR = re.compile(r"\s*:\s*&")


class Base(NamedTuple):
    """A base: the name of its service, its ``context`` as Compose takes it ("": as the first service says it that
    builds on it), and its Dockerfile from there."""

    name: str
    context: str
    dockerfile: str


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


class _NotEditedError(Exception):
    """It is not known how."""


def with_base(text: str, base: Base, services: Sequence[str]) -> str | None:
    """A Compose file that declares a base, before the services that it has, and that these build on it, in the manner
    of the first of them. None where it cannot be edited so."""
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
        key, declared = _pair(root, "services")
        if declared.flow_style or not set(services) <= _names(declared) or base.name in _names(declared):
            return None
        step = declared.value[0][0].start_mark.column
        edits = [_child(text, base.name, _pair(declared, name)[1], step) for name in services]
        at = text.index("\n", key.end_mark.index) + 1
        edits.append(_Edit(at, at, _service(text, base, declared, services[0])))
    except (yaml.YAMLError, _NotEditedError, AttributeError, ValueError):
        return None
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + (new.replace("\n", "\r\n") if "\r\n" in text else new) + text[end:]
    return text


def _names(node: Any) -> set[str]:
    return {key.value for key, _ in node.value}


def _pair(node: Any, name: str) -> tuple[Any, Any]:
    for key, value in node.value:
        if key.value == name:
            return key, value
    raise _NotEditedError


def _child(text: str, base: str, service: Any, step: int) -> _Edit:
    """How a service comes to build on the base; ``step`` is how much further in what is deeper stands."""
    key, build = _pair(service, "build")
    said, outer = f'{base}: "service:{base}"', key.start_mark.column
    alias = _ALIAS.match(text, key.end_mark.index)
    if _ANCHOR.match(text, key.end_mark.index):
        raise _NotEditedError
    if alias or isinstance(build.value, str):
        start, end = alias.span(1) if alias else (build.start_mark.index, build.end_mark.index)
        first = f"<<: {alias[1]}" if alias else f"context: {text[start:end]}"
        if service.flow_style:
            return _Edit(start, end, f"{{{first}, additional_contexts: {{{said}}}}}")
        lead, deeper = "\n" + " " * (outer + step), " " * step
        new = f"{lead}{first}{lead}additional_contexts:{lead}{deeper}{said}"
        return _Edit(len(text[:start].rstrip(" ")), end, new)
    if "additional_contexts" in _names(build):
        key, held = _pair(build, "additional_contexts")
        if not hasattr(held, "value") or _ALIAS.match(text, key.end_mark.index) or not isinstance(held.value[0], tuple):
            raise _NotEditedError
        return _added(text, held, said, said)
    return _added(text, build, f"additional_contexts:\n{' ' * step}{said}", f"additional_contexts: {{{said}}}")


def _added(text: str, node: Any, block: str, flow: str) -> _Edit:
    """A mapping with one more pair, at its end."""
    end = _end(text, *node.value[-1])
    if node.flow_style:
        return _Edit(end, end, f", {flow}")
    line = text.find("\n", end)
    at = len(text) if line < 0 else line - (text[line - 1] == "\r")
    lead = "\n" + " " * node.value[0][0].start_mark.column
    return _Edit(at, at, lead + block.replace("\n", lead))


def _end(text: str, key: Any, value: Any) -> int:
    """Where a pair ends; the library's mark of a block is where the next token begins."""
    if alias := _ALIAS.match(text, key.end_mark.index):
        return alias.end()
    if isinstance(value.value, str) or value.flow_style or not value.value:
        return len(text[: value.end_mark.index].rstrip())
    last = value.value[-1]
    if isinstance(last, tuple):
        return _end(text, *last)
    if not isinstance(last.value, str) or text[last.start_mark.index - 1] not in " \n":
        raise _NotEditedError
    return int(last.end_mark.index)


def _service(text: str, base: Base, declared: Any, first: str) -> str:
    """The service of the base, in the manner of the ``first`` that builds on it."""
    service = _pair(declared, first)[1]
    outer = declared.value[0][0].start_mark.column
    inner = 2 * outer if service.flow_style else service.value[0][0].start_mark.column
    lead = "\n" + " " * inner
    image = _pair(service, "image")[1].value if "image" in _names(service) else ""
    named = [f"image: {image.replace(first, base.name)}"] if image.count(first) == 1 else []
    key, build = _pair(service, "build")
    alias = _ALIAS.match(text, key.end_mark.index)
    if alias:
        parts, flow, column = [f"<<: {alias[1]}"], False, inner + outer
    elif isinstance(build.value, str):
        parts, flow, column = [f"context: {text[build.start_mark.index : build.end_mark.index]}"], False, inner + outer
    else:
        parts, flow = [*_kept(text, build)], bool(build.flow_style)
        column = build.value[0][0].start_mark.column
    if base.context:
        parts = [f"context: {base.context}", *(part for part in parts if not part.startswith("context:"))]
    parts.append(f"dockerfile: {base.dockerfile}")
    deeper = "\n" + " " * column
    built = f"build: {{{', '.join(parts)}}}" if flow else "build:" + "".join(f"{deeper}{part}" for part in parts)
    own = lead.join(["scale: 0", "network_mode: none", built])
    apart = "\n" if len(declared.value) > 1 and _apart(text, declared) else ""
    return f"{' ' * outer}{base.name}:{lead}{''.join(f'{each}{lead}' for each in named)}{own}\n{apart}"


def _kept(text: str, build: Any) -> Iterator[str]:
    for key, value in build.value:
        if key.value in _KEPT:
            yield text[key.start_mark.index : _end(text, key, value)].replace("\r\n", "\n")
        elif key.value not in ("dockerfile", "target"):
            raise _NotEditedError


def _apart(text: str, declared: Any) -> bool:
    """Whether an empty line stands between the first two services."""
    between = text[declared.value[0][0].end_mark.index : declared.value[1][0].start_mark.index]
    return bool(re.search(r"\n[ \t]*\r?\n", between))
