"""``doit cache_stats``: what caches hold, what is reclaimable, what they saved, and what was missed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from doit_images.ci.history import is_test
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import KEPT, kind_of, path_of
from doit_images.core.base.timestamps import DAY
from doit_images.core.buildkit import builder
from doit_images.core.buildkit.progress import brief
from doit_images.core.history.store import KEEP, Build, Status, median
from doit_images.core.planning.plan import Action
from doit_images.core.planning.reasons import DUE, NO_CACHE
from doit_images.core.run import Run
from doit_images.pruning import disk_usage
from doit_images.pruning.prune import Item, ItemKind, choose, total
from doit_images.share import connection
from doit_images.ui.statistics import grouped, of_last_runs, share, steps_of


def show(run: Run, runs: int, *, as_json: bool) -> None:
    """Print the statistics to standard output. Raises ``UserError``."""
    data = gather(run, runs)
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        _print(data)


def gather(run: Run, runs: int) -> dict[str, object]:
    """The statistics as plain data. ``reclaimable_bytes`` is what can be removed at all, ``over_bytes`` what is beyond
    ``CACHE_MAX_SIZE``."""
    settings = run.settings
    items = disk_usage.all_items(run)
    left = choose(items, float("inf"), sys.maxsize).left
    past = of_last_runs(run.history.recent(limit=KEEP), runs)
    return {
        "builder": builder.name(settings),
        "max_bytes": settings.cache_max_size,
        "max_age_seconds": settings.cache_max_age,
        "reclaimable_bytes": left,
        "over_bytes": max(0, left - settings.cache_max_size),
        "holdings": [_disk_usage(kind, items) for kind in ItemKind if any(item.kind == kind for item in items)],
        "registry": _registry(run),
        "images": [facts for name, facts in images(past).items() if name in run.project.images],
    }


def _disk_usage(kind: ItemKind, items: list[Item]) -> dict[str, object]:
    mine = [item for item in items if item.kind == kind]
    free = [item for item in mine if not item.needed]
    whole = total(mine)
    return {
        "kind": kind,
        "count": len(mine),
        "bytes": whole,
        "shared_bytes": sum(item.size for item in mine) - whole,
        "reclaimable_count": len(free),
        "reclaimable_bytes": whole - total(item for item in mine if item.needed),
        "oldest_seconds": round(max((item.idle for item in free), default=0.0)),
    }


def _registry(run: Run) -> dict[str, Any] | None:
    """What the shared registry holds of this project; ``problem`` where it does not say."""
    from doit_images.share.no_answer import NoImage, Unavailable

    address = run.settings.cache_registry
    if not address:
        return None
    registry = connection.of(run).share.registry
    paths = sorted({path_of(image.ref) for image in run.project.images.values()})
    try:
        tags = {path: registry.tags(path) for path in paths}
        current = connection.of(run).share.offers(
            {name: decision.inputs for name, decision in run.planner.decisions().items()},
            run.local_images.snapshot().platform,
        )
    except (Unavailable, NoImage) as error:
        return {"address": address, "problem": f"it {error}"}
    layers = {digest: size for image in current.values() for digest, size in image.layers.items()}
    return {
        "address": address,
        "results": sum(kind_of(tag) == KEPT for some in tags.values() for tag in some),
        "caches": sum(tag.startswith("cache-") for some in tags.values() for tag in some),
        "current_images": len(current),
        "current_bytes": sum(layers.values()),
    }


def images(builds: Iterable[Build]) -> dict[str, dict[str, Any]]:
    """What became of each image over these builds, in any order, as plain data; only what ended well counts.
    ``evicted`` are builds of what had been built before and was gone."""
    done = [build for build in builds if build.status == Status.DONE and not is_test(build)]
    done.sort(key=lambda build: (build.started, build.id))
    return {image: _image(image, some) for image, some in grouped(done, lambda build: build.image).items()}


def _image(image: str, builds: Sequence[Build]) -> dict[str, object]:
    real = [build for build in builds if build.action == Action.BUILD]
    spared = [build for build in builds if build.action in (Action.RETAG, Action.PULL)]
    usual = median([build.seconds for build in real]) if real else 0.0
    steps = steps_of(real).values()
    saved = sum(max(0.0, usual - build.seconds) for build in spared) + sum(step.saved for step in steps)
    evicted = [build.seconds for build in _evicted(builds)]
    costly = sorted((step for step in steps if step.executed), key=lambda step: -sum(step.executed))
    return {
        "image": image,
        "built": len(real),
        "retagged": sum(build.action == Action.RETAG for build in spared),
        "pulled": sum(build.action == Action.PULL for build in spared),
        "image_hit_rate": share(len(spared), len(real) + len(spared)),
        "step_hit_rate": share(sum(step.hits for step in steps), sum(step.seen for step in steps)),
        "seconds_saved": round(saved, 1),
        "evicted": len(evicted),
        "evicted_seconds": round(sum(evicted), 1),
        "steps": [
            {
                "name": step.last.name,
                "seen": step.seen,
                "cached": step.hits,
                "executed_seconds": round(sum(step.executed), 1),
            }
            for step in steps
        ],
        "costliest": [step.last.name for step in costly[:3]],
    }


def _evicted(builds: Iterable[Build]) -> Iterator[Build]:
    made: set[str] = set()
    for build in builds:
        if build.action == Action.BUILD and build.fingerprint in made and not {NO_CACHE, DUE} & set(build.reasons):
            yield build
        made.add(build.fingerprint)


def _print(data: dict[str, Any]) -> None:
    from doit_images.core.base.output import Output, table

    console = Output()
    usage = table("where", numbers=("entries", "size", "shared", "reclaimable", "oldest"))
    for entry in data["holdings"]:
        oldest = f"{entry['oldest_seconds'] / DAY:.1f} d" if entry["reclaimable_count"] else ""
        sizes = (size_text(entry[key]) for key in ("bytes", "shared_bytes", "reclaimable_bytes"))
        usage.add_row(entry["kind"], str(entry["count"]), *sizes, oldest)
    console.print(usage)
    bound = f"of {size_text(data['max_bytes'])} allowed (CACHE_MAX_SIZE)"
    over = f": {size_text(data['over_bytes'])} too much, doit cache_prune" if data["over_bytes"] else ""
    console.print(f"\n{size_text(data['reclaimable_bytes'])} reclaimable, {bound}{over}", markup=False)
    if data["registry"]:
        console.print(_registry_text(data["registry"]), markup=False)
    if data["images"]:
        console.print()
        _print_hits(console, data["images"])


def _registry_text(shared: dict[str, Any]) -> str:
    if "problem" in shared:
        return f"shared registry {shared['address']}: {shared['problem']}"
    stored = f"{shared['results']} results and {shared['caches']} caches of this project"
    return (
        f"shared registry {shared['address']}: {stored}; "
        f"{shared['current_images']} images are as the plan wants them, {size_text(shared['current_bytes'])} compressed"
    )


def _print_hits(console: Any, images: list[dict[str, Any]]) -> None:
    from doit_images.core.base.output import table

    numbers = ("built", "renamed", "pulled", "images saved", "steps cached", "s saved", "evicted")
    hits = table("image", numbers=numbers)
    hits.add_column("costliest step")
    for image in images:
        rates = ("" if image[key] is None else f"{image[key]:.0%}" for key in ("image_hit_rate", "step_hit_rate"))
        evicted = f"{image['evicted']} ({image['evicted_seconds']:.0f} s)" if image["evicted"] else ""
        costly = brief(image["costliest"][0])[:50] if image["costliest"] else ""
        counts = (str(image[key]) for key in ("built", "retagged", "pulled"))
        hits.add_row(
            image["image"], *counts, *rates, f"{image['seconds_saved']:.0f}", evicted, costly.replace("[", r"\[")
        )
    console.print(hits)
