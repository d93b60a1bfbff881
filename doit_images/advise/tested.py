"""Does a test of an image fail with a patch that passes without it? For an image that lost something with the patch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from doit_images.advise import whole
from doit_images.advise.proof import Proof, Verdict
from doit_images.ci.testing import act, planned
from doit_images.ci.testing.declared import ImageTest
from doit_images.ci.testing.variants import with_tests
from doit_images.core.base.errors import UserError
from doit_images.core.building import aside
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run

Texts = Mapping[Path, str]


def tested(run: Run, proof: Proof, after: ImageInputs, texts: Texts) -> Proof:
    """What a proof says of an image that is made of ``after`` once its tests ran, too; ``texts`` are what files say
    then. A test that fails without the patch, too, proves nothing. Raises ``UserError``."""
    every = planned.tests_of(run.project, run.planner).items()
    tests = {name: test._replace(cache=False) for name, test in every if test.service == after.name}
    failed = _failures(run, tests, after, texts)
    before = _failures(run, {name: tests[name] for name in failed}, run.planner.decide(after.name).inputs, {})
    broken = [why for name, why in failed.items() if name not in before]
    told = {
        name: "fails without the patch too" if name in before else "fails" if name in failed else "passes"
        for name in tests
    }
    return proof._replace(verdict=Verdict.DIFFERS if broken else proof.verdict, differs=tuple(broken), tests=told)


def _failures(run: Run, tests: Mapping[str, ImageTest], inputs: ImageInputs, texts: Texts) -> dict[str, str]:
    """Those of these tests that fail on an image that is made of ``inputs``, each with why."""
    if not tests:
        return {}
    resolver = run.resolver.of(with_tests(whole.project_of(run, texts), tests), texts=texts)
    found: dict[str, str] = {}
    try:
        with aside.image(run, inputs, inputs.dockerfile_text, called="advise") as ref:
            run.local_images.changed()
            refs = {name: inputs.parent_tags[context] for context, name in inputs.parents.items()} | {inputs.name: ref}
            for name, test in tests.items():
                if why := _failure(run, planned.seen_by(run, test, resolver), refs):
                    found[name] = why
    finally:
        resolver.release()
    return found


def _failure(run: Run, seen: planned.Planned, refs: Mapping[str, str]) -> str:
    if seen.problem or seen.inputs is None:
        return seen.problem
    try:
        inputs = whole.on_parents(run, seen.inputs, refs)
        return inputs.problem or act.attempted(run, seen._replace(inputs=inputs), again=True).why
    except UserError as error:
        return f"{seen.name}: {error}"
