"""Other projects take the tasks in: only what is needed, nothing of theirs overwritten, and every task works there."""

from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.adopting import adopt, copies
from tasks.adopting.copies import Copy
from tasks.base.errors import UserError
from tasks.run import Run
from tests.conftest import ROOT
from tests.test_resolver import World
from tests.test_stack import Followed, Stack
from tests.waiting import patience

# What is of this repository alone.
OURS = {"adopt", "base_image", "bases_check", "rebuild_base", "benchmark_builds", "compare_performance", "figures",
        "lint", "lock", "test", "test_faults", "test_mutants", "test_unit", "ci_test",
        "migrate_to_optimized"}  # fmt: skip
ONE = Copy("1.0.0", {"dodo.py": b"one\n", "doitw": b"#!/bin/sh\n", "tasks/a.py": b"a\n", "tasks/old/b.py": b"b\n"})
TWO = Copy("1.1.0", {"dodo.py": b"two\n", "doitw": b"#!/bin/sh\n", "tasks/a.py": b"A\n", "tasks/new.py": b"n\n"})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def adopted(project: Path, copy: Copy = ONE) -> Path:
    copies.apply(copy, copies.first(copy, project), project)
    return project


def unknown(name: str, digest: str) -> None:
    """No history tells what was put in."""


def updated(project: Path, copy: Copy = TWO) -> dict[str, str]:
    """What was done with each file."""
    changes = copies.update(copy, project, unknown)
    copies.apply(copy, changes, project)
    return {change.written: str(change.action) for change in changes}


@pytest.fixture(scope="module")
def whole() -> Copy:
    return copies.copy_of(ROOT)


# ---- what a copy is


def test_a_copy_has_all_that_it_imports_and_lists_only_what_works_there(whole: Copy, tmp_path: Path) -> None:
    adopted(tmp_path, whole)
    (tmp_path / "compose.yml").write_text("name: tst-adopt\nservices: {}\n")
    names = [name[:-3].replace("/", ".").removesuffix(".__init__") for name in whole.files if name.endswith(".py")]
    run = [sys.executable, "-c", f"from importlib import import_module as i; [i(name) for name in {names!r}]"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = doit_list(tmp_path)
    assert {"build_optimized", "plan", "up_optimized", "cache_prune", "doctor"} <= listed
    assert not listed & OURS
    assert {"dodo.py", "doitw", "tasks/requirements.txt", "tasks/ui/templates/report.html"} <= whole.files.keys()
    assert not [name for name in whole.files if name.startswith(("tasks/adopting", "tasks/benchmarks"))]


def doit_list(project: Path, env: Mapping[str, str] | None = None) -> set[str]:
    done = subprocess.run([sys.executable, "-m", "doit", "list"], cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_a_module_is_needed_wherever_it_is_imported(tmp_path: Path) -> None:
    for name, text in {
        "__init__.py": "",
        "a.py": "def f():\n    import tasks.b.c\n",
        "b/__init__.py": "",
        "b/c.py": "NAME = 'tasks.d:run'",
        "b/other.py": "",
        "d.py": "",
    }.items():
        path = tmp_path / "tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = copies.needed(tmp_path, "from tasks.a import f")
    names = {str(path.relative_to(tmp_path / "tasks")) for path in found}
    assert names == {"__init__.py", "a.py", "b/__init__.py", "b/c.py", "d.py"}


# ---- put in


def test_only_what_belongs_to_it_is_put_in(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("/.doit-images\nnode_modules")
    (tmp_path / "requirements.txt").write_text("django\n")
    before = tree(tmp_path)
    adopted(tmp_path)
    after = tree(tmp_path)
    assert after.keys() == {*before, *ONE.files, copies.RECORD}
    assert after[".gitignore"] == b"/.doit-images\nnode_modules\n__pycache__/\n"
    assert after["requirements.txt"] == b"django\n"
    assert (tmp_path / "doitw").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "dodo.py").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["dodo.py", "doitw", "tasks/celery.py", "tasks", "tasks.py", "redis/__init__.py"])
def test_what_is_there_is_never_overwritten_and_then_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine\n")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"{name} is there, and not from here; nothing was written"):
        copies.first(ONE, tmp_path)
    assert tree(tmp_path) == before


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tasks").symlink_to("elsewhere")
    with pytest.raises(UserError, match="tasks is there"):
        copies.first(ONE, tmp_path)


def test_one_that_was_killed_is_done_again(tmp_path: Path) -> None:
    adopted(tmp_path)
    (tmp_path / copies.RECORD).unlink()
    (tmp_path / "tasks/a.py").unlink()
    assert tree(adopted(tmp_path)).keys() == {*ONE.files, copies.RECORD, ".gitignore"}


def test_twice_is_an_update(tmp_path: Path) -> None:
    adopted(tmp_path)
    with pytest.raises(UserError, match=r"has these tasks, of version 1\.0\.0 \(adopt --update\)"):
        copies.first(TWO, tmp_path)


@pytest.mark.parametrize("update", [False, True])
def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool) -> None:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    if update:
        adopted(tmp_path)
        (tmp_path / "dodo.py").write_text("mine\n")
    before = tree(tmp_path)
    write = copies._write

    def full(path: Path, content: bytes | None, project: Path) -> None:
        if path.name == "adopted.json" and content is not None and b"1.1.0" in content:
            raise OSError(28, "No space left on device")
        write(path, content, project)

    monkeypatch.setattr(copies, "_write", full)
    changes = copies.update(TWO, tmp_path, unknown) if update else copies.first(TWO, tmp_path)
    with pytest.raises(UserError, match=r"adopted\.json: cannot be written: No space left .*nothing was changed"):
        copies.apply(TWO, changes, tmp_path)
    assert tree(tmp_path) == before
    assert (tmp_path / "tasks").exists() == update


