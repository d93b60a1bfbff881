"""Machines share their work: two real engines, one real registry, one real Redis."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.commands import TimedOut
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.base.references import path_of, tag_of
from doit_images.core.base.settings import CacheBackend
from doit_images.core.building import fetch, results
from doit_images.core.building.build_target import Transfer
from doit_images.core.buildkit.backends import Backend
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine, Gone, ImageConfig, LocalImage, Snapshot, snapshot_of
from doit_images.core.engine.labels import INPUT_DIGEST, PARENTS
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.planning.shared_image import SharedImage, SharedRef, shared_ref_of
from doit_images.core.run import Parts, Run
from doit_images.share import by_docker, circuit_breaker, lease, publish, registry, transfer
from doit_images.share import share as share_module
from doit_images.share.connection import Machines
from doit_images.share.index import Remembered
from doit_images.share.lease import BuildCoordinator
from doit_images.share.no_answer import NoImage, Unavailable, told
from doit_images.share.registry import Registry
from doit_images.share.share import Share
from doit_images.share.transfer import Whole
from tests import loopback
from tests.conftest import ROOT, Lab
from tests.core.planning.test_plan import made
from tests.owners import own
from tests.waiting import patience, until

COMPOSE = """
services:
  base:
    image: PREFIX/base
    build: {context: ., dockerfile: base.Dockerfile}
  app:
    image: PREFIX/app
    build:
      context: .
      dockerfile: app.Dockerfile
      additional_contexts: {base: "service:base"}
"""
OTHER = """
  other:
    image: PREFIX/other
    build:
      context: .
      dockerfile: other.Dockerfile
      additional_contexts: {base: "service:base"}
"""
# What the base's step writes is different each time, and nothing of it is in a cache of an earlier test: a second build
# could not pass for the first.
FILES = {
    "compose.yml": COMPOSE,
    "base.Dockerfile": "FROM tst-busybox:1\nRUN head -c 300000 /dev/urandom > /PREFIX\n",
    "app.Dockerfile": "FROM base\nCOPY app.py /\n",
    "app.py": "one",
}
WITH_OTHER = {"compose.yml": COMPOSE + OTHER, "other.Dockerfile": "FROM base\nCOPY app.py /other\n"}

# Clocks that a test sets, where what it waits for comes in no time, and never.
PULLS_FOR_NO_TIME = f"import {by_docker.__name__} as of; of._GRACE_SECONDS = 2.0"
LEASE_IS_SHORT = f"import {lease.__name__} as of; of.BuildCoordinator.__init__.__defaults__ = (5.0,)"
CHECK_IS_SHORT = f"import {circuit_breaker.__name__} as of; of.PATIENCE = 2.0"
ASKS_FOR_NO_TIME = f"import {registry.__name__} as of; of.Registry.__init__.__defaults__ = (1.0, 1.0, lambda _: False)"


ALL = ("base", "app")


class Machine(Lab):
    """A checkout of the same project, with an engine of its own."""

    def __init__(self, folder: Path, prefix: str, files: dict[str, str] = FILES, **environ: str) -> None:
        super().__init__(folder)
        self.prefix = prefix
        self.environ = environ
        self.write(files)

    def did(self) -> dict[str, str]:
        """Build, and say what happened to each image; the text is kept in ``said``."""
        done = self.doit("build_optimized")
        self.said = done.stderr
        assert done.returncode == 0, done.stderr
        return outcomes(done.stderr)

    def contents(self) -> dict[str, str]:
        """The content of each image in the machine's engine."""
        engine = Engine(self.environ["DOCKER_HOST"]) if "DOCKER_HOST" in self.environ else Engine()
        snapshot = engine.snapshot()
        images = {name: snapshot.get(self.ref(name)) for name in (*ALL, "other")}
        return {name: engine.config_of(one.id).content for name, one in images.items() if one}

    def forget(self) -> None:
        """Remove all images of the project from the machine's engine."""
        listed = self._docker("image", "ls", "--quiet", f"{self.prefix}/*").split()
        if listed:
            self._docker("image", "rm", "--force", *dict.fromkeys(listed))

    def _docker(self, *words: str) -> str:
        return subprocess.run(["docker", *words], env=self.env(), capture_output=True, text=True).stdout


def outcomes(said: str) -> dict[str, str]:
    return {name: how for how, name in re.findall(r"^(built|pulled|retagged) (\w+)", said, re.MULTILINE)}


@pytest.fixture(scope="module")
def second_engine(busybox: str) -> Iterator[TemporaryEngine]:
    try:
        with temporary_engine("cch-engine-", in_memory=True) as engine:
            engine.load(busybox)
            yield engine
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[loopback.Service]:
    with loopback.registry(tmp_path / "registry") as service:
        yield service


@pytest.fixture
def machines(
    second_engine: TemporaryEngine, busybox: str, server: loopback.Service, tmp_path: Path
) -> Iterator[tuple[Machine, Machine]]:
    prefix = own("share-")
    first = Machine(tmp_path / "first", prefix, CACHE_REGISTRY=server.address)
    second = Machine(
        tmp_path / "second", prefix, CACHE_REGISTRY=server.address, DOCKER_HOST=second_engine.address, DOCKER_CONTEXT=""
    )
    yield first, second
    first.close()
    second.forget()


