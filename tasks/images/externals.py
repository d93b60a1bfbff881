"""Which images from outside do builds start from, and does the engine hold them?

BuildKit would fetch a missing base by itself, but into its own cache, where nobody sees which one it was. Held by the
engine, its content goes into the fingerprint: a base that moves is then noticed, and two machines agree.
"""

from __future__ import annotations

import threading
from collections import defaultdict

from tasks import processes
from tasks.images.plan import Decision
from tasks.seeing import board
from tasks.workspace import Workspace

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_tried: set[str] = set()


def bring(workspace: Workspace, decision: Decision) -> bool:
    """Pull the external bases of an image that the engine does not hold; whether that brought any.

    One that is pinned by digest too: its content is known without, but not what it sets and which ``ONBUILD``
    instructions it has, which may read files. What cannot be pulled is left to BuildKit, which may have it in its
    cache, and is tried once in a run.
    """
    missing = [ref for ref in decision.surveyed.bases if workspace.snapshot().get(ref) is None]
    brought = [ref for ref in missing if _pull(ref, decision.name)]
    if brought:
        workspace.changed()
    return bool(brought)


def _pull(ref: str, image: str) -> bool:
    with _locks[ref]:
        if ref in _tried:
            return False
        _tried.add(ref)
        board.board.note(image, f"pulling {ref}")
        with processes.start(["docker", "pull", "--quiet", ref]) as pull:
            for _ in processes.output(pull):
                pass  # what it says is said again, and better, by the build that then fails
        return pull.returncode == 0
