"""Which instructions stand in the text of a Dockerfile? Read as BuildKit's ``frontend/dockerfile/parser`` reads it.

``FRONTENDS`` are the versions of ``docker/dockerfile`` (1.N) from which on something is read otherwise than before;
BuildKit 0.N+6 holds the frontend 1.N. Blanks differ from place to place, as they do there: some are what Unicode calls
white space, some ASCII's. ``dockerfile`` of the package index, which is that parser itself, is the judge in the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from doit_images.core.inputs.ignorefile import SPACE

FRONTENDS = (6, 7, 8, 9, 16, 21)
TRIM, CHECK, WHOLE_JSON, HEREDOC_AFTER_BLANK, WIDE_DIRECTIVE = FRONTENDS[1:]
"""The lexer knows ``${A%b}`` (before, such a line had no heredoc); ``# check=`` is a directive; the exec form is all
of the rest, and flags have the file's escape character; blanks may follow ``<<``; any white space may follow the ``#``
of a directive."""

_BYTE_BLANKS = "\t\n\v\f\r \x85\xa0"
_NARROW_BLANKS = "\t\n\f\r "
_GAP = re.compile("[\t\v\f\r ]+")
_DIRECTIVE = re.compile("([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*")
_NO_UTF8 = re.compile("[\ud800-\udfff]")
# From 1.9 on the lexer loses what stands in a word before one of these: then it starts no heredoc.
_FORGOTTEN = re.compile(r"\$\{[^}]?\w*[^\w}]")
_AS_IT_IS = re.compile(r"\\.|'[^']*'")
_TRIMS = re.compile(r"(?<!\$)\$\{\w+[#%/]")
_TRIM = re.compile(r"(\$\{\w+):([%#])")
_MARK = re.compile("^([0-9]*<<-?[\t\n\f\r ]*)\ufeff")  # the lexer passes over it at the beginning of a word
_LINES = re.compile("[^\n]*\n|[^\n]+")
_DIRECTIVES = ("syntax", "escape", "check")
_WITH_HEREDOC = ("add", "copy", "run")


class Wrong(ValueError):
    """BuildKit's parser refuses this: the sentence, and the number of the ``line``."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Node:
    """One instruction: lower-case ``name``, ``flags`` as ``--name=value``, ``args`` (of ``json``: the exec form),
    ``text`` as one line, ``heredocs`` as they stand below it, and of ``ONBUILD`` the ``child``."""

    name: str
    text: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    json: bool = False
    line: int = 0
    heredocs: tuple[tuple[str, str], ...] = ()
    child: Node | None = None


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile: its instructions and its escape character."""

    nodes: tuple[Node, ...]
    escape: str


def read(text: str, frontend: int) -> Dockerfile:
    """The instructions of a text (bytes that are not UTF-8: as surrogates) to a frontend; ``Wrong`` if it refuses."""
    return _Parser(text.removeprefix("\ufeff"), frontend).run()


def differing(texts: Iterable[str]) -> list[int]:
    """The newest frontend, and each other one that reads some of these texts in a way of its own."""
    found: dict[tuple[Dockerfile | str, ...], int] = {}
    some = list(texts)
    for frontend in reversed(FRONTENDS):
        found.setdefault(tuple(_tried(text, frontend) for text in some), frontend)
    return list(found.values())


def _tried(text: str, frontend: int) -> Dockerfile | str:
    try:
        return read(text, frontend)
    except Wrong as wrong:
        return str(wrong)


def lower(name: str) -> str:
    """As Go makes a word lower-case: letter by letter."""
    return name.replace("İ", "i").lower()


def image(text: str) -> str:
    """The image of a ``# syntax=`` line, if any frontend sees one there."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[0].startswith("#!"):
        del lines[0]
    for frontend in (WIDE_DIRECTIVE, CHECK):
        for line in lines:
            name, value = _directive(line.removesuffix("\r"), frontend)
            if name == "syntax":
                return value.partition(" ")[0]
            if not name:
                break
    return ""


def as_one(node: Node) -> str:
    """What ``ONBUILD`` hands on: its instruction as text, with the heredocs below it."""
    text = re.sub(r"^[\t\n\f\r ]*onbuild[\t\n\f\r ]*", "", node.text, flags=re.IGNORECASE | re.ASCII)
    return "\n".join([text, *(content + name for name, content in node.heredocs)])


def older(text: str) -> str:
    """What ``${A:%b}``, which is refused from 1.9 on, was taken for before."""
    return _TRIM.sub(r"\1\2", text)


