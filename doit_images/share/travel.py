"""How does an image get from this machine into the shared registry, or back: by the engine or past it, and what does it
mean where it does not?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from doit_images.core.base import platforms
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.planning.shared_image import SharedImage, SharedRef
from doit_images.share import by_docker
from doit_images.share.circuit_breaker import HealthCheck
from doit_images.share.no_answer import NoImage, Unavailable

if TYPE_CHECKING:
    from doit_images.share.registry import Registry
    from doit_images.share.transfer import Whole

# What the engine says when it is the image that is wrong: a layer is gone, or is not what its digest says.
_DAMAGED = re.compile(r"(blob|manifest) unknown|unknown (blob|manifest)|not found|verification failed", re.I)
# What it says when it is not to be pushed to, which it will say again.
_FORBIDDEN = re.compile(r"denied|unauthorized|forbidden|authentication required|refuses the credentials", re.I)
# What registries say whose repositories somebody has to make: ECR and Artifact Registry, and Harbor of a project.
_NO_PLACE = re.compile(r"name[ _]unknown|(repository|project)\b.* (does not exist|not found)", re.I)
_IMMUTABLE = re.compile(r"\bimage tag \S+ already exists|\bimmutab(le|ility)\b", re.I)
_ECR = re.compile(r"\.ecr\.[\w.-]*amazonaws\.com")


class Travel:
    """The way to ``registry`` and back, while it answers. Each method returns what is wrong, "" if nothing is."""

    def __init__(self, registry: Registry, health: HealthCheck) -> None:
        self._registry, self._health = registry, health

    def fetch(self, shared_ref: SharedRef, shared_image: SharedImage, engine: Engine, layout: Path | None) -> str:
        """Let an image come. Of several platforms the engine fetches all, or, where a ``layout`` is to hold them, its
        own."""
        some, problem, digest = shared_ref.platform.split(", "), "", shared_image.digest
        if layout:
            from doit_images.share import transfer  # most images are of one platform

            problem = moved(lambda: transfer.fetch(self._registry, shared_ref.path, digest, layout))
            some = [platforms.chosen(some, engine.snapshot().platform)]
        for platform in some:
            ref = f"{self._registry.address}/{shared_ref.path}@{digest}"
            argv = ["docker", "pull", "--quiet", "--platform", platform, ref]
            again = partial(self._registry.client.rests, shared_ref.path, digest)
            problem = problem or by_docker.moved(argv, engine, shared_image.size, self._health, again)
        return problem

    def send(
        self, shared_ref: SharedRef, local_image: LocalImage, engine: Engine, tags: Sequence[str],
        whole: Whole | None,
    ) -> str:  # fmt: skip
        """Push an image of the engine, or a ``whole`` one, under these tags."""
        if whole:
            from doit_images.share import transfer

            return moved(lambda: transfer.push(self._registry, shared_ref.path, tags, whole))
        for tag in tags:
            ref = f"{self._registry.address}/{shared_ref.path}:{tag}"
            with temporary_tag.lent(engine, local_image.id, ref):
                argv = ["docker", "push", "--quiet", ref]
                problem = by_docker.moved(argv, engine, local_image.size, self._health)
            if problem:
                return problem
        return ""


def moved(move: Callable[[], None]) -> str:
    """Let blobs travel; returns what is wrong, "" if nothing is."""
    try:
        move()
    except (Unavailable, NoImage) as error:
        late = isinstance(error, Unavailable) and error.silent
        return f"{by_docker.LATE} time: it {error}" if late else f"it {error}"
    return ""


def damaged(problem: str) -> bool:
    """Whether it is the image that is wrong, which says nothing of other images."""
    return bool(_DAMAGED.search(problem))


def lasts(problem: str) -> bool:
    """Whether what was pushed in vain need not be tried with another image: what is forbidden is forbidden again, and
    what is not taken in time is not taken of another image either, after as long a wait."""
    return bool(_FORBIDDEN.search(problem) or problem.startswith(by_docker.LATE))


def stays(problem: str) -> bool:
    """Whether a push was refused because what is there under the tag stays for ever."""
    return bool(_IMMUTABLE.search(problem))


def to_create(problem: str, address: str, repository: str) -> str:
    """What has to be made in a registry before it takes an image, where that is what is wrong, else ""."""
    if not _NO_PLACE.search(problem):
        return ""
    command = f" (`aws ecr create-repository --repository-name {repository}`)" if _ECR.search(address) else ""
    return f"create `{repository}` there first, or the project that it is to be in{command}"
