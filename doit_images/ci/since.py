"""What would be built for a commit, on a machine that has just built another one?

From git's objects and Compose's reading of its files alone: no checkout, no engine, no registry. What the machine would
hold is made up from what the earlier commit says, and ``plan`` decides as ever, in its own words.

What a commit cannot know is told (``Since.unknown``): whether bases moved that no digest pins, and what they hand on.
An image that may hold a submodule whose objects are not here counts as changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.ci.commit import Source
from doit_images.ci.commits import Look, Seen, WorkingCopy
from doit_images.core.base import commands, leftovers, platforms
from doit_images.core.base.errors import UserError, nearest
from doit_images.core.base.references import tag_of
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import ImageConfig, LocalImage, host_platform, snapshot_of
from doit_images.core.engine.labels import FINGERPRINT, INPUT_DIGEST, PARENTS
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning import plan
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.record import Record

NEW = "it was not there before"
STAGED = ":staged"
"""What git would commit now, in place of a commit: no revision can be called so."""
_SHALLOW = "fetch it first: a clone may be shallow"


class Since(NamedTuple):
    """The plan of a commit: ``at``, against which commit (``before``, "" for none), the project as it says, what is to
    be done about each image, and what cannot be known, in sentences."""

    at: str
    before: str
    project: Project
    decisions: Mapping[str, Decision]
    unknown: tuple[str, ...]


class Comparison(NamedTuple):
    """What is asked about: a working copy, a commit or ``STAGED``, and the one to compare with (``""``: the main branch
    ``main``; of what is staged the commit that is checked out)."""

    copy: WorkingCopy
    at: str
    since: str
    main: str


def plan_since(asked: Comparison) -> Since:
    """The plan of ``asked.at`` against its merge base with ``asked.since``. Raises ``UserError`` for a revision that
    git does not know, or a project that Compose refuses."""
    here = asked.copy.files[0].parent
    top, git_dir = place(here, "--show-toplevel").resolve(), place(here, "--absolute-git-dir")
    if asked.at == STAGED:
        at, head = _staged(here), _known(here, "HEAD")
        before = _before(here, head, asked._replace(since=asked.since or "HEAD")) if head else ""
    else:
        at = _commit(here, asked.at)
        before = _before(here, at, asked)
    with leftovers.folder("plan-at-") as scratch:
        # Named as the working copy, for Compose may name the project after it.
        look = Look(asked.copy, top, scratch.resolve() / top.name)
        earlier, why = _earlier(look, Source(git_dir, before)) if before else (None, "")
        now = look.see(Source(git_dir, at))
    decisions = _decide(earlier, now, str(look.root))
    nothing = [f"nothing is known of what was there before, so every image counts as new: {why}"] if why else []
    values = (f"`{name}` has no value here: what it is used for counts as unchanged" for name in look.without_value)
    return Since(at, before, now.project, decisions, (*nothing, *_unknown(now, here), *values))


def _staged(folder: Path) -> str:
    """The tree of what is staged, which git keeps for a while as any other that nothing refers to."""
    done = commands.run(["git", "-C", folder, "write-tree"])
    if done.status:
        remedy = "conflicts have to be resolved first: `git status` lists them"
        raise UserError(f"git cannot tell what is staged: {done.why}", where=str(folder), remedy=remedy)
    return done.stdout.strip()


def _earlier(look: Look, source: Source) -> tuple[Seen | None, str]:
    """What was there before; None, and why, where that cannot be read."""
    try:
        return look.see(source), ""
    except UserError as error:
        return None, str(error)


def place(folder: Path, which: str) -> Path:
    """A place of the repository of this folder, as ``git rev-parse`` calls it. ``UserError`` where git sees none."""
    done = commands.run(["git", "-C", folder, "rev-parse", which])
    if done.status:
        why, _, more = done.stderr.removeprefix("fatal: ").strip().partition("\n")
        remedy = more.split("\n")[-1].strip() if "safe.directory" in more else "the commits are in a clone of it"
        raise UserError(f"git reads no repository here: {why}", where=str(folder), remedy=remedy)
    return Path(os.fsdecode(done.output).removesuffix("\n"))


def _commit(folder: Path, revision: str) -> str:
    """The commit that a revision names. ``UserError`` for one that git does not know."""
    if known := _known(folder, revision):
        return known
    name = re.split(r"[~^@:]", revision, maxsplit=1)[0]
    refs = commands.answer(["git", "-C", str(folder), "for-each-ref", "--format=%(refname:short)"]).splitlines()
    near = nearest(name, ["HEAD", *refs])
    remedy = f"did you mean {near + revision.removeprefix(name)!r}?" if near not in ("", name) else _SHALLOW
    raise UserError(f"git does not know {revision!r}", where=str(folder), remedy=remedy)


def _known(folder: Path, revision: str) -> str:
    """The commit that a revision names, "" if none."""
    argv = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    return commands.answer(argv)


def _before(folder: Path, at: str, asked: Comparison) -> str:
    """The commit to compare with: where ``at`` left the branch that is named, else the main one; on that, its first
    parent; "" for the first commit of all."""
    if asked.since:
        _commit(folder, asked.since)
    for name in [asked.since] if asked.since else [f"origin/{asked.main}", asked.main]:
        if _known(folder, name):
            base = commands.answer(["git", "-C", str(folder), "merge-base", name, at])
            if not base:
                lost = f"git finds no commit that {name} and {at[:12]} have in common"
                raise UserError(lost, where=str(folder), remedy=_SHALLOW)
            if base != at or asked.since:
                return base
    return _known(folder, f"{at}^1")


def _record(inputs: ImageInputs) -> Record:
    parents = dict(inputs.parent_fingerprints)
    name, ref = inputs.name, inputs.image.ref
    return Record(name, ref, Action.BUILD, inputs.fingerprint, inputs.build_inputs(), parents, "", 0, 0.0, 0.0)


def _decide(earlier: Seen | None, now: Seen, root: str) -> dict[str, Decision]:
    """What would be done about each image where all of ``earlier`` was built."""
    engine = host_platform()
    built = {name: inputs for name, inputs in earlier.images.items() if inputs.fingerprint} if earlier else {}
    by_id = {inputs.fingerprint: inputs for inputs in built.values()}
    snapshot = snapshot_of([_listed(inputs) for inputs in built.values()], engine)

    def config_of(local_image: LocalImage) -> ImageConfig:
        some = by_id[local_image.id].platforms
        return ImageConfig(local_image.id, platforms.chosen(some, engine) or (some or (engine,))[0])

    def record_of(name: str) -> Record | None:
        return _record(built[name]) if name in built else None

    known = plan.Known(snapshot, config_of, record_of, lambda inputs, local_image: local_image.id)
    doubts = {name: doubt for name in now.images if earlier and (doubt := _doubt(name, earlier, now))}
    decided = plan.plan(
        {name: (_doubted if name in doubts else _judged)(inputs) for name, inputs in now.images.items()}, known
    )
    return {
        name: _told(decision, [doubts[name]] if name in doubts else [] if name in built else [NEW], root)
        for name, decision in decided.items()
    }


def _listed(inputs: ImageInputs) -> dict[str, Any]:
    """An image as the engine lists it that has just been built."""
    of = {context: inputs.parent_fingerprints[name] for context, name in inputs.parents.items()}
    label = " ".join(f"{context}={fingerprint}" for context, fingerprint in sorted(of.items()))
    tags = [tag_of(inputs.image.ref, inputs.fingerprint), *inputs.image.names]
    labels = {INPUT_DIGEST: inputs.input_digest, PARENTS: label, FINGERPRINT: inputs.fingerprint}
    return {"Id": inputs.fingerprint, "RepoTags": tags, "Labels": labels}


def _doubt(name: str, earlier: Seen, now: Seen) -> str:
    """Why it cannot be known whether an image changed; "" if it can."""
    for path in now.doubtful.get(name, ()):
        if now.images[name].problem or earlier.absent.get(path) != now.absent[path]:
            return f"the submodule `{path}` is not here, and may be another"
    return ""


def _doubted(inputs: ImageInputs) -> ImageInputs:
    """An image in doubt as it is planned: it is like nothing that was built."""
    return replace(inputs, problem="", input_digest="", fingerprint="")


def _judged(inputs: ImageInputs) -> ImageInputs:
    """Any other image as it is planned: what every run builds is due."""
    return replace(inputs, due=True) if plan.own_only(inputs) and not inputs.image.duplicate_of else inputs


def _told(decision: Decision, instead: Sequence[str], root: str) -> Decision:
    """With these reasons for a build instead of its own, and with paths as they are in the repository."""
    reasons = tuple(instead) if decision.builds and instead else decision.reasons
    return decision._replace(reasons=tuple(reason.replace(f"{root}/", "") for reason in reasons))


def _unknown(now: Seen, folder: Path) -> Iterator[str]:
    """What no commit says, in sentences."""
    loose = {ref for inputs in now.images.values() for ref, content in inputs.bases.items() if not content}
    if loose:
        yield f"whether these bases moved, no commit says: {', '.join(sorted(loose))} (one pinned by its digest cannot)"
    if (folder / ".env").exists() and not now.has_env:
        yield "`.env` is not in git: what it sets does not count"
    for path in now.absent:
        yield f"the objects of the submodule `{path}` are not here: it counts as changed when it moved"