def heredoc(word: str) -> Any:
    """The heredoc that a word starts, with its ``name`` and whether to ``chomp`` tabs; ``None`` if it starts none."""
    from e2b_dockerfile_utils import parse_heredoc

    return parse_heredoc(_MARK.sub(r"\1", word)) if "<<" in word else None


def _directive(line: str, frontend: int) -> tuple[str, str]:
    """Name and value of a directive; two empty words where the line is none."""
    rest = line[1:].lstrip(SPACE if frontend >= WIDE_DIRECTIVE else _NARROW_BLANKS)
    match = _DIRECTIVE.fullmatch(rest) if line.startswith("#") else None
    name = lower(match[1]) if match else ""
    return (name, match[2]) if match and name in _DIRECTIVES[: 3 if frontend >= CHECK else 2] else ("", "")


class _Parser:
    """One text on its way through the parser of one frontend."""

    def __init__(self, text: str, frontend: int) -> None:
        self.lines: Iterator[str] = iter(_LINES.findall(text))
        self.frontend = frontend
        self.escape = "\\"
        self.line = 0
        self.directives: set[str] | None = set()

    def run(self) -> Dockerfile:
        nodes: list[Node] = []
        for raw in self.lines:
            self.line += 1
            line, ended = self._cut(self._own(raw.rstrip("\r\n").lstrip(SPACE)))
            if line or not ended:
                start = self.line
                line += "" if ended else "".join(self._continued())
                try:
                    nodes.append(self._with_heredocs(replace(self._node(line), line=start)))
                except ValueError as error:
                    raise Wrong(str(error), start) from None
        if not nodes:
            raise Wrong("file with no instructions", self.line)
        return Dockerfile(tuple(nodes), self.escape)

    def _own(self, line: str) -> str:
        """A line without its comment, which may be a directive."""
        if self.directives is not None:
            name, value = _directive(line, self.frontend)
            if name in self.directives:
                raise Wrong(f"only one {name} parser directive can be used", self.line)
            if name == "escape" and value not in ("`", "\\"):
                raise Wrong(f"invalid escape token {value!r} does not match ` or \\", self.line)
            self.directives = self.directives | {name} if name else None
            self.escape = value if name == "escape" else self.escape
        return "" if line.lstrip(SPACE).startswith("#") else line

    def _cut(self, line: str) -> tuple[str, bool]:
        """A line without the character that makes the next one its continuation, and whether it ends here."""
        cut = line.rstrip(" \t")
        if cut.endswith(self.escape) and cut[-2:-1] != self.escape:
            return cut[:-1], False
        return line, True

    def _continued(self) -> Iterator[str]:
        for raw in self.lines:
            self.line += 1
            line = self._own(raw.rstrip("\r\n"))
            if line.lstrip(SPACE):
                line, ended = self._cut(line)
                yield line
                if ended:
                    return

    def _node(self, line: str) -> Node:
        command, *rest = _GAP.split(line.strip(SPACE), maxsplit=1)
        flags, args = self._flags(rest[0]) if rest else ((), "")
        name, args = lower(command), args.strip(SPACE)
        if name == "onbuild":
            return Node(name, line, flags, (), child=self._node(args) if args else None)
        words, is_json = _ARGUMENTS.get(name, _nothing)(args, self)
        return Node(name, line, flags, tuple(words), is_json)

    def _flags(self, line: str) -> tuple[tuple[str, ...], str]:
        """The flags at the beginning of a line, and the rest."""
        escape = self.escape if self.frontend >= WHOLE_JSON else "\\"
        text = _as_bytes(line)
        flags: list[str] = []
        at = 0
        while True:
            at = len(text) - len(text[at:].lstrip(_BYTE_BLANKS))
            if not text.startswith("--", at):
                break
            word, at = _flag(text, at, escape)
            if word == "--":
                break
            flags.append(word)
        return tuple(flags), _of_bytes(text[at:])

    def _with_heredocs(self, node: Node) -> Node:
        bearer = node.child or node
        if bearer.name not in _WITH_HEREDOC or bearer.json or "<<" not in node.text:
            return node
        return replace(node, heredocs=tuple(self._heredocs(node.text)))

    def _heredocs(self, line: str) -> Iterator[tuple[str, str]]:
        from e2b_dockerfile_utils import ShellLex

        if self.frontend < TRIM and _TRIMS.search(_AS_IT_IS.sub("", line)):
            return
        plain = line if self.frontend >= WHOLE_JSON else older(line)
        plain = plain if self.frontend >= HEREDOC_AFTER_BLANK else plain.replace("<", "\ue000")
        try:
            words = ShellLex("\\", raw_quotes=True, raw_escapes=True).process_words(plain)
        except ValueError:
            return
        if self.frontend >= WHOLE_JSON:
            words = [word for word in words if not _FORGOTTEN.search(_AS_IT_IS.sub("", word))]
        for found in filter(None, [heredoc(word.replace("\ue000", "<")) for word in words]):
            content = ""
            for raw in self.lines:
                self.line += 1
                end = raw.rstrip("\r\n")
                if (end.lstrip("\t") if found.chomp else end) == found.name:
                    break
                content += raw
            else:
                raise ValueError("unterminated heredoc")
            yield found.name, content


