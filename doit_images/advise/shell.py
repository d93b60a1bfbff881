"""Which commands does a RUN hold, and where in its text, so that one can be changed and the rest stays?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from doit_images.core.inputs.instructions import mount_fields

_START = re.compile(r"RUN(?:[ \t]|\\\n)+", re.IGNORECASE)
_FLAG = re.compile(r"(--[a-z]+(?:=\S+)?)(?:[ \t]|\\\n)+")
_TOKEN = re.compile(
    r"""(?P<gap>(?:(?<=\n)[ \t]*\#[^\n]*\n|(?<=\n)[ \t]*\n|[ \t]|\\\n)+)
      | (?P<join>&&|\|\||[;|&()\n])
      | (?P<word>(?:\d*[<>]+&?|\\[^\n]|'[^']*'|"(?:\\.|[^"\\])*"|\$\([^()]*\)|`[^`]*`|[^\s;|&()'"\\`<>])+)""",
    re.VERBOSE | re.DOTALL,
)
_COMPOUND = {"if", "for", "while", "until", "case", "{", "!", "(", "function"}


class Command(NamedTuple):
    """One command: its words without quotes, where it begins and ends in the text, and what stands before it (``&&``,
    ``;``, ``|``, …; nothing before the first)."""

    words: tuple[str, ...]
    start: int
    end: int
    join: str


def flags(text: str) -> tuple[list[str], int]:
    """The flags of a RUN, and where its commands begin.

    >>> flags("RUN --network=none make")
    (['--network=none'], 19)
    """
    start = _START.match(text)
    at, found = start.end() if start else 0, list[str]()
    while flag := _FLAG.match(text, at):
        found.append(flag[1])
        at = flag.end()
    return found, at


def mounts(text: str) -> dict[str, Mapping[str, str]]:
    """The ``--mount`` flags of a RUN, each with its fields."""
    return {
        flag: mount_fields(flag.partition("=")[2], "\\", {}, "")
        for flag in flags(text)[0]
        if flag.startswith("--mount=")
    }


def commands(text: str) -> list[Command]:
    """The commands of a RUN in their order; none for a heredoc, an exec form, and what a shell reads as one compound.

    >>> [command.words for command in commands("RUN a 'b c' && \\\\\\n # note\\n  d")]
    [('a', 'b c'), ('d',)]
    """
    _, at = flags(text)
    if "<<" in text or text[at:].startswith("["):
        return []
    found: list[Command] = []
    words: list[tuple[str, int, int]] = []
    join = ""
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            return []
        if token["word"]:
            words.append((token[0], at, token.end()))
        elif token["join"]:
            found += _command(words, join)
            words, join = [], token[0]
        at = token.end()
    found += _command(words, join)
    plain = all(command.join not in ("(", ")", "&") and command.words[0] not in _COMPOUND for command in found)
    return found if plain else []


def _command(words: Sequence[tuple[str, int, int]], join: str) -> list[Command]:
    if not words:
        return []
    plain = tuple(_unquoted(word) for word, _, _ in words)
    return [Command(plain, words[0][1], words[-1][2], join)]


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word)) if re.search(r"['\"\\]", word) else word
    except ValueError:
        return word


def head(words: Sequence[str]) -> tuple[str, ...]:
    """A command without what only leads to it: variables, ``python -m``, a script that runs what follows.

    >>> head(("A=1", "sh", "with.sh", "python3", "-m", "pip", "install"))
    ('pip', 'install')
    """
    while words:
        if re.match(r"\w+=", words[0]) or words[0] in ("sudo", "exec", "time"):
            words = words[1:]
        elif (re.match(r"python[0-9.]*$", words[0]) and words[1:2] == ("-m",)) or (
            words[0] in ("sh", "bash") and words[2:] and not words[1].startswith("-")
        ):
            words = words[2:]
        else:
            break
    return tuple(words)


def is_of(command: Command, heads: Iterable[Sequence[str]]) -> bool:
    """Whether a command begins with one of these, its options aside."""
    words = [word for word in head(command.words) if not word.startswith("-")]
    return any(tuple(words[: len(one)]) == tuple(one) for one in heads)


def without_words(text: str, command: Command, gone: Iterable[str]) -> str:
    """A RUN in which a command lacks these words, with the line of one that stands alone."""
    part = text[command.start : command.end]
    for word in gone:
        own = re.escape(word)
        part = re.sub(rf"(?m)^[ \t]*{own}[ \t]*\\\n", "", part)
        part = re.sub(rf"(?:[ \t]*\\\n)?[ \t]+{own}(?=\s|\\\n|$)", "", part)
    return text[: command.start] + part + text[command.end :]


def without(text: str, command: Command, before: Command) -> str:
    """A RUN without a command and what joins it to the one ``before`` it."""
    return text[: before.end] + text[command.end :]


def with_mounts(text: str, mounts: Sequence[str], first: str = "") -> str:
    """A RUN with these further mounts, one a line, and ``first`` a command.

    >>> print(with_mounts("RUN --mount=type=secret,id=a make", ["--mount=type=cache,target=/c"]))
    RUN --mount=type=secret,id=a \\
        --mount=type=cache,target=/c \\
        make
    """
    there, at = flags(text)
    start = _START.match(text)
    if not start or not (mounts or first):
        return text
    kept = text[:at].rstrip(" \t\\\n") if there else text[: start.end()].split("\\")[0].rstrip()
    lead = " \\\n    " if "<<" not in text else " "
    new = (lead if there else " ") + lead.join(mounts) if mounts else ""
    command = lead + (f"{first} \\\n && " if first else "")
    return kept + new + command + text[at:].lstrip()
