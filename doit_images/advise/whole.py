"""What would the images of a project be made of, if some of its files said something else? Nothing is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base import files, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import tag_of
from doit_images.core.building import aside
from doit_images.core.compose import env_files
from doit_images.core.compose import project as compose_project
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run


class Whole(NamedTuple):
    """A project, and of each of its images what it is made of, with these ``texts`` in place of what files say."""

    project: Project
    images: Mapping[str, ImageInputs]
    texts: Mapping[Path, str]

    def text(self, path: Path) -> str | None:
        """What a file says there; None where there is none. ``UserError`` where it cannot be read."""
        return self.texts[path] if path in self.texts else files.text(path) if path.exists() else None


def seen(run: Run, texts: Mapping[Path, str]) -> Whole:
    """The project with these texts in place of its Compose files, Dockerfiles and ignore files, by absolute paths.
    Raises ``UserError`` where Compose refuses it."""
    project = project_of(run, texts)
    resolver = run.resolver.of(project, texts=texts)
    try:
        images = run.planner.made_of(resolver, run.local_images.snapshot().platform)
    finally:
        resolver.release()
    usable = {name: replace(each, problem=each.problem or each.private) for name, each in images.items()}
    return Whole(project, usable, texts)


def project_of(run: Run, texts: Mapping[Path, str]) -> Project:
    """The project alone, with these texts in place of its Compose files. Raises ``UserError`` where Compose refuses."""
    if not any(file in texts for file in run.files):
        return run.project
    given = env_files.with_values(run.files, run.environ, ["DOCKER_DEFAULT_PLATFORM"])
    return compose_project.resolved(answer(run.files, run.environ, texts), run.files, given)


def answer(declared: tuple[Path, ...], environ: Mapping[str, str], texts: Mapping[Path, str]) -> dict[str, Any]:
    """All that Compose says of these files with these texts in place of them. Raises ``UserError``."""
    with leftovers.folder("advise-") as folder:
        there = [folder / str(number) / file.name for number, file in enumerate(declared)]
        for file, path in zip(declared, there, strict=True):
            path.parent.mkdir()
            files.write(path, texts[file] if file in texts else files.text(file))
        return Compose(tuple(there), "", environ, folder=declared[0].parent).config()


def reads_same(declared: tuple[Path, ...], environ: Mapping[str, str], now: Whole, texts: Mapping[Path, str]) -> bool:
    """Whether Compose reads with these texts the project that it is ``now``, but for images that are new, and that
    others build on these."""
    try:
        one, other = (answer(declared, environ, each) for each in (now.texts, texts))
        new = other["services"].keys() - one["services"].keys()
        built = all(other["services"].pop(name).get("build") for name in new)
    except UserError:
        return False
    for build in (each["build"] for each in other["services"].values() if each.get("build")):
        contexts = build.pop("additional_contexts", None) or {}
        if kept := {name: value for name, value in contexts.items() if value.removeprefix("service:") not in new}:
            build["additional_contexts"] = kept
    return built and one == other


@contextlib.contextmanager
def new_parents(run: Run, whole: Whole) -> Iterator[Mapping[str, str | UserError]]:
    """For the block: the names in the engine of those images that the project does not have yet, which are built; or
    why one cannot be."""
    refs: dict[str, str | UserError] = {}
    with contextlib.ExitStack() as stack:
        for name, inputs in whole.images.items():
            if name not in run.project.images:
                there = on_parents(run, inputs, refs)
                try:
                    if there.problem:
                        raise UserError(there.problem)
                    made = aside.image(run, there, there.dockerfile_text, ["--no-cache"], called="advise")
                    refs[name] = stack.enter_context(made)
                    run.local_images.changed()
                except UserError as error:
                    refs[name] = error
        yield refs


def on_parents(run: Run, inputs: ImageInputs, refs: Mapping[str, str | UserError]) -> ImageInputs:
    """What an image is made of where its parents are those that are here: new ones by these names, others as the files
    say that are there. It has a problem where one of these does."""
    tags: dict[str, str] = {}
    for context, name in inputs.parents.items():
        ref = refs.get(name) or tag_of(run.project.images[name].ref, run.planner.decide(name).inputs.fingerprint)
        if isinstance(ref, UserError):
            return replace(inputs, problem=str(ref))
        tags[context] = ref
    return replace(inputs, parent_tags=tags)
