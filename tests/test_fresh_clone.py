"""Does each task of the README work as the first command of a fresh clone?

Each has a clone and an environment of its own, with what requirements.txt locks and nothing else.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.stack

COMMANDS = [
    "build_optimized",
    "build_optimized:redis",
    "build_redis_optimized",
    "build_base",
    "plan",
    "plan --bake",
    "ps_optimized",
    "cache_init",
    "cache_stats",
    "cache_prune --dry-run",
    "deps_check",
    "bases_check",
    "ci_build",
    "ci_test -- -k password",
    "history",
    "build_report",
    "image_sizes redis",
    "adopt ../project --dry-run",
    "doctor",
    "lint",
    "test -k test_normalise tests/test_engine.py",
    "test_unit -k test_normalise tests/test_engine.py",
    "lock",
]
FOUND = {"bases_check": " security fixes of Debian are not in the images (doit rebuild_base)"}
"""What may be found on the day of the test, and is then told by the status too."""
ELSEWHERE = {
    "up_optimized": "test_stack.py",
    "down_optimized": "test_stack.py",
    "dev_optimized": "test_stack.py",
    "logs_optimized": "test_stack.py",
    "shell": "test_shell.py",
    "rebuild_optimized": "test_rebuild.py",
    "rebuild_base": "test_shared_base.py",
    "cache_export": "test_cache.py",
    "cache_import": "test_cache.py",
    "share_key": "test_trust.py",
    "deps_update": "test_deps.py",
    "sbom": "test_sbom.py",
    "provenance": "test_sbom.py",
    "images": "test_digests.py",
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
    """The tasks in the README's table."""
    table = (ROOT / "README.md").read_text().partition("## The tasks")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([a-z_]+)", cell)}


def test_each_task_is_tried_here_or_elsewhere() -> None:
    tried = {command.split()[0].partition(":")[0] for command in COMMANDS} | {"build_", *ELSEWHERE}
    assert named() - tried == set()
    assert all((ROOT / "tests" / place).exists() for place in ELSEWHERE.values() if place.endswith(".py"))


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
    shutil.rmtree(folder / ".doit-images", ignore_errors=True)
    return folder


@pytest.fixture
def clone(clean: Path, tmp_path: Path) -> Path:
    """Another clone, whose environment is its own: what is installed into it is not in the others."""
    folder = tmp_path / "repository"
    subprocess.run(["cp", "-a", str(clean), str(folder)], check=True)
    for path in (folder / ".venv/bin").iterdir():
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(str(clean).encode(), str(folder).encode()))
    (tmp_path / "project").mkdir()
    (tmp_path / "project/compose.yml").write_text("services: {one: {image: one, build: {context: one}}}\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_it_works_as_the_first_command(clone: Path, stack_images: None, command: str) -> None:
    done = subprocess.run(["./doitw", *shlex.split(command)], cwd=clone, capture_output=True, text=True, timeout=900)
    said = done.stdout + done.stderr
    assert "No module named" not in said, said
    assert "Traceback" not in said, said
    assert done.returncode == 0 or (command in FOUND and FOUND[command] in done.stderr), said
