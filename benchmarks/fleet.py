"""Does a fleet build each thing once, while its registry and its Redis die and come back?

    .venv/bin/python benchmarks/fleet.py [--machines 20] [--images 200] [--minutes 3] [--pause 1] [--seed 1]

Needs docker-registry and redis-server.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Results, say
from doit_images.core.buildkit.oci_transfer import blob_of
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.core.planning.shared_image import SharedImage, SharedRef
from doit_images.share import transfer, travel
from doit_images.share.index import KnownResult
from doit_images.share.lease import BuildCoordinator
from doit_images.share.share import Share
from doit_images.share.transport import LARGEST, Answer, Transport
from tests import loopback

ABOUT = """
Simulated: each machine is a process that does over and over what a run does about images that it does not have (ask the
index and the registry, pull, or take the lease, look again, build, push under the number of the lease, publish), with
the code of `doit_images/share`. The builder is pretended: it waits, and makes an image of one layer that no other build
makes. Pulls and pushes go over the registry's API, each blob checked. Real are docker-registry and redis-server, both
killed and started again meanwhile, machines that are stopped for longer than a lease lasts, and machines that are
killed while they build. However many minutes it takes, it is an hour of one commit a minute: the clock goes faster.
Each commit changes one image of fifty; a machine looks at twelve images in each round, with a pause between rounds. A
build is needed once for each fingerprint that any machine asked for; one that a machine was killed in does not count.
An image is wrong if it was made for another fingerprint than the one that it was pulled for. Requests and bytes are
those between the machines and the registry.
"""
PLATFORM = "linux/amd64"
LEASE_SECONDS = 3.0
_SCOPE = 12  # how many images a machine looks at in one round


@dataclass(frozen=True)
class Fleet:
    """What all machines know: where the registry and the Redis are, how many images there are, how long it goes on (by
    the monotonic clock), how often there is a commit, and how it all began."""

    registry: str
    redis: str
    images: int
    began: float
    seconds: float
    every: float
    pause: float
    seed: int

    def fingerprint(self, image: int, now: float) -> str:
        """What an image is made of at this moment."""
        commit = int((now - self.began) / self.every)
        # Each commit changes one image of fifty.
        version = max((each for each in range(commit + 1) if (image * 7 + each) % 50 == 0), default=-1)
        return hashlib.sha256(f"{self.seed} {image} {version}".encode()).hexdigest()


@dataclass
class Seen:
    """What one machine did and saw."""

    asked: set[str] = field(default_factory=set)
    built: list[str] = field(default_factory=list)
    pulled: int = 0
    wrong: int = 0
    taken_instead: int = 0
    not_pushed: int = 0
    waited: float = 0.0
    requests: int = 0
    received: int = 0
    sent: int = 0
    said: Counter[str] = field(default_factory=Counter)


class Counted:
    """A way to the registry that counts what goes over it."""

    def __init__(self, transport: Transport, seen: Seen) -> None:
        self._transport, self._seen = transport, seen

    def ask(
        self, method: str, url: str, headers: Any = None, body: Any = None,
        into: Callable[[bytes], object] | None = None,
    ) -> Answer:  # fmt: skip
        """The answer to one request, as the transport's own."""
        self._seen.requests += 1
        if body is not None:
            self._seen.sent += len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size

        def take(piece: bytes) -> None:
            self._seen.received += len(piece)
            if into:
                into(piece)

        answer = self._transport.ask(method, url, headers, body, take if into else None)
        self._seen.received += len(answer.body)
        return answer

    def trusted_blindly(self, netloc: str) -> str:
        """How the registry answers, as the transport's own."""
        self._seen.requests += 1
        return self._transport.trusted_blindly(netloc)


