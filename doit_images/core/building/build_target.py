"""Where is an image built, and what has to happen around it?

What a build command needs besides the image itself (builder, cache, output, contexts that stand for parents and
bases), and how its result comes into the engine. With the engine's own BuildKit and no cache backend that is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from doit_images.core.around import Peers
from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import path_of
from doit_images.core.base.settings import CacheBackend
from doit_images.core.buildkit import backends, builder
from doit_images.core.buildkit.backends import Backend
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.local_images import LocalImages
from doit_images.core.run import Run

RESULTS = "results"
"""The folder in the project's own in which a dedicated builder and the engine meet."""


class Apart(NamedTuple):
    """How an image is built for one platform alone: further arguments, and the layout that they name."""

    extra: tuple[str, ...] = ()
    layout: Path = Path()


@dataclass(frozen=True)
class BuildTarget:
    """How one image is built here: ``parents`` are contexts by reference (as ``buildx.build_argv`` takes them),
    ``extra`` its further arguments, ``layout`` the folder that holds the result of a dedicated builder, ``pushed``
    whether it pushes that instead, ``apart`` the platforms that are built one by one."""

    parents: Mapping[str, str]
    extra: tuple[str, ...]
    layout: Path | None = None
    apart: Mapping[str, Apart] = field(default_factory=dict)
    pushed: bool = False


def choose(
    run: Run, inputs: ImageInputs, parents: Mapping[str, str], *, no_cache: bool = False, cached: bool = True
) -> BuildTarget:
    """Make ready what the build of an image needs. ``parents`` maps each context that stands for a parent to a
    reference which the engine holds; ``no_cache`` neither reads nor writes a cache of others, and without ``cached``
    the builder's own is not read. Raises ``UserError``."""
    settings, image = run.settings, inputs.image
    extra = [*around(run, inputs), *([] if cached else ["--no-cache"])]
    if not settings.dedicated_builder:
        return BuildTarget(parents, (*extra, *([] if no_cache else _caches(run, image))))
    from doit_images.core.buildkit import oci_transfer  # most builds are the engine's own

    results, pushed = run.folder / RESULTS, settings.registry_only
    layout = None if pushed else oci_transfer.folder_of(results, inputs.name)
    # What has several platforms is shared from the layout, anything else from the engine.
    packed = len(inputs.platforms) > 1 and run.peers.results.writes

    def alone(platform: str = "") -> Apart:
        stored = [] if no_cache else _caches(run, image, platform)
        if pushed:
            return Apart((*stored, *run.peers.past_engine.output(image)))
        folder = oci_transfer.folder_of(results, f"{inputs.name} for {platform}" if platform else inputs.name)
        folder.mkdir(parents=True, exist_ok=True)
        return Apart((*stored, *oci_transfer.output(folder, packed=packed)), folder)

    # buildx lets several nodes build one image only if it is pushed under a name: each platform is built on its node,
    # and joined.
    if len(inputs.platforms) > 1 and max(len(settings.builder_endpoints), len(run.built_on)) > 1:
        return BuildTarget({}, tuple(extra), layout, {one: alone(one) for one in inputs.platforms}, pushed)
    return BuildTarget({}, (*extra, *alone().extra), layout, pushed=pushed)


def around(run: Run, inputs: ImageInputs) -> list[str]:
    """Which builder it is, and the contexts by which it gets external bases, and parents where it is a dedicated one,
    which is made ready. Raises ``UserError``."""
    settings, transfer = run.settings, Transfer.of(run)
    argv = builder.argv(settings, run.environ)
    if settings.dedicated_builder:
        builder.ready(settings, run.common, run.environ)
        argv += run.peers.past_engine.parents_argv(inputs) if settings.registry_only else transfer.parents_argv(inputs)
    return [*argv, *transfer.bases_argv(inputs, dedicated=settings.dedicated_builder)]


def one_id(peers: Peers, inputs: ImageInputs, where: BuildTarget, ids: Mapping[str, str]) -> str:
    """The id of what was built, of the images for each platform where those were built apart: they become one index.
    Raises ``UserError``."""
    if not where.apart:
        return next(iter(ids.values()))
    if where.layout is None:
        return peers.past_engine.joined(inputs.image, ids)
    from doit_images.core.buildkit import oci_transfer

    return oci_transfer.indexed(where.layout, {name: (where.apart[name].layout, each) for name, each in ids.items()})


