"""What do heavy packages in layers of their own save, as `advise` puts them there, against one layer for all?

    .venv/bin/python benchmarks/heavy_packages.py [--repeat 2] [--unproved]

Two images with 1.5 GB of real wheels from the package index; about 25 minutes, 15 with `--unproved`, and 20 GB of disk
while it runs. Needs root, dockerd and Debian's docker-registry: each of two machines is an engine of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.peers import Bench, committed
from benchmarks.results import Results, say
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands, settings
from tasks.bases import base
from tests import loopback

ABOUT = """
Two images, `api` and `worker`, install the same heavy wheels and other small ones by `pip install -r` of a lock with
hashes; before that the worker has a step that the other has not. One machine builds `api`, another one `worker`, as
documented and after `doit advise heavy-packages --apply`, and both push to a registry on loopback. Shared are the bytes
of layers, as the registry has them, that both images have, of all layers above the base. Then the lock of `api` names
another version of one small package: `docker compose build`, `docker push`, and `docker pull` by the other machine,
that has the image of before; in turns, with the classic store. Nothing waits for a quiet machine: read the ratios.
"""
HEAVY = "pyarrow scipy pandas polars onnxruntime opencv-python-headless scikit-learn numba catboost"
IMAGES = {"api": "fastapi uvicorn", "worker": "celery redis requests"}
IMPORTED = "import pyarrow, scipy, pandas, polars, onnxruntime, cv2, sklearn, numba, catboost, numpy"
SMALL = ("3.10", "3.8", "3.9", "3.7", "3.6", "3.4")  # versions of idna
DOCKERFILE = """\
FROM {base}
RUN {first}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
COPY with-secrets.sh /opt/
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \\
    --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url \\
    sh /opt/with-secrets.sh pip install -q -r requirements.txt
