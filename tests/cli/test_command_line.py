"""The command line as people type it: what is not known, help, dry runs, quiet; and what a shell completes."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doit import cmd_base, cmd_help, cmd_run, cmdparse, doit_cmd
from doit import control as doit_control
from doit.exceptions import InvalidCommand
from doit.task import dict_to_task

import doit_images
from doit_images.cli import catalogue, command_line, completion, help, options, process
from doit_images.core.base.task_names import PLAIN
from tests.conftest import ROOT, Lab

NO_ENGINE = {"DOCKER_HOST": "tcp://127.0.0.1:1"}
TASKS: list[dict[str, Any]] = [
    {"name": "build", "actions": None, "task_dep": ["build:auth", "build:web"]},
    {"name": "build:auth", "actions": [], "meta": {"image": "auth"}},
    {"name": "build:web", "actions": [], "meta": {"image": "web"}},
    {"name": "up", "actions": [lambda: None], "task_dep": ["build"], "doc": "Start it: [--hard]"},
    {"name": "plan", "actions": [], "params": [{"name": "as_json", "long": "json", "type": bool, "default": False}],
     "pos_arg": "images", "doc": "What would be built: [IMAGE …] [--json]"},
    {"name": "rebuild:web", "actions": [], "meta": {"image": "web"}},
    {"name": "own", "actions": [], "params": [{"name": "quick", "short": "q", "default": ""}]},
    {"name": "_hidden", "actions": []},
]  # fmt: skip


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], command_line.Control]:
    """What these words select, of tasks that stand for a project's."""
    monkeypatch.setattr(options, "names", lambda: PLAIN)
    monkeypatch.setattr(command_line, "names", lambda: PLAIN)
    options.WISHES.clear()
    monkeypatch.setattr(process, "names", lambda: PLAIN)

    def select(words: str) -> command_line.Control:
        chosen = command_line.Control([dict_to_task(dict(task)) for task in TASKS])
        chosen.process(words.split())
        return chosen

    return select


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("biuld", "unknown task `biuld` (did you mean `build`?)"),
        ("build:ath", "unknown task `build:ath` (did you mean `build:auth`?)"),
        ("auth", "unknown task `auth` (did you mean `build:auth`?)"),
        ("build ath", "unknown task `ath` (did you mean `build:auth`?)"),
        ("_hiden", "unknown task `_hiden` (`doit list` names them all)"),
        ("plan --jsn", "`plan` has no option --jsn (did you mean --json?)"),
        ("plan --zzz", "`plan` has no option --zzz (`doit plan --help` lists those that it has)"),
        ("plan --json=x", "`plan`: option --json must not have an argument (`doit plan --help`)"),
        ("build -n 2", "`build` has no option -n (doit's own stand before the task: `doit -n … build`)"),
        ("own --dry-run", "`own` has no option --dry-run (`doit own --help` lists those that it has)"),
        ("rebuild:web --dry-run",
         "`rebuild:web` has no option --dry-run (`doit rebuild:web --help` lists those that it has)"),
        ("build --dry-run own", "`own` has no dry run"),
        ("build --events=xml", "--events=xml is not known (there is --events=json)"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_in_one_sentence(control: Callable[[str], object], words: str, sentence: str) -> None:
    with pytest.raises(InvalidCommand) as told:
        control(words)
    assert str(told.value) == sentence


@pytest.mark.parametrize(
    ("words", "said"),
    [("test_image wbe", "test_image:web"), ("test_image auth", "build:auth"), ("wbe", "build:web")],
)
def test_a_part_of_the_task_before_it_is_meant(
    control: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    """``test_image web`` is ``test_image:web``, and not the image's build."""
    tests = [{"name": name, "actions": None} for name in ("test_image", "test_image:web", "test_image:unit")]
    monkeypatch.setitem(globals(), "TASKS", [*TASKS, *tests])
    with pytest.raises(InvalidCommand, match=f"did you mean `{said}`"):
        control(words)


@pytest.mark.parametrize(
    ("words", "images", "said"),
    [
        ("build --dry-run", [], ""),
        ("build:web --dry-run", ["web"], ""),
        ("up -q --dry-run", [], "dry run: after what is planned here, `up` would run: Start it: [--hard]\n"),
    ],
)
def test_a_dry_run_is_the_plan(
    control: Callable[[str], command_line.Control], capsys: pytest.CaptureFixture[str], words: str, images: list[str],
    said: str,
) -> None:  # fmt: skip
    chosen = control(words)
    assert chosen.selected_tasks == ["plan"]
    assert chosen.tasks["plan"].pos_arg_val == images
    assert capsys.readouterr().err == said


def test_quiet_is_for_all_tasks_unless_it_is_one_s_own(control: Callable[[str], command_line.Control]) -> None:
    assert control("own -q fast").tasks["own"].options == {"quick": "fast"}
    assert not command_line.is_quiet()
    assert control("build -q").selected_tasks == ["build"]
    assert command_line.is_quiet()


@pytest.mark.parametrize("words", ["plan --help", "plan --json -h"])
def test_a_task_s_help(control: Callable[[str], object], capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        control(words)
    assert not ended.value.code
    told = capsys.readouterr().out
    assert told.startswith("doit plan\n    What would be built: [IMAGE …] [--json]\n")
    assert [line.split()[0].strip(",") for line in told.splitlines()[3:]] == ["--json", "-h", "-q"]


def test_the_help_of_all_has_the_daily_tasks_first(control: Callable[[str], command_line.Control]) -> None:
    told = help.of_all(control("build").tasks, catalogue.TASKS)
    titles = [
        told.index(title) for title in ("\nEvery day\n", "  plan  ", "\nThis project's own\n", "  own\n".rstrip())
    ]
    assert titles == sorted(titles)
    assert "_hidden" not in told


def test_doit_still_has_what_ours_stands_in_for() -> None:
    """``cmd_run`` takes its control by name alone, doit prints its objects at a wrong option, and ``--help`` asks its
    own class: when one of these is no more, so much of ``cli.command_line`` or ``cli.main`` is needless. So is
    ``cli.doit_order`` when nodes wait in order, and ``cli.doit_memory.install`` when a backend can be chosen."""
    assert "TaskControl(" in inspect.getsource(cmd_run.Run._execute)
    assert "parsing options: " in inspect.getsource(cmdparse.CmdParse.parse_only)
    assert 'all_args[0] == "--help"' in inspect.getsource(doit_cmd.DoitMain.run)
    assert list(inspect.signature(cmd_help.Help.print_usage).parameters) == ["self", "cmds"]
    # Of the whole file: in this process another test may have put our node in the place of doit's.
    assert "self.waiting_me = set()" in inspect.getsource(doit_control)
    assert " ExecNode(" in inspect.getsource(doit_control.TaskDispatcher)
    assert " Dependency(" in inspect.getsource(cmd_base.DoitCmdBase)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which doit has our tasks, as it has when the package is installed."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["doit.COMMAND"]
    info = tmp_path / "installed" / f"doit_images-{doit_images.__version__}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: doit-images\nVersion: {doit_images.__version__}\n")
    lines = [f"{name} = {place}\n" for name, place in entry_points.items()]
    (info / "entry_points.txt").write_text("".join(["[doit.COMMAND]\n", *lines]))
    (tmp_path / "dodo.py").write_text("import doit_images\nglobals().update(doit_images.tasks())\n")
    (tmp_path / "compose.yml").write_text("services: {web: {image: tst/none}}\n")
    return tmp_path


def doit(project: Path, *words: str, program: str = "doit") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **NO_ENGINE, "PYTHONPATH": f"{project / 'installed'}:{ROOT}"}
    argv = (
        [sys.executable, "-m", "doit_images.cli"] if program == "main" else [str(Path(sys.executable).parent / "doit")]
    )
    return subprocess.run([*argv, *words], cwd=project, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("doit", "--help", "doit-images "),
        ("main", "-h", "doit-images "),
        ("doit", "help plan", "doit plan\n"),
        ("main", "--version", f"doit-images {doit_images.__version__} (doit 0.37."),
        ("doit", "--dryrun", "ERROR: doit has no option --dryrun (did you mean --dry-run?)\n"),
        ("main", "list --quit", "ERROR: `list` has no option --quit (did you mean --quiet?)\n"),
        ("main", "info paln", "ERROR: unknown task `paln` (did you mean `plan`?)\n"),
        ("main", "forget paln", "ERROR: unknown task `paln` (did you mean `plan`?)\n"),
    ],
)
def test_what_stands_before_a_task(project: Path, program: str, words: str, said: str) -> None:
    done = doit(project, *words.split(), program=program)
    assert (done.stdout + done.stderr).startswith(said)
    assert "Traceback" not in done.stderr


