"""What is disk spent on, and what of it must stay?

Everything that pruning may look at, as ``prune.Item``: old results in the engine (our ``in-`` tags), the build cache of
the engine or of the dedicated builder, local cache folders, layouts that images travel through, and our own logs
and records. What is not ours is not in the list at all, but for the engine's build cache, which has no owners.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from doit_images.ci import cache_records
from doit_images.core.base.references import KEPT, kind_of, path_of, repository, tag_of
from doit_images.core.base.settings import Settings
from doit_images.core.base.timestamps import DAY, epoch_seconds
from doit_images.core.building import build_target, context, parents
from doit_images.core.compose.project import Project
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import CacheRecord, Engine, LocalImage, Snapshot, normalise
from doit_images.core.engine.labels import INPUT_DIGEST
from doit_images.core.history.store import KEEP
from doit_images.core.planning import checkouts
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run
from doit_images.pruning.prune import Item, ItemKind
from doit_images.stack.layers import chained, parts_of

# A build on another machine that uses this engine holds no lock that is seen here. None takes longer.
_PASSING_SECONDS = DAY


def all_items(run: Run) -> list[Item]:
    """Everything, as it is now. Raises ``UserError`` when the engine does not answer; a dedicated builder that does not
    answer has nothing."""
    now = time.time()
    items = [*images(run, now), *build_cache(ItemKind.ENGINE, run.engine.build_cache(), now)]
    if run.settings.dedicated_builder:
        records = cache_records.of_builder(run.settings.builder_name, run.environ, now)
        items += build_cache(ItemKind.BUILDER, records, now)
    return [*items, *files(run, now)]


def images(run: Run, now: float) -> list[Item]:
    """The images of this project in the engine, those of old fingerprints and those that are needed."""
    snapshot, users = run.local_images.snapshot(), run.engine.users()
    needed = _mounted(run.engine, snapshot) | _needed(snapshot, run.planner.decisions(), run.folder)
    past = run.history.recent(limit=KEEP)
    used: dict[str, float] = defaultdict(float)
    for build in past:
        used[build.image_id] = max(used[build.image_id], build.ended)
    rebuild_cost = {build.image_id: build.seconds for build in reversed(past) if build.action == Action.BUILD}
    repositories = repositories_of(run.project, run.settings)
    items = []
    for local_image in {local_image.id: local_image for local_image in snapshot.every()}.values():
        if not (INPUT_DIGEST in local_image.labels and _belongs(local_image, repositories, used)):
            continue
        idle = now - max(used[local_image.id], local_image.created)
        why = needed.get(local_image.id) or _in_use(local_image, users, repositories, now)
        layers = parts_of(chained(run.engine.layers(local_image.id)))
        name = " ".join(local_image.tags) or local_image.id[:19]
        cost = rebuild_cost.get(local_image.id, 0.0)
        items.append(Item(local_image.id, ItemKind.IMAGE, name, layers, idle, cost, why, refs=local_image.tags))
    return items


def _mounted(engine: Engine, snapshot: Snapshot) -> dict[str, str]:
    """The images that containers mount, by id, each with why. One whose name was given again since its container was
    made may be any of that repository."""
    mounted = dict[str, str]()
    for container, ref, made in engine.image_mounts():
        image_id, _, when = engine.tagged(ref).partition(" ")
        if image_id and epoch_seconds(when) < made:
            mounted[image_id] = f"the container {container} mounts it"
            continue
        for name, image in snapshot.by_name.items():
            if repository(name) == repository(normalise(ref)):
                mounted[image.id] = f"the container {container} may mount it"
    return mounted


def _needed(snapshot: Snapshot, decisions: Mapping[str, Decision], folder: Path) -> dict[str, str]:
    """The images that the plan needs, here or in another checkout, by id, each with why."""
    needed = dict[str, str]()
    for decision in decisions.values():
        image = decision.inputs.image
        for ref in (*image.names, tag_of(image.ref, decision.inputs.fingerprint)):
            if local_image := snapshot.get(ref):
                needed.setdefault(local_image.id, f"it is `{ref}`")
        if decision.local_image:
            needed.setdefault(decision.local_image.id, f"the plan needs it for `{decision.name}`")
    for ref, other in checkouts.needs(folder):
        if local_image := snapshot.get(ref):
            needed.setdefault(local_image.id, f"it is needed in {other}")
    return needed


def build_cache(kind: ItemKind, records: Sequence[CacheRecord], now: float) -> list[Item]:
    """The records of a build cache. They belong to nobody: whoever uses this BuildKit shares them. What a record shares
    with an image counts as the image's."""
    above: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for parent in record.parents:
            above[parent].append(record.id)
    return [
        Item(
            key=record.id,
            kind=kind,
            name=f"{record.id[:12]} {record.what[:60]}",
            parts={record.id: 0 if record.shared else record.size},
            idle=now - record.used,
            rebuild_cost=float(record.uses),
            needed="a build uses it" if record.busy else "",
            above=tuple(above[record.id]),
        )
        for record in records
    ]


