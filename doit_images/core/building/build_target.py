"""Where is an image built, and what has to happen around it?

What a build command needs besides the image itself (builder, cache, output, contexts that stand for parents and
bases), and how its result comes into the engine. With the engine's own BuildKit and no cache backend that is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from doit_images.core.around import Peers
from doit_images.core.base import commands, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.forks import fork
from doit_images.core.base.references import path_of
from doit_images.core.base.settings import CacheBackend
from doit_images.core.buildkit import backends, builder
from doit_images.core.buildkit.backends import Backend
from doit_images.core.engine.client import LocalImage
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run

# Where build machines keep the branch: they check out a commit, so git does not know it.
_BRANCHES = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BUILDKITE_BRANCH", "BRANCH_NAME")


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
    run: Run, decision: Decision, parents: Mapping[str, str], *, no_cache: bool = False, cached: bool = True
) -> BuildTarget:
    """Make ready what the build of an image needs. ``parents`` maps each context that stands for a parent to a
    reference which the engine holds; ``no_cache`` neither reads nor writes a cache of others, and without ``cached``
    the builder's own is not read. Raises ``UserError``."""
    inputs, settings = decision.inputs, run.settings
    extra = [*builder.argv(settings, run.environ), *([] if cached else ["--no-cache"])]
    if not settings.dedicated_builder:
        return BuildTarget(parents, (*extra, *([] if no_cache else caches(run, decision)), *bases(run, decision)))
    from doit_images.core.buildkit import oci_transfer  # most builds are the engine's own

    builder.ready(settings, run.common, run.environ)
    results, pushed = results_folder(run.folder), settings.registry_only
    layout = None if pushed else oci_transfer.folder_of(results, inputs.name)
    extra += [*_parents_argv(run, inputs), *bases(run, decision)]
    # What has several platforms is shared from the layout, anything else from the engine.
    packed = len(inputs.platforms) > 1 and run.peers.results.writes

    def alone(platform: str = "") -> Apart:
        stored = [] if no_cache else caches(run, decision, platform)
        if pushed:
            return Apart((*stored, *run.peers.past_engine.output(inputs.image)))
        folder = oci_transfer.folder_of(results, f"{inputs.name} for {platform}" if platform else inputs.name)
        folder.mkdir(parents=True, exist_ok=True)
        return Apart((*stored, *oci_transfer.output(folder, packed=packed)), folder)

    # buildx lets several nodes build one image only if it is pushed under a name: each platform is built on its node,
    # and joined.
    if len(inputs.platforms) > 1 and max(len(settings.builder_endpoints), len(run.built_on)) > 1:
        return BuildTarget({}, tuple(extra), layout, {one: alone(one) for one in inputs.platforms}, pushed)
    return BuildTarget({}, (*extra, *alone().extra), layout, pushed=pushed)


def one_id(peers: Peers, inputs: ImageInputs, where: BuildTarget, ids: Mapping[str, str]) -> str:
    """The id of what was built, of the images for each platform where those were built apart: they become one index.
    Raises ``UserError``."""
    if not where.apart:
        return next(iter(ids.values()))
    if where.layout is None:
        return peers.past_engine.joined(inputs.image, ids)
    from doit_images.core.buildkit import oci_transfer

    return oci_transfer.indexed(where.layout, {name: (where.apart[name].layout, each) for name, each in ids.items()})


def _parents_argv(run: Run, inputs: ImageInputs) -> list[str]:
    """The contexts by which a dedicated builder gets the parents that the engine holds, or the shared registry, where
    that keeps them. Raises ``UserError``."""
    if run.settings.registry_only:
        return run.peers.past_engine.parents_argv(inputs)
    from doit_images.core.buildkit import oci_transfer

    results, platform = results_folder(run.folder), run.local_images.snapshot().platform
    argv = []
    for context, name in sorted(inputs.parents.items()):
        local_image = run.local_images.snapshot().get(inputs.parent_tags[context])
        if local_image is None:
            raise UserError(
                f"the engine does not hold `{name}`, on which {inputs.name} is built", remedy="run it again"
            )
        value = oci_transfer.context_of(run.engine, results, name, local_image, platform)
        argv += ["--build-context", f"{context}={value}"]
    return argv


def bases(run: Run, decision: Decision) -> list[str]:
    """The contexts by which a build starts from those images that count as its external bases. The engine's own
    BuildKit finds by itself what goes by its own name; what is pinned by digest is the same wherever a dedicated one
    has it from."""
    inputs, dedicated, argv = decision.inputs, run.settings.dedicated_builder, []
    results = results_folder(run.folder)
    for ref, wanted in sorted(inputs.read_for.items()):
        images = dict(zip(wanted, run.local_images.bases(ref, wanted) or (), strict=False))
        names = {platform: found for platform in images if (found := run.local_images.base(ref, platform))}
        aside = any(name != ref for name, _ in names.values())
        if not images or ("@" in ref if dedicated else not aside):
            continue
        from doit_images.core.buildkit import oci_transfer  # most start from what goes by its own name

        if len({local_image.id for local_image in images.values()}) > 1:
            context = oci_transfer.together(run.engine, results, ref, names)
        elif dedicated:
            platform, (name, local_image) = next(iter(names.items()))
            context = oci_transfer.context_of(run.engine, results, name, local_image, platform)
        else:
            context = f"docker-image://{next(iter(names.values()))[0]}"
        called = [name for name, value in inputs.image.contexts.items() if value == f"docker-image://{ref}"]
        for name in (ref, *called):
            argv += ["--build-context", f"{name}={context}"]
    return argv


