"""What would be built for a commit, on a machine that has just built another one?

From git's objects and Compose's reading of its files alone: no checkout, no engine, no registry. What the machine would
hold is made up from what the earlier commit says, and ``plan`` decides as ever, in its own words.

What a commit cannot know is told (``Since.unknown``): whether bases moved that no digest pins, and what they hand on.
An image that may hold a submodule whose objects are not here counts as changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tasks.base import commands, leftovers, platforms
from tasks.base.errors import UserError
from tasks.base.references import tag_of
from tasks.compose import project as compose_project
from tasks.compose.project import Project
from tasks.engine.client import ImageConfig, LocalImage, host_platform, snapshot_of
from tasks.engine.labels import INPUT_DIGEST, PARENTS
from tasks.inputs.commit import Commit, CommitIndex, Source
from tasks.inputs.image_inputs import ImageInputs
from tasks.inputs.resolver import InputResolver
from tasks.planning import plan
from tasks.planning.action import Action
from tasks.planning.plan import Decision
from tasks.planning.record import Record

NEW = "it was not there before"
_ENV = re.compile(r"(^|/)(\.env|[^/]+\.env|\.env\.[^/]+)$")
_MISSING = 20  # so often Compose may ask for one more file


class Since(NamedTuple):
    """The plan of a commit: ``at``, against which commit (``before``, "" for none), the project as it says, what is to
    be done about each image, and what nobody could tell, in sentences."""

    at: str
    before: str
    project: Project
    decisions: Mapping[str, Decision]
    unknown: tuple[str, ...]


class Asked(NamedTuple):
    """What is asked about: Compose files of a working copy, the environment, a commit, the one to compare with (``""``:
    the main branch ``main``), and where the working copy keeps what it learnt. ``also`` gives a project what else is
    told as images, such as what tests see; it is told what the project's own are made of."""

    files: tuple[Path, ...]
    environ: Mapping[str, str]
    at: str
    since: str
    main: str
    memory: Path
    also: Callable[[Project, Mapping[str, ImageInputs]], Project] = lambda project, images: project


class _Seen(NamedTuple):
    """A commit: its project, what each image is made of, the submodules whose objects are not here with their commits,
    for each image those of them that it may read, and whether there is an ``.env`` beside the Compose file."""

    project: Project
    images: Mapping[str, ImageInputs]
    absent: Mapping[str, str]
    doubtful: Mapping[str, Sequence[str]]
    has_env: bool


