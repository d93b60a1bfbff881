"""Two checkouts on one engine build, and prune each other's old results, all the time.

A short run of it belongs to the tests, a longer one to all of them; ``SOAK_SECONDS=600`` makes it ten minutes.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import tarfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base.errors import UserError
from doit_images.core.engine import temporary_tag
from tests.conftest import Lab
from tests.waiting import lasting

SECONDS = float(os.environ.get("SOAK_SECONDS") or 0)
# Each image, and those that it is built on: eight, of which four can be built at once.
PARENTS = {
    "base": [],
    "left": ["base"],
    "right": ["base"],
    "a": ["left"],
    "b": ["left", "right"],
    "c": ["right"],
    "d": ["base"],
    "e": ["a"],
}  # fmt: skip
VERSIONS = 4  # few: both often want an image that one of them has, and each goes back to what it had


class Checkout(Lab):
    """One of two working trees of one project."""

    def __init__(self, folder: Path, prefix: str, engine: TemporaryEngine, scratch: Path) -> None:
        super().__init__(folder)
        self.prefix = prefix
        scratch.mkdir()
        self.environ = {"DOCKER_HOST": engine.address, "DOCKER_CONTEXT": "", "TMPDIR": str(scratch)}
        services = {
            name: {
                "image": f"{prefix}/{name}",
                "build": {"context": name, "additional_contexts": {one: f"service:{one}" for one in parents}},
            }
            for name, parents in PARENTS.items()
        }
        self.write({"compose.yml": json.dumps({"name": prefix, "services": services})})
        for name, parents in PARENTS.items():
            first, *others = parents or ["tst-busybox:1"]
            copies = "".join(f"COPY --from={one} /of/ /of/\n" for one in others)
            steps = (
                f"FROM {first}\n{copies}COPY {name}.txt /of/\nRUN sleep 0.1; cat /of/{name}.txt > /of/{name}.again\n"
            )
            self.write({f"{name}/Dockerfile": steps, f"{name}/{name}.txt": "0"})

    def edit(self, chance: random.Random) -> None:
        """Change some files to one of their versions."""
        for name in chance.sample(sorted(PARENTS), chance.randint(1, 3)):
            (self.folder / name / f"{name}.txt").write_text(str(chance.randrange(VERSIONS)))

    def docker(self, *words: str) -> str:
        done = subprocess.run(["docker", *words], env=self.env(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kept(self) -> dict[str, str]:
        """The reference under which each image is kept that was built here last."""
        records = {path.stem: json.loads(path.read_text()) for path in self.folder.glob(".doit-images/*/images/*.json")}
        return {name: f"{self.prefix}/{name}:in-{one['fingerprint'][:16]}" for name, one in records.items()}

    def check(self) -> None:
        """Every image holds exactly what the files here say, its ancestors' included."""
        refs = self.kept()
        assert refs.keys() == PARENTS.keys()
        found = self.inside(refs.values())
        for name, ref in refs.items():
            wanted = {
                f"{one}.{kind}": (self.folder / one / f"{one}.txt").read_text()
                for one in ancestors(name)
                for kind in ("txt", "again")
            }
            assert found[ref] == wanted, f"{name} is wrong"

    def inside(self, refs: Iterable[str]) -> dict[str, dict[str, str]]:
        """The files of each image, without running it: what a container prints may get lost on a busy machine."""
        done = subprocess.run(["docker", "save", *refs], env=self.env(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, dict[str, str]] = {}
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as whole:
            for image in json.loads(content_of(whole, "manifest.json")):
                files: dict[str, str] = {}
                for layer in image["Layers"]:
                    with tarfile.open(fileobj=io.BytesIO(content_of(whole, layer))) as tar:
                        names = [member.name for member in tar if member.isfile() and member.name.startswith("of/")]
                        files |= {Path(name).name: content_of(tar, name).decode() for name in names}
                found |= dict.fromkeys(image["RepoTags"], files)
        return found


def content_of(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file
    return file.read()


def ancestors(name: str) -> set[str]:
    return {name}.union(*(ancestors(parent) for parent in PARENTS[name]))


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.all)], ids=["classic", "containerd"])
def spare(request: pytest.FixtureRequest, busybox: str) -> Iterator[TemporaryEngine]:
    try:
        with temporary_engine("tst-two-", containerd_store=request.param, in_memory=True) as one:
            one.load(busybox)
            yield one
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.mark.engine
def test_a_record_says_what_is_here_also_where_another_checkout_built_it(
    lab: Lab, busybox: str, tmp_path: Path
) -> None:
    """The parent's edit is in no file of the child: nothing was done here, and nothing kept what is here now."""
    services = "{base: {image: PREFIX/base, build: base}, app: {image: PREFIX/app, build: {context: app, "
    services += "additional_contexts: {base: 'service:base'}}}}"
    here, there = lab, Lab(tmp_path / "there")
    there.prefix = lab.prefix
    for one in (here, there):
        one.write({"compose.yml": f"name: PREFIX\nservices: {services}\n", "base/file": "A"})
        one.write({"base/Dockerfile": f"FROM {busybox}\nCOPY file /\n", "app/Dockerfile": "FROM base\nRUN cat file\n"})
    assert here.build() == {"base": "built", "app": "built"}
    for one in (there, here):
        one.write({"base/file": "B of PREFIX"})
    assert there.build() == {"base": "built", "app": "built"}
    assert here.build() == {}
    records = {path.stem: json.loads(path.read_text()) for path in here.folder.glob(".doit-images/*/images/*.json")}
    named = {name: here.image_id(f"{here.prefix}/{name}:in-{one['fingerprint'][:16]}") for name, one in records.items()}
    assert named == {name: here.image_id(here.ref(name)) for name in ("base", "app")}
    assert here.build() == {}