def files(run: Run, now: float) -> list[Item]:
    """Local caches, layouts that images travel through, links to contexts, and the logs and records of images that are
    no more."""
    folder = run.folder
    expected = run.expected.builds
    items = []
    for index in sorted(run.cache_folder.glob("*/*/index.json")):
        image = index.parent.parent.name
        items.append(
            _folder(ItemKind.LOCAL, index.parent, f"{image} {index.parent.name}", now, expected.get(image, 0.0))
        )
    results = folder / build_target.RESULTS
    for index in sorted((*results.glob("*/index.json"), *results.glob("bases/*/index.json"))):
        name = str(index.parent.relative_to(results))
        several = name in run.project.images and len(run.project.images[name].platforms) > 1
        why = "it holds further platforms of the image" if several else ""
        items.append(replace(_folder(ItemKind.LAYOUT, index.parent, name, now, 1.0), needed=why))
    for other in sorted(path.parent for path in run.common.glob("*/project.json")):
        idle = now - other.stat().st_mtime
        if checkouts.gone(other):
            items.append(_folder(ItemKind.OWN_FILE, other, f"{other.name}, whose Compose file is gone", now, 0.0))
        elif other != folder and idle > run.settings.cache_max_age:
            # Where each job has a COMPOSE_PROJECT_NAME of its own, these would only become more.
            items.append(_folder(ItemKind.OWN_FILE, other, f"{other.name}, a project of this folder", now, 0.0))
    for link in context.links(run.common):
        why = "" if context.unused(link) else "a build may be using it"
        name = f"contexts/{link.name}, a link for builds"
        items.append(Item(str(link), ItemKind.OWN_FILE, name, idle=now - link.lstat().st_mtime, needed=why))
    for path in sorted((*folder.glob("logs/*"), *folder.glob("images/*.json"))):
        if path.is_file():
            current = path.name.removesuffix(path.suffix) in run.project.images
            why = "it tells what is here" if current and path.suffix == ".json" else ""
            parts, idle = {str(path): path.stat().st_size}, now - path.stat().st_mtime
            items.append(Item(str(path), ItemKind.OWN_FILE, str(path.relative_to(folder)), parts, idle, 1.0, why))
    return items


def _belongs(local_image: LocalImage, repositories: set[str], used: Mapping[str, float]) -> bool:
    """Whether an image is this project's: by a name of its own, or, without any name, by being in its history."""
    if not local_image.tags:
        return local_image.id in used
    return not set(local_image.tags).isdisjoint(own_names(local_image, repositories))


def repositories_of(project: Project, settings: Settings) -> set[str]:
    """The repositories that hold nothing but this project's images: its own, and those that stand for them where a
    build is told its parents and where images are pushed to."""
    own = {repository(normalise(image.ref)) for image in project.images.values()}
    hosts = [host for host in (parents.HOST, settings.cache_registry) if host]
    return own | {f"{host}/{path_of(name)}" for host in hosts for name in own}


def own_names(local_image: LocalImage, repositories: set[str]) -> list[str]:
    """Those of an image's names that are of use to these tasks alone: those of builds, and those of fingerprints where
    its own is one of them."""
    proven = not repositories.isdisjoint(local_image.proofs)
    mine = [name for name in local_image.tags if repository(name) in repositories]
    return [
        name
        for name in mine
        if (proven and kind_of(name.rpartition(":")[2]) == KEPT) or temporary_tag.given(name) is not None
    ]


def _in_use(local_image: LocalImage, users: Mapping[str, tuple[str, ...]], repositories: set[str], now: float) -> str:
    if local_image.id in users:
        return f"the container {users[local_image.id][0]} was made from it"
    own = own_names(local_image, repositories)
    if others := [name for name in local_image.tags if name not in own]:
        return f"it is also called `{others[0]}`"
    given = (when for tag in local_image.tags if (when := temporary_tag.given(tag)) is not None)
    return "a build may be making or using it" if any(now - when < _PASSING_SECONDS for when in given) else ""


def _folder(kind: ItemKind, folder: Path, name: str, now: float, rebuild_cost: float) -> Item:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    parts = {str(path): path.stat().st_size for path in files}
    used = max(path.stat().st_mtime for path in (folder, folder / "index.json") if path.exists())
    return Item(str(folder), kind, name, parts, now - used, rebuild_cost)
