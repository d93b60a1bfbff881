"""Which packages are behind, and are newer ones taken only when they are old enough, build, and pass the tests?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from doit_images.ci.updating import behind, locks, update
from doit_images.ci.updating.package_index import Advisory, Known, PackageIndex, Release, releases, versioned
from tasks import ROOT
from tests.conftest import Lab, file_in
from tests.package_index import LocalIndex, serving

NOW, DAY = 1_800_000_000.0, 86400.0
CUTOFF = NOW - 7 * DAY


def known(*ages: tuple[str, float], mended_in: str = "") -> Known:
    made = tuple(Release(Version(version), NOW - days * DAY, NOW - days * DAY) for version, days in ages)
    return Known(made, False, (Advisory("GHSA-1", ("CVE-1",), "", (mended_in,)),) if mended_in else ())


def test_a_lock_is_what_is_made_from_a_file_of_the_same_name_with_hashes(tmp_path: Path) -> None:
    for path, text in {
        "a/requirements.in": "x",
        "a/requirements.txt": "x==1 \\\n    --hash=sha256:00\n",
        "b/requirements.txt": "y==1 --hash=sha256:00\n",
        "c/requirements.in": "z",
        "c/requirements.txt": "z==1\n",
        ".hidden/requirements.in": "x",
        ".hidden/requirements.txt": "x==1 --hash=sha256:00\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert list(locks.find(tmp_path)) == [tmp_path / "a/requirements.txt"]


def test_a_project_without_locks_has_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    environ = {**os.environ, "COMPOSE_FILE": str(tmp_path / "compose.yml")}
    for words, sentence in ((["deps_check"], "no requirements are locked here"), (["deps_update"], "nothing newer")):
        argv = [sys.executable, "-m", "doit", *words]
        done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sentence in done.stdout


def test_the_difference_of_two_states() -> None:
    lock = Path("r.txt")
    before = {lock: "a==1\nB_b==2 ; python_version > '3'\nc==3 \\\n  --hash=sha256:0\n"}
    after = {lock: "a==1\nb-b==2.1\nd==4\n"}
    assert [change[1:] for change in locks.difference(before, after)] == [
        ("b-b", "2", "2.1"),
        ("c", "3", ""),
        ("d", "", "4"),
    ]


def test_what_is_behind_comes_with_the_time_of_the_first_newer_release() -> None:
    of = {
        ("a", "1"): known(("1", 90), ("1.1", 30), ("2.0b1", 20), ("1.2", 10)),
        ("b", "2"): known(("2", 9), ("20000101", 9000)),  # counted by days once
        ("c", "1"): known(("1", 99), ("1.0.1", 3), mended_in="1.0.1"),
    }
    rows = behind.packages({"x.txt": "a==1\nb==2\n", "y.txt": "c==1\na==1\n"}, of)
    assert [(row.name, row.newest, row.since, row.locks) for row in rows] == [
        ("c", "1.0.1", NOW - 3 * DAY, ("y.txt",)),
        ("a", "1.2", NOW - 30 * DAY, ("x.txt", "y.txt")),
        ("b", "2", None, ("x.txt",)),
    ]


@pytest.mark.parametrize(
    ("of", "allowed"),
    [
        (known(("1", 30), ("2", 3)), None),  # nothing young is needed
        (known(("1", 2)), "1"),  # what is locked stays
        (known(("1", 30), ("1.1", 2), ("2", 1), mended_in="1.1"), "1.1"),  # the oldest release that mends it
        (known(("1", 30), ("1.1", 2), ("2", 9), mended_in="1.1"), None),  # one that is old enough mends it too
        (known(("1", 30), ("2", 1), mended_in="3"), None),  # nothing mends it yet
    ],
)
def test_only_what_mends_an_advisory_may_be_younger(of: Known, allowed: str | None) -> None:
    found = behind.exceptions({("p", "1"): of}, CUTOFF)
    assert {name: str(release.version) for name, release in found.items()} == ({"p": allowed} if allowed else {})


def test_others_keep_their_pins_however_young() -> None:
    """Two locks may pin a package otherwise: what one has is no reason to move the other. And a release is seen with
    all its files, whose hashes the lock has."""
    allowed = {name: Release(Version("2"), CUTOFF + 10, CUTOFF + 60) for name in ("foo-bar", "other")}
    options = update.lock_options(["Foo_Bar", "old"], allowed, CUTOFF)
    seen = update.lock_options([], {}, CUTOFF + 61)[0].partition("=")[2]
    assert options[1:] == [
        "--upgrade-package=Foo_Bar<=2",
        "--upgrade-package=old",
        f"--exclude-newer-package=foo-bar={seen}",
        f"--exclude-newer-package=other={seen}",
    ]


def test_a_release_is_as_old_as_its_first_file_and_what_is_yanked_is_none() -> None:
    def file(name: str, day: int, **more: object) -> dict[str, object]:
        return {"filename": name, "upload-time": f"2026-11-{day:02}T00:00:00Z", **more}

    found = releases(
        versioned(
            [
                file("p-1.10.tar.gz", 9),
                file("p-1.10-py3-none-any.whl", 8),
                file("p-1.9-py3-none-any.whl", 3),
                file("p-1.11-py3-none-any.whl", 4, yanked="broken"),
                file("p-1.0.exe", 1),
                {"filename": "p-1.12.tar.gz"},
            ]
        )
    )
    assert [str(release.version) for release in found] == ["1.9", "1.10", "1.12"]
    assert found[0].uploaded
    assert found[1].uploaded
    assert found[1].uploaded - found[0].uploaded == 5 * DAY
    assert found[1].complete == found[1].uploaded + DAY
    assert found[2].uploaded is None


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
    return locks.pins((lab.folder / "c/requirements.txt").read_text())


def test_advisories_are_asked_for_where_they_can_count(index: LocalIndex) -> None:
    for name in ("alpha", "beta"):
        index.advisories[name, "1.0"] = [{"id": "PYSEC-1", "fixed_in": []}]
    both = {("alpha", "1.0"), ("beta", "1.0")}
    for advised, told in ((None, both), ({"beta"}, {("beta", "1.0")})):
        answers = PackageIndex(index.url).look_up(both, advised)
        assert {pin for pin, answer in answers.items() if answer.advisories} == told
        assert all(answer.releases for answer in answers.values())


@pytest.mark.engine
def test_what_is_old_enough_is_taken_built_and_tested_and_a_fresh_release_never(locked: Lab, index: LocalIndex) -> None:
    index.add("alpha", "1.1", 10)
    index.add("alpha", "9.9", 1)  # somebody took over the project yesterday
    rows = {row["name"]: row for row in json.loads(locked.doit("deps_check", "--json").stdout)}
    assert (rows["alpha"]["newest"], rows["alpha"]["locks"]) == ("9.9", ["c/requirements.txt"])
    assert rows["beta"]["behind"] is False
    done = locked.doit("deps_update", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"lock": "c/requirements.txt", "name": "alpha", "before": "1.0", "after": "1.1"}]
    assert "app passed in" in done.stderr
    assert pins_of(locked) == {"alpha": "1.1", "beta": "1.0"}
    assert "alpha==1.1" in file_in(locked.ref("app"), "/requirements.txt", locked.folder.parent)
    assert {name: each["action"] for name, each in locked.plan().items()} == {"app": "fresh", "other": "fresh"}
    lock = locked.folder / "c/requirements.txt"
    lock.write_text(text := f"# by hand\n{lock.read_text()}")
    assert locked.doit("deps_update").stdout.strip() == "nothing newer has been there for 7d"
    assert lock.read_text() == text, "what pins the same is left alone"
    assert locked.doit("deps_update", "--cooldown", "12h", "alpha").returncode == 0
    assert pins_of(locked)["alpha"] == "9.9"


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
    assert locks.pins(taken) == {"beta": "1.4"} != locks.pins(before)
    index.add("beta", "1.5", 20)
    done = locked.doit("deps_update")
    assert done.returncode != 0
    assert "an image does not build with them, or its tests fail" in done.stderr
    assert lock.read_text() == taken


@pytest.mark.engine
def test_a_fix_may_be_fresh_and_nothing_else_of_that_package(locked: Lab, index: LocalIndex) -> None:
    index.add("alpha", "1.0.1", 1)
    index.add("alpha", "2.0", 2)
    index.advisories["alpha", "1.0"] = [{"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fixed_in": ["1.0.1"]}]
    shown = locked.doit("deps_check").stdout
    assert "CVE-2026-1" in shown
    assert "1 of 2 packages are behind, 1 have a known advisory" in shown
    assert locked.doit("deps_update").returncode == 0
    assert pins_of(locked)["alpha"] == "1.0.1"
    text = (locked.folder / "c/requirements.txt").read_text()
    comments = {line.strip() for line in text.splitlines() if "#" in line}
    assert comments == {"# via -r c/requirements.in"}, "how it was locked stands in no lock: that would be a change"


@pytest.mark.engine
def test_bad_input_is_one_sentence(locked: Lab, index: LocalIndex) -> None:
    for words, sentence in {
        ("gamma",): "no lock of this project has the package gamma",
        ("--cooldown", "soon"): "--cooldown soon: this is an age such as 12h or 7d",
    }.items():
        done = locked.doit("deps_update", *words)
        assert done.returncode != 0
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    index.answers = False
    locked.environ["PIP_INDEX_URL"] = locked.environ["UV_DEFAULT_INDEX"] = index.url.replace("//", "//me:hidden@")
    done = locked.doit("deps_check")
    assert done.returncode != 0
    assert "the package index answers 503" in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr
