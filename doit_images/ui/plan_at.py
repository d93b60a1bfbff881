"""``doit plan --at REV``: what would be built for a commit, read from git alone; also as a matrix of CI jobs."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from doit_images.ci.commits import WorkingCopy
from doit_images.ci.since import STAGED, Comparison, plan_since
from doit_images.ci.testing.since import Due, split, told
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.settings import root
from doit_images.core.base.task_names import PLAIN, TaskNames
from doit_images.core.history.expected import Expected
from doit_images.core.planning.action import Action
from doit_images.core.run import Run
from doit_images.ui import tests_view
from doit_images.ui.plan_view import Plan, chosen, complain, print_json, print_table, promised

GITHUB, GITLAB = "github", "gitlab"
_MOST = 200  # jobs of one matrix, by GitLab's limit
_SHORT = 12  # hexadecimal digits of a commit


def show(run: Run, images: Sequence[str], *, as_json: bool, matrix: str, since: tuple[str, str]) -> None:
    """Print what would be built at the first of these two revisions where all was built at the second, to standard
    output; what no commit says, to standard error. ``UserError`` as for any plan."""
    copy = WorkingCopy(run.files, run.environ, run.common, told)
    asked = Comparison(copy, *since, run.settings.cache_main_branch)
    found = plan_since(asked)
    every, tests = split(found.project, found.decisions)
    decisions = chosen(every, map(found.project.image, images))
    tests = {name: due for name, due in tests.items() if due.test.service in decisions or due.problem}
    expected = Expected(run.history, [decision.inputs.image for decision in decisions.values()])
    plan = Plan(found.project.name, decisions, expected.builds, run.settings.build_jobs)
    if matrix:
        print(json.dumps(matrix_of(plan, tests) if matrix == GITHUB else pipeline_of(plan, tests, run.parts.names)))
    elif as_json:
        commits = {"at": found.at, "since": found.before or None}
        rows = tests_view.promised(run.history, tests)
        print_json({**commits, **promised(plan), "tests": rows, "unknown": list(found.unknown)})
    else:
        print_table(plan)
        tests_view.print_table(run.history, tests)
        before = f"since {found.before[:_SHORT]}" if found.before else "from nothing"
        print(f"{'what is staged,' if since[0] == STAGED else found.at[:_SHORT]} {before}")
    for sentence in found.unknown:
        print(f"plan: {sentence}", file=sys.stderr)
    complain(decisions)


def matrix_of(plan: Plan, tests: Mapping[str, Due]) -> dict[str, Any]:
    """A matrix of GitHub's: a job for each image that is to be built and that no other such image builds on, for to
    build an image builds what it needs (``builds``), with the tests that are due of all that it builds; and one for
    each image of which nothing but tests is due."""
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
    return {"include": [_job(name, built.get(name, []), due[name], plan, tests) for name in jobs]}


def _job(name: str, built: list[str], due: list[str], plan: Plan, tests: Mapping[str, Due]) -> dict[str, object]:
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


def pipeline_of(plan: Plan, tests: Mapping[str, Due], names: TaskNames = PLAIN) -> dict[str, Any]:
    """A child pipeline of GitLab's with the same jobs as a matrix; as JSON, which is YAML. One without jobs is refused
    there, so where nothing is due it has one that says so."""
    jobs = matrix_of(plan, tests)["include"]
    if not jobs:
        return {"nothing": {"script": ["echo nothing is to be built or tested"]}}
    some = [{"IMAGE": job["image"], "BUILDS": " ".join(job["builds"]), "TESTS": job["tests"]} for job in jobs]
    return {
        f"images {number}": {
            "script": script(names),
            "parallel": {"matrix": some[at : at + _MOST]},
            "artifacts": {
                "when": "always",
                "paths": [f"{OWN_FOLDER}/*/ci/"],
                "reports": {"junit": f"{OWN_FOLDER}/*/ci/*.xml"},
            },
        }
        for number, at in enumerate(range(0, len(some), _MOST), 1)
    }


def _seconds(names: Sequence[str], plan: Plan) -> float | None:
    """How long these take one after the other, None if that is not known of all."""
    known = [plan.expected[name] for name in names if name in plan.expected]
    return round(sum(known), 1) if len(known) == len(names) else None
