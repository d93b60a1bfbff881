"""Where can builds be measured without touching anybody's images, and from an empty cache?

In a Docker engine that is started for it and goes away with all that it holds: its own folder, socket and bridge
(an engine without a bridge of its own takes the first engine's away). It must not touch the firewall either: an engine
that starts empties the chains that all engines of a machine use, so the containers of the first one would lose their
published ports and the walls between their networks. It needs root and ``dockerd``, like any engine.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
from doit_images.core.base.process import Process
from doit_images.core.base.references import stand_in
from doit_images.core.engine.client import Engine

_START_SECONDS = 60
_STOP_SECONDS = 30
_numbers = itertools.count()


@dataclass(frozen=True)
class TemporaryEngine:
    """A running engine: where it listens, and the environment in which docker commands and doit talk to it."""

    address: str
    environ: Mapping[str, str]

    def load(self, ref: str) -> None:
        """Give it an image that the current engine holds, by that name, with no registry between. What stands in for a
        base there may have the base's name here: nobody else builds on this engine."""
        snapshot = Engine().snapshot()
        other = stand_in(ref, snapshot.platform)
        name = other if snapshot.get(ref) is None and snapshot.get(other) else ref
        with commands.start(["docker", "save", name], stderr=commands.DEVNULL) as save:
            taken = commands.run(["docker", "load", "--quiet"], env=self.environ, stdin=save.stdout)
        if save.returncode or taken.status:
            raise UserError(f"{ref} cannot be given to the engine that measures: {taken.why}")
        if name != ref:
            self._docker("tag", name, ref)
            self._docker("image", "rm", name)

    def forget_everything(self, keep: Iterable[str] = (), *, cache_mounts: bool = True) -> None:
        """Remove all images but those of these names, and the whole build cache; without ``cache_mounts``, what cache
        mounts hold (packages that were downloaded) stays."""
        snapshot = Engine(self.address).snapshot()
        kept = {local_image.id for ref in keep if (local_image := snapshot.get(ref))}
        ids = set(self._docker("image", "ls", "--all", "--quiet", "--no-trunc").split()) - kept
        if ids:
            self._docker("image", "rm", "--force", *ids)
        for kind in [""] if cache_mounts else ["--filter=type=regular", "--filter=type=source.local"]:
            self._docker("builder", "prune", "--all", "--force", *filter(None, [kind]))

    def _docker(self, *words: str) -> str:
        return commands.run(["docker", *words], env=self.environ).checked(f"docker {' '.join(words[:2])}").stdout


@contextlib.contextmanager
def temporary_engine(
    prefix: str = "spare-engine-",
    *,
    containerd_store: bool = False,
    programs: Path | None = None,
    cgroup: str = "",
    in_memory: bool = False,
) -> Iterator[TemporaryEngine]:
    """Start an engine and, at the end, stop it and remove all that it held. Its images live in the classic store, or
    with ``containerd_store`` in containerd's, whose BuildKit can export caches. With ``programs`` the engine, its
    client, buildx and Compose are those of packages that were unpacked there. What it builds and runs is in this
    control group, where one is named. ``in_memory``, for tests, lets it keep its images in memory, where the kernel
    can: nothing waits for a disk then.

    Raises ``UserError`` where none can be started: without root, without ``dockerd``, or with its last words.
    """
    path = _path(programs)
    missing = [name for name in ("dockerd", "ip", "iptables", "setpriv") if not shutil.which(name, path=path)]
    if os.geteuid() != 0 or missing:
        raise UserError(
            "measuring from an empty cache needs an engine of its own, which needs root, dockerd and iproute2",
            remedy="run it as root on a machine with the packages docker.io, iptables and iproute2",
        )
    cleaning = contextlib.ExitStack()
    # doit's workers are daemon threads: when the run is interrupted, nothing else would get here.
    atexit.register(cleaning.close)
    try:
        _sweep(prefix)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
        cleaning.callback(_remove, folder)
        if in_memory:
            _into_memory(folder / "data")
        bridge = cleaning.enter_context(_bridge())
        log = cleaning.enter_context((folder / "log").open("w"))
        address = f"unix://{folder}/docker.sock"
        config = folder / "daemon.json"
        content = _config(folder, address, bridge, containerd_store)
        config.write_text(json.dumps({**content, **({"cgroup-parent": cgroup} if cgroup else {})}))
        # Should we be killed, the engine must not outlive us.
        environ = {**os.environ, "PATH": path, **_client(programs, folder)}
        argv = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--config-file", str(config)]
        process = commands.begin(argv, env=environ, stdout=log, stderr=log, cleanup=True)
        cleaning.callback(process.stop, _STOP_SECONDS)
        _await(Engine(address), process, folder / "log")
        yield TemporaryEngine(address, {**environ, "DOCKER_HOST": address, "DOCKER_CONTEXT": ""})
    finally:
        cleaning.close()
        atexit.unregister(cleaning.close)


def _path(programs: Path | None) -> str:
    """Where commands are looked for: first in the packages that were unpacked, if there are any."""
    path = os.environ.get("PATH", os.defpath)
    return f"{programs}/usr/sbin:{programs}/usr/bin:{path}" if programs else path


