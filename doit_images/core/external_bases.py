"""Which images from outside do builds start from, and does the engine hold them?

BuildKit would fetch a missing base by itself, but into its own cache, where nobody sees which one it was. Held by the
engine, its content goes into the fingerprint: a base that moves is then noticed, and two machines agree.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from doit_images.core.around import LocalBase
from doit_images.core.base import commands, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import beside, digest_of, repository
from doit_images.core.engine import plugins
from doit_images.core.engine.client import Engine
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.local_images import LocalImages
from doit_images.core.planning.plan import Action, Decision

_ASK_SECONDS = 30


class ExternalBases:
    """The external bases that builds of one run start from: each is pulled once in it. ``environ`` is what buildx runs
    in, ``own_base`` gives the base that the project makes itself. Methods may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        local_images: LocalImages,
        environ: Mapping[str, str],
        own_base: Callable[[], LocalBase | None],
    ) -> None:
        self._engine, self._local, self._environ, self._own_base = engine, local_images, environ, own_base
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._tried: set[tuple[str, str]] = set()  # each with a platform
        self._refusals: dict[tuple[str, str], str] = {}  # why not, or "", of those that `build.pull` asks for

    def bring(self, inputs: ImageInputs, note: Callable[[str], None]) -> bool:
        """Pull the external bases of an image that the engine does not hold for its platforms; whether that brought
        any. ``note`` hears of each that is pulled.

        One that is pinned by digest too: its content is known without, but not what it sets and which ``ONBUILD``
        instructions it has, which may read files. What cannot be pulled is left to BuildKit, which may have it in its
        cache, and is tried once in a run.
        """
        if self._local.on_own_base(inputs.read_for) and self.bring_own():
            return True
        missing = [pair for pair in _pairs(inputs) if self._local.base(*pair) is None]
        brought = [ref for ref, platform in missing if self._pull(ref, platform, note)]
        if brought:
            self._local.changed()
        return bool(brought)

    def bring_own(self) -> bool:
        """See to it that the engine holds the base that everything is built on; whether anything had to be done."""
        own = self._own_base()
        if own and (done := own.bring()):
            print(f"{own.task}: {done}", file=sys.stderr)
            self._local.changed()
            return True
        return False

    def pull(self, inputs: ImageInputs, note: Callable[[str], None]) -> bool:
        """Pull the external bases of an image although the engine may hold them, as ``build.pull`` asks, once in a run;
        whether there were any. ``UserError`` for one that cannot be had: ``docker build --pull`` fails then too.

        One that is pinned by digest and here is the same wherever it comes from.
        """
        wanted = [pair for pair in _pairs(inputs) if "@" not in pair[0] or self._local.base(*pair) is None]
        for ref, platform in wanted:
            with self._locks[ref]:
                if (ref, platform) not in self._refusals:
                    note(f"pulling {ref} for {platform}")
                    self._refusals[ref, platform] = self._refresh(ref, platform)
                    self._tried.add((ref, platform))
                    self._local.changed()
            if why := self._refusals[ref, platform]:
                raise UserError(
                    f"{inputs.name}: its base {ref} cannot be pulled, which `build.pull` asks for: {why}",
                    remedy="without `pull: true` it is built on what the engine holds",
                )
        return bool(wanted)

    def take(self, ref: str, platform: str, digest: str) -> None:
        """Let the engine hold, as an external base for a platform, the image with this digest: the one of its tag, or
        for another platform than the engine's that of the platform itself. ``UserError`` if it does not come."""
        own = platforms.same(platform, self._local.snapshot().platform)
        with self._locks[ref]:
            by_digest = f"{repository(ref)}@{digest}"
            if why := _pull_as(self._engine, by_digest, platform, ref if own else beside(ref, platform)):
                raise UserError(f"the base {ref} cannot be pulled for {platform}: {why}")
        self.known(ref, platform)
        self._local.changed()

    def known(self, ref: str, platform: str) -> None:
        """This base was looked for in this run: it is what its registry has."""
        self._tried.add((ref, platform))
        self._refusals[ref, platform] = ""

    def _refresh(self, ref: str, platform: str) -> str:
        """Pull a base that may be here already; "" or why that fails."""
        if not platforms.same(platform, self._local.snapshot().platform):
            return "" if self._pull_beside(ref, platform) else f"its registry does not give it for {platform}"
        done = commands.run(["docker", "pull", "--platform", platform, ref])
        return done.why if done.status else ""

    def _pull(self, ref: str, platform: str, note: Callable[[str], None]) -> bool:
        """Pull a base for a platform; whether it came. What it says is said again, and better, by the build that then
        fails."""
        with self._locks[ref]:
            if (ref, platform) in self._tried:
                return False
            self._tried.add((ref, platform))
            note(f"pulling {ref} for {platform}")
            snapshot = self._engine.snapshot()
            if snapshot.get(ref) is None and platforms.same(platform, snapshot.platform):
                return commands.run(["docker", "pull", "--quiet", "--platform", platform, ref]).status == 0
            return self._pull_beside(ref, platform)

    def _pull_beside(self, ref: str, platform: str) -> bool:
        """Pull the image of one platform by its own digest and keep it under a name beside the reference's, which goes
        on to mean what it meant."""
        digest = _manifest(ref, platform, self._environ)
        by_digest = f"{repository(ref)}@{digest}"
        return bool(digest) and not _pull_as(self._engine, by_digest, platform, beside(ref, platform))