@pytest.mark.engine
def test_the_second_machine_builds_nothing(machines: tuple[Machine, Machine], server: loopback.Service) -> None:
    first, second = machines
    assert first.did() == dict.fromkeys(ALL, "built")
    assert second.actions() == dict.fromkeys(ALL, "pull")
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()
    assert second.actions() == dict.fromkeys(ALL, "fresh")
    # Only what changed is built, on the pulled parent, and comes back to the first machine.
    (second.folder / "app.py").write_text("two")
    assert second.did() == {"app": "built"}
    (first.folder / "app.py").write_text("two")
    assert first.actions() == {"base": "fresh", "app": "pull"}
    assert first.did() == {"app": "pulled"}
    assert first.contents() == second.contents()
    # A run with nothing to do asks nobody: the registry may be gone.
    server.kill()
    assert second.did() == {}
    assert "registry" not in second.said


@pytest.mark.engine
def test_a_signed_result_is_pulled_and_any_other_is_built(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    first, second = machines
    listed, key = tmp_path / "trusted.toml", tmp_path / "key"
    first.environ |= {"SHARE_BUILDERS": str(listed), "SHARE_KEY": ""}
    made_key = first.doit("share_key", "first", str(key))
    assert made_key.returncode == 0, made_key.stderr
    second.environ["SHARE_BUILDERS"] = str(listed)
    # Who has no key shares nothing that is taken.
    first.environ["SHARE_TRUST"] = "any"
    assert first.did() == dict.fromkeys(ALL, "built")
    assert first.doit("plan").stderr.count(f"anyone who may push to {first.environ['CACHE_REGISTRY']} decides") == 1
    plan = second.doit("plan")
    assert plan.stderr.count("is not taken: it is not signed") == 2, plan.stderr
    assert second.actions() == dict.fromkeys(ALL, "build")
    # What is there already is only signed.
    first.environ |= {"SHARE_TRUST": "", "SHARE_KEY": str(key)}
    signed = first.doit("cache_export")
    assert signed.returncode == 0, signed.stderr
    assert "pushed 2 images" in signed.stderr
    assert second.did() == dict.fromkeys(ALL, "pulled")
    assert second.contents() == first.contents()
    # And what is built from now on is signed when it is pushed, until the key is revoked.
    for machine in machines:
        (machine.folder / "app.py").write_text("two")
    assert first.did() == {"app": "built"}
    assert second.did() == {"app": "pulled"}
    second.forget()
    listed.write_text(listed.read_text() + "revoked = true\n")
    assert second.did() == dict.fromkeys(ALL, "built")
    assert second.said.count("is not taken: the key of first is revoked") == 2


@pytest.mark.engine
def test_an_image_that_is_pulled_needs_neither_parents_nor_tools(
    machines: tuple[Machine, Machine], server: loopback.Service
) -> None:
    first, second = machines
    tool = f"{server.address}/tool:1"
    subprocess.run(["docker", "tag", "tst-busybox:1", tool], check=True)
    subprocess.run(["docker", "push", "--quiet", tool], check=True, capture_output=True)
    subprocess.run(["docker", "image", "rm", tool], check=True, capture_output=True)
    pushed = Registry(server.address).image("tool", "1", Engine().snapshot().platform)
    assert pushed
    pinned = f"{server.address}/tool@{pushed.digest}"
    for machine in machines:
        machine.write({"app.Dockerfile": FILES["app.Dockerfile"] + f"COPY --from={pinned} /bin/busybox /tool\n"})
    assert first.did() == dict.fromkeys(ALL, "built")
    done = second.doit("build_optimized:app")
    assert outcomes(done.stderr) == {"app": "pulled"}, done.stderr
    assert done.stderr.count("1 pulled") == 1
    engine = Engine(second.environ["DOCKER_HOST"])
    assert second.contents().keys() == {"app"}
    assert engine.snapshot().get(pinned) is None
    assert second.actions() == {"base": "pull", "app": "fresh"}
    # What is built brings all that it needs.
    (second.folder / "app.py").write_text("two")
    done = second.doit("build_optimized:app")
    assert outcomes(done.stderr) == {"base": "pulled", "app": "built"}, done.stderr
    engine.untag(pinned)


@pytest.mark.engine
def test_read_only_machines_write_nothing(machines: tuple[Machine, Machine], server: loopback.Service) -> None:
    first, second = machines
    for machine in machines:
        machine.write({"compose.yml": COMPOSE.partition("  app:")[0]})
    first.environ["CACHE_WRITE"] = "0"
    assert first.did() == {"base": "built"}
    assert loopback.tags(server, f"{first.prefix}/base") == []
    assert second.did() == {"base": "built"}
    first.forget()
    assert first.did() == {"base": "pulled"}


@pytest.mark.engine
def test_a_registry_killed_half_way_stops_nothing(machines: tuple[Machine, Machine], server: loopback.Service) -> None:
    first, second = machines
    first.did()
    second.clock = CHECK_IS_SHORT
    running = second.start("-n", "1", "build_optimized")
    assert running.stdout is not None
    said = ""
    for line in running.stdout:
        said += line
        if line.startswith("pulled base"):
            server.kill()
    assert running.wait() == 0, said
    assert outcomes(said) == {"base": "pulled", "app": "built"}
    assert second.actions() == dict.fromkeys(ALL, "fresh")


@pytest.mark.engine
def test_a_registry_that_is_down_or_silent_is_said_once(
    machines: tuple[Machine, Machine], server: loopback.Service
) -> None:
    first, _ = machines
    first.environ["CACHE_REGISTRY"] = "localhost:1"
    assert first.did() == dict.fromkeys(ALL, "built")
    assert first.said.count("the shared registry localhost:1 does not answer: images are built here instead") == 1
    assert first.said.count("localhost:1") == 1
    first.forget()
    relay = loopback.Relay(server.port)
    relay.silent = True
    try:
        first.environ["CACHE_REGISTRY"], first.clock = relay.address, ASKS_FOR_NO_TIME
        assert first.did() == dict.fromkeys(ALL, "built")
    finally:
        relay.close()
    assert first.said.count("does not answer in time") == 1


def test_images_that_are_called_after_the_registry_keep_their_names(lab: Lab, tmp_path: Path) -> None:
    """The name for the push is then the one by which the image is known to be fresh."""
    with loopback.registry(tmp_path / "registry") as server:
        lab.environ["CACHE_REGISTRY"] = server.address
        lab.write({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
        lab.write({"compose.yml": f"services:\n  one: {{image: '{server.address}/PREFIX/one', build: .}}\n"})
        ref = f"{server.address}/{lab.prefix}/one"
        try:
            assert lab.build() == {"one": "built"}
            assert lab.actions() == {"one": "fresh"}
            names = Engine().snapshot().by_name
            assert len([name for name in names if name.startswith(f"{ref}:")]) == 2, names
        finally:
            lab.nameless.update(name for name in Engine().snapshot().by_name if name.startswith(ref))


@pytest.mark.engine
def test_a_full_registry_is_said_once(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    first, _ = machines
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        with loopback.registry(folder) as server:
            first.environ["CACHE_REGISTRY"], first.clock = server.address, PULLS_FOR_NO_TIME
            assert first.did() == dict.fromkeys(ALL, "built")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    assert first.said.count("takes nothing") == 1
    assert first.said.count("results of this run are not shared") == 1
    assert first.actions() == dict.fromkeys(ALL, "fresh")


@pytest.mark.engine
def test_what_a_name_in_the_registry_holds_is_not_believed(
    machines: tuple[Machine, Machine], server: loopback.Service, busybox: str
) -> None:
    """Somebody pushed other images under the fingerprints' tags: one without labels, one with labels of another."""
    first, second = machines
    for machine in machines:
        machine.write(WITH_OTHER)
    first.did()
    docker = Engine()
    names = {}
    for name in (*ALL, "other"):
        [names[name]] = [tag for tag in loopback.tags(server, f"{first.prefix}/{name}") if tag.startswith("in-")]
    swapped = {"app": busybox, "other": first.ref("base")}
    for name, ref in swapped.items():
        target = f"{server.address}/{first.prefix}/{name}:{names[name]}"
        local_image = docker.snapshot().get(ref)
        assert local_image is not None
        docker.tag(local_image.id, target)
        subprocess.run(["docker", "push", "--quiet", target], check=True, capture_output=True)
        docker.untag(target)
    assert second.actions() == {"base": "pull", "app": "build", "other": "build"}
    assert second.did() == {"base": "pulled", "app": "built", "other": "built"}
    # And the good ones are there again.
    first.forget()
    assert first.did() == dict.fromkeys((*ALL, "other"), "pulled")


@pytest.mark.engine
@pytest.mark.parametrize("cache", ["none", pytest.param("inline", marks=pytest.mark.all)])
def test_an_image_whose_layer_is_gone_is_built(machines: tuple[Machine, Machine], tmp_path: Path, cache: str) -> None:
    """BuildKit, too, may look for it in the registry, and does so for most of a minute."""
    first, second = machines
    first.environ["CACHE_BACKEND"] = second.environ["CACHE_BACKEND"] = cache
    first.did()
    blobs = (tmp_path / "registry" / "data").rglob("data")
    [random] = [path for path in blobs if 200_000 < path.stat().st_size < 400_000]  # the base's random layer
    random.unlink()
    second.clock = PULLS_FOR_NO_TIME
    assert second.did() == dict.fromkeys(ALL, "built")
    second.clock = ""
    assert "cannot be pulled" in second.said or "does not give what it has" in second.said
    # What nobody can pull does not keep its place for being first.
    assert first.contents()["base"] != second.contents()["base"]
    second.forget()
    assert second.did() == dict.fromkeys(ALL, "pulled")


@pytest.mark.engine
def test_two_that_start_together_build_each_image_once(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    every = (*ALL, "other")
    with loopback.redis(tmp_path / "redis", password="HUSH") as redis:
        for machine in machines:
            machine.write({**WITH_OTHER, "other.Dockerfile": "FROM base\nRUN sleep 1; date > /other\n"})
            machine.environ["REDIS_URL"] = f"redis://:HUSH@127.0.0.1:{redis.port}/0"
        results: list[Any] = [None, None]

        def run(number: int) -> None:
            results[number] = machines[number].doit("build_optimized")

        threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.returncode for one in results] == [0, 0], [one.stderr for one in results]
        done = [outcomes(one.stderr) for one in results]
        for name in every:
            assert sorted(one[name] for one in done) == ["built", "pulled"], done
        assert machines[0].contents() == machines[1].contents()
        assert "waits for" in results[0].stderr + results[1].stderr
        assert "HUSH" not in "".join(one.stdout + one.stderr for one in results)
        # Whoever never built it knows from the index how long it takes.
        (machines[0].folder / ".doit-images" / "compose.yml" / "history" / "history.sqlite3").unlink()
        machines[0].forget()
        machines[0].environ["CACHE_REGISTRY"] = ""
        assert all(one["estimated_seconds"] for one in machines[0].plan().values())


@pytest.mark.engine
def test_who_may_only_read_waits_for_who_builds(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """With an account of Redis that may change nothing there."""
    files = {"base.Dockerfile": f"FROM tst-busybox:1\nRUN sleep {patience(4):.0f}; date > /PREFIX\n"}
    with loopback.redis(tmp_path / "redis") as server:
        for machine in machines:
            machine.write({"compose.yml": COMPOSE.partition("  app:")[0], **files})
        builder, reader = machines
        builder.environ["REDIS_URL"] = f"redis://127.0.0.1:{server.port}/0"
        reader.environ |= {"REDIS_URL": loopback.redis_reader(server), "CACHE_WRITE": "0"}
        with builder.start("build_optimized") as building:
            until(lambda: Redis(port=server.port).hlen(lease._KEYS[1]), "it has the lease")
            assert reader.did() == {"base": "pulled"}
            assert "waits for" in reader.said
            assert building.wait() == 0
    assert builder.contents() == reader.contents()


@pytest.mark.engine
def test_a_killed_builder_is_taken_over(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """What a secret holds is in no fingerprint: it lets the first build for ever, and the second at once."""
    alone = COMPOSE.partition("  app:")[0].replace("base.Dockerfile}", "base.Dockerfile, secrets: [how]}")
    step = "RUN --mount=type=secret,id=how sh /run/secrets/how; date > /PREFIX\n"
    for machine, how in zip(machines, ("sleep 1000", "true"), strict=True):
        machine.write({"compose.yml": f"{alone}secrets: {{how: {{environment: HOW}}}}\n"})
        machine.write({"base.Dockerfile": f"FROM tst-busybox:1\n{step}"})
        machine.environ["HOW"], machine.clock = how, LEASE_IS_SHORT
    first, second = machines
    with loopback.redis(tmp_path / "redis") as redis:
        for machine in machines:
            machine.environ["REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
        holder = first.start("build_optimized:base")
        assert holder.stdout is not None
        for line in holder.stdout:
            if line.startswith("building base"):
                break
        waiter = second.start("build_optimized:base")
        assert waiter.stdout is not None
        said = ""
        for line in waiter.stdout:
            said += line
            if "waits for" in line:
                holder.kill()  # only doit dies, as when its machine does: nobody gives the lease back
        assert waiter.wait() == 0, said
        holder.wait()
        assert "waits for" in said
        assert outcomes(said) == {"base": "built"}


# ---- what needs no engine


def wanted(name: str = "auth") -> SharedRef:
    return SharedRef(f"localhost:5000/app/{name}:optimized", "ab" * 32, "linux/amd64")


def sharing(
    monkeypatch: pytest.MonkeyPatch, image: Callable[..., SharedImage | None], write: bool = True
) -> tuple[Share, list[str]]:
    said: list[str] = []
    one = Share("reg:5000", write=write, say=said.append)
    monkeypatch.setattr(one.registry, "image", image)
    monkeypatch.setattr(one.registry.client, "ping", lambda seconds: None)
    return one, said


def test_what_is_asked_for() -> None:
    assert (wanted().path, wanted().tag) == ("app/auth", "in-abababababababab")
    assert path_of("vllm-swarm/auth:optimized") == "vllm-swarm/auth"
    assert path_of("auth") == "auth"
    assert path_of("localhost/app/auth:1") == "app/auth"
    assert path_of("reg.example.org/a/b@sha256:00") == "a/b"


def test_an_image_with_an_unknown_base_is_not_shared() -> None:
    one = made("base")
    assert shared_ref_of(one, "linux/amd64") == SharedRef("app/base", one.fingerprint, "linux/amd64")
    assert shared_ref_of(replace(one, bases={"python": ""}), "linux/amd64") is None
    both = replace(one, platforms=("linux/amd64", "linux/arm64"))
    assert shared_ref_of(both, "linux/amd64") == SharedRef("app/base", one.fingerprint, "linux/amd64, linux/arm64")


def test_each_image_is_asked_about_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    found = SharedImage("sha256:d", "sha256:c", "linux/amd64", {}, "content")
    one, _ = sharing(monkeypatch, lambda path, tag, platform: asked.append(path) or found)
    for _ in range(3):
        assert one.look({"a": wanted("a"), "b": wanted("b")}) == {"a": found, "b": found}
    assert sorted(asked) == ["app/a", "app/b"]
    one.forget(wanted("a"))
    one.look({"a": wanted("a")})
    assert len(asked) == 3


def test_what_an_earlier_run_was_told_is_no_answer_of_the_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    old, new = (SharedImage(digest, "sha256:c", "linux/amd64", {}, "content") for digest in ("sha256:1", "sha256:2"))
    one, _ = sharing(monkeypatch, lambda path, tag, platform: asked.append(path) or new)
    memory = one.memory = Remembered(tmp_path / "answers.json", 60.0)
    names = {name: f"{one.address}/app/{name}:{wanted(name).tag}" for name in "ab"}
    memory.keep({names["a"]: old})
    assert one.remembered({"a": wanted("a")}) == {"a": old}
    assert one.remembered({"a": wanted("a"), "b": wanted("b")}) == {}, "the registry has to be asked in any case"
    assert not asked
    assert one.look({"a": wanted("a")}) == {"a": new}
    assert one.remembered({"a": wanted("a")}) == {}, "it was asked in this run"
    assert memory.recent([names["a"]]) == {names["a"]: new}


def test_what_is_forgotten_while_others_are_asked_about_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's lock is not held meanwhile, and another thread is about to build or has pushed that one."""
    known, found = threading.Event(), SharedImage("sha256:d", "sha256:c", "linux/amd64", {}, "content")

    class Known(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            known.set()

    def image(path: str, tag: str, platform: str) -> SharedImage:
        if path == "app/b":
            assert known.wait(patience())
            one.forget(wanted("a"))
        return found

    one, _ = sharing(monkeypatch, image)
    one._known = Known()
    assert one.look({"a": wanted("a"), "b": wanted("b")}) == {"b": found}
    assert one.look({"a": wanted("a")}) == {"a": found}


def test_trouble_with_one_image_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SharedImage("sha256:d", "sha256:c", "linux/amd64", {}, "content")

    def image(path: str, tag: str, platform: str) -> SharedImage:
        if path == "app/a":
            raise NoImage("returned something that is not an image")
        return found

    one, said = sharing(monkeypatch, image)
    assert one.look({"a": wanted("a"), "b": wanted("b")}) == {"b": found}
    what = "`app/a:in-abababababababab` is built here: the shared registry reg:5000"
    assert said == [f"{what} returned something that is not an image"]
    assert one.reads


def test_trouble_with_the_registry_is_said_once_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def image(path: str, tag: str, platform: str) -> SharedImage:
        raise Unavailable("does not answer", silent=True)

    one, said = sharing(monkeypatch, image)
    assert one.look({str(number): wanted(str(number)) for number in range(20)}) == {}
    assert said == ["the shared registry reg:5000 does not answer: images are built here instead"]
    assert not one.reads
    assert not one.writes
    assert one.look({"new": wanted("new")}) == {}
    assert len(said) == 1


@pytest.mark.parametrize("silent", [False, True])
def test_one_bad_answer_among_many_costs_one_image(monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    def image(path: str, tag: str, platform: str) -> SharedImage:
        if path in ("app/20", "app/21"):
            raise Unavailable("answers with status 429", silent=silent)
        return FOUND

    one, said = sharing(monkeypatch, image)
    monkeypatch.setattr(share_module, "_AT_ONCE", 1)
    assert len(one.look({str(number): wanted(str(number)) for number in range(40)})) == 38
    assert (one.reads, one.writes) == (True, True)
    assert said == [
        "the shared registry reg:5000 answers with status 429: `app/20:in-abababababababab` is built here"
    ], "of the others it goes without saying"


def test_what_was_answered_before_a_registry_failed_for_good_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def image(path: str, tag: str, platform: str) -> SharedImage:
        asked.append(path)
        if len(asked) > 2:
            raise Unavailable("answers with status 500")
        return FOUND

    asked: list[str] = []
    one, said = sharing(monkeypatch, image)
    monkeypatch.setattr(share_module, "_AT_ONCE", 1)
    assert one.look({str(number): wanted(str(number)) for number in range(9)}) == {"0": FOUND, "1": FOUND}
    assert (len(asked), one.reads, one.writes) == (5, True, False), "after three in a row nothing more is asked"
    assert said[-1] == "the shared registry reg:5000 is still failing: images are built here instead"
    assert one.look({"0": wanted("0"), "new": wanted("new")}) == {"0": FOUND}


def test_who_may_not_push_goes_on_pulling(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    docker_says("denied: requested access to the resource is denied", "")
    assert one.push(wanted(), LocalImage("id"), FakeEngine()) is None
    assert (one.reads, one.writes) == (True, False)
    assert said == [
        "the shared registry reg:5000 takes nothing (denied: requested access to the resource is denied): "
        "results of this run are not shared"
    ]
    assert one.look({"a": wanted()}) == {"a": FOUND}
    assert one.pull(wanted(), FOUND, FakeEngine()) == "reg:5000/app/auth@sha256:d"


class FakeEngine:
    """An engine of which only the address counts, and the names that it is asked to give and to take."""

    address = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.named: list[str] = []

    def snapshot(self) -> Snapshot:
        return snapshot_of([], "linux/arm64")

    def tag(self, image_id: str, ref: str) -> None:
        assert image_id == "id"
        self.named.append(ref)

    def untag(self, ref: str) -> None:
        self.named.append(f"not {ref}")

    def tagged(self, ref: str) -> str:
        return ""


FOUND = SharedImage("sha256:d", "sha256:c", "linux/amd64", {}, "content", {"l": 30_000_000})


@dataclass
class DockerCommand:
    """The docker command, which ends each time as ``ends`` says: a reason, or "" for well."""

    ends: list[str | Exception]
    asked: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def __call__(self, argv: list[str], env: Mapping[str, str], seconds: float = 0.0) -> Iterator[SimpleNamespace]:
        self.asked.append((" ".join(argv), seconds))
        assert env["DOCKER_HOST"] == FakeEngine.address
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        yield SimpleNamespace(output=lambda silence: [end.encode()], returncode=1 if end else 0)


@pytest.fixture
def docker_says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DockerCommand]:
    def says(*ends: str | Exception) -> DockerCommand:
        one = DockerCommand([*ends])
        monkeypatch.setattr(commands, "start", one)
        return one

    return says


def test_what_the_registry_says_is_told_without_the_urls_that_it_signed(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    docker_says(f"error pulling: GET https://store/blob?X-Amz-Signature=HUSH: {'denied ' * 100}")
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    assert one.pull(wanted(), FOUND, FakeEngine()) == ""
    (sentence,) = said
    assert "HUSH" not in sentence
    assert sentence.startswith(
        "`app/auth:in-abababababababab` cannot be pulled from reg:5000, so this machine does without: "
        "error pulling: GET … denied denied"
    )
    assert len(sentence) < 310
    assert told("… denied: see https://a/b?c=HUSH.") == "… denied: see"
    assert told("x" * 201) == "x" * 200


def test_a_pull_and_a_push_may_take_as_long_as_a_slow_line_needs_for_their_bytes(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    docker = docker_says("", TimedOut("late"), TimedOut("late"))
    assert one.pull(wanted(), FOUND, FakeEngine()) == "reg:5000/app/auth@sha256:d"
    assert one.pull(wanted(), FOUND, FakeEngine()) == ""
    assert one.push(wanted(), LocalImage("id", size=10_000_000), FakeEngine()) is None
    assert (one.reads, one.writes) == (True, False), "the next one would take as long, for nothing"
    assert one.push(wanted("b"), LocalImage("id"), FakeEngine()) is None
    assert docker.asked == [
        ("docker pull --quiet --platform linux/amd64 reg:5000/app/auth@sha256:d", 50.0),
        ("docker pull --quiet --platform linux/amd64 reg:5000/app/auth@sha256:d", 50.0),
        ("docker push --quiet reg:5000/app/auth:in-abababababababab", 30.0),
    ]
    assert said[0].endswith("does without: not done in 50 s")
    assert said[1:] == [
        "the shared registry reg:5000 takes nothing (not done in 30 s): results of this run are not shared"
    ]


def test_an_engine_that_the_registry_is_too_busy_for_pulls_again_when_it_wishes(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    asked: list[int] = []
    monkeypatch.setattr(one.registry.client, "rests", lambda path, digest, number: asked.append(number) or number < 2)
    busy = ("toomanyrequests: slow down", "received unexpected HTTP status: 429 Too Many Requests")
    docker_says(*busy, "")
    assert one.pull(wanted("a"), FOUND, FakeEngine()) == "reg:5000/app/a@sha256:d"
    assert (asked, said, one.reads) == ([0, 1], [], True)
    docker_says(*busy, busy[0])
    assert one.pull(wanted("a"), FOUND, FakeEngine()) == "", "it asks for more patience than there is"
    assert len(said) == 1


def test_the_second_pull_that_fails_ends_it(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    docker_says("no route", "no route")
    assert one.gives(FOUND)
    one.pull(wanted("a"), FOUND, FakeEngine())
    assert (one.reads, one.writes, one.gives(FOUND)) == (True, True, False)
    assert one.look({"a": wanted("a")}) == {}, "it is not tried again"
    one.pull(wanted("b"), FOUND, FakeEngine())
    assert (one.reads, one.writes) == (False, False)
    assert said[1:] == [
        "the shared registry reg:5000 does not give what it has (no route): images are built here instead"
    ]


@pytest.mark.parametrize(
    ("problem", "again"), [("manifest unknown", False), ("Blob Unknown to registry", False), ("no route", True)]
)
def test_what_is_damaged_is_as_good_as_none_and_what_did_not_come_is_still_there(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand], problem: str, again: bool
) -> None:
    """Another machine's result must not be pushed over; one that nobody can use may be."""
    one, _ = sharing(monkeypatch, lambda *asked: FOUND)
    docker_says(problem)
    one.pull(wanted(), FOUND, FakeEngine())
    one.forget(wanted())
    assert one.look({"a": wanted()}) == ({"a": FOUND} if again else {})


def test_what_is_refused_is_said_and_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    assert one.look({"a": wanted()}) == {"a": FOUND}
    one.refuse(wanted(), "it is another")
    assert said == ["`app/auth:in-abababababababab` of reg:5000 is not taken, but built here: it is another"]
    assert (one.look({"a": wanted()}), one.gives(FOUND), one.reads) == ({}, False, True)
    one.forget(wanted())
    assert one.look({"a": wanted()}) == {}
    one.refuse(wanted("unknown"), "it is another")


def test_a_registry_that_says_nothing_any_more_is_given_up_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    def ping(seconds: float) -> None:
        pings.append(seconds)
        raise Unavailable("does not answer", silent=True)

    pings: list[float] = []
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    monkeypatch.setattr(circuit_breaker, "PATIENCE", 0.1)
    monkeypatch.setattr(one.registry.client, "ping", ping)
    docker = docker_says("connection refused", "no more is tried")
    assert one.look({"a": wanted("a")}) == {"a": FOUND}
    assert one.pull(wanted("a"), FOUND, FakeEngine()) == ""
    assert said == [
        "the shared registry reg:5000 does not answer any more: images are built here instead, and not shared"
    ]
    assert (one.reads, one.writes) == (False, False)
    assert one.push(wanted("a"), LocalImage("id"), FakeEngine()) is None
    assert one.look({"b": wanted("b")}) == {}
    assert (len(said), len(docker.asked), len(pings)) == (1, 1, 1)


def test_one_that_is_slow_but_answers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    pings: list[float] = []
    monkeypatch.setattr(one.registry.client, "ping", pings.append)
    monkeypatch.setattr(by_docker, "LOOK_SECONDS", 0.1)
    slow = ["sh", "-c", "sleep 0.5; echo done"]
    assert by_docker.watched(slow, {"PATH": os.defpath}, 20.0, one._health).stdout == "done\n"
    assert pings
    assert not said


def test_what_another_run_pulled_and_named_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two that pull the same share the name for it, which the first takes away when it has given the image its own."""
    inputs, named = made("web"), list[str]()
    offer = SharedImage("sha256:d", "sha256:c", "linux/amd64", {}, "content")
    decision = Decision("web", Action.PULL, (), inputs, offer=offer)
    tag = tag_of(inputs.image.ref, inputs.fingerprint)
    image = LocalImage("sha256:1", (tag,), {INPUT_DIGEST: inputs.input_digest, PARENTS: ""})
    results_: Any = SimpleNamespace(pull=lambda *_: "reg:5000/app/web@sha256:d", refuse=pytest.fail)
    run = Run((tmp_path / "compose.yml",), {}, parts=Parts(lambda run: SimpleNamespace(results=results_)))
    vars(run).update(
        local_images=SimpleNamespace(
            snapshot=lambda: SimpleNamespace(platform="linux/amd64", get={tag: image}.get),
            changed=lambda: None,
            config_of=lambda local_image: ImageConfig("content", "linux/amd64", {}),
        ),
        engine=FakeEngine(),
        planner=SimpleNamespace(content_of=lambda inputs, local_image: "content"),
    )
    monkeypatch.setattr(results, "name_image", lambda engine, local_images, decision, image_id: named.append(image_id))
    monkeypatch.setattr(temporary_tag, "take_away", lambda engine, refs: None)
    monkeypatch.setattr(results, "keep", lambda *_: None)
    assert fetch.fetched(run, decision) is image
    assert named == ["sha256:1"]


def test_of_several_platforms_all_are_pulled(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    docker = docker_says("", "")
    one, _ = sharing(monkeypatch, lambda *asked: FOUND)
    both = SharedRef("app/auth", "ab" * 32, "linux/amd64, linux/arm64")
    assert one.pull(both, FOUND, FakeEngine()) == "reg:5000/app/auth@sha256:d"
    assert [line.split()[4] for line, _ in docker.asked] == ["linux/amd64", "linux/arm64"]
    docker_says("no such platform")
    assert one.pull(both, FOUND, FakeEngine()) == "", "after the first that fails the second is not tried"


def test_a_push_names_the_image_for_its_time_and_tells_what_the_registry_then_holds(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    held: list[SharedImage | None] = [None, FOUND]
    one, said = sharing(monkeypatch, lambda *asked: held.pop(0))
    assert one.look({"a": wanted()}) == {}
    docker, engine = docker_says("", "", "full", "full"), FakeEngine()
    assert one.push(wanted(), LocalImage("id"), engine, also=["latest"]) == FOUND
    refs = ["reg:5000/app/auth:in-abababababababab", "reg:5000/app/auth:latest"]
    assert engine.named == [refs[0], f"not {refs[0]}", refs[1], f"not {refs[1]}"]
    assert one.push(wanted(), LocalImage("id"), engine, also=["latest"]) is None
    assert engine.named[4:] == [refs[0], f"not {refs[0]}"]
    assert one.push(wanted(), LocalImage("id"), engine) is None
    assert said[1:] == ["the shared registry reg:5000 takes nothing (full): results of this run are not shared"]
    assert one.push(wanted(), LocalImage("id"), engine) is None
    assert (len(docker.asked), one.reads, one.writes) == (4, True, False)


def test_an_image_that_is_gone_before_it_is_pushed_is_not_shared_and_says_nothing_of_the_registry(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    """Another checkout pruned it just now: what was built counts all the same."""

    class Pruned(FakeEngine):
        def tag(self, image_id: str, ref: str) -> None:
            raise Gone(f"the engine holds no image {image_id} any more")

    docker = docker_says()
    one, said = sharing(monkeypatch, lambda *asked: FOUND)
    for _ in range(3):
        assert one.push(wanted(), LocalImage("id"), Pruned()) is None
    assert said == ["`app/auth:in-abababababababab` is not shared: the engine holds no image id any more"] * 3
    assert (docker.asked, one.writes) == ([], True)


def test_who_may_only_read_pushes_nothing(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand]
) -> None:
    docker = docker_says()
    one, _ = sharing(monkeypatch, lambda *asked: FOUND, write=False)
    assert one.push(wanted(), LocalImage("id"), FakeEngine()) is None
    assert (docker.asked, one.reads, one.writes) == ([], True, False)
    assert not Share("", write=True, say=[].append).reads


def test_only_what_can_be_shared_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []
    one, _ = sharing(monkeypatch, lambda *image: asked.append(image) or FOUND)
    unknown = replace(made("unknown"), bases={"python": ""})
    base = replace(made("base"), platforms=())
    assert one.offers({"base": base, "unknown": unknown}, "linux/s390x") == {"base": FOUND}
    assert asked == [("app/base", f"in-{base.fingerprint[:16]}", "linux/s390x")]


BOTH = SharedRef("app/auth", "ab" * 32, "linux/amd64, linux/arm64")


def test_an_index_for_a_layout_comes_blob_by_blob_and_the_engine_gets_its_own_platform(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand], tmp_path: Path
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(transfer, "fetch", lambda *words: asked.append(words))
    one, _ = sharing(monkeypatch, lambda *image: FOUND)
    engine, docker = FakeEngine(), docker_says("")
    assert one.pull(BOTH, FOUND, engine, tmp_path) == "reg:5000/app/auth@sha256:d"
    (fetched,) = asked
    assert fetched[:4] == (one.registry, "app/auth", "sha256:d", tmp_path)
    assert docker.asked[0][0] == "docker pull --quiet --platform linux/arm64 reg:5000/app/auth@sha256:d"

    def breaks(*words: object) -> None:
        raise Unavailable("does not answer in time")

    monkeypatch.setattr(transfer, "fetch", breaks)
    docker = docker_says()
    assert one.pull(BOTH, FOUND, engine, tmp_path) == ""
    assert not docker.asked, "what did not come whole is not pulled"


def test_an_index_of_a_layout_is_pushed_whole_under_all_its_tags(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand], tmp_path: Path
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(transfer, "push", lambda *words: asked.append(words))
    one, said = sharing(monkeypatch, lambda *image: FOUND)
    engine, docker = FakeEngine(), docker_says()
    whole = Whole("sha256:index", "sha256:index", tmp_path)
    assert one.push(BOTH, LocalImage("id"), engine, ["latest"], whole) == FOUND
    assert asked[0][:4] == (one.registry, "app/auth", ("in-abababababababab", "latest"), whole)
    assert (engine.named, docker.asked, said) == ([], [], [])

    def breaks(*words: object) -> None:
        raise NoImage("lacks a layer")

    monkeypatch.setattr(transfer, "push", breaks)
    assert one.push(BOTH, LocalImage("id"), engine, whole=whole) is None
    assert said == ["`app/auth:in-abababababababab` could not be pushed to reg:5000: it lacks a layer"]

    def stalls(*words: object) -> None:
        raise Unavailable("does not answer", silent=True)

    assert one.writes
    one, said = sharing(monkeypatch, lambda *image: FOUND)
    monkeypatch.setattr(transfer, "push", stalls)
    assert one.push(BOTH, LocalImage("id"), engine, whole=whole) is None
    assert not one.writes, "it answers the least, and takes no blob"


def test_blobs_stop_when_the_run_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, _ = sharing(monkeypatch, lambda *asked: FOUND)
    monkeypatch.setattr(commands, "stopping", lambda: True)
    with pytest.raises(commands.Stopped):
        one.pull(BOTH, FOUND, FakeEngine(), tmp_path)
    with pytest.raises(commands.Stopped):
        one.push(BOTH, LocalImage("id"), FakeEngine(), whole=Whole("sha256:index", "sha256:index"))
    file = tmp_path / "blob"
    file.write_bytes(b"1")
    for move in (
        lambda: one.registry.give_blob("app/auth", "sha256:d", file),
        lambda: one.registry.take_blob("app/auth", "sha256:d", file, 1),
    ):
        with pytest.raises(commands.Stopped):
            move()


def test_no_more_than_a_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, lock = [0], [0], threading.Lock()

    def image(path: str, tag: str, platform: str) -> SharedImage:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.002)
        with lock:
            at_once[0] -= 1
        return FOUND

    one, _ = sharing(monkeypatch, image)
    assert len(one.look({str(number): wanted(str(number)) for number in range(40)})) == 40
    assert 1 < most[0] <= 24


def test_the_index_answers_first_and_the_registry_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand], tmp_path: Path
) -> None:
    asked: list[str] = []

    def machine(holds: SharedImage | None = FOUND) -> Share:
        one, _ = sharing(monkeypatch, lambda path, tag, platform: asked.append(path) or holds)
        one.ask_first(BuildCoordinator(f"redis://127.0.0.1:{redis.port}/0", [].append).index, 60.0)
        return one

    images = {str(number): wanted(str(number)) for number in range(40)}
    with loopback.redis(tmp_path) as redis:
        assert len(machine().look({"0": wanted("0")})) == len(asked) == 1
        asked.clear()
        second = machine()
        assert second.look(images) == dict.fromkeys(images, FOUND)
        assert len(asked) == 39, "the first was known"
        asked.clear()
        third = machine()
        assert third.look(images) == dict.fromkeys(images, FOUND)
        assert asked == []
        # Before something is pushed, the registry itself is asked.
        third.forget(wanted("7"))
        assert third.look(images)["7"] == FOUND
        assert asked == ["app/7"]
        # What the index promises and the registry has lost is asked for once more, and is then known to be gone.
        fourth = machine(holds=None)
        docker_says("manifest unknown")
        assert fourth.look(images)["9"] == FOUND
        assert fourth.pull(wanted("9"), FOUND, FakeEngine()) == ""
        assert "9" not in fourth.look(images)
        assert (asked, fourth.reads) == (["app/7", "app/9"], True)
        assert "9" not in machine(holds=None).look({"9": wanted("9")})


@pytest.mark.parametrize(("write", "lost"), [(True, False), (True, True), (False, False)])
def test_who_may_not_push_or_was_stopped_for_longer_than_its_lease_pushes_and_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, docker_says: Callable[..., DockerCommand], write: bool, lost: bool
) -> None:
    inputs, noted = made("base"), Events()
    turn = shared_ref_of(inputs, "linux/amd64")
    assert turn
    told: list[str] = []
    events: list[object] = []
    noted.listen(events.append)
    monkeypatch.setattr(Transfer, "layout_of", lambda self, image: None)
    docker, (one, _) = docker_says(""), sharing(monkeypatch, lambda *words: None, write)
    index = SimpleNamespace(publish=told.extend)
    coordinator = SimpleNamespace(on=True, index=index, lost=lambda what: what == turn.turn and lost)
    run: Any = SimpleNamespace(
        events=noted,
        engine=FakeEngine(),
        folder=Path(),
        cache_backend=Backend(CacheBackend.NONE),
        settings=SimpleNamespace(cache_write=write),
        local_images=SimpleNamespace(
            changed=lambda: None, snapshot=FakeEngine().snapshot, on_own_base=lambda bases: False
        ),
    )
    machines = Machines(run)
    vars(machines).update(share=one, coordinator=coordinator)
    decision = Decision("base", Action.BUILD, (), inputs)
    local_image = LocalImage("id", labels={INPUT_DIGEST: inputs.input_digest, PARENTS: ""})
    assert publish.give(machines, decision, local_image, 1.0) is None
    assert (len(docker.asked), told) == ((1, [turn.fingerprint]) if write and not lost else (0, []))
    assert any("pushing to" in str(event) for event in events) == (write and not lost)


def test_a_build_without_a_registry_loads_no_client_of_one() -> None:
    code = (
        "import sys, doit_images.core.building.make; print({'urllib3', 'requests', 'redis', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
