"""An engine that is started to measure, beside the one that people use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.temporary_engine import _bridge, _remove, temporary_engine
from doit_images.core.base.errors import UserError
from doit_images.core.engine.endpoint import endpoint
from tests.conftest import docker
from tests.owners import own

pytestmark = pytest.mark.engine


@pytest.fixture
def published(busybox: str) -> Iterator[str]:
    """The address of a container of the current engine that serves a page and publishes a port."""
    name = own("published-")
    page = "echo hello > /index.html; exec httpd -f -h /"
    made = docker("run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1::80", busybox, "sh", "-c", page)
    assert made.returncode == 0, made.stderr
    yield docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).stdout.strip()
    docker("rm", "--force", "--volumes", name)


def rules(word: str) -> list[str]:
    """The rules of the firewall that hold a word."""
    if os.geteuid() != 0 or not shutil.which("iptables"):
        pytest.skip("the firewall is read with iptables, as root")
    listed = [
        subprocess.run(["iptables", "--wait", "--table", table, "--list-rules"], capture_output=True, text=True).stdout
        for table in ("filter", "nat")
    ]
    return [line for line in "".join(listed).splitlines() if word in line]


def test_it_leaves_the_containers_of_the_other_engine_reachable(published: str, busybox: str) -> None:
    before = rules(published)
    # An engine that is a spare one itself leaves the firewall alone too.
    assert any("DNAT" in rule for rule in before) == (endpoint() == "unix:///var/run/docker.sock")
    try:
        with temporary_engine("tst-beside-") as engine:
            assert rules(published) == before
            engine.load(busybox)
            build = f"FROM {busybox}\nRUN wget -q -O - http://{published}/\n".encode()
            argv = ["docker", "build", "--progress", "plain", "--no-cache", "-"]
            done = subprocess.run(argv, input=build, env=engine.environ, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
            assert b"hello" in done.stderr
    except UserError as trouble:
        pytest.skip(str(trouble))
    assert rules(published) == before


def test_its_bridge_keeps_its_address_while_steps_come_and_go(busybox: str) -> None:
    """A download that runs meanwhile sends to that address: a build of all images stood still for up to a minute."""

    def address(folder: Path) -> str:
        bridge = json.loads((folder / "daemon.json").read_text())["bridge"]
        return Path(f"/sys/class/net/{bridge}/address").read_text()

    try:
        with temporary_engine("tst-bridge-") as engine:
            folder = Path(engine.address.removeprefix("unix://")).parent
            seen = {address(folder)}
            engine.load(busybox)
            for _ in range(2):
                started = ["docker", "run", "--detach", "--rm", busybox, "sleep", "60"]
                assert subprocess.run(started, env=engine.environ, capture_output=True).returncode == 0
                seen.add(address(folder))
    except UserError as trouble:
        pytest.skip(str(trouble))
    assert len(seen) == 1, seen


def test_a_bridge_that_another_removes_at_the_same_moment_is_no_trouble() -> None:
    """Two tests that begin at once both take away what a killed one left."""
    assert rules("FORWARD")
    with _bridge() as name:
        assert len(rules(name)) == 3
        subprocess.run(["ip", "link", "delete", name], check=True)
    assert rules(name) == []


def namespaces(folder: Path) -> list[str]:
    """The namespaces of the containerd that an engine started, or that serves the machine."""
    own = folder / "exec/containerd/containerd.sock"
    address = own if own.exists() else Path("/run/containerd/containerd.sock")
    listed = subprocess.run(
        ["ctr", "--address", str(address), "namespace", "list", "-q"], capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    return listed.stdout.split()


def test_it_keeps_its_images_where_the_other_engine_does_not_look(busybox: str) -> None:
    try:
        with temporary_engine("tst-namespace-", containerd_store=True) as engine:
            engine.load(busybox)
            folder = Path(engine.address.removeprefix("unix://")).parent
            found = [name for name in namespaces(folder) if name.startswith(f"bm{os.getpid()}x")]
            images = ["ctr", "--address", str(folder / "exec/containerd/containerd.sock"), "--namespace"]
            if (folder / "exec/containerd/containerd.sock").exists():
                listed = subprocess.run([*images, found[0], "image", "list", "-q"], capture_output=True, text=True)
                assert busybox in listed.stdout
    except UserError as trouble:
        pytest.skip(str(trouble))
    assert found


def test_what_a_killed_engine_had_mounted_goes_with_its_folder(tmp_path: Path) -> None:
    """Its data on itself, twice, a step's file system within, and a network namespace."""
    folder = tmp_path / "engine"
    network = folder / "exec/netns/0123"
    for place in (folder / "data", network.parent):
        place.mkdir(parents=True)
    network.touch()
    data = str(folder / "data")
    for source, target in [(data, data), (data, data), ("/proc/self/ns/net", str(network))]:
        if subprocess.run(["mount", "--bind", source, target], capture_output=True).returncode:
            pytest.skip("only root can mount")
    (folder / "data/rootfs").mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    subprocess.run(["mount", "--bind", precious, folder / "data/rootfs"], check=True)
    _remove(folder)
    assert not folder.exists()
    assert (precious / "file").exists()
