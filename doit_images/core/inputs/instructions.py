"""What does each instruction of a Dockerfile say? ``syntax`` tells them apart; words are expanded by a library.

``e2b_dockerfile_utils`` holds a port of BuildKit's lexer, which expands variables, quotes and escapes.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from doit_images.core.base.errors import UserError
from doit_images.core.inputs import syntax

_ODD_BYTE = re.compile("[\udc80-\udcff]")
_FIELDS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_SWITCHES = ("readonly", "readwrite", "required")


@dataclass(frozen=True)
class Instruction:
    """One instruction: upper-case ``name``, unexpanded ``words``, ``flags`` by name. Of a ``trigger``, which stands
    after ``ONBUILD``, the text that a child is given."""

    name: str
    words: tuple[str, ...]
    flags: Mapping[str, tuple[str, ...]]
    line: int
    trigger: str = ""

    def flag(self, name: str) -> str:
        """The last value of a flag; ``""`` when it is absent."""
        return self.flags.get(name, ("",))[-1]

    def is_set(self, name: str) -> bool:
        """Is a flag without a value (``--parents``) set?"""
        return self.flags.get(name, ("false",))[-1].lower() in ("", "true")


@dataclass(frozen=True)
class Script:
    """A Dockerfile as one ``frontend`` reads it: its instructions and its ``# escape`` character."""

    instructions: tuple[Instruction, ...]
    escape: str
    frontend: int


@dataclass(frozen=True)
class Mount:
    """One ``RUN --mount``: ``kind`` (bind, cache, …), the fields that say what it reads, and of a cache its ``id``;
    ``named`` is what its field ``id`` says."""

    kind: str
    origin: str
    source: str
    secret: str
    id: str = ""
    named: str = ""


def parse(text: str, where: str, frontend: int) -> Script:
    """Read a Dockerfile as ``docker/dockerfile:1.<frontend>`` does; a syntax error raises ``UserError`` with
    ``where:line``."""
    try:
        file = syntax.read(text, frontend)
    except syntax.Wrong as wrong:
        raise UserError(str(wrong), where=f"{where}:{wrong.line or 1}") from None
    return Script(tuple(_instruction(node, where, frontend) for node in file.nodes), file.escape, frontend)


def trigger(text: str, where: str, line: int, frontend: int) -> Instruction:
    """The one instruction of an ``ONBUILD`` that a base hands on to the stage in this line; or ``UserError``."""
    try:
        nodes = syntax.read(text, frontend).nodes
    except syntax.Wrong as wrong:
        raise UserError(f"{wrong}, in an ONBUILD of the base", where=f"{where}:{line}") from None
    if len(nodes) != 1 or nodes[0].name == "from":
        raise UserError(f"ONBUILD {text!r} of the base is not one instruction", where=f"{where}:{line}")
    return replace(_instruction(nodes[0], where, frontend), line=line)


def _instruction(node: syntax.Node, where: str, frontend: int) -> Instruction:
    if node.name not in syntax.NAMES:
        known = [name.upper() for name in syntax.NAMES]
        close = difflib.get_close_matches(node.name.upper(), known, 1)
        remedy = f"did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown instruction: {node.name.upper()}", where=f"{where}:{node.line}", remedy=remedy)
    said = node.child or node
    flags: dict[str, tuple[str, ...]] = {}
    for flag in said.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        flags[name] = (*flags.get(name, ()), value)
    handed_on = syntax.as_one(node) if node.child else ""
    return Instruction(said.name.upper(), said.args, flags, node.line, handed_on)


def expand(word: str, escape: str, variables: Mapping[str, str], where: str) -> str:
    """A word after BuildKit's expansion of variables, quotes and escapes; ``UserError`` if it cannot be."""
    from e2b_dockerfile_utils import ShellLex

    lexer = ShellLex(escape, env=variables, skip_unset_env=False)
    plain = _ODD_BYTE.sub("\ufffd", word.removeprefix("\ufeff"))
    try:
        return lexer.process_word(plain)
    except ValueError as error:
        older = syntax.older(plain)
        if older == plain:
            raise UserError(str(error), where=where) from None
        return expand(older, escape, variables, where)


def is_heredoc(word: str) -> bool:
    """Is this source of a ``COPY`` the start of a heredoc (``<<EOF``), which reads no file?"""
    try:
        return syntax.heredoc(word) is not None
    except ValueError:
        return False


def mount_fields(text: str, escape: str, variables: Mapping[str, str], where: str) -> dict[str, str]:
    """The fields of one value of ``RUN --mount=``, by their full names in lower case; of one without a value "true"."""
    found: dict[str, str] = {}
    for field in _fields(text, where):
        key, equals, value = field.partition("=")
        name = _FIELDS.get(key.lower(), key.lower())
        if equals or name in _SWITCHES:
            found[name] = expand(value, escape, variables, where) if equals else "true"
    return found


def mount(text: str, escape: str, variables: Mapping[str, str], where: str) -> Mount:
    """What one value of ``RUN --mount=`` says; ``type=bind`` is the default."""
    said = mount_fields(text, escape, variables, where)
    source, target, name = (said.get(key, "") for key in ("source", "target", "id"))
    secret = source or name or target.rstrip("/").rpartition("/")[2]
    return Mount(said.get("type", "bind").lower(), said.get("from", ""), source, secret, name or target, name)


def texts(text: str, starts: Sequence[int]) -> dict[int, str]:
    """What stands in each instruction, by the line in which it begins; comments and empty lines after it belong to the
    next."""
    lines, found = text.split("\n"), {}
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        own = lines[start - 1 : max(end - 1, start)]
        while own[1:] and (not own[-1].strip() or own[-1].lstrip().startswith("#")):
            own.pop()
        found[start] = "\n".join(own).strip()
    return found


def _fields(text: str, where: str) -> list[str]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise UserError(f"this mount cannot be read: {error}", where=where) from None
