"""Every command of the README is run by a test: here, or in the file that this one names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from benchmarks import readme
from benchmarks.measure import in_words
from benchmarks.picture import picture
from tests.conftest import ROOT, Lab

README = (ROOT / "README.md").read_text()
# Commands that need more than a small project are run for real by these tests.
ELSEWHERE = {
    "test": ".ci/run",
    "up_optimized": "tests/stack/test_stack.py",
    "ps_optimized": "tests/stack/test_stack.py",
    "down_optimized": "tests/stack/test_stack.py",
    "rebuild_optimized": "tests/pruning/test_cache.py",
}


def commands() -> list[str]:
    """Every command line of the README that runs doit or doitw, without its comment; ``tests/test_taken_home.py`` tries
    what takes the package into a project."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`((?:pip install [^`]* && )?(?:\./doitw|doit)(?: [^`]+)?)`", README)
    return sorted({line for line in lines if re.search(r"\bdoitw?( |$)", line)})


def words(command: str) -> list[str]:
    """The words after doit, for a project that has the images and the build that the README speaks of."""
    command = command.partition(">")[0].replace("IMAGE", "auth").replace("--show ID", "--show 1")
    parts = shlex.split(command.replace("pip install -r requirements.txt && ", ""))
    return [part for part in parts if not part.startswith("COMPOSE_FILE=")][1:]


def task(command: str) -> str:
    """The task that a command runs."""
    plain = [word for word in words(command) if re.fullmatch(r"[a-z_]+", word)]
    return plain[0] if plain else "build_optimized"


HERE = [command for command in commands() if task(command) not in ELSEWHERE]


def test_there_are_commands_and_each_is_run_somewhere() -> None:
    assert len(HERE) >= 8
    for name, file in ELSEWHERE.items():
        if any(task(command) == name for command in commands()):
            runs = f"./doitw {name} --all\n" if file == ".ci/run" else f'"{name}"'
            assert runs in (ROOT / file).read_text(), f"{name} is not run by {file}"


@pytest.fixture(scope="module")
def shop(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("readme"))
    lab.write(
        {
            "compose.yml": "name: PREFIX\nservices: {auth: {image: PREFIX/auth, build: {context: auth}}}\n",
            "auth/Dockerfile": "FROM scratch\nCOPY main.py /\n",
            "auth/main.py": "print('PREFIX')\n",
        }
    )
    lab.build()
    yield lab
    lab.close()


@pytest.mark.engine
@pytest.mark.parametrize("command", HERE)
def test_a_command_of_the_readme(command: str, shop: Lab) -> None:
    done = shop.doit(*words(command))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.engine
def test_every_task_of_the_table_exists(shop: Lab) -> None:
    listed = {line.split()[0] for line in shop.doit("list").stdout.splitlines()}
    pages = (README, (ROOT / "CONTRIBUTING.md").read_text())
    table = "".join(re.findall(r"^## (?:The t|T)asks.*?(?=^## )", "".join(pages), re.MULTILINE | re.DOTALL))
    named = {name.split()[0] for row in table.splitlines() for name in re.findall(r"`([a-z_]+[^`]*)`", row)}
    tasks = {name for name in named if re.fullmatch(r"[a-z]+(_[a-z]+)*", name)} - {"doit", "docker"}
    assert len(tasks) > 40
    assert tasks <= listed


def test_the_figures_are_those_that_the_benchmarks_left() -> None:
    found = readme.BLOCK.search(README)
    assert found is not None
    written = found[1] + readme.judged() + found[2]
    assert readme.without_age(found[0]) == readme.without_age(written), "run benchmarks/readme.py"
    every = readme.EVERY.read_text()
    assert readme.without_age(every) == readme.without_age(readme.every()), "run benchmarks/readme.py"
    comparison = json.loads((ROOT / "benchmarks/compare_performance.json").read_text())
    assert readme.PICTURE.read_text() == picture(comparison), "run benchmarks/readme.py"


def test_all_that_was_compared_is_shown_with_its_spread_its_notes_and_its_machine() -> None:
    """Rows without a goal too: with the newer engine one was a loss, and stood nowhere (issue 32)."""
    every = readme.EVERY.read_text()
    kept = [json.loads(path.read_text()) for path in (ROOT / "benchmarks").glob("compare_performance*.json")]
    assert len(kept) == 2
    for found in kept:
        shown = every[every.index(f"With Engine {found['machine']['engine']}") :]
        shown = shown[: shown.index(in_words(found["machine"]))]
        for row in found["rows"]:
            line = next(line for line in shown.splitlines() if line.startswith(f"| {row['metric']} |"))
            assert all(f"({low:.3g} – {high:.3g})" in line for low, high in row.get("spread", {}).values())
            assert f"- {row['metric']}: {row['note']}" in shown or not row["note"]


def test_the_picture_shows_what_was_measured_in_each_colour_scheme() -> None:
    row = {"metric": "nothing <changed>", "unit": "s", "standard": 0.4, "documented": 0.2, "optimized": 0.1}
    alone = {**row, "metric": "auth: rebuild"}
    drawn = picture({"rows": [row, alone, {**row, "documented": None}]})
    top = ElementTree.fromstring(drawn)
    shapes = [(one.get("class"), one.get("width")) for one in top.iter("{http://www.w3.org/2000/svg}rect")]
    assert shapes[-3:] == [("standard", "520.0"), ("documented", "260.0"), ("optimized", "130.0")]
    texts = [one.text for one in top.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["standard", "documented", "optimized", "nothing <changed>", "0.4 s", "0.2 s", "0.1 s"]
    assert "screen and (prefers-color-scheme: dark)" in drawn
