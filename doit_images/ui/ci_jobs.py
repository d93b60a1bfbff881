"""Which jobs does CI have for a commit? As the matrix of GitHub's, and as a child pipeline of GitLab's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from doit_images.ci.testing.since import Due
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.settings import root
from doit_images.core.base.task_names import PLAIN, TaskNames
from doit_images.core.compose.answer import PLATFORMS
from doit_images.core.planning.plan import Action
from doit_images.ui.plan_view import Plan, chosen

_MOST = 200  # jobs of one matrix, by GitLab's limit
Job = dict[str, Any]
"""What a job is given: the image that it builds, its reference and platform, what else it builds, the tests, why."""


def of(plan: Plan, tests: Mapping[str, Due]) -> list[Job]:
    """A job for each image that is to be built and that no other such image builds on, for to build an image builds
    what it needs (``builds``), with the tests that are due of all that it builds; and one for each image of which
    nothing but tests is due."""
    stale = {name: decision for name, decision in plan.decisions.items() if decision.stale}
    every = {
        name: [each for each in chosen(plan.decisions, [decision.inputs.image]) if each in stale]
        for name, decision in stale.items()
    }
    inner = {each for name, some in every.items() for each in some if each != name}
    built = {name: some for name, some in every.items() if name not in inner and stale[name].action != Action.BROKEN}
    due: dict[str, list[str]] = defaultdict(list)
    for name, test in tests.items():
        service = test.test.service
        if test.stale and not test.problem and plan.decisions[service].action != Action.BROKEN:
            due[next((job for job, some in built.items() if service in some), service)].append(name)
    jobs = [name for name in plan.decisions if name in built or name in due]
    return [_job(name, built.get(name, []), due[name], plan, tests) for name in jobs]


def native(alone: Mapping[str, tuple[Plan, Mapping[str, Due]]]) -> list[Job]:
    """From what is due of each platform alone: a job for each image and platform, to be run by a machine of that kind.
    An image whose Compose file names its platforms has one job, which names none: one builder makes it."""
    found = list[Job]()
    for platform, (plan, tests) in alone.items():
        for job in of(plan, tests):
            if plan.decisions[job["image"]].inputs.image.platforms == (platform,):
                found.append({**job, "platform": platform})
            elif job not in found:
                found.append(job)
    return found


def _job(name: str, built: list[str], due: list[str], plan: Plan, tests: Mapping[str, Due]) -> Job:
    reasons = plan.decisions[name].reasons if built else tests[due[0]].reasons
    return {
        "image": name,
        "ref": plan.decisions[name].inputs.image.ref,
        "builds": built,
        "tests": " ".join(due),
        "why": "; ".join(reasons),
        "seconds": _seconds(built, plan),
    }


def script(names: TaskNames) -> list[str]:
    """What a job of GitLab's runs: by the project's wrapper where it has one."""
    doit = "./doitw" if (root() / "doitw").is_file() else "doit"
    return [
        f"{doit} {names('cache_init')}",
        f'if [ -n "$BUILDS" ]; then {doit} "{names("build")}:$IMAGE"; fi',
        f'failed=; for test in $TESTS; do {doit} "{names("test_image")}:$test" || failed="$failed $test"; done',
        'if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi',
    ]


def pipeline_of(jobs: Sequence[Job], names: TaskNames = PLAIN) -> dict[str, Any]:
    """A child pipeline of GitLab's with these jobs as a matrix; as JSON, which is YAML. One without jobs is refused
    there, so where nothing is due it has one that says so."""
    if not jobs:
        return {"nothing": {"script": ["echo nothing is to be built or tested"]}}
    by_kind: dict[str, list[dict[str, str]]] = defaultdict(list)
    for job in jobs:
        given = {"IMAGE": job["image"], "BUILDS": " ".join(job["builds"]), "TESTS": job["tests"]}
        by_kind[job.get("platform", "")].append(given)
    matrices = [
        (platform, some[at : at + _MOST]) for platform, some in by_kind.items() for at in range(0, len(some), _MOST)
    ]
    artifacts = {
        "when": "always",
        "paths": [f"{OWN_FOLDER}/*/ci/"],
        "reports": {"junit": f"{OWN_FOLDER}/*/ci/*.xml"},
    }
    return {
        f"images {number}": {
            "script": script(names),
            "parallel": {"matrix": some},
            "artifacts": artifacts,
            **({"tags": [platform], "variables": {PLATFORMS: platform}} if platform else {}),
        }
        for number, (platform, some) in enumerate(matrices, 1)
    }


def _seconds(names: Sequence[str], plan: Plan) -> float | None:
    """How long these take one after the other, None if that is not known of all."""
    known = [plan.expected[name] for name in names if name in plan.expected]
    return round(sum(known), 1) if len(known) == len(names) else None
