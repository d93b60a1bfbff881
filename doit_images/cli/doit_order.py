"""In which order does doit run tasks that waited for the same task?

In that in which it looked at them, which is the order of their declaration: the longest path first. By itself doit
keeps them in a set, so siblings come in any order, and the one that takes longest may come last.
"""

from __future__ import annotations

from doit import control


class _InOrder(dict[object, None]):
    """What doit does with its set of waiting nodes, in the order in which they were added."""

    def add(self, node: object) -> None:
        """Add a node that waits."""
        self[node] = None


class _Node(control.ExecNode):  # type: ignore[misc]
    """A node of doit's graph, whose children go on in order."""

    def __init__(self, task: object, parent: object) -> None:
        super().__init__(task, parent)
        self.waiting_me = _InOrder()


def install() -> None:
    """Let doit make such nodes: it takes a class for many things, but this one it knows by name alone."""
    control.ExecNode = _Node
