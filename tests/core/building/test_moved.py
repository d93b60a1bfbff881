"""What moves while an image is built: edits that are undone, parents that vanish. The built image is the judge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked, loopback
from tests.conftest import ROOT, Lab, docker, file_in, printed
from tests.waiting import patience, until

pytestmark = pytest.mark.engine

# Builds images one after the other in one process; before and after a build of the first attempts a command is run.
# Between the first look at the inputs and the second one, whatever that costs elsewhere.
HOOKED = """
import subprocess, sys
from doit_images.core.buildkit import buildx
from doit_images.core.building.make import make
from doit_images.core.buildkit.progress import Progress
from doit_images.cli.process import current
from doit_images.ui.board import Board
current().events.listen(Board().heard)
victim, times, before, after, *images = sys.argv[1:]
left, argv, finish = [int(times)], buildx.build_argv, Progress.finish
inside = []
def begin(image, **more):
    if image.name == victim and left[0]:
        left[0] -= 1
        inside.append(1)
        subprocess.run(["sh", "-c", before], check=True)
    return argv(image, **more)
def end(self):
    if inside:
        inside.pop()
        subprocess.run(["sh", "-c", after], check=True)
    return finish(self)
def between():
    subprocess.run(["sh", "-c", before], check=True)
buildx.build_argv, Progress.finish = begin, end
failed = [str(done) for name in images if (done := between() if name == "-" else make(current(), name))]
sys.exit("\\n".join(failed) or 0)
"""
PAIR = {
    "compose.yml": """
        name: PREFIX
        services:
          base: {image: PREFIX/base, build: {context: base}, scale: 0}
          app: {image: PREFIX/app, build: {context: app, additional_contexts: {base: "service:base"}}}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nCOPY . /base/\n",
    "base/file": "A of PREFIX\n",
    "app/Dockerfile": "FROM base\nCOPY --from=base /base/file /seen\n",
}


@pytest.fixture
def pair(lab: Lab, busybox: str) -> Lab:
    lab.write(PAIR)
    return lab


def hooked(
    lab: Lab, victim: str, before: str, after: str = "true", times: int = 1, images: str = "base app", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Build, with ``before`` and ``after`` run around the first builds of ``victim``, in the project's folder."""
    here = f"cd '{lab.folder}'; "
    argv = [sys.executable, "-c", HOOKED, victim, str(times), here + before, here + after, *images.split()]
    return forked.run(argv, lab.env(**environ))


def inside(lab: Lab, name: str, path: str) -> str:
    return file_in(lab.ref(name), path, lab.folder.parent)


def statuses(lab: Lab, name: str) -> list[str]:
    return [build["status"] for build in json.loads(lab.doit("history", name, "--json").stdout)]


@pytest.mark.parametrize(
    "edit",
    [("cat B > base/file", "cat A > base/file"), ("cat B > base/file; touch -r A base/file", "cp -p A base/file")],
)
def test_an_edit_that_is_undone_does_not_pass_for_what_was_there_before_and_after(
    pair: Lab, edit: tuple[str, str]
) -> None:
    """The whole build saw B, in the second case with A's size and time, so that the builder would not be sent A again:
    with contents alone it was called A, and its child on it too."""
    pair.write({"A": PAIR["base/file"], "B": PAIR["base/file"].replace("A", "B")})
    shutil.copystat(pair.folder / "base/file", pair.folder / "A")
    done = hooked(pair, "base", *edit)
    assert done.returncode == 0, done.stderr
    assert "base: `base/file` was written to or replaced while it was built, building again (1 of 2)\n" in done.stderr
    a = f"A of {pair.prefix}\n"
    assert (inside(pair, "base", "/base/file"), inside(pair, "app", "/seen")) == (a, a)
    assert pair.actions() == {"base": "fresh", "app": "fresh"}
    assert statuses(pair, "base") == ["done", "moved"]
    assert not [name for name in pair.images() if ":building-" in name]


FOLDER = "mv X away; cp -Rp away X; sed s/A/B/ away/PATH > X/PATH; touch -r away/PATH X/PATH"


@pytest.mark.parametrize(
    ("away", "back"),
    [
        (FOLDER.replace("X", "base/d").replace("PATH", "file"), "rm -r base/d; mv away base/d"),
        pytest.param(
            FOLDER.replace("X", "base").replace("PATH", "d/file"), "rm -r base; mv away base", marks=pytest.mark.all
        ),
        pytest.param(
            FOLDER.replace("X", "up").replace("PATH", "base/d/file"), "rm -r up; mv away up", marks=pytest.mark.all
        ),
        (FOLDER.replace("X", "up").replace("PATH", "base/d/file"), "rm -r up; mv away up; touch up/new up/base/new"),
    ],
)
def test_a_folder_that_was_another_for_a_while_does_not_pass_for_what_it_is(pair: Lab, away: str, back: str) -> None:
    """Its files, and all their stamps, are what they were before: only its own time of change tells."""
    pair.write({"base/d/file": PAIR["base/file"], "base/Dockerfile": "FROM tst-busybox:1\nCOPY d /base/\n"})
    if "up" in away:
        (pair.folder / "up").mkdir()
        (pair.folder / "base").rename(pair.folder / "up/base")
        pair.write({"compose.yml": PAIR["compose.yml"].replace("{context: base}", "{context: up/base}")})
    done = hooked(pair, "base", away, back)
    assert done.returncode == 0, done.stderr
    assert "base: " in done.stderr
    assert "while it was built, building again (1 of 2)\n" in done.stderr
    a = f"A of {pair.prefix}\n"
    assert (inside(pair, "base", "/base/file"), inside(pair, "app", "/seen")) == (a, a)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.all), signal.SIGKILL])
