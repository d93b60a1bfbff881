"""A day's edits, or a git history, applied one by one; what was built, what was needed, what was reused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure, replay
from doit_images.core.base.errors import UserError
from tests import blind_reader
from tests.conftest import ROOT

INPUTS = {
    "auth": ["services/auth/app.py", "services/common/log.py", "docker/auth/requirements.txt"],
    "memory": ["services/memory/app.py", "services/common/log.py", "docker/memory/requirements.txt"],
    "store": ["docker/store/Dockerfile"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for paths in INPUTS.values():
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("start\n")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not {".doit-images", ".git"} & set(path.relative_to(folder).parts)
    }


def test_a_day_is_mostly_code_and_not_only_code(folder: Path) -> None:
    day = replay.typical(INPUTS, ["auth", "memory", "store"])
    assert len(day) == 20
    changed: list[set[str]] = []
    for number, (_, apply) in enumerate(day):
        before = contents(folder)
        apply(folder, f"replay {number}")
        after = contents(folder)
        changed.append({path for path in after if after[path] != before.get(path)})
    paths = [next(iter(paths), "") for paths in changed]
    assert all(len(paths) <= 1 for paths in changed)
    assert sum(path.endswith("app.py") for path in paths) == 14  # twelve edits, two of them taken back
    assert paths.count("services/common/log.py") == 2
    assert sum(path.endswith("requirements.txt") for path in paths) == 1
    assert paths.count("REPLAY.md") == 2
    assert paths.count("") == 1  # a touch changes nothing


def test_taking_back_leaves_what_was_there_before(folder: Path) -> None:
    day = replay.typical(INPUTS, ["auth", "memory"])
    at = next(number for number, (what, _) in enumerate(day) if what.endswith("taken back"))
    states = [contents(folder)]
    for number, (_, apply) in enumerate(day[: at + 1]):
        apply(folder, f"replay {number}")
        states.append(contents(folder))
    assert states[-1] == states[-3]
    assert states[-1] != states[-2]


def test_a_build_that_drops_is_tried_again_and_not_for_ever(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho >>'{tmp_path}/tries'; [ $(wc -l <'{tmp_path}/tries') -ge $LAST ]\n")
    program.chmod(0o755)
    replay._followed(["docker", "buildx", "build"], {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LAST": "3"})
    assert len((tmp_path / "tries").read_text().splitlines()) == 3
    with pytest.raises(UserError, match="`docker buildx build …` failed, so nothing is counted"):
        replay._followed(["docker", "buildx", "build"], {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LAST": "9"})
    assert len((tmp_path / "tries").read_text().splitlines()) == 6


def test_a_project_without_such_files_has_a_shorter_day() -> None:
    day = replay.typical({"store": ["docker/store/Dockerfile"]}, ["store"])
    assert [what for what, _ in day] == ["a line in REPLAY.md, which no image reads"] * 2


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


def test_commits_are_checked_out_one_by_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    repository, copy = tmp_path / "repository", tmp_path / "copy"
    repository.mkdir()
    copy.mkdir()
    git(repository, "init", "--quiet")
    states = [{"a": "1"}, {"a": "1", "b/c": "2"}, {"b/c": "3"}]
    for number, files in enumerate(states):
        for path in contents(repository):
            (repository / path).unlink()
        for path, text in files.items():
            (repository / path).parent.mkdir(exist_ok=True)
            (repository / path).write_text(text)
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", f"state {number}")
    git_status = git(repository, "status", "--porcelain")
    found = replay.commits(repository, 10)
    assert [what.split(" ", 1)[1] for what, _ in found] == ["state 0", "state 1", "state 2"]
    for (_, apply), files in zip(found, states, strict=True):
        apply(copy, "")
        assert contents(copy) == files
    assert git(repository, "status", "--porcelain") == git_status == ""
    assert [what.split(" ", 1)[1] for what, _ in replay.commits(repository, 2)] == ["state 1", "state 2"]


def test_a_folder_without_history_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no git history can be read here"):
        replay.commits(tmp_path, 3)


@pytest.mark.engine
@pytest.mark.all
def test_a_real_comparison_finds_what_was_needed_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three engines, three ways: a whole replay of four edits on a small project, two scenarios, and sizes. The judge
    finds out a reader that passes over arguments."""
    if os.geteuid() != 0:
        pytest.skip("an engine of its own needs root")
    from benchmarks import actions, scenarios
    from benchmarks.side_by_side import SideBySide, side_by_side
    from doit_images.core.run import Run
    from tasks.standard import declared_both_ways

    files = {
        "compose.yml": json.dumps(
            {
                "name": "bm-replay",
                "services": {
                    "base": {"image": "bm-replay/base:new", "build": {"context": ".", "dockerfile": "base/Dockerfile"}},
                    "app": {
                        "image": "bm-replay/app:new",
                        "build": {
                            "context": ".",
                            "dockerfile": "app/Dockerfile",
                            "additional_contexts": {"base": "service:base"},
                            "args": {"KIND": "one"},
                        },
                    },
                },
            }
        ),
        "docker-compose.yml": json.dumps(
            {
                "name": "bm-replay",
                "services": {
                    "app": {
                        "image": "bm-replay/app:old",
                        "build": {"context": ".", "dockerfile": "app/standard.Dockerfile"},
                    }
                },
            }
        ),
        "docker-compose.documented.yml": json.dumps(
            {
                "services": {
                    "app": {"image": "bm-replay/app:taught", "build": {"dockerfile": "app/documented.Dockerfile"}}
                }
            }
        ),
        "app/documented.Dockerfile": "FROM scratch\nCOPY base /\nCOPY app/app.py app/requirements.txt /\n",
        "app/requirements.txt": "two\n",
        "base/Dockerfile": "FROM scratch\nCOPY base/requirements.txt /\n",
        "base/requirements.txt": "one\n",
        "app/Dockerfile": "FROM base\nARG KIND=none\nCOPY app/app.py app/requirements.txt /$KIND/\n",
        "app/app.py": "x = 1\n",
        "app/standard.Dockerfile": "FROM scratch\nCOPY app base /\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    def append(path: str) -> replay.Apply:
        def apply(folder: Path, salt: str) -> None:
            with (folder / path).open("a") as file:
                file.write(f"# {salt}\n")

        return apply

    edits = [
        ("documentation", append("README.md")),
        ("code", append("app/app.py")),
        ("requirements", append("base/requirements.txt")),
        ("touch", lambda folder, salt: os.utime(folder / "app/app.py")),
    ]

    def argument(folder: Path, salt: str) -> None:
        file = folder / "compose.yml"
        file.write_text(file.read_text().replace('"one"', '"two"'))

    def blind(both: SideBySide, *words: str) -> measure.Ran:
        argv = [sys.executable, str(blind_reader.PROGRAM), "--file", str(ROOT / "dodo.py"), *words]
        return measure.run(argv, cwd=ROOT, env={**both.optimized_environ, "COMPOSE_FILE": str(both.optimized_file)})

    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    before = (tmp_path / "app/app.py").read_text()
    run = Run((tmp_path / "compose.yml",), environ)
    with side_by_side(run) as both:
        found = replay.replay(both, edits)
        monkeypatch.setattr(SideBySide, "doit", blind)
        append("compose.yml")(both.folder, "read anew")
        passed_over = replay.replay(both, [("another argument", argument)])
        monkeypatch.undo()
        inputs = {name: decision.inputs.paths() for name, decision in run.planner.decisions().items()}
        cases = scenarios.run(both, inputs, ["app"], [], 1, scenarios=["nothing", "code"])
        sizes, disk = actions.sizes(both, run, declared_both_ways(run), ["app"])
    assert [(one.scenario, set(one.timings)) for one in cases] == [
        ("nothing", {"standard", "documented", "optimized"}),
        ("code", {"standard", "documented", "optimized", "plain"}),
    ]
    assert set(sizes["app"]) == set(disk) == {"standard", "documented", "optimized"}
    assert 0 < sizes["app"]["documented"] < sizes["app"]["standard"]
    assert [one.optimized.built for one in found.applied] == [(), ("app",), ("app", "base"), ()]
    assert [one.needed for one in found.applied] == [(), ("app",), ("app", "base"), ()], "the judge begins warm"
    assert [one.standard.built for one in found.applied] == [(), ("app",), ("app",), ()]
    assert [(one.optimized.reused, one.optimized.steps) for one in found.applied] == [(2, 2), (1, 2), (0, 2), (2, 2)]
    assert (found.missed, found.needed, found.images("optimized")) == ([], 3, 3)
    assert found.hit_rate("optimized") == 5 / 8
    assert passed_over.missed == ["app, another argument"]
    assert (tmp_path / "app/app.py").read_text() == before  # nothing of the user's is touched
