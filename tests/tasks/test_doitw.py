"""doitw: the environment follows the lock, an engine is found or made, and nothing that is there is touched."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import checks
from tests.conftest import ROOT, docker
from tests.owners import own
from tests.waiting import patience

BASE = f"{own('doitw-')}:1"
# Says how it was called; `exec` in doitw must hand over everything as it was.
PROGRAM = """\
import os, sys
print(os.getcwd(), os.environ.get("COMPOSE_FILE", "-"), *(f"<{word}>" for word in sys.argv[1:]))
"""


def wheel(folder: Path, version: str) -> Path:
    """A package `doit` that only prints."""
    path = folder / f"doit-{version}-py3-none-any.whl"
    info = f"doit-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("doit_images/cli.py", PROGRAM)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: doit\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def lock(repo: Path, version: str, digest: str = "") -> None:
    """The lock of `repo` asks for this version of the package."""
    path = wheel(repo.parent, version)
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    (repo / "requirements.txt").write_text(f"doit @ {path.as_uri()} --hash=sha256:{digest}\n")


def laid(folder: Path) -> Path:
    """A repository with `doitw`, whose path has a space."""
    repo = folder / "the repository"
    repo.mkdir()
    shutil.copy(ROOT / "doitw", repo)
    lock(repo, "1.0")
    return repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return laid(tmp_path)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A repository after its first run, with an environment that Python itself made."""
    repo = laid(tmp_path_factory.mktemp("first"))
    return repo, run(repo, "list", "-n", "3", "two words", "*", COMPOSE_FILE="a.yml:/b/c.yml:sub/d.yml")


