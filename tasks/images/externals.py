"""Which images from outside do builds start from, and does the engine hold them?

BuildKit would fetch a missing base by itself, but into its own cache, where nobody sees which one it was. Held by the
engine, its content goes into the fingerprint: a base that moves is then noticed, and two machines agree.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

from tasks import plugins, processes
from tasks.caches import builder
from tasks.errors import Trouble
from tasks.images.plan import Decision
from tasks.seeing import board
from tasks.workspace import Workspace

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_tried: set[tuple[str, str]] = set()


def bring(workspace: Workspace, decision: Decision) -> bool:
    """Pull the external bases of an image that the engine does not hold for its platforms; whether that brought any.

    One that is pinned by digest too: its content is known without, but not what it sets and which ``ONBUILD``
    instructions it has, which may read files. What cannot be pulled is left to BuildKit, which may have it in its
    cache, and is tried once in a run.
    """
    read_for = decision.surveyed.read_for
    missing = [(ref, one) for ref, some in read_for.items() for one in some if workspace.base(ref, one) is None]
    brought = [ref for ref, platform in missing if _pull(workspace, ref, platform, decision.name)]
    if brought:
        workspace.changed()
    return bool(brought)


def refuse_foreign(workspace: Workspace, decision: Decision) -> None:
    """``Trouble`` where the engine holds a base under its name for another platform only: containerd's store would let
    a build start from that."""
    for ref, some in decision.surveyed.read_for.items():
        held = workspace.snapshot().get(ref)
        for wanted in some if held else ():
            if workspace.base(ref, wanted) is None and held:
                raise Trouble(
                    f"the base {ref} is {workspace.facts_of(held).platform} here, {wanted} is wanted, and that cannot "
                    "be pulled",
                    where=decision.name,
                    remedy=f"docker pull --platform {wanted} {ref}",
                )


def introduce(workspace: Workspace, decisions: Mapping[str, Decision]) -> None:
    """Before the first builds of a run: let the builder read the bases that all images on them are to be built on.

    A builder that reads a base for the first time in several builds at once looks in vain for what one of them made on
    it until the last has ended (moby/buildkit#6954, mended in the summer of 2026): images that share a stage would
    each make it. A base that some image here stands on was read before.
    """
    if builder.dedicated(workspace.settings):
        return  # it gets its bases as folders, with each build
    for ref in {ref for one in decisions.values() for ref, content in one.surveyed.bases.items() if content}:
        standing = [one.action for one in decisions.values() if ref in one.surveyed.bases]
        if workspace.base(ref, workspace.snapshot().platform) is None:
            continue  # of another platform, which a build reads under another name
        if len(standing) > 1 and set(standing) == {"build"}:
            argv = ["docker", "buildx", "build", *builder.argv(workspace.settings, workspace.environ)]
            argv += ["--output", "type=cacheonly", "-"]
            processes.quietly(
                plugins.direct(argv, workspace.environ), env=workspace.environ, stdin=f"FROM {ref}\n".encode()
            )


def _pull(workspace: Workspace, ref: str, platform: str, image: str) -> bool:
    """Pull what no name of the engine stands for yet; another platform under a name stays there."""
    with _locks[ref]:
        if (ref, platform) in _tried or workspace.snapshot().get(ref):
            return False
        _tried.add((ref, platform))
        board.board.note(image, f"pulling {ref}")
        # What it says is said again, and better, by the build that then fails.
        return processes.quietly(["docker", "pull", "--quiet", "--platform", platform, ref]) == 0
