"""How long does it take to learn what a registry far away holds of many images?

    .venv/bin/python benchmarks/many_images.py [--images 1000] [--delay 0.02] [--repeat 3]

Needs redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Results, say
from doit_images.core.planning.shared_image import SharedRef
from doit_images.share.index import Remembered
from doit_images.share.lease import BuildCoordinator
from doit_images.share.share import Share
from tests import loopback

ABOUT = """
What a plan asks about images that are not here, without the plan itself. The registry is a pretended one in a process
of its own, on loopback, that answers each request after the delay of a line; a manifest has 12 layers, a configuration
6 labels. The Redis is a real one, without a delay. `without an index` asks the registry about every image (what its tag
means, a manifest and a configuration each), `known by their digests` is a machine that was told of them in an earlier
run, and `with the index` finds all of them there, as the second machine of a team does.
"""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    with (
        Results(Path(__file__), "Many images, and a registry far away", ABOUT) as results,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        registry = Pretended(given.delay)
        stack.callback(registry.close)
        redis = stack.enter_context(loopback.redis(folder))
        url = f"redis://127.0.0.1:{redis.port}/0"
        shared_ref = {
            f"i{number}": SharedRef(f"app/i{number}", f"{number:064x}", "linux/amd64") for number in range(given.images)
        }

        def plain() -> float:
            return _asked(Share(f"localhost:{registry.port}", write=True, say=say), shared_ref)

        def indexed() -> float:
            share = Share(f"localhost:{registry.port}", write=True, say=say)
            share.ask_first(BuildCoordinator(url, say).index, 3600.0)
            return _asked(share, shared_ref)

        def known() -> float:
            share = Share(f"localhost:{registry.port}", write=True, say=say)
            share.memory = Remembered(folder / "answers.json", 0.0)
            return _asked(share, shared_ref)

        def requests(act: Callable[[], float]) -> str:
            before = registry.counts()
            act()
            made, connections = (after - at for after, at in zip(registry.counts(), before, strict=True))
            return f"{made} requests on {connections} connections"

        known()  # is told of all
        indexed()  # fills it
        ways = {"without an index": plain, "known by their digests": known, "with the index": indexed}
        notes = {way: requests(act) for way, act in ways.items()}
        say("; ".join(f"{way}: {note}" for way, note in notes.items()))
        times = results.measured("all of the images", ways, given.repeat)
        what = f"{given.images} images, {given.delay * 1000:.0f} ms away"
        for way, target in zip(ways, (3.0, 1.5, 0.5), strict=True):
            results.add(f"{what}, {way}", times[way], "s", target, notes[way])


def _asked(share: Share, shared_ref: dict[str, SharedRef]) -> float:
    began = time.perf_counter()
    found = share.look(shared_ref)
    seconds = time.perf_counter() - began
    if len(found) != len(shared_ref):
        raise SystemExit(f"{len(found)} of {len(shared_ref)} were found")
    return seconds


class Pretended:
    """A registry that has every image that it is asked for, after a delay."""

    def __init__(self, delay: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(delay, theirs), daemon=True)
        self._process.start()
        self.port = int(self._pipe.recv())

    def counts(self) -> tuple[int, int]:
        """How many requests and connections there were."""
        self._pipe.send("counts")
        requests, connections = self._pipe.recv()
        return requests, connections

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _image(name: str) -> tuple[bytes, bytes, str]:
    """The manifest and the configuration of an image, and the digest of that."""
    digests = [f"sha256:{hashlib.sha256(f'{name} {number}'.encode()).hexdigest()}" for number in range(12)]
    labels = {f"doit-images.label-{number}": digests[number] for number in range(6)}
    content = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": digests}, "config": {"Labels": labels}}
    config = json.dumps(content).encode()
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    layers = [{"digest": each, "size": 1000} for each in digests]
    manifest = {"schemaVersion": 2, "config": {"digest": digest, "size": len(config)}, "layers": layers}
    return json.dumps(manifest).encode(), config, digest


def _serve(delay: float, pipe: Connection) -> None:
    counts = [0, 0]

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts[1] += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                counts[0] += 1
                method, path = head.decode().split(" ", 2)[:2]
                manifest, config, _ = _image(path.split("/")[3])
                body = manifest if "/manifests/" in path else config
                digest = f"Docker-Content-Digest: sha256:{hashlib.sha256(body).hexdigest()}\r\n"
                await asyncio.sleep(delay)
                writer.write(f"HTTP/1.1 200 OK\r\n{digest}Content-Length: {len(body)}\r\n\r\n".encode())
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()

    def tell() -> None:
        pipe.recv()
        pipe.send(tuple(counts))

    async def serve() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        asyncio.get_running_loop().add_reader(pipe.fileno(), tell)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
