"""Which tasks run this repository's stack: tested from end to end, and in place of the standard deployment?"""

from __future__ import annotations

from typing import Any

from doit_images.cli.action import PLAIN, QUIET, YES, Task, option
from doit_images.cli.process import current
from doit_images.cli.stack import shown
from doit_images.cli.tests import AGAIN, RUNS, first_time
from doit_images.core.base.errors import UserError


def task_migrate_to_optimized() -> Task:
    """Replace a running standard deployment by the optimized one, keep its data, and go back if it is not healthy"""
    dry_run = option("dry-run", False, "only show what would be done")
    undo = option("undo", False, "put back what ran before one that was interrupted")
    return {"actions": [(shown, ["tasks.migrate:migrate"])], "params": [dry_run, undo, YES], **PLAIN}


def task_ci_test() -> Task:
    """Run the end-to-end tests on a stack of their own, unless they passed on just that: [--again] [PYTEST …]"""
    return {
        **QUIET,
        "actions": [(_ci_test, [])],
        "params": [AGAIN, RUNS],
        "setup": ["_dev_environment", "build_optimized"],
        "uptodate": [EndToEnd()],
        "pos_arg": "words",
    }


class EndToEnd:
    """A doit ``uptodate`` object: whether the end-to-end tests passed before on all that they would see now. Then
    nothing is built for them either."""

    def __call__(self, task: Any, values: Any) -> bool:
        """Ask what is known, and bring back what they left. An error counts as not passed: the action then says it."""
        from tasks import end_to_end

        if not first_time(task):
            return False
        try:
            asked = end_to_end.what_passed(current(), task.pos_arg_val or ())
            if asked.result:
                end_to_end.passed_before(current(), asked)
        except UserError:
            return False
        return asked.result is not None


def _ci_test(words: Any, *, again: bool, runs: str, task: Any) -> Any:
    return shown("tasks.end_to_end:run_tests", list(words or ()), again=again, runs=runs, task=task)
