"""``doit advise --patch``, ``--prove``, ``--apply``: better Dockerfiles, as patches, proved and written."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from doit_images.advise import apt, proof, rules
from doit_images.advise.around import runs
from doit_images.advise.durations import done_builds
from doit_images.advise.gain import Gain, gains
from doit_images.advise.patch import Patch, difference
from doit_images.advise.proof import Before, Proof, Verdict
from doit_images.advise.rules import Rule
from doit_images.advise.steps import steps_of
from doit_images.ci.commits import WorkingCopy
from doit_images.core.base import commands, files
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import seconds_text
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

_SHOWN = 10  # paths


class Mode(Enum):
    """What happens to a patch: it is shown, also proved, and also written if it is good."""

    SHOW = "show"
    PROVE = "prove"
    APPLY = "apply"


class Proposal(NamedTuple):
    """A patch of a Dockerfile, by its path as people write it, which had the text ``before``, and what came of proving
    it for each image that is built from it, by name."""

    dockerfile: str
    before: str
    patch: Patch
    proofs: Mapping[str, Proof]

    @property
    def is_good(self) -> bool:
        """Whether no image changes but for what the patch says."""
        return all(each.verdict in (Verdict.SAME, Verdict.SAME_BUT) for each in self.proofs.values())


def show(run: Run, words: Sequence[str], commits: int, mode: Mode, *, as_json: bool) -> None:
    """Print what would make the Dockerfiles of the images that ``words`` name (default: all) better, by the rules that
    they name (default: all), each patch on top of those before it, and what came of proving it. Then what all the good
    ones would have saved over so many ``commits``. Raises ``UserError``, also where a Dockerfile that would be written
    is not as the commit has it."""
    apply = mode is Mode.APPLY
    picked = rules.named(words)
    images = [word for word in words if word not in {rule.name for rule in rules.RULES}]
    proposals, texts = list[Proposal](), dict[str, tuple[str, str]]()
    for dockerfile, inputs in _by_dockerfile(run, images).items():
        path = run.project.directory / dockerfile
        if apply and next(_proposals(run, dockerfile, inputs, picked, prove=False), None):
            _committed(path)
        for proposal in _proposals(run, dockerfile, inputs, picked, prove=mode is not Mode.SHOW):
            proposals.append(proposal)
            if not as_json:
                _print(proposal)
            if proposal.is_good:
                texts |= {each.name: (each.dockerfile_text, proposal.patch.text) for each in inputs}
            if apply and proposal.is_good:
                files.write(path, proposal.patch.text)
                print(f"wrote {dockerfile}", file=sys.stderr)
    saved, unknown = _saved(run, commits, texts)
    if as_json:
        told = {
            name: {**one._asdict(), "before": one.before._asdict(), "after": one.after._asdict()}
            for name, one in saved.items()
        }
        print(json.dumps({"patches": [_data(each) for each in proposals], "saved": told}, indent=2))
    elif not proposals:
        print("no patch is known that would make these Dockerfiles better")
    for name, one in ({} if as_json else saved).items():
        print(f"{name}: {gain_sentence(one)}")
    if unknown:
        print(f"what these patches would have saved is not known: {unknown}", file=sys.stderr)


def _saved(run: Run, commits: int, texts: Mapping[str, tuple[str, str]]) -> tuple[dict[str, Gain], str]:
    """What each image's patches would have saved, or why that cannot be told."""
    try:
        copy = WorkingCopy(run.files, run.environ, run.common)
        return gains(copy, commits, texts, lambda name: done_builds(run.history, name)) if texts else {}, ""
    except UserError as error:
        return {}, str(error)


def gain_sentence(gain: Gain) -> str:
    """What was saved, in words.

    >>> gain_sentence(Gain(60, Work(52, 2132.0), Work(3, 123.0), 0))
    'in the last 60 commits 3 RUN steps would have run instead of 52: 2 min 3 s instead of 35 min 32 s'
    """
    before, after = gain.before, gain.after
    if not gain.commits:
        return "there is no commit before HEAD that could tell what this would have saved"
    last = f"in the last {gain.commits} commits"
    if after.runs == before.runs:
        return f"{last} as many RUN steps would have run ({before.runs})"
    took = f": {seconds_text(after.seconds)} instead of {seconds_text(before.seconds)}" if before.seconds else ""
    unknown = f" ({gain.unknown} of them never ran here, so how long they take is not known)" if gain.unknown else ""
    return f"{last} {after.runs} RUN steps would have run instead of {before.runs}{took}{unknown}"