def test_what_a_build_was_sent_that_was_ended_is_in_no_later_one(pair: Lab, number: int) -> None:
    """The builder holds B, with A's size and time, and nobody came to see that anything had moved."""
    pair.write({"base/Dockerfile": f"FROM tst-busybox:1\nCOPY file /base/\nRUN sleep {patience(3):.0f}\n"})
    mine, kept = pair.folder / "base/file", pair.folder / "A"
    shutil.copy2(mine, kept)
    log = pair.folder / ".doit-images/compose.yml/logs/base.log"
    edit = f"cd '{pair.folder}'; sed -i s/A/B/ base/file; touch -r A base/file"
    argv = [sys.executable, "-c", HOOKED, "base", "1", edit, "true", "base"]
    run = subprocess.Popen(argv, cwd=ROOT, env=pair.env(), start_new_session=True)
    until(lambda: log.exists() and "RUN sleep" in log.read_text())
    os.kill(run.pid, number)
    assert run.wait(patience()) != 0
    shutil.copy2(kept, mine)
    assert pair.build() == {"base": "built", "app": "built"}
    assert inside(pair, "base", "/base/file") == mine.read_text() == PAIR["base/file"].replace("PREFIX", pair.prefix)


@pytest.mark.parametrize("times", [(0.25,), pytest.param((0.1, 0.25, 0.4), marks=pytest.mark.all)])
def test_an_edit_that_is_undone_at_any_time_of_a_build_of_30_megabytes(
    lab: Lab, busybox: str, times: tuple[float, ...]
) -> None:
    lab.write({"compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: .}}\n"})
    lab.write({"Dockerfile": f"FROM {busybox}\nCOPY a file z /all/\n", ".dockerignore": "compose.yml\n", "z": "z"})
    log = lab.folder / ".doit-images/compose.yml/logs/app.log"
    for number, seconds in enumerate(times):
        mine = f"A {number} of {lab.prefix}\n"
        (lab.folder / "file").write_text(mine)
        (lab.folder / "a").write_bytes(bytes([number]) * 30_000_000)
        run = lab.start("build_optimized")
        until(lambda: log.exists() and "load build context" in log.read_text())
        (lab.folder / "file").write_text("B, which nobody asked for\n")
        time.sleep(seconds)
        (lab.folder / "file").write_text(mine)
        output, _ = run.communicate()
        assert run.returncode == 0, output
        assert inside(lab, "app", "/all/file") == mine
        log.unlink()


