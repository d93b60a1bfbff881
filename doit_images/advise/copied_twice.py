"""The rule: owner and mode of what is copied are set as it is copied, not by a step that makes it all a second time.

    COPY . /app                     →    COPY --chown=app:app . /app
    RUN chown -R app:app /app

Only where this is the same: below what is changed lies nothing but what the ``COPY`` steps right above have copied. A
folder that ``WORKDIR`` made stays root's by that, so a ``chown`` of it alone remains.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from doit_images.advise.around import Around, around
from doit_images.advise.patch import Patch, Span, edited, spans
from doit_images.advise.shell import commands
from doit_images.advise.steps import Step
from doit_images.core.inputs.instructions import Instruction

NAME = "copied-twice"
_NEUTRAL = ("WORKDIR", "ENV", "ARG", "LABEL", "EXPOSE", "CMD", "ENTRYPOINT", "HEALTHCHECK", "STOPSIGNAL")
_OWNER = re.compile(r"[\w-]+(:[\w-]+)?")
_MODE = re.compile(r"[0-7]{3,4}")
_SYMBOLIC = re.compile(r"([ugoa]*)\+([rx]+)")
_FOLDERS = "755"  # what COPY gives the folders that it makes, whatever --chmod says
_COPY = re.compile(r"COPY(?:(?:[ \t]|\\\n)+--\S+)*", re.IGNORECASE)


class _Change(NamedTuple):
    """What the first command of a RUN changes: ``flag`` is ``chown`` or ``chmod``, ``value`` its first word."""

    flag: str
    value: str
    target: str
    recursive: bool


class _Copied(NamedTuple):
    """A COPY above, where it copies to, and the one file that it brings with its mode, as far as these are known."""

    span: Span
    target: str
    file: str = ""
    mode: int = 0


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch for each change of owner or mode in a Dockerfile with these steps that COPY could make."""
    there, every = around(text), spans(text)
    by_line = {step.line: step for step in steps}
    for number, span in enumerate(every):
        if span.instruction.name != "RUN" or span.line not in by_line or not there[span.line].is_root:
            continue
        if not (change := _change(span.text, there[span.line])):
            continue
        above = _above(every[:number], there, by_line)
        if new := _new(change, above, there[span.line]):
            own = {each.span.line: _with(each.span.text, change.flag, new) for each in above if _covers(change, each)}
            line = min(own)
            stays = not any(each.file == change.target for each in above) and _stays(change, there[span.line])
            why = f"line {span.line} makes a second copy of what line {line} copies"
            yield Patch(NAME, line, why, edited(text, {**own, span.line: _rest(span.text, change, stays=stays)}))


def _change(text: str, here: Around) -> _Change | None:
    found = commands(text)
    if not found or (found[1:] and found[1].join not in ("&&", ";")):
        return None
    flag, words = found[0].words[0], found[0].words[1:]
    recursive = words[:1] in (("-R",), ("--recursive",))
    words = words[1:] if recursive else words
    if flag not in ("chown", "chmod") or len(words) != 2 or words[0].startswith("-"):
        return None
    target = here.path(words[1])
    return _Change(flag, words[0], target, recursive) if target not in ("", "/") else None


def _above(every: Sequence[Span], there: Mapping[int, Around], steps: Mapping[int, Step]) -> list[_Copied]:
    """The COPY steps that stand right above, the nearest first."""
    found: list[_Copied] = []
    for span in reversed(every):
        if span.instruction.name == "COPY" and not span.instruction.trigger and span.line in steps:
            found.append(_copied(span, there[span.line], steps[span.line]))
        elif span.instruction.name not in _NEUTRAL:
            break
    return found


def _copied(span: Span, here: Around, step: Step) -> _Copied:
    *sources, last = span.instruction.words
    target = here.path(last)
    entries = [entry for _, selection in step.files for entry in selection.entries() if entry.kind != "dir"]
    if len(sources) != 1 or len(entries) != 1 or entries[0].kind != "file":
        return _Copied(span, target)
    path, mode = entries[0].path, entries[0].mode
    if posixpath.normpath(sources[0]).lstrip("/") != path or not target:
        return _Copied(span, target)
    into = last.endswith(("/", "/.")) or last == "." or target == here.path(".")
    return _Copied(span, target, posixpath.join(target, posixpath.basename(path)) if into else target, mode)