@pytest.mark.engine
@pytest.mark.parametrize("seconds", [6, pytest.param(20, marks=pytest.mark.all)])
def test_two_checkouts_build_and_prune_for_a_while(spare: TemporaryEngine, tmp_path: Path, seconds: int) -> None:
    prefix = Lab(tmp_path).prefix
    pair = [Checkout(tmp_path / str(number), prefix, spare, tmp_path / f"tmp{number}") for number in (1, 2)]
    counts: Counter[str] = Counter()
    failures: list[str] = []
    lasts = lasting(SECONDS or seconds)

    def go_on() -> bool:
        too_few = counts["built"] < 8 or counts["prunes"] < 1
        return (lasts() or too_few) and not failures

    def build(one: Checkout, number: int) -> None:
        chance = random.Random(number)
        while go_on():
            one.edit(chance)
            done = one.doit("-n", "4", "build_optimized")
            words = [line.split()[0] for line in done.stderr.splitlines() if line.split()]
            counts.update(word for word in words if word in ("built", "retagged"))
            counts["runs"] += 1
            if done.returncode:
                failures.append(f"checkout {number}: {done.stderr}")
                return
            one.check()

    def prune() -> None:
        while go_on():
            for one in pair:
                done = one.doit("cache_prune", "--all", "--yes")
                counts["prunes"] += 1
                counts["waited"] += "waiting for builds" in done.stderr
                counts["removed"] += sum(
                    int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("removed ")
                )
                if done.returncode:
                    failures.append(f"cache_prune: {done.stderr}")

    def watched(act: object, *words: object) -> None:
        try:
            act(*words)  # type: ignore[operator]
        except Exception as error:
            failures.append(repr(error))

    work = [threading.Thread(target=watched, args=(build, one, number)) for number, one in enumerate(pair, 1)]
    work.append(threading.Thread(target=watched, args=(prune,)))
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    print(dict(counts))
    assert failures == []
    for one in pair:
        one.check()
    nothing_is_left(pair)


def nothing_is_left(pair: list[Checkout]) -> None:
    """After one more pruning there is what both need, and no more."""
    for one in pair:
        assert one.doit("cache_prune", "--all", "--yes").returncode == 0
        one.check()
        assert list(Path(one.environ["TMPDIR"]).iterdir()) == []
    one = pair[0]
    listed = one.docker("image", "ls", "--all", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert [ref for ref in listed if temporary_tag.given(ref) is not None or "<none>" in ref] == []
    assert {ref for ref in listed if ":in-" in ref} == {ref for one in pair for ref in one.kept().values()}
    assert one.docker("ps", "--all", "--quiet") == ""
    cache = json.loads(one.doit("cache_stats", "--json").stdout)
    assert cache["reclaimable_bytes"] == 0
