"""How do results get to a machine that shares no network with this one?

``cache_export FOLDER`` writes the fresh images, with their fingerprints' tags, and the local cache; ``cache_import
FOLDER`` takes them in elsewhere, where a plan that computes the same fingerprints then has nothing to build. What is
in the folder is checked against the signature, the digests in ``export.json`` and the names of fingerprints before the
engine sees any of it (``archive_check``), and what the engine then has against its labels.

    FOLDER/export.json      what it is, from which platform, every file with its size and sha256
    FOLDER/export.json.sigstore.json  the signature of that, where this machine has a key (``trusted``)
    FOLDER/images.tar       docker save of all images together: layers that they share are in it once
    FOLDER/cache/…          the local cache backend's folders, if there are any
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import digest_of, tag_of
from doit_images.core.base.settings import Settings
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.core.planner import Planner
from doit_images.core.planning.agreement import Resolution
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import shared_ref_of
from doit_images.core.run import Run
from doit_images.share import cache_mounts, connection, publish, trusted
from doit_images.share.archive_check import check_files, check_images, measured
from doit_images.share.signing import NotSigned

INDEX, IMAGES, CACHE = "export.json", "images.tar", "cache"
SIGNATURE = f"{INDEX}.sigstore.json"
_ARCHIVE = "archive"  # stands in a signature where a result has its fingerprint
_FORMAT = 1


def export(run: Run, folder: Path) -> str:
    """Write the fresh images and the local cache to a folder, whole or not at all; returns what was written, in words.
    ``UserError`` when no image is fresh, or something else is in the folder."""
    leftovers.refuse_foreign(folder, INDEX, "an earlier export")
    fresh = _fresh(run.planner)
    if not fresh:
        raise UserError("no image is fresh, so there is nothing to export", remedy="doit build")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with leftovers.folder(f".{folder.name}-", folder.parent) as draft:
        images = [_entry(decision, local_image) for decision, local_image in fresh]
        run.events.say(f"writing {len(images)} images")
        _docker(run.engine, "save", "--output", str(draft / IMAGES), *(entry["ref"] for entry in images))
        cache = run.cache_folder
        if cache.is_dir():
            run.events.say("writing the local cache")
            shutil.copytree(cache, draft / CACHE)
        found = [path for path in sorted(draft.rglob("*")) if path.is_file()]
        files = {path.relative_to(draft).as_posix(): measured(path) for path in found}
        platform = run.local_images.snapshot().platform
        whole = {"format": _FORMAT, "platform": platform, "images": images, "files": files}
        text = json.dumps(whole, indent=1).encode()
        (draft / INDEX).write_bytes(text)
        trust = trusted.of(run.settings)
        if trust.need and not trust.cannot_sign:
            trust.say = run.events.say
            try:
                (draft / SIGNATURE).write_bytes(trust.sign(digest_of(text), _ARCHIVE, platform))
            except NotSigned as error:
                raise UserError(f"the archive could not be signed: {error}") from None
        leftovers.take_the_place_of(folder, draft)
    size = sum(entry["size"] for entry in files.values())
    also = " and the local cache" if cache.is_dir() else ""
    return f"wrote {len(images)} images{also}, {size_text(size)}, to {folder}"


def take_in(run: Run, folder: Path) -> str:
    """Take in what ``export`` wrote elsewhere; returns what was taken, in words. ``UserError``, with nothing taken,
    when a file is missing or not what the index says, or is for another platform."""
    text = _read(folder)
    index = _index(text, folder)
    platform = run.local_images.snapshot().platform
    _believe(run.settings, folder, text, platform)
    if index["platform"] != platform:
        raise UserError(f"it was exported on {index['platform']}, and this engine is {platform}", where=str(folder))
    run.events.say(f"checking {size_text(sum(entry['size'] for entry in index['files'].values()))}")
    check_files(folder, index["files"], (INDEX, SIGNATURE))
    check_images(folder / IMAGES, index["images"])
    before = {local_image.id for local_image in run.local_images.snapshot().every()}
    _docker(run.engine, "load", "--quiet", "--input", str(folder / IMAGES))
    run.local_images.changed()
    taken = 0
    for entry in index["images"]:
        local_image = run.local_images.snapshot().get(entry["ref"])
        if local_image is None or local_image.labels.get(FINGERPRINT) != entry["fingerprint"]:
            raise UserError(
                f"the archive gave no image {entry['ref']} with that fingerprint", where=str(folder / IMAGES)
            )
        taken += local_image.id not in before
    caches = _take_caches(run.cache_folder, folder, index)
    return f"took in {taken} images, {len(index['images']) - taken} were here already{caches}"


def _take_caches(target: Path, folder: Path, index: dict[str, Any]) -> str:
    """Add the local caches that are not here; one that is here is newer or the same."""
    added = 0
    caches = {PurePosixPath(*parts[1:3]) for name in index["files"] if (parts := PurePosixPath(name).parts)[0] == CACHE}
    for cache in sorted(caches):
        if not (target / cache).exists() and (folder / CACHE / cache).is_dir():
            shutil.copytree(folder / CACHE / cache, target / cache)
            added += 1
    return f", and {added} local caches" if added else ""


def _fresh(planner: Planner) -> list[tuple[Decision, LocalImage]]:
    """The images that the engine has as the plan says."""
    fresh = (decision for decision in planner.decisions().values() if decision.action == Action.FRESH)
    return [(decision, decision.local_image) for decision in fresh if decision.local_image]


def _entry(decision: Decision, local_image: LocalImage) -> dict[str, Any]:
    """What the index says of an image: it is in the archive under the tag of the fingerprint that it was built with,
    which is in its label: that one is looked at where it is taken in, and proves it there."""
    number = local_image.labels[FINGERPRINT]
    ref = tag_of(decision.inputs.image.ref, number)
    return {"name": decision.name, "ref": ref, "fingerprint": number, "id": local_image.id}


def _read(folder: Path) -> bytes:
    try:
        return (folder / INDEX).read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no {INDEX}", where=str(folder), remedy="name what cache_export wrote") from None


def _believe(settings: Settings, folder: Path, index: bytes, platform: str) -> None:
    """``UserError`` where an index is not signed as the settings ask for: by it all other files are."""
    signature = folder / SIGNATURE
    bundles = [signature.read_text(errors="replace")] if signature.is_file() else []
    if doubt := trusted.of(settings).refuses(digest_of(index), _ARCHIVE, platform, bundles):
        remedy = "export it with a SHARE_KEY of the list, or take it from somebody whom you trust with SHARE_TRUST=any"
        raise UserError(f"it is not taken: {doubt}", where=str(folder), remedy=remedy)


def _index(text: bytes, folder: Path) -> dict[str, Any]:
    try:
        index = json.loads(text)
        known = index["format"] == _FORMAT and index["platform"] and isinstance(index["images"], list)
        for entry in index["images"]:
            known = known and all(isinstance(entry[key], str) for key in ("name", "ref", "fingerprint"))
        for entry in index["files"].values():
            known = known and isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known or IMAGES not in index["files"]:
        raise UserError(f"this program cannot read {INDEX}", where=str(folder))
    return dict(index)


def _docker(engine: Engine, *words: str) -> None:
    commands.run(["docker", *words], env=leading_to(engine.address)).checked(f"docker {words[0]} fails")


def export_to(run: Run, *, mounts: bool, folders: Sequence[str]) -> None:
    """The action of ``cache_export``: to the folder that is named, else to the shared registry; with ``mounts`` what
    cache mounts hold. Raises ``UserError``."""
    if len(folders) > 1:
        raise UserError("cache_export takes one folder")
    if mounts:
        if not folders:
            raise UserError("cache_export --mounts needs a FOLDER")
        run.events.say(cache_mounts.pack(run, Path(folders[0]).resolve()))
        return
    run.events.say(export(run, Path(folders[0]).resolve()) if folders else push_all(run))


def import_from(run: Run, *, mounts: bool, folders: Sequence[str]) -> None:
    """The action of ``cache_import``; with ``mounts``, of what ``cache_export --mounts`` wrote; ``UserError``."""
    if len(folders) != 1:
        raise UserError("cache_import takes the folder that cache_export wrote")
    take = cache_mounts.unpack if mounts else take_in
    run.events.say(take(run, Path(folders[0]).resolve()))


def push_all(run: Run) -> str:
    """Push every fresh image that the shared registry does not have yet; returns what was pushed, in words.
    ``UserError`` if there is no registry, if this machine may not write to it, or if it refuses an image."""
    if not run.settings.cache_registry:
        raise UserError("cache_export needs a FOLDER, or CACHE_REGISTRY to push to")
    if not run.settings.cache_write:
        raise UserError("CACHE_WRITE=0 forbids to push", remedy="name a FOLDER")
    machines, platform = connection.of(run), run.local_images.snapshot().platform
    share = machines.share
    fresh = _fresh(run.planner)
    if run.own_base and run.own_base.give():
        run.local_images.changed()
    share.offers({decision.name: decision.inputs for decision, _ in fresh}, platform)  # side by side
    pushed = 0
    for decision, local_image in fresh:
        shared_ref = shared_ref_of(decision.inputs, platform)
        if shared_ref is None:
            continue
        what, shared_image = publish.offer(machines, decision, shared_ref, local_image)
        if not share.writes or (what == Resolution.PUSH and shared_image is None):
            raise UserError(f"{decision.name} could not be pushed to {share.address}")
        pushed += what == Resolution.PUSH
    return f"pushed {pushed} images to {share.address}, {len(fresh) - pushed} needed no push"
