"""What is compared: our doit, a bare doit, ``docker compose build`` and ``docker buildx bake``, on the same images.

The peers build under names of their own (``bm-…``), so that no one's result is another's starting point. Compose gets
the same graph with ``service:`` contexts, or ``docker-image:`` ones before 2.40, which does not know those; bake gets
what ``doit plan --bake`` prints. Every run goes through ``measure.run``, which refuses one that failed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.side_by_side import copy_project
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands, settings
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import bake, buildx
from tasks.bases import base

ROOT = Path(__file__).resolve().parent.parent

# From 0.19 on bake asks to be allowed what a definition reads; 0.13 does not know the option.
_ASKS = (0, 19)
# From this version on Compose builds through bake and knows which service is built on which.
_KNOWS_SERVICES = (2, 40)
DOIT = Path(sys.executable).with_name("doit")


@dataclass(frozen=True)
class Bench:
    """One project to measure on: ``environ`` says which Compose file and which engine, ``folder`` takes our files."""

    environ: Mapping[str, str]
    folder: Path

    def doit(self, *words: str) -> measure.Ran:
        """Our doit on the project."""
        return measure.run([str(DOIT), *words], cwd=ROOT, env=self.environ)

    def plan(self) -> list[dict[str, Any]]:
        """The images as ``doit plan --json`` promises them."""
        images: list[dict[str, Any]] = json.loads(self.doit("plan", "--json").stdout)["images"]
        return images

    def bake(self, *words: str) -> measure.Ran:
        """Bake on the definition that ``prepare`` wrote, allowed to read what that names."""
        file = self.folder / "bake.json"
        allow = bake.allowances(json.loads(file.read_text()), ROOT) if self._has("buildx", _ASKS) else []
        return measure.run(
            ["docker", "buildx", "bake", *allow, "--file", str(file), *words], cwd=ROOT, env=self._plain()
        )

    def bake_seconds(self) -> float:
        """How long that takes; infinity where bake breaks off at its own fault, as it does with many targets."""
        try:
            return self.bake().seconds
        except UserError as error:
            if "no such job" not in str(error):
                raise
            return math.inf

    def compose(self, *words: str) -> measure.Ran:
        """Compose on the project that ``prepare`` wrote."""
        argv = ["docker", "compose", "--file", str(self.folder / "compose.json"), "build", *words]
        return measure.run(argv, cwd=ROOT, env=self._plain())

    def prepare(self) -> None:
        """Write the same graph for bake and for Compose."""
        self.folder.mkdir(parents=True, exist_ok=True)
        definition = json.loads(self.doit("plan", "--bake").stdout)
        for name, target in definition["target"].items():
            target["tags"] = [f"bm-bake/{name}"]
        (self.folder / "bake.json").write_text(json.dumps(definition))
        knows = self._has("compose", _KNOWS_SERVICES)
        services = {name: _service(name, target, knows) for name, target in definition["target"].items()}
        secrets = {
            ident: source
            for target in definition["target"].values()
            for ident, source in map(_secret, target.get("secret", ()))
        }
        project = {"name": "bm-compose", "services": services, "secrets": secrets}
        (self.folder / "compose.json").write_text(json.dumps(project).replace("$", "$$"))

    def build_with_peers(self) -> None:
        """Let both peers build everything once; Compose one image after the other, as it knows no order."""
        self.bake_seconds()
        for name in _in_order(json.loads((self.folder / "bake.json").read_text())["target"]):
            self.compose(name)

    def bare_doit(self) -> list[str]:
        """The command of a doit that has as many tasks and file dependencies and does nothing else; run it once."""
        folder = self.folder / "bare"
        folder.mkdir(parents=True, exist_ok=True)
        top = self.compose_file().parent
        files = {image["name"]: [str(top / path) for path in image["inputs"]] for image in self.plan()}
        (folder / "tasks.json").write_text(json.dumps(files))
        (folder / "dodo.py").write_text(_BARE)
        argv = [str(DOIT), "--file", str(folder / "dodo.py")]
        measure.run(argv, env=self.environ)
        return argv

    def bare(self, dodo: Path) -> float:
        """The seconds of a doit with this dodo file."""
        return measure.run([str(DOIT), "--file", str(dodo), "--db-file", f"{dodo}.db"], env=self.environ).seconds

    def remove_all(self, prefix: str) -> None:
        """Remove the images whose names begin with ``prefix``, and those of the peers."""
        listed = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
        names = commands.run(listed, env=self.environ).checked("docker image ls").stdout.split()
        ours = [name for name in names if name.startswith((f"{prefix}/", "bm-bake/", "bm-compose/"))]
        if ours:
            commands.run(["docker", "image", "rm", *ours], env=self.environ).checked("docker image rm")

    def compose_file(self) -> Path:
        """The project's first Compose file."""
        named = self.environ.get("COMPOSE_FILE", "").split(":")[0]
        return Path(named) if named else ROOT / "docker-compose.optimized.yml"

    def _has(self, plugin: str, least: tuple[int, int]) -> bool:
        """Whether the docker command's plugin is of this version or a later one."""
        said = commands.run(["docker", plugin, "version"], env=self.environ).checked(f"docker {plugin} version").stdout
        return buildx.is_at_least(said, least)

    def _plain(self) -> dict[str, str]:
        left_out = ("COMPOSE_FILE", "COMPOSE_PROFILES")
        kept = {name: value for name, value in self.environ.items() if name not in left_out}
        return {**kept, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


@contextlib.contextmanager
def measuring_engine(programs: Path | None = None) -> Iterator[dict[str, str]]:
    """The environment of an engine of our own, with these ``programs`` if they are given (``newer_engine``); where none
    can be started, of the current one, which is said."""
    commands.stop_on_signals()
    with contextlib.ExitStack() as stack:
        try:
            environ = dict(stack.enter_context(temporary_engine("bm-", programs=programs)).environ)
        except UserError as error:
            if programs:
                raise
            print(f"measuring in the current engine, whose images slow it down: {error}", file=sys.stderr)
            environ = dict(os.environ)
        yield environ


@contextlib.contextmanager
def stack_copy(programs: Path | None = None) -> Iterator[Bench]:
    """A copy of this repository's stack, in an engine of its own (``measuring_engine``) that holds the base image."""
    with measuring_engine(programs) as environ, tempfile.TemporaryDirectory(prefix="bm-") as folder:
        compose_file, ref = copied_stack(Path(folder) / "stack")
        if environ.get("DOCKER_HOST") != os.environ.get("DOCKER_HOST"):
            TemporaryEngine(environ["DOCKER_HOST"], environ).load(ref)
        yield Bench({**environ, "COMPOSE_FILE": str(compose_file)}, Path(folder))


def copied_stack(folder: Path) -> tuple[Path, str]:
    """Copy this repository; its Compose file and the base image, which the current engine then holds."""
    chosen = settings.load()
    base.ensure(chosen, ROOT)
    copy_project(ROOT, folder)
    return folder / "docker-compose.optimized.yml", chosen.base_image


_BARE = """\
import json, os, pathlib
here = pathlib.Path(__file__).parent
DOIT_CONFIG = {"backend": "sqlite3", "check_file_uptodate": "timestamp", "dep_file": str(here / "db"), "verbosity": 0}

def task_image():
    for name, files in json.loads((here / "tasks.json").read_text()).items():
        target = str(here / (name + ".made"))
        files = [path for path in files if os.path.isfile(path)]
        yield {"name": name, "actions": [["touch", target]], "file_dep": files, "targets": [target]}
"""


def committed(folder: Path) -> None:
    """Make a folder a repository with one commit of all that it holds: ``advise`` writes nothing over what has none."""
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "as it is")):
        argv = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", *words]
        commands.run(argv, cwd=folder).checked("git")


def _service(name: str, target: Mapping[str, Any], knows_services: bool) -> dict[str, Any]:
    parent = "service:" if knows_services else "docker-image://bm-compose/"
    contexts = {
        context: parent + value.removeprefix("target:") if value.startswith("target:") else value
        for context, value in target.get("contexts", {}).items()
    }
    build = {
        "context": target["context"],
        "dockerfile": target["dockerfile"],
        "args": target.get("args"),
        "target": target.get("target"),
        "additional_contexts": contexts,
        "secrets": [_secret(one)[0] for one in target.get("secret", ())],
    }
    return {"image": f"bm-compose/{name}", "build": {key: value for key, value in build.items() if value}}


def _secret(text: str) -> tuple[str, dict[str, str]]:
    words = dict(part.partition("=")[::2] for part in text.split(","))
    source = {"file": words["src"]} if "src" in words else {"environment": words["env"]}
    return words["id"], source


def _in_order(targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Targets with the ones that others build on first."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        for value in targets[name].get("contexts", {}).values():
            if value.startswith("target:"):
                visit(value.removeprefix("target:"))
        done[name] = None

    for name in targets:
        visit(name)
    return list(done)
