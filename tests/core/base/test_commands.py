"""Commands: started and known at once, stopped with their groups, within their time, shown without secrets."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from doit_images.core.base import commands
from doit_images.core.base.command_line import last_words, pasteable
from doit_images.core.base.commands import Commands, NotInstalled, Stopped, TimedOut
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import CommandStarted
from doit_images.core.base.masking import MASK, masked
from doit_images.core.base.process import Process
from doit_images.core.run import Run
from tests.conftest import ROOT
from tests.parsed import parsed
from tests.waiting import comes, patience, until


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    return comes(lambda: not alive(pid))


def written(path: Path) -> int:
    """The number that a command writes into a file."""
    return int(until(lambda: path.exists() and path.read_text().strip()))


def test_what_a_command_writes_and_ends_with_is_caught() -> None:
    done = commands.run(["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"given")
    assert (done.status, done.stdout, done.stderr, done.why) == (3, "given", "bad\n", "bad")
    with pytest.raises(UserError, match=r"^it fails: bad$"):
        done.checked("it fails")
    assert commands.answer(["echo", " yes "]) == "yes"
    assert commands.answer(["false"]) == commands.answer(["no-such-command"]) == ""


def test_one_that_is_not_there_is_an_error_for_people() -> None:
    with pytest.raises(NotInstalled, match="the no-such-command command is not installed"):
        commands.run(["no-such-command"])


def test_output_comes_while_it_runs_and_in_one_pipe() -> None:
    with commands.start(["sh", "-c", "echo a; echo b >&2; read line"], stdin=commands.PIPE) as process:
        said = b""
        for piece in process.output():
            said += piece
            if said == b"a\nb\n" and process.stdin:
                process.stdin.close()
    assert said == b"a\nb\n"


def test_a_command_ends_with_what_it_left_running_in_its_group(tmp_path: Path) -> None:
    commands.run(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path}/pid"])
    assert gone(written(tmp_path / "pid"))


def test_an_error_in_the_block_ends_the_command_with_term(tmp_path: Path) -> None:
    script = f"trap 'echo asked > {tmp_path}/asked; exit 0' TERM; echo; sleep 60 & wait"
    with contextlib.suppress(ZeroDivisionError), commands.start(["sh", "-c", script]) as process:
        next(process.output())
        raise ZeroDivisionError
    assert process.returncode == 0
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_what_ignores_term_is_killed_with_its_group(tmp_path: Path) -> None:
    script = f"trap '' TERM; sh -c 'while :; do sleep 0.1; done' & echo $! > {tmp_path}/pid; wait"
    process = commands.begin(["sh", "-c", script], cleanup=True)
    pid = written(tmp_path / "pid")
    process.stop(0.3)
    assert process.wait(patience()) == -signal.SIGKILL
    assert gone(pid)


def test_one_whose_time_is_over_is_stopped_with_its_group(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="sh was not done in 0 s"):
        commands.run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], seconds=0.3)
    assert gone(written(tmp_path / "pid"))
    assert commands.run(["true"], seconds=5).status == 0


def test_a_run_that_is_stopped_interrupts_commands_and_starts_none() -> None:
    ours, ended = Commands(), threading.Event()

    def work() -> None:
        with pytest.raises(Stopped):
            ours.run(["sleep", "60"])
        ended.set()

    threading.Thread(target=work).start()
    until(lambda: ours._running)
    ours.stop_all()
    assert ended.wait(patience())
    assert ours.stopping()
    assert not ours._running
    with pytest.raises(Stopped):
        ours.run(["true"])
    assert ours.run(["true"], cleanup=True).status == 0
    assert Commands().run(["true"]).status == 0


def test_one_that_ignores_the_interrupt_is_killed_with_its_group(tmp_path: Path) -> None:
    ours = Commands()
    inner = "trap '' INT TERM; while :; do sleep 0.1; done"
    script = f"trap '' INT; sh -c '{inner.replace(chr(39), chr(34))}' & echo $! > {tmp_path}/pid; wait; wait"
    process = ours.begin(["sh", "-c", script])
    pid = written(tmp_path / "pid")
    ours.stop_all(0.3)
    assert process.wait(patience()) == -signal.SIGKILL
    assert gone(pid)


def test_one_that_tidies_up_is_waited_for(tmp_path: Path) -> None:
    ours = Commands()
    tidy = f"touch {tmp_path}/asked; until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit 3"
    script = f"trap '{tidy}' INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    process = ours.begin(["sh", "-c", script], tidies=True)
    written(tmp_path / "pid")
    stopper = threading.Thread(target=ours.stop_all, args=(0.0,))
    stopper.start()
    until((tmp_path / "asked").exists)
    assert stopper.is_alive()
    (tmp_path / "go").touch()
    stopper.join()
    assert process.wait() == 3


def test_stopping_waits_for_a_command_that_is_just_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    forked, go_on = threading.Event(), threading.Event()
    started: list[Process] = []

    class Slow(Process):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)
            forked.set()
            go_on.wait(patience())

    monkeypatch.setattr(commands, "Process", Slow)
    ours = Commands()

    def work() -> None:
        with contextlib.suppress(Stopped):
            ours.run(["sleep", "60"])

    worker, stopper = threading.Thread(target=work), threading.Thread(target=ours.stop_all)
    worker.start()
    assert forked.wait(patience())
    stopper.start()
    assert not ours.stopping()
    go_on.set()
    stopper.join(patience())
    worker.join(patience())
    assert started[0].returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_start_and_registration_leaves_nothing_running(number: signal.Signals) -> None:
    # The signal is there before `Process` is: as late as it can be without the command being known.
    program = f"""
