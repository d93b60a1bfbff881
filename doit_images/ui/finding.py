"""What did ``doit doctor`` look at, and how well is it?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from doit_images.pruning.repairs import Repair


class Verdict(StrEnum):
    """How well something is."""

    OK = "ok"
    WARN = "warn"
    """It works, but something is lost."""
    FAIL = "fail"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    repairs: tuple[Repair, ...] = ()
