"""What do tasks have in common that do something once, and how do they fail?"""

from __future__ import annotations

from typing import Any

Task = dict[str, Any]
FLAG: Task = {"type": bool, "default": False}
# A task that prints, or talks with its user: no line of doit's own, and its output as it is.
PLAIN: Task = {"io": {"capture": False}, "uptodate": [False]}
QUIET: Task = {**PLAIN, "meta": {"quiet": True}}


def act(run: Any, *words: Any, **options: Any) -> Any:
    """Run the action of a task with the workspace, these words and the task's options; what is expected to go wrong
    becomes doit's failure, in one sentence."""
    from tasks import processes
    from tasks.errors import Trouble
    from tasks.workspace import current

    try:
        run(current(), *words, **options)
    except Trouble as trouble:
        return fail(str(trouble))
    except processes.Stopped:
        return fail("stopped")
    return None


def fail(sentence: str) -> Any:
    """doit's failure with this sentence."""
    from doit.exceptions import TaskFailed

    return TaskFailed(sentence)