@pytest.mark.parametrize("inline", [False, True])
def test_a_dockerfile_and_an_ignore_file_are_built_as_they_were_read(pair: Lab, inline: bool) -> None:
    pair.write({"base/Dockerfile": "FROM tst-busybox:1\nCOPY file sh*n hid* /base/\n"})
    pair.write({"base/.dockerignore": "hidden\n", "base/hidden": "", "base/shown": ""})
    if inline:
        text = '{context: base, dockerfile_inline: "FROM tst-busybox:1\\nCOPY file sh*n hid* /base/\\n"}'
        pair.write({"compose.yml": PAIR["compose.yml"].replace("{context: base}", text)})
    edit = "cp -r base old; echo shown > base/.dockerignore; echo 'RUN echo B > /base/file' >> base/Dockerfile"
    done = hooked(pair, "base", edit, "cp old/Dockerfile old/.dockerignore base/")
    assert done.returncode == 0, done.stderr
    assert "again" not in done.stderr
    assert sorted(printed(pair.ref("base"), "ls", "-A", "/base").split()) == ["file", "shown"]
    assert inside(pair, "app", "/seen") == f"A of {pair.prefix}\n"


def test_an_ignore_file_that_comes_and_goes(lab: Lab, busybox: str) -> None:
    """Where there is none, an empty one is given: another that appears beside the Dockerfile does not count."""
    lab.write({"compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: c}}}\n"})
    lab.write({"c/Dockerfile": f"FROM {busybox}\nCOPY a b /all/\nENV A=PREFIX\n", "c/a": "", "c/b": ""})
    come, go = "echo a > c/.dockerignore; cp c/.dockerignore c/Dockerfile.dockerignore", "rm c/*ignore c/.*ignore"
    done = hooked(lab, "app", come, go, images="app")
    assert done.returncode == 0, done.stderr
    assert lab.actions() == {"app": "fresh"}


@pytest.mark.parametrize("settings", ["", pytest.param(", no_cache: true", marks=pytest.mark.all)])
def test_a_folder_where_ignored_files_come_and_go_all_the_time(lab: Lab, busybox: str, settings: str) -> None:
    lab.write(
        {"compose.yml": f"name: PREFIX\nservices: {{app: {{image: PREFIX/app, build: {{context: c{settings}}}}}}}\n"}
    )
    lab.write({"c/Dockerfile": f"FROM {busybox}\nCOPY . /all/\nRUN date +%N; echo PREFIX\n"})
    lab.write({"c/.dockerignore": "*.log\n", "c/f": ""})
    done = hooked(lab, "app", "echo > c/$$.log", "rm c/*.log", times=9, images="app")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("app: something came or went in `c` while it was built, building again (1 of 2)") == 1
    assert "(2 of 2)" not in done.stderr
    assert statuses(lab, "app") == ["done", "moved"]


def test_an_edit_that_stays_is_built_in_the_same_run(pair: Lab) -> None:
    done = hooked(pair, "base", "echo B of $$ > base/file")
    assert done.returncode == 0, done.stderr
    assert "base: `base/file` changed while it was built, building again (1 of 2)" in done.stderr
    assert inside(pair, "app", "/seen").startswith("B of ")
    assert pair.actions() == {"base": "fresh", "app": "fresh"}


def test_what_moves_all_the_time_fails_after_three_builds(pair: Lab) -> None:
    done = hooked(pair, "base", "date +%N > base/file", times=9, images="base")
    assert done.returncode != 0
    assert "building again (2 of 2)" in done.stderr
    assert "base: `base/file` changed while it was built, so the result is not taken (run it again)" in done.stderr
    assert statuses(pair, "base") == ["moved"] * 3
    assert pair.images() == []