def _covers(change: _Change, copied: _Copied) -> bool:
    """Whether all that a COPY brings is changed."""
    return copied.file == change.target or (change.recursive and _is_below(copied.target, change.target))


def _new(change: _Change, above: Sequence[_Copied], here: Around) -> str:
    """The value of the flag that makes a change needless; ``""`` where there is none."""
    covered = [each for each in above if _covers(change, each)]
    if not covered or any(not each.target for each in above):
        return ""
    one = covered[0] if len(covered) == 1 and covered[0].file == change.target else None
    if not one and not (change.recursive and _holds_nothing_else(change, above, here)):
        return ""
    if any(_is_below(change.target, each.target) for each in above if each not in covered and each.file == ""):
        return ""
    value = _owner(change, covered) if change.flag == "chown" else _mode(change, one)
    flags = [each.span.instruction for each in covered]
    linked = change.flag == "chown" and not re.fullmatch(r"\d+:\d+", value)
    if any(change.flag in each.flags or "parents" in each.flags or (linked and "link" in each.flags) for each in flags):
        return ""
    if change.flag == "chmod" and not one and value != _FOLDERS and any(c.target != change.target for c in covered):
        return ""
    return value


def _owner(change: _Change, covered: Sequence[_Copied]) -> str:
    """Who owns it then. Without a group it stays root's, which is known of what the context gives."""
    if not _OWNER.fullmatch(change.value):
        return ""
    if ":" in change.value:
        return change.value
    return "" if any("from" in each.span.instruction.flags for each in covered) else f"{change.value}:0"


def _mode(change: _Change, one: _Copied | None) -> str:
    """The mode then, octal: COPY knows no other everywhere."""
    if _MODE.fullmatch(change.value):
        return change.value
    said = _SYMBOLIC.fullmatch(change.value)
    if not said or not one:
        return ""
    who = "ugo" if said[1] == "" or "a" in said[1] else said[1]
    bits = sum({"r": 4, "x": 1}[what] for what in set(said[2]))
    return f"{one.mode | sum(bits << {'u': 6, 'g': 3, 'o': 0}[each] for each in set(who)):o}"


def _holds_nothing_else(change: _Change, above: Sequence[_Copied], here: Around) -> bool:
    """Whether a folder has nothing that came before the COPY steps right above, as far as this Dockerfile says."""
    nearest = {each.span.line for each in above}
    made = {*_workdirs(here), *(each.target for each in above)}
    if change.target not in made or any(
        _is_below(each, change.target) for each in _workdirs(here) if each != change.target
    ):
        return False
    folder = ""
    for each in here.above:
        if each.name == "WORKDIR":
            folder = posixpath.join(folder, each.words[0])
        elif each.name in ("RUN", "COPY", "ADD") and each.line not in nearest and _may_fill(each, folder, change):
            return False
    return True


def _may_fill(each: Instruction, folder: str, change: _Change) -> bool:
    if each.name == "RUN":
        said = " ".join((*each.words, *(value for values in each.flags.values() for value in values)))
        return _is_below(folder, change.target) or change.target in said or "<<" in said
    target = Around("", "", folder=folder).path(each.words[-1])
    return not target or _is_below(target, change.target) or _is_below(change.target, target)


def _is_below(path: str, folder: str) -> bool:
    """Whether it is this folder, or below it."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _with(text: str, flag: str, value: str) -> str:
    return _COPY.sub(lambda found: f"{found[0]} --{flag}={value}", text, count=1)


def _rest(text: str, change: _Change, *, stays: bool) -> str:
    """The RUN without its first command, or with that for the one folder that COPY leaves as it is."""
    first, *others = commands(text)
    if stays:
        own = re.sub(r"[ \t]+(-R|--recursive)(?=[ \t])", "", text[first.start : first.end], count=1)
        return text[: first.start] + own + text[first.end :]
    return text[: first.start] + text[others[0].start :] if others else ""


def _stays(change: _Change, here: Around) -> bool:
    """Whether the folder itself is another's: COPY gives no folder a mode, nor one that WORKDIR made an owner."""
    if change.flag == "chmod":
        return change.value != _FOLDERS
    return change.target in _workdirs(here)


def _workdirs(here: Around) -> list[str]:
    found, folder = [], ""
    for each in here.above:
        if each.name == "WORKDIR":
            folder = posixpath.join(folder, each.words[0])
            found.append(posixpath.normpath(folder))
    return found
