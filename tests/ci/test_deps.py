"""Which packages are behind, and are newer ones taken only when they are old enough, build, and pass the tests?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from doit_images.ci.updating import advisories, locks, update
from doit_images.ci.updating.advisories import Advisory
from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image
from doit_images.core.inputs.image_inputs import ImageInputs
from tasks import ROOT
from tests import forked
from tests.conftest import Lab, file_in
from tests.package_index import LocalIndex, serving


def test_which_files_are_locks(tmp_path: Path) -> None:
    for path, text in {
        "a/requirements.in": "x",
        "a/requirements.txt": "x==1 \\\n    --hash=sha256:00\n",
        "b/requirements.txt": "y==1 --hash=sha256:00\n",
        "c/requirements.in": "z",
        "c/requirements.txt": "z==1\n",
        "d/requirements-dev.txt": "z==1 --hash=sha256:00\n",
        "d/notes.txt": "z==1 --hash=sha256:00\n",
        "e/uv.lock": "",
        "e/pylock.toml": "",
        "e/pylock.dev.toml": "",
        "e/other.toml": "",
        "e/package-lock.json": "",
        "e/node_modules/x/package-lock.json": "",
        ".hidden/requirements.in": "x",
        ".hidden/requirements.txt": "x==1 --hash=sha256:00\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert [str(path.relative_to(tmp_path)) for path in locks.find(tmp_path)] == [
        "a/requirements.txt",
        "b/requirements.txt",
        "d/requirements-dev.txt",
        "e/package-lock.json",
        "e/pylock.dev.toml",
        "e/pylock.toml",
        "e/uv.lock",
    ]


# As uv 0.13, pip 26 and npm 10 write them.
UV_LOCK = """version = 1
revision = 5
requires-python = ">=3.11"

[[package]]
name = "alpha"
version = "1.0"
source = { registry = "https://index.example/simple" }
wheels = [{ url = "https://index.example/alpha-1.0-py3-none-any.whl", hash = "sha256:00" }]

