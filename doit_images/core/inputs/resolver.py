"""What is each image made of, at this moment?

    project ──> Dockerfile's reads ──> parents, external bases, files ──> own digest ──> fingerprint

For each image, parents first: what its Dockerfile reads for its target (``dockerfile``), which files of its contexts
that is (``selection``), which of the images it names are built here, and the digest of it all (``fingerprint``). The
engine is not asked: what it holds under the names of external bases comes in as a function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from copy import copy as shallow_copy
from dataclasses import replace
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from doit_images.core.base import platforms
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from doit_images.core.base.places import project_key
from doit_images.core.base.references import tag_of
from doit_images.core.base.settings import root
from doit_images.core.compose import made_env
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project, dockerfile_text, with_dockerfile
from doit_images.core.engine.client import ImageConfig, normalise
from doit_images.core.inputs import declaration, environment, fingerprint, ignorefile, policy
from doit_images.core.inputs.bases import ConfigsOf, check_parents, content, external, read_for, references
from doit_images.core.inputs.copied import refused
from doit_images.core.inputs.fingerprint import BuildInputs, digest_of_text
from doit_images.core.inputs.image_inputs import ContextPart, ImageInputs
from doit_images.core.inputs.parsed import Parsed
from doit_images.core.inputs.reads import WHOLE, Copy, Reads
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View

NO_TEXTS: Mapping[Path, str] = MappingProxyType({})


class _Draft(NamedTuple):
    """An image whose Dockerfile is read: what it asks for, before anything is looked for."""

    image: Image
    text: str
    reads: Reads | None
    problem: str = ""
    platforms: tuple[str, ...] = ()


class _Inherited(NamedTuple):
    """What bases hand on to a Dockerfile, by the name that it uses for them."""

    env: dict[str, dict[str, str | None]]
    onbuild: dict[str, list[str]]


class InputResolver:
    """Looks at one project once: every Dockerfile is parsed, every folder listed and every file read at most once.

    ``folder`` is where it keeps what it learnt, ``index`` looks at files elsewhere than on the disk."""

    def __init__(
        self,
        project: Project,
        folder: Path,
        environ: Mapping[str, str] = os.environ,
        index: Callable[[], FileIndex] | None = None,
    ) -> None:
        self._environ = environ
        self._folder = os.path.realpath(folder)
        self._parsed = Parsed(folder / project_key(project.files, environ) / "reads.json")
        self._built_on: tuple[str, ...] = ()
        self._given = NO_TEXTS
        self._of(project, index or (lambda: FileIndex(Path(self._folder, "contexts.sqlite3"))))

    def of(
        self, project: Project, index: Callable[[], FileIndex] | None = None, texts: Mapping[Path, str] = NO_TEXTS
    ) -> InputResolver:
        """A resolver for another state of the project. It reuses what this one has parsed. ``index`` gives it another
        look at the disk, ``texts`` what Dockerfiles and ignore files say in place of what is there."""
        other = shallow_copy(self)
        other._given = texts
        other._of(project, index or self._new_index)
        return other

    def _of(self, project: Project, index: Callable[[], FileIndex]) -> None:
        self._project, self._new_index = project, index
        reversed_images = reversed(list(project.images.values()))
        env_files = {os.path.realpath(folder) + "/.env" for folder in (project.directory, root())}
        self._private = sorted(env_files | {os.path.realpath(path) for path in env_files})
        env = Path(os.path.realpath(project.directory), ".env")
        self._made = str(env) if made_env.is_ours(env, Path(self._folder)) else ""
        self._by_ref = {normalise(ref): image.name for image in reversed_images for ref in image.names}
        self._look()

    def again(self) -> InputResolver:
        """A resolver that looks at the disk anew. It reuses what this one has parsed."""
        other = shallow_copy(self)
        other._look()
        return other

    def _look(self) -> None:
        self._index = self._new_index()
        self._variables = environment.digests(self._environ, self._project.directory)
        self._views: dict[tuple[str, str, str], View] = {}
        self._texts: dict[str, str] = {}
        self._drafts: dict[tuple[str, str, tuple[str, ...]], _Draft] = {}
        self._owned: dict[tuple[str, tuple[str, ...]], tuple[_Draft, ImageInputs, str]] = {}

    def resolve(
        self, platform: str, configs_of: ConfigsOf, only: str = "", built_on: tuple[str, ...] = ()
    ) -> dict[str, ImageInputs]:
        """Every image of the project (or ``only`` one and what it needs), parents before children.

        ``platform`` is the engine's, ``built_on`` are those of the builder if they are others, ``configs_of`` tells
        what is known of an external reference. What is wrong with one image is its ``problem``; a cycle is the
        problem of all images in it.
        """
        platform = platforms.normalise(platform)
        self._built_on = built_on or (platform,)
        drafts: dict[str, _Draft] = {}
        edges: dict[str, set[str]] = {}
        todo = [only] if only else list(self._project.images)
        while True:
            while todo:
                name = todo.pop()
                if name not in drafts:
                    image = with_dockerfile(self._project.images[name])
                    drafts[name] = self._as_written(image, platform)
                    edges[name] = {
                        *self._parents(image, drafts[name].reads).values(),
                        *filter(None, [image.duplicate_of]),
                    }
                    todo.extend(edges[name])
            order, cycle = _order(edges)
            done: dict[str, ImageInputs] = {}
            for name in order:
                draft = self._inherit(drafts[name], platform, configs_of, done)
                inherited = {*self._parents(draft.image, draft.reads).values()} - edges[name]
                if inherited:  # an ONBUILD of a base names one more image: it has to come first
                    edges[name] |= inherited
                    todo.extend(inherited)
                    break
                done[name] = self._measure(draft, configs_of, done, cycle if name in cycle else [])
            else:
                return done

    def release(self) -> None:
        """Close all files. What was found stays usable."""
        self._index.release()

    def keep(self) -> None:
        """Write down what was hashed and parsed, for the next run."""
        self._index.save()
        self._parsed.keep()

    def _as_written(self, image: Image, platform: str) -> _Draft:
        """What its Dockerfile asks for when nothing is known of its bases; read once for all that ask."""
        key = image.name, platform, self._built_on
        if key not in self._drafts:
            self._drafts[key] = self._draft(image, platform, _Inherited({}, {}))
        return self._drafts[key]

    def _draft(self, image: Image, platform: str, inherited: _Inherited) -> _Draft:
        if image.problem:
            return _Draft(image, "", None, image.problem)
        try:
            targets = platforms.targets(image.platforms, platform, f"service {image.name}")
            if image.remote_context:
                return _Draft(image, declaration.local_text(image), declaration.unseen(image), platforms=targets)
            text = self._texts.get(image.name)
            if text is None:
                text = self._texts[image.name] = self._given.get(Path(image.dockerfile)) or dockerfile_text(image)
            reads = self._reads(image, text, targets, inherited)
            return _Draft(image, text, reads, platforms=targets)
        except UserError as error:
            return _Draft(image, "", None, str(error))

    def _reads(self, image: Image, text: str, targets: tuple[str, ...], inherited: _Inherited) -> Reads:
        asked = {
            "where": _where(image.name, image.dockerfile, self._project.directory),
            "target": image.target,
            "args": {name: value for name, value in image.args.items() if value is not None},
            "named": sorted(image.contexts),
            "platforms": list(targets),
            "built_on": list(self._built_on),
            "onbuild": inherited.onbuild,
            "env": inherited.env,
        }
        return self._parsed.reads(text, asked)

    def _inherit(self, draft: _Draft, platform: str, configs_of: ConfigsOf, done: Mapping[str, ImageInputs]) -> _Draft:
        """Read the Dockerfile again with what its bases hand on: ONBUILD, and the variables that they set."""
        if draft.reads is None:
            return draft
        parents = self._parents(draft.image, draft.reads)
        inherited = _Inherited({}, {})
        for ref in references(draft.reads):
            parent = done.get(parents.get(ref, ""))
            outside = "" if parent else external(draft.image, ref)
            sources: list[ImageConfig | ImageInputs] = [parent] if parent else []
            sure = bool(parent and parent.env_known)
            if outside:
                sources = list(configs_of(outside, draft.reads.read_for.get(ref, draft.platforms)) or ())
                sure = bool(sources) and all(source.env == sources[0].env for source in sources)
            if sure:
                inherited.env[ref] = dict(sources[0].env)
            if sources:
                inherited.onbuild[ref] = list(dict.fromkeys(line for source in sources for line in source.onbuild))
        return self._draft(draft.image, platform, inherited) if inherited.onbuild else draft

    def _parents(self, image: Image, reads: Reads | None) -> dict[str, str]:
        """Each context or reference of the Dockerfile that stands for an image of this project, with its name."""
        parents = {}
        for ref in references(reads):
            value = image.contexts.get(ref, "")
            name = self._by_ref.get(normalise(external(image, ref) or "-"))
            if value.startswith("service:"):
                parents[ref] = value.removeprefix("service:")
            elif name and name != image.name:
                parents[ref] = name
        return parents

    def _measure(
        self, draft: _Draft, configs_of: ConfigsOf, done: Mapping[str, ImageInputs], cycle: list[str]
    ) -> ImageInputs:
        image, directory = draft.image, self._project.directory
        if cycle:
            return ImageInputs(image, directory, problem="dependency cycle: " + " → ".join(cycle))
        if draft.problem:
            return ImageInputs(image, directory, problem=draft.problem)
        parents = self._parents(image, draft.reads)
        try:
            built_for = {name: done[name].platforms for name in parents.values()}
            check_parents(draft.reads, parents, built_for, f"service {image.name}")
            inputs, files_digest = self._own(draft, parents)
        except UserError as error:
            return ImageInputs(
                image,
                directory,
                problem=str(error),
                dockerfile_text=draft.text,
                parents=parents,
                platforms=draft.platforms,
            )
        inputs = self._with_bases(inputs, draft.reads, configs_of, files_digest)
        inputs = _with_parents(inputs, {name: done[name] for name in parents.values()})
        return _handing_on(inputs, configs_of) if image.remote_context else inputs

    def _own(self, draft: _Draft, parents: Mapping[str, str]) -> tuple[ImageInputs, str]:
        """What goes in besides parents and bases, and the digest of its files; found once for all that ask."""
        image, reads = draft.image, draft.reads
        key = image.name, self._built_on
        known = self._owned.get(key)
        if known and known[0] == draft and known[1].parents == parents:
            return known[1:]
        texts, parts, private = self._files(draft)
        if reads and policy.beside(image.dockerfile) in texts:
            reads = reads._replace(args=(*reads.args, *image.args))  # it is told all of them
        inputs = ImageInputs(
            image,
            self._project.directory,
            dockerfile_text=draft.text,
            texts=texts,
            parts=parts,
            settings=declaration.settings(image, reads, draft.platforms, self._built_on, self._environ)
            | environment.counted(image, self._variables),
            parents=parents,
            platforms=draft.platforms,
            read_for=read_for(image, reads, draft.platforms, parents),
            remotes=declaration.remotes(image, reads, self._project.directory),
            env=reads.env if reads else {},
            onbuild=reads.onbuild if reads else (),
            stages=reads.stages if reads else (),
            mounts=reads.mounts if reads else (),
            ignore=next((part.ignore.completed or part.ignore.text for part in parts if not part.label), ""),
            index=self._index,
            private=private,
        )
        self._owned[key] = draft, inputs, _digest(texts, parts)
        return self._owned[key][1:]

    def _with_bases(
        self, inputs: ImageInputs, reads: Reads | None, configs_of: ConfigsOf, files_digest: str
    ) -> ImageInputs:
        """With what the engine holds of its bases, and the digest of all that is its own."""
        bases = {ref: content(ref, some, configs_of) for ref, some in inputs.read_for.items()}
        if reads and reads.syntax and (frontend := configs_of(reads.syntax, self._built_on[:1])):
            bases[reads.syntax] = frontend[0].content  # one that the engine does not hold is known by its name only
        build_inputs = BuildInputs({}, inputs.settings, bases, inputs.remotes)
        return replace(
            inputs,
            bases=bases,
            env_known=all(configs_of(*ref) for ref in inputs.read_for.items()) and (reads is None or reads.alike),
            input_digest=fingerprint.input_digest(build_inputs, files_digest),
        )

    def _files(self, draft: _Draft) -> tuple[dict[str, str], tuple[ContextPart, ...], str]:
        """The texts (Dockerfile, ignore files) and the selections of an image, and why these are refused ("")."""
        image = draft.image
        if draft.reads is None:
            return {}, (), ""
        texts = {image.dockerfile: draft.text} if draft.text or not image.remote_context else {}
        where = _where(image.name, image.dockerfile, self._project.directory)
        for label, folder in {"": image.context, **image.contexts}.items():  # buildx also checks what nobody uses
            if folder.startswith("/") and not os.path.isdir(folder):  # noqa: PTH112  of each image, in each run
                raise UserError(f"there is no folder {folder!r}", where=where, remedy=f"the context {label or '.'!r}")
        parts, private = [], ""
        copies = [*draft.reads.copies]
        bases = [copy.context for copy in copies if copy.instruction == "FROM"]
        if any(image.contexts[name].startswith(declaration.OCI_LAYOUT) for name in bases):
            copies.append(Copy("", (WHOLE,)))  # an ONBUILD of it may read anything
        for label in dict.fromkeys(copy.context for copy in copies):
            if label and not image.contexts[label].startswith("/"):
                continue  # another image, or a source that only a build can look at
            root = Path(image.contexts[label] if label else image.context)
            dockerfile = Path(image.dockerfile) if not label and image.dockerfile else None
            made = "" if label else self._made  # a named one has the ignore file that it has
            view = self._view(root, where, ignorefile.effective(root, dockerfile, self._given), made)
            if view.ignore.path:
                texts[str(view.ignore.path)] = view.ignore.text
            ours = [copy for copy in copies if copy.context == label]
            selection = select(view, ours, where)
            parts.append(ContextPart(label, root, view.ignore, selection))
            private = private or refused(view, selection, ours, where, self._private)
        asked = policy.of(image)
        read = policy.parts(image, asked.values(), self._project.directory, lambda root: self._view(root, where))
        return {**texts, **asked}, (*parts, *read), private

    def _view(self, root: Path, where: str, ignore: Path | None = None, private: str = "") -> View:
        key = (str(root), str(ignore), private)
        if key not in self._views:
            tree = Tree(root, self._index)
            ours = os.path.relpath(self._folder, tree.root)
            if {*ours.split("/")} <= {".", ".."}:
                raise UserError(
                    f"the context {str(root)!r} is in {OWN_FOLDER}, which changes in every build", where=where
                )
            named = (ours, os.path.relpath(private, tree.root) if private else "..")
            hidden = ["" if name == ".." or name.startswith("../") else name for name in named]
            self._views[key] = View(tree, ignorefile.load(ignore, hidden[0], hidden[1], self._given))
        return self._views[key]


def _digest(texts: Mapping[str, str], parts: Iterable[ContextPart]) -> str:
    """One digest over all files of an image; where they lie does not count, only in which context and in which role."""
    selections = [(f"{part.label}:" if part.sent else part.label, part.selection.digest) for part in parts]
    roles = ("policy text" if path.endswith(policy.beside("")) else f"text {at}" for at, path in enumerate(texts))
    return fingerprint.digest_of_files([*selections, *zip(roles, map(digest_of_text, texts.values()), strict=True)])


def _with_parents(inputs: ImageInputs, parents: Mapping[str, ImageInputs]) -> ImageInputs:
    """With what its parents, by name, are made of."""
    of = {context: parents[name] for context, name in inputs.parents.items()}
    return replace(
        inputs,
        parent_fingerprints={name: parent.fingerprint for name, parent in parents.items()},
        parent_tags={context: tag_of(parent.image.ref, parent.fingerprint) for context, parent in of.items()},
        env_known=inputs.env_known and all(parent.env_known for parent in parents.values()),
        fingerprint=fingerprint.fingerprint(
            inputs.input_digest, {context: parent.fingerprint for context, parent in of.items()}
        ),
    )


def _handing_on(inputs: ImageInputs, configs_of: ConfigsOf) -> ImageInputs:
    """An image of a remote context with what it hands on to its children: known once the engine holds it."""
    configs = configs_of(tag_of(inputs.image.ref, inputs.fingerprint), inputs.platforms)
    if not configs:
        return replace(inputs, env_known=False)
    alike = all(config.env == configs[0].env for config in configs)
    return replace(inputs, env=configs[0].env, onbuild=configs[0].onbuild, env_known=alike)


def _order(parents: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Names with parents before children, and the first cycle if there is one (its members then come in any order)."""
    graph = {name: sorted(set(parents[name])) for name in sorted(parents)}
    try:
        return list(TopologicalSorter(graph).static_order()), []
    except CycleError as error:
        cycle: list[str] = error.args[1]
        inside = set(cycle)
        rest, _ = _order({name: [parent for parent in needs if parent not in inside] for name, needs in graph.items()})
        return rest, cycle


@cache
def _where(name: str, dockerfile: str, directory: Path) -> str:
    return os.path.relpath(dockerfile, directory) if dockerfile else f"dockerfile_inline of {name}"
