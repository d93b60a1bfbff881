"""Which Dockerfile ends just before one of another's RUN instructions?

BuildKit then makes the state that this RUN met, and has all of it in its cache. An image keeps no ARG, which the RUN
would see in its environment; so each becomes a variable of the image, and ``UNSET`` stands for one without a value.

A RUN that a base hands on with ONBUILD stands in no line of the Dockerfile, and BuildKit runs all triggers of a base or
none. So they are written out, on what the base is without them: its stage once more, or, of an image, what it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doit_images.core.base.references import familiar
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.instructions import Instruction, texts, trigger
from doit_images.core.inputs.stages import Stage, Stages, stages_of

UNSET = "doit-images-unset"
"""The value of a variable that stands for an argument without one."""

COUNTED = ("RUN", "COPY", "ADD", "WORKDIR")
"""What BuildKit counts as steps of a stage, WORKDIR only where it makes a folder."""
_NAME = re.compile(r"[A-Za-z_]\w*")

Triggers = Callable[[str, str], Sequence[str]]
"""The ONBUILD triggers of an image or a named context, by its name and the platform that is asked for ("": any)."""
Config = Callable[[str, str], Mapping[str, Any]]
"""The configuration of such an image, as the engine shows it."""


@dataclass(frozen=True)
class Place:
    """A RUN as BuildKit tells of it: the ``line`` at which it points (0: none), the ``stage`` as it calls it, and which
    of that stage's steps it is, ``rank`` from 1, FROM not counted. ``nameless``: it numbers no step of that stage, as
    it counts before it knows of triggers."""

    stage: str
    rank: int
    line: int = 0
    nameless: bool = False


@dataclass(frozen=True)
class Cut:
    """The lines of a Dockerfile (``text``) that end before the ``instruction``, which stands in ``line`` as ``shown``;
    ``arguments`` are the names that may be arguments there, ``escape`` is the file's escape character."""

    text: str
    instruction: Instruction
    line: int
    shown: str
    arguments: tuple[str, ...]
    escape: str

    def keeping(self, names: Sequence[str]) -> str:
        """The Dockerfile whose image has these arguments as variables."""
        return f"{self.text}\n" + (
            " ".join(["ENV", *(f'{name}="${{{name}-{UNSET}}}"' for name in names)]) if names else ""
        )


def before(inputs: ImageInputs, place: Place, triggers: Triggers, config: Config) -> Cut | None:
    """The Dockerfile that ends before this RUN; None where there is none. Raises ``UserError``."""
    stages = stages_of(inputs)
    script, lines = stages.script, inputs.dockerfile_text.split("\n")
    every = texts(inputs.dockerfile_text, [each.line for each in script.instructions])
    at = next((each for each in reversed(script.instructions) if 0 < each.line <= place.line), None)
    if at and at.name == "RUN" and not at.trigger:
        above = "\n".join(lines[: at.line - 1])
        return Cut(above, at, at.line, every[at.line], _arguments(script.instructions), script.escape)
    stage = _stage(stages, place)
    if stage is None:
        return None
    origin = stages.context(stage.base, stage.platform) or familiar(stage.base)
    handed_on = _handed_on(stage, origin, triggers)
    given = [trigger(text, stages.where, stage.line, script.frontend) for text in handed_on]
    counted = [each for each in (*given, *stage.commands) if _counts(each)]
    found = counted[place.rank - 1] if 0 < place.rank <= len(counted) else None
    if found is None or found.name != "RUN":
        return None
    number = next((at for at, each in enumerate(given) if each is found), None)
    if number is None:
        return before(inputs, Place("", 0, found.line), triggers, config)
    if stage.parent:
        base = _copied(stage.parent, stages, every)
    else:
        base = _taken(stage, config(origin, stage.platform), script.escape)
    text = "\n".join([*lines[: stage.line - 1], *base, *handed_on[:number]])
    shown = f"{every[stage.line]}\nONBUILD {handed_on[number]}"
    return Cut(text, given[number], stage.line, shown, _arguments([*script.instructions, *given]), script.escape)


def _stage(stages: Stages, place: Place) -> Stage | None:
    """The stage that BuildKit calls so, perhaps behind a platform."""
    words = [word for word in place.stage.split() if "/" not in word]
    if place.nameless:
        named = [stage for stage in stages.all if stage.parent and not any(map(_counts, stage.commands))]
    else:
        named = [stage for stage in stages.all if words in ([stage.name or f"stage-{stage.number}"], [])]
    return named[-1] if named else None


def _counts(each: Instruction) -> bool:
    return each.name in COUNTED and not each.trigger and (each.name, each.words) != ("WORKDIR", ("/",))


def _handed_on(stage: Stage, origin: str, triggers: Triggers) -> Sequence[str]:
    if stage.parent:
        return [each.trigger for each in stage.parent.commands if each.trigger]
    return () if stage.base == "scratch" else triggers(origin, stage.platform)


def _copied(stage: Stage, stages: Stages, every: Mapping[int, str]) -> list[str]:
    """A stage without its triggers."""
    begin = next(each for each in stages.script.instructions if each.line == stage.line)
    platform = [f"--platform={flag}"] if (flag := begin.flag("platform")) else []
    own = [every[each.line] for each in stage.commands if not each.trigger]
    return [" ".join(["FROM", *platform, begin.words[0]]), *own]


def _taken(stage: Stage, known: Mapping[str, Any], escape: str) -> list[str]:
    """What an image holds, and what it is set to, without its triggers."""

    def quoted(value: str) -> str:
        return '"' + "".join(escape + char if char in ('"', "$", escape) else char for char in value) + '"'

    variables = (text.partition("=") for text in known.get("Env") or ())
    return [
        "FROM scratch",
        f"COPY --from={stage.base} / /",
        *(f"ENV {name}={quoted(value)}" for name, _, value in variables if "\n" not in value),
        *(f"USER {quoted(user)}" for user in [known.get("User")] if user),
        *(f"WORKDIR {quoted(folder)}" for folder in [known.get("WorkingDir")] if folder),
        *(f"SHELL {json.dumps(shell)}" for shell in [known.get("Shell")] if shell),
    ]


def _arguments(instructions: Sequence[Instruction]) -> tuple[str, ...]:
    words = (word.partition("=")[0] for each in instructions if each.name == "ARG" for word in each.words)
    return tuple(dict.fromkeys(name for name in words if _NAME.fullmatch(name)))
