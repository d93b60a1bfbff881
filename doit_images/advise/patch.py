"""How is a Dockerfile changed as a person would change it? Comments, order and style stay as they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doit_images.core.inputs import syntax
from doit_images.core.inputs.instructions import Instruction, parse, texts


@dataclass(frozen=True)
class Patch:
    """What a ``rule`` proposes for a Dockerfile, because of the instruction in this ``line``: the new text, and why.
    ``removes`` are the paths of the image that it means to remove, with all below them, each with the reason.
    ``others`` are the new texts of further files, which may be new themselves, by absolute paths."""

    rule: str
    line: int
    why: str
    text: str
    removes: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """An instruction with the comments right above it: where it begins (``line``, from 1), and all of its lines, of
    which the numbers from 0 are ``first`` to ``last``, with their ends."""

    instruction: Instruction
    line: int
    first: int
    last: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The instruction alone, without the comments above it, its lines ending in LF and the last one in none."""
        return "".join(self.lines[self.line - 1 - self.first :]).replace("\r\n", "\n").rstrip("\n")

    @property
    def end(self) -> str:
        """How its lines end."""
        return "\r\n" if self.lines[0].endswith("\r\n") else "\n"


def spans(text: str) -> list[Span]:
    """The instructions of a Dockerfile with the lines that belong to them. Raises ``UserError`` where it is none."""
    script = parse(text, "Dockerfile", syntax.differing([text])[0])
    lines = text.splitlines(keepends=True)
    own = texts(text, [each.line for each in script.instructions])
    found: list[Span] = []
    for each in script.instructions:
        first, last = each.line - 1, each.line - 1 + own[each.line].count("\n")
        free = found[-1].last + 1 if found else first  # what is above the first one may be for the frontend
        while first > free and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        found.append(Span(each, each.line, first, last, tuple(lines[first : last + 1])))
    return found


def edited(text: str, new: Mapping[int, str]) -> str:
    """A Dockerfile in which other text stands in place of the instructions that begin in these lines (``Span.text``),
    or, where that is empty, nothing: the comments above it and a second empty line go, too."""
    lines = text.splitlines(keepends=True)
    for span in reversed(spans(text)):
        if span.line in new:
            at = span.line - 1 if new[span.line] else span.first
            last = span.end if lines[span.last].endswith("\n") else ""
            own = f"{new[span.line]}\n".replace("\n", span.end).removesuffix(span.end) + last
            lines[at : span.last + 1] = [own] if new[span.line] else []
            if not new[span.line] and not "".join(lines[max(at - 1, 0) : at + 1]).strip():
                del lines[at : at + 1]
    return "".join(lines)


def unnamed(text: str) -> str:
    """A FROM without the name of its stage.

    >>> unnamed("FROM python AS builder"), unnamed("FROM python")
    ('FROM python', 'FROM python')
    """
    return re.sub(r"\s+AS\s+\S+\s*$", "", text, flags=re.IGNORECASE)


def moved(text: str, span: Span, above: Span, first: Sequence[str] = ()) -> str:
    """A Dockerfile in which an instruction, with its comments and all between, stands before one ``above`` it, after
    the lines ``first``; the empty lines before it then follow it."""
    lines = (text if text.endswith("\n") else f"{text}{span.end}").splitlines(keepends=True)
    own, block = lines[span.first : span.last + 1], lines[above.first : above.last + 1]
    between = lines[above.last + 1 : span.first]
    filled = max((number for number, line in enumerate(between, 1) if line.strip()), default=0)
    new = [f"{line}{span.end}" for line in first] + between[:filled] + own + between[filled:] + block
    return "".join([*lines[: above.first], *new, *lines[span.last + 1 :]])


def difference(before: str | None, after: str, name: str) -> str:
    """What becomes of a file, None for one that is new, as ``git apply`` takes it."""
    pair = ((before or "").splitlines(keepends=True), after.splitlines(keepends=True))
    lines = difflib.unified_diff(*pair, "/dev/null" if before is None else f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