def plan_since(asked: Asked) -> Since:
    """The plan of ``asked.at`` against its merge base with ``asked.since``. Raises ``UserError`` for a revision that
    git does not know, or a project that Compose refuses."""
    here = asked.files[0].parent
    top = Path(_git(here, "rev-parse", "--show-toplevel")).resolve()
    git_dir = Path(_git(here, "rev-parse", "--absolute-git-dir"))
    at = _git(here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{asked.at}^{{commit}}")
    before = _before(here, at, asked)
    with leftovers.folder("plan-at-") as scratch:
        # Named as the working copy, for Compose may name the project after it.
        look = _Look(asked, top, scratch.resolve() / top.name)
        earlier, why = _earlier(look, Source(git_dir, before)) if before else (None, "")
        now = look.see(Source(git_dir, at))
    decisions = _decide(earlier, now, str(look.root))
    nothing = [f"nothing is known of what was there before, so every image counts as new: {why}"] if why else []
    values = (f"`{name}` has no value here: what it is used for counts as unchanged" for name in look.without_value)
    return Since(at, before, now.project, decisions, (*nothing, *_unknown(now, here), *values))


def _earlier(look: _Look, source: Source) -> tuple[_Seen | None, str]:
    """What was there before; None, and why, where that cannot be read."""
    try:
        return look.see(source), ""
    except UserError as error:
        return None, str(error)


def _git(folder: Path, *words: str) -> str:
    done = commands.run(["git", "-C", folder, *words])
    if done.status:
        raise UserError(
            f"git does not know {words[-1].removesuffix('^{commit}')!r}: {done.why or 'there is no such commit here'}",
            where=str(folder),
            remedy="fetch it first: a clone may be shallow",
        )
    return os.fsdecode(done.output).rstrip("\n")


def _before(folder: Path, at: str, asked: Asked) -> str:
    """The commit to compare with: where ``at`` left the branch that is named, else the main one; on that, its first
    parent; "" for the first commit of all."""
    names = [asked.since] if asked.since else [f"origin/{asked.main}", asked.main]
    for name in names:
        if not commands.run(["git", "-C", folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]).status:
            base = _git(folder, "merge-base", name, at)
            if base != at or asked.since:
                return base
    if asked.since:
        _git(folder, "rev-parse", "--verify", f"{asked.since}^{{commit}}")
    return commands.answer(["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", f"{at}^1"])


class _Look:
    """Looks at one commit after the other, at the same place."""

    def __init__(self, asked: Asked, top: Path, root: Path) -> None:
        self.root = root
        self._asked = asked
        self._last: Commit | None = None
        self._resolver: InputResolver | None = None
        self._files = tuple(root / os.path.relpath(file.resolve(), top) for file in asked.files)
        self._files[0].parent.mkdir(parents=True)
        self._environ = dict(asked.environ)
        self.without_value: dict[str, str] = {}

    def see(self, source: Source) -> _Seen:
        """What each image of the project is made of at this commit."""
        self._last = commit = Commit(source, self.root, self._last)
        project = self._project(commit)
        roots = [place for image in project.images.values() for place in (image.context, *image.contexts.values())]
        inside = {path for place in roots if place.startswith("/") and (path := commit.inside(place)) is not None}
        for path in inside:
            commit.make_folder(path)
        commit.put(_read_by_path(commit, project, inside))
        commit.read(inside)
        images = self._resolved(project, commit)
        return _Seen(
            project,
            images,
            commit.absent,
            {name: _may_read(inputs, commit) for name, inputs in images.items()} if commit.absent else {},
            commit.entry(commit.inside(self._files[0].with_name(".env")) or "") is not None,
        )

    def _resolved(self, project: Project, commit: Commit) -> dict[str, ImageInputs]:
        index = CommitIndex(commit)
        if self._resolver is None:
            self._resolver = InputResolver(project, self._asked.memory, self._environ, lambda: index)
        self._resolver = self._resolver.of(project, lambda: index)
        images = self._resolver.resolve(host_platform(), lambda ref, wanted: None)
        whole = self._asked.also(project, images)
        if len(whole.images) == len(project.images):
            return images
        commit.put(_read_by_path(commit, whole, {commit.inside(project.directory) or ""}))
        return self._resolver.of(whole, lambda: index).resolve(host_platform(), lambda ref, wanted: None)

    def _project(self, commit: Commit) -> Project:
        """The project as Compose reads it. What its files name comes out of git when Compose asks for it; an env file
        of a service that git does not have is empty: no build reads it."""
        places = {os.path.dirname(file) for file in self._files}  # noqa: PTH120 as text
        paths = [path for path, _ in commit.walk("") if _ENV.search(path) or _beside(f"{self.root}/{path}", places)]
        commit.put([*paths, *(path for file in self._files if (path := commit.inside(file)))])
        for _ in range(_MISSING):
            try:
                return compose_project.load(self._files, self._environ)
            except UserError as error:
                if not self._help(commit, str(error)):
                    sentence = str(error).replace(f"{self.root}/", "")
                    raise UserError(f"at {commit.source.commit[:12]}: {sentence}") from None
        raise UserError(f"at {commit.source.commit[:12]}: Compose asks for more than {_MISSING} files")

    def _help(self, commit: Commit, said: str) -> bool:
        """Give Compose what it said that it misses, also a value for a variable; whether there was anything."""
        for text in re.findall(rf"{re.escape(str(self.root))}/([^\s:'\"]+)", said):
            path = commit.inside(self.root / text.rstrip(".,"))
            missing = path and not (self.root / path).exists()
            if path and missing and commit.entry(path):
                commit.put([path])
                commit.make_folder(path)
                return True
            if path and missing and "env file" in said:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).touch()
                return True
        if variable := re.search(r"required variable (\w+) is missing a value", said):
            self._environ[variable[1]] = self.without_value[variable[1]] = "unknown"
            return True
        return False


