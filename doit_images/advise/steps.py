"""Which steps does a Dockerfile have, and on what does the result of each rest?

A step runs again if what it is made of itself changed (its text, the files that it reads), or the result of a step on
which it rests: the one above it in its stage, and the last of each stage that it copies from. As BuildKit's
``dockerfile2llb`` has it, a ``COPY --link`` does not rest on what is above it; variables, the user and the shell count
for ``RUN``, and for another step only where it uses a variable or a path that is relative; labels and ports for none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from doit_images.core.base.references import familiar
from doit_images.core.inputs import dockerfile, syntax
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.instructions import Instruction, mount, parse, texts
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import Selection
from doit_images.core.inputs.stages import Stage, Stages

_NUMBERED = ("RUN", "COPY", "ADD", "WORKDIR")
_VARIABLE = re.compile(r"\$\{?(\w+)")
_SETTINGS = ("ARG", "ENV", "USER", "SHELL", "WORKDIR")


@dataclass(frozen=True)
class Step:
    """One instruction: its stage (its name, else its number), its ``line`` and its ``text`` without comments at its
    end, and the ``number`` that BuildKit gives it in its stage, of a ``total`` (0: none).

    ``own`` is a digest of all that it is made of itself, ``result`` one of that and of the steps on which it rests
    (``after``, by their places in the list). ``files`` are the selections that it reads, each with the folder."""

    stage: str
    line: int
    text: str
    instruction: str
    number: int
    total: int
    own: str
    result: str
    after: tuple[int, ...]
    files: tuple[tuple[str, Selection], ...] = ()


def steps_of(inputs: ImageInputs) -> list[Step]:
    """The steps of an image that its target reaches, in the order of the file. Raises ``UserError`` for a Dockerfile
    that cannot be read; none for an image whose Dockerfile is not here, or that cannot be built."""
    if inputs.problem or inputs.image.remote_context:
        return []
    return _Reading(inputs).steps


class _Reading:
    """One run of ``steps_of``."""

    def __init__(self, inputs: ImageInputs) -> None:
        image, text = inputs.image, inputs.dockerfile_text
        self.inputs = inputs
        self.where = os.path.relpath(image.dockerfile, inputs.directory) if image.dockerfile else "dockerfile_inline"
        self.args = {name: value for name, value in image.args.items() if value is not None}
        platform = (inputs.platforms or ("linux/amd64",))[0]
        script = parse(text, self.where, syntax.differing([text])[0])
        self.stages = Stages(script, self.where, self.args, sorted(image.contexts), (platform, platform))
        named = sorted(image.contexts)
        reads = dockerfile.reads(
            text, where=self.where, target=image.target, args=self.args, named=named, platform=platform
        )
        self.copies: dict[int, list[Copy]] = defaultdict(list)
        for copy in reads.copies:
            self.copies[copy.line].append(copy)
        self.texts = texts(text, [each.line for each in script.instructions])
        self.steps: list[Step] = []
        self.last: dict[int, tuple[int, ...]] = {}  # the steps that a stage's result is made of, by its number
        self.settings: dict[int, tuple[int, ...]] = {}  # and those that set something there
        reached = self._reached(self.stages.target(image.target))
        for stage in self.stages.all:
            if stage.number in reached:
                self._stage(stage)

    def _reached(self, target: Stage) -> set[int]:
        found: set[int] = set()
        todo = [target]
        while todo:
            stage = todo.pop()
            if stage.number not in found:
                found.add(stage.number)
                todo += [stage.parent] if stage.parent else []
                todo += [other for each in stage.commands for other in self._sources(stage, each)]
        return found

    def _sources(self, stage: Stage, each: Instruction) -> Iterator[Stage]:
        """The earlier stages from which an instruction takes something; a name with a variable may mean each."""
        names = [each.flag("from")] if each.name in ("COPY", "ADD") else []
        for text in (text for text in each.flags.get("mount", ()) if "from=" in text):
            names.append("$" if "$" in text else mount(text, self.stages.script.escape, {}, self.where).origin)
        for name in filter(None, names):
            if "$" in name:
                yield from self.stages.all[: stage.number]
            elif name.isdecimal():
                yield from self.stages.all[int(name) :][:1]
            elif name.lower() in self.stages.by_name:
                yield self.stages.by_name[name.lower()]

    def _stage(self, stage: Stage) -> None:
        number = 0 if stage.parent or stage.base == "scratch" else 1
        commands = [each for each in stage.commands if not each.trigger]
        total = number + sum(each.name in _NUMBERED for each in commands)
        parent = stage.parent.number if stage.parent and not stage.context else -1
        above, settings = self.last.get(parent, ()), self.settings.get(parent, ())
        if parent < 0:
            above = (self._add(stage, (stage.line, "FROM", 0, 0), (), self._base(stage)),)
        for each in commands:
            if each.name in _SETTINGS:
                needs = self._needed(each, settings)
                settings = (*settings, self._add(stage, (each.line, each.name, 0, 0), needs, self._said(each)))
            if each.name not in _NUMBERED:
                continue
            number += 1
            alone = each.name in ("COPY", "ADD") and each.is_set("link")
            sources = [at for other in self._sources(stage, each) for at in self.last.get(other.number, ())]
            after = (*(() if alone else above), *self._needed(each, settings), *sources)
            made = self._add(stage, (each.line, each.name, number, total), after, self._said(each))
            above = (*above, made) if alone else (made,)
        self.last[stage.number], self.settings[stage.number] = above, settings

    def _needed(self, each: Instruction, settings: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the settings above that count for an instruction."""
        if each.name == "RUN":
            return settings
        words = [*each.words, *(value for values in each.flags.values() for value in values)]
        names = [name for word in words for name in _VARIABLE.findall(word)]
        relative = each.name not in ("ARG", "ENV", "USER", "SHELL") and not each.words[-1].startswith("/")
        return tuple(
            at
            for at in settings
            if (self.steps[at].instruction == "WORKDIR" and relative)
            or (self.steps[at].instruction in ("ARG", "ENV") and any(name in self.steps[at].text for name in names))
        )

    def _base(self, stage: Stage) -> str:
        name = stage.context or familiar(stage.base)
        parent = self.inputs.parents.get(name, "")
        return self.inputs.parent_fingerprints.get(parent, "") or f"{stage.base} {stage.platform}"

    def _said(self, each: Instruction) -> str:
        values = [self.args.get(word.partition("=")[0]) for word in each.words] if each.name == "ARG" else []
        inline = self.texts[each.line] if "<<" in self.texts[each.line] else ""  # words lack what a heredoc holds
        return repr((each.name, each.words, sorted(each.flags.items()), values, inline))

    def _add(self, stage: Stage, place: tuple[int, str, int, int], after: tuple[int, ...], said: str) -> int:
        line, name, number, total = place
        files = tuple(self._files(line))
        own = _digest([said, *(selection.digest for _, selection in files)])
        result = _digest([own, *(self.steps[at].result for at in after)])
        called = stage.name or str(stage.number)
        self.steps.append(Step(called, line, self.texts[line], name, number, total, own, result, after, files))
        return len(self.steps) - 1

    def _files(self, line: int) -> Iterator[tuple[str, Selection]]:
        for part in self.inputs.parts:
            if part.sent and (copies := [copy for copy in self.copies[line] if copy.context == part.label]):
                yield str(part.root), part.selection.of(copies, self.where)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