def test_a_dodo_file_of_somebody_else_is_doit_s_alone(project: Path) -> None:
    (project / "dodo.py").write_text('def task_own():\n    return {"actions": ["echo done"], "verbosity": 2}\n')
    assert doit(project, "own").stdout == ".  own\ndone\n"
    assert doit(project, "--help").stdout.startswith("doit -- automation tool")
    assert "doit_images.tasks()" in doit(project, "-q", "own").stderr


@pytest.mark.usefixtures("engine")
def test_a_project_without_images_says_so(lab: Lab) -> None:
    lab.write({"compose.yml": "services: {web: {image: tst/none}}"})
    for words in (["build"], ["plan"], ["build", "--dry-run"]):
        done = lab.doit(*words)
        assert (done.returncode, (done.stdout + done.stderr).count("no service of this project has")) == (0, 1), words
    assert lab.doit("build", "-q").stderr == ""


def completed(project: Path, line: str) -> list[str]:
    """What bash offers after this line."""
    program = f"source complete\nCOMP_LINE={line!r} COMP_POINT={len(line)}\n_doit_images\n"
    bin_folder = project / "bin"
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(project / "cache")}
    done = subprocess.run(
        ["bash", "-c", program + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        cwd=project, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.fixture
def shell(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose doit is a program that counts how often it is asked for words."""
    completion.script(process.current(), ["bash"])
    (project / "complete").write_text(capsys.readouterr().out)
    words = [
        ("files", str(project / "dodo.py")), ("task", "", "build", ""), ("task", "", "build:auth", ""),
        ("task", "", "plan", ""), ("option", "plan", "--json", ""), ("takes", "plan", "image"),
        ("image", "", "auth", ""), ("image", "", "web", ""),
        ("service", "", "web", ""), ("task", "", "logs", ""), ("takes", "logs", "service"),
        ("option", "", "--quiet", ""),
    ]  # fmt: skip
    (project / "words").write_text("".join("\t".join(line) + "\n" for line in words))
    (project / "bin").mkdir()
    program = project / "bin" / "doit"
    program.write_text('#!/bin/sh\n[ "$*" = _words_for_completion ] && echo asked >>asked && cat words\n')
    program.chmod(0o755)
    return project


def test_bash_completes_tasks_options_images_and_services(shell: Path) -> None:
    assert completed(shell, "doit pl") == ["plan"]
    assert completed(shell, "doit build:a") == ["auth"]  # for bash a colon ends a word
    assert completed(shell, "doit plan auth w") == ["web"]
    assert completed(shell, "doit logs ") == ["web"]
    assert completed(shell, "doit plan --j") == ["--json"]
    assert completed(shell, "doit --") == ["--quiet"]
    assert (shell / "asked").read_text() == "asked\n"  # doit once, for all these
    later = (shell / "dodo.py").stat().st_mtime + 100
    os.utime(shell / "dodo.py", (later, later))
    assert completed(shell, "doit pl") == ["plan"]
    assert (shell / "asked").read_text() == "asked\n" * 2


def test_there_is_nothing_to_offer_where_there_is_no_dodo_file(shell: Path) -> None:
    (shell / "dodo.py").unlink()
    assert completed(shell, "doit pl") == []
    assert not (shell / "asked").exists()


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_can_be_read(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    completion.script(process.current(), [name])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    assert (tmp_path / "script").read_text().startswith(f"# for {name}")
    if program := shutil.which(name):  # the others are no programs of the tests; all three were tried by hand
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_a_shell_is_offered_what_doit_has(project: Path) -> None:
    lines = [line.split("\t") for line in doit(project, "_words_for_completion").stdout.splitlines()]
    assert ["takes", "plan", "image", ""] in lines
    assert ["takes", "shell", "service", ""] in lines
    assert ["service", "", "web", "a service"] in lines
    assert {"build", "plan", "list"} <= {line[2] for line in lines if line[0] == "task"}
    assert str(project / "compose.yml") in lines[0]
