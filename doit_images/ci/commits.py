"""What are the images of a commit made of? From git's objects and Compose's reading of its files: no checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from doit_images.ci.commit import Commit, CommitIndex, Source
from doit_images.core.base.errors import UserError
from doit_images.core.compose import project as compose_project
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose, Unset
from doit_images.core.engine.client import host_platform
from doit_images.core.inputs import policy
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import NO_TEXTS, InputResolver

_ENV = re.compile(r"(^|/)(\.env|[^/]+\.env|\.env\.[^/]+)$")
_MISSING = 20  # so often Compose may ask for one more file
_Answer = TypeVar("_Answer")


class There(NamedTuple):
    """What else a commit can be asked: all that Compose says of its project, and one digest over what lies at and below
    a path."""

    config: Callable[[], Mapping[str, Any]]
    digest_of: Callable[[str], str]


Also = Callable[[Project, Mapping[str, ImageInputs], There], Project]
"""Gives a project of a commit what else is told as images, such as what tests see; it is told what the project's own
are made of."""


def nothing_more(project: Project, images: Mapping[str, ImageInputs], there: There) -> Project:
    """The project as it is."""
    return project


class WorkingCopy(NamedTuple):
    """A checkout of the repository: its Compose files, the environment, where it keeps what it learnt, and what is told
    beside the project's own images."""

    files: tuple[Path, ...]
    environ: Mapping[str, str]
    memory: Path
    also: Also = nothing_more


class Seen(NamedTuple):
    """A commit: its project, what each image is made of on this machine's platform where nothing is known of bases, the
    submodules whose objects are not here with their commits, for each image those of them that it may read, and whether
    there is an ``.env`` beside the Compose file."""

    project: Project
    images: Mapping[str, ImageInputs]
    absent: Mapping[str, str]
    doubtful: Mapping[str, Sequence[str]]
    has_env: bool