def _beside(path: str, places: set[str]) -> bool:
    return path.endswith((".yml", ".yaml")) and os.path.dirname(path) in places  # noqa: PTH120 as text


def _read_by_path(commit: Commit, project: Project, contexts: set[str]) -> set[str]:
    """The files that are read by their paths, not as a part of a context: Dockerfiles, ignore files, the lists of
    images in folders."""
    paths = {f"{context}/.dockerignore".removeprefix("/") for context in contexts}
    for image in project.images.values():
        if image.dockerfile.startswith("/") and (path := commit.inside(image.dockerfile)):
            beside = commit.inside(f"{image.dockerfile}.dockerignore")
            paths |= {path, *filter(None, [beside])}
    links = {path for path in paths if (entry := commit.entry(path)) is None or not entry.source}
    if any("oci-layout" in value for image in project.images.values() for value in image.contexts.values()):
        paths |= {path for path, _ in commit.walk("") if path.endswith("/index.json")}
    return paths - links


def _record(inputs: ImageInputs) -> Record:
    parents = dict(inputs.parent_fingerprints)
    name, ref = inputs.name, inputs.image.ref
    return Record(name, ref, Action.BUILD, inputs.fingerprint, inputs.build_inputs(), parents, "", 0, 0.0, 0.0)


def _may_read(inputs: ImageInputs, commit: Commit) -> list[str]:
    """The submodules that are not here, of which an image may read something."""
    if inputs.problem:
        return list(commit.absent)
    folders = {
        f"{commit.inside(part.root)}/{folder}".strip("/")
        for part in inputs.parts
        for folder in part.selection.places()[1]
    }
    return [path for path in commit.absent if path in folders]


def _decide(earlier: _Seen | None, now: _Seen, root: str) -> dict[str, Decision]:
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
    decided = plan.plan({name: _judged(inputs, name in doubts) for name, inputs in now.images.items()}, known)
    return {
        name: _told(decision, [doubts[name]] if name in doubts else [] if name in built else [NEW], root)
        for name, decision in decided.items()
    }


def _listed(inputs: ImageInputs) -> dict[str, Any]:
    """An image as the engine lists it that has just been built."""
    of = {context: inputs.parent_fingerprints[name] for context, name in inputs.parents.items()}
    label = " ".join(f"{context}={fingerprint}" for context, fingerprint in sorted(of.items()))
    tags = [tag_of(inputs.image.ref, inputs.fingerprint), *inputs.image.names]
    labels = {INPUT_DIGEST: inputs.input_digest, PARENTS: label}
    return {"Id": inputs.fingerprint, "RepoTags": tags, "Labels": labels}


def _doubt(name: str, earlier: _Seen, now: _Seen) -> str:
    """Why nobody can tell whether an image changed, "" if one can."""
    for path in now.doubtful.get(name, ()):
        if now.images[name].problem or earlier.absent.get(path) != now.absent[path]:
            return f"the submodule `{path}` is not here, and may be another"
    return ""


def _judged(inputs: ImageInputs, doubtful: bool) -> ImageInputs:
    """As it is planned: what every run builds is due, and what is in doubt is like nothing that was built."""
    if doubtful:
        return replace(inputs, problem="", input_digest="", fingerprint="")
    return replace(inputs, due=True) if plan.own_only(inputs) and not inputs.image.duplicate_of else inputs


def _told(decision: Decision, instead: Sequence[str], root: str) -> Decision:
    """With these reasons for a build instead of its own, and with paths as they are in the repository."""
    reasons = tuple(instead) if decision.builds and instead else decision.reasons
    return decision._replace(reasons=tuple(reason.replace(f"{root}/", "") for reason in reasons))


def _unknown(now: _Seen, folder: Path) -> Iterator[str]:
    """What no commit says, in sentences."""
    loose = {ref for inputs in now.images.values() for ref, content in inputs.bases.items() if not content}
    if loose:
        yield f"whether these bases moved, no commit says: {', '.join(sorted(loose))} (one pinned by its digest cannot)"
    if (folder / ".env").exists() and not now.has_env:
        yield "`.env` is not in git: what it sets does not count"
    for path in now.absent:
        yield f"the objects of the submodule `{path}` are not here: it counts as changed when it moved"
