"""Are the files good, and does it work? ``doit lint`` and ``doit test``."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit_images.cli.action import PLAIN, Task, fail, option
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from tasks import ROOT

_LOCK = "requirements-dev.txt"
# In the order of tests/conftest.py, the longest first: what begins last is what all wait for. And what took longest.
_BY_FILE = ("--ignore=tests/e2e", "--dist=loadfile", "--no-loadscope-reorder", "--durations=15")
# Two more than there are processors, for every test waits for something; the one engine has enough to do with eight.
_SIDE_BY_SIDE = (*_BY_FILE, f"--numprocesses={min((os.cpu_count() or 1) + 2, 8)}")
# Fewer examples for each property than in the whole suite.
_QUICK = ("--hypothesis-profile=quick", "--timeout=300")
_UNIT = (*_SIDE_BY_SIDE, *_QUICK, "-m", "not engine and not stack and not browser and not faults")
_BUILD = (sys.executable, "-m", "doit", "build_optimized")
_KEYWORD: Task = {"name": "keyword", "short": "k", "type": str, "default": "", "help": "the tests whose names match"}
# Everything once; and what confirms it elsewhere: with other engines, for longer, with other people's projects.
_ONCE = (*_SIDE_BY_SIDE, "-m", "not all")
_ELSEWHERE = (*_SIDE_BY_SIDE, "-m", "all")
# More that fail at once are no accident of a busy machine.
_FEW = 3
# What the tests use for real, by the command that shows that it is there: Debian's package names.
_PROGRAMS = {
    "busybox": "busybox-static",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "docker-registry": "docker-registry",
    "redis-server": "redis-server",
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "qemu-aarch64-static": "qemu-user-static",
}


def task__dev_environment() -> Task:
    """Install what the tests and linters need, from the hash-locked list"""
    return {"actions": [(_install_locked,)], "file_dep": [_LOCK], "uptodate": [_has_pytest], "io": {"capture": False}}


def _install_locked() -> object:
    """uv does it in a fraction of the processor time that pip takes; where it cannot (an index that only pip's own
    files name), pip does it as well."""
    from doit_images.ci.updating import locks

    print(f"installing what {_LOCK} locks", file=sys.stderr)
    from_lock = ["install", "--quiet", "--require-hashes", "--requirement"]
    pip = [sys.executable, "-m", "pip", *from_lock]
    uv = [sys.executable, "-m", "uv", "pip", *from_lock, _LOCK, "--python", sys.executable]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as alone:
        alone.write(_entry((ROOT / _LOCK).read_text(), "uv"))
        alone.flush()
        failed = run_tool([*pip, alone.name]) or run_tool(uv, locks.uv_environ(os.environ))
    return run_tool([*pip, _LOCK]) if failed else None


def _entry(text: str, name: str) -> str:
    """What a lock says of one package, with its hashes: a lock of that package alone.

    >>> _entry("a==1 \\\\\\n    --hash=sha256:00\\n    # via x\\nb==2 \\\\\\n    --hash=sha256:11\\n", "a")
    'a==1 \\\\\\n    --hash=sha256:00\\n    # via x\\n'
    """
    lines = re.search(rf"^{re.escape(name)}==.*\n(?:[ \t].*\n)*", text, re.MULTILINE)
    return lines[0] if lines else ""


def task__test_programs() -> Task:
    """Install the Debian packages that the tests use for real, where that is possible"""
    return {"actions": [(install_programs,)], "uptodate": [lambda: not missing_programs()], "io": {"capture": False}}


def task_lint() -> Iterator[Task]:
    """Check types, style, Dockerfiles, shell scripts and workflows"""
    commands = {
        "ruff": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "hadolint": ["hadolint", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docker/**/*Dockerfile"))],
        "shellcheck": [
            "shellcheck",
            "doitw",
            "--shell=sh",
            "doit_images/ui/templates/completion.sh",
            *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docker/**/*.sh")),
        ],
        "actionlint": ["actionlint", "-shellcheck=", *sorted(map(str, Path(".github/workflows").glob("*.yml")))],
        "zizmor": ["zizmor", "--offline", "--quiet", ".github", "action.yml"],
    }
    for name, argv in commands.items():
        yield {
            "name": name,
            "doc": " ".join(argv[:3]),
            "actions": [(run_tool, [[str(Path(sys.executable).parent / argv[0]), *argv[1:]]])],
            "task_dep": ["_dev_environment"],
            "io": {"capture": False},
        }


def task_test_unit() -> Task:
    """Run the tests that need no engine, stack or browser, and build nothing: [-k EXPRESSION] [PYTEST ARGUMENT …]"""
    return _running(run_unit_tests, ["_dev_environment"])


def run_unit_tests(words: Sequence[str], keyword: str = "") -> Any:
    """Run pytest on what needs nothing but Python, on all processors."""
    return run_tool([sys.executable, "-m", "pytest", *_UNIT, *_chosen(keyword), *words])


def task_test_faults() -> Task:
    """Break what doit stands on, many times, and look what is left: [--minutes N] [PYTEST ARGUMENT …]"""
    how_long = "how long what goes on at random may take together (default: a few times each, as in `test`)"
    return _running(run_faults, ["_dev_environment", "_test_programs"], option("minutes", 0.0, how_long))


def run_faults(words: Sequence[str], minutes: float = 0.0, keyword: str = "") -> object:
    """Run the tests of faults; those that go on at random share ``minutes``."""
    env = {**os.environ, "FAULTS_MINUTES": str(minutes)}
    return run_tool([sys.executable, "-m", "pytest", "-m", "faults", "tests/faults", *_chosen(keyword), *words], env)


def task_test_mutants() -> Task:
    """Change the code that decides, place by place, and see what no test notices: [--sample N] [MODULE …]"""
    sample = option("sample", 0, "try so many of them, the same each time (default: all, which takes ten minutes)")
    return {
        "actions": [(run_mutants,)],
        "task_dep": ["_dev_environment"],
        "params": [sample],
        "pos_arg": "modules",
        **PLAIN,
    }


def run_mutants(modules: Sequence[str], sample: int = 0) -> object:
    """Try mutants, and tell of them; it is a failure when too many are not noticed."""
    from benchmarks import mutants

    try:
        scores = mutants.try_mutants(modules, sample)
    except UserError as error:
        return fail(str(error))
    print(*mutants.report(scores), sep="\n")
    part = mutants.noticed(scores)
    return None if part >= mutants.AT_LEAST else fail(f"the tests notice {part:.1%}, less than {mutants.AT_LEAST:.0%}")


def task_test() -> Task:
    """Run the tests, with everything real: [-k EXPRESSION] [--all | --engine testing] [PYTEST ARGUMENT …]"""
    engine = option("engine", "here", "the engine that the tests use")
    engine["choices"] = [("here", "the one that answers here"), ("testing", "that of Debian's testing suite")]
    store = option("store", "both", "where that engine of the testing suite keeps its images")
    store["choices"] = [("classic", ""), ("containerd", ""), ("both", "one after the other")]
    more = "then also what confirms it elsewhere: other engines, every change of each path, emulation"
    options = option("all", False, more, "more"), engine, store
    return _running(run_tests, ["_dev_environment", "_test_programs"], *options)


def _running(tests: Callable[..., object], needs: Sequence[str], *options: Task) -> Task:
    """The task that runs these tests; pytest gets what it does not know itself."""
    params = [_KEYWORD, *options]
    return {"actions": [(tests,)], "task_dep": list(needs), "params": params, "pos_arg": "words", **PLAIN}


def _chosen(keyword: str) -> list[str]:
    return ["-k", keyword] if keyword else []


def run_tests(
    words: Sequence[str], *, more: bool = False, engine: str = "here", store: str = "both", keyword: str = ""
) -> object:
    """Run pytest with these words; with ``CI`` set, a skip of anything that this machine can run is a failure.

    The images are built before everything runs; of selected tests, those that need them build them (a fixture does).
    Without words everything runs once, but for ``tests/e2e``: a test runs ``ci_test``, which runs those on a stack.
    ``more`` then adds what confirms it elsewhere. With ``engine`` "testing" only the tests that use an engine run, with
    that one. What runs in each case stands in CONTRIBUTING.md.
    """
    words = [*_chosen(keyword), *words]
    if engine != "testing":
        if words:
            return _run_pytest(words)
        return run_tool(_BUILD) or _run_whole(_ONCE) or (_run_whole(_ELSEWHERE) if more else None)
    try:
        return _run_on_testing(words, ["classic", "containerd"] if store == "both" else [store])
    except UserError as error:
        return fail(str(error))


def _run_on_testing(words: Sequence[str], stores: Sequence[str]) -> object:
    """Run pytest on Debian testing's engine with each of these stores; without words, with our images there."""
    from benchmarks.newer_engine import newer_engine
    from doit_images.core.base.settings import load

    base = load().base_image
    for store in stores:
        with newer_engine("test-engine-", containerd_store=store == "containerd") as engine:
            print(f"test: with the engine of Debian's testing suite, {store} store", file=sys.stderr)
            engine.load(base)
            failed = None if words else run_tool(_BUILD, engine.environ)
            failed = failed or (
                _run_pytest(words, engine.environ)
                if words
                else _run_whole([*_SIDE_BY_SIDE, "-m", "(engine or stack) and not all"], engine.environ)
            )
        if failed:
            return failed
    return None


