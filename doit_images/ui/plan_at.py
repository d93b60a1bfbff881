"""``doit plan --at REV``: what would be built for a commit, read from git alone; also as CI jobs (``ci_jobs``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from doit_images.ci.commits import WorkingCopy
from doit_images.ci.since import STAGED, Comparison, Since, plan_since
from doit_images.ci.testing.since import Due, split, told
from doit_images.core.compose.answer import PLATFORMS
from doit_images.core.history.expected import Expected
from doit_images.core.run import Run
from doit_images.ui import advise_view, ci_jobs, tests_view
from doit_images.ui.plan_view import Plan, chosen, complain, print_json, print_table, promised

GITHUB, GITLAB = "github", "gitlab"
_SHORT = 12  # hexadecimal digits of a commit


def show(run: Run, images: Sequence[str], *, as_json: bool, matrix: str, since: tuple[str, str]) -> None:
    """Print what would be built at the first of these two revisions where all was built at the second, to standard
    output; what no commit says, to standard error. ``UserError`` as for any plan."""
    found, plan, tests = _planned(run, images, since)
    if matrix:
        several = run.settings.platforms if len(run.settings.platforms) > 1 else ()
        alone = {one: _planned(run, images, since, one)[1:] for one in several}
        jobs = ci_jobs.native(alone) if several else ci_jobs.of(plan, tests)
        print(json.dumps({"include": jobs} if matrix == GITHUB else ci_jobs.pipeline_of(jobs, run.parts.names)))
    elif as_json:
        commits = {"at": found.at, "since": found.before or None}
        rows = tests_view.promised(run.history, tests)
        print_json({**commits, **promised(plan), "tests": rows, "unknown": list(found.unknown)})
    else:
        print_table(plan)
        tests_view.print_table(run.history, tests)
        before = f"since {found.before[:_SHORT]}" if found.before else "from nothing"
        print(f"{'what is staged,' if since[0] == STAGED else found.at[:_SHORT]} {before}")
        if since[0] == STAGED and found.before:
            built = {name for name, each in plan.decisions.items() if each.builds}
            advise_view.staged(run, WorkingCopy(run.files, run.environ, run.common), found.before, found.at, built)
    for sentence in found.unknown:
        print(f"plan: {sentence}", file=sys.stderr)
    complain(plan.decisions)


def _planned(
    run: Run, images: Sequence[str], since: tuple[str, str], platform: str = ""
) -> tuple[Since, Plan, Mapping[str, Due]]:
    """The plan, and the tests that are due of it; of one platform alone, where the Compose file names none."""
    environ = {**run.environ, PLATFORMS: platform} if platform else run.environ
    copy = WorkingCopy(run.files, environ, run.common, told)
    found = plan_since(Comparison(copy, *since, run.settings.cache_main_branch))
    every, tests = split(found.project, found.decisions)
    decisions = chosen(every, map(found.project.image, images))
    tests = {name: due for name, due in tests.items() if due.test.service in decisions or due.problem}
    expected = Expected(run.history, [decision.inputs.image for decision in decisions.values()])
    return found, Plan(found.project.name, decisions, expected.builds, run.settings.build_jobs), tests
