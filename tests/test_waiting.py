"""No test measures the clock against a guess: it waits for what comes, as `waiting` does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.parsed import parsed

# Those of the services run inside their images; `e2e` has the limit that its stack was given.
FILES = [
    path
    for path in sorted(ROOT.glob("tests/**/*.py"))
    if not {"services", "e2e"} & set(path.parts) and path.stem not in ("waiting", "interruption")
]
WAITS = ("wait", "join", "result", "wait_for", "communicate")
CLOCKS = ("monotonic", "perf_counter")


def guesses(tree: ast.AST) -> Iterator[int]:
    """The lines that give something so many seconds, or compare with what the clock says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS
            given = [word.value for word in node.keywords if word.arg == "timeout"] + (node.args[:1] if named else [])
            if any(isinstance(value, ast.Constant) and isinstance(value.value, int | float) for value in given):
                yield node.lineno
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
            if any(isinstance(one, ast.Attribute) and one.attr in CLOCKS for one in called):
                yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_given_so_many_seconds(path: Path) -> None:
    assert [f"{path}:{line}" for line in guesses(parsed(path))] == []