def _pairs(inputs: ImageInputs) -> list[tuple[str, str]]:
    """The external bases of an image, each with a platform that it is read for."""
    return [(ref, platform) for ref, some in inputs.read_for.items() for platform in some]


def refuse_foreign(local_images: LocalImages, inputs: ImageInputs) -> None:
    """``UserError`` where the engine holds a base under its name for another platform only: containerd's store would
    let a build start from that. Docker does so too, and warns; here the image has to declare it."""
    for ref, some in inputs.read_for.items():
        local_image = local_images.snapshot().get(ref)
        for wanted in some if local_image else ():
            if local_images.base(ref, wanted) is None and local_image:
                have = local_images.config_of(local_image).platform
                declare = f", or declare `platforms: [{have}]` for the image" if wanted in inputs.platforms else ""
                raise UserError(
                    f"the base {ref} is {have} here, {wanted} is wanted, and that cannot be pulled",
                    where=inputs.name,
                    remedy=f"docker pull --platform {wanted} {ref}{declare}",
                )


def introduce(
    local_images: LocalImages, decisions: Collection[Decision], chosen: Sequence[str], env: Mapping[str, str]
) -> None:
    """Before the first builds of a run: let the engine's builder, ``chosen`` by these arguments, read the bases that
    all images on them are to be built on.

    A builder that reads a base for the first time in several builds at once looks in vain for what one of them made on
    it until the last has ended (moby/buildkit#6954, mended in the summer of 2026): images that share a stage would
    each make it. A base that some image here stands on was read before.
    """
    for ref in {ref for decision in decisions for ref, content in decision.inputs.bases.items() if content}:
        standing = [decision.action for decision in decisions if ref in decision.inputs.bases]
        here = local_images.snapshot().platform
        found = local_images.base(ref, here)
        if found is None:
            continue  # the builds read another image, under another name
        if len(standing) > 1 and set(standing) == {Action.BUILD}:
            argv = ["docker", "buildx", "build", *chosen]
            argv += ["--platform", here, "--output", "type=cacheonly", "-"]
            commands.run(plugins.direct(argv, env), env=env, stdin=f"FROM {found[0]}\n".encode())


def _pull_as(engine: Engine, by_digest: str, platform: str, name: str) -> str:
    """Pull an image by its digest for a platform, and give it a name; "" or why not."""
    done = commands.run(["docker", "pull", "--quiet", "--platform", platform, by_digest])
    local_image = engine.snapshot().get(by_digest)
    if done.status or local_image is None:
        return done.why or "it is not there"
    have = engine.config_of(local_image.id).platform
    if not platforms.serves(have, platform):
        return f"it is for {have}"
    engine.tag(local_image.id, name)
    return ""


def _manifest(ref: str, platform: str, environ: Mapping[str, str]) -> str:
    """The digest of a reference's image for one platform, as its registry has it now; "" where it does not say."""
    argv = ["docker", "buildx", "imagetools", "inspect", "--raw", ref]
    try:
        manifest = commands.run(plugins.direct(argv, environ), env=environ, seconds=_ASK_SECONDS).output
        content = json.loads(manifest)
        if "manifests" not in content:
            return digest_of(manifest) if "config" in content else ""
        by_platform = {
            platforms.of(entry.get("platform") or {}): str(entry["digest"]) for entry in content["manifests"]
        }
    except (commands.TimedOut, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return by_platform.get(platforms.chosen(by_platform, platform), "")
