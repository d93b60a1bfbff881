"""Everything that is kept lies where no other project of the same folder writes."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from doit_images.core.base.places import build_folder, project_folder, project_key, state_folder
from tests.conftest import Lab, docker


def test_a_project_has_the_name_of_its_file_and_else_a_digest_more() -> None:
    one = Path("/a/compose.yml")
    assert project_key([one], {}) == "compose.yml"
    assert project_key([Path("/a/docker-compose.optimized.yaml")], {"COMPOSE_PROJECT_NAME": ""}) == (
        "docker-compose.optimized.yaml"
    )
    others = [
        project_key([one], {"COMPOSE_PROJECT_NAME": "a"}),
        project_key([one], {"COMPOSE_PROJECT_NAME": "b"}),
        project_key([one, Path("/a/more.yml")], {}),
        project_key([one, Path("/b/more.yml")], {}),
        project_key([one, Path("/a/more.yml")], {"COMPOSE_PROJECT_NAME": "a"}),
        project_key([Path("/a/base")], {}),
    ]
    assert len({*others}) == len(others)
    assert all(name.startswith(("compose.yml-", "base-")) for name in others), (
        "no name of anything else in `.doit-images`"
    )


def test_the_key_is_the_same_wherever_the_checkout_is() -> None:
    assert project_key([Path("/a/x.yml"), Path("/a/b/y.yml")], {}) == project_key(
        [Path("/c/d/x.yml"), Path("/c/d/b/y.yml")], {}
    )


def test_folders_are_made_once_and_ignore_themselves(tmp_path: Path) -> None:
    files = [tmp_path / "compose.yml"]
    folder = project_folder(files, {})
    assert folder == tmp_path / ".doit-images/compose.yml"
    assert folder.is_dir()
    assert (build_folder(files) / ".gitignore").read_text() == "*\n"
    assert project_folder(files, {}) == folder


def test_a_file_in_the_place_of_a_projects_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".doit-images").mkdir()
    (tmp_path / ".doit-images/compose.yml").write_text("")
    assert project_folder([tmp_path / "compose.yml"], {}) == tmp_path / ".doit-images/compose.yml"
    said = f"{tmp_path}/.doit-images: what runs remember cannot be written: File exists"
    assert capsys.readouterr().err.splitlines() == [said]


@pytest.mark.parametrize("there", ["neither", "former", "both", "mounted"])
def test_what_an_older_version_kept_for_all_checkouts_is_taken_over_once(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder, former = tmp_path / "doit-images", tmp_path / "vllm-local-swarm"
    for path in {"neither": [], "both": [folder, former]}.get(there, [former]):
        path.mkdir()
        (path / "kept").write_text(path.name)
    if there == "mounted":

        def refused(path: Path, target: Path) -> None:
            raise OSError(errno.EBUSY, "busy")

        monkeypatch.setattr(Path, "rename", refused)
    assert state_folder() == (former if there == "mounted" else folder)
    assert state_folder() == (former if there == "mounted" else folder)
    kept = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.glob("*/kept")}
    assert (
        kept
        == {
            "neither": {},
            "former": {"doit-images/kept": "vllm-local-swarm"},
            "both": {"doit-images/kept": "doit-images", "vllm-local-swarm/kept": "vllm-local-swarm"},
            "mounted": {"vllm-local-swarm/kept": "vllm-local-swarm"},
        }[there]
    )


COMPOSE = """
    name: PREFIX
    services:
      app: {image: "PREFIX/app:KIND", build: {context: ., dockerfile: KIND.Dockerfile}}
      KIND: {image: "PREFIX/KIND", build: {context: ., dockerfile: KIND.Dockerfile, target: last}}
    """
KINDS = ("standard", "optimized")


class Pair:
    """Two Compose files of one folder that call different images by one name."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        for kind in KINDS:
            text = f"FROM scratch\nCOPY {kind}.txt /\nFROM scratch AS last\nCOPY --from=0 /{kind}.txt /{kind}\n"
            lab.write(
                {
                    f"{kind}.yml": COMPOSE.replace("KIND", kind),
                    f"{kind}.Dockerfile": text,
                    f"{kind}.txt": f"{kind} of PREFIX",
                }
            )

    def doit(self, kind: str, *args: str) -> str:
        done = self.lab.doit(*args, COMPOSE_FILE=str(self.lab.folder / f"{kind}.yml"))
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def of(self, kind: str) -> Path:
        return self.lab.folder / ".doit-images" / f"{kind}.yml"


@pytest.mark.engine
def test_two_projects_of_one_folder_share_nothing_that_is_theirs(lab: Lab) -> None:
    pair = Pair(lab)
    for kind in KINDS:
        assert f"built {kind} " in pair.doit(kind, "build_optimized")
    for kind, other in (KINDS, KINDS[::-1]):
        assert json.loads((pair.of(kind) / "images/app.json").read_text())["ref"] == f"{lab.prefix}/app:{kind}"
        assert f"COPY {kind}.txt" in (pair.of(kind) / "logs/app.log").read_text()
        history = json.loads(pair.doit(kind, "history", "--json"))
        assert {one["ref"] for one in history} == {f"{lab.prefix}/app:{kind}", f"{lab.prefix}/{kind}"}
        assert all(kind in step["name"] for one in history for step in one["steps"] if "COPY" in step["name"])
        pair.doit(kind, "build_report")
        report = (pair.of(kind) / "report/report.md").read_text()
        assert f"| {kind} |" in report
        assert f"| {other} |" not in report
    common = {".gitignore", "contexts.sqlite3", "facts.json", "contexts", "sending"}
    assert {path.name for path in (lab.folder / ".doit-images").iterdir()} <= {*common, "standard.yml", "optimized.yml"}


