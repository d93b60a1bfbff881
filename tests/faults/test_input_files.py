"""Files, settings and folders that nobody means well with: one sentence or the right answer, soon, and no traceback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base import commands, settings
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.formatting import size_text
from doit_images.core.compose import project
from doit_images.core.inputs import contents, dockerfile, wildcards
from doit_images.core.inputs.ignorefile import IgnoreFile, Patterns, parse
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from doit_images.stack import secrets
from tests.conftest import ROOT, needs_docker_command
from tests.core.building.test_whole_runs import Shop, opened
from tests.core.inputs.test_tree import saved
from tests.faults.project import SOON
from tests.faults.test_state_runs import is_sane
from tests.waiting import comes


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path) as one:
        yield one


def selected(root: Path, *copies: Copy, ignore: str = "") -> list[str]:
    """The files that these copies bring of a folder."""
    return select(View(Tree(root, FileIndex()), IgnoreFile(ignore)), copies, "Dockerfile").files()


# ---- Compose files


COMPOSE = {
    "a day that is none": b"x-a: 2024-02-30\n",
    "a binary number of no digits": b"x-a: 0b_\n",
    "many digits": b"x-a: " + b"1" * 5000 + b"\n",
    "UTF-16": "x-a: b\n".encode("utf-16"),
    "Latin-1": b"x-a: \xe9\n",
    "nested lists": b"x-a: " + b"[" * 600 + b"]" * 600 + b"\n",
    "a list for a key": b"? [a, b]\n: c\n",
    "services as a list": b"services: [app]\n",
    "services as a word": b"services: app\n",
    "include as a number": b"include: 5\n",
    "extends as a list": b"services: {app: {extends: [a]}}\n",
    "an anchor in itself": b"x-a: &a [*a]\n",
    "NUL": b"x-a: \0\n",
    "nothing": b"",
    "a word": b"hello\n",
    "infinity": b"x-a: .inf\nx-b: .nan\nx-c: 1e999\n",
    "a tag": b"x-a: !!python/object:os.system {}\n",
}


@needs_docker_command
@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_that_is_odd(tmp_path: Path, name: str) -> None:
    good = b"" if b"services" in COMPOSE[name] or name == "UTF-16" else b"services: {app: {build: .}}\n"
    (tmp_path / "compose.yml").write_bytes(good + COMPOSE[name])
    try:
        loaded = project.load((tmp_path / "compose.yml",), os.environ)
    except UserError as error:
        said = str(error)
    else:
        assert loaded == project.load((tmp_path / "compose.yml",), os.environ)
        said = str(tmp_path)
    assert str(tmp_path) in said
    assert "\n" not in said


@needs_docker_command
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "compose.yml").write_text("services: {app: {image: a, build: .}}\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    odd = os.fsdecode(b"/h\xf6me")
    environ = {**os.environ, "HOME": odd, "COMPOSE_PROFILES": odd, "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG", "")}
    files = (folder / "compose.yml",)
    assert list(project.load(files, environ).images) == ["app"]
    assert project.load(files, environ) == project.load(files, environ)


@pytest.mark.parametrize("named", [":", "::", ":" * 50])
def test_a_list_of_no_compose_files(named: str) -> None:
    with pytest.raises(UserError, match=r"COMPOSE_FILE is ':+' and names no file"):
        project.compose_files({"COMPOSE_FILE": named})


# ---- settings


def test_env_files_that_are_odd(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_bytes(b"# caf\xe9\nBUILD_JOBS=2\nNAME=\xe9\nTOKEN='a\n")
    assert settings.load(tmp_path, {}).build_jobs == 2
    assert [line.name for line in secrets.read(env)][:2] == ["BUILD_JOBS", "NAME"]
    env.write_bytes(b"BASE_IMAGE=caf\xe9\n")
    with pytest.raises(UserError, match=r"\.env:1: BASE_IMAGE must be text in UTF-8, not 'caf\\udce9'"):
        settings.load(tmp_path, {})
    env.unlink()
    env.mkdir()
    assert settings.load(tmp_path, {}).build_jobs == 4
    with pytest.raises(UserError, match="this file cannot be read: Is a directory"):
        secrets.read(env)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GB", "1." + "9" * 400, "-1", "1e3", "٣GB" * 200])
def test_a_size_of_many_digits(text: str) -> None:
    for name, wanted in (("CACHE_MAX_SIZE", "a size such as"), ("CACHE_MAX_AGE", "an age such as")):
        with pytest.raises(UserError, match=f"{name} must be {wanted}"):
            settings.load(ROOT, {name: text})


PIPES = """
import os, sys
from pathlib import Path
from doit_images.core.base import commands, settings
from doit_images.core.base.errors import UserError
from doit_images.core.compose import answer, image, project
from doit_images.stack import secrets
from doit_images.core.compose.stack import Compose