[[package]]
name = "app"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "alpha" }]
"""
PYLOCK = """lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "alpha"
version = "1.0"
wheels = [{ url = "https://index.example/alpha-1.0-py3-none-any.whl", hashes = { sha256 = "00" } }]
"""
NPM_LOCK = json.dumps(
    {
        "lockfileVersion": 3,
        "packages": {
            "": {"dependencies": {"alpha": "^1.0.0"}},
            "own": {"version": "1.0.0"},
            "node_modules/alpha": {"version": "1.0.0"},
            "node_modules/alpha/node_modules/@me/beta": {"version": "2.0.0-next.5"},
            "node_modules/own": {"link": True, "resolved": "own"},
        },
    }
)


@pytest.mark.parametrize(
    ("name", "text", "pinned"),
    [
        ("uv.lock", UV_LOCK, {"alpha": "1.0"}),
        ("pylock.dev.toml", PYLOCK, {"alpha": "1.0"}),
        ("package-lock.json", NPM_LOCK, {"alpha": "1.0.0", "alpha/node_modules/@me/beta": "2.0.0-next.5"}),
    ],
)
def test_what_locks_of_other_kinds_pin(name: str, text: str, pinned: dict[str, str]) -> None:
    assert locks.pins(Path(name), text) == pinned
    changed = (
        text.replace("1.0", "1.1").replace("next.5", "next.6").replace('lock-version = "1.1"', 'lock-version = "1.0"')
    )
    changes = locks.difference({Path(name): text}, {Path(name): changed})
    assert [change.name for change in changes] == sorted(pinned)
    assert not any(change.lower for change in changes)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("uv.lock", "[[package", "Expected"),
        ("uv.lock", "[[package]]\nname = 'a'\n", "there is no 'source'"),
        ("pylock.toml", "lock-version = '9.0'\ncreated-by = 'x'\npackages = []\n", "9.0"),
        ("package-lock.json", '{"lockfileVersion": 1, "dependencies": {}}', "there is no 'packages'"),
        ("package-lock.json", "[]", "list indices"),
    ],
)
def test_a_lock_that_cannot_be_read_is_said(name: str, text: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)) as caught:
        locks.pins(Path(name), text)
    assert str(caught.value).startswith(f"{name}: this lock cannot be read: ")


def test_what_cannot_be_made_again_or_is_not_understood_is_said(tmp_path: Path) -> None:
    files = {"uv.lock": UV_LOCK, "pylock.toml": PYLOCK, "web/package-lock.json": NPM_LOCK, "web/yarn.lock": "x"}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    lost = "packages are locked, and what makes the lock again is not known"
    assert list(locks.left_out(tmp_path)) == [
        "web/yarn.lock: a lock of this kind is not understood",
        f"pylock.toml: 1 {lost}",
        f"web/package-lock.json: 2 {lost}",
    ]


def test_a_project_without_locks_has_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    environ = {**os.environ, "COMPOSE_FILE": str(tmp_path / "compose.yml")}

    def ran(word: str) -> subprocess.CompletedProcess[str]:
        return forked.run([sys.executable, "-m", "doit", word], environ)

    for word, sentence in {"deps_check": "no lock that is understood is here", "deps_update": "nothing newer"}.items():
        done = ran(word)
        assert done.returncode == 0, done.stderr
        assert sentence in done.stdout
    (tmp_path / "poetry.lock").touch()
    done = ran("deps_check")
    assert done.returncode != 0
    assert "no lock here is understood: poetry.lock" in done.stderr


def test_the_difference_of_two_states() -> None:
    lock = Path("r.txt")
    before = {lock: "a==1\nB_b==2 ; python_version > '3'\nc==3 \\\n  --hash=sha256:0\n"}
    after = {lock: "a==1\nb-b==2.1\nd==4\n"}
    assert [change[1:] for change in locks.difference(before, after)] == [
        ("b-b", "2", "2.1"),
        ("c", "3", ""),
        ("d", "", "4"),
    ]


def test_what_is_held_stays_or_goes_back_and_never_ahead() -> None:
    options = update.lock_options(["Foo_Bar", "old"], {"foo-bar": "2", "other": "1.5"}, 1_800_000_000)
    assert options[0] == "--exclude-newer=2027-01-15T08:00:00Z"
    seen = [option for option in options if option.startswith("--exclude-newer-package=")]
    assert [option.split("=")[1] for option in seen] == ["foo-bar", "other"]
    assert options[3:] == ["--upgrade-package=foo-bar<=2", "--upgrade-package=old", "--upgrade-package=other<=1.5"]


def test_what_is_built_on_an_image_that_reads_a_lock_is_concerned_too() -> None:
    """Also on one that is built on such an image, and none beside them; parents come first."""

    def image(name: str, text: str = "", **parents: str) -> ImageInputs:
        return ImageInputs(Image(name, name, "/x"), Path("/x"), texts={text: ""} if text else {}, parents=parents)

    images = [image("base", "/x/r.txt"), image("mid", base="base"), image("top", mid="mid"), image("other", "/x/o.txt")]
    declared = {one.image.name: one for one in images}
    assert update.concerned(declared, {Path("/x/r.txt")}) == ["base", "mid", "top"]
    assert update.concerned(declared, {Path("/x/o.txt")}) == ["other"]


def test_newer_releases_in_a_lock_of_uvs(tmp_path: Path, index: LocalIndex) -> None:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "app").mkdir()
    lock, project = tmp_path / "app/uv.lock", tmp_path / "app/pyproject.toml"
    project.write_text(
        '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["alpha", "beta"]\n'
    )
    environ = {
        **os.environ,
        "COMPOSE_FILE": str(tmp_path / "compose.yml"),
        "UV_DEFAULT_INDEX": index.url,
        "UV_NO_CACHE": "1",
    }

    def ran(*words: str, cwd: Path = ROOT) -> str:
        run = forked.run if words[0] == sys.executable else partial(subprocess.run, capture_output=True, text=True)
        done = run(words, cwd=cwd, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    uv, doit = str(Path(sys.executable).with_name("uv")), (sys.executable, "-m", "doit")
    ran(uv, "lock", cwd=lock.parent)
    index.add("alpha", "1.1", 10)
    index.add("alpha", "9.9", 1)  # somebody took over the project yesterday
    index.add("alpha", "2.0rc1", 10)
    text = lock.read_text()
    wanted = [{"lock": "app/uv.lock", "name": "alpha", "before": "1.0", "after": "1.1"}]
    assert json.loads(ran(*doit, "deps_check", "--json")) == {"changes": wanted}
    assert lock.read_text() == text, "to look changes nothing"
    assert json.loads(ran(*doit, "deps_update", "--json")) == wanted
    ran(uv, "lock", "--check", cwd=lock.parent)
    assert json.loads(ran(*doit, "deps_update", "--json", "--cooldown", "0d"))[0]["after"] == "9.9"
    index.add("beta", "1.1", 30)
    ran(*doit, "deps_update")
    assert locks.pins(lock, lock.read_text()) == {"alpha": "9.9", "beta": "1.1"}, "what is locked stays, however young"
    ran(uv, "lock", "--check", cwd=lock.parent)


def test_a_base_takes_no_release_that_what_is_built_on_it_cannot_have(tmp_path: Path, index: LocalIndex) -> None:
    asked = {path.relative_to(ROOT): "" for path in ROOT.glob("docker/*/*.in")}
    asked |= {Path("docker/base-python/requirements.in"): "alpha\n"}
    asked |= {Path("tests/services/requirements-test.in"): "-c ../../docker/base-python/requirements.txt\nbeta\n"}
    for path, text in asked.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    shutil.copy(ROOT / "docker/lock.sh", tmp_path / "docker")
    index.add("alpha", "1.1", 200)
    index.add("alpha", "2.0", 100)
    index.requires["beta"] = "alpha<2"
    environ = update.with_tools({**os.environ, "UV_DEFAULT_INDEX": index.url, "UV_NO_CACHE": "1"})
    done = subprocess.run(["sh", "docker/lock.sh"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [tmp_path / path.with_suffix(".txt") for path in asked]
    pinned = {str(path.relative_to(tmp_path)): pins for path in made if (pins := locks.pins(path, path.read_text()))}
    assert pinned == {
        "docker/base-python/requirements.txt": {"alpha": "1.1"},
        "tests/services/requirements-test.txt": {"beta": "1.0"},
    }


# As pip-audit 2.10 answers about a lock, with status 1.
AUDITED = json.dumps(
    {
        "dependencies": [
            {"name": "alpha", "version": "1.0", "vulns": [
                {"id": "PYSEC-1", "fix_versions": ["1.0.1"], "aliases": ["CVE-2026-1"], "description": "bad"}
            ]},
            {"name": "beta", "version": "1.0", "vulns": []},
            {"name": "gamma", "skip_reason": "not on the index"},
        ],
        "fixes": [],
    }
)  # fmt: skip


def test_advisories_are_those_that_pip_audit_tells() -> None:
    lock = Path("r.txt")
    found = Advisory(lock, "alpha", "1.0", "PYSEC-1", ("CVE-2026-1",), ("1.0.1",))
    assert advisories.answered(lock, AUDITED) == ((found,), ("not on the index",))


ANY = "0" * 64  # a hash: uv refuses a lock with one of another length
LOCK = "uv pip compile --quiet --universal --generate-hashes --no-header c/requirements.in -o c/requirements.txt"
FILES = {
    "compose.yml": """name: PREFIX
