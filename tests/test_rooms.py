"""Do imports point in one direction: between the parts of the package, its rooms, and the modules of the core?

Names are read from the tree as it is: ``import``, anywhere in a module, and the ``module:function`` that ``cli.action``
imports when it acts. Imports for types alone count between parts and rooms, and inside the core. What CONTRIBUTING.md
tells of the parts is held to that.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.parsed import parsed

ROOT = Path(__file__).resolve().parent.parent

OURS = ("doit_images", "tasks", "benchmarks")
# Each part imports only those before it.
FLOORS = ("core", "share", "stack", "ci", "pruning", "advise", "ui", "cli", "setup", "__main__")
_NAMED = re.compile(r"(doit_images|tasks|benchmarks)\.[\w.]+:\w+")


@cache
def modules(root: Path, types: bool = True) -> dict[str, set[str]]:
    """Each module, by its dotted name, with those that it imports, for ``types`` alone, too."""
    trees = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): parsed(path)
        for folder in OURS
        for path in (root / folder).rglob("*.py")
    }
    return {name: {_module(one, trees) for one in imports(tree, types)} - {name} for name, tree in trees.items()}


def _module(name: str, known: Mapping[str, object]) -> str:
    """The module in which an imported name is: the name itself, or what it is taken from."""
    return name if name in known else name.rpartition(".")[0]


def imports(tree: ast.AST, types: bool) -> Iterator[str]:
    """What a module imports of ours, as dotted names."""
    marked = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    only_types = {below for node in marked for below in ast.walk(node)}
    for node in ast.walk(tree):
        if node in only_types and not types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OURS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            yield node.value.partition(":")[0]


def grouped(graph: Mapping[str, set[str]], group: Callable[[str], str]) -> dict[str, set[str]]:
    """The same between groups of modules; a group "" is left out."""
    found: dict[str, set[str]] = {}
    for name, imported in graph.items():
        if here := group(name):
            found.setdefault(here, set()).update({group(one) for one in imported} - {here, ""})
    return found


def part(module: str) -> str:
    """The part of the package that a module is in, or what is beside the package."""
    words = module.split(".")
    return words[0] if words[0] != "doit_images" else words[1] if len(words) > 1 else ""


def room(module: str) -> str:
    """The room of the core that a module is in: a folder, or a module that stands alone."""
    return module.split(".")[2] if part(module) == "core" and module != "doit_images.core" else ""


def order(graph: Mapping[str, set[str]]) -> list[str]:
    """The names, each after all that it imports; ``CycleError`` where some import each other."""
    return list(TopologicalSorter(graph).static_order())


def fenced(page: str, language: str) -> list[str]:
    """The lines of a page's last block in this language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[-1].splitlines()  # type: ignore[no-any-return]


def drawn(lines: Iterable[str]) -> dict[str, set[str]]:
    """The arrows of a diagram: each name, with those that lead from it. Dotted ones are no imports."""
    found: dict[str, set[str]] = {}
    for line in lines:
        ends = [end.strip().split(" & ") for end in line.split(" --> ")]
        for sources, targets in pairwise(ends):
            for source in sources:
                found.setdefault(source, set()).update(targets)
    return found


def reached(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Each name, with all that is imported by what it imports."""
    found: dict[str, set[str]] = {}
    for name in order(graph):
        found[name] = graph[name].union(*(found[one] for one in graph[name]))
    return found


def test_each_part_imports_only_those_below_it() -> None:
    found = grouped(modules(ROOT), part)
    assert found.keys() == {*FLOORS, "tasks", "benchmarks"}
    for number, name in enumerate(FLOORS):
        assert found[name] <= set(FLOORS[:number]), name


def test_no_room_of_the_core_is_imported_by_one_below_it() -> None:
    assert order(grouped(modules(ROOT), room))[0] == "base"


@pytest.mark.parametrize("name", FLOORS)
def test_no_circle_is_inside_a_part(name: str) -> None:
    graph = modules(ROOT, types=name in ("core", "ui"))
    inside = {one for one in graph if part(one) == name}
    assert order({one: graph[one] & inside for one in inside})


def test_the_list_says_of_each_part_what_its_first_line_does() -> None:
    core = ROOT / "doit_images/core"
    folders = [ROOT / "tasks", *(ROOT / "doit_images" / name for name in FLOORS), *core.glob("*/")]
    said = {one.name: ast.get_docstring(parsed(one / "__init__.py")) or "" for one in folders
            if (one / "__init__.py").exists()}  # fmt: skip
    told = {(words := line.split(maxsplit=1))[0]: words[1] for line in fenced("CONTRIBUTING.md", "text")}
    assert told == {name: text.partition("\n")[0].rstrip(".") for name, text in said.items()}

    def line(module: str) -> str:
        name = room(module) or part(module)
        return name if name in told else ""

    found = grouped(modules(ROOT), line)
    for number, name in enumerate(told):
        assert found[name] <= {*list(told)[number + 1 :]}, name


@pytest.mark.parametrize("group", [part, room])
def test_the_diagram_shows_the_imports(group: Callable[[str], str]) -> None:
    arrows = drawn(fenced("CONTRIBUTING.md", "mermaid"))
    beside = ("benchmarks", "__main__")
    real = grouped(modules(ROOT), lambda module: "" if group(module) in beside else group(module))
    shown = {name: arrows.get(name, set()) & real.keys() for name in real}
    assert reached(shown) == reached(real)
    for name in real:
        assert shown[name] <= real[name], f"{name} does not import all that an arrow leads to"


@pytest.mark.parametrize(
    "how", ["from tasks.b import c", "def f():\n    from tasks import b", "import tasks.b.c", "f('tasks.b.c:y')"]
)
def test_a_circle_is_found(tmp_path: Path, how: str) -> None:
    texts = {"a/x.py": how, "b/c.py": "if True:\n    from tasks.a.x import y", "b/__init__.py": ""}
    for name, text in texts.items():
        path = tmp_path / "tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(CycleError):
        order(grouped(modules(tmp_path), lambda name: ".".join(name.split(".")[1:2])))
