"""The rule: lists of packages do not stay in an image, where they are only old.

    RUN apt-get update && apt-get install -y git    →    RUN apt-get update && apt-get install -y git \\
                                                          && rm -rf /var/lib/apt/lists/*
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from doit_images.advise.apt import LISTS, installs, updates_first
from doit_images.advise.around import runs, shipped
from doit_images.advise.patch import Patch, edited
from doit_images.advise.steps import Step

NAME = "apt-lists"


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """One patch of a Dockerfile with these steps, if lists stay in its image that no later step installs by."""
    every = runs(text, steps)
    if any(installs(run.commands) and not updates_first(run.commands) for run in every):
        return
    stages = shipped(text, steps)
    new = {
        run.span.line: _with(run.span.text)
        for run in every
        if run.around.stage in stages
        and run.around.is_root
        and updates_first(run.commands)
        and installs(run.commands)
        and "/var/lib/apt" not in run.span.text
    }
    if new:
        why = "lists of packages that are old tomorrow stay in the image"
        yield Patch(NAME, min(new), why, edited(text, new), {LISTS: "the lists of packages of apt"})


def _with(text: str) -> str:
    """In the style in which the step joins its other lines."""
    lead = re.search(r"\n([ \t]*&&[ \t]*)\S", text)
    return f"{text} \\\n{lead[1] if lead else ' && '}rm -rf {LISTS}/*"