root = Path(sys.argv[1])
assert settings.load(root, {}).build_jobs == 4
image = image.Image("app", "app", str(root), dockerfile=str(root / "Dockerfile"))
for ask in (
    lambda: secrets.read(root / ".env"),
    lambda: project.dockerfile_text(image),
    lambda: Compose((root / "compose.yml",), "", os.environ).config(),
):
    try:
        ask()
    except UserError as error:
        assert "it is not a file" in str(error) or "this is not a file" in str(error), error
    else:
        raise AssertionError(ask)
assert answer.key([root / ".env"], [root / "compose.yml"], os.environ)
"""


def test_pipes_keep_nobody_waiting(tmp_path: Path) -> None:
    for name in (".env", "Dockerfile", ".dockerignore"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "compose.yml").write_text("services: {app: {build: .}}\n")
    subprocess.run([sys.executable, "-c", PIPES, str(tmp_path)], cwd=ROOT, check=True)


def test_an_ignore_file_that_cannot_be_read(shop: Shop) -> None:
    lab, _ = shop
    ignore = lab.folder / "web/.dockerignore"
    ignore.write_text("x\n")
    ignore.chmod(0)
    argv = lab.argv("plan", "--json")
    if os.getuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]
    done = subprocess.run(argv, cwd=ROOT, env=lab.env(), capture_output=True, text=True)
    is_sane(done)
    assert done.returncode
    assert "web/.dockerignore: this file cannot be read: Permission denied" in done.stderr


# ---- folders and names


def test_folders_that_are_nested_deeply(tmp_path: Path) -> None:
    """BuildKit builds 1,200; a path that is too long for the system is too long for it as well."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    path = "/".join(["d"] * 1200) + "/f"
    assert selected(tmp_path, Copy("", ("/",))) == [path]
    assert selected(tmp_path, Copy("", ("/",)), ignore="*\n!**/f\n") == [path]
    assert selected(tmp_path, Copy("", ("/",)), ignore=f"d\n!{path}\n") == [path]
    assert selected(tmp_path, Copy("", ("/",), exclude=("x",))) == [path]
    assert selected(tmp_path, Copy("", ("**/f",), parents=True)) == [path]
    assert View(Tree(tmp_path, FileIndex()), IgnoreFile("")).digest("")
    _nest(tmp_path / "d", 10_000)
    with pytest.raises(UserError, match="cannot list this folder: File name too long"):
        View(Tree(tmp_path, FileIndex()), IgnoreFile("")).digest("")
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


def _nest(root: Path, levels: int) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("e", dir_fd=folder)
        below = os.open("e", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)


def test_links_in_a_circle_sockets_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "long").symlink_to("x/" * 2000)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
    (tmp_path / "f").write_text("")
    assert selected(tmp_path, Copy("", ("/",))) == ["f"]
    assert selected(tmp_path, Copy("", ("up/up/up/f",))) == ["f"]
    assert selected(tmp_path, Copy("", ("*",), optional=True)) in ([], ["f"])
    with pytest.raises(UserError, match="the context has no 'a'"):
        selected(tmp_path, Copy("", ("a",)))
    if os.getuid() == 0:
        os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
        assert View(Tree(tmp_path, FileIndex()), IgnoreFile("")).digest("")


