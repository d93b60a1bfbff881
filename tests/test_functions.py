"""Are functions small, and are parameters that travel together a class?"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.parsed import parsed

LINES = 40
PARAMETERS = 5
# The options of one command each, given by name and by nobody together.
ALLOWED = {
    "doit_images/core/buildkit/buildx.py:build_argv": "the options of docker buildx build",
    "doit_images/core/compose/stack.py:logs_argv": "the options of docker compose logs",
    "doit_images/core/inputs/dockerfile.py:reads": "the options of a build that a Dockerfile sees",
    "doit_images/cli/show.py:_advise": "the options of doit advise",
    "doit_images/cli/show.py:_plan": "the options of doit plan",
    "doit_images/ui/history_view.py:show": "the options of doit history",
    "doit_images/ui/release_view.py:publish": "the options of doit publish",
    "doit_images/stack/every.py:down": "the options of doit down",
    "doit_images/pruning/registry_prune.py:prune": "the options of doit registry_prune",
}


def sizes(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Each function of a module, with its lines and its parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            parameters = [each.arg for each in given if each.arg not in ("self", "cls")]
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1, len(parameters)


def test_functions_are_small() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{name}": (lines, parameters)
        for folder in ("doit_images", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        for name, lines, parameters in sizes(parsed(path))
        if lines > LINES or parameters > PARAMETERS
    }
    assert {name for name, (lines, _) in found.items() if lines > LINES} == set()
    assert found.keys() == ALLOWED.keys()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("def f(self, a, /, b, *, c): ...", ("f", 1, 3)),
        ("class C:\n    async def g(\n        self,\n        *words,\n    ):\n        pass", ("g", 5, 0)),
    ],
)
def test_a_function_is_measured(text: str, size: tuple[str, int, int]) -> None:
    assert list(sizes(ast.parse(text))) == [size]
