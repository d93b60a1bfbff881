"""Who waits for a registry or for another machine keeps nobody from anything else, and asks once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from doit_images.core.base import checked_json, lock
from doit_images.core.base.settings import Settings
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import Engine
from doit_images.core.inputs import contents
from doit_images.core.planner import Unasked, settled
from doit_images.core.planning.shared_image import SharedImage, SharedRef
from doit_images.core.run import Parts, Run
from doit_images.share.index import Remembered
from tests import loopback
from tests.conftest import Lab, docker

LIMIT = 60.0  # seconds for what takes one
FILES = {
    "compose.yml": """\
        services:
          base: {image: PREFIX/base, build: {context: base}}
          app:
            image: PREFIX/app
            build: {context: app, additional_contexts: {base: "service:base"}}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nRUN head -c 9 /dev/urandom > /PREFIX\n",
    "app/Dockerfile": "FROM base\nCOPY text /\n",
    "app/text": "PREFIX",
}


@pytest.fixture
def project(lab: Lab, busybox: str) -> Lab:
    lab.write(FILES)
    return lab


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[loopback.Relay]:
    with loopback.registry(tmp_path / "registry") as service:
        relay = loopback.Relay(service.port)
        yield relay
        relay.close()


def ended(thread: threading.Thread) -> bool:
    thread.join(LIMIT)
    return not thread.is_alive()


def test_what_is_asked_is_asked_without_the_lock() -> None:
    held, asked = threading.RLock(), list[str]()

    def decide() -> str:
        with held:
            if not asked:
                raise Unasked({"one": SharedRef("app/one", "ab" * 32, "linux/amd64")})
            return "decided"

    def ask(wanted: Mapping[str, SharedRef]) -> None:
        def other() -> None:
            with held:
                asked.extend(wanted)

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        assert ended(thread), "another thread cannot get the lock"

    assert settled(decide, ask) == "decided"
    assert asked == ["one"]


@pytest.mark.parametrize("moves", [False, True])
def test_files_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool) -> None:
    """Also where the engine comes to hold something else meanwhile: then no file is read once more."""
    images = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
        (tmp_path / name / "file").write_text(name)
        context = tmp_path / name
        images[name] = Image(name, f"x/{name}", str(context), dockerfile=str(context / "Dockerfile"))
    run = Run((tmp_path / "compose.yml",), {}, root=tmp_path)
    vars(run).update(
        project=Project("x", tmp_path, run.files, images),
        common=tmp_path / ".doit-images",
        settings=Settings(),
        engine=SimpleNamespace(
            address="",
            config_of=None,
            forget=lambda: None,
            snapshot=lambda: SimpleNamespace(platform="linux/amd64"),
        ),
    )
    vars(run.planner).update(_planned=lambda inputs: inputs)
    both, real, read = threading.Barrier(2), contents.hashed, list[str]()

    def hashed(path: str, mode: int, record: bytes) -> tuple[bytes, bool]:
        if path.endswith("file"):
            read.append(path)
            both.wait(LIMIT)
            if moves:
                run.local_images.changed()
        return real(path, mode, record)

    monkeypatch.setattr(contents, "hashed", hashed)
    threads = [threading.Thread(target=run.planner.decide_again, args=(name,)) for name in images]
    for thread in threads:
        thread.start()
    assert all(map(ended, threads))
    assert sorted(read) == [str(tmp_path / name / "file") for name in images]


def test_what_threads_share_is_read_by_one_at_a_time(tmp_path: Path) -> None:
    """Another thread may say at any moment that the engine holds something else, or look through the same resolver."""
    (tmp_path / "compose.yml").write_text("services: {}\n")
    run, free = Run((tmp_path / "compose.yml",), {}), list[bool]()

    def others(*_: object, **__: object) -> dict[str, Any]:
        thread = threading.Thread(target=lambda: free.append(local.unmoved.acquire(blocking=False)), daemon=True)
        thread.start()
        assert ended(thread)
        return {}

    vars(run).update(
        project=SimpleNamespace(),
        engine=SimpleNamespace(address="", config_of=None, snapshot=lambda: SimpleNamespace(platform="linux/amd64")),
        resolver=SimpleNamespace(resolve=others),
    )
    local = run.local_images
    assert run.planner.made_on_any_base() == {}
    assert free
    assert not any(free)


class Slow:
    """A shared registry that answers when it is told to."""

    reads, writes = True, False

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def remembered(self, wanted: Any) -> Any:
        return {}

    def unasked(self, wanted: Any) -> Any:
        return {} if self.answers.is_set() else dict(wanted)

    def look(self, wanted: Any) -> dict[str, SharedImage]:
        self.asked.set()
        assert self.answers.wait(LIMIT)
        return {}


