"""What does each instruction of a Dockerfile say? Parsed by a library's port of BuildKit's parser.

``e2b_dockerfile_utils`` was preferred to ``dockerfile`` (BuildKit's own parser as a compiled Go library): it runs
on every processor, and brings the lexer that expands variables, which the other lacks. Two things
that it does otherwise than BuildKit are put right here: words of ``COPY`` and ``ADD`` end at white space, quoted or
not; and an ``ONBUILD`` instruction may hold a heredoc.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.base.errors import UserError

_ONBUILD = re.compile(r"^(\s*)onbuild(?=\s|\\|`|$)", re.IGNORECASE)
_WORD_SPACE = re.compile(r"[\t\v\f\r ]+")
_NAMES = (
    ["ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"]
    + ["ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"]
)  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One instruction: upper-case ``name``, unexpanded ``words``, ``flags`` by name, ``text`` as one line."""

    name: str
    words: tuple[str, ...]
    flags: Mapping[str, tuple[str, ...]]
    line: int
    text: str
    onbuild: bool = False

    def flag(self, name: str) -> str:
        """The last value of a flag; ``""`` when it is absent."""
        return self.flags.get(name, ("",))[-1]

    def is_set(self, name: str) -> bool:
        """Is a flag without a value (``--parents``) set?"""
        return self.flags.get(name, ("false",))[-1] in ("", "true")


@dataclass(frozen=True)
class Script:
    """A parsed Dockerfile: its instructions, its ``# escape`` character and its ``# syntax`` image."""

    instructions: tuple[Instruction, ...]
    escape: str
    syntax: str


@dataclass(frozen=True)
class Mount:
    """One ``RUN --mount``: ``kind`` (bind, cache, …), the fields that say what it reads, and of a cache its ``id``."""

    kind: str
    origin: str
    source: str
    secret: str
    id: str = ""


def parse(text: str, where: str, line: int = 0) -> Script:
    """Parse a Dockerfile; a syntax error raises ``UserError`` with ``where:line`` (``line``: of a trigger's stage)."""
    from e2b_dockerfile_utils import DockerfileSyntaxError, parse_dockerfile_ast

    lines = text.split("\n")
    triggers = {number for number, each in enumerate(lines, 1) if _ONBUILD.match(each)}
    plain = "\n".join(_ONBUILD.sub(r"\1", each) for each in lines)
    try:
        parsed = parse_dockerfile_ast(plain)
    except DockerfileSyntaxError as error:
        message = str(error).partition(": ")[2] or str(error)
        raise UserError(message, where=f"{where}:{line or error.line or 1}", remedy=_meant(message)) from None
    instructions = []
    for node in parsed.instructions:
        words = list(node.args)
        if node.name in ("COPY", "ADD") and not node.json:
            words = [part for word in words for part in _WORD_SPACE.split(word) if part]
        flags: dict[str, tuple[str, ...]] = {}
        for flag in node.flags:
            name, _, value = flag.removeprefix("--").partition("=")
            flags[name] = (*flags.get(name, ()), value)
        onbuild = node.start_line in triggers
        at = line or node.start_line
        instructions.append(Instruction(node.name, tuple(words), flags, at, node.original, onbuild))
    return Script(tuple(instructions), parsed.escape_token, _syntax(text))


def expand(word: str, escape: str, variables: Mapping[str, str], where: str) -> str:
    """A word after BuildKit's expansion of variables, quotes and escapes; ``UserError`` if it cannot be."""
    from e2b_dockerfile_utils import ShellLex

    try:
        return ShellLex(escape, env=variables, skip_unset_env=False).process_word(word)
    except ValueError as error:
        raise UserError(str(error), where=where) from None


def is_heredoc(word: str) -> bool:
    """Is this source of a ``COPY`` the start of a heredoc (``<<EOF``), which reads no file?"""
    from e2b_dockerfile_utils import parse_heredoc

    try:
        return "<<" in word and parse_heredoc(word) is not None
    except ValueError:
        return False


def mount(text: str, escape: str, variables: Mapping[str, str], where: str) -> Mount:
    """What one value of ``RUN --mount=`` says; ``type=bind`` is the default."""
    kind, origin, source, target, name = "bind", "", "", "", ""
    for field in _fields(text, where):
        key, equals, value = field.partition("=")
        if not equals:
            continue
        value = expand(value, escape, variables, where)
        match key.lower():
            case "type":
                kind = value.lower()
            case "from":
                origin = value
            case "source" | "src":
                source = value
            case "target" | "dst" | "destination":
                target = value
            case "id":
                name = value
    return Mount(kind, origin, source, source or name or target.rstrip("/").rpartition("/")[2], name or target)


def _fields(text: str, where: str) -> list[str]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise UserError(f"this mount cannot be read: {error}", where=where) from None


def _syntax(text: str) -> str:
    """The image of a ``# syntax=`` line, which only the first comment lines may hold."""
    for line in text.removeprefix("\ufeff").split("\n"):
        match = re.match(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S+)", line)
        if not match:
            if line.startswith("#!"):
                continue
            return ""
        if match[1].lower() == "syntax":
            return match[2]
    return ""


def _meant(message: str) -> str:
    match = re.fullmatch(r"unknown instruction: (.+)", message)
    if not match:
        return ""
    import difflib

    close = difflib.get_close_matches(match[1].upper(), _NAMES, 1)
    return f"did you mean {close[0]}?" if close else ""
