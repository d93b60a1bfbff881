"""The rule: what several images do first, they do once, in an image that they build on.

    FROM python:3.13                        base-python.Dockerfile: FROM python:3.13
    RUN pip install uvicorn      →                                  RUN pip install uvicorn
    COPY web /app                           Dockerfile:             FROM base-python
                                                                    COPY web /app

The base is a service of the Compose file that is built and never started, and each image has it as a further context.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from doit_images.advise.around import around, shipped
from doit_images.advise.compose_edit import Base, with_base
from doit_images.advise.ignore_file import with_hidden
from doit_images.advise.patch import Patch, Span, edited, spans
from doit_images.advise.steps import steps_of
from doit_images.advise.whole import Whole
from doit_images.core.inputs.image_inputs import ImageInputs

NAME = "shared-base"
_SHARED = ("RUN", "COPY", "ADD", "ENV", "WORKDIR", "USER", "LABEL", "EXPOSE", "STOPSIGNAL")
_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{?(\w+)")


class _First(NamedTuple):
    """What an image does first: its ``FROM``, the instructions after that which others may do too, each with a key
    that says what it does, and whether one of them reads files."""

    inputs: ImageInputs
    start: Span
    after: Sequence[Span]
    keys: Sequence[str]
    reads: Sequence[bool]


def patches(whole: Whole) -> Iterator[tuple[Sequence[str], Patch]]:
    """A patch for each group of images that begin alike, first where most is done more than once."""
    firsts = [first for inputs in _alone(whole) if (first := _first(inputs))]
    groups: dict[tuple[str, ...], list[_First]] = defaultdict(list)
    for first in firsts:
        for count in range(1, len(first.after) + 1):
            groups[tuple(first.keys[: count + 1])].append(first)

    def worth(keys: tuple[str, ...]) -> tuple[int, int]:
        some = groups[keys]
        runs = sum(span.instruction.name == "RUN" for span in some[0].after[: len(keys) - 1])
        return runs * (len(some) - 1), len(keys)

    for keys in sorted(groups, key=worth, reverse=True):
        if worth(keys)[0] and (patch := _patch(whole, groups[keys], len(keys) - 1)):
            yield [first.inputs.name for first in groups[keys]], patch


def _alone(whole: Whole) -> list[ImageInputs]:
    """The images that have their Dockerfile for themselves."""
    usable = [each for each in whole.images.values() if not each.problem and not each.image.remote_context]
    count = Counter(each.image.dockerfile for each in usable)
    return [each for each in usable if each.image.dockerfile and count[each.image.dockerfile] == 1]


def _first(inputs: ImageInputs) -> _First | None:
    text, image = inputs.dockerfile_text, inputs.image
    steps = steps_of(inputs)
    there, stages = around(text), shipped(text, steps)
    root = [span for span in spans(text) if (at := there[span.line]).stage in stages and not at.parent]
    if not root or root[0].instruction.flags or image.tags or image.cache_from or image.cache_to:
        return None
    base = root[0].instruction.words[0]
    own = base in inputs.parents and not image.contexts.get(base, "").startswith("service:")
    if own or base.lower() == "scratch":
        return None
    # What else a build is told must be the same: it may matter for each step.
    told = replace(image, name="", ref="", context="", dockerfile="", target=None)
    by_line = {step.line: step for step in steps}
    if root[0].line not in by_line or any(_DIRECTIVE.match(line) for line in _directives(text) if "escape" in line):
        return None
    keys = [repr((told, by_line[root[0].line].own, _directives(text)))]
    after, reads = list[Span](), list[bool]()
    for span in root[1:]:
        each, step = span.instruction, by_line.get(span.line)
        elsewhere = each.flag("from") or any("from=" in value for value in each.flags.get("mount", ()))
        if each.name not in _SHARED or each.trigger or elsewhere:
            break
        after.append(span)
        reads.append(bool(step and step.files) or (each.name in ("COPY", "ADD")))
        place = (image.context, _ignore(inputs)) if reads[-1] else ()
        keys.append(repr((span.text, step.own if step else "", place)))
    return _First(inputs, root[0], after, keys, reads)


def _directives(text: str) -> tuple[str, ...]:
    lines = text.splitlines()
    return tuple(line for at, line in enumerate(lines) if all(_DIRECTIVE.match(each) for each in lines[: at + 1]))


def _ignore(inputs: ImageInputs) -> str:
    return next((str(part.ignore.path) for part in inputs.parts if not part.label), "")


def _patch(whole: Whole, group: Sequence[_First], count: int) -> Patch | None:
    """The images of a group on a base with so many of their first instructions."""
    first = group[0]
    name = _name(whole, group)
    folder = os.path.commonpath([Path(each.inputs.image.dockerfile).parent for each in group])
    same = len({each.inputs.image.context for each in group}) == 1
    context = first.inputs.image.context if same else folder
    path = Path(folder, f"{name}.Dockerfile")
    here = os.path.relpath(context, whole.project.directory)
    shown = "" if same else here if here.startswith(".") else f"./{here}"
    base = Base(name, shown, os.path.relpath(path, context))
    names = [each.inputs.name for each in group]
    for file in whole.project.files:
        compose = with_base(whole.text(file) or "", base, names)
        if compose and whole.text(path) is None:
            texts = {Path(each.inputs.image.dockerfile): _child(each, name, count) for each in group}
            own = texts.pop(Path(first.inputs.image.dockerfile))
            line = first.after[0].line
            why = f"{', '.join(names)} begin with the same steps: they build on {name} then"
            new = {path: _dockerfile(group, count), file: compose, **with_hidden(whole, path)}
            return Patch(NAME, line, why, own, {}, new | texts)
    return None


def _name(whole: Whole, group: Sequence[_First]) -> str:
    """``base-python`` for what starts from a python, and a number where that is taken, by a stage perhaps."""
    first = group[0]
    stages = {at.stage for each in group for at in around(each.inputs.dockerfile_text).values()}
    called = around(first.inputs.dockerfile_text)[first.start.line].base
    if "$" in called:
        called = next((ref for ref in first.inputs.bases), "")
        called = re.split("[:@]", called.rpartition("/")[2])[0]
    plain = "base-" + (re.sub("[^a-z0-9]+", "-", called.lower().removeprefix("base-")).strip("-") or "image")
    names = (plain, *(f"{plain}-{number}" for number in range(2, 100)))
    return next(name for name in names if name not in {*whole.project.images, *stages})


def _globals(text: str) -> Mapping[str, Span]:
    """The arguments before the first stage, by name."""
    found: dict[str, Span] = {}
    for span in spans(text):
        if span.instruction.name != "ARG":
            break
        found |= {word.partition("=")[0]: span for word in span.instruction.words}
    return found


def _dockerfile(group: Sequence[_First], count: int) -> str:
    """The base's."""
    first = group[0]
    text, start = first.inputs.dockerfile_text, first.start
    known = _globals(text)
    args = dict.fromkeys(known[name].text for name in _VARIABLE.findall(start.instruction.words[0]) if name in known)
    head = [*_directives(text), f"# What {' and '.join(each.inputs.name for each in group)} build on.", *args]
    lines = text.splitlines(keepends=True)
    body = "".join(lines[start.last + 1 : first.after[count - 1].last + 1])
    body = body if body.endswith("\n") else f"{body}{start.end}"
    return "".join(f"{line}{start.end}" for line in (*head, f"FROM {start.instruction.words[0]}")) + body


def _child(first: _First, base: str, count: int) -> str:
    """A Dockerfile on the base, without what that does, and without the arguments that only named its own."""
    text, start = first.inputs.dockerfile_text, first.start
    gone = {span.line: "" for span in first.after[:count]}
    own = re.sub(rf"^(\s*\w+\s+){re.escape(start.instruction.words[0])}", rf"\g<1>{base}", start.text)
    others = "\n".join(span.text for span in spans(text) if span.line not in {*gone, start.line})
    for name in _VARIABLE.findall(start.instruction.words[0]):
        span = _globals(text).get(name)
        if span and len(span.instruction.words) == 1 and len(re.findall(rf"\b{name}\b", others)) == 1:
            gone[span.line] = ""
    return edited(text, {**gone, start.line: own})
