"""The page of ``doit advise --patch``: each patch with what came of it, and the last commits without and with them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doit_images.advise.gain import Gain
from doit_images.ui.html import TEMPLATES, render, when


class Shown(NamedTuple):
    """One patch: what it is about, what came of proving it for each image, and the difference that it makes."""

    title: str
    proofs: Sequence[str]
    difference: str


def page(project: str, patches: Sequence[Shown], saved: Mapping[str, tuple[Gain, str]]) -> str:
    """The whole page; ``saved`` is what was saved of each image, also in words."""
    timelines = [
        {"name": name, "said": said, "timelines": [("Without them", gain.lines[0]), ("With them", gain.lines[1])]}
        for name, (gain, said) in saved.items()
    ]
    return render(
        TEMPLATES / "advise.html",
        title=f"Advice for {project}",
        when="",
        sections=[("patches", "Patches"), *([("timeline", "The last commits")] if saved else [])],
        patches=patches,
        saved=timelines,
        footer=f"Made {when(time.time())}.",
    )
