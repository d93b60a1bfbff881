"""A base that is made from Debian's packages is shared: two real engines, one real registry, for each machine a
checkout. What mmdebstrap makes here is small, and other bytes each time; the real one is tried in test_base.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base.references import stand_in
from doit_images.core.engine.client import Engine
from doit_images.share.registry import Registry
from tasks.bases import debian
from tests import loopback
from tests.conftest import ROOT
from tests.owners import own
from tests.share.test_share import (
    Machine,
    second_engine,  # noqa: F401
    server,  # noqa: F401
)

FILES = {
    "compose.yml": "services:\n  app: {image: PREFIX/app, build: .}\n  other: {image: PREFIX/other, build: other}\n",
    "Dockerfile": "FROM PREFIX/debian:1\nCOPY app.py /\nRUN head -c 8 /dev/urandom > /random\n",
    "other/Dockerfile": "FROM PREFIX/debian:1\nRUN head -c 8 /dev/urandom > /other\n",
    "app.py": "one",
}
# A step of an image runs in it, so it has a shell.
MMDEBSTRAP = """\
#!/bin/sh
set -e
for last; do case $last in *.tar) tar=$last ;; esac; done
folder=$(mktemp -d)
mkdir "$folder/bin"
cp "$(command -v busybox)" "$folder/bin/busybox"
ln "$folder/bin/busybox" "$folder/bin/sh"
ln "$folder/bin/busybox" "$folder/bin/head"
head -c 8 /dev/urandom > "$folder/version"
until [ -e "${GATE:-/}" ]; do sleep 0.05; done
tar -C "$folder" -cf "$tar" .
rm -r "$folder"
"""


class Checkout(Machine):
    """A machine that has these tasks in a folder of its own."""

    def __init__(self, folder: Path, prefix: str, **environ: str) -> None:
        super().__init__(folder, prefix, FILES, **environ)
        self.checkout = folder / "checkout"
        for name in ("tasks", "docker/base"):
            shutil.copytree(ROOT / name, self.checkout / name)
        (self.checkout / "doit_images").symlink_to(ROOT / "doit_images")
        shutil.copy(ROOT / "dodo.py", self.checkout)
        program = folder / "bin/mmdebstrap"
        program.parent.mkdir()
        program.write_text(MMDEBSTRAP)
        program.chmod(0o755)
        self.environ |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "BASE_IMAGE": self.base}
        self.environ |= {"BASE_SOURCE": "debian"}

    @property
    def base(self) -> str:
        return f"{self.prefix}/debian:1"

    @property
    def own(self) -> str:
        """What stands in for it is called."""
        return stand_in(self.base, "linux/amd64")

    def doit(self, *args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return super().doit(*args, cwd=cwd or self.checkout, **environ)

    def base_content(self) -> str:
        engine = Engine(self.environ.get("DOCKER_HOST", ""))
        snapshot = engine.snapshot()
        assert snapshot.get(self.base) is None or self.environ["BASE_SOURCE"] == "auto", "only people give that name"
        local_image = snapshot.get(self.base) or snapshot.get(self.own)
        return engine.config_of(local_image.id).content if local_image else ""

    def made(self) -> bool:
        """Whether the last build made the base."""
        return f"making {self.base} from Debian's packages" in self.said


Pair = tuple[Checkout, Checkout]


@pytest.fixture
def pair(
    second_engine: TemporaryEngine,  # noqa: F811
    server: loopback.Service,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Pair]:
    if not any(path.exists() for path in debian._KEYRINGS):
        pytest.skip("there is no debian-archive-keyring: apt-get install debian-archive-keyring")
    prefix = own("shared-")
    first = Checkout(tmp_path / "first", prefix, CACHE_REGISTRY=server.address)
    host = {"DOCKER_HOST": second_engine.address, "DOCKER_CONTEXT": ""}
    second = Checkout(tmp_path / "second", prefix, CACHE_REGISTRY=server.address, **host)
    yield first, second
    first._docker("image", "rm", "--force", first.own)
    first.close()
    second.forget()


BOTH = ("app", "other")


@pytest.mark.engine
def test_a_new_machine_knows_what_to_pull_before_it_has_a_base(pair: Pair) -> None:
    first, second = pair
    assert first.did() == dict.fromkeys(BOTH, "built")
    assert first.made()
    assert f"and pushed it to {first.environ['CACHE_REGISTRY']}" in first.said
    planned = second.plan()
    assert {name: one["action"] for name, one in planned.items()} == dict.fromkeys(BOTH, "pull")
    assert [one["external_bases"][0]["digest"] for one in planned.values()] == [first.base_content()] * 2
    assert second.base_content() == "", "a plan changes nothing"
    assert second.did() == dict.fromkeys(BOTH, "pulled")
    assert not second.made()
    assert second.base_content() == "", "what is pulled needs none"
    assert second.did() == first.did() == {}
    (second.folder / "app.py").write_text("two")
    assert second.did() == {"app": "built"}
    assert not second.made()
    assert second.base_content() == first.base_content()


@pytest.mark.engine
def test_what_stands_in_has_a_name_of_its_own_and_only_this_projects_builds_get_it(pair: Pair) -> None:
    first, _ = pair
    first.environ["CACHE_REGISTRY"] = ""
    assert first.did() == dict.fromkeys(BOTH, "built")
    assert first.made()
    inspected = subprocess.run(["docker", "image", "inspect", first.base], capture_output=True)
    assert inspected.returncode != 0, "others mean the real one"
    planned = first.doit("plan", "--json")
    assert f"stands in for {first.base} was made from Debian's packages, and is called {first.own}" in planned.stderr
    assert json.loads(planned.stdout)["stand_ins"] == {first.base: first.own}
    bake = json.loads(first.doit("plan", "--bake").stdout)
    assert bake["target"]["app"]["contexts"] == {first.base: f"docker-image://{first.own}"}
    # Another project that is built from here, and is not told that base, means the real one, too.
    del first.environ["BASE_IMAGE"]
    (first.checkout / ".env").write_text(f"BASE_IMAGE={first.base}\n")
    [base] = first.plan()["app"]["external_bases"]
    assert base == {"ref": first.base, "digest": None}


@pytest.mark.engine
def test_when_it_is_made_anew_is_a_decision_of_the_project(pair: Pair) -> None:
    first, second = pair
    first.did()
    second.did()
    old = first.base_content()
    done = first.doit("rebuild_base")
    assert done.returncode == 0, done.stderr
    date = first.checkout / debian.DATE
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert re.search(rf"{debian.DATE} says {today}(\.2)?: commit it", done.stderr)
    assert first.base_content() != old
    assert first.did() == dict.fromkeys(BOTH, "built")
    # Nothing changes for who has not got the commit, and with it everything is there.
    assert second.actions() == dict.fromkeys(BOTH, "fresh")
    shutil.copy(date, second.checkout / debian.DATE)
    assert second.actions() == dict.fromkeys(BOTH, "pull")
    assert second.did() == dict.fromkeys(BOTH, "pulled")
    assert not second.made()
    # The package list decides as well: nothing is shared of that one yet, so it is made.
    with (second.checkout / debian.PACKAGES).open("a") as stream:
        stream.write("zlib1g\n")
    assert second.actions() == dict.fromkeys(BOTH, "build")
    assert second.did() == dict.fromkeys(BOTH, "built")
    assert second.made()
    assert second.did() == {}


@pytest.mark.engine
def test_for_another_platform_it_is_made_beside_its_name_and_shared(pair: Pair) -> None:
    first, second = pair
    for machine in pair:
        (machine.folder / "bin/arch-test").touch(mode=0o755)
        machine.environ["PLATFORMS"] = "linux/arm64"
    aside = stand_in(first.base, "linux/arm64")
    try:
        assert first.did() == dict.fromkeys(BOTH, "built")
        assert f"making {first.base} for linux/arm64 from Debian's packages" in first.said
        assert first.did() == {}
        shown = [platform_of(first, ref) for ref in (first.own, aside, f"{first.prefix}/app")]
        assert shown == ["linux/amd64", "linux/arm64", "linux/arm64"]
        assert dict.fromkeys(BOTH, "pull") == second.actions()
        assert second.did() == dict.fromkeys(BOTH, "pulled")
        assert not second.made()
        first.environ["PLATFORMS"] = ""
        assert first.did() == dict.fromkeys(BOTH, "built")
        assert platform_of(first, f"{first.prefix}/app") == "linux/amd64"
        first.environ["PLATFORMS"] = "linux/arm64"
        assert first.actions() == dict.fromkeys(BOTH, "retag"), "what was built for it is still there"
    finally:
        for machine in pair:
            machine._docker("image", "rm", "--force", aside)


def platform_of(machine: Machine, ref: str) -> str:
    return machine._docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", ref).strip()


@pytest.mark.engine
def test_of_two_that_make_it_at_the_same_time_the_second_takes_the_firsts(pair: Pair) -> None:
    first, second = pair
    gate = second.folder / "gate"
    running = second.start("base_image", cwd=second.checkout, GATE=str(gate))
    assert running.stdout is not None
    for line in running.stdout:
        if "making" in line:
            break
    assert first.doit("base_image").returncode == 0
    gate.touch()
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert "has another machine's, which is taken" in said
    assert first.base_content() == second.base_content() != ""


@pytest.mark.engine
def test_one_that_was_made_before_there_was_a_registry_goes_there_with_the_first_build(pair: Pair) -> None:
    first, second = pair
    assert first.doit("base_image", CACHE_REGISTRY="").returncode == 0
    assert first.did() == dict.fromkeys(BOTH, "built")
    assert second.did() == dict.fromkeys(BOTH, "pulled")
    assert second.doit("base_image").returncode == 0
    assert first.base_content() == second.base_content() != ""


@pytest.mark.engine
def test_a_base_that_a_pull_did_not_need_is_brought_where_that_fails(
    pair: Pair,
    server: loopback.Service,  # noqa: F811
) -> None:
    first, second = pair
    first.did()
    registry = Registry(server.address)
    path, platform = f"{first.prefix}/app", Engine().snapshot().platform
    held = registry.image(path, loopback.tags(server, path)[0], platform)
    assert held is not None
    [*_, own] = held.layers
    for place in [*(first.folder.parent / "registry").rglob(own.removeprefix("sha256:"))]:
        shutil.rmtree(place, ignore_errors=True)
    assert second.did() == {"app": "built", "other": "pulled"}
    assert second.base_content() == first.base_content()


@pytest.mark.engine
def test_without_a_registry_or_with_one_that_is_down_it_is_made_here(pair: Pair) -> None:
    first, second = pair
    for machine, address in ((first, ""), (second, "localhost:1")):
        machine.environ["CACHE_REGISTRY"] = address
        assert machine.did() == dict.fromkeys(BOTH, "built")
        assert machine.made()
        assert machine.did() == {}
    assert first.base_content() != second.base_content()


@pytest.mark.engine
def test_a_base_that_people_brought_is_left_alone(
    pair: Pair,
    server: loopback.Service,  # noqa: F811
    busybox: str,
) -> None:
    first, _ = pair
    subprocess.run(["docker", "tag", busybox, first.base], check=True)
    first.environ["BASE_SOURCE"] = "auto"
    content = first.base_content()
    for _ in range(2):
        first.did()
        assert not first.made()
        assert first.base_content() == content
        (first.checkout / debian.DATE).write_text("2031-01-01\n")
    assert loopback.tags(server, "vllm-swarm/base") == []