class Machine:
    """One machine of the fleet, in its own process. Each round is a run: what failed in one is tried in the next."""

    def __init__(self, fleet: Fleet, number: int, folder: Path, journal: Path) -> None:
        self._fleet, self._number, self._folder = fleet, number, folder
        self._random = random.Random(fleet.seed * 1000 + number)
        self._journal = journal.open("a", buffering=1)
        self._here: set[str] = set()

    def live(self) -> Seen:
        """Round after round until the time is over."""
        seen = Seen()
        while (now := time.monotonic()) < self._fleet.began + self._fleet.seconds:
            scope = self._random.sample(range(self._fleet.images), min(_SCOPE, self._fleet.images))
            self._round({number: self._fleet.fingerprint(number, now) for number in scope}, seen)
            time.sleep(self._random.uniform(0.0, self._fleet.pause))
        return seen

    def _round(self, shared_ref: Mapping[int, str], seen: Seen) -> None:
        def say(text: str) -> None:
            seen.said[text.partition("`")[0].partition("(")[0].strip()[:70]] += 1

        share = Share(self._fleet.registry, write=True, say=say)
        counted: Any = Counted(share.registry.client.transport, seen)
        share.registry.client.transport = counted
        coordinator = BuildCoordinator(self._fleet.redis, say, LEASE_SECONDS)
        share.ask_first(coordinator.index, 60.0)
        images = {
            str(number): SharedRef(f"fleet/i{number}", fingerprint, PLATFORM)
            for number, fingerprint in shared_ref.items()
            if fingerprint not in self._here
        }
        seen.asked |= {image.fingerprint for image in images.values()}
        offers = share.look(images)
        for name, image in images.items():
            offer = offers.get(name)
            if not (offer and self._pull(share, image, offer, seen)):
                self._in_turn(share, coordinator, image, seen)
            self._here.add(image.fingerprint)

    def _in_turn(self, share: Share, coordinator: BuildCoordinator, image: SharedRef, seen: Seen) -> None:
        began = time.monotonic()
        with coordinator.acquire(image.turn, lambda who: None, 0.3):
            seen.waited = max(seen.waited, time.monotonic() - began)
            share.forget(image)
            if (offer := share.look({"": image}).get("")) and self._pull(share, image, offer, seen):
                return
            whole = self._build(image, seen)
            share.forget(image)
            if offer := share.look({"": image}).get(""):  # another was first
                seen.taken_instead += 1
                self._pull(share, image, offer, seen)
            elif coordinator.lost(image.turn):
                seen.not_pushed += 1
            elif not travel.moved(lambda: transfer.push(share.registry, image.path, [image.tag], whole)):
                share.forget(image)
                share.look({"": image})
                coordinator.index.publish({image.fingerprint: KnownResult(whole.digest, 0.3, 1)})

    def _build(self, image: SharedRef, seen: Seen) -> transfer.Whole:
        """An index of one image that no other build makes."""
        self._journal.write(f"begins {image.fingerprint}\n")
        time.sleep(self._random.uniform(0.1, 0.6))
        layout = self._folder / "built"
        content = {"os": "linux", "architecture": "amd64", "config": {"Labels": {FINGERPRINT: image.fingerprint}}}
        layer = _put(layout, b"%d %d " % (self._number, time.monotonic_ns()) + self._random.randbytes(20_000))
        content["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = _put(layout, json.dumps(content).encode())
        media = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer]}
        config["mediaType"] = "application/vnd.oci.image.config.v1+json"
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
        entry = _put(layout, json.dumps(manifest).encode())
        entry |= {"mediaType": media, "platform": {"os": "linux", "architecture": "amd64"}}
        top = "application/vnd.oci.image.index.v1+json"
        index = _put(layout, json.dumps({"schemaVersion": 2, "mediaType": top, "manifests": [entry]}).encode())
        self._journal.write(f"ends {image.fingerprint}\n")
        seen.built.append(image.fingerprint)
        return transfer.Whole(str(index["digest"]), str(index["digest"]), layout)

    def _pull(self, share: Share, image: SharedRef, offer: SharedImage, seen: Seen) -> bool:
        layout = self._folder / "pulled"
        problem = travel.moved(lambda: self._take(share, image, offer, layout))
        if problem:
            return False
        config = json.loads(blob_of(layout, offer.config).read_bytes())
        shutil.rmtree(layout)
        seen.pulled += 1
        seen.wrong += config["config"]["Labels"][FINGERPRINT] != image.fingerprint
        return True

    @staticmethod
    def _take(share: Share, image: SharedRef, offer: SharedImage, layout: Path) -> None:
        for digest, size in {offer.config: LARGEST, **offer.layers}.items():
            blob_of(layout, digest).parent.mkdir(parents=True, exist_ok=True)
            share.registry.take_blob(image.path, digest, blob_of(layout, digest), size)