def _client(programs: Path | None, folder: Path) -> dict[str, str]:
    """What lets the docker command find the plugins of these packages, before any that are installed."""
    if programs is None:
        return {}
    (folder / "config").mkdir()
    (folder / "config" / "cli-plugins").symlink_to(programs / "usr/libexec/docker/cli-plugins")
    return {"DOCKER_CONFIG": str(folder / "config")}


def _config(folder: Path, address: str, bridge: str, containerd_store: bool) -> dict[str, object]:
    return {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "pid"),
        "hosts": [address],
        "bridge": bridge,
        # Where a containerd serves the whole machine, the engine takes that one: in its own namespace it does not see,
        # and cannot remove, what the first engine keeps there.
        "containerd-namespace": bridge,
        "containerd-plugins-namespace": f"{bridge}-plugins",
        "iptables": False,
        "ip6tables": False,
        "features": {"containerd-snapshotter": containerd_store},
    }


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    """The name of a new bridge, with a free network of 10.214.0.0/16; it goes again with its firewall rules."""
    name = f"bm{os.getpid()}x{next(_numbers)}"
    taken = _run("ip", "-brief", "-4", "address")
    # Two processes that start at once look in different places first.
    numbers = ((os.getpid() + more) % 256 for more in range(256))
    free = next(number for number in numbers if f" 10.214.{number}." not in taken)
    subnet = f"10.214.{free}"
    # An address of its own, made of its network as Docker does it: one that has none takes the lowest of its ports',
    # which come and go with each step, and who still sends to the one before waits for up to a minute.
    _run("ip", "link", "add", name, "address", f"02:42:0a:d6:{free:02x}:01", "type", "bridge")
    try:
        _run("ip", "address", "add", f"{subnet}.1/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        for rule in _rules(name, subnet):
            _run("iptables", "--wait", "--insert", *rule)
        yield name
    finally:
        _remove_bridge(name)


def _rules(bridge: str, subnet: str) -> list[tuple[str, ...]]:
    """How what is built behind a bridge reaches the network: chain by chain, as an engine would write it."""
    answers = ("--match", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
    outwards = ("--source", f"{subnet}.0/24", "!", "--out-interface", bridge)
    return [
        ("FORWARD", "--in-interface", bridge, "--jump", "ACCEPT"),
        ("FORWARD", "--out-interface", bridge, *answers, "--jump", "ACCEPT"),
        ("POSTROUTING", "--table", "nat", *outwards, "--jump", "MASQUERADE"),
    ]


def _remove_bridge(name: str) -> None:
    """Remove a bridge and its rules, whoever else does so at the same moment."""
    done = commands.run(["ip", "link", "delete", name], cleanup=True)
    if Path("/sys/class/net", name).exists():
        done.checked(f"ip link delete {name}")
    for table in ("filter", "nat"):
        argv = ["iptables", "--wait", "--table", table]
        listed = commands.run([*argv, "--list-rules"], cleanup=True).stdout
        for rule in map(str.split, listed.splitlines()):
            if name in rule:
                commands.run([*argv, "--delete", *rule[1:]], cleanup=True)


def _into_memory(folder: Path) -> None:
    """Make a folder in memory; on the disk where the kernel (before 6.6) keeps no ``user.`` attributes there, which an
    engine copies. What a build writes is written without waiting: half of the time of a small one is that."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "mode=0710", "tmpfs", str(folder))
    try:
        os.setxattr(folder, "user.probe", b"")
        os.removexattr(folder, "user.probe")
    except OSError:
        _run("umount", str(folder))


def _remove(folder: Path) -> None:
    """Remove an engine's folder. What is mounted in it goes first: the engine's data, which it mounts on itself, and of
    one that was killed the file systems of steps and their networks. Something that it started may be in there a moment
    longer, and must not keep the folder for ever. While anything is mounted, nothing is removed: it may be others'."""
    for options in ([], [], [], [], ["--lazy"]):
        # Each as often as it is mounted, those first that were mounted last.
        for place in reversed(_mounted_in(folder)):
            commands.run(["umount", *options, place], cleanup=True)
        if not _mounted_in(folder):
            shutil.rmtree(folder, ignore_errors=True)
            return
        time.sleep(0.5)


def _mounted_in(folder: Path) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [place for line in mounts if Path(place := line.split()[4]).is_relative_to(folder)]


def _sweep(prefix: str) -> None:
    """Remove what a process that was killed left: the folders of its engines, and its bridges."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        if _is_dead(path.name.removeprefix(prefix).partition("-")[0]):
            _remove(path)
    for line in _run("ip", "-brief", "link").splitlines():
        found = re.match(r"(bm(\d+)x\d+) ", line)
        if found and _is_dead(found[2]):
            _remove_bridge(found[1])


def _is_dead(pid: str) -> bool:
    return pid.isdecimal() and not Path("/proc", pid).exists()


def _run(*argv: str) -> str:
    # Also what removes a bridge when the run was stopped.
    return commands.run(argv, cleanup=True).checked(" ".join(argv)).stdout


def _await(engine: Engine, process: Process, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while not process.over() and time.monotonic() < until:
        with contextlib.suppress(UserError):
            engine.snapshot()
            return
        time.sleep(0.1)
    said = last_words(log.read_text(errors="replace"), "nothing")
    raise UserError(f"the engine that measures does not start; its last words: {said}")