class Look:
    """Looks at one commit after the other, at the same place ``root`` for the repository's ``top``. What Compose needs
    and no commit has: ``own_env``, the ``.env`` beside the Compose file, and values for variables (``without_value``:
    those that have none here)."""

    def __init__(self, copy: WorkingCopy, top: Path, root: Path, own_env: Path | None = None) -> None:
        self.root = root
        self._copy, self._own_env = copy, own_env
        self._last: Commit | None = None
        self._resolver: InputResolver | None = None
        self._files = tuple(root / os.path.relpath(file.resolve(), top) for file in copy.files)
        self._files[0].parent.mkdir(parents=True)
        self._environ = dict(copy.environ)
        self.without_value: dict[str, str] = {}
        self.texts: Mapping[Path, str] = NO_TEXTS
        """What Dockerfiles and ignore files say at every commit, by absolute paths, in place of what they do."""

    def see(self, source: Source) -> Seen:
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
        return Seen(
            project,
            images,
            commit.absent,
            {name: _may_read(inputs, commit) for name, inputs in images.items()} if commit.absent else {},
            commit.entry(commit.inside(self._files[0].with_name(".env")) or "") is not None,
        )

    @property
    def has_files(self) -> bool:
        """Whether the commit that was seen last has the Compose files at all."""
        commit = self._last
        return commit is not None and all(commit.entry(commit.inside(file) or "") for file in self._files)

    @property
    def resolver(self) -> InputResolver:
        """Reads what the images of the commit that was seen last are made of."""
        if self._resolver is None:
            raise ValueError("no commit was seen")
        return self._resolver

    def _resolved(self, project: Project, commit: Commit) -> dict[str, ImageInputs]:
        index = CommitIndex(commit)
        if self._resolver is None:
            self._resolver = InputResolver(project, self._copy.memory, self._environ, lambda: index)
        self._resolver = self._resolver.of(project, lambda: index, self.texts)
        images = self._resolver.resolve(host_platform(), lambda ref, wanted: None)
        whole = self._copy.also(project, images, There(lambda: self._config(commit), commit.digest_of))
        if len(whole.images) == len(project.images):
            return images
        commit.put(_read_by_path(commit, whole, {commit.inside(project.directory) or ""}))
        return self._resolver.of(whole, lambda: index, self.texts).resolve(host_platform(), lambda ref, wanted: None)

    def _project(self, commit: Commit) -> Project:
        """The project as Compose reads it. What its files name comes out of git when Compose asks for it; an env file
        of a service that git does not have is empty: no build reads it."""
        places = {os.path.dirname(file) for file in self._files}  # noqa: PTH120 as text
        paths = [path for path, _ in commit.walk("") if _ENV.search(path) or _beside(f"{self.root}/{path}", places)]
        commit.put([*paths, *(path for file in self._files if (path := commit.inside(file)))])
        beside = self._files[0].with_name(".env")
        if self._own_env and not beside.exists():
            beside.unlink(missing_ok=True)
            beside.symlink_to(self._own_env)
        return self._answered(commit, lambda: compose_project.load(self._files, self._environ))

    def _config(self, commit: Commit) -> dict[str, object]:
        """All that Compose says of the project."""
        return self._answered(commit, lambda: Compose(self._files, "", self._environ).config())

    def _answered(self, commit: Commit, ask: Callable[[], _Answer]) -> _Answer:
        """What Compose answers once it has all that it asks for."""
        for _ in range(_MISSING):
            try:
                return ask()
            except UserError as error:
                if not (self._give_values(error) or self._help(commit, str(error))):
                    sentence = str(error).replace(f"{self.root}/", "")
                    raise UserError(f"at {commit.source.commit[:12]}: {sentence}") from None
        raise UserError(f"at {commit.source.commit[:12]}: Compose asks for more than {_MISSING} files")

    def _help(self, commit: Commit, said: str) -> bool:
        """Give Compose the file that it said that it misses; whether there was one."""
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
        return False

    def _give_values(self, error: UserError) -> bool:
        """Give variables a value that Compose said have none; whether there were any."""
        given = dict.fromkeys(error.names, "unknown") if isinstance(error, Unset) else {}
        self._environ |= given
        self.without_value |= given
        return bool(given)


def _beside(path: str, places: set[str]) -> bool:
    return path.endswith((".yml", ".yaml")) and os.path.dirname(path) in places  # noqa: PTH120 as text


def _read_by_path(commit: Commit, project: Project, contexts: set[str]) -> set[str]:
    """The files that are read by their paths, not as a part of a context: Dockerfiles, ignore files, the lists of
    images in folders."""
    paths = {f"{context}/.dockerignore".removeprefix("/") for context in contexts}
    for image in project.images.values():
        if image.dockerfile.startswith("/"):
            names = (image.dockerfile, re.sub("Dockerfile$", "dockerfile", image.dockerfile))
            each = (path for name in names for path in (name, f"{name}.dockerignore", policy.beside(name)))
            paths |= {*filter(None, map(commit.inside, each))}
    if any(path.endswith(policy.beside("")) and commit.entry(path) for path in paths):  # it may import others
        paths |= {path for path, _ in commit.walk("") if path.endswith(policy.beside(""))}
    links = {path for path in paths if (entry := commit.entry(path)) is None or not entry.source}
    if any("oci-layout" in value for image in project.images.values() for value in image.contexts.values()):
        paths |= {path for path, _ in commit.walk("") if path.endswith("/index.json")}
    return paths - links


def _may_read(inputs: ImageInputs, commit: Commit) -> list[str]:
    """The submodules that are not here and that an image may read."""
    if inputs.problem:
        return list(commit.absent)
    folders = {
        f"{commit.inside(part.root)}/{folder}".strip("/")
        for part in inputs.parts
        for folder in part.selection.places()[1]
    }
    return [path for path in commit.absent if path in folders]
