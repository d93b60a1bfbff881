"""What does a second machine pay for what a first one has built?

    .venv/bin/python benchmarks/shared.py [--repeat 3]

Needs root, dockerd and Debian's docker-registry: each command has an engine of its own, emptied before each run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, copied_stack
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from tests import loopback

ABOUT = """
A first machine built this stack and shared it through a registry on loopback. The second one's engine holds the base
image and nothing else. `doit build_optimized` pulls finished images (classic store); bake imports BuildKit's cache from
the same registry, written with `mode=max` (containerd store: the classic one cannot export it), and has to make the
images from it; `cold` is `doit build_optimized` without a registry, its packages coming over the network. The
documented images are those of `docker-compose.documented.yml`, built as Docker's documentation teaches: pushed by the
first machine and pulled by the second (classic store), or built there by bake from such a cache (containerd store).
What a pull itself costs shows `docker compose pull` of the very images that the first machine's services run, pushed as
they are. `signed` is the first again, where the first machine signed its results and the second one takes no others. In
turns.
"""


TITLE = "A second machine, with a shared registry"
# In the order in which they are measured. That pulled images are smaller is all that can be won against a pull.
GOALS = {
    "against a pull of the same images": 1.15,
    "against a pull of the documented images": 1.0,
    "against documented images built from a registry cache": 0.3,
    "against bake": 1.0,
    "against cold": 0.5,
}
SIGNED = 1.1


class Finals:
    """The images that services run, pushed as they are, and pulled by whoever only wants them."""

    def __init__(self, file: Path, registry: str, images: Mapping[str, str]) -> None:
        self._file, self._images = file, images
        self._refs = {name: f"{registry}/{file.stem}/{name}" for name in images}

    def push(self, environ: Mapping[str, str]) -> None:
        """Push them from the engine that holds them."""
        for name, ref in self._refs.items():
            measure.run(["docker", "tag", self._images[name], ref], env=environ)
            measure.run(["docker", "push", "--quiet", ref], env=environ)

    def pull(self, environ: Mapping[str, str]) -> float:
        """The seconds of `docker compose pull` of them all."""
        services = {name: {"image": ref} for name, ref in self._refs.items()}
        self._file.write_text(json.dumps({"name": "bm-pull", "services": services}))
        return measure.run(["docker", "compose", f"--file={self._file}", "pull", "--quiet"], env=environ).seconds


class Documented:
    """The images as Docker's documentation teaches them, and what it says of other machines: pushed and pulled, or
    built there from a cache in the registry."""

    def __init__(self, folder: Path, registry: str) -> None:
        self._folder, self._registry = folder, registry
        self._files = [f"--file={folder / name}" for name in ("docker-compose.yml", "docker-compose.documented.yml")]
        self._declared: dict[str, Any] = {}

    def share(self, environ: Mapping[str, str]) -> Finals:
        """Build the images on a first machine, and push them."""
        self._declared = json.loads(self._compose("config", "--format=json", environ=environ).stdout)
        say("first machine: building and pushing the documented images")
        self._compose("build", environ=environ)
        images = {name: service["image"] for name, service in self._built().items()}
        finals = Finals(self._folder / "documented.json", self._registry, images)
        finals.push(environ)
        return finals

    def export(self, environ: Mapping[str, str]) -> None:
        """Build them on a first machine whose engine can write a cache to the registry."""
        say("first machine: building the documented images and exporting their cache")
        self._bake(environ, "to", ",mode=max")

    def built(self, environ: Mapping[str, str]) -> float:
        """The seconds of building them from that cache."""
        return self._bake(environ, "from", "").seconds

    def _built(self) -> dict[str, Any]:
        return {name: service for name, service in self._declared["services"].items() if "build" in service}

    def _bake(self, environ: Mapping[str, str], direction: str, options: str) -> measure.Ran:
        cache = f"type=registry,ref={self._registry}/documented/{{}}:cache{options}"
        caches = {name: cache.format(name) for name in self._built()}
        sets = [f"--set={name}.cache-{direction}={cache}" for name, cache in caches.items()]
        sets += [f"--set={name}.tags={service['image']}" for name, service in self._built().items()]
        argv = ["docker", "buildx", "bake", "--progress=plain", *self._files, *sets, *caches]
        return measure.run(argv, cwd=self._folder, env={**environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})

    def _compose(self, *words: str, environ: Mapping[str, str]) -> measure.Ran:
        return measure.run(["docker", "compose", *self._files, *words], cwd=self._folder, env=environ)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    commands.stop_on_signals()
    with Results(Path(__file__), TITLE, ABOUT) as results, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        registry = stack.enter_context(loopback.bare_registry(folder / "registry")).address
        compose_file, base = copied_stack(folder / "stack")
        first = stack.enter_context(temporary_engine("bm-first-"))
        second = stack.enter_context(temporary_engine("bm-second-"))
        baker = stack.enter_context(temporary_engine("bm-baker-", containerd_store=True))
        for engine in (first, second, baker):
            engine.load(base)
        project = {"COMPOSE_FILE": str(compose_file)}
        shared = {"CACHE_REGISTRY": registry, "CACHE_BACKEND": "none"}
        sharing = Bench({**first.environ, **project, **shared}, folder / "first")
        pulling = Bench({**second.environ, **project, **shared}, folder / "second")
        alone = Bench({**second.environ, **project}, folder / "alone")
        baking = Bench({**baker.environ, **project}, folder / "baker")
        baking.prepare()
        cache = _cache_options(folder / "baker" / "bake.json", registry)
        say(f"first machine: {sharing.doit('build_optimized').seconds:.1f} s to build and push")
        say(f"first machine: {baking.bake(*cache['to']).seconds:.1f} s for bake to build and export")

        def emptied_engine(engine: TemporaryEngine) -> Mapping[str, str]:
            engine.forget_everything([base])
            return engine.environ

        def emptied(bench: Bench, engine: TemporaryEngine) -> Bench:
            emptied_engine(engine)
            shutil.rmtree(compose_file.parent / OWN_FOLDER, ignore_errors=True)
            return bench

        def pull(machine: Bench) -> float:
            ran = emptied(machine, second).doit("build_optimized")
            if any(line.startswith("built ") for line in ran.stderr.splitlines()):
                raise SystemExit(f"something was built:\n{ran.stderr}")
            return ran.seconds

        checking = _signed(sharing, pulling, folder)
        ours = Finals(folder / "ours.json", registry, _finals(sharing))
        ours.push(first.environ)
        documented = Documented(compose_file.parent, registry)
        theirs = documented.share(first.environ)
        documented.export(baker.environ)
        cases = {
            "doit, shared registry": lambda: pull(pulling),
            "docker compose pull of the same images": lambda: ours.pull(emptied_engine(second)),
            "docker compose pull of documented images": lambda: theirs.pull(emptied_engine(second)),
            "documented, registry cache": lambda: documented.built(emptied_engine(baker)),
            "bake, registry cache": lambda: emptied(baking, baker).bake(*cache["from"]).seconds,
            "cold": lambda: emptied(alone, second).doit("build_optimized").seconds,
            "doit, shared registry, signed": lambda: pull(checking),
        }
        mine, *others, signed = results.measured("a second machine", cases, repeat).values()
        note = f"{signed:.1f} s against {mine:.1f} s; nothing was built"
        results.add("shared registry, signed, against unsigned", signed / mine, "×", SIGNED, note)
        for (what, at_most), other in zip(GOALS.items(), others, strict=True):
            results.add(f"shared registry, {what}", mine / other, "×", at_most, f"{mine:.1f} s against {other:.1f} s")


def _signed(sharing: Bench, pulling: Bench, folder: Path) -> Bench:
    """The second machine where it takes nothing that is not signed, once the first has signed what it shared."""
    trusting = {"SHARE_BUILDERS": str(folder / "trusted-builders.toml")}
    key = str(folder / "first.key")
    signing = Bench({**sharing.environ, **trusting, "SHARE_KEY": key}, folder / "signing")
    Bench({**sharing.environ, **trusting}, folder / "signing").doit("share_key", "first", key)
    signing.doit("cache_export")
    return Bench({**pulling.environ, **trusting}, folder / "checking")


def _finals(bench: Bench) -> dict[str, str]:
    """The images of a project on which no other is built, by name."""
    plan = bench.plan()
    parents = {parent for image in plan for parent in image["parents"]}
    return {image["name"]: image["image"] for image in plan if image["name"] not in parents}


def _cache_options(bake_file: Path, registry: str) -> Mapping[str, list[str]]:
    """What bake is told in order to write and to read a registry cache, one reference for each image."""
    targets = list(json.loads(bake_file.read_text())["target"])
    refs = {name: f"type=registry,ref={registry}/bake/{name}:cache" for name in targets}
    read = [word for name, ref in refs.items() for word in ("--set", f"{name}.cache-from={ref}")]
    written = [word for name, ref in refs.items() for word in ("--set", f"{name}.cache-to={ref},mode=max")]
    return {"from": read, "to": written}


if __name__ == "__main__":
    main()
