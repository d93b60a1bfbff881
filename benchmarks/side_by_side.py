"""How are the ways of building compared side by side, without touching anything of the user's?

The standard way, the optimized one, and that of Docker's documentation where ``docker-compose.documented.yml`` says it.

On a copy of the project's files, each in an engine of its own (``temporary_engine``): neither can warm the other, no
image of the user's is moved, and a cold build really starts from nothing but the base images."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base import commands
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from doit_images.core.engine.endpoint import endpoint
from doit_images.core.run import Run
from tasks import ROOT
from tasks.standard import standard_of

DOCUMENTED = "docker-compose.documented.yml"
"""What Docker's documentation teaches is another than in the standard declaration."""
# Left out of the copy: what is not the project's, or is only true of the place where it lies.
_NOT_COPIED = (".git", ".venv", OWN_FOLDER, ".env", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


@dataclass(frozen=True)
class SideBySide:
    """The copy in ``folder``, and an engine for each way; ``bases`` are the external images that all start from."""

    folder: Path
    bases: tuple[str, ...]
    optimized_file: Path
    standard_file: Path
    optimized: TemporaryEngine
    standard: TemporaryEngine
    environ: Mapping[str, str]
    documented: TemporaryEngine | None = None

    @property
    def engines(self) -> dict[str, TemporaryEngine]:
        """The engine of each way."""
        found = {"standard": self.standard, "documented": self.documented, "optimized": self.optimized}
        return {way: engine for way, engine in found.items() if engine}

    @property
    def ways(self) -> dict[str, Callable[[], measure.Ran]]:
        """How everything is built, each way."""
        every = {
            "standard": self.build_standard,
            "documented": self.build_documented,
            "optimized": self.build_optimized,
        }
        return {way: every[way] for way in self.engines}

    def build_optimized(self, images: Sequence[str] = ()) -> measure.Ran:
        """``doit build_optimized``, of everything or of these images and what they need."""
        return self.doit(*([f"build_optimized:{image}" for image in images] or ["build_optimized"]))

    def build_standard(self, images: Sequence[str] = ()) -> measure.Ran:
        """``docker compose build``, of everything or of these services."""
        argv = ["docker", "compose", "--file", str(self.standard_file), "build", *images]
        return measure.run(argv, cwd=self.folder, env=self.standard_environ)

    def build_documented(self) -> measure.Ran:
        """``docker compose build`` of everything, as Docker's documentation teaches it."""
        return measure.run([*self._documented(), "build"], cwd=self.folder, env=self.environ_of("documented"))

    def build_plainly(self, image: str) -> measure.Ran:
        """One ``docker buildx build`` of what that way's declaration says of one service, and nothing around it."""
        env, declared = self.environ_of("documented"), self._declared()
        build, secrets = declared["services"][image]["build"], declared.get("secrets", {})
        argv = ["docker", "buildx", "build", "--quiet", "--file", build["dockerfile"], "--tag", "bm-plain"]
        given = [f"{name}={value}" for name, value in build.get("args", {}).items() if value is not None]
        argv += [word for one in given for word in ("--build-arg", one)]
        argv += ["--target", build["target"]] if "target" in build else []
        for name in (one["source"] for one in build.get("secrets", ())):
            source = secrets[name]
            where = f"src={source['file']}" if "file" in source else f"env={source['environment']}"
            if "file" in source or source["environment"] in env:
                argv += ["--secret", f"id={name},{where}"]
        return measure.run([*argv, build["context"]], cwd=self.folder, env=env)

    def documented_images(self) -> dict[str, str]:
        """The names of the images that are declared that way, by service."""
        return {name: one["image"] for name, one in self._declared()["services"].items() if "build" in one}

    def _declared(self) -> dict[str, Any]:
        argv = [*self._documented(), "config", "--format", "json"]
        said = commands.run(argv, cwd=self.folder, env=self.environ_of("documented"))
        declared: dict[str, Any] = json.loads(said.checked("docker compose config").stdout)
        return declared

    def _documented(self) -> list[str]:
        files = [self.standard_file, self.folder / DOCUMENTED]
        return ["docker", "compose", *(word for file in files for word in ("--file", str(file)))]

    def doit(self, *words: str) -> measure.Ran:
        """Our doit on the copy, with this repository's tasks."""
        argv = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), *words]
        return measure.run(argv, cwd=ROOT, env={**self.optimized_environ, "COMPOSE_FILE": str(self.optimized_file)})

    def forget_everything(self) -> None:
        """Back to the state in which nothing was ever built: base images, and no cache of any kind."""
        for engine in self.engines.values():
            engine.forget_everything(self.bases)
        shutil.rmtree(self.optimized_file.parent / OWN_FOLDER, ignore_errors=True)

    def change_base(self, salt: str) -> None:
        """Give all engines other base images under the same names: one small file more, as after a security update."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "salt").write_text(salt)
            for base in self.bases:
                Path(folder, "Dockerfile").write_text(f"FROM {base}\nCOPY salt /etc/benchmark-salt\n")
                for engine in self.engines.values():
                    measure.run(["docker", "buildx", "build", "--quiet", "--tag", base, folder], env=self._env(engine))

    def run(self) -> Run:
        """The copy as the optimized build sees it."""
        return Run((self.optimized_file,), self.optimized_environ)

    def environ_of(self, way: str) -> dict[str, str]:
        """The environment of docker commands on a way's engine."""
        return self._env(self.engines[way])

    @property
    def optimized_environ(self) -> dict[str, str]:
        """The environment of docker commands on the optimized way's engine."""
        return self._env(self.optimized)

    @property
    def standard_environ(self) -> dict[str, str]:
        """The environment of docker commands on the standard way's engine."""
        return self._env(self.standard)

    def _env(self, engine: TemporaryEngine) -> dict[str, str]:
        # Which docker command, buildx and Compose are the engine's.
        its = {name: engine.environ[name] for name in ("PATH", "DOCKER_CONFIG") if name in engine.environ}
        # Provenance would make each standard image a little slower and larger: not what is compared.
        return {**self.environ, **its, "DOCKER_HOST": engine.address, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


@contextlib.contextmanager
def side_by_side(run: Run, programs: Path | None = None) -> Iterator[SideBySide]:
    """Copy the project of ``run``, start the engines, with these ``programs`` if they are given (``newer_engine``), and
    give them the base images.

    Raises ``UserError`` where there is no standard declaration, no engine can be started, or a base image is missing.
    """
    from tasks.bases import base

    optimized_file, standard_file = run.files[0], standard_of(run.files)
    base.ensure(run.settings, ROOT)
    bases = external_bases(run)
    kept = {name: value for name, value in run.environ.items() if name not in ("COMPOSE_FILE", "DOCKER_CONTEXT")}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-copy-")))
        copy_project(optimized_file.parent, folder)
        optimized = stack.enter_context(temporary_engine("bm-optimized-", programs=programs))
        standard = stack.enter_context(temporary_engine("bm-standard-", programs=programs))
        is_documented = (folder / DOCUMENTED).is_file()
        documented = None
        if is_documented:
            documented = stack.enter_context(temporary_engine("bm-documented-", programs=programs))
        both = SideBySide(
            folder=folder,
            bases=bases,
            optimized_file=folder / optimized_file.name,
            standard_file=folder / standard_file.name,
            optimized=optimized,
            standard=standard,
            environ=kept,
            documented=documented,
        )
        for engine in both.engines.values():
            for ref in bases:
                engine.load(ref)
        yield both


def copy_project(source: Path, target: Path) -> None:
    """Copy a project's files as they are; its ``.env`` stays where it is (it holds secrets) and is linked to."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in _NOT_COPIED]

    shutil.copytree(source, target, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    if (source / ".env").exists():
        (target / ".env").symlink_to((source / ".env").absolute())


def external_bases(run: Run) -> tuple[str, ...]:
    """The external images that the project's images start from; ``UserError`` for one that the engine does not hold."""
    found: dict[str, None] = {}
    for decision in run.planner.decisions().values():
        found.update(dict.fromkeys(decision.inputs.bases))
    for ref in found:
        if run.local_images.base(ref, run.local_images.snapshot().platform) is None:
            raise UserError(f"the engine at {endpoint(os.environ)} does not hold {ref}", remedy=f"docker pull {ref}")
    return tuple(found)