@pytest.fixture(scope="session")
def empty(first: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That environment as it was before anything was installed into it."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    shutil.copytree(first[0] / ".venv", folder, symlinks=True)
    for path in (*folder.glob("lib/*/site-packages/doit*"), folder / "requirements.txt", folder / "made-with"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.fixture
def python(empty: Path, tmp_path: Path) -> Path:
    """`python3 -m venv --clear` links what it once made, for to make it takes more than all else that doitw does."""
    place = tmp_path / "quick/python3"
    place.parent.mkdir()
    real = Path(sys.executable).resolve()
    place.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3" = "-m venv --clear" ] || exec {real} "$@"\n'
        f'rm -rf "$4" && mkdir -p "$4" && cp -a -l {empty}/. "$4"\n'
    )
    place.chmod(0o755)
    return place


@pytest.fixture
def quick(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{python.parent}:{os.environ['PATH']}")


def run(repo: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(repo / "doitw"), *words],
        cwd=repo.parent,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )


def version(repo: Path) -> str:
    found = list(repo.glob(".venv/lib/*/site-packages/doit-*.dist-info"))
    return ", ".join(path.name for path in found)


def test_it_makes_the_environment_once_and_hands_everything_over(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    repo, done = first
    assert done.returncode == 0, done.stderr
    files = f"{repo.parent}/a.yml:/b/c.yml:{repo.parent}/sub/d.yml"
    assert done.stdout == f"{repo} {files} <list> <-n> <3> <two words> <*>\n"
    assert done.stderr.splitlines() == ["doitw: installing what requirements.txt locks into .venv"]
    second = run(repo, "list")
    assert (second.stdout, second.stderr) == (f"{repo} - <list>\n", "")
    assert sorted(path.name for path in repo.iterdir()) == [".venv", "doitw", "requirements.txt"]


@pytest.mark.usefixtures("quick")
def test_a_changed_lock_is_installed(repo: Path) -> None:
    run(repo, "list")
    lock(repo, "2.0")
    done = run(repo, "list")
    assert done.returncode == 0, done.stderr
    assert version(repo) == "doit-2.0.dist-info"


@pytest.mark.usefixtures("quick")
def test_another_python_in_the_place_of_the_one_before_gets_its_packages(repo: Path, tmp_path: Path) -> None:
    """As an upgrade of the system leaves it: `python3` is another, and finds none of what the one before installed."""
    run(repo, "list")
    shutil.rmtree(*(repo / ".venv/lib").glob("python3.*"))
    (repo / ".venv/made-with").unlink()
    (repo / ".venv/made-with").symlink_to(tmp_path / "gone")
    done = run(repo, "list")
    assert done.returncode == 0, done.stderr
    assert version(repo) == "doit-1.0.dist-info"


@pytest.mark.usefixtures("quick")
def test_a_package_that_is_not_the_locked_one_is_refused_and_nothing_is_remembered(repo: Path) -> None:
    lock(repo, "1.0", digest="0" * 64)
    done = run(repo, "list")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("doitw: could not install what requirements.txt locks")
    lock(repo, "1.0")
    assert run(repo, "list").returncode == 0


@pytest.mark.usefixtures("quick")
def test_an_environment_that_was_not_finished_or_whose_python_is_gone_is_made_again(repo: Path) -> None:
    run(repo, "list")
    (repo / ".venv/requirements.txt").unlink()
    shutil.rmtree(next(repo.glob(".venv/lib/*/site-packages/doit-1.0.dist-info")))
    assert run(repo, "list").returncode == 0
    for link in repo.glob(".venv/bin/python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    done = run(repo, "list")
    assert done.returncode == 0, done.stderr
    assert version(repo) == "doit-1.0.dist-info"


def test_an_environment_that_is_a_link_is_another_s_and_stays_as_it_is(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "other/bin").mkdir(parents=True)
    (repo / ".venv").symlink_to(tmp_path / "other")
    done = run(repo, "list")
    assert (done.returncode, done.stderr.startswith("doitw: .venv is a link")) == (1, True), done.stderr
    assert list((tmp_path / "other").iterdir()) == [tmp_path / "other/bin"]


def test_who_presses_tab_gets_nothing_installed(repo: Path) -> None:
    done = run(repo, "_words_for_completion")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (repo / ".venv").exists()


@pytest.fixture
def mac(python: Path, tmp_path: Path) -> dict[str, str]:
    """An environment with what doitw finds on macOS: no flock, setsid or apt-get, and no options that GNU added."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox: apt-get install busybox-static")
    folder = tmp_path / "mac"
    folder.mkdir()
    for name in ("cat", "cmp", "cp", "env", "grep", "id", "ln", "mkdir", "mv", "rm", "sh", "sleep"):
        (folder / name).symlink_to(busybox)
    (folder / "python3").symlink_to(python)
    assert subprocess.run([folder / "env", "--block-signal=INT", "true"], capture_output=True).returncode != 0
    return {"PATH": str(folder), "HOME": str(tmp_path)}


def test_on_a_mac_it_makes_the_environment_and_says_what_to_install(repo: Path, mac: dict[str, str]) -> None:
    """Tried by hand with FreeBSD's sh and tools, as macOS has them, too; see docs/your-project.md."""

    def doitw(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [f"{mac['PATH']}/sh", "doitw", *words]
        return subprocess.run(argv, cwd=repo, env=mac, capture_output=True, text=True)

    done = doitw("list")
    assert (done.returncode, done.stdout) == (0, f"{repo} - <list>\n"), done.stderr
    assert done.stderr.splitlines() == ["doitw: installing what requirements.txt locks into .venv"]
    done = doitw("plan")
    assert done.returncode == 1
    assert done.stderr.startswith("doitw: no Docker engine with buildx and Compose here: install Docker")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("flock", [True, False])
def test_several_at_once_install_once(repo: Path, flock: bool, tmp_path: Path) -> None:
    environ = dict(os.environ)
    if not flock:
        hidden = tmp_path / "without"
        hidden.mkdir()
        names = {path.name: path for folder in ("/usr/bin", "/bin") for path in Path(folder).iterdir()}
        for name in names.keys() - {"flock"}:
            (hidden / name).symlink_to(names[name])
        environ["PATH"] = f"{environ['PATH'].split(os.pathsep)[0]}:{hidden}"
        assert shutil.which("flock", path=environ["PATH"]) is None
    argv = [str(repo / "doitw"), "list"]
    runs = [
        subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ends = [one.communicate(timeout=patience()) for one in runs]
    assert [one.returncode for one in runs] == [0] * 4, ends
    assert sum("installing" in stderr for _, stderr in ends) == 1


def test_an_old_python_is_said_in_a_sentence(repo: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\n[ "$1" = --version ]\n')
        (old / name).chmod(0o755)
    done = run(repo, "list", PATH=f"{old}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "doitw: Python 3.11 or later is needed, and this machine has Python 3.9.2" in done.stderr
    assert not (repo / ".venv").exists()


# ---- the engine: on a machine of its own, where apt-get, dockerd and docker tell what is asked of them

STUBS = {
    # Installing "docker.io" brings the commands that the real package brings.
    "apt-get": """\
echo "apt-get $*" >>/log
case "$*" in
*" install "*docker.io*)
    printf '#!/bin/sh\\necho "docker $*" >>/log; [ -e /started ]\\n' >/stubs/docker
    printf '#!/bin/sh\\necho "dockerd $* in $PWD" >>/log; : >/started\\n' >/stubs/dockerd
    chmod +x /stubs/docker /stubs/dockerd ;;
esac
plugins=/usr/libexec/docker/cli-plugins
case "$*" in *" install "*docker-buildx*) mkdir -p $plugins; cp /usr/bin/true $plugins/docker-buildx ;; esac
case "$*" in *" install "*docker-compose*) mkdir -p $plugins; cp /usr/bin/true $plugins/docker-compose ;; esac
""",
    "apt-cache": """case " $KNOWN " in *" $2 "*) ;; *) exit 100 ;; esac\n""",
    "sleep": "",
}
DEBIAN_13 = "docker.io docker-cli docker-buildx docker-compose iptables mmdebstrap debian-archive-keyring"
UBUNTU = "docker.io docker-buildx docker-compose-v2 docker-compose iptables mmdebstrap debian-archive-keyring"
DEBIAN_12 = "docker.io docker-compose iptables mmdebstrap debian-archive-keyring"


@pytest.fixture
def machine(base_image: str, tmp_path: Path) -> Iterator[Path]:
    """What a container needs to be a machine with the repository, a ready environment, and no Docker; and its image,
    which is Debian's as the project's base is."""
    docker("tag", base_image, BASE)
    (tmp_path / "repo/.venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "doitw", tmp_path / "repo")
    for name in ("requirements.txt", ".venv/requirements.txt"):
        (tmp_path / "repo" / name).write_text("a lock\n")
    stubs = {**STUBS, "../repo/.venv/bin/python": 'shift 2\necho "doit $*"\n'}
    (tmp_path / "stubs").mkdir()
    for name, text in stubs.items():
        path = tmp_path / "stubs" / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
    (tmp_path / "repo/.venv/made-with").symlink_to("bin/python")
    yield tmp_path
    docker("image", "rm", BASE)


def doitw(
    machine: Path, words: str, *options: str, known: str = DEBIAN_13, before: str = "", image: str = BASE
) -> tuple[int, str, str]:
    """Run doitw there; returns its status, what it said, and what was asked of the stubs."""
    script = f": >/log; {before} /repo/doitw {words} 2>&1; status=$?; echo; echo LOG; cat /log; exit $status"
    done = docker(
        *("run", "--rm", "--env", f"KNOWN={known}"),
        *("--env", "PATH=/stubs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        *("--volume", f"{machine}/repo:/repo:ro", "--volume", f"{machine}/stubs:/mnt/stubs:ro"),
        *(options if "--network" in options else ("--network", "none", *options)),
        *(image, "sh", "-c", f"cp -r /mnt/stubs /stubs; {script}"),
    )
    said, _, log = done.stdout.partition("\nLOG\n")
    return done.returncode, said + done.stderr, log


@pytest.mark.engine
@pytest.mark.parametrize(
    ("known", "installed"),
    [
        (DEBIAN_13, "docker.io docker-cli docker-buildx docker-compose iptables mmdebstrap debian-archive-keyring"),
        (UBUNTU, "docker.io docker-buildx docker-compose-v2 iptables mmdebstrap debian-archive-keyring"),
    ],
    ids=["as Debian", "as Ubuntu"],
)
def test_without_an_engine_it_installs_and_starts_one(machine: Path, known: str, installed: str) -> None:
    status, said, log = doitw(machine, "build_optimized -n 2", known=known)
    assert status == 0, said
    assert said.splitlines()[-1] == "doit build_optimized -n 2"
    wanted = " ".join(line.partition("--no-install-recommends ")[2] for line in log.splitlines())
    assert sorted(wanted.split()) == sorted(installed.split())
    assert log.count("dockerd ") == 1
    assert "dockerd  in /\n" in log, "a folder that may go, and it could run no git"


# What stands there and which versions, real apt says; only to unpack it all, and to start an engine, is left out.
REAL_APT = """\
echo "apt-get $*" >>/log
case " $* " in
*" install "*)
    /usr/bin/apt-get "$@" --simulate | tee -a /simulated | grep ^Inst >>/log || exit
    has() { grep -q "^Inst $1 " /simulated; }
    plugins=/usr/libexec/docker/cli-plugins
    mkdir -p $plugins
    ! has docker.io || printf '#!/bin/sh\\n[ -e /started ]\\n' >/stubs/docker
    ! has docker.io || printf '#!/bin/sh\\n: >/started\\n' >/stubs/dockerd
    ! has docker-buildx || cp /usr/bin/true $plugins/docker-buildx
    ! has docker-compose-v2 || cp /usr/bin/true $plugins/docker-compose
    chmod +x /stubs/* ;;
*) exec /usr/bin/apt-get "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def ubuntu(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Ubuntu 24.04 with Python, made from its packages, as an image."""
    folder, name = tmp_path_factory.mktemp("ubuntu"), f"tst-ubuntu:{os.getpid()}"
    key = f"{folder}/usr/share/keyrings/ubuntu-archive-keyring.gpg"
    options = f"--variant=minbase --include=python3,python3-venv --components=main,universe --keyring={key}"
    for argv in (
        ["apt-get", "-qq", "download", "ubuntu-keyring"],
        ["sh", "-c", "dpkg -x ubuntu-keyring*.deb ."],
        # The user that apt downloads as may not read the tests' folders.
        ["mmdebstrap", "--quiet", '--aptopt=APT::Sandbox::User "root"', *options.split(), "noble", "root.tar"],
    ):
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no index of packages can be reached that has Ubuntu's: {done.stderr.strip()[-200:]}")
    assert docker("import", f"{folder}/root.tar", name).returncode == 0
    yield name
    docker("image", "rm", "--force", name)


@pytest.mark.all
@pytest.mark.engine
def test_a_real_ubuntu_has_all_that_is_installed_and_new_enough(machine: Path, ubuntu: str) -> None:
    (machine / "stubs/apt-get").write_text(f"#!/bin/sh\n{REAL_APT}")
    (machine / "stubs/apt-cache").unlink()
    programs = " ".join(checks._PROGRAMS.values())
    tests = (
        f"/usr/bin/apt-get -qq update; /usr/bin/apt-get -qq --simulate install {programs} >/dev/null || echo not all"
    )
    status, said, log = doitw(
        machine, "build_optimized", "--network", "bridge", before=f"{tests} >>/log;", image=ubuntu
    )
    assert (status, said.splitlines()[-1]) == (0, "doit build_optimized"), said
    assert "not all" not in log, "of what the tests need"
    found = dict(re.findall(r"^Inst (docker\S+) \(([0-9]+\.[0-9]+)", log, re.M))
    assert found.keys() == {"docker.io", "docker-buildx", "docker-compose-v2"}
    newest = {name: tuple(map(int, version.split("."))) for name, version in found.items()}
    assert newest["docker-buildx"] >= (0, 13)
    assert newest["docker-compose-v2"] >= (2, 26)


@pytest.mark.engine
def test_a_release_that_is_too_old_is_said_in_a_sentence(machine: Path) -> None:
    status, said, log = doitw(machine, "build_optimized", known=DEBIAN_12)
    assert status == 1
    assert "too old for buildx and Compose v2 (Debian 12 is): install Docker" in said.splitlines()[-1]
    assert "dockerd" not in log


@pytest.mark.engine
def test_what_needs_no_engine_asks_for_none(machine: Path) -> None:
    *first, last = words = ["list --all", "help", "info x", "--version", "clean", "forget", "completion bash"]
    status, said, log = doitw(machine, last, before=" ".join(f"/repo/doitw {each} 2>&1;" for each in first))
    assert (status, said.splitlines(), log) == (0, [f"doit {each}" for each in words], "")


@pytest.mark.engine
def test_without_root_or_sudo_it_says_what_to_install(machine: Path) -> None:
    (machine / "stubs").chmod(0o755)
    status, said, _ = doitw(machine, "build_optimized", before="chmod 666 /log; setpriv --reuid=1000 --clear-groups")
    assert status == 1
    assert said.splitlines()[-1].startswith("doitw: no Docker engine with buildx and Compose here: install Docker")


@pytest.mark.engine
def test_an_engine_elsewhere_is_not_ours_to_start(machine: Path) -> None:
    plugins = "mkdir -p /usr/libexec/docker/cli-plugins; cd /usr/libexec/docker/cli-plugins; "
    plugins += "for name in docker-buildx docker-compose /stubs/docker; do cp /usr/bin/false $name; done;"
    status, said, log = doitw(machine, "plan", "--env", "DOCKER_HOST=tcp://192.0.2.1:2375", before=plugins)
    assert (status, said.strip(), log) == (0, "doit plan", "")
    context = 'mkdir -p /root/.docker; echo "{ \\"currentContext\\": \\"far\\" }" >/root/.docker/config.json;'
    status, said, log = doitw(machine, "plan", before=plugins + context)
    assert (status, said.strip(), log) == (0, "doit plan", "")


@pytest.mark.engine
def test_a_docker_that_is_not_the_distributions_is_left_alone(machine: Path) -> None:
    status, said, log = doitw(machine, "plan", before="cp /usr/bin/false /stubs/docker;")
    assert status == 1
    assert said.splitlines()[-1].startswith("doitw: this machine's Docker has no buildx or no Compose: install Docker")
    assert log == ""


@pytest.mark.engine
def test_an_engine_that_does_not_start_is_said_with_its_log(machine: Path) -> None:
    never = "printf '#!/bin/sh\\n' >/stubs/setsid; chmod +x /stubs/setsid;"
    status, said, _ = doitw(machine, "plan", before=never)
    assert status == 1
    assert said.splitlines()[-1] == (
        "doitw: the Docker engine does not answer after 60 seconds; see /var/log/dockerd.log"
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    ("process", "kept"),
    [("sleep", ""), ("dockerd", "/run/docker.pid")],
    ids=["another process", "an engine that starts"],
)
def test_the_number_of_a_killed_engine_is_removed_once_another_process_has_it(
    machine: Path, process: str, kept: str
) -> None:
    """dockerd would say that containerd "is still running", wait for it, and end."""
    (machine / "stubs/setsid").write_text(
        "#!/bin/sh\nls /run/docker.pid /run/docker/containerd/* >>/log; : >/started\n"
    )
    (machine / "stubs/setsid").chmod(0o755)
    run_it = f"cp /usr/bin/tail /tmp/{process}; /tmp/{process} -f /dev/null & echo $! >/run/docker.pid;"
    left = "mkdir -p /run/docker/containerd; echo 1 >/run/docker/containerd/containerd.pid;"
    status, said, log = doitw(machine, "plan", before=run_it + left)
    assert status == 0, said
    assert [line for line in log.splitlines() if line.startswith("/run")] == kept.split()


@pytest.mark.engine
@pytest.mark.usefixtures("quick")
def test_an_engine_that_answers_is_not_even_asked(repo: Path, tmp_path: Path) -> None:
    """The kernel's list of sockets tells; a call of `docker version` would take longer than everything else."""
    if os.environ.get("DOCKER_HOST") or not Path("/var/run/docker.sock").is_socket():
        pytest.skip("the engine of this machine is not at /var/run/docker.sock")
    run(repo, "list")
    calls = tmp_path / "bin"
    calls.mkdir()
    (calls / "docker").write_text(f'#!/bin/sh\necho "$*" >>\'{tmp_path}/calls\'\nexec /usr/bin/docker "$@"\n')
    (calls / "docker").chmod(0o755)
    done = run(repo, "plan", PATH=f"{calls}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "calls").exists()
