"""``doit cache_prune``: one command for old results, build caches, cache folders and our own files."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from doit_images.core.base import commands, lock
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.settings import Settings
from doit_images.core.building import context, prune_lock
from doit_images.core.buildkit import builder
from doit_images.core.engine.client import Engine, in_groups, one_of
from doit_images.core.run import Run
from doit_images.pruning import disk_usage
from doit_images.pruning.prune import ANY_AGE, BUILD_CACHES, Item, ItemKind, Pruning, choose, days, listed

_ROUNDS = 3


def prune(run: Run, *, dry_run: bool, everything: bool, yes: bool, as_json: bool) -> None:
    """Remove what is too old or too much, or with ``everything`` all that nothing needs.

    What would be removed is printed first: for ``dry_run`` to standard output, and that is all; else to standard error,
    and then it is asked about. ``UserError`` without agreement. Of that, what is needed or was used meanwhile stays:
    once no build with this engine runs, which is waited for, everything is looked at again."""
    asked = time.time()
    max_age = ANY_AGE if everything else run.settings.cache_max_age
    chosen = choose(disk_usage.all_items(run), max_age, run.settings.cache_max_size)
    if dry_run:
        print(json.dumps(as_data(chosen), indent=2) if as_json else summary(run.settings, chosen, max_age))
        return
    print(summary(run.settings, chosen, max_age), file=sys.stderr)
    if not chosen.gone:
        return
    if not yes:
        confirm()
    agreed = {item.key: item for item, _ in chosen.gone}
    with lock.exclusive(prune_lock.path_of(run.engine), "waiting for builds to end that use what is there"):
        gone, left = _remove_agreed(run, max_age, agreed, asked)
    if as_json:
        print(json.dumps(as_data(Pruning(tuple(gone), chosen.left)), indent=2))
    for key, item in agreed.items():
        if key not in {item.key for item, _ in gone}:
            print(left.get(key) or f"{item.name} stays: it was used meanwhile", file=sys.stderr)
    print(f"removed {len(gone)} entries, about {size_text(sum(size for _, size in gone))}", file=sys.stderr)


def _remove_agreed(
    run: Run, max_age: float, agreed: Mapping[str, Item], asked: float
) -> tuple[list[tuple[Item, int]], dict[str, str]]:
    """Remove what was agreed to and is still reclaimable; returns it with the bytes freed, and why some is still there.

    What an image and a build cache shared may count as the cache's alone only when the image is gone. So then the
    bounds are held to once more, by records of the build cache, which have no owners, that nobody used since.
    """
    gone: list[tuple[Item, int]] = []
    left: dict[str, str] = {}
    for number in range(_ROUNDS + 1):
        run = run.anew()
        items = disk_usage.all_items(run)
        now = _choose_unused(items, max_age, run.settings.cache_max_size, agreed if number == 0 else None, asked)
        if number and not now.gone:
            break
        left |= remove(run.engine, run.settings, run.environ, now)
        gone += [pair for pair in now.gone if pair[0].key not in left]
    return gone, left


def _choose_unused(
    items: Sequence[Item], max_age: float, max_size: int, only: Container[str] | None, since: float
) -> Pruning:
    """What would be removed now, of that only these keys (None: the build cache), and nothing that was used since that
    time."""
    unused = time.time() - since
    reclaimable = {
        item.key
        for item, _ in choose(items, max_age, max_size).gone
        # How long a dedicated builder did not use a record, it only says in round figures.
        if (item.idle >= unused or item.kind == ItemKind.BUILDER)
        and (item.key in only if only is not None else item.kind in BUILD_CACHES)
    }
    # Once more, for the order: what lies under something that stays, stays.
    items = [
        item if item.needed or item.key in reclaimable else replace(item, needed="not agreed to") for item in items
    ]
    return choose(items, ANY_AGE, 0)


def summary(settings: Settings, chosen: Pruning, max_age: float) -> str:
    """What would be removed, in words: every image and folder by name, and of a build cache's records the largest."""
    if not chosen.gone:
        return f"nothing to prune: {size_text(chosen.left)} are reclaimable, and neither too old nor too much"
    lines = []
    for kind, group in groupby(sorted(chosen.gone, key=lambda pair: pair[0].kind), key=lambda pair: pair[0].kind):
        pairs = list(group)
        owner = " (of everybody who builds with it)" if kind in BUILD_CACHES else ""
        lines.append(f"{kind}{owner}: {len(pairs)}, {size_text(sum(size for _, size in pairs))}")
        lines += listed(pairs)
    why = (
        "all that nothing needs"
        if max_age == ANY_AGE
        else f"unused for {days(max_age)}, or too much for {size_text(settings.cache_max_size)}"
    )
    lines.append(f"{size_text(chosen.freed)} would be removed ({why}), {size_text(chosen.left)} reclaimable stay")
    return "\n".join(lines)


def as_data(chosen: Pruning) -> dict[str, object]:
    """What goes as plain data, all of it."""
    return {
        "freed_bytes": chosen.freed,
        "left_bytes": chosen.left,
        "gone": [
            {"kind": item.kind, "name": item.name, "bytes": freed, "idle_seconds": round(item.idle)}
            for item, freed in chosen.gone
        ],
    }


def remove(engine: Engine, settings: Settings, environ: Mapping[str, str], chosen: Pruning) -> dict[str, str]:
    """Remove what was chosen; returns why an item is still there, by its key."""
    left: dict[str, str] = {}
    by_kind: dict[ItemKind, list[Item]] = {}
    for item, _ in chosen.gone:
        by_kind.setdefault(item.kind, []).append(item)
    for item in by_kind.get(ItemKind.IMAGE, ()):
        try:
            for ref in item.refs:
                engine.untag(ref)
            if not item.refs:
                engine.remove(item.key)
        except UserError as error:  # a container was made from it meanwhile
            left[item.key] = f"{item.name} stays: {error}"
    engine.prune_build_cache([item.key for item in by_kind.get(ItemKind.ENGINE, ())])
    _prune_builder(environ, settings, [item.key for item in by_kind.get(ItemKind.BUILDER, ())])
    for item in (*by_kind.get(ItemKind.LOCAL, ()), *by_kind.get(ItemKind.LAYOUT, ())):
        shutil.rmtree(item.key, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(item.key).parent.rmdir()  # if it was the last
    for item in by_kind.get(ItemKind.OWN_FILE, ()):
        path = Path(item.key)
        if path.is_symlink():
            if not context.remove_unused(path):
                left[item.key] = f"{item.name} stays: a build may be using it"
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


def prune_argv(name: str, ids: Sequence[str]) -> list[str]:
    """The command that removes these records, and no other, of a dedicated builder."""
    return ["docker", "buildx", "prune", "--builder", name, "--force", "--all", "--filter", f'id="{one_of(ids)}"']


def _prune_builder(environ: Mapping[str, str], settings: Settings, ids: Sequence[str]) -> None:
    if not ids:
        return
    name = builder.name(settings)
    for group in in_groups(ids):
        commands.run(prune_argv(name, group), env=environ).checked(f"the builder {name!r} does not prune")
