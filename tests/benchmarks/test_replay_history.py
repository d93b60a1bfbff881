"""A public history is judged with its own Dockerfiles, by the real plan; what stands in for bases runs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers, replay_history
from benchmarks.replay_history import Built, Tally, touched
from benchmarks.stand_ins import StandIns, plain, program, rewrite
from benchmarks.temporary_engine import temporary_engine
from tests import blind_reader

DIGEST = "@sha256:" + "0123456789ab" + 52 * "f"
# What Engine 26 says, a line of each kind.
SAID = """\
ERROR: target app: failed to solve: golang:1.22: failed to resolve source metadata for docker.io/library/golang:1.22: no
ERROR: failed to compute cache key: failed to calculate checksum of ref 1::2: "/out/bin/*.jar": not found
ERROR: failed to walk /tmp/buildkit-mount13/srv: lstat /tmp/buildkit-mount13/srv: no such file or directory
#9 0.05 runc run failed: unable to start container process: exec: "npm": executable file not found in $PATH: unknown
#9 0.05 runc run failed: unable to start container process: exec: "/bin/zsh": stat /bin/zsh: no such file or directory
#9 ERROR: unable to find user node: no matching entries in passwd file
ERROR: unable to convert uid/gid chown string to host mapping: can't find gid for group staff: no such group
"""


def test_a_dockerfile_keeps_all_but_what_only_a_registry_has() -> None:
    head = "# syntax=docker/dockerfile:1\n# check=skip=all\n"
    text = f"{head}FROM a:1{DIGEST} AS b\nFROM a{DIGEST}\nRUN echo '# syntax=x'\n"
    assert plain(text) == (
        "# check=skip=all\nFROM a:1-0123456789ab AS b\nFROM a:sha256-0123456789ab\nRUN echo '# syntax=x'\n"
    )
    assert plain("FROM a:1\nRUN x\n") == "FROM a:1\nRUN x\n"


def test_only_what_has_to_be_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("FROM a\n")
    (tmp_path / "b").write_text(f"FROM a:1{DIGEST}\n")
    before = (tmp_path / "a").stat().st_mtime_ns
    rewrite([tmp_path / "a", tmp_path / "b", tmp_path / "missing"])
    assert (tmp_path / "a").stat().st_mtime_ns == before
    assert (tmp_path / "b").read_text() == "FROM a:1-0123456789ab\n"


def test_what_is_missing_is_learned_from_what_buildkit_says() -> None:
    stand_ins = StandIns({})
    assert stand_ins.learn(SAID)
    assert stand_ins.bases == {"golang:1.22"}
    assert stand_ins.files == {"/out/bin/x.jar", "/srv"}
    assert {"/usr/bin/npm", "/bin/zsh", "/bin/sh"} <= stand_ins.programs
    assert (stand_ins.users, stand_ins.groups) == ({"node"}, {"staff"})
    assert not stand_ins.learn(SAID), "nothing new"


def test_the_program_that_stands_in_for_all_ends_well_and_leaves_something_new(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the program is one for x86-64")
    path, made = tmp_path / "sh", [tmp_path / "a", tmp_path / "b"]
    path.write_bytes(program([str(made[0]), str(tmp_path / "no/such"), str(made[1])]))
    path.chmod(0o755)
    written = set()
    for _ in range(2):
        assert subprocess.run([path, "-c", "exit 3"], check=False).returncode == 0
        written |= {one.read_bytes() for one in made}
    assert len(written) == 2
    assert all(len(one) == 16 for one in written)


def test_path_filters_take_what_builds_on_what_changed() -> None:
    targets = {
        "base": {"context": "/p/base", "dockerfile": "/p/base/Dockerfile"},
        "app": {"context": "/p/app", "dockerfile": "/p/app/Dockerfile", "contexts": {"base": "target:base"}},
        "other": {"context": "/p/other", "dockerfile": "/p/docker/other"},
    }
    built = Built(targets, {})
    assert touched(built, [Path("/p/base/x")]) == {"base", "app"}
    assert touched(built, [Path("/p/docker/other")]) == {"other"}
    assert touched(built, [Path("/p/README.md")]) == set()


def test_the_table_says_which_run_each_history_is_of() -> None:
    kept = {"a/b": {"commits": 3, "ours": 2, "needed": 1, "missed": 0, "unjudged": 1, "run": "2026-11-26 01:10, abc"}}
    assert "| a/b | 3 |  |  |  |  | 1 | 2 | 0 |  |  |  |  | 1 | 2026-11-26 01:10, abc |" in replay_history.markdown(
        kept
    )


def compose(kind: str) -> str:
    """The Compose file, whose image takes an argument."""
    app = {"image": "bm-history/app", "build": {"context": "app", "args": {"KIND": kind}}}
    return json.dumps({"name": "bm-history", "services": {"app": app}})


HISTORY = [
    {
        "compose.yml": compose("1"),
        "app/Dockerfile": f"# syntax=docker/dockerfile:1\nFROM golang:1{DIGEST} AS made\nCOPY go.mod main.go ./\n"
        'ARG KIND\nRUN go build -o /out/app\nFROM alpine:3\nRUN ["apk", "add", "curl"]\nRUN <<END\nexit 3\nEND\n'
        "COPY --from=made --chown=node /out/app /app\nUSER node\n",
        "app/go.mod": "module app\n",
        "app/main.go": "package main\n",
    },
    {"app/main.go": "package main // edited\n"},
    {"README.md": "text\n", "app/notes.txt": "which no Dockerfile reads\n"},
    {"app/main.go": "package main\n"},
    {"compose.yml": compose("2")},
]


def committed(folder: Path) -> Path:
    """A repository with that history."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for number, files in enumerate(HISTORY):
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        subprocess.run(["git", "-C", folder, "add", "--all"], check=True)
        subprocess.run(["git", "-C", folder, *who, "commit", "--quiet", "--message", f"state {number}"], check=True)
    return folder


