"""What do tasks have in common that do something once, and how do they fail?"""

from __future__ import annotations

import os
import sys
from typing import Any

Task = dict[str, Any]
FLAG: Task = {"type": bool, "default": False}
# A task that prints, or talks with its user: no line of doit's own, and its output as it is.
PLAIN: Task = {"io": {"capture": False}, "uptodate": [False]}
QUIET: Task = {**PLAIN, "meta": {"quiet": True}}


def act(run: Any, *words: Any, **options: Any) -> Any:
    """Run the action of a task with the workspace, these words and the task's options; what is expected to go wrong
    becomes doit's failure, in one sentence. Whoever reads the output may have seen enough, as ``head`` does: that is
    the end, and no failure."""
    from tasks.base import processes
    from tasks.base.errors import UserError
    from tasks.run import current

    failure = None
    try:
        try:
            run(current(), *words, **options)
        except UserError as trouble:
            failure = fail(str(trouble))
        except processes.Stopped:
            failure = fail("stopped")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try to write the rest once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failure


def fail(sentence: str) -> Any:
    """doit's failure with this sentence."""
    from doit.exceptions import TaskFailed

    return TaskFailed(sentence)