def _run_pytest(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> object:
    return run_tool([sys.executable, "-m", "pytest", *words], {**environ, "FORBID_SKIPS": os.environ.get("CI", "")})


def _run_whole(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> object:
    """Run pytest; of thousands of tests at once, where at most ``_FEW`` failed, run these once more, without others.

    What passes then passes, and is named in the last lines as not steady: its first failure stands above (docs/
    decisions.md says why).
    """
    with tempfile.TemporaryDirectory(prefix="test-") as cache:
        kept = f"--override-ini=cache_dir={cache}"
        failed = _run_pytest([*words, kept], environ)
        names = _last_failed(Path(cache))
        if not failed or not 0 < len(names) <= _FEW:
            return failed
        print(f"test: once more, without others beside it: {', '.join(names)}", file=sys.stderr)
        alone = {name: value for name, value in environ.items() if name != "KEEP_SECONDS"}
        failed = _run_pytest(["--last-failed", "--last-failed-no-failures=none", kept], alone)
        steady = set(_last_failed(Path(cache)))
        for name in names:
            said = "failed twice" if name in steady else "NOT STEADY: it failed among others, and passed without them"
            print(f"test: {name}: {said}", file=sys.stderr)
        return failed


def _last_failed(cache: Path) -> list[str]:
    """The tests that failed, of pytest's own notes; none where it was interrupted before it took any."""
    notes = cache / "v/cache/lastfailed"
    return sorted(json.loads(notes.read_text())) if notes.exists() else []


def missing_programs() -> list[str]:
    """The Debian packages of the programs that are not there."""
    return [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]


def install_programs() -> object:
    """Install what is missing with apt, as root or through sudo; where that cannot be, say so: those tests skip."""
    packages = missing_programs()
    apt, sudo = shutil.which("apt-get"), shutil.which("sudo")
    if not packages:
        return None
    if apt is None or (os.geteuid() != 0 and sudo is None):
        print(f"not installed, tests that need them are skipped: {', '.join(packages)}", file=sys.stderr)
        return None
    first = [] if os.geteuid() == 0 else ["sudo"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = run_tool([*first, apt, "-qq", "update"], env)
    return update or run_tool([*first, apt, "-qq", "install", "--yes", "--no-install-recommends", *packages], env)


def _has_pytest() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("pytest", "hypothesis", "uv"))


def run_tool(argv: Sequence[str], env: Mapping[str, str] | None = None) -> object:
    """Run a tool of this repository in its folder; a failure is doit's ``TaskFailed``. Interrupted, it may tidy up:
    killed meanwhile, pytest would leave engines and containers."""
    from doit.exceptions import TaskFailed

    try:
        status = commands.show(argv, cwd=ROOT, env=env, tidies=True)
    except commands.NotInstalled:
        raise UserError(f"{argv[0]} is not installed", remedy="doit _dev_environment installs it") from None
    return TaskFailed(f"{Path(argv[0]).name} ended with status {status}") if status else None