@pytest.mark.engine
def test_a_history_is_judged_without_its_bases_and_without_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first state, an edit, what no Dockerfile reads, the edit taken back, another argument: two images were
    needed, and two built. The repository may be a bare one. A reader that passes over arguments is found out."""
    if os.geteuid() != 0:
        pytest.skip("an engine of its own needs root")
    if platform.machine() != "x86_64":
        pytest.skip("what stands in for programs is one for x86-64")
    tally, bare = Tally(), tmp_path / "bare"
    subprocess.run(["git", "clone", "--quiet", "--bare", committed(tmp_path / "work"), bare], check=True)
    with temporary_engine("bm-replay-", in_memory=True) as engine:
        environ = {name: value for name, value in engine.environ.items() if not name.startswith("COMPOSE_")}
        replay_history.replayed(bare, "compose.yml", 4, environ, tally)
        assert (tally.commits, tally.passed_over, tally.unjudged, tally.images) == (4, 0, 0, {"app"})
        assert (tally.needed, tally.ours, tally.missed, tally.needless) == (2, 2, [], [])
        assert (tally.every, tally.by_folder, tally.missed_by_folder) == (4, 3, 1)
        assert (tally.changed, tally.at, tally.missed_at, tally.needless_at) == (3, 3, [], [])
        blind, lying = Tally(), tmp_path / "doit"
        lying.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{blind_reader.PROGRAM}" "$@"\n')
        lying.chmod(0o755)
        monkeypatch.setattr(peers, "DOIT", lying)
        replay_history.replayed(bare, "compose.yml", 1, environ, blind)
    assert (blind.needed, blind.ours) == (1, 0)
    assert [one.partition(" ")[2] for one in blind.missed] == ["app"]


def test_a_missed_rebuild_fails_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def replayed(*given: object) -> None:
        assert isinstance(given[-1], Tally)
        given[-1].missed = ["abc app"]

    kept: list[Tally] = []
    monkeypatch.setattr(replay_history, "measuring_engine", lambda: contextlib.nullcontext({}))
    monkeypatch.setattr(replay_history, "replayed", replayed)
    monkeypatch.setattr(replay_history, "keep", lambda name, tally: kept.append(tally))
    monkeypatch.setattr(sys, "argv", ["replay_history.py", "/nowhere"])
    with pytest.raises(SystemExit, match="missed: 1 by us, 0 by plan --at"):
        replay_history.main()
    assert kept, "what was counted is kept all the same"