# ---- brought to another version


def test_what_nobody_changed_becomes_the_new_version(tmp_path: Path) -> None:
    adopted(tmp_path)
    (tmp_path / "tasks/old/__pycache__").mkdir()
    (tmp_path / "tasks/old/__pycache__/b.pyc").touch()
    done = updated(tmp_path)
    assert done == {"dodo.py": "replace", "tasks/a.py": "replace", "tasks/new.py": "add", "tasks/old/b.py": "remove"}
    assert tree(tmp_path).items() >= TWO.files.items()
    assert not (tmp_path / "tasks/old").exists()
    assert updated(tmp_path) == {}


def test_what_a_person_changed_is_kept_and_named_with_what_differs(tmp_path: Path) -> None:
    adopted(tmp_path)
    for name in ("dodo.py", "doitw", "tasks/old/b.py"):
        (tmp_path / name).write_text("mine\n")
    (tmp_path / "tasks/a.py").unlink()
    changes = {change.name: change for change in copies.update(TWO, tmp_path, unknown)}
    said = {
        name: list(adopt.changed(change, tmp_path)) for name, change in changes.items() if (tmp_path / name).exists()
    }
    assert said["dodo.py"] == [
        "you changed dodo.py, which is kept: the new one is put beside it, as NAME.new, to be merged by hand",
        "  @@ -1 +1 @@",
        "  -two",
        "  +mine",
    ]
    assert said["doitw"][0] == "you changed doitw, which is kept: nothing is new in it"
    assert said["tasks/old/b.py"] == ["you changed tasks/old/b.py, which is kept: it is no longer part of these tasks"]
    done = updated(tmp_path)
    assert done == {"dodo.py.new": "keep, new one beside", "doitw": "keep", "tasks/a.py": "add", "tasks/new.py": "add",
                    "tasks/old/b.py": "keep"}  # fmt: skip
    after = tree(tmp_path)
    assert (after["dodo.py"], after["dodo.py.new"]) == (b"mine\n", b"two\n")
    assert after["doitw"] == after["tasks/old/b.py"] == b"mine\n"
    assert updated(tmp_path) == {"dodo.py": "keep", "doitw": "keep"}, "the new one is known now"


