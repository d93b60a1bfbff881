"""Do the imports of the rooms (the folders and modules in ``tasks``, and ``benchmarks``) point in one direction?"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


OURS = ("tasks", "benchmarks")
# What `cli.action` imports when it acts.
_NAMED = re.compile(r"(tasks|benchmarks)\.[\w.]+:\w+")


def graph(root: Path) -> dict[str, set[str]]:
    """Each room with those that it imports: anywhere in it, also in functions and for types only."""
    found: dict[str, set[str]] = {}
    for path in [*(root / "tasks").rglob("*.py"), *(root / "benchmarks").glob("*.py")]:
        room = room_of(".".join(path.relative_to(root).with_suffix("").parts))
        imported = {room_of(name) for name in imports(ast.parse(path.read_text())) if name.count(".")}
        if room != "__init__":
            found.setdefault(room, set()).update(imported - {room})
    return found


def room_of(module: str) -> str:
    """The room of a module with this dotted name: a folder of ``tasks``, or the one beside it."""
    return module.removeprefix("tasks.").split(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """What a module imports of ``tasks`` and ``benchmarks``, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OURS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            yield node.value


def order(rooms: Mapping[str, set[str]]) -> list[str]:
    """The rooms, each after all that it imports; ``CycleError`` where some import each other."""
    return list(TopologicalSorter(rooms).static_order())


def test_no_room_is_imported_by_one_below_it() -> None:
    found = order(graph(ROOT))
    assert found[0] == "base"
    assert found[-1] == "cli"


def test_nothing_but_the_tasks_calls_what_people_see() -> None:
    assert {room for room, imported in graph(ROOT).items() if "ui" in imported} == {"cli", "benchmarks"}


@pytest.mark.parametrize(
    "how", ["from tasks.b import c", "def f():\n    from tasks import b", "import tasks.b.c", "f('tasks.b.c:y')"]
)
def test_a_circle_is_found(tmp_path: Path, how: str) -> None:
    for name, text in {"a/x.py": how, "b/c.py": "if True:\n    from tasks.a.x import y"}.items():
        path = tmp_path / "tasks" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(CycleError):
        order(graph(tmp_path))