@dataclass(frozen=True)
class Transfer:
    """How images get from the engine to where they are built, and back: what is built by a dedicated builder, which
    meets the engine in the folder ``results``, or on a base that goes by another name. Methods raise ``UserError``."""

    engine: Engine
    local_images: LocalImages
    results: Path

    @staticmethod
    def of(run: Run) -> Transfer:
        """That of a run."""
        return Transfer(run.engine, run.local_images, run.folder / RESULTS)

    def parents_argv(self, inputs: ImageInputs) -> list[str]:
        """The contexts by which a dedicated builder gets the parents that the engine holds."""
        from doit_images.core.buildkit import oci_transfer

        snapshot, argv = self.local_images.snapshot(), list[str]()
        for context, name in sorted(inputs.parents.items()):
            local_image = snapshot.get(inputs.parent_tags[context])
            if local_image is None:
                raise UserError(
                    f"the engine does not hold `{name}`, on which {inputs.name} is built", remedy="run it again"
                )
            value = oci_transfer.context_of(self.engine, self.results, name, local_image, snapshot.platform)
            argv += ["--build-context", f"{context}={value}"]
        return argv

    def bases_argv(self, inputs: ImageInputs, *, dedicated: bool) -> list[str]:
        """The contexts by which a build starts from those images that count as its external bases. The engine's own
        BuildKit finds by itself what goes by its own name; what is pinned by digest is the same wherever a
        ``dedicated`` builder has it from."""
        argv = list[str]()
        for ref, wanted in sorted(inputs.read_for.items()):
            images = dict(zip(wanted, self.local_images.bases(ref, wanted) or (), strict=False))
            names = {platform: found for platform in images if (found := self.local_images.base(ref, platform))}
            aside = any(name != ref for name, _ in names.values())
            if not images or ("@" in ref if dedicated else not aside):
                continue
            from doit_images.core.buildkit import oci_transfer  # most start from what goes by its own name

            if len({local_image.id for local_image in images.values()}) > 1:
                context = oci_transfer.together(self.engine, self.results, ref, names)
            elif dedicated:
                platform, (name, local_image) = next(iter(names.items()))
                context = oci_transfer.context_of(self.engine, self.results, name, local_image, platform)
            else:
                context = f"docker-image://{next(iter(names.values()))[0]}"
            called = [name for name, value in inputs.image.contexts.items() if value == f"docker-image://{ref}"]
            for name in (ref, *called):
                argv += ["--build-context", f"{name}={context}"]
        return argv

    def import_result(self, inputs: ImageInputs, layout: Path | None, image_id: str, made: LocalImage | None) -> str:
        """After a build that left ``image_id`` in this layout, or in the engine as ``made``: it is in the engine, under
        the id that is returned."""
        if layout is None:
            # containerd's store calls an image by its manifest, buildx, depending on its version, by its configuration.
            return made.id if made else image_id
        from doit_images.core.buildkit import oci_transfer

        snapshot = self.local_images.snapshot()
        pairs = ((ref, one) for ref, some in inputs.read_for.items() for one in some)
        bases = dict(filter(None, (self.local_images.base(*pair) for pair in pairs)))
        near = [*map(snapshot.get, (*inputs.parent_tags.values(), inputs.image.ref)), *bases.values()]
        ids = {local_image.id for local_image in near if local_image}
        platform = platforms.held(inputs.platforms, snapshot.platform)
        if self.local_images.containerd_store:
            folders = {oci_transfer.folder_of(self.results, name) for name in (*inputs.parents.values(), *bases)}
            there = {
                number: set().union(*(oci_transfer.blobs_of(folder, number) for folder in (*folders, layout)))
                for number in ids
            }
            taken = oci_transfer.take_index(self.engine, layout, image_id, platform, there)
        else:
            layers = [tuple(digest for digest, _ in self.engine.layers(number)) for number in ids]
            taken = oci_transfer.take(self.engine, layout, image_id, platform, layers)
        self.local_images.changed()
        return taken

    def layout_of(self, inputs: ImageInputs) -> Path | None:
        """The layout that holds what the classic store cannot: an image of several platforms; None for any other."""
        if len(inputs.platforms) < 2 or self.local_images.containerd_store:
            return None
        from doit_images.core.buildkit import oci_transfer

        return oci_transfer.folder_of(self.results, inputs.name)


def clean_up(backend: Backend, inputs: ImageInputs) -> None:
    """After a build: what its cache export left behind in a local cache is tidied."""
    if backend.kind == CacheBackend.LOCAL:
        from doit_images.core.buildkit import oci_transfer

        for each in (backend, *(_apart(backend, platform) for platform in inputs.platforms)):
            oci_transfer.tidy(Path(backends.local_folder(each.place, inputs.name, each.branch)))


def inline_tags(backend: Backend) -> list[str]:
    """Further tags under which an image is pushed: with an inline cache the one of its branch, which is read from."""
    return [backends.cache_tag(backend.branch)] if backend.kind == CacheBackend.INLINE and backend.write else []


def _caches(run: Run, image: Image, platform: str = "") -> list[str]:
    """The cache options of a build: where it may find results of others, and where it leaves its own; of the build for
    one platform alone, which would overwrite what that for another one left."""
    backend = _apart(run.cache_backend, platform)
    if backend.kind in (CacheBackend.INLINE, CacheBackend.REGISTRY) and not run.peers.results.reads:
        return []  # it did not answer: BuildKit would wait for it once for every reference
    if backend.kind == CacheBackend.LOCAL:
        Path(backend.place).mkdir(parents=True, exist_ok=True)
    argv = backends.options(backend, image.name, path_of(image.ref), os.path.isdir)
    if image.cache_from or image.cache_to:
        exports = run.settings.dedicated_builder or run.local_images.containerd_store
        argv += backends.declared(image.cache_from, image.cache_to, exports=exports)
    return argv


def _apart(backend: Backend, platform: str) -> Backend:
    """The same for one platform alone. The inline cache is part of the image, and there is one image."""
    if not platform or backend.kind == CacheBackend.INLINE:
        return backend
    # No branch of git's has a colon in its name.
    return replace(backend, branch=f"{backend.branch}:{platform}", main=f"{backend.main}:{platform}")
