"""What stays on the disk of the registry that ships here: after its sweep, and after a year of builds and prunings."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from doit_images.ci.results.shared import KIND
from doit_images.core.base.references import digest_of, tag_of
from doit_images.core.base.timestamps import utc
from doit_images.core.buildkit import backends
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.core.run import Parts, Run
from doit_images.pruning import registry_prune
from doit_images.share.client import Client
from doit_images.share.connection import Machines
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry
from doit_images.share.signing import BUNDLE
from tests import loopback
from tests.conftest import ROOT
from tests.pruning.pusher import Pusher

SWEEP = ROOT / "docker" / "registry" / "sweep.py"
WEEK = 7 * 86400
CACHE = "application/vnd.buildkit.cacheconfig.v0"


def sweep(folder: Path, *words: str, seconds: float = WEEK) -> str:
    """Sweep and collect what a registry in this folder holds that does not serve, as the entrypoint does."""
    data = str(folder / "data/docker/registry/v2")
    said = subprocess.run([sys.executable, str(SWEEP), data, str(seconds)], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    collect(folder, *words)
    return said.stdout


def collect(folder: Path, *words: str) -> None:
    argv = ["docker-registry", "garbage-collect", *words, str(folder / "config.yml")]
    subprocess.run(argv, check=True, capture_output=True)


def aged(folder: Path, *but: str) -> None:
    """Let a month go by for all links, but those whose path has one of these parts."""
    then = time.time() - 30 * 86400
    for link in folder.rglob("link"):
        if not any(part in str(link) for part in but):
            os.utime(link, (then, then))


def test_the_registry_forgets_what_nothing_needs_and_nothing_else(tmp_path: Path) -> None:
    """What its own `--delete-untagged` would take: the images of an index, and what is attached to what stays."""
    folder, path = tmp_path / "registry", "app/one"
    with loopback.registry(folder) as server:
        push = Pusher(server, path)
        signed = push.manifest("in-1", {"n": 1}, [b"base", b"1"])
        report = push.attach(signed, b"report", "a/report")
        push.attach(report, b"its signature", "a/signature")
        child = push.manifest("", {"n": 2}, [b"base", b"2"])
        push.attach(child, b"nobody lists it", "a/report", listed=False)
        whole = push.index("in-2", [child])
        foreign = push.manifest(f"sha256-{'0' * 64}.sig", {"n": 3}, [b"of another repository"])
        replaced = push.manifest("cache-main", {"n": 4}, [b"base", b"4"])
        lost = [
            replaced,
            push.attach(replaced, b"signature of what goes", "a/signature"),
            push.manifest("", {"n": 5}, [b"5"]),
        ]
        kept = [signed, report, child, whole, foreign, push.manifest("cache-main", {"n": 6}, [b"base", b"6"])]
    shutil.copytree(folder, tmp_path / "other")
    assert sweep(folder) == "manifests forgotten: 0\n", "all of it was pushed lately"
    aged(folder)
    here = f"index/sha256/{kept[-1].partition(':')[2]}"
    for link in folder.rglob(f"{here}/link"):
        os.utime(link)
    assert sweep(folder) == "manifests forgotten: 1\n", "one lost its tag lately"
    aged(folder)
    assert sweep(folder) == "manifests forgotten: 3\n", "it, its signature and the list of that"
    with loopback.registry(folder, port=server.port) as server:
        registry = Registry(server.address)
        for digest in kept:
            for part in push.parts(digest):
                assert read(registry, path, part), (digest, part)
        gone = {part for digest in lost for part in push.parts(digest)} - {p for one in kept for p in push.parts(one)}
        assert not any(read(registry, path, part) for part in gone)
        assert not {part.partition(":")[2] for part in gone} & {place.name for place in folder.rglob("*")}
    # The copy that was made before shows what the registry's own way takes.
    config = tmp_path / "other/config.yml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path / "other")))
    collect(tmp_path / "other", "--delete-untagged")
    there = {place.name for place in (tmp_path / "other/data/docker/registry/v2/blobs").rglob("*")}
    of_child, of_report = (digest_of(content).partition(":")[2] for content in (b"2", b"report"))
    assert not {of_child, of_report} & there


def read(registry: Registry, path: str, digest: str) -> bytes:
    """A manifest or a blob; nothing where the registry does not give it."""
    for ask in (registry.small_blob, registry.raw_manifest):
        try:
            return ask(path, digest)
        except NoImage:
            continue
    return b""


AGE = 30  # the default of REGISTRY_MAX_AGE, in days
FILES = {
    "compose.yml": "services: {one: {image: app/one, build: .}, two: {image: app/two, build: {context: two}}}\n",
    "Dockerfile": "FROM scratch\nCOPY text /\n",
    "two/Dockerfile": "FROM scratch\nLABEL a=b\n",
}


class Commit(NamedTuple):
    """A commit of the year: its number, the day it was made, its branch, and the commits before it."""

    number: int
    day: float
    branch: str
    parents: tuple[int, ...]


class Year:
    """500 commits and 60 branches beside ``main`` in the year that ends now. A branch lives for eight days; of what
    is merged, half has no merge commit, so that nothing leads to the commits of the branch any more. Three branches
    are still there, one of them forgotten since spring."""

    alive: ClassVar = (10, 58, 59)

    def __init__(self) -> None:
        self.began = time.time() - 365 * 86400
        self.commits: list[Commit] = []
        self.tips: dict[str, int] = {}
        work = [(6 * one + day + 0.5, one) for one in range(60) for day in range(7)]
        merges = [(6 * one + 8, -one - 1) for one in range(60) if one not in self.alive]
        direct = [(364.5 * at / 82, 60) for at in range(1, 83)]
        for day, what in sorted([(0.0, 60), *work, *merges, *direct]):
            self._go_on(day, what)

    def _go_on(self, day: float, what: int) -> None:
        main = self.tips.get("main")
        before, branch = (main,) if main is not None else (), f"feature/{what if what >= 0 else -what - 1}"
        if what == 60:
            self._commit(day, "main", before)
        elif what < 0:
            tip = self.tips.pop(branch)
            self._commit(day, "main", (*before, tip) if what % 2 else before)
        elif branch not in self.tips:
            self.tips[branch] = self.tips["main"]
        else:
            self._commit(day, branch, (self.tips[branch],))

    def _commit(self, day: float, branch: str, parents: tuple[int, ...]) -> None:
        self.tips[branch] = len(self.commits)
        self.commits.append(Commit(len(self.commits), day, branch, parents))

    def seconds(self, day: float) -> int:
        return int(self.began + day * 86400)

    def releases(self) -> list[int]:
        """The commits of ``main`` that are tagged: four in the year."""
        mine = [one for one in self.commits if one.branch == "main"]
        return [next(one.number for one in mine if one.day >= day) for day in (60, 150, 240, 330)]

    def script(self) -> str:
        """All of it for ``git fast-import``."""
        said = []
        for one in self.commits:
            when, text = f"a <a@b> {self.seconds(one.day)} +0000", str(one.number)
            said += ["commit refs/heads/all", f"mark :{one.number + 1}", f"committer {when}", "data 1", "x"]
            said += [f"{'from' if not at else 'merge'} :{parent + 1}" for at, parent in enumerate(one.parents)]
            for name, content in {**FILES, "text": text}.items():
                said += [f"M 100644 inline {name}", f"data {len(content)}", content]
        said += [f"reset refs/heads/{branch}\nfrom :{tip + 1}" for branch, tip in self.tips.items()]
        said += [f"reset refs/tags/v{at}\nfrom :{tip + 1}" for at, tip in enumerate(self.releases())]
        return "\n".join(said) + "\n"

    def needed(self) -> set[int]:
        """The commits whose results are to stay: ends and releases; what was made in the last days, wherever; and what
        such a commit, as far as something leads to it, took the place of."""
        todo, reached = [*self.tips.values(), *self.releases()], set[int]()
        while todo:
            if (number := todo.pop()) not in reached:
                reached.add(number)
                todo += self.commits[number].parents
        young = {one.number for one in self.commits if one.day > 365 - AGE}
        replaced = {parent for number in young & reached for parent in self.commits[number].parents}
        return {*self.tips.values(), *self.releases(), *young, *replaced}


class Pushed:
    """What the machines of a team pushed in that year for each commit: the signed result of one image, that two tests
    of another passed, and the cache of the branch; a rebuild on purpose and a lock now and then, and a tag for each
    release."""

    def __init__(self, year: Year, server: loopback.Service, tags: Mapping[int, str]) -> None:
        self._year, self._tags = year, tags
        self._one, self._two = Pusher(server, "app/one"), Pusher(server, "app/two")
        self._random = random.Random(7)
        self._base = self._random.randbytes(16_000)
        self.results: dict[int, str] = {}
        self.tests: dict[int, list[str]] = {}
        self.caches: dict[str, tuple[str, float]] = {}
        self.locked: list[str] = []
        released, due = year.releases(), 0.0
        for one in year.commits:
            self._built(one)
            if one.number in released:
                self._one.tag(f"v{released.index(one.number)}.0", self.results[one.number])
                self._one.attach(self.results[one.number], self._random.randbytes(800), "a/report")
            if one.branch == "main" and one.day >= due:
                due += 45
                self.locked.append(self.results[one.number])
                self._one.tag(f"keep-2026-01-01-{one.number:012x}", self.locked[-1])
                self._built(one)

    def _built(self, one: Commit) -> None:
        rand, when, number = self._random.randbytes, utc(self._year.seconds(one.day)), one.number
        image = {"os": "linux", "architecture": "amd64", "created": when, "config": {"Labels": {FINGERPRINT: "0"}}}
        self.results[number] = self._one.manifest(self._tags[number], image, [self._base, rand(8_000)])
        self._one.attach(self.results[number], rand(600), BUNDLE)
        self.tests[number] = [
            self._two.manifest(f"test-{at}{number:031x}", {"created": when}, [rand(400)], artifactType=KIND)
            for at in range(2)
        ]
        cache = {"layers": [], "records": [{"layers": [{"layer": 0, "createdAt": when}]}], "for": number}
        digest = self._one.manifest(backends.cache_tag(one.branch), cache, [rand(16_000)], CACHE)
        self.caches[one.branch] = digest, one.day

    def needed(self) -> set[str]:
        """The digests of all that is to be there in the end."""
        young = [tests for number, tests in self.tests.items() if self._year.commits[number].day > 365 - AGE]
        caches = [one for branch, (one, day) in self.caches.items() if branch in self._year.tips or day > 365 - AGE]
        results = [self.results[number] for number in self._year.needed()]
        found = {part for digest in (*caches, *results, *self.locked) for part in self._one.parts(digest)}
        return found | {part for tests in young for digest in tests for part in self._two.parts(digest)}


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: the registry waits for the disk after each blob."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.all
@pytest.mark.engine
def test_after_a_year_the_disk_holds_what_is_needed(
    in_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And pruning asked in proportion to the tags, of more than 2,000: three times for each, and once more for each
    result that went, what is attached to it, for this registry lists that itself."""
    year, work, folder = Year(), tmp_path / "work", in_memory / "registry"
    assert (len(year.commits), len({one.branch for one in year.commits})) == (500, 61)
    tags = checked_out(year, work)
    asked: list[str] = []
    send = Client.send
    monkeypatch.setattr(Client, "send", lambda self, *words: asked.append(str(words[:2])) or send(self, *words))
    with loopback.registry(folder) as server, loopback.paging(server, 100) as address:
        pushed = Pushed(year, server, tags)
        there = [tag for name in ("one", "two") for tag in loopback.tags(server, f"app/{name}")]
        assert len(there) >= 2000
        environ = {**os.environ, "CACHE_REGISTRY": address}
        registry_prune.prune(
            Run((work / "compose.yml",), environ, parts=Parts(peers=Machines)),
            [],
            dry_run=False,
            everything=False,
            yes=True,
            as_json=True,
        )
    pages, replaced = 2 * (len(there) // 100 + 2), len(pushed.locked)
    gone = json.loads(capsys.readouterr().out)["gone"]
    assert len(asked) <= 3 * (len(there) + replaced) + len(gone) + pages
    aged(folder)
    sweep(folder)
    held, needed = on_disk(folder), pushed.needed()
    assert needed <= held.keys(), "something is lost"
    bytes_held, bytes_needed = sum(held.values()), sum(held[digest] for digest in needed)
    assert bytes_held <= 1.05 * bytes_needed
    links = {f"sha256:{link.parent.name}" for link in folder.rglob("sha256/*/link")}
    assert len(links) <= 1.05 * len(needed)


def checked_out(year: Year, work: Path) -> dict[int, str]:
    """A clone of that repository in this folder; the tag of each commit's result, as a build of its files gives it."""
    work.mkdir()
    argv = ["git", "-C", str(work)]
    subprocess.run([*argv, "init", "--quiet", "--initial-branch=main"], check=True)
    script = year.script().encode()
    subprocess.run([*argv, "fast-import", "--quiet", "--force"], check=True, input=script, capture_output=True)
    subprocess.run([*argv, "update-ref", "-d", "refs/heads/all"], check=True)
    found = {}
    for name, content in FILES.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(content)
    for one in year.commits:
        (work / "text").write_text(str(one.number))
        resolver = Run((work / "compose.yml",)).resolver
        fingerprint = resolver.resolve("linux/amd64", lambda ref, wanted: None)["one"].fingerprint
        found[one.number] = tag_of("x", fingerprint).partition(":")[2]
    subprocess.run([*argv, "checkout", "--quiet", "--force", "main"], check=True)
    return found


def on_disk(folder: Path) -> dict[str, int]:
    """The bytes of each blob that a registry in this folder holds, by its digest."""
    blobs = (folder / "data/docker/registry/v2/blobs/sha256").rglob("data")
    return {f"sha256:{place.parent.name}": place.stat().st_size for place in blobs}
