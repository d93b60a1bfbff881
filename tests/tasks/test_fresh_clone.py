"""Does each task of the README work as the first command of a fresh clone?

They share a clone with an environment that has what requirements.txt locks and nothing else: what a command leaves in
the clone goes before the next, and none may change the environment. What installs more has another one, where the
first of those installs it for all.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import checks, guide
from tasks.lock import task_lock
from tasks.stack import task_ci_test
from tests.conftest import ROOT
from tests.parsed import parsed

pytestmark = pytest.mark.stack

COMMANDS = [
    "build_optimized",
    "build_optimized:redis",
    "build_redis_optimized",
    "build_base",
    "plan",
    "plan --bake",
    "plan --staged",
    "ps_optimized",
    "cache_init",
    "cache_stats",
    "cache_prune --dry-run",
    pytest.param("bases_check", marks=pytest.mark.all),
    "ci_build",
    "history",
    "advise --commits 3",
    "build_report",
    "image_sizes redis",
    "doctor",
    "docs",
    "completion bash",
]
INSTALLING = [
    "test_unit -k test_normalise tests/core/engine/test_engine.py",
    "test -k test_normalise tests/core/engine/test_engine.py",
    "lock",
    "lint:ruff",
    pytest.param("lint", marks=pytest.mark.all),
    pytest.param("deps_check", marks=pytest.mark.all),
    pytest.param("ci_test -- -k password", marks=pytest.mark.all),
]
"""What installs more than requirements.txt locks: not what others must do without."""
FOUND = {"bases_check": " security fixes are not in the images (doit rebuild_base)"}
"""What may be found on the day of the test, and is then told by the status too."""
ELSEWHERE = {
    "up_optimized": "test_stack.py",
    "down_optimized": "test_stack.py",
    "dev_optimized": "test_stack.py",
    "logs_optimized": "test_stack.py",
    "shell": "test_shell.py",
    "restart": "test_parts.py",
    "exec": "test_parts.py",
    "run_once": "test_parts.py",
    "compose": "test_parts.py",
    "rebuild_optimized": "test_rebuild.py",
    "rebuild_base": "test_shared_base.py",
    "cache_export": "test_cache.py",
    "cache_import": "test_cache.py",
    "share_key": "test_trust.py",
    "publish": "test_release.py",
    "deps_update": "test_deps.py",
    "sbom": "test_sbom.py",
    "provenance": "test_sbom.py",
    "images": "test_digests.py",
    "images_kept": "test_registry_prune.py",
    "test_image": "test_test_image.py",
    "registry_prune": "test_registry_prune.py",
    "verify": "test_verify.py",
    "migrate_to_optimized": "test_migrate.py",
    "backup": "test_backup.py",
    "restore": "test_backup.py",
    "benchmark_builds": "test_measure.py",
    "compare_performance": "test_compare.py",
    "figures": "test_figures.py",
    "test_faults": "it is a part of `test`",
    "test_mutants": "it takes an hour; it needs what `test` needs",
}


def named() -> set[str]:
    """The tasks in the tables of the README and of CONTRIBUTING.md."""
    pages = {"README.md": "## The tasks", "CONTRIBUTING.md": "## Tasks that maintain this repository"}
    table = "\n".join((ROOT / page).read_text().partition(of)[2].partition("\n## ")[0] for page, of in pages.items())
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([a-z_]+)", cell)}


def test_each_task_is_tried_here_or_elsewhere() -> None:
    commands = [str(getattr(one, "values", [one])[0]) for one in (*COMMANDS, *INSTALLING)]
    tried = {command.split()[0].partition(":")[0] for command in commands} | {"build_", *ELSEWHERE}
    assert named() - tried == set()
    assert all(list((ROOT / "tests").rglob(place)) for place in ELSEWHERE.values() if place.endswith(".py"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of what is to be committed here, after its first `./doitw`."""
    folder = tmp_path_factory.mktemp("clone") / "repository"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for words in ("init --quiet", "add --all", "-c user.name=t -c user.email=t@example.org commit --quiet -m t"):
        subprocess.run(["git", *words.split()], cwd=folder, check=True)
    done = subprocess.run(["./doitw", "list"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    project = folder.parent / "project"
    project.mkdir()
    (project / "compose.yml").write_text("services: {one: {image: one, build: {context: one}}}\n")
    return folder


@pytest.fixture(scope="session")
def another(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another clone, whose environment is its own: what is installed into it is not in the other one."""
    folder = tmp_path_factory.mktemp("another") / "repository"
    subprocess.run(["cp", "-a", str(clean), str(folder)], check=True)
    for path in (folder / ".venv/bin").iterdir():
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(str(clean).encode(), str(folder).encode()))
    return folder


def installed(clone: Path) -> set[str]:
    return {path.name for path in clone.glob(".venv/lib/*/site-packages/*")}


def works(clone: Path, command: str) -> None:
    done = subprocess.run(["./doitw", *shlex.split(command)], cwd=clone, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "No module named" not in said, said
    assert "Traceback" not in said, said
    assert done.returncode == 0 or (command in FOUND and FOUND[command] in done.stderr), said


@pytest.mark.parametrize("command", COMMANDS)
def test_it_works_as_the_first_command(clean: Path, stack_images: None, command: str) -> None:
    subprocess.run(["git", "clean", "-dffxq", "--exclude=/.venv"], cwd=clean, check=True)
    before = installed(clean)
    works(clean, command)
    assert installed(clean) == before


@pytest.mark.parametrize("command", INSTALLING)
def test_it_works_and_has_installed_what_it_needs(another: Path, stack_images: None, command: str) -> None:
    works(another, command)


def test_whatever_needs_more_packages_installs_them_first() -> None:
    """Of the commands above only the first really does."""
    tasks = [checks.task_test(), checks.task_test_unit(), checks.task_test_faults(), checks.task_test_mutants()]
    behind = (guide.task_deps_check(), guide.task_deps_update())
    for task in (*tasks, *checks.task_lint(), task_lock(), task_ci_test(), *behind):
        assert "_dev_environment" in (*task.get("task_dep", ()), *task.get("setup", ())), task


def test_all_that_the_tasks_import_is_there(clean: Path) -> None:
    """Also where only a part of a task does that none of the commands above comes by."""
    paths = [*ROOT.glob("doit_images/**/*.py"), *ROOT.glob("tasks/**/*.py")]
    nodes = [node for path in paths for node in ast.walk(parsed(path))]
    names = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    # What requirements-keyless.txt locks, and what imports it.
    elsewhere = {name for name in names if name.startswith("sigstore")} | {"doit_images.share.keyless"}
    code = f"from importlib import import_module as i; [i(name) for name in {sorted(names - elsewhere)}]"
    done = subprocess.run([".venv/bin/python", "-c", code], cwd=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_by_every_name_the_stack_gets_its_env_file() -> None:
    """Settings and Compose read it before any task runs."""
    names = ["up", "up_optimized", "dev", "restore", "run_once", "list"]
    needs = "from doit_images.cli.stack import needs_env_file as needs"
    code = f"import dodo; {needs}; print([name for name in {names} if needs(['doit', name])])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{names[:-1]}\n", done.stderr