def test_what_a_person_and_a_version_changed_in_different_lines_is_merged(tmp_path: Path) -> None:
    project, text = tmp_path / "project", "".join(f"{number}\n" for number in range(20))
    project.mkdir()
    one, two = Copy("1.0.0", {"dodo.py": text.encode()}), Copy("1.1.0", {"dodo.py": f"{text}new\n".encode()})
    adopted(project, one)
    (project / "dodo.py").write_text(f"mine\n{text}")
    [change] = copies.update(two, project, lambda name, digest: one.files[name])
    assert list(adopt.changed(change, project)) == [
        "you changed dodo.py, which is merged with what is new in it", "  @@ -0,0 +1 @@", "  +mine",
    ]  # fmt: skip
    copies.apply(two, [change], project)
    assert (project / "dodo.py").read_text() == f"mine\n{text}new\n"
    assert copies.update(two, project, unknown)[0].action == "keep", "what is mine is still known"


def test_what_was_put_in_is_found_in_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{copies.NOT_COPIED}: x\nimport x\n\n"
    texts = [f"one\n\n{own}end\n", f"two\n\n{own}end\n", f"two\n\n{own}three\n"]
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for text in texts:
        (tmp_path / "dodo.py").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "x"], check=True)
    put_in = b"one\n\nend\n"
    assert copies.was_put_in(tmp_path, "dodo.py", hashlib.sha256(put_in).hexdigest()) == put_in
    assert copies.was_put_in(tmp_path, "dodo.py", "0" * 64) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert copies.was_put_in(tmp_path, "dodo.py", hashlib.sha256(put_in).hexdigest()) is None, "there is no git"


def test_the_new_one_beside_is_replaced_by_a_newer_one_unless_somebody_wrote_into_it(tmp_path: Path) -> None:
    adopted(tmp_path)
    (tmp_path / "dodo.py").write_text("mine\n")
    updated(tmp_path)
    three = Copy("1.2.0", {**TWO.files, "dodo.py": b"three\n"})
    updated(tmp_path, three)
    assert (tmp_path / "dodo.py.new").read_bytes() == b"three\n"
    (tmp_path / "dodo.py.new").write_text("half merged\n")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"dodo\.py\.new: is not from here"):
        copies.update(Copy("1.3.0", {**three.files, "dodo.py": b"four\n"}), tmp_path, unknown)
    assert tree(tmp_path) == before


def test_a_file_of_the_persons_where_a_new_one_comes_is_kept(tmp_path: Path) -> None:
    adopted(tmp_path)
    (tmp_path / "tasks/new.py").write_text("mine\n")
    assert updated(tmp_path)["tasks/new.py.new"] == "keep, new one beside"
    assert (tmp_path / "tasks/new.py").read_text() == "mine\n"


def test_a_copy_by_hand_is_not_updated_nor_one_with_a_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    with pytest.raises(UserError, match="nothing is known of a copy there"):
        copies.update(TWO, tmp_path, unknown)
    for text in ("[]", '{"version": "new", "files": {}}', '{"version": "1.0.0", "files": {"../x": ""}}'):
        (tmp_path / copies.RECORD).write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            copies.update(TWO, tmp_path, unknown)


# ---- the command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, to adopt ``TWO`` in; its plan is not made."""
    monkeypatch.setattr(copies, "copy_of", lambda _: TWO)
    monkeypatch.setattr(adopt, "_PLAN", ["true"])
    monkeypatch.delenv("COMPOSE_FILE", raising=False)
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    return tmp_path


def act(*folders: str, update: bool = False, dry_run: bool = False, yes: bool = False) -> None:
    adopt.adopt(Run(), folders, update, dry_run, yes)


