"""A container runs the image that was built for it, whoever else gives images the same names; else it is left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import Engine, normalise
from doit_images.stack import bringup, images
from doit_images.stack.bringup import Terms
from doit_images.stack.health import WaitLimits
from tests import loopback
from tests.conftest import docker
from tests.stack.test_stack import Stack
from tests.waiting import patience

pytestmark = pytest.mark.engine

FILES = {
    "compose.yml": """
        name: PREFIX-NUMBER
        x-small: &small {init: true, stop_grace_period: 1s}
        services:
          base: {image: PREFIX/base, scale: 0, build: {context: base}}
          web:
            <<: *small
            image: PREFIX/web
            scale: 2
            build: {context: web, additional_contexts: {base: "service:base"}}
          twin:
            <<: *small
            image: PREFIX/web
            build: {context: web, additional_contexts: {base: "service:base"}}
            depends_on: [web]
          user: {image: PREFIX/web, <<: *small, depends_on: [twin]}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nCOPY base.txt /\n",
    "base/base.txt": "base of NUMBER\n",
    "web/Dockerfile": 'FROM base\nCOPY web.txt /\nCMD ["sleep", "1000"]\n',
    "web/web.txt": "web of NUMBER\n",
}
CONTAINERS = {"twin-1", "user-1", "web-1", "web-2"}


