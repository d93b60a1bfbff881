"""``doit advise --patch``, ``--prove``, ``--apply``: better Dockerfiles, as patches, proved and written."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from doit_images.advise import locks_first, proof
from doit_images.advise.patch import Patch, difference
from doit_images.advise.proof import Proof, Verdict
from doit_images.advise.steps import steps_of
from doit_images.core.base import commands, files
from doit_images.core.base.errors import UserError
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

_SHOWN = 10  # paths


class Proposal(NamedTuple):
    """A patch of a Dockerfile, by its path as people write it, and what came of proving it for each image that is built
    from it, by name."""

    dockerfile: str
    patch: Patch
    proofs: Mapping[str, Proof]

    @property
    def same(self) -> bool:
        """Whether every image stays the same."""
        return bool(self.proofs) and all(each.verdict == Verdict.SAME for each in self.proofs.values())


def show(run: Run, images: Sequence[str], *, prove: bool, apply: bool, as_json: bool) -> None:
    """Print what would make the Dockerfiles of these images (default: all) better, one patch of each; with ``prove``,
    whether the images stay the same; ``apply`` also writes the patches with which they do. Raises ``UserError``, also
    where a Dockerfile that would be written is not as the commit has it."""
    proposals = []
    for dockerfile, inputs in _by_dockerfile(run, images).items():
        first = inputs[0]
        if patch := next(locks_first.patches(first.dockerfile_text, steps_of(first)), None):
            if apply:
                _committed(run.project.directory / dockerfile)
            proofs = {each.name: proof.prove(run, each, patch) for each in inputs} if prove or apply else {}
            proposals.append(Proposal(dockerfile, patch, proofs))
            if not as_json:
                _print(first.dockerfile_text, proposals[-1])
            if apply and proposals[-1].same:
                files.write(run.project.directory / dockerfile, patch.text)
                print(f"wrote {dockerfile}", file=sys.stderr)
    if as_json:
        print(json.dumps([_data(each) for each in proposals], indent=2))
    elif not proposals:
        print("no patch is known that would make these Dockerfiles better")


def _by_dockerfile(run: Run, images: Sequence[str]) -> Mapping[str, list[ImageInputs]]:
    found: dict[str, list[ImageInputs]] = defaultdict(list)
    names = [run.project.image(name).name for name in images] or list(run.project.images)
    for decision in (run.planner.decide(name) for name in names):
        inputs = decision.inputs
        if inputs.image.dockerfile and not inputs.problem and not inputs.image.remote_context:
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


def _print(before: str, proposal: Proposal) -> None:
    patch = proposal.patch
    print(f"{proposal.dockerfile}:{patch.line}: {patch.rule}: {patch.why}\n")
    print(difference(before, patch, proposal.dockerfile))
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
    return f"stays the same, file by file{unsteady}"


def _data(proposal: Proposal) -> dict[str, object]:
    proofs = {name: each._asdict() for name, each in proposal.proofs.items()}
    return {"dockerfile": proposal.dockerfile, **vars(proposal.patch), "proofs": proofs}