def _put(layout: Path, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_of(layout, digest).parent.mkdir(parents=True, exist_ok=True)
    blob_of(layout, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def _live(fleet: Fleet, number: int, folder: str, results: Any) -> None:
    own = Path(folder) / f"machine-{number}"
    own.mkdir(exist_ok=True)
    results.put((number, Machine(fleet, number, own, Path(folder) / f"journal-{number}").live()))


class Services:
    """The registry and the Redis, which die and come back on the same ports with what they have on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: loopback.free_port() for name in ("registry", "redis")}
        self._running: dict[str, contextlib.ExitStack] = {}
        self._services: dict[str, loopback.Service] = {}
        for name in self._ports:
            self.start(name)

    def port(self, name: str) -> int:
        """Where it is."""
        return self._ports[name]

    def start(self, name: str) -> None:
        """Start it; Redis keeps its data, as that of docker-compose.cache.yml does."""
        port, folder = self._ports[name], self._folder / name
        ways = {
            "registry": lambda: loopback.bare_registry(folder, port=port),
            "redis": lambda: loopback.redis(folder, port=port, more=["--appendonly", "yes"]),
        }
        stack = contextlib.ExitStack()
        self._services[name] = stack.enter_context(ways[name]())
        self._running[name] = stack

    def kill(self, name: str) -> None:
        """It dies with SIGKILL."""
        self._services[name].kill()
        self._running.pop(name).close()

    def close(self) -> None:
        """Both end."""
        for stack in self._running.values():
            stack.close()


def _trouble(services: Services, machines: Mapping[int, Any], fleet: Fleet) -> Iterator[str]:
    """What goes wrong meanwhile, one after the other."""
    pick = random.Random(fleet.seed)
    while time.monotonic() < fleet.began + fleet.seconds * 0.9:
        time.sleep(fleet.seconds / 12)
        for name in ("registry", "redis"):
            services.kill(name)
            yield f"{name} killed"
            time.sleep(2.0)
            services.start(name)
            yield f"{name} started"
            time.sleep(fleet.seconds / 12)
        number = pick.choice(list(machines))
        process = machines[number]
        process_id = process.pid
        if process_id and process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal_to(process_id, signal.SIGSTOP)
                time.sleep(LEASE_SECONDS * 1.5)
                signal_to(process_id, signal.SIGCONT)
            yield f"machine {number} stopped for {LEASE_SECONDS * 1.5:.0f} s"
        number = pick.choice(list(machines))
        machines[number].kill()
        yield f"machine {number} killed"


def _tell(what: Iterator[str]) -> None:
    for each in what:
        say(each)


def signal_to(process_id: int, number: int) -> None:
    """Send a signal to a process of ours."""
    os.kill(process_id, number)


def main() -> None:
    """Let them live, count, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two rounds of a machine, at most")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bm-fleet-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        services = Services(folder)
        stack.callback(services.close)
        seconds = given.minutes * 60
        fleet = Fleet(
            f"localhost:{services.port('registry')}", f"redis://127.0.0.1:{services.port('redis')}/0",
            given.images, time.monotonic(), seconds, seconds / 60, given.pause, given.seed,
        )  # fmt: skip
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        machines = {
            number: context.Process(target=_live, args=(fleet, number, name, queue), daemon=True)
            for number in range(given.machines)
        }
        for process in machines.values():
            process.start()
        trouble = threading.Thread(target=_tell, args=(_trouble(services, machines, fleet),), daemon=True)
        trouble.start()
        seen = _collected(machines, queue)
        trouble.join()
        _report(given, folder, seen)


def _collected(machines: Mapping[int, Any], queue: Any) -> dict[int, Seen]:
    """What each machine that lived to the end saw."""
    seen: dict[int, Seen] = {}
    while any(process.is_alive() for number, process in machines.items() if number not in seen) or not queue.empty():
        with contextlib.suppress(Exception):
            number, one = queue.get(timeout=1)
            seen[number] = one
    return seen


def _report(given: argparse.Namespace, folder: Path, seen: Mapping[int, Seen]) -> None:
    done: Counter[str] = Counter()
    killed = 0
    for journal in folder.glob("journal-*"):
        lines = [line.split() for line in journal.read_text().splitlines() if line.count(" ") == 1]
        ends = Counter(number for word, number in lines if word == "ends")
        begins = Counter(number for word, number in lines if word == "begins")
        done += ends
        killed += (begins - ends).total()
    for one in seen.values():
        for text, count in one.said.items():
            say(f"{count:5} × {text}")
    needed, builds = len(done), done.total()
    pulls = sum(one.pulled for one in seen.values())
    note = f"{builds} builds of {needed} fingerprints, {killed} more died with their machine; {pulls} pulls"
    title = f"{given.machines} machines, {given.images} images, {given.minutes:g} minutes"
    results = Results(Path(__file__), "A fleet, its registry and its Redis killed meanwhile", ABOUT)
    with results:
        results.add(f"{title}: builds done, against those needed", builds / needed, "×", 1.01, note)
        requests, received, sent = (
            sum(getattr(one, what) for one in seen.values()) for what in ("requests", "received", "sent")
        )
        note = f"of {pulls} pulled; {requests} requests, {received / 1e6:.0f} MB received, {sent / 1e6:.0f} MB sent"
        results.add(f"{title}: wrong images", sum(one.wrong for one in seen.values()), "images", 0, note)
        instead = sum(one.taken_instead for one in seen.values())
        lost = sum(one.not_pushed for one in seen.values())
        note = f"{instead} results gave way to another's, {lost} were not pushed since the lease was another's by then"
        longest = max(one.waited for one in seen.values())
        results.add(f"{title}: longest wait for another machine", longest, "s", 60.6, note)


if __name__ == "__main__":
    main()