@pytest.mark.engine
def test_two_projects_of_one_folder_do_not_make_each_other_run(lab: Lab) -> None:
    pair = Pair(lab)
    for kind in KINDS:
        pair.doit(kind, "build_optimized")
        pair.doit(kind)
    records = [pair.of(kind) / f"images/{name}.json" for kind in KINDS for name in ("app", kind)]
    kept = [pair.of(kind) / "reads.json" for kind in KINDS]
    before = [path.stat().st_mtime_ns for path in (*records, *kept)]
    for kind in (*KINDS, *KINDS):
        assert "2 images fresh" in pair.doit(kind)
        assert "fresh" in pair.doit(kind, "plan")
    # An action that finds its image fresh writes its record anew.
    assert [path.stat().st_mtime_ns for path in (*records, *kept)] == before


@pytest.mark.engine
def test_one_file_under_two_project_names_is_two_projects(lab: Lab) -> None:
    lab.write({"compose.yml": "services: {app: {build: .}}\n", "Dockerfile": "FROM scratch\nCOPY f /\n", "f": "PREFIX"})
    names = [f"{lab.prefix}-{number}" for number in (1, 2)]
    lab.nameless |= {f"{name}-app" for name in names}
    try:
        for name in names:
            assert lab.doit(COMPOSE_PROJECT_NAME=name).returncode == 0
            history = json.loads(lab.doit("history", "--json", COMPOSE_PROJECT_NAME=name).stdout)
            assert [one["ref"] for one in history] == [f"{name}-app"]
    finally:
        lab.nameless |= {ref for name in names for ref in _refs(name)}
    assert len(list((lab.folder / ".doit-images").glob("compose.yml-*"))) == 2


def _refs(name: str) -> set[str]:
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={name}-app")
    return set(listed.stdout.split())


def test_what_runs_keep_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.touch()
    before = os.umask(0)
    try:
        project_folder((file,), {})
    finally:
        os.umask(before)
    assert {
        path.stat().st_mode & 0o777 for path in (tmp_path / ".doit-images", tmp_path / ".doit-images" / "compose.yml")
    } == {0o700}


def test_what_an_older_version_kept_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former, ours = tmp_path / ".build", ("backups/x/sums", "x.migration.json", "c.yml/project.json")
    for name in (*ours, "contexts.sqlite3", "venv/bin/python", "pycache/x"):
        (former / name).parent.mkdir(parents=True, exist_ok=True)
        (former / name).write_text(name)
    (former / ".gitignore").write_text("*\n")
    folder = build_folder([tmp_path / "compose.yml"])
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*ours, ".gitignore"}
    assert not former.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ignored", ["*\n", "", None])
def test_what_is_not_ours_in_a_folder_of_the_former_name_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ignored: str | None
) -> None:
    former = tmp_path / ".build"
    for name in ("contexts.sqlite3", "release/App"):
        (former / name).parent.mkdir(parents=True, exist_ok=True)
        (former / name).write_text(name)
    if ignored is not None:
        (former / ".gitignore").write_text(ignored)
    folder = build_folder([tmp_path / "compose.yml"])
    assert (former / "release/App").read_text() == "release/App"
    assert (former / "contexts.sqlite3").exists() is (ignored != "*\n")
    said = "what these tasks kept here is in .doit-images now, the rest (release) is not theirs"
    assert capsys.readouterr().err == (f"{former}: {said}\n" if ignored == "*\n" else "")
    (former / "release/App").unlink()
    assert build_folder([tmp_path / "compose.yml"]) == folder


OTHERS = {
    "compose.yml": """
        services:
          whole: {image: PREFIX/whole, build: .}
          part: {image: PREFIX/part, build: {context: ., dockerfile: part.Dockerfile}}
          inner: {image: PREFIX/inner, build: ./.build}
        """,
    "Dockerfile": "FROM scratch\nCOPY . /app\n",
    "part.Dockerfile": "FROM scratch\nCOPY .build/lib /lib\n",
    ".build/Dockerfile": "FROM scratch\nCOPY release/App /\n",
    ".build/lib/a.so": "a",
    ".build/release/App": "App",
}


@pytest.mark.engine
def test_a_folder_of_another_tool_is_built_as_compose_builds_it(lab: Lab) -> None:
    """SwiftPM's is called `.build`, for one."""
    lab.write(OTHERS)
    names = ("whole", "part", "inner")
    compose = ["docker", "compose", "--file", str(lab.folder / "compose.yml"), "build"]
    subprocess.run(compose, env=lab.env(), check=True, capture_output=True)
    wanted = {name: files_of(lab.ref(name)) for name in names}
    done = lab.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    assert {name: files_of(lab.ref(name)) for name in names} == wanted
    assert lab.actions() == dict.fromkeys(names, "fresh")
    lab.write({".build/release/App": "another App"})
    assert lab.actions() == {"whole": "build", "part": "fresh", "inner": "build"}


def files_of(ref: str) -> dict[str, bytes]:
    """What each file of an image holds."""
    container = docker("create", ref, "none").stdout.strip()
    exported = subprocess.run(["docker", "export", container], capture_output=True, check=True).stdout
    docker("rm", "--volumes", container)
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        return {each.name: file.read() for each in tar if each.isreg() and (file := tar.extractfile(each))}
