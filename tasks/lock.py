"""Which versions of its packages does this repository use? ``doit lock``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from doit_images.cli.action import PLAIN, Task, fail, option

# For every system and from the oldest Python that is supported, with hashes, and without a line that names an index.
_COMPILE = ("pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes", "--no-header")
# In this order: each keeps to the versions of those before.
LOCKS = {f"{name}.in": f"{name}.txt" for name in ("requirements", "requirements-keyless", "requirements-dev")}


def task_lock() -> Task:
    """Lock what requirements.in, -keyless.in and -dev.in ask for: [--upgrade [PACKAGE …]]"""
    upgrade = option("upgrade", False, "take new versions, of these packages or of all")
    return {"actions": [(lock,)], "task_dep": ["_dev_environment"], "params": [upgrade], "pos_arg": "packages", **PLAIN}


def lock(*, upgrade: bool, packages: Sequence[str]) -> object:
    """Write both locks; a version that is locked stays while it is allowed, unless it is to be upgraded."""
    from doit_images.ci.updating import locks
    from tasks.checks import run_tool

    if packages and not upgrade:
        return fail(f"packages are named for an upgrade only: doit lock --upgrade {' '.join(packages)}")
    newer = [f"--upgrade-package={name}" for name in packages] or ["--upgrade"] * upgrade
    uv = str(Path(sys.executable).parent / "uv")
    env = locks.uv_environ(os.environ)
    for asked, locked in LOCKS.items():
        if failed := run_tool([uv, *_COMPILE, *newer, f"--output-file={locked}", asked], env):
            return failed
    return None