@pytest.mark.engine
@pytest.mark.parametrize("whole", [True, False])
def test_a_registry_that_takes_its_time_holds_up_who_asks_it_alone(project: Lab, whole: bool) -> None:
    slow: Any = Slow()
    run = Run(
        (project.folder / "compose.yml",),
        project.env(CACHE_REGISTRY="localhost:1"),
        parts=Parts(lambda _: SimpleNamespace(results=slow)),
    )
    decided: list[Any] = []

    def decide() -> None:
        decided.append(run.planner.decisions()["app"] if whole else run.planner.decide_again("app"))

    who_asks = threading.Thread(target=decide, daemon=True)
    who_asks.start()
    assert slow.asked.wait(LIMIT)
    other = threading.Thread(
        target=lambda: (run.local_images.snapshot(), run.local_images.changed(), run.planner.declared()), daemon=True
    )
    other.start()
    assert ended(other), "it waits for the registry, too"
    assert not decided
    slow.answers.set()
    assert ended(who_asks)
    assert [one.action for one in decided] == ["build"]


@pytest.mark.engine
def test_who_waits_for_another_machine_keeps_nobody_from_pruning(
    project: Lab, relay: loopback.Relay, tmp_path: Path
) -> None:
    """And what was pruned meanwhile is made again."""
    with loopback.redis(tmp_path / "redis") as service:
        project.environ = {"CACHE_REGISTRY": relay.address, "REDIS_URL": f"redis://127.0.0.1:{service.port}/0"}
        assert project.build() == {"base": "built", "app": "built"}
        (project.folder / "app/text").write_text(f"{project.prefix} two")
        planned = project.plan()["app"]
        assert planned["action"] == "build"
        turn = f"{planned['fingerprint']}:{Engine().snapshot().platform}"
        client = redis.Redis(port=service.port)
        client.zadd("{doit-images}:leases", {turn: (time.time() + 600) * 1000})
        client.hset("{doit-images}:holders", turn, "another:1#999999")
        running = project.start("build_optimized")
        assert running.stdout is not None
        said = ""
        for line in running.stdout:
            said += line
            if "waits for another" in line:
                break
        assert running.poll() is None, said
        with lock.exclusive(lock.of_engine(Engine().address, "builds")):  # as cache_prune does; it waits for builds
            docker("image", "rm", "--force", *(ref for ref in project.images() if "/base:" in ref))
        client.zrem("{doit-images}:leases", turn)
        client.hdel("{doit-images}:holders", turn)
        said += running.communicate(timeout=LIMIT)[0]
    assert running.returncode == 0, said
    assert "built app" in said
    assert project.actions() == {"base": "fresh", "app": "fresh"}


@pytest.mark.engine
def test_a_parent_that_is_not_here_is_asked_about_once(project: Lab, relay: loopback.Relay) -> None:
    project.environ = {"CACHE_REGISTRY": relay.address}
    assert project.build() == {"base": "built", "app": "built"}
    docker("image", "rm", "--force", *(ref for ref in project.images() if "/base:" in ref))
    absent = {"base": "pull", "app": "fresh"}
    assert project.actions() == absent
    before = relay.accepted
    assert before
    assert project.actions() == absent
    assert project.doit("build_optimized:app").returncode == 0
    assert relay.accepted == before, "the registry was asked again"
    # When the answer is old it is asked, and where it does not answer the old one is better than a build of it all.
    assert project.actions(CACHE_ASK="0s") == absent
    assert relay.accepted > before
    port, relay.silent = relay.accepted, True
    assert project.actions(CACHE_ASK="0s") == absent
    assert relay.accepted > port
    relay.silent = False
    # What is remembered decides no pull: the registry is asked about what it has now.
    (project.folder / "app/text").write_text(f"{project.prefix} two")
    before = relay.accepted
    assert project.build() == {"base": "pulled", "app": "built"}
    assert relay.accepted > before


def test_what_is_remembered_is_what_was_said(tmp_path: Path) -> None:
    image = SharedImage("sha256:1", "sha256:2", "linux/amd64", {"a": "b"}, "content", {"sha256:3": 7}, {"ci": "{}"})
    memory = Remembered(tmp_path / "answers.json", 60.0)
    memory.keep({"reg/one:in-1": image})
    memory.keep({"reg/two:in-2": image})
    assert memory.recent(["reg/one:in-1", "reg/two:in-2"]) == {"reg/one:in-1": image, "reg/two:in-2": image}
    assert memory.recent(["reg/one:in-1", "reg/three:in-3"]) == {}, "the registry has to be asked in any case"
    assert Remembered(tmp_path / "answers.json", 0.0).recent(["reg/one:in-1"]) == {}
    assert Remembered(tmp_path / "answers.json", 0.0).ever(["reg/one:in-1", "x"]) == {"reg/one:in-1": image}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": [1]}', '{"a": ["x", {}]}', '{"a": [9e99, {}]}', '{"a": [1, {"x": 1}]}',
             '{"a": [1, {"digest": 1, "config": "", "platform": "", "labels": {}, "content": ""}]}'],
)  # fmt: skip
def test_a_memory_that_is_damaged_or_of_another_version_knows_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "answers.json"
    file.write_text(text)
    answers = Remembered(file, 1e12)
    assert answers.recent(["a"]) == answers.ever(["a"]) == {}
    if text.startswith('{"'):
        checked_json.remember(file, json.loads(text))
        assert answers.recent(["a"]) == answers.ever(["a"]) == {}