def test_it_says_what_it_did_and_what_to_do_next(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act(str(command), dry_run=True)
    assert capsys.readouterr().out.splitlines() == [
        "add dodo.py", "add doitw", "add tasks/a.py", "add tasks/new.py", "add .gitignore",
    ]  # fmt: skip
    assert tree(command).keys() == {"compose.yaml"}
    act(str(command))
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{command} has version 1.1.0: 5 added\nnext, in {command}:\n  git add dodo.py" in said.err


def test_what_goes_is_asked_for(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adopted(command)
    with pytest.raises(UserError, match="pass --yes"):
        act(str(command), update=True)
    assert "this removes tasks/old/b.py, which you did not change" in capsys.readouterr().err
    assert tree(command).items() >= ONE.files.items()
    act(str(command), update=True, yes=True)
    assert tree(command).items() >= TWO.files.items()


def test_a_copy_becomes_older_only_on_request(command: Path) -> None:
    adopted(command, Copy("1.10.0", TWO.files))
    with pytest.raises(UserError, match="pass --yes"):
        act(str(command), update=True)
    act(str(command), update=True, yes=True)
    assert copies.read_record(command)["version"] == "1.1.0"


def test_where_it_cannot_be_is_a_sentence(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folders, words in {
        (): "takes the folder of one project",
        (str(command), "x"): "takes the folder of one project",
        (str(command / "none"),): "there is no such folder",
        (str(ROOT),): "this is where the tasks come from",
    }.items():
        with pytest.raises(UserError, match=words):
            act(*folders)
    (command / "compose.yaml").unlink()
    with pytest.raises(UserError, match="there is no Compose file"):
        act(str(command))
    assert tree(command) == {}


def test_the_compose_files_of_another_project_do_not_count(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_FILE", str(ROOT / "docker-compose.optimized.yml"))
    monkeypatch.setenv("DOITW_FROM", str(command.parent))
    monkeypatch.setattr(adopt, "_PLAN", ["sh", "-c", 'test -z "$COMPOSE_FILE"'])
    act(command.name)
    monkeypatch.setattr(adopt, "_PLAN", ["false"])
    with pytest.raises(UserError, match="the files are in place, but `plan` fails there"):
        act(command.name, update=True)


def test_a_variable_of_the_project_that_is_a_setting_too_is_named(command: Path) -> None:
    (command / ".env").write_text("REDIS_URL=redis://redis\nDEBUG=1\n")
    [hint] = adopt.hints(command)
    assert hint.startswith("REDIS_URL of .env are settings of these tasks too")


class Terminal(io.StringIO):
    """Somebody who has typed this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "yes", "there", "made"),
    [
        (Terminal("yes\n"), False, False, True),
        (Terminal("no\n"), False, False, False),
        (Terminal("yes\n"), True, False, False),  # that is about other things
        (Terminal("yes\n"), False, True, False),
        (io.StringIO("yes\n"), False, False, False),
    ],
)
def test_an_ignore_file_is_made_only_where_there_is_none_and_somebody_agrees(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: io.StringIO,
    yes: bool,
    there: bool,
    made: bool,
) -> None:
    world, ignore = World(tmp_path), tmp_path / ".dockerignore"
    world.image("web", "FROM scratch\nCOPY . /\n", context=str(tmp_path))
    world.write(
        {"dodo.py": "", "tasks/a.py": "", ".env": "PASSWORD=HUSH\n", **({".dockerignore": "x\n"} if there else {})}
    )
    monkeypatch.setattr(adopt, "Run", lambda *_: SimpleNamespace(declared=world.resolve))
    monkeypatch.setattr(sys, "stdin", typed)
    adopt.leave_out(tmp_path, {}, yes)
    said = capsys.readouterr().err
    assert said.startswith("web copies dodo.py, tasks, .env into its image\nto leave")
    assert "  dodo.py\n  tasks\n  .env\n  .doit-images\n  trusted-builders.toml\n" in said
    assert str(ignore) in said
    expected = "dodo.py\ntasks\n.env\n.doit-images\ntrusted-builders.toml\n" if made else "x\n" if there else None
    assert (ignore.read_text() if ignore.exists() else None) == expected
    if made:
        adopt.leave_out(tmp_path, {}, yes)
        assert capsys.readouterr().err == ""


# ---- a wheel


def test_a_wheel_has_all_modules_and_the_files_beside_them(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        if name.startswith("tasks/") or name in ("pyproject.toml", "requirements.in", "LICENSE"):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    argv = [sys.executable, "-m", "pip", "wheel", *options, "./source"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    version = copies.copy_of(ROOT).version
    assert wheel.name.startswith(f"vllm_local_swarm_builds-{version}-")
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text()
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("tasks/")} == {
            name for name in listed if name.startswith("tasks/")
        }


# ---- in three projects as many people have them

SMALL = "x-small: &small {init: true, stop_grace_period: 1s, tmpfs: [/tmp]}\n"
RUN = "CMD echo PREFIX; touch /tmp/well; exec sleep 1000\n"
HEALTH = "HEALTHCHECK --interval=1s --start-interval=100ms --start-period=10s --retries=2 CMD test -e /tmp/well\n"
PROJECTS = {
    # a web application, its database and its worker; one Dockerfile at the top, which copies all
    "web": {
        "docker-compose.yml": f"""{SMALL}
name: PREFIX
services:
  db: {{<<: *small, image: "tst-busybox:1", command: [sleep, "1000"], environment: {{PASSWORD: "$DB_PASSWORD"}}}}
  web: {{<<: *small, image: PREFIX/web, build: ., depends_on: [db], ports: ["127.0.0.1:0:80"]}}
  worker: {{<<: *small, image: PREFIX/web, build: ., depends_on: [db]}}
""",
        ".env.example": "DB_PASSWORD=change-me\n",
        "Dockerfile": f"FROM tst-busybox:1\nWORKDIR /app\nCOPY requirements.txt .\nCOPY . .\n{HEALTH}{RUN}",
        "requirements.txt": "django\n",
        "manage.py": "print('PREFIX')\n",
        ".gitignore": "*.sqlite3\n",
    },
    # several services of one repository, on one base of its own and with one folder that they share
    "monorepo": {
        "compose.yaml": f"""{SMALL}
name: PREFIX
services:
  base: {{image: PREFIX/base, build: libs/base, scale: 0}}
  api:
    <<: *small
    image: PREFIX/api
    build: {{context: services/api, additional_contexts: {{base: "service:base", libs: libs}}}}
  jobs:
    <<: *small
    image: PREFIX/jobs
    build: {{context: services/jobs, additional_contexts: {{base: "service:base", libs: libs}}}}
""",
        "libs/base/Dockerfile": f"FROM tst-busybox:1\n{HEALTH}",
        "libs/shared.txt": "PREFIX\n",
        "services/api/Dockerfile": f"FROM base\nCOPY --from=libs shared.txt /\nCOPY main.txt /\n{RUN}",
        "services/api/main.txt": "api\n",
        "services/jobs/Dockerfile": f"FROM base\nCOPY --from=libs shared.txt /\n{RUN}",
    },
    # a Dockerfile for each service, profiles, and several Compose files that .env names
    "files": {
        "deploy/compose.yml": f"""{SMALL}
name: PREFIX
services:
  front:
    <<: *small
    image: PREFIX/front
    build: {{context: .., dockerfile: docker/front.Dockerfile}}
  tools:
    image: PREFIX/tools
    profiles: [debug]
    build: {{context: .., dockerfile: docker/tools.Dockerfile}}
""",
        "deploy/local.yml": 'services: {front: {build: {args: {MODE: local}}, ports: ["127.0.0.1:0:80"]}}\n',
        ".env": "COMPOSE_FILE=deploy/compose.yml:deploy/local.yml\n",
        ".dockerignore": "*\n!src\n",
        "docker/front.Dockerfile": f"FROM tst-busybox:1\nARG MODE\nRUN echo $MODE\nCOPY src /src\n{HEALTH}{RUN}",
        "docker/tools.Dockerfile": "FROM tst-busybox:1\nCOPY src/a.txt /\n",
        "src/a.txt": "PREFIX\n",
    },
}
IMAGES = {"web": {"web", "worker"}, "monorepo": {"base", "api", "jobs"}, "files": {"front"}}
# Tasks that need words, or their turn.
WORDS = {
    "cache_prune": ["--dry-run"],  # the engine is everybody's
    "logs_optimized": ["--tail", "5"],
    "cache_export": ["FOLDER"],
    "cache_import": ["FOLDER"],
    "share_key": ["tester", "FOLDER.key"],
    "down_optimized": ["--volumes", "--yes"],
}
# What such a project must declare first, as it is told.
REFUSED = {
    "backup": "declare x-backup",
    "restore": "doit restore FOLDER",
    "registry_prune": "CACHE_REGISTRY is not set",
    "shell": "which service?",
}
FIRST = ("build_optimized", "up_optimized", "ps_optimized", "logs_optimized", "dev_optimized", "verify", "cache_export")
LAST = ("share_key", "down_optimized")  # a project that copies everything copies the list of builders


class Adopter(Stack):
    """A project that has the tasks in it: they are run there, as its own ``.env`` says."""

    def env(self, **environ: str) -> dict[str, str]:
        known = super().env(**environ)
        return {name: value for name, value in known.items() if not name.startswith("COMPOSE_")}

    def doit(self, *args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return super().doit(*args, cwd=cwd or self.folder, **environ)

    def start(self, *args: str, cwd: Path | None = None, **environ: str) -> subprocess.Popen[str]:
        return super().start(*args, cwd=cwd or self.folder, **environ)

    def follow(self) -> None:
        """Run ``dev_optimized`` until it follows edits, and end it as Ctrl-C does."""
        followed = Followed(self)
        try:
            followed.wait_for("following edits")
        finally:
            followed.process.send_signal(signal.SIGINT)
            followed.process.wait(patience())


@pytest.fixture(params=PROJECTS)
def adopter(request: pytest.FixtureRequest, busybox: str, tmp_path: Path) -> Iterator[Adopter]:
    one = Adopter(tmp_path / request.param)
    one.folder.mkdir()
    one.write(PROJECTS[request.param])
    yield one
    one.close()


def test_every_task_of_doit_list_works_in_a_project_that_adopted_them(adopter: Adopter, tmp_path: Path) -> None:
    images = IMAGES[adopter.folder.name]
    done = adopter.doit("adopt", str(adopter.folder), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert images <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}, "its plan"
    read = "web, worker copy dodo.py, doitw, tasks into their images" in done.stderr
    assert read == (adopter.folder.name == "web"), done.stderr
    listed = doit_list(adopter.folder, adopter.env())
    assert {f"build_{name}_optimized" for name in images} <= listed
    assert not listed & OURS
    between = listed - {*FIRST, *LAST}
    for task in (*FIRST, *sorted(between), *LAST):
        words = [word.replace("FOLDER", str(tmp_path / "export")) for word in WORDS.get(task, [])]
        if task == "dev_optimized":
            adopter.follow()
            continue
        ran = adopter.doit(task, *words)
        assert ran.returncode == (1 if task in REFUSED else 0), f"{task}: {ran.stdout}\n{ran.stderr}"
        assert REFUSED.get(task, "") in ran.stderr, f"{task}: {ran.stderr}"
        assert "Traceback" not in ran.stderr, f"{task}: {ran.stderr}"
    again = adopter.doit("adopt", "--update", str(adopter.folder), cwd=ROOT)
    assert "nothing is new" in again.stderr, again.stderr
