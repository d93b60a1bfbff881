"""A doit whose reader of Compose files passes over every build argument: whoever judges it has to find that out.

Run as a program in place of ``doit``.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

PROGRAM = Path(__file__)

if __name__ == "__main__":
    sys.path.insert(0, str(PROGRAM.parent.parent))
    from doit_images.core.compose import project

    read = project._image
    setattr(project, "_image", lambda *words: replace(read(*words), args={}))  # noqa: B010
    runpy.run_module("doit", run_name="__main__", alter_sys=True)
