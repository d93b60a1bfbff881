"""Which images from outside do builds start from, and does the engine hold them?

BuildKit would fetch a missing base by itself, but into its own cache, where nobody sees which one it was. Held by the
engine, its content goes into the fingerprint: a base that moves is then noticed, and two machines agree.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping

from doit_images.core.base import commands, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import beside, digest_of, repository
from doit_images.core.building.events import ImageNoted
from doit_images.core.buildkit import builder
from doit_images.core.engine import plugins
from doit_images.core.engine.client import Engine
from doit_images.core.local_images import LocalImages
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run

_ASK_SECONDS = 30


class _Pulls:
    """The bases, each with a platform, that a run tried to pull; ``refusals``: why not, or "", of those that were
    pulled because ``build.pull`` asks for it."""

    def __init__(self) -> None:
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.tried: set[tuple[str, str]] = set()
        self.refusals: dict[tuple[str, str], str] = {}


def bring(run: Run, decision: Decision) -> bool:
    """Pull the external bases of an image that the engine does not hold for its platforms; whether that brought any.

    One that is pinned by digest too: its content is known without, but not what it sets and which ``ONBUILD``
    instructions it has, which may read files. What cannot be pulled is left to BuildKit, which may have it in its
    cache, and is tried once in a run.
    """
    read_for = decision.inputs.read_for
    if run.local_images.on_own_base(read_for) and bring_base(run):
        return True
    missing = [
        (ref, platform)
        for ref, some in read_for.items()
        for platform in some
        if run.local_images.base(ref, platform) is None
    ]
    brought = [ref for ref, platform in missing if _pull(run, ref, platform, decision.name)]
    if brought:
        run.local_images.changed()
    return bool(brought)


def bring_base(run: Run) -> bool:
    """See to it that the engine holds the base that everything is built on; whether anything had to be done."""
    if run.own_base and (done := run.own_base.bring()):
        print(f"{run.own_base.task}: {done}", file=sys.stderr)
        run.local_images.changed()
        return True
    return False


def pull(run: Run, decision: Decision) -> bool:
    """Pull the external bases of an image although the engine may hold them, as ``build.pull`` asks, once in a run;
    whether there were any. ``UserError`` for one that cannot be had: ``docker build --pull`` fails then too.

    One that is pinned by digest and here is the same wherever it comes from.
    """
    pairs = [(ref, platform) for ref, some in decision.inputs.read_for.items() for platform in some]
    wanted = [
        (ref, platform) for ref, platform in pairs if "@" not in ref or run.local_images.base(ref, platform) is None
    ]
    pulls = run.kept(_Pulls)
    for ref, platform in wanted:
        with pulls.locks[ref]:
            if (ref, platform) not in pulls.refusals:
                run.events.emit(ImageNoted(decision.name, f"pulling {ref} for {platform}"))
                pulls.refusals[ref, platform] = _refresh(run, ref, platform)
                pulls.tried.add((ref, platform))
                run.local_images.changed()
        if why := pulls.refusals[ref, platform]:
            raise UserError(
                f"{decision.name}: its base {ref} cannot be pulled, which `build.pull` asks for: {why}",
                remedy="without `pull: true` it is built on what the engine holds",
            )
    return bool(wanted)


def take(run: Run, ref: str, platform: str, digest: str) -> None:
    """Let the engine hold, as an external base for a platform, the image with this digest: the one of its tag, or for
    another platform than the engine's that of the platform itself. ``UserError`` if it does not come."""
    own = platforms.same(platform, run.local_images.snapshot().platform)
    pulls = run.kept(_Pulls)
    with pulls.locks[ref]:
        by_digest = f"{repository(ref)}@{digest}"
        if why := _pull_as(run.engine, by_digest, platform, ref if own else beside(ref, platform)):
            raise UserError(f"the base {ref} cannot be pulled for {platform}: {why}")
    known(run, ref, platform)
    run.local_images.changed()


def known(run: Run, ref: str, platform: str) -> None:
    """This base was looked for in this run: it is what its registry has."""
    pulls = run.kept(_Pulls)
    pulls.tried.add((ref, platform))
    pulls.refusals[ref, platform] = ""


def refuse_foreign(local_images: LocalImages, decision: Decision) -> None:
    """``UserError`` where the engine holds a base under its name for another platform only: containerd's store would
    let a build start from that. Docker does so too, and warns; here the image has to declare it."""
    inputs = decision.inputs
    for ref, some in inputs.read_for.items():
        local_image = local_images.snapshot().get(ref)
        for wanted in some if local_image else ():
            if local_images.base(ref, wanted) is None and local_image:
                have = local_images.config_of(local_image).platform
                declare = f", or declare `platforms: [{have}]` for the image" if wanted in inputs.platforms else ""
                raise UserError(
                    f"the base {ref} is {have} here, {wanted} is wanted, and that cannot be pulled",
                    where=decision.name,
                    remedy=f"docker pull --platform {wanted} {ref}{declare}",
                )


def introduce(run: Run, decisions: Mapping[str, Decision]) -> None:
    """Before the first builds of a run: let the builder read the bases that all images on them are to be built on.

    A builder that reads a base for the first time in several builds at once looks in vain for what one of them made on
    it until the last has ended (moby/buildkit#6954, mended in the summer of 2026): images that share a stage would
    each make it. A base that some image here stands on was read before.
    """
    if run.settings.dedicated_builder:
        return  # it gets its bases as folders, with each build
    for ref in {ref for decision in decisions.values() for ref, content in decision.inputs.bases.items() if content}:
        standing = [decision.action for decision in decisions.values() if ref in decision.inputs.bases]
        here = run.local_images.snapshot().platform
        found = run.local_images.base(ref, here)
        if found is None:
            continue  # the builds read another image, under another name
        if len(standing) > 1 and set(standing) == {Action.BUILD}:
            argv = ["docker", "buildx", "build", *builder.argv(run.settings, run.environ)]
            argv += ["--platform", here, "--output", "type=cacheonly", "-"]
            env = run.build_environ
            commands.run(plugins.direct(argv, env), env=env, stdin=f"FROM {found[0]}\n".encode())


def _refresh(run: Run, ref: str, platform: str) -> str:
    """Pull a base that may be here already; "" or why that fails."""
    if not platforms.same(platform, run.local_images.snapshot().platform):
        return "" if _pull_beside(run, ref, platform) else f"its registry does not give it for {platform}"
    done = commands.run(["docker", "pull", "--platform", platform, ref])
    return done.why if done.status else ""


def _pull(run: Run, ref: str, platform: str, image: str) -> bool:
    """Pull a base for a platform; whether it came. What it says is said again, and better, by the build that then
    fails."""
    pulls = run.kept(_Pulls)
    with pulls.locks[ref]:
        if (ref, platform) in pulls.tried:
            return False
        pulls.tried.add((ref, platform))
        run.events.emit(ImageNoted(image, f"pulling {ref} for {platform}"))
        snapshot = run.engine.snapshot()
        if snapshot.get(ref) is None and platforms.same(platform, snapshot.platform):
            return commands.run(["docker", "pull", "--quiet", "--platform", platform, ref]).status == 0
        return _pull_beside(run, ref, platform)


def _pull_beside(run: Run, ref: str, platform: str) -> bool:
    """Pull the image of one platform by its own digest and keep it under a name beside the reference's, which goes on
    to mean what it meant."""
    digest = _manifest(ref, platform, run.environ)
    return bool(digest) and not _pull_as(run.engine, f"{repository(ref)}@{digest}", platform, beside(ref, platform))


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