import os, signal
from doit_images.core.base import commands
class Interrupted(commands.Process):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), {int(number)})
        for _ in range(1000):
            pass
commands.Process = Interrupted
signal.signal(signal.SIGHUP, signal.SIG_DFL)
commands.stop_on_signals()
commands.run(["sleep", "60"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + number, done.stderr
    assert gone(int(done.stdout))


def test_started_with_nohup_a_terminal_that_goes_ends_nothing() -> None:
    program = """
import os, signal
from doit_images.core.base import commands
signal.signal(signal.SIGHUP, signal.SIG_IGN)
commands.stop_on_signals()
os.kill(os.getpid(), signal.SIGHUP)
print(commands.answer(["echo", "on"]), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("on\n", 128 + signal.SIGTERM), done.stderr


def test_a_second_signal_while_the_first_stops_commands_is_no_deadlock() -> None:
    program = """
import os, signal, threading
from doit_images.core.base import commands
commands.stop_on_signals()
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
threading.Timer(0.8, os.kill, [os.getpid(), signal.SIGTERM]).start()
commands.run(["sh", "-c", "trap '' INT TERM; while :; do sleep 0.1; done"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert not done.stderr


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    program = f"""
import os, signal, threading
from doit_images.core.base import commands
commands.stop_on_signals()
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
threading.Timer(1.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
commands.run(["sh", "-c", "trap '' INT TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, "the second one ended it, before the first was done"
    assert not done.stderr
    assert gone(written(tmp_path / "pid"))


def started_by(program: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own group that runs this, once its command has written its number."""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    written(folder / "pid")
    return process


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the guard finds commands in /proc")
def test_commands_end_when_we_are_killed(tmp_path: Path) -> None:
    loop = "trap '' INT TERM; while :; do sleep 0.1; done"
    script = f'setsid sh -c "{loop}" & echo $! > {tmp_path}/other; {loop} & echo $! > {tmp_path}/pid; {loop}'
    process = started_by(
        f"from doit_images.core.base import commands\ncommands.run({['sh', '-c', script]!r})", tmp_path
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for name in ("pid", "other"):
        assert gone(written(tmp_path / name)), name


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the guard finds commands in /proc")
def test_a_command_that_is_being_started_when_we_are_killed_ends(tmp_path: Path) -> None:
    program = f"""
import os, signal
from doit_images.core.base import commands
class Killed(commands.Process):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        open({str(tmp_path / "pid")!r}, "w").write(str(self.pid))
        os.kill(os.getpid(), signal.SIGKILL)
commands.Process = Killed
commands.run(["sleep", "60"])
"""
    started_by(program, tmp_path).wait()
    assert gone(written(tmp_path / "pid"))


def test_what_an_ended_command_left_on_purpose_lives_on(tmp_path: Path) -> None:
    place = tmp_path / "daemon"  # written once it has left the group
    script = f"setsid sh -c 'echo $$ > {place}; exec sleep 60' & while [ ! -s {place} ]; do sleep 0.05; done"
    program = f"""
from doit_images.core.base import commands
commands.run(["sh", "-c", {script!r}], stdout=commands.DEVNULL, stderr=commands.DEVNULL)
commands.run(["sh", "-c", "echo $$ > {tmp_path}/pid; sleep 60"])
"""
    process = started_by(program, tmp_path)
    process.kill()
    process.wait()
    assert gone(written(tmp_path / "pid"))
    daemon = written(tmp_path / "daemon")
    assert alive(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_a_command_is_shown_without_the_mark_by_which_it_is_found() -> None:
    ours, heard = Commands(), list[str]()
    ours.listen(heard.append)
    assert "DOIT_IMAGES_COMMAND=" in ours.run(["env"], env=dict(os.environ)).stdout
    assert heard == ["env"]


def test_with_a_terminal_it_stays_in_our_group() -> None:
    program = "import os; print(os.getpgid(0) == os.getpgid(os.getppid()), flush=True)"
    outer = f"""
import sys
from doit_images.core.base import commands
assert commands.show([sys.executable, "-c", {program!r}]) == 0
print(commands.run([sys.executable, "-c", {program!r}]).stdout.strip())
"""
    assert subprocess.check_output([sys.executable, "-c", outer], cwd=ROOT, text=True).split() == ["True", "False"]


def test_the_last_words_are_those_that_give_the_reason() -> None:
    said = ' Container a  Created\ntime="…" level=warning msg="x"\nError response from daemon: port is taken\n\n'
    assert last_words(said) == "port is taken"
    assert last_words("Error:      cannot connect\nName: b") == "cannot connect"
    assert last_words("one\ntwo\n") == "two"
    assert last_words("a cannot be used\n\nhint: the resolution failed for others") == "a cannot be used"
    assert last_words("", "it failed") == "it failed"


def test_what_is_shown_holds_no_secret() -> None:
    environ = {"HF_TOKEN": "hf_abcdefgh", "TOKEN_FILE": "/run/secrets/token", "SHORT_SECRET": "on"}
    assert masked("hf_abcdefgh, /run/secrets/token, on", environ) == "***, /run/secrets/token, on"
    assert masked("from https://user:pw@host/x", {}) == "from https://***@host/x"
    # A password with characters that a URL or JSON writes in another way, or that should have been, and was not.
    known = {"REDIS_URL": "redis://:p@ss/w+rd@host:1/0", "DB_PASSWORD": 'a"b/c d+e'}
    for written in (
        "redis://:p@ss/w+rd@host", "p@ss/w+rd", "p%40ss%2Fw%2Brd", 'a"b/c d+e', "a%22b%2Fc%20d%2Be",
        "a%22b%2Fc+d%2Be", r'a\"b/c d+e', "postgres://me:a%22b%2Fc%20d%2Be@host",
    ):  # fmt: skip
        shown = masked(f"no {written}", known)
        assert MASK in shown, written
        assert not re.search(r"ss|rd|b|22|2F", shown), (written, shown)
    assert masked("uses: https://host/checkout@v4", {}) == "uses: https://host/checkout@v4"
    script = "echo $HF_TOKEN at https://me:pw@host >&2; exit 1"
    assert commands.run(["sh", "-c", script], env={**os.environ, **environ}).why == "*** at https://***@host"


def test_a_command_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    argv = ["sh", "-c", 'pwd; cat; echo "$GREETING ${PASTED-gone} $1"', "sh", "it's $x"]
    env = {**os.environ, "GREETING": "two words\n*"}
    line = pasteable(argv, folder, env, b"read 'this'\n")
    pasted = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert pasted == commands.run(argv, cwd=folder, env=env, stdin=b"read 'this'\n").stdout


def test_a_variable_that_the_command_does_not_get_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "x.yml")
    env = {name: value for name, value in os.environ.items() if name != "COMPOSE_FILE"}
    assert pasteable(["docker", "ps"], None, env) == "env -u COMPOSE_FILE docker ps"


def test_a_pasteable_command_holds_no_secret() -> None:
    env = {**os.environ, "DB_PASSWORD": "x", "API_KEY": "0123456789", "INDEX": "https://me:pw@host/simple"}
    argv = ["docker", "build", "--build-arg", "NPM_TOKEN=abc", "--secret", "id=a,src=b", "--secret=id=c", "0123456789"]
    argv += ["type=s3,secret_access_key=x,y=z", "DB_KEY=a\nb"]
    line = pasteable(argv, None, env)
    assert "DB_PASSWORD='***' API_KEY='***' INDEX='https://***@host/simple'" in line
    assert "--build-arg 'NPM_TOKEN=***' --secret id=a,src=b --secret=id=c '***' 'type=s3,secret_acc" in line
    assert line.endswith(",secret_access_key=***' 'DB_KEY=***'")


def test_a_run_keeps_its_commands_and_tells_of_them(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").touch()
    run, heard = Run((tmp_path / "compose.yml",)), list[object]()
    run.events.listen(heard.append)
    ours = Commands()
    ours.listen(run.heard_command)
    ours.run(["echo", "a b"])
    assert heard == [CommandStarted("echo 'a b'")]
    comment, line = (run.folder / "commands.log").read_text().splitlines()
    assert comment.startswith("# ")
    assert line == "echo 'a b'"


def test_no_other_module_starts_commands() -> None:
    for path in (path for folder in ("doit_images", "tasks", "benchmarks") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "subprocess" not in names or path.name in ("commands.py", "process.py"), path


def test_docker_commands_end_when_their_engine_hangs_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_WATCH_SECONDS", 0.05)
    (tmp_path / "docker-buildx").symlink_to("/bin/sh")
    ours, answers = Commands(), iter(["it hangs", "", "it hangs", "it hangs for good"])
    ours.watch(lambda: next(answers))
    with ours.start(["sleep", "60"]) as other:
        with pytest.raises(UserError, match=r"^it hangs for good$"):
            ours.run([tmp_path / "docker-buildx", "-c", "sleep 60"])
        assert not other.over()
        other.stop()
    assert ours.run([tmp_path / "docker-buildx", "-c", "echo on"]).stdout == "on\n"


def test_silence_is_told_piece_by_piece() -> None:
    with commands.start(["sh", "-c", "echo a; sleep 0.5; echo b"]) as process:
        said = list(process.output(0.1))
    assert [piece for piece in said if piece] == [b"a\n", b"b\n"]
    assert b"" in said


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "rediss://:pass%40word%21@redis.example.org:6379/0"),
        ("PIP_INDEX_URL", "https://ann:pass%40word%21@index.example.org/simple"),
        ("HTTPS_PROXY", "http://ann:pass@word!@proxy.example.org:8080"),
    ],
)
def test_a_password_in_a_url_is_hidden_with_and_without_the_url(name: str, url: str) -> None:
    environ = {name: url, "OTHER": "https://example.org/a@b"}
    said = f"cannot log in at {url}: invalid username-password pair 'pass@word!' (https://example.org/a@b)"
    shown = masked(said, environ)
    assert "word" not in shown.replace("username-password", "")
    assert shown.endswith("(https://example.org/a@b)")
    assert "pass%40word" not in masked(f"{name}={url}", {})
    assert "word!" not in masked(f"{name}={url}", {})


def test_a_secret_is_masked_as_xml_has_it_and_line_by_line() -> None:
    """JUnit files are XML, and logs are read line by line."""
    known = {"DB_PASSWORD": 'a&b<c>d"e', "SIGNING_KEY": "-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n"}
    for written in ('a&amp;b&lt;c&gt;d"e', "a&amp;b&lt;c&gt;d&quot;e", "MIIEvQIBADAN"):
        assert masked(f"no {written}.", known) == "no ***.", written


def test_a_secret_that_is_no_utf8_is_masked() -> None:
    secret = b"Gehe\xe4m-wort".decode(errors="surrogateescape")
    texts = (secret, b"Gehe\xe4m-wort".decode(errors="replace"), "Gehe%E4m-wort", "Gehe\\udce4m-wort")
    for text in texts:
        assert masked(f"a {text} b", {"DB_PASSWORD": secret}) == "a *** b"
