"""What holds where an instruction of a Dockerfile stands: its base, its user, its folder, its variables?"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from doit_images.advise.patch import Span, spans
from doit_images.advise.shell import Command, commands
from doit_images.advise.steps import Step
from doit_images.core.inputs.instructions import Instruction


@dataclass(frozen=True)
class Around:
    """The last name of the external ``base`` without its tag, the ``user`` that ``USER`` names and the ``folder`` that
    ``WORKDIR`` does (``""``: as the base has them), and the instructions of the stage, and of those that it builds on,
    that stand ``above``. ``parent`` is the stage that it builds on."""

    stage: str
    base: str
    user: str = ""
    folder: str = ""
    above: tuple[Instruction, ...] = ()
    parent: str = ""

    @property
    def is_root(self) -> bool:
        """Whether commands run as root, as far as this Dockerfile says."""
        return self.user.partition(":")[0] in ("", "root", "0")

    def sets(self, names: str) -> bool:
        """Whether a variable whose name matches this pattern is set above."""
        said = (word for each in self.above if each.name in ("ENV", "ARG") for word in each.words)
        return any(re.fullmatch(names, word.partition("=")[0]) for word in said)

    def path(self, path: str) -> str:
        """A path from where commands run, absolute; ``""`` where it cannot be said.

        >>> Around("", "", folder="/app").path("."), Around("", "").path("src/"), Around("", "").path("/src/")
        ('/app', '', '/src')
        """
        whole = posixpath.join(self.folder, path)
        return posixpath.normpath(whole) if whole.startswith("/") and not re.search(r"[$*?~\\\"']", whole) else ""


def around(text: str) -> dict[int, Around]:
    """What holds for each instruction, by the line in which it begins. Raises ``UserError`` for no Dockerfile."""
    found: dict[int, Around] = {}
    stages: dict[str, Around] = {}
    now, number = Around("", ""), 0
    for each in (span.instruction for span in spans(text)):
        if each.name == "FROM":
            base = each.words[0]
            name = each.words[2].lower() if len(each.words) > 2 else str(number)
            image = re.split("[:@]", base.rpartition("/")[2])[0]
            known = stages.get(base.lower())
            now = replace(known, stage=name, parent=base.lower()) if known else Around(name, image)
            number += 1
        found[each.line] = now
        if not each.trigger and each.name != "FROM":
            now = replace(now, above=(*now.above, each))
            if each.name == "USER":
                now = replace(now, user=each.words[0])
            elif each.name == "WORKDIR":
                now = replace(now, folder=posixpath.join(now.folder, each.words[0]))
        stages[now.stage] = now
    return found


class RunInstruction(NamedTuple):
    """A RUN that the image reaches: where it stands, its commands, and what holds there."""

    span: Span
    commands: Sequence[Command]
    around: Around


def runs(text: str, steps: Sequence[Step]) -> list[RunInstruction]:
    """The RUN instructions among these steps of a Dockerfile; none where its escape character is not the backslash."""
    if re.search(r"^#\s*escape\s*=\s*`", text, re.MULTILINE):
        return []
    reached, there = {step.line for step in steps if step.instruction == "RUN"}, around(text)
    every = [span for span in spans(text) if span.line in reached and not span.instruction.trigger]
    return [RunInstruction(span, commands(span.text), there[span.line]) for span in every]


def shipped(text: str, steps: Sequence[Step]) -> set[str]:
    """The stages that the image is made of, of these steps' last one: this and those that it builds on."""
    there, found = around(text), set[str]()
    parents = {each.stage: each.parent for each in there.values()}
    name = there[steps[-1].line].stage if steps else ""
    while name and name not in found:
        found.add(name)
        name = parents.get(name, "")
    return found