def _proposals(
    run: Run, dockerfile: str, inputs: Sequence[ImageInputs], picked: Sequence[Rule], *, prove: bool
) -> Iterator[Proposal]:
    """The patches of a Dockerfile, each on top of those before it that are good."""
    text = inputs[0].dockerfile_text
    seen, good, before = {text}, list[Patch](), dict[str, Before]()
    needed = _installed_by(run, {each.name for each in inputs})

    def proposed(rule: Rule) -> Iterator[Patch]:
        steps = steps_of(replace(inputs[0], dockerfile_text=text))
        return (patch for patch in rules.patches(rule, text, steps, seen) if not needed & patch.removes.keys())

    for rule in picked:
        while patch := next(proposed(rule), None):
            seen.add(patch.text)
            if prove:
                before = before or {each.name: proof.before(run, each) for each in inputs}
            proofs = {each.name: proof.prove(run, each, before[each.name], [*good, patch]) for each in inputs if prove}
            proposal = Proposal(dockerfile, text, patch, proofs)
            yield proposal
            if proposal.is_good:
                text = patch.text
                good.append(patch)


def _installed_by(run: Run, names: set[str]) -> set[str]:
    """The lists of packages of these images, if one that builds on them installs by these."""
    below = set(names)
    for each in run.planner.declared().values():  # parents first
        if below & {*each.parents.values()}:
            below.add(each.name)
            every = runs(each.dockerfile_text, steps_of(each))
            if any(apt.installs(one.commands) and not apt.updates_first(one.commands) for one in every):
                return {apt.LISTS}
    return set()


def _by_dockerfile(run: Run, images: Sequence[str]) -> Mapping[str, list[ImageInputs]]:
    """The images that can be looked at, by their Dockerfile; of others is said why not, to standard error."""
    found: dict[str, list[ImageInputs]] = defaultdict(list)
    names = [run.project.image(name).name for name in images] or list(run.project.images)
    for decision in (run.planner.decide(name) for name in names):
        inputs = decision.inputs
        if inputs.problem:
            print(f"{inputs.name} is not looked at: {inputs.problem}", file=sys.stderr)
        elif inputs.image.dockerfile and not inputs.image.remote_context:
            found[os.path.relpath(inputs.image.dockerfile, run.project.directory)].append(inputs)
    return found


def _committed(path: Path) -> None:
    done = commands.run(["git", "-C", path.parent, "status", "--porcelain", "--", path.name])
    if done.status:
        raise UserError(f"git knows nothing of it: {done.why}", where=str(path), remedy="advise --prove writes nothing")
    if done.stdout:
        raise UserError(
            "it is not as the commit has it, so it is not written", where=str(path), remedy="commit it first"
        )


def _print(proposal: Proposal) -> None:
    patch = proposal.patch
    print(f"{proposal.dockerfile}:{patch.line}: {patch.rule}: {patch.why}\n")
    print(difference(proposal.before, patch, proposal.dockerfile))
    for name, each in proposal.proofs.items():
        print(f"{name}: {_sentence(each)}")


def _sentence(of: Proof) -> str:
    shown = ", ".join(of.differs[:_SHOWN])
    more = f" and {len(of.differs) - _SHOWN} more" if len(of.differs) > _SHOWN else ""
    if of.verdict == Verdict.FAILS:
        return f"cannot be built with it: {shown}"
    if of.verdict == Verdict.DIFFERS:
        return f"would be another image: {shown}{more}"
    unsteady = f"; {len(of.unsteady)} files differ from build to build anyway" if of.unsteady else ""
    if of.verdict == Verdict.SAME_BUT:
        gone = [f"{count} paths are gone, {why}" for why, count in Counter(of.removed.values()).items()]
        return f"stays the same, file by file, but for what the patch removes: {'; '.join(gone)}{unsteady}"
    return f"stays the same, file by file{unsteady}"


def _data(proposal: Proposal) -> dict[str, object]:
    proofs = {name: each._asdict() for name, each in proposal.proofs.items()}
    return {"dockerfile": proposal.dockerfile, **vars(proposal.patch), "proofs": proofs}
