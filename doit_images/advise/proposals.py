"""Which patches are there for a project, each on top of those before it, and what comes of proving them?"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from doit_images.advise import apt, heavy_packages, installed, proof, rules, whole
from doit_images.advise.around import runs
from doit_images.advise.patch import Patch
from doit_images.advise.proof import Before, Proof, Verdict
from doit_images.advise.rules import ProjectRule, Rule
from doit_images.advise.steps import steps_of
from doit_images.advise.tested import tested
from doit_images.advise.whole import Whole
from doit_images.core.base import commands, files
from doit_images.core.base.errors import UserError
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planner import Planner
from doit_images.core.run import Run


class Mode(Enum):
    """What happens to a patch: it is shown, also proved, and also written if it is good."""

    SHOW = "show"
    PROVE = "prove"
    APPLY = "apply"


class Proposal(NamedTuple):
    """A patch because of a line of a Dockerfile, by its path as people write it; what each file that it ``changes``
    said before (None: it is new) and says then; what came of proving it for each image that it concerns, by name; and
    which of these files such an image reads itself, so that it has the new text where the proof had the old one."""

    dockerfile: str
    patch: Patch
    changes: Mapping[str, tuple[str | None, str]]
    proofs: Mapping[str, Proof]
    read: Mapping[str, Sequence[str]]

    @property
    def is_good(self) -> bool:
        """Whether no image changes but for what the patch says."""
        return all(each.verdict in (Verdict.SAME, Verdict.SAME_BUT) for each in self.proofs.values())


class Proposals:
    """The patches of one run. Those that are good so far: ``texts`` is what they make of files, ``replayed`` are the
    Dockerfiles of images without and with those that a replay knows, and ``ignores`` such ignore files. It knows none
    that change the Compose file, which no commit had."""

    def __init__(self, run: Run, mode: Mode) -> None:
        self.run, self._mode = run, mode
        self.texts: dict[Path, str] = {}
        self.replayed: dict[str, tuple[str, str]] = {}
        self.ignores: dict[Path, str] = {}
        self._before: dict[str, Before] = {}
        self._weighed: dict[str, Mapping[str, int]] = {}
        self._good: dict[str, list[Patch]] = defaultdict(list)

    def of(self, images: Sequence[str], words: Sequence[str]) -> Iterator[Proposal]:
        """The patches for these images (none: all) by the rules that the words name (none: all). Raises
        ``UserError``, also where a file that would be written is not as the commit has it."""
        own, projects = rules.named(words)
        names = [self.run.project.image(name).name for name in images] or list(self.run.project.images)
        for inputs in self._by_dockerfile(names):
            for rule in own:
                yield from self._of_dockerfile(rule, inputs)
        for project_rule in projects:
            yield from self._of_project(project_rule, {*names})

    def _of_dockerfile(self, rule: Rule, inputs: Sequence[ImageInputs]) -> Iterator[Proposal]:
        path, seen = Path(inputs[0].image.dockerfile), set[str]()
        needed = _installed_by(self.run.planner, {each.name for each in inputs})
        while True:
            text = self.texts.get(path, inputs[0].dockerfile_text)
            seen.add(text)
            steps = steps_of(replace(inputs[0], dockerfile_text=text))
            proposed = rules.patches(rule, text, steps, seen, lambda: self._sizes(inputs[0].name))
            patch = next((one for one in proposed if not needed & one.removes.keys()), None)
            if patch is None:
                return
            seen.add(patch.text)
            after = {each.name: replace(each, dockerfile_text=patch.text) for each in inputs}
            proposal = self._tried(path, patch, {path: (text, patch.text)}, after)
            yield proposal
            if proposal.is_good:
                self._keep(patch, {path: patch.text}, after)
                self.replayed |= {each.name: (each.dockerfile_text, patch.text) for each in inputs}

    def _sizes(self, name: str) -> Mapping[str, int]:
        """The bytes of the packages of an image that is here, if it is large."""
        if name not in self._weighed:
            self._weighed[name] = installed.sizes(self.run, name, heavy_packages.WORTH)
        return self._weighed[name]

    def _of_project(self, rule: ProjectRule, names: set[str]) -> Iterator[Proposal]:
        seen: list[Mapping[Path, str]] = []
        while True:
            now = whole.seen(self.run, self.texts)
            for about, patch in rule.patches(now):
                path = Path(now.images[about[0]].image.dockerfile)
                new = {path: patch.text, **patch.others}
                changes = {file: (before, text) for file, text in new.items() if (before := now.text(file)) != text}
                texts = {file: text for file, (_, text) in changes.items()}
                if names.intersection(about) and texts not in seen:
                    break
            else:
                return
            seen.append(texts)
            is_compose = any(file in texts for file in self.run.files)
            if is_compose and not whole.reads_same(self.run.files, self.run.environ, now, self.texts | texts):
                continue
            after = whole.seen(self.run, self.texts | texts)
            concerned = {name: after.images[name] for name in self.run.project.images if _is_other(now, after, name)}
            with whole.new_parents(self.run, after if self._mode is not Mode.SHOW else now) as refs:
                built = (
                    concerned
                    if self._mode is Mode.SHOW
                    else {name: whole.on_parents(self.run, each, refs) for name, each in concerned.items()}
                )
                proposal = self._tried(path, patch, changes, built)
            yield proposal
            if proposal.is_good:
                self._keep(patch, texts, concerned)
                if not is_compose:
                    self.ignores |= texts
                    self.replayed = {
                        name: (each.dockerfile_text, each.dockerfile_text) for name, each in concerned.items()
                    } | self.replayed

    def _tried(
        self,
        path: Path,
        patch: Patch,
        changes: Mapping[Path, tuple[str | None, str]],
        after: Mapping[str, ImageInputs],
    ) -> Proposal:
        """A patch, with its proof for each of the images that it makes ``after`` are made of something else."""
        shown = {self._shown(file): texts for file, texts in changes.items()}
        if self._mode is Mode.APPLY:
            for file in changes:
                if file not in self.texts:
                    _committed(file)
        texts = self.texts | {file: text for file, (_, text) in changes.items()}
        proved = after if self._mode is not Mode.SHOW else {}
        proofs = {name: self._proved(each, patch, texts) for name, each in proved.items()}
        read = {name: [self._shown(file) for file in changes if _reads(each, file)] for name, each in after.items()}
        return Proposal(self._shown(path), patch, shown, proofs, {name: some for name, some in read.items() if some})

    def _proved(self, after: ImageInputs, patch: Patch, texts: Mapping[Path, str]) -> Proof:
        name = after.name
        if after.problem:
            return Proof(Verdict.FAILS, (after.problem,))
        if name not in self._before:
            self._before[name] = proof.before(self.run, self.run.planner.decide(name).inputs)
        found = proof.prove(self.run, after, self._before[name], [*self._good[name], patch])
        return tested(self.run, found, after, texts) if found.verdict is Verdict.SAME_BUT else found

    def _keep(self, patch: Patch, texts: Mapping[Path, str], concerned: Mapping[str, ImageInputs]) -> None:
        self.texts |= texts
        for name in concerned:
            self._good[name].append(patch)

    def write(self) -> list[str]:
        """Write what the good patches make of files; their names. Only when all are proved: an image may copy such a
        file, and that is no difference."""
        for file, text in self.texts.items():
            files.write(file, text)
        return [self._shown(file) for file in self.texts]

    def _by_dockerfile(self, names: Sequence[str]) -> list[list[ImageInputs]]:
        found: dict[str, list[ImageInputs]] = defaultdict(list)
        for inputs in (self.run.planner.decide(name).inputs for name in names):
            if inputs.problem:
                print(f"{inputs.name} is not looked at: {inputs.problem}", file=sys.stderr)
            elif inputs.image.dockerfile and not inputs.image.remote_context:
                found[inputs.image.dockerfile].append(inputs)
        return list(found.values())

    def _shown(self, path: Path) -> str:
        return os.path.relpath(path, self.run.project.directory)


def _installed_by(planner: Planner, names: set[str]) -> set[str]:
    """The lists of packages of these images, if one that builds on them installs by these."""
    below = set(names)
    for each in planner.declared().values():  # parents first
        if below & {*each.parents.values()}:
            below.add(each.name)
            every = runs(each.dockerfile_text, steps_of(each))
            if any(apt.installs(one.commands) and not apt.updates_first(one.commands) for one in every):
                return {apt.LISTS}
    return set()


def _reads(inputs: ImageInputs, file: Path) -> bool:
    return any(part.selection.has(os.path.relpath(file, part.root)) for part in inputs.parts if part.sent)


def _is_other(now: Whole, after: Whole, name: str) -> bool:
    return now.images[name].input_digest != after.images[name].input_digest


def _committed(path: Path) -> None:
    done = commands.run(["git", "-C", path.parent, "status", "--porcelain", "--", path.name])
    if done.status:
        raise UserError(f"git knows nothing of it: {done.why}", where=str(path), remedy="advise --prove writes nothing")
    if done.stdout:
        raise UserError(
            "it is not as the commit has it, so it is not written", where=str(path), remedy="commit it first"
        )