def test_a_build_that_fails_because_a_file_was_away_is_tried_again(pair: Lab) -> None:
    pair.write({"base/Dockerfile": "FROM tst-busybox:1\nCOPY file /base/\n"})
    done = hooked(pair, "base", "mv base/file .", "mv file base/", images="base")
    assert done.returncode == 0, done.stderr
    assert "base: `base/file` was written to or replaced while it was built, building again (1 of 2)" in done.stderr
    assert "failed" not in done.stderr


def test_a_base_that_another_image_took_the_place_of_for_a_while(pair: Lab) -> None:
    outside = f"{pair.prefix}/outside"
    for tag in "AB":
        stdin = f"FROM tst-busybox:1\nCOPY <<E /outside\n{tag} of {pair.prefix}\nE\n".encode()
        assert docker("buildx", "build", "--quiet", "--tag", f"{outside}:{tag}", "-", stdin=stdin).returncode == 0
    docker("tag", f"{outside}:A", f"{outside}:1")
    pair.write({"base/Dockerfile": "FROM PREFIX/outside:1\nCOPY file /base/\n"})
    take, give = (f"docker tag {outside}:{tag} {outside}:1" for tag in "BA")
    done = hooked(pair, "base", take, give)
    assert done.returncode == 0, done.stderr
    assert f"base: its base `{outside}:1` was given a name while it was built, building again (1 of 2)" in done.stderr
    assert inside(pair, "app", "/outside") == f"A of {pair.prefix}\n"
    assert pair.actions() == {"base": "fresh", "app": "fresh"}


def test_a_base_that_gets_names_all_the_time_ends_well(pair: Lab) -> None:
    outside = f"{pair.prefix}/outside:1"
    assert (
        docker("buildx", "build", "--quiet", "--tag", outside, "-", stdin=b"FROM tst-busybox:1\nENV A=B\n").returncode
        == 0
    )
    pair.write({"base/Dockerfile": "FROM PREFIX/outside:1\nCOPY file /base/\n"})
    done = hooked(pair, "base", f"docker tag {outside} {outside}$$", times=9)
    assert done.returncode == 0, done.stderr
    assert "(2 of 2)" not in done.stderr


# ---- parents


@pytest.fixture
def trap(lab: Lab, busybox: str) -> Iterator[tuple[Lab, Path]]:
    """The pair under names of a registry that holds other images under the very same names, and its log."""
    folder = lab.folder.parent / "registry"
    with loopback.registry(folder) as service:
        lab.write({name: text.replace("name: PREFIX", "name: trap") for name, text in PAIR.items()})
        bare, lab.prefix = lab.prefix, f"{service.address}/{lab.prefix}"
        lab.write({"compose.yml": PAIR["compose.yml"].replace("name: PREFIX", f"name: {bare}")})
        stdin = b"FROM tst-busybox:1\nCOPY <<E /base/file\nimpostor\nE\n"
        for tag in ("latest", f"in-{lab.plan()['base']['fingerprint'][:16]}"):
            name = f"{lab.prefix}/base:{tag}"
            assert docker("buildx", "build", "--quiet", "--tag", name, "-", stdin=stdin).returncode == 0
            assert docker("push", name).returncode == 0
            docker("image", "rm", "--force", name)
        assert "/base/manifests/" in (folder / "log").read_text(), "the trap shows who asks for it"
        yield lab, folder / "log"


BY_NAME = (
    "docker image ls --format '{{.Repository}}:{{.Tag}}' | grep PREFIX/base: | grep -v localhost:0/ | xargs docker rmi"
)
BY_ID = "docker rmi -f $(docker image ls --quiet --no-trunc --filter reference=PREFIX/base:*)"