CMD ["python"]
"""


@dataclass(frozen=True)
class Machine:
    """An engine, what it pushes to, and the folder of a project with one image for each way."""

    engine: TemporaryEngine
    registry: str
    folder: Path
    image: str

    def ref(self, way: str) -> str:
        """The name of the image, the one way or the other."""
        return f"{self.registry}/{way}/{self.image}"

    def docker(self, *words: str, cwd: Path | None = None) -> measure.Ran:
        """A docker command on this engine."""
        return measure.run(["docker", *words], cwd=cwd, env=self.engine.environ)

    def lock(self, way: str, small: str) -> None:
        """Lock the packages, with this version of a small one."""
        argv = ["uv", "pip", "compile", "--quiet", "--python-version=3.13", "--python-platform=x86_64-manylinux_2_28"]
        argv += [
            "--only-binary=:all:",
            "--generate-hashes",
            "--no-emit-index-url",
            "--no-header",
            "requirements.in",
            "--output-file=requirements.txt",
        ]
        names = f"{HEAVY} {IMAGES[self.image]} idna=={small}".split()
        (self.folder / way / "requirements.in").write_text("\n".join(names))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        commands.run(argv, cwd=self.folder / way, env={**os.environ, "PATH": path}).checked("uv")

    def write(self, way: str, base_image: str) -> None:
        """Write the project, and commit it."""
        place = self.folder / way
        place.mkdir(parents=True)
        shutil.copy(measure.ROOT / "docker/tools/with-secrets.sh", place)
        first = "true" if self.image == "api" else "echo 1 > /etc/worker"
        (place / "Dockerfile").write_text(DOCKERFILE.format(base=base_image, first=first))
        secrets = {
            "build_ca": {"file": "${PIP_CERT:-/dev/null}"},
            "pip_index_url": {"environment": "PIP_INDEX_URL"},
        }
        service = {"image": self.ref(way), "build": {"context": ".", "secrets": [*secrets]}}
        (place / "compose.yml").write_text(json.dumps({"services": {self.image: service}, "secrets": secrets}))
        self.lock(way, SMALL[0])
        committed(place)

    def build(self, way: str) -> float:
        """The seconds of a build."""
        return self.docker("compose", "build", "--quiet", cwd=self.folder / way).seconds

    def push(self, way: str) -> float:
        """The seconds of a push."""
        return self.docker("push", "--quiet", self.ref(way)).seconds

    def advise(self, mode: str) -> str:
        """Let `advise` write what it proves, or take its patch as it is; the verdict on it."""
        self.docker("tag", self.ref("documented"), self.ref("advised"))
        bench = Bench({**self.engine.environ, "COMPOSE_FILE": str(self.folder / "advised/compose.yml")}, self.folder)
        patches = json.loads(bench.doit("advise", "heavy-packages", mode, "--json").stdout)["patches"]
        found = [proof["verdict"] for each in patches for proof in each["proofs"].values()] or [
            "not proved in this run"
        ]
        if mode == "--patch":
            (self.folder / "advised/Dockerfile").write_text(patches[0]["text"])
        self.docker("builder", "prune", "--all", "--force", "--filter=type=regular")
        return f"{self.image}: {', '.join(found)}"

    def prepared(self, base_image: str, mode: str) -> str:
        """Build and push the image both ways; what `advise` said."""
        self.engine.load(base_image)
        for way in ("documented", "advised"):
            self.write(way, base_image)
        say(f"{self.image}: {self.build('documented') + self.push('documented'):.0f} s to build and push as documented")
        said = self.advise(mode)
        say(f"{said}; {self.build('advised') + self.push('advised'):.0f} s to build and push as advised")
        return said

    def layers(self, way: str) -> dict[str, int]:
        """The layers that the registry has of the image, by digest, with their bytes there."""
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        url = f"http://{self.registry}/v2/{way}/{self.image}/manifests/latest"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": kind})) as answer:
            return {each["digest"]: each["size"] for each in json.load(answer)["layers"]}

    def imports(self, way: str) -> float:
        """The seconds of importing what is heavy."""
        return self.docker("run", "--rm", self.ref(way), "python", "-c", IMPORTED).seconds


def bumped(
    building: Machine, pulling: Machine, versions: dict[str, list[str]], moved: dict[str, int], way: str
) -> float:
    """The seconds until the other machine has an image with the next version of the small package."""
    building.lock(way, versions[way].pop(0))
    before = building.layers(way)
    seconds = building.build(way) + building.push(way)
    seconds += pulling.docker("pull", "--quiet", building.ref(way)).seconds
    new = {digest: size for digest, size in building.layers(way).items() if digest not in before}
    moved[way] = max(moved.get(way, 0), sum(new.values()))
    return seconds


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--unproved", action="store_true", help="take the patches without building for their proof")
    given = parser.parse_args()
    mode, repeat = "--patch" if given.unproved else "--apply", given.repeat
    commands.stop_on_signals()
    with (
        Results(Path(__file__), "Heavy packages in layers of their own", ABOUT) as results,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        registry = stack.enter_context(loopback.bare_registry(folder / "registry")).address
        chosen = settings.load()
        base.ensure(chosen, measure.ROOT)
        machines = [
            Machine(stack.enter_context(temporary_engine(f"bm-{name}-")), registry, folder / name, name)
            for name in IMAGES
        ]
        with ThreadPoolExecutor() as pool:
            said = "; ".join(pool.map(lambda each: each.prepared(chosen.base_image, mode), machines))
        shared(results, machines, chosen.base_image, said)
        api, other = machines
        other.engine.forget_everything([chosen.base_image])
        for way in ("documented", "advised"):
            other.docker("pull", "--quiet", api.ref(way))
        versions, moved = {way: [*SMALL[1:]] for way in ("documented", "advised")}, dict[str, int]()
        cases = {way: partial(bumped, api, other, versions, moved, way) for way in versions}
        load = os.getloadavg()[0]
        times = measure.in_turns(cases, repeat, say)
        results.timed("another version of a small package: build, push and pull", times, load)
        note = f"documented {moved['documented'] / 1e6:.0f} MB"
        results.add("another version of a small package: new bytes of layers", moved["advised"] / 1e6, "MB", 50, note)
        one, two = times["documented"].median, times["advised"].median
        note = f"{two:.1f} s against {one:.1f} s"
        results.add("another version of a small package: build, push and pull", two / one, "×", 0.3, note)
        machine = Machine(other.engine, registry, folder, "api")
        imports = {way: partial(machine.imports, way) for way in versions}
        times = measure.in_turns(imports, 3, say)
        results.timed("a container that imports them all", times, load)


def shared(results: Results, machines: list[Machine], base_image: str, said: str) -> None:
    """What both images have, of what is above the base, the one way and the other."""
    below = int(machines[0].docker("image", "inspect", "--format={{len .RootFS.Layers}}", base_image).stdout)
    found: Mapping[str, list[dict[str, int]]] = {
        way: [dict([*each.layers(way).items()][below:]) for each in machines] for way in ("documented", "advised")
    }
    parts = {
        way: sum(one[digest] for digest in {*one} & {*two}) / max(sum(one.values()), sum(two.values()))
        for way, (one, two) in found.items()
    }
    size = sum(found["advised"][0].values()) / 1e6
    note = (
        f"documented {1 - parts['documented']:.3f}; {size:.0f} MB packed in {len(found['advised'][0])} layers; {said}"
    )
    results.add("bytes above the base that two images do not share", 1 - parts["advised"], "of it", 0.05, note)


if __name__ == "__main__":
    main()
