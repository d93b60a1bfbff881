"""A project whose runs are killed: what it builds, whether that is right, and what a run left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.engine.client import Engine
from tests.conftest import ROOT, Lab
from tests.waiting import comes

BUSYBOX = "tst-busybox:1"
# Each image and the one that it is built on.
PARENTS = {"base": "", "left": "base", "right": "base", "leaf": "left"}
SOON = 20.0  # seconds after which nothing of a run is left: a tenth of that where nothing else works (`Rounds.took`)


class Project(Lab):
    """Four images on an engine of the test's own. All that runs for it knows ``FAULTS_ID``, and has its temporary files
    in ``scratch``."""

    def __init__(self, folder: Path, engine: TemporaryEngine, prefix: str = "") -> None:
        super().__init__(folder / "project")
        self.prefix = prefix or self.prefix
        self.engine = engine
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.id = uuid.uuid4().hex
        self.environ = {
            "DOCKER_HOST": engine.address,
            "DOCKER_CONTEXT": "",
            "TMPDIR": str(self.scratch),
            "FAULTS_ID": self.id,
            "XDG_STATE_HOME": str(folder / "state"),
        }
        contexts = {name: {parent: f"service:{parent}"} if parent else {} for name, parent in PARENTS.items()}
        services = {
            name: {"image": f"PREFIX/{name}", "build": {"context": name, "additional_contexts": contexts[name]}}
            for name in PARENTS
        }
        self.write({"compose.yml": json.dumps({"name": self.prefix, "services": services})})
        for name, parent in PARENTS.items():
            self.write({f"{name}/Dockerfile": self.dockerfile(name, parent or BUSYBOX), f"{name}/f": "0"})

    def dockerfile(self, name: str, parent: str) -> str:
        return f"FROM {parent}\nCOPY f /of/{name}\nRUN sleep 0.3; cat /of/* > /all-{name}\n"

    def edit(self, *names: str) -> None:
        """Give these images (all of them without names) content that no build has seen."""
        for name in names or ("base",):
            (self.folder / name / "f").write_text(uuid.uuid4().hex)

    def begun(self, *args: str, **environ: str) -> subprocess.Popen[bytes]:
        """Doit, started in a group of its own, with its output in a file."""
        return self.started(self.argv(*(args or ("build_optimized",))), **environ)

    def started(self, argv: Sequence[str], **environ: str) -> subprocess.Popen[bytes]:
        with (self.folder.parent / "output").open("wb") as out:
            return subprocess.Popen(
                argv,
                cwd=ROOT,
                env=self.env(**environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self.folder.parent / "output").read_text(errors="replace")

    def docker(self, *words: str, stdin: bytes = b"") -> str:
        done = subprocess.run(["docker", *words], env=self.env(), input=stdin, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def processes(self, besides: int = 0) -> dict[int, str]:
        """What runs that was started for this project, by its number."""
        return running(f"FAULTS_ID={self.id}", besides)

    def temporary_names(self) -> list[str]:
        """The names in the engine that last only as long as a build."""
        names = Engine(self.engine.address).snapshot().by_name
        tags = [name.rpartition(":")[2] for name in names if self.prefix in name]  # another test may have failed
        return [tag for tag in tags if tag.startswith(("building-", "parent-"))]

    def left_files(self) -> list[str]:
        """The temporary and half-written files."""
        found = [*self.scratch.iterdir(), *(self.folder / ".doit-images").rglob("*.partial")]
        found += (self.folder / ".doit-images").glob("*/runs/*")
        return [str(path) for path in found]

    def assert_right(self) -> None:
        """All is fresh, and each image has the layers that BuildKit gives it, asked with nothing of ours between."""
        actions = self.actions()
        assert actions == dict.fromkeys(PARENTS, "fresh"), actions
        targets = {
            name: {
                "context": name,
                "contexts": {parent: f"docker-image://{self.prefix}/{parent}:latest"} if parent else {},
                "tags": [f"{self.prefix}/judge:{name}"],
            }
            for name, parent in PARENTS.items()
        }
        definition = json.dumps({"target": targets, "group": {"default": {"targets": list(targets)}}})
        argv = ["docker", "buildx", "bake", "--file", "-"]
        environ = {**self.env(), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        done = subprocess.run(argv, cwd=self.folder, env=environ, input=definition.encode(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        engine = Engine(self.engine.address)
        names = engine.snapshot().by_name
        for name in PARENTS:
            ours, judged = (names[ref] for ref in (f"{self.prefix}/{name}:latest", f"{self.prefix}/judge:{name}"))
            assert engine.layers(ours.id) == engine.layers(judged.id), name

    def assert_clean(self) -> None:
        """Nothing is left that a run has only for its own time."""
        assert comes(lambda: not self.processes(), SOON), self.processes()
        assert (self.left_files(), self.temporary_names()) == ([], [])
        assert not self.docker("ps", "--all", "--quiet").split()


def running(word: str, besides: int = 0) -> dict[int, str]:
    """The processes with this in their environment, but for zombies."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            known = word.encode() in (folder / "environ").read_bytes().split(b"\0")
            if known and int(folder.name) != besides:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:300]
    return found


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """For the block; a process that is still there after it is killed with its group."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