def _as_bytes(text: str) -> str:
    """A letter for each byte: where BuildKit looks at bytes, some of them are blanks within a letter."""
    return text.encode(errors="surrogateescape").decode("latin-1")


def _of_bytes(text: str) -> str:
    return text.encode("latin-1").decode(errors="surrogateescape")


def _flag(text: str, at: int, escape: str) -> tuple[str, int]:
    """The flag that begins here, without its quotes and escapes, and where it ends."""
    word, quote = "", ""
    while at < len(text):
        letter = text[at]
        if not quote and letter in _BYTE_BLANKS:
            break
        if letter == quote or (not quote and letter in "'\""):
            quote = "" if quote else letter
        elif letter != escape:
            word += letter
        elif at + 1 < len(text):
            at += 1
            word += text[at]
        at += 1
    return word, at


def words(rest: str, escape: str) -> list[str]:
    """Words that end at white space outside of quotes; quotes and escapes stay."""
    found: list[str] = []
    at = 0
    while rest := rest[at:].lstrip(SPACE):
        at, quote = 0, ""
        word = ""
        while at < len(rest) and (quote or rest[at] not in SPACE):
            letter = rest[at]
            if letter == escape and quote != "'":
                letter = rest[at : at + 2] if at + 1 < len(rest) else ""
                at += 1
            elif not quote and letter in "'\"":
                quote = letter
            elif letter == quote:
                quote = ""
            word += letter
            at += 1
        if word:
            found.append(word)
    return found


def _json(rest: str, frontend: int) -> list[str] | None:
    """The words of an exec form; ``None`` where it is none. Go puts U+FFFD for what is no text."""
    rest = rest.lstrip(SPACE)
    if not rest.startswith("["):
        return None
    try:
        found, end = _DECODER.raw_decode(rest)
    except (ValueError, RecursionError):
        return None
    if frontend >= WHOLE_JSON and rest[end:].strip(_NARROW_BLANKS):
        return None
    if not all(isinstance(word, str) for word in found):
        raise ValueError("when using JSON array syntax, arrays must be comprised of strings only")
    return [_NO_UTF8.sub("\ufffd", word) for word in found]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN is no JSON

Arguments = Callable[[str, _Parser], tuple[Sequence[str], bool]]


def _nothing(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    return ([""], False)


def _text(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    return [rest] * bool(rest), False


def _at_gaps(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    return _GAP.split(rest) if rest else (), False


def _quoted_words(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    return words(rest, reader.escape), False


def _exec_or(shell: Arguments) -> Arguments:
    def read(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
        found = _json(rest, reader.frontend)
        return shell(rest, reader) if found is None else (found, True)

    return read


def _health(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    kind, *command = (_of_bytes(part) for part in re.split(f"[{_BYTE_BLANKS}]+", _as_bytes(rest), maxsplit=1))
    found, is_json = _exec_or(_text)("".join(command), reader)
    return [*([kind] * bool(kind)), *found], is_json


def _names_and_values(rest: str, reader: _Parser) -> tuple[Sequence[str], bool]:
    """``NAME=VALUE …``, or all of the line after one ``NAME``: as names and values by turns."""
    found = words(rest, reader.escape)
    if found and "=" not in found[0]:
        pair = _GAP.split(rest, maxsplit=1)
        if len(pair) < 2:
            raise ValueError("this instruction must have two arguments")
        return pair, False
    for word in found:
        if "=" not in word:
            raise ValueError(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
    return [part for word in found for part in word.split("=", 1)], False


_ARGUMENTS: dict[str, Arguments] = {
    **dict.fromkeys(("add", "copy", "volume"), _exec_or(_at_gaps)),
    **dict.fromkeys(("cmd", "entrypoint", "run", "shell"), _exec_or(_text)),
    **dict.fromkeys(("env", "label"), _names_and_values),
    **dict.fromkeys(("expose", "from"), _at_gaps),
    **dict.fromkeys(("maintainer", "stopsignal", "user", "workdir"), _text),
    "arg": _quoted_words,
    "healthcheck": _health,
}
NAMES = frozenset({*_ARGUMENTS, "onbuild"})
