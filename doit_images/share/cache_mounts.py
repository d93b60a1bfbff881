"""How does what cache mounts hold get to another machine?

A cache mount (``RUN --mount=type=cache``) keeps what a step downloaded for the next time that it runs: packages of pip,
uv or apt. It lies in the builder, and no cache export has it, so a build machine that is new each time downloads all of
it again. Here a build of our own, on a base of the project, packs the mounts of its Dockerfiles into a folder, or puts
what such a folder holds where they are. They are known by their ids, which BuildKit's frontend takes from the target
where a mount names none.

    FOLDER/mounts.json   the ids, in the order of their folders in
    FOLDER/mounts.tar    0/…, 1/…
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.building import build_target
from doit_images.core.buildkit import builder, buildx
from doit_images.core.engine import plugins
from doit_images.core.planner import Planner
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run

INDEX, ARCHIVE = "mounts.json", "mounts.tar"
_FORMAT = 1
_ID = re.compile(r"[\w./:@+-]+")  # others would mean something in a Dockerfile
_PACK = "mkdir /packed && tar -C /mounts -cf /packed/mounts.tar ."
_UNPACK = "tar -C /mounts -xf /from/mounts.tar"


def pack(run: Run, folder: Path) -> str:
    """Write what the project's cache mounts hold to a folder, whole or not at all; returns what was written, in words.
    ``UserError`` where there is none, or the folder holds something else."""
    leftovers.refuse_foreign(folder, INDEX, "cache mounts")
    every = dict.fromkeys(mount for inputs in run.planner.declared().values() for mount in inputs.mounts)
    ids = [mount for mount in every if _ID.fullmatch(mount)]
    if not ids:
        raise UserError("no Dockerfile of the project has a cache mount", where=str(run.files[0]))
    decision, base = _base(run.planner)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with leftovers.folder(f".{folder.name}-", folder.parent) as draft:
        lines = [*_on_base(base, ids, _PACK), "FROM scratch", "COPY --from=mounts /packed /"]
        _build(run, decision, draft, lines, buildx.one_line("type=local", f"dest={draft}/out"))
        packed = draft / "out"
        (packed / INDEX).write_text(json.dumps({"format": _FORMAT, "mounts": ids}, indent=1))
        leftovers.take_the_place_of(folder, packed)
    return f"wrote {len(ids)} cache mounts, {size_text((folder / ARCHIVE).stat().st_size)}, to {folder}"


def unpack(run: Run, folder: Path) -> str:
    """Put what ``pack`` wrote into the builder's cache mounts; returns what was put there, in words. ``UserError``
    where it is not what ``pack`` writes."""
    ids = listed(folder)
    decision, base = _base(run.planner)
    with leftovers.folder("mounts-", run.common) as draft:
        try:
            os.link(folder / ARCHIVE, draft / ARCHIVE)
        except OSError:  # on another disk, or somebody else's
            shutil.copyfile(folder / ARCHIVE, draft / ARCHIVE)
        lines = _on_base(base, ids, _UNPACK, f"--mount=type=bind,source={ARCHIVE},target=/from/{ARCHIVE}")
        _build(run, decision, draft, lines, "type=cacheonly")
    return f"filled {len(ids)} cache mounts with {size_text((folder / ARCHIVE).stat().st_size)}"


def listed(folder: Path) -> list[str]:
    """The ids of the mounts that a folder holds; ``UserError`` where it is not what ``pack`` writes."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        ids = index["mounts"]
        known = index["format"] == _FORMAT and ids and all(_ID.fullmatch(each) for each in ids)
        if known and (folder / ARCHIVE).is_file():
            return list(ids)
    except FileNotFoundError:
        raise UserError(f"there is no {INDEX}", where=str(folder), remedy="name what cache_export wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{INDEX} and {ARCHIVE} are not what cache_export writes", where=str(folder))


def _on_base(base: str, ids: list[str], script: str, *more: str) -> list[str]:
    """A stage that runs ``script``, now, with the mounts of these ids at ``/mounts/0`` and on."""
    mounts = [f"--mount=type=cache,id={name},target=/mounts/{number}" for number, name in enumerate(ids)]
    run = " ".join(["RUN", *more, *mounts, script, f"# {time.time_ns()}"])
    return [f"FROM {base} AS mounts", "USER 0:0", run]


def _base(planner: Planner) -> tuple[Decision, str]:
    """An image with cache mounts, and an external base of it: steps with mounts run on such, so it has a shell."""
    for decision in planner.decisions().values():
        if decision.inputs.mounts and decision.inputs.read_for:
            return decision, next(iter(decision.inputs.read_for))
    raise UserError("no image with a cache mount has a base from outside, to look into it with")


def _build(run: Run, decision: Decision, folder: Path, lines: list[str], output: str) -> None:
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text("\n".join((*lines, "")))
    if run.settings.dedicated_builder:
        builder.ready(run.settings, run.common, run.environ)
    bases = build_target.Transfer.of(run).bases_argv(decision.inputs, dedicated=run.settings.dedicated_builder)
    argv = ["docker", "buildx", "build", *builder.argv(run.settings, run.environ), *bases]
    argv += ["--output", output, "--progress", "plain", "--file", str(dockerfile), str(folder)]
    env = run.build_environ
    done = commands.run(plugins.direct(argv, env), cwd=folder, env=env)
    done.checked("docker buildx build, which reaches the cache mounts, fails")
