"""What is kept of tests that passed?

Only a pass is kept. Its fingerprint covers all that the tests could see, images by their content. So nothing has to be
compared, and no result is ever changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.base.shapes import fits

VERSION = 2
"""Raised whenever what a fingerprint of tests covers changes its meaning: all tests are then run once more."""
LONGEST_JUNIT = 4_000_000
"""Characters: a longer JUnit file is not kept."""


class Result(NamedTuple):
    """Tests that passed: what they are called, on which fingerprint, how long they took, when they ended (seconds since
    the epoch), what their JUnit file says ("" for none), and the content of each image that they ran on, by its name.
    """

    name: str
    fingerprint: str
    seconds: float
    finished: float
    junit: str = ""
    images: Mapping[str, str] = {}

    def kept(self) -> dict[str, Any]:
        """Itself as it is kept: without a JUnit file that is too long for that."""
        return self._replace(junit=self.junit if len(self.junit) <= LONGEST_JUNIT else "")._asdict()


def result_of(content: Any, fingerprint: str) -> Result | None:
    """The result in what somebody kept, if it is one, and of this fingerprint."""
    try:
        result = Result(**content)
    except TypeError:
        return None
    return result if fits(result, Result) and result.fingerprint == fingerprint and result.seconds >= 0 else None


def fingerprint(seen: Mapping[str, object], platform: str) -> str:
    """The fingerprint of tests from all that they can see and the platform that they run on, which that of an image for
    several platforms does not tell; another one than any image has."""
    return hashlib.sha256(json.dumps(["tests", VERSION, platform, seen], sort_keys=True).encode()).hexdigest()


def times(runs: str) -> int:
    """How often tests are to be run, as ``--runs`` says; ``UserError`` for what is no such number."""
    if not (runs.isascii() and runs.isdigit() and len(runs) < 5 and int(runs)):
        raise UserError(f"--runs needs a whole number from 1 on, not {runs!r}")
    return int(runs)
