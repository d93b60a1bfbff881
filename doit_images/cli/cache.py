"""Builders and caches: make them ready, look at them, prune them, take them to another machine, do without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from doit_images.cli.action import JSON, YES, Task, option, quiet
from doit_images.cli.build import declared_images, make_image, rebuild_image
from doit_images.cli.process import names
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import CacheBackend
from doit_images.core.run import Run

_DRY_RUN = option("dry-run", False, "only print what would be removed")
_MOUNTS = option("mounts", False, "what cache mounts hold instead: the downloads of pip, uv, apt")


def task_cache_init() -> Task:
    """Make the builder and the caches that the settings ask for ready, or say that there is nothing to set up"""
    return quiet(_init)


def task_cache_stats() -> Task:
    """Show what caches hold, what is reclaimable, and what they saved: [--runs N] [--json]"""
    runs = option("runs", 50, "how many runs the hit rates cover")
    return quiet("doit_images.ui.cache_view:show", runs, JSON)


def task_cache_prune() -> Task:
    """Remove old results and caches that nothing needs: [--dry-run] [--all] [--yes]"""
    everything = option("all", False, "all that nothing needs, however new and small", name="everything")
    return quiet("doit_images.pruning.cache_prune:prune", _DRY_RUN, everything, YES, JSON)


def task_registry_prune() -> Task:
    """Remove shared results that no branch, tag or commit of late needs: [REPOSITORY …] [--dry-run] [--all] [--yes]"""
    everything = option("all", False, "all that no branch and no tag needs, however new", name="everything")
    return quiet("doit_images.pruning.registry_prune:prune", _DRY_RUN, everything, YES, JSON, words="words")


def task_cache_export() -> Task:
    """Push the fresh images to CACHE_REGISTRY, or write them and the local cache to a folder: [FOLDER] [--mounts]"""
    return quiet("doit_images.share.archive:export_to", _MOUNTS, words="folders")


def task_cache_import() -> Task:
    """Take in what cache_export wrote on another machine: FOLDER [--mounts]"""
    return quiet("doit_images.share.archive:import_from", _MOUNTS, words="folders")


def task_publish() -> Task:
    """Give tested images the names that people use: [IMAGE …] --tag TAG … [--registry R] [--dry-run]"""
    tag = option("tag", [], "v1.2.3, latest, or from git: @describe, @branch, @sha; any number of times")
    registry = option("registry", "", "to this one, not where the Compose file says")
    move = option("move", False, "also a version that means another image already")
    dirty = option("dirty", False, "also from a working tree that is not as the commit has it")
    dry_run = option("dry-run", False, "only print what would be published")
    return quiet("doit_images.ui.release_view:publish", tag, registry, move, dirty, dry_run, JSON, words="images")


def task_share_key() -> Task:
    """Make the key that signs what this machine shares, and list it, or an identity: NAME [FILE] [--days N]"""
    days = option("days", 365, "how long the key counts")
    identity = option("identity", "", "no key: who the builder is by its CI, such as a workflow at a branch")
    issuer = option("issuer", "https://token.actions.githubusercontent.com", "who gives that identity its tokens")
    return quiet(_share_key, days, identity, issuer, words="words")


def _share_key(run: Run, words: Sequence[str], days: int, identity: str, issuer: str) -> None:
    """Write the private key, add the public one to the list of trusted builders, or an identity, and say what else is
    to be done. Raises ``UserError``."""
    from doit_images.share import builders, trusted

    if identity:
        if len(words) != 1:
            raise UserError("share_key --identity takes the name of a builder, which has no key and so no file")
        listed = builders.add_identity(run.settings, words[0], issuer, identity, days)
        how = f"there it signs with SHARE_KEY={trusted.KEYLESS}{words[0]}"
    elif 1 <= len(words) <= 2:
        file, listed = builders.begin(run.settings, words[0], Path(words[1]) if words[1:] else None, days)
        how = f"the private key is in {file}, for this machine alone: SHARE_KEY={file}"
    else:
        raise UserError("share_key takes the name of a builder, and the file that the key is to be in")
    print(f"{listed} now trusts {words[0]}: let it be reviewed and committed")
    print(how)


def task_rebuild() -> Iterator[Task]:
    """Build every image again, without any cache"""
    yield {"name": None, "doc": "build every image again, without any cache"}
    declared, failing = declared_images()
    if failing:
        yield failing
    for name, inputs in declared.items():
        yield {
            "name": name,
            "doc": f"build {inputs.image.ref} again, without any cache",
            # A duplicate service is named after what was just built.
            "actions": [(make_image if inputs.image.duplicate_of else rebuild_image, [name])],
            "task_dep": [names()(f"rebuild:{other}") for other in inputs.needs],
            "meta": {"image": name},
            "io": {"capture": False},
        }


def _init(run: Run) -> None:
    """Say on standard output what builds and where its cache goes; make the dedicated builder if one is asked for."""
    from doit_images.core.buildkit import builder

    settings = run.settings
    if settings.dedicated_builder:
        print(builder.init(settings, run.common, run.environ))
    else:
        store = "containerd's image store" if run.local_images.containerd_store else "the classic image store"
        print(f"the engine's own BuildKit builds, with {store}: nothing to set up")
        if not run.local_images.containerd_store:
            print(
                "it can export inline caches only; registry, local, gha and s3 need "
                '"features": {"containerd-snapshotter": true} in daemon.json, or another BUILDER_DRIVER'
            )
    backend = run.cache_backend
    if backend.kind == CacheBackend.LOCAL:
        Path(backend.place).mkdir(parents=True, exist_ok=True)
    place = f" in {backend.place}" if backend.place else ""
    branch = f", branch {backend.branch}" if backend.kind != CacheBackend.NONE else ""
    print(f"cache backend: {backend.kind}{place}{branch}{'' if backend.write else ', read only'}")
    if settings.cache_registry:
        print(f"shared results: {settings.cache_registry}{'' if settings.cache_write else ', read only'}")
