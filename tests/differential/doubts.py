"""Dockerfiles whose sources are hard to know: variables that versions of BuildKit expand differently; URLs with
variables that only a base sets whose environment nobody told; backslashes. Each is made from a seed."""

from __future__ import annotations

import os
import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BASE = f"differential-doubts:{os.getpid()}"  # sets PART=a and WHERE=b, which the plan is told or not
_FOLDERS = ("a", "b", "1", "ab", "a\\b", "a\\*")
_NAMES = ("a", "b", "ab", "1", "a.md", "a\\b", "a\\*", "a*")
_VARIABLES = ("A", "B", "PART", "WHERE", "NONE")
_VALUES = ("a", "b", "1", "ab", "*", "$A", "$B", "${PART}", "${A:-b}", "${NONE:-a}", "${B:+1}", "${WHERE#b}a", '"a"')
_WORDS = ("a", "b", "ab", "$A", "${B}", "$PART", "${WHERE}", "${A:-a}", "${NONE:-1}", "${PART:+b}", "${A%b}", ".")
_ODD = ("a\\\\b", "a\\\\*", "a\\\\\\\\*", "a\\\\?b", "'a\\b'", "*", "?", "[ab]", "a*", "\\a", "[a\\\\b]*")
_URLS = ("SERVER/$A/x.jar", "SERVER/v${NONE}/x", '"SERVER/$PART.tgz"', "SERVER/${WHERE:-x}/${B}")


@dataclass(frozen=True)
class Doubt:
    """A context's ``files`` and the Dockerfile that reads some of them (``OUT`` becomes a path that no other run used);
    ``told``: its base is known."""

    files: tuple[str, ...]
    dockerfile: str
    told: bool

    def lay(self, work: Path) -> tuple[Path, Path]:
        """The context and the Dockerfile, both laid into ``work``."""
        context = work / "context"
        for path in self.files:
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            (context / path).write_text(f"content of {path}")
        (work / "Dockerfile").write_text(self.dockerfile.replace("OUT", uuid.uuid4().hex))
        return context, work / "Dockerfile"


def make(seed: int, server: str) -> Doubt:
    """The case of a seed; ``server`` answers to every URL."""
    dice = random.Random(seed)
    files = {f"{folder}/{name}" for folder in _FOLDERS for name in dice.sample(_NAMES, 4)}
    files |= {f"{dice.choice(_FOLDERS)}/{dice.choice(_FOLDERS)}.d/{dice.choice(_NAMES)}" for _ in range(3)} | {"a.md"}
    told = dice.random() < 0.8  # else what only the base sets is used in URLs alone
    variables = _VARIABLES if told else _VARIABLES[:2]
    lines = (
        [f"FROM {dice.choice(('scratch', BASE, BASE))} AS first"] if told else [f"FROM {BASE} AS first", "ENV A=a B=b"]
    )
    lines += [_setting(dice, variables) for _ in range(dice.randint(1, 4))]
    lines += [_copy(dice, f"/OUT/{number}/", server, told) for number in range(dice.randint(1, 3))]
    if dice.random() < 0.3:
        lines += ["FROM first", _setting(dice, variables), _copy(dice, "/OUT/last/", server, told)]
    return Doubt(tuple(sorted(files)), "\n".join(lines) + "\n", told)


def _setting(dice: random.Random, variables: Sequence[str]) -> str:
    values = [value for value in _VALUES if not (set(re.findall("[A-Z]+", value)) - set(variables))]
    pairs = [f"{dice.choice(variables)}={dice.choice(values)}" for _ in range(dice.choice((1, 1, 2, 3)))]
    return f"{dice.choice(('ARG', 'ENV'))} {' '.join(pairs)}"


def _copy(dice: random.Random, destination: str, server: str, told: bool) -> str:
    if dice.random() < (0.2 if told else 0.5):
        return f"ADD {dice.choice(_URLS).replace('SERVER', server)} {destination}"
    words = [word for word in _WORDS if told or not (set(re.findall("[A-Z]+", word)) & set(_VARIABLES[2:]))]
    sources = []
    for _ in range(dice.choice((1, 1, 2))):
        source = dice.choice(words) if dice.random() < 0.65 else dice.choice(_ODD)
        sources.append(f"{dice.choice((*_FOLDERS[:3], '$A'))}/{source}" if dice.random() < 0.6 else source)
    return f"COPY {' '.join(sources)} {destination}"