@pytest.mark.parametrize(
    ("command", "when"),
    [
        (BY_NAME, "base app"),
        (BY_ID, "base - app"),
        pytest.param(BY_ID, "base app", marks=pytest.mark.all),
        pytest.param(BY_NAME, "base - app", marks=pytest.mark.all),
    ],
)
def test_a_parent_that_vanishes_is_made_again_and_never_looked_up(
    trap: tuple[Lab, Path], command: str, when: str
) -> None:
    """Removed while its child is built, or between the two: neither in the registry of its name nor on Docker Hub."""
    lab, log = trap
    size = log.stat().st_size
    remove = command.replace("PREFIX", lab.prefix)
    done = hooked(lab, "app" if "-" not in when else "nobody", remove, images=when)
    assert done.returncode == 0, done.stderr
    assert log.read_text()[size:] == ""
    assert inside(lab, "app", "/seen") == f"A of {lab.prefix.rpartition('/')[2]}\n"
    assert lab.actions() == {"base": "fresh", "app": "fresh"}
    if "-" not in when:
        assert "app: its parent `base` was removed while it was built, building again (1 of 2)\n" in done.stderr
    assert not [name for name in docker("image", "ls", "--format", "{{.Repository}}").stdout.split() if bare(name, lab)]


def bare(name: str, lab: Lab) -> bool:
    return name.startswith("localhost:0/") and lab.prefix.rpartition("/")[2] in name


VANISHING = """
import subprocess, sys
from doit_images.cli.process import current
from doit_images.core.building import make, results
name = results.name_image
def gone(engine, local_images, decision, image_id):
    results.name_image = name
    subprocess.run(["docker", "image", "rm", "--force", image_id], check=True)
    name(engine, local_images, decision, image_id)
results.name_image = gone
failed = make.make(current(), "base")
sys.exit(str(failed) if failed else 0)
"""


def test_an_image_that_vanishes_before_it_is_named_is_built(pair: Lab) -> None:
    """As by another checkout's cache_prune, while this run waited for it."""
    assert pair.doit("build_optimized:base").returncode == 0
    pair.write({"base/file": "B of PREFIX\n"})
    assert pair.doit("build_optimized:base").returncode == 0
    pair.write({"base/file": "A of PREFIX\n"})
    assert pair.actions()["base"] == "retag"
    done = forked.run([sys.executable, "-c", VANISHING], pair.env())
    assert done.returncode == 0, done.stderr
    assert inside(pair, "base", "/base/file") == f"A of {pair.prefix}\n"


def test_a_parent_that_vanishes_every_time_is_a_sentence(pair: Lab) -> None:
    remove = BY_ID.replace("PREFIX", pair.prefix)
    done = hooked(pair, "app", remove, times=9)
    assert done.returncode != 0
    assert "app: its parent `base` was removed while it was built, so the result is not taken" in done.stderr
    assert "/app:latest" not in " ".join(pair.images())
    log = (pair.folder / ".doit-images/compose.yml/logs/app.log").read_text()
    assert "127.0.0.1:0: connect: connection refused" in log
    assert "docker.io" not in log


def test_a_parent_that_is_edited_after_its_turn_is_built_first(pair: Lab) -> None:
    """Its tag is then that of an image which nobody has."""
    done = hooked(pair, "nobody", "echo B of $$ > base/file", images="base - app")
    assert done.returncode == 0, done.stderr
    assert inside(pair, "app", "/seen").startswith("B of ")
    assert pair.actions() == {"base": "fresh", "app": "fresh"}


def test_the_name_of_a_parent_breaks_no_cache_and_is_shown_nowhere(pair: Lab) -> None:
    pair.build()
    before = pair.image_id(pair.ref("app"))
    names = [name for name in pair.images() if "/app:" in name]
    docker("image", "rm", "--force", *names)
    assert pair.build() == {"app": "built"}
    assert pair.image_id(pair.ref("app")) == before
    told = (
        pair.doit("history", "app", "--json").stdout
        + (pair.folder / ".doit-images/compose.yml/logs/app.log").read_text()
    )
    assert "localhost:0" not in told
    assert f"[context base] {pair.prefix}/base:in-" in told