def test_times_that_no_record_has_room_for(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite3"
    (tmp_path / "root").mkdir()
    (tmp_path / "root/f").write_text("")
    seen = set()
    for when in (0, 2**31, 2**33, 2**34 - 1, -(2**31)):
        os.utime(tmp_path / "root/f", (when, when))
        with saved(store) as index:
            assert Tree(tmp_path / "root", index).folder("").digest(0)
            seen.add(Tree(tmp_path / "root", index).folder("").stamps())
    assert len(seen) >= 4


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def test_how_far_a_large_file_was_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sparse(tmp_path / "large\n", 3 * 2**20)
    record = contents.record_of(path.stat())
    expected, _ = contents.hashed(str(path), path.stat().st_mode, record)
    assert capsys.readouterr().err == "", "one of this size is read at once"
    monkeypatch.setattr(contents, "_LARGE", 2**20)
    monkeypatch.setattr(contents, "_TELL_SECONDS", 0.0)
    assert contents.hashed(str(path), path.stat().st_mode, record)[0] == expected
    said = capsys.readouterr().err.splitlines()
    whole = size_text(3 * 2**20)
    assert said == [f"reading {tmp_path}/large\\n: {size_text(done * 2**20)} of {whole}" for done in (1, 2, 3)]
    monkeypatch.setattr(commands, "stopping", lambda: True)
    with pytest.raises(commands.Stopped):
        contents.hashed(str(path), path.stat().st_mode, record)


def opens(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_run_that_reads_a_huge_file_is_interrupted(shop: Shop) -> None:
    lab, _ = shop
    path = sparse(lab.folder / "worker/f", 2**40)
    with lab.start("plan") as doit:
        try:
            assert comes(lambda: opens(doit.pid, path) or doit.poll() is not None, 30)
            doit.send_signal(signal.SIGINT)
            assert comes(lambda: doit.poll() is not None, SOON)
        finally:
            doit.kill()
        assert doit.stdout
        assert "Traceback" not in doit.stdout.read()
    assert doit.returncode in (-signal.SIGINT, 128 + signal.SIGINT)  # before and after its run begins
    path.write_text("1\n")
    assert lab.build() == dict.fromkeys(("base", "web", "worker"), "built")


def test_names_reach_no_terminal_as_they_are(shop: Shop) -> None:
    lab, _ = shop
    lab.write({"worker/Dockerfile": "FROM scratch\nCOPY . /\n"})
    for name in ("\x1b[31mred", "two\nlines", "\udcff", "\u202egnp.exe", "tab\t"):
        (lab.folder / "worker" / name).write_text("")
    listed = lab.doit("plan", "--inputs", "worker")
    assert listed.returncode == 0, listed.stderr
    assert "worker/\\x1b[31mred" in listed.stdout.splitlines()
    assert "worker/two\\nlines" in listed.stdout.splitlines()
    assert "worker/\\udcff" in listed.stdout.splitlines()
    assert "\x1b" not in listed.stdout
    lab.build()
    (lab.folder / "worker/\x1b[31mred").write_text("2")
    told = lab.doit("plan", "worker")
    assert "\\x1b[31mred` changed" in told.stdout
    built = lab.doit("build_optimized")
    assert "\x1b" not in told.stdout + built.stderr + lab.doit("history", "worker").stdout


@given(st.text())
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_files_that_vanish_and_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("gone", "kept"):
        (tmp_path / name).write_text(name)
    index = FileIndex()
    folder = Tree(tmp_path, index).folder("")
    (tmp_path / "gone").unlink()
    assert folder.digest(folder.find("gone")) != folder.digest(folder.find("kept"))


# ---- patterns, Dockerfiles


PATHS = st.text("ab./", max_size=12)
ATOMS = st.lists(st.sampled_from(["a", "b", r"\.", "[^/]", "[ab]", "/", wildcards.NAME, wildcards.ANY]), max_size=7)


@given(st.lists(ATOMS, min_size=1, max_size=9), PATHS)
def test_any_of_many_patterns_matches_as_one_by_one(patterns: list[list[str]], path: str) -> None:
    any_of = wildcards.AnyOf((atoms, partial(wildcards.matcher, atoms)) for atoms in patterns)
    assert any_of(path) == any(bool(wildcards.matcher(atoms)(path)) for atoms in patterns)


def test_an_ignore_file_of_100000_lines() -> None:
    """How long it takes stands in docs/reliability.md; here it is only right."""
    lines = [f"*{n}*.log\nfolder{n}/**/x\nname{n}\n" for n in range(33_333)]
    patterns = Patterns(parse("".join(lines)))
    assert patterns.hides("a123b.log")
    assert patterns.hides("folder77/a/b/x")
    assert patterns.hides("name33332")
    assert not patterns.hides("folder77/a/b/y")
    assert not patterns.hides("a.log")


def test_a_chain_of_1000_stages() -> None:
    said = "FROM scratch AS s0\nCOPY f /\n"
    copied = ("FROM scratch AS s{1}\nCOPY --from=s{0} /f /", "FROM scratch AS s{1}\nCOPY --from={0} /f /")
    for how in ("FROM s{0} AS s{1}", *copied):
        text = said + "".join(how.format(n, n + 1) + "\n" for n in range(1000))
        assert [copy.sources for copy in dockerfile.reads(text, where="Dockerfile").copies] == [("f",)]


def test_a_line_of_a_megabyte() -> None:
    sources = " ".join(f"f{n}" for n in range(150_000))
    read = dockerfile.reads(f"FROM scratch\nCOPY {sources} /\nRUN echo {'x' * 10**6}\n", where="Dockerfile")
    assert len(read.copies[0].sources) == 150_000


@pytest.mark.parametrize("length", [131_071, 131_072, 10**6])
def test_a_mount_option_of_any_length(length: int) -> None:
    read = dockerfile.reads(f"FROM scratch\nRUN --mount=type=bind,source={'x' * length} x\n", where="Dockerfile")
    assert read.copies[0].sources == ("x" * length,)


# ---- names that other tools may choke on


NAMES = ["clean", "list", "run", "all", "help", "project", "None", "build_optimized", "a" * 100, "a.b_c-d", "1"]


def test_services_called_as_commands_are(shop: Shop) -> None:
    lab, _ = shop
    services = {name: {"image": f"localhost:5000/team/{name.lower()}:T.1", "build": "worker"} for name in NAMES}
    lab.write({"compose.yml": json.dumps({"name": "shop", "services": services})})
    done = lab.doit("build_optimized")
    is_sane(done)
    assert done.returncode == 0, done.stderr
    assert set(lab.actions().values()) == {"fresh"}
    for name in NAMES:
        one = lab.doit("plan", name)
        is_sane(one)
        assert one.returncode == 0, (name, one.stderr)


@pytest.mark.parametrize(
    ("ref", "action"),
    [
        ("team/Upper:1", "broken"),
        ("registry.example.org:5000/a/b:" + "t" * 128, "build"),
        ("registry.example.org:5000/a/b:" + "t" * 129, "broken"),
        ("a/b@sha256:" + "0" * 64, "broken"),
        ("[::1]:5000/a/b", "build"),
        ("a//b", "broken"),
        ("-a/b", "broken"),
        ("a" * 300, "broken"),
    ],
)
def test_names_of_images(shop: Shop, ref: str, action: str) -> None:
    lab, _ = shop
    lab.write({"compose.yml": f"name: shop\nservices: {{worker: {{image: '{ref}', build: worker}}}}\n"})
    done = lab.doit("plan", "--json")
    is_sane(done)
    assert lab.actions() == {"worker": action}, done.stderr