class Checkout(Stack):
    """One of two checkouts whose images have the same names, and whose stacks have not."""

    def __init__(self, folder: Path, prefix: str, number: int) -> None:
        super().__init__(folder)
        self.images_prefix, self.prefix, self.number = prefix, f"{prefix}-{number}", number

    def write(self, files: dict[str, str]) -> None:
        texts = {name: text.replace("PREFIX", self.images_prefix) for name, text in files.items()}
        super().write({name: text.replace("NUMBER", str(self.number)) for name, text in texts.items()})

    def running(self) -> dict[str, tuple[str, str]]:
        """The id of each container, and what it says that it runs."""
        listed = docker("ps", "--filter", f"label=com.docker.compose.project={self.prefix}", "--format", "{{.Names}}")
        found = {}
        for name in sorted(listed.stdout.split()):
            inside = docker("exec", name, "cat", "/base.txt", "/web.txt").stdout
            found[name.removeprefix(f"{self.prefix}-")] = (docker("inspect", "-f", "{{.Id}}", name).stdout, inside)
        return found

    def compose(self, *words: str) -> None:
        done = subprocess.run(
            ["docker", "compose", *words], cwd=self.folder, env=self.env(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def expected(self) -> str:
        return f"base of {self.number}\nweb of {self.number}\n"


Pair = tuple[Checkout, Checkout]


@pytest.fixture(scope="module")
def built(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("checkouts")
    prefix = Stack(folder).prefix
    two = Checkout(folder / "1", prefix, 1), Checkout(folder / "2", prefix, 2)
    yield two
    for one in two:
        one.down()
        one.prefix = prefix
        one.close()


@pytest.fixture
def pair(built: Pair) -> Pair:
    """Both as they were written, down."""
    for one in built:
        one.down()
        one.write(FILES)
    return built


def test_two_checkouts_each_run_what_they_built(pair: Pair) -> None:
    first, second = pair
    first.up()
    second.up()
    before = {one.number: one.running() for one in pair}
    for one in pair:
        assert set(before[one.number]) == CONTAINERS
        assert {inside for _, inside in before[one.number].values()} == {one.expected()}
    for _ in range(2):
        for one in pair:
            one.up()
    assert {one.number: one.running() for one in pair} == before, "nothing was made anew"


def test_what_people_type_themselves_makes_nothing_anew(pair: Pair) -> None:
    first, _ = pair
    first.up()
    before = first.running()
    first.compose("up", "--detach")
    assert first.running() == before
    first.compose("restart", "web")
    first.up()
    assert first.running() == before
    # A parent whose fingerprint moved while its content did not leaves every image, and so every container, as it is.
    first.write({"base/Dockerfile": "# a comment\nFROM tst-busybox:1\nCOPY base.txt /\n"})
    first.up()
    assert first.running() == before


def start(one: Checkout, built: dict[str, str], folder: Path) -> None:
    compose = Compose((one.folder / "compose.yml",), one.prefix, dict(os.environ))
    log = folder / "log"
    outcome = bringup.start(compose, Terms(Events(), WaitLimits(patience(), patience()), log), built=built)
    assert outcome.healthy, log.read_text()


def ids(one: Checkout) -> dict[str, str]:
    ref = normalise(f"{one.images_prefix}/web")
    return {ref: one.image_id(ref)}


def test_nothing_is_pulled_over_what_was_built_here(busybox: str, tmp_path: Path) -> None:
    """As with `docker compose up --build`: `pull_policy` is about images that others build."""
    services = """
        name: PREFIX
        services:
          built: {image: AT/PREFIX/built, build: app, pull_policy: always, init: true, stop_grace_period: 0s}
          user: {image: AT/PREFIX/built, pull_policy: always, init: true, stop_grace_period: 0s}
          theirs: {image: AT/PREFIX/theirs, pull_policy: always, init: true, stop_grace_period: 0s}
        """
    one = Stack(tmp_path)
    with loopback.bare_registry(tmp_path / "registry") as server:
        names = [f"{server.address}/{one.prefix}/{name}" for name in ("built", "theirs")]
        one.write({
            "compose.yml": services.replace("AT", server.address),
            "app/Dockerfile": 'FROM tst-busybox:1\nCOPY whose /\nCMD ["sleep", "1000"]\n',
            "app/whose": "of a registry",
        })  # fmt: skip
        try:
            for name in names:
                docker("buildx", "build", "--quiet", "--tag", name, str(tmp_path / "app"))
                assert docker("push", "--quiet", name).returncode == 0
                docker("tag", "tst-busybox:1", name)
            one.write({"app/whose": "of PREFIX"})
            one.up()
            for name, whose in (
                ("built", f"of {one.prefix}"),
                ("user", f"of {one.prefix}"),
                ("theirs", "of a registry"),
            ):
                assert docker("exec", one.ids()[name], "cat", "/whose").stdout == whose, name
            done = one.doit("run_once", "--no-deps", "user", "grep", one.prefix, "/whose")
            assert done.returncode == 0, done.stderr
        finally:
            one.close()


def test_a_name_that_is_moved_between_build_and_start(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = pair
    assert first.doit("build_optimized").returncode == 0
    right = ids(first)
    assert second.doit("build_optimized").returncode == 0
    wrong = ids(second)
    assert right != wrong
    start(first, right, tmp_path)
    before = first.running()
    assert {inside for _, inside in before.values()} == {first.expected()}
    assert first.image_id(*right) == right[next(iter(right))], "its name was put right"
    # At the worst moment, when Compose is just about to make containers: once, then every time.
    really = images.put_names_right
    times = [1]

    def moved(engine: Engine, services: object, built: object) -> None:
        really(engine, services, built)
        if times[0]:
            times[0] -= 1
            engine.tag(wrong[next(iter(wrong))], next(iter(wrong)))

    monkeypatch.setattr(images, "put_names_right", moved)
    first.compose("down", "--timeout", "0")
    start(first, right, tmp_path)
    assert {inside for _, inside in first.running().values()} == {first.expected()}
    times[0] = 100
    first.compose("down", "--timeout", "0")
    with pytest.raises(UserError, match=r"^Compose used other images than were built here: .*twin-1"):
        start(first, right, tmp_path)
    assert first.running() == {}, "nothing of the other's was started"
    monkeypatch.setattr(images, "put_names_right", lambda *_: dict[str, str]()["not foreseen"])
    with pytest.raises(KeyError, match="not foreseen"):
        start(first, right, tmp_path)