def around(run: Run, decision: Decision) -> list[str]:
    """Which builder it is, and the contexts by which it gets external bases, and parents where it is a dedicated one,
    which is made ready. Raises ``UserError``."""
    extra = builder.argv(run.settings, run.environ)
    if run.settings.dedicated_builder:
        builder.ready(run.settings, run.common, run.environ)
        extra += _parents_argv(run, decision.inputs)
    return [*extra, *bases(run, decision)]


def import_result(run: Run, decision: Decision, where: BuildTarget, image_id: str, made: LocalImage | None) -> str:
    """After a build that left ``image_id`` and, in the engine, ``made``: its result is in the engine, under the id that
    is returned. Raises ``UserError``."""
    if where.layout is None:
        # containerd's store calls an image by its manifest, and buildx, depending on its version, by its configuration.
        return made.id if made else image_id
    from doit_images.core.buildkit import oci_transfer

    inputs, snapshot = decision.inputs, run.local_images.snapshot()
    bases = dict(
        found for ref, some in inputs.read_for.items() for one in some if (found := run.local_images.base(ref, one))
    )
    near = [*map(snapshot.get, (*inputs.parent_tags.values(), inputs.image.ref)), *bases.values()]
    ids = {local_image.id for local_image in near if local_image}
    platform = platforms.held(inputs.platforms, snapshot.platform)
    if run.local_images.containerd_store:
        results = results_folder(run.folder)
        folders = {oci_transfer.folder_of(results, name) for name in (*inputs.parents.values(), *bases)}
        there = {
            number: set().union(*(oci_transfer.blobs_of(folder, number) for folder in (*folders, where.layout)))
            for number in ids
        }
        taken = oci_transfer.take_index(run.engine, where.layout, image_id, platform, there)
    else:
        layers = [tuple(digest for digest, _ in run.engine.layers(number)) for number in ids]
        taken = oci_transfer.take(run.engine, where.layout, image_id, platform, layers)
    run.local_images.changed()
    return taken


def clean_up(run: Run, decision: Decision) -> None:
    """After a build: what its cache export left behind in a local cache is tidied."""
    backend = chosen_backend(run)
    if backend.kind == CacheBackend.LOCAL:
        from doit_images.core.buildkit import oci_transfer

        for each in (backend, *(_apart(backend, platform) for platform in decision.inputs.platforms)):
            oci_transfer.tidy(Path(backends.local_folder(each.place, decision.name, each.branch)))


def layout_of(run: Run, inputs: ImageInputs) -> Path | None:
    """The layout that holds what the classic store cannot: an image of several platforms; None for any other."""
    if len(inputs.platforms) < 2 or run.local_images.containerd_store:
        return None
    from doit_images.core.buildkit import oci_transfer

    return oci_transfer.folder_of(results_folder(run.folder), inputs.name)


def chosen_backend(run: Run) -> Backend:
    """The cache backend of this run; ``UserError`` where the builder cannot do what is asked for."""
    settings = run.settings
    wanted = settings.cache_backend
    # Only what could be exported makes it worth asking the engine.
    asks = wanted not in (CacheBackend.NONE, CacheBackend.INLINE) and not settings.dedicated_builder
    undecided = (
        wanted == CacheBackend.AUTO and not settings.cache_registry and "ACTIONS_RUNTIME_TOKEN" not in run.environ
    )
    exports = settings.dedicated_builder or (asks and not undecided and run.local_images.containerd_store)
    kind = backends.chosen(wanted, exports=exports, registry=settings.cache_registry, environ=run.environ)
    place = str(cache_folder(run)) if kind == CacheBackend.LOCAL else settings.cache_registry
    write = settings.cache_write or kind == CacheBackend.LOCAL
    branch = main = settings.cache_main_branch
    if kind != CacheBackend.NONE:  # else git need not be asked
        branch = _branch(run.project.directory, tuple(run.environ.items()), settings.cache_branch) or main
    return Backend(kind, place, branch, main, write, settings.cache_s3)


def cache_folder(run: Run) -> Path:
    """The folder of the local cache backend."""
    return (run.project.directory / (run.settings.cache_dir or run.folder / "cache")).resolve()


def results_folder(folder: Path) -> Path:
    """Where a dedicated builder and the engine meet, in the project's folder."""
    return folder / "results"


def inline_tags(run: Run) -> list[str]:
    """Further tags under which an image is pushed: with an inline cache the one of its branch, which is read from."""
    backend = chosen_backend(run)
    if backend.kind != CacheBackend.INLINE or not backend.write:
        return []
    return [backends.cache_tag(backend.branch)]


def caches(run: Run, decision: Decision, platform: str = "") -> list[str]:
    """The cache options of a build: where it may find results of others, and where it leaves its own; of the build for
    one platform alone, which would overwrite what that for another one left."""
    image = decision.inputs.image
    backend = _apart(chosen_backend(run), platform)
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


@cache
def _branch(directory: Path, environ: tuple[tuple[str, str], ...], named: str) -> str:
    known = dict(environ)
    branch = named or next((known[name] for name in _BRANCHES if known.get(name)), "")
    if not branch:
        branch = commands.answer(["git", "-C", str(directory), "rev-parse", "--abbrev-ref", "HEAD"])
        branch = "" if branch == "HEAD" else branch
    stranger = fork(known)
    # Here too, nothing else has such a name.
    return f"{stranger}:{branch}" if stranger else branch