services:
  app: {image: PREFIX/app, build: {context: c}}
  other: {image: PREFIX/other, build: {context: o}}
""",
    "c/requirements.in": "alpha\nbeta\n",
    "c/Dockerfile": """FROM tst-busybox:1 AS app
COPY requirements.txt /requirements.txt
FROM app AS test
RUN grep -q alpha /requirements.txt && ! grep -q 'beta==1.5' /requirements.txt
FROM app
""",
    "o/Dockerfile": "FROM tst-busybox:1\nRUN echo PREFIX > /other\n",
}


@pytest.fixture
def index() -> Iterator[LocalIndex]:
    with serving() as served:
        served.add("alpha", "1.0", 300)
        served.add("beta", "1.0", 300)
        yield served


@pytest.fixture
def locked(lab: Lab, busybox: str, index: LocalIndex) -> Lab:
    lab.write(FILES)
    lab.environ |= {"PIP_INDEX_URL": index.url, "UV_DEFAULT_INDEX": index.url, "UV_NO_CACHE": "1", "LOCK_COMMAND": LOCK}
    pins = "".join(f"{name}==1.0 \\\n    --hash=sha256:{ANY}\n" for name in ("alpha", "beta"))
    (lab.folder / "c/requirements.txt").write_text(pins)
    assert lab.build() == {"app": "built", "other": "built"}
    return lab


def pins_of(lab: Lab) -> dict[str, str]:
    lock = lab.folder / "c/requirements.txt"
    return locks.pins(lock, lock.read_text())


@pytest.mark.engine
def test_what_is_old_enough_is_taken_built_and_tested_and_a_fresh_release_never(locked: Lab, index: LocalIndex) -> None:
    index.add("alpha", "1.1", 10)
    index.add("alpha", "9.9", 1)  # somebody took over the project yesterday
    lock = locked.folder / "c/requirements.txt"
    text = lock.read_text()
    shown = json.loads(locked.doit("deps_check", "--json").stdout)
    wanted = [{"lock": "c/requirements.txt", "name": "alpha", "before": "1.0", "after": "1.1"}]
    assert shown == {"changes": wanted}
    assert lock.read_text() == text, "to look changes nothing"
    done = locked.doit("deps_update", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted
    assert "app passed in" in done.stderr
    assert pins_of(locked) == {"alpha": "1.1", "beta": "1.0"}
    assert "alpha==1.1" in file_in(locked.ref("app"), "/requirements.txt", locked.folder.parent)
    assert {name: each["action"] for name, each in locked.plan().items()} == {"app": "fresh", "other": "fresh"}
    lock.write_text(text := f"# by hand\n{lock.read_text()}")
    assert locked.doit("deps_update").stdout.strip() == "nothing newer has been there for 7d"
    assert lock.read_text() == text, "what pins the same is left alone"
    assert locked.doit("deps_update", "--cooldown", "0d", "alpha").returncode == 0
    assert pins_of(locked)["alpha"] == "9.9"
    index.add("alpha", "10", 0.5)
    index.add("beta", "1.1", 30)
    assert locked.doit("deps_update").returncode == 0
    assert pins_of(locked) == {"alpha": "9.9", "beta": "1.1"}, "what is locked stays, however young"
    text = lock.read_text()
    comments = {line.strip() for line in text.splitlines() if "#" in line}
    assert comments == {"# via -r c/requirements.in"}, "how it was locked stands in no lock: that would be a change"


@pytest.mark.engine
def test_what_fails_its_tests_is_rolled_back(locked: Lab, index: LocalIndex) -> None:
    before = (locked.folder / "c/requirements.txt").read_bytes(), locked.image_id(locked.ref("app"))
    index.add("beta", "1.5", 20)
    done = locked.doit("deps_update")
    assert done.returncode != 0
    assert "an image does not build with them, or its tests fail" in done.stderr
    assert "the locks are as they were before" in done.stderr
    assert "Traceback" not in done.stderr
    after = (locked.folder / "c/requirements.txt").read_bytes(), locked.image_id(locked.ref("app"))
    assert after == before


@pytest.mark.engine
def test_what_only_tests_read_is_tested_too(locked: Lab, index: LocalIndex) -> None:
    stage = "FROM app AS test\nCOPY tests.txt /\nRUN ! grep 'beta==1.5' /tests.txt\nFROM app\n"
    locked.write({"c/Dockerfile": FILES["c/Dockerfile"].partition("FROM app")[0] + stage, "c/tests.in": "beta\n"})
    lock = locked.folder / "c/tests.txt"
    lock.write_text(before := f"beta==1.0 \\\n    --hash=sha256:{ANY}\n")
    locked.build()
    locked.environ["LOCK_COMMAND"] = LOCK.replace("requirements", "tests")
    index.add("beta", "1.4", 30)
    done = locked.doit("deps_update", "beta")
    assert done.returncode == 0, done.stderr
    assert "app passed in" in done.stderr
    assert "1 image fresh" in done.stderr, "the image itself has none of it"
    taken = lock.read_text()
    assert locks.pins(lock, taken) == {"beta": "1.4"} != locks.pins(lock, before)
    index.add("beta", "1.5", 20)
    done = locked.doit("deps_update")
    assert done.returncode != 0
    assert "an image does not build with them, or its tests fail" in done.stderr
    assert lock.read_text() == taken


@pytest.mark.engine
def test_known_advisories_are_shown_where_pip_audit_is_installed(locked: Lab, tmp_path: Path) -> None:
    assert "pip install pip-audit" in locked.doit("deps_check").stdout
    program = tmp_path / "bin/pip-audit"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{AUDITED}'\nexit 1\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    shown = locked.doit("deps_check", PATH=path).stdout.splitlines()
    assert shown == [
        "alpha 1.0: PYSEC-1, CVE-2026-1, mended in 1.0.1 (c/requirements.txt)",
        "not on the index",
        "0 newer; 1 known advisories",
    ]
    program.write_text("#!/bin/sh\necho no connection >&2\nexit 1\n")
    done = locked.doit("deps_check", PATH=path)
    assert done.returncode != 0
    assert "pip-audit gives no answer: no connection" in done.stderr


@pytest.mark.engine
def test_bad_input_is_one_sentence(locked: Lab, index: LocalIndex) -> None:
    for words, sentence in {
        ("gamma",): "no lock of this project has the package gamma (a new one",
        ("Alhpa",): "no lock of this project has the package Alhpa (did you mean alpha?)",
        ("--cooldown", "soon"): "--cooldown soon: this is an age such as 12h or 7d",
    }.items():
        done = locked.doit("deps_update", *words)
        assert done.returncode != 0
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    before = (locked.folder / "c/requirements.txt").read_text()
    index.answers = False
    locked.environ["PIP_INDEX_URL"] = locked.environ["UV_DEFAULT_INDEX"] = index.url.replace("//", "//me:hidden@")
    done = locked.doit("deps_check")
    assert done.returncode != 0
    assert "the locks cannot be made" in done.stderr
    assert "503" in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (locked.folder / "c/requirements.txt").read_text() == before
