"""Which stages does a Dockerfile have, and what do the names mean that it gives: a stage, a named context, an image?

As BuildKit's ``dockerfile2llb`` has it: stages are known in file order, and their ``FROM`` sees global arguments only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import familiar
from doit_images.core.inputs.instructions import Instruction, Script, expand, parse
from doit_images.core.inputs.syntax import FRONTENDS, lower
from doit_images.core.inputs.variables import Scope

if TYPE_CHECKING:
    from doit_images.core.inputs.image_inputs import ImageInputs

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@dataclass
class Stage:
    """One stage: what its ``FROM`` says, and the instructions that follow. ``parent`` is the stage that it builds on,
    ``context`` the named context that takes its place, ``asked`` are the global arguments that its ``FROM`` uses."""

    number: int
    name: str
    base: str
    platform: str
    line: int
    commands: list[Instruction]
    parent: Stage | None = None
    context: str = ""
    asked: frozenset[str] = frozenset()


class Stages:
    """The stages of a Dockerfile, the ``script``, called ``where`` in messages: ``args`` are its build arguments,
    ``named`` the names of all named contexts, ``platforms`` the one that is built for and the one that builds run on.
    Raises ``UserError`` with ``where:line``."""

    def __init__(
        self, script: Script, where: str, args: Mapping[str, str], named: Collection[str], platforms: tuple[str, str]
    ) -> None:
        self.where = where
        self.script = script
        self.args = args
        self.platform, build = platforms
        self.globals = Scope(_platform_args(self.platform, build, args), complete=True)
        self._global_needs: dict[str, frozenset[str]] = {}
        self._named: dict[str, str] = {}
        for name in named:
            plain, colons, platform_of = name.partition("::")
            self._named[familiar(plain) + colons + platform_of] = name
        self.by_name: dict[str, Stage] = {}
        self.all = self._read()

    def target(self, name: str | None) -> Stage:
        """The stage of this name; with None the last."""
        if not self.all:
            raise UserError("this Dockerfile has no FROM", where=self.at(1))
        stage = self.by_name.get(name.lower()) if name else self.all[-1]
        if stage is None:
            close = difflib.get_close_matches(str(name), list(self.by_name), 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"its stages: {', '.join(self.by_name) or 'unnamed'}"
            raise UserError(f"there is no stage {name!r}", where=self.at(1), remedy=remedy)
        return stage

    def context(self, name: str, platform: str) -> str | None:
        """The named context that a name means, if it means one."""
        if name.lower() in ("scratch", "context"):
            return None
        plain = familiar(name)
        return self._named.get(f"{plain}::{platform or self.platform}") or self._named.get(plain)

    def used_by(self, name: str) -> frozenset[str]:
        """The arguments whose value matters where the global one of this name is used."""
        return self._global_needs.get(name, frozenset({name} & (self.globals.keys() | self.args.keys())))

    def expand(self, word: str, variables: Mapping[str, str], line: int) -> str:
        """A word after the expansion of its variables."""
        return expand(word, self.script.escape, variables, self.at(line)) if word else ""

    def at(self, line: int) -> str:
        """A line of the Dockerfile as messages name it."""
        return f"{self.where}:{line}"

    def _read(self) -> list[Stage]:
        stages: list[Stage] = []
        for instruction in self.script.instructions:
            if instruction.name == "FROM" and not instruction.trigger:
                stages.append(self._from(instruction, len(stages)))
                if stages[-1].name:
                    self.by_name[stages[-1].name] = stages[-1]
            elif stages:
                stages[-1].commands.append(instruction)
            elif instruction.name == "ARG" and not instruction.trigger:
                self._global_arg(instruction)
            else:
                raise UserError(f"{instruction.name} before the first FROM", where=self.at(instruction.line))
        return stages

    def _from(self, instruction: Instruction, number: int) -> Stage:
        words, line = list(instruction.words), instruction.line
        if len(words) != 1 and not (len(words) == 3 and words[1].casefold() == "as"):
            raise UserError("FROM takes an image, and AS with a name", where=self.at(line))
        name = lower(words[2]) if len(words) == 3 else ""
        if name and not _STAGE_NAME.fullmatch(name):
            raise UserError(f"{words[2]!r} cannot be the name of a stage", where=self.at(line))
        self.globals.asked.clear()
        base = self.expand(words[0], self.globals, line)
        flag = self.expand(instruction.flag("platform"), self.globals, line)
        platform = platforms.parsed(flag, self.at(line)) if flag else ""
        if not base:
            raise UserError(f"FROM {words[0]} is empty after expansion", where=self.at(line))
        asked = frozenset(self.globals.asked)
        context = (name and self.context(name, platform)) or ""
        return Stage(number, name, base, platform, line, [], self.by_name.get(base), context, asked)

    def _global_arg(self, instruction: Instruction) -> None:
        for word in instruction.words:
            name, equals, default = word.partition("=")
            needs: set[str] = set()
            if name in self.args:
                self.globals.put(name, [self.args[name]])
            elif equals:
                self.globals.asked.clear()
                self.globals.put(name, [self._default(default, instruction.line)])
                needs = set(self.globals.asked)
            closed = {deeper for need in needs for deeper in self._global_needs.get(need, ())}
            self._global_needs[name] = frozenset(needs | closed | {name})

    def _default(self, word: str, line: int) -> str:
        try:
            return self.expand(word, self.globals, line)
        except UserError:
            return ""  # the first frontends went on with nothing, the others refuse to build


def stages_of(inputs: ImageInputs) -> Stages:
    """The stages of an image's Dockerfile, as the newest frontend reads it. Raises ``UserError``."""
    where = inputs.image.dockerfile or "the inline Dockerfile"
    args = {name: value for name, value in inputs.image.args.items() if value is not None}
    script = parse(inputs.dockerfile_text, where, FRONTENDS[-1])
    return Stages(script, where, args, inputs.image.contexts, (inputs.platforms[0], inputs.platforms[0]))


def _platform_args(platform: str, build: str, args: Mapping[str, str]) -> dict[str, str]:
    """The variables that BuildKit predefines for both platforms; a build arg of the same name wins."""
    values: dict[str, str] = {}
    for prefix, text in (("BUILD", build), ("TARGET", platform)):
        system, _, rest = text.partition("/")
        processor, _, variant = rest.partition("/")
        fields = {"PLATFORM": text, "OS": system, "OSVERSION": "", "ARCH": processor, "VARIANT": variant}
        values |= {f"{prefix}{field}": value for field, value in fields.items()}
    return {name: args.get(name, value) for name, value in values.items()}
