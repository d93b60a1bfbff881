"""How are the standard and the optimized way built side by side, without touching anything of the user's?

On a copy of the project's files, each in an engine of its own (``temporary_engine``): neither can warm the other, no
image of the user's is moved, and a cold build really starts from nothing but the base images."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from tasks.base.errors import UserError
from tasks.base.settings import ROOT
from tasks.engine.endpoint import endpoint
from tasks.run import Run
from tasks.stack.standard import standard_of

# Left out of the copy: what is not the project's, or is only true of the place where it lies.
_NOT_COPIED = (".git", ".venv", ".build", ".env", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


@dataclass(frozen=True)
class SideBySide:
    """The copy in ``folder``, and the two engines; ``bases`` are the external images that both start from."""

    folder: Path
    bases: tuple[str, ...]
    optimized_file: Path
    standard_file: Path
    optimized: TemporaryEngine
    standard: TemporaryEngine
    environ: Mapping[str, str]

    def build_optimized(self, images: Sequence[str] = ()) -> measure.Ran:
        """``doit build_optimized``, of everything or of these images and what they need."""
        return self.doit(*([f"build_optimized:{image}" for image in images] or ["build_optimized"]))

    def build_standard(self, images: Sequence[str] = ()) -> measure.Ran:
        """``docker compose build``, of everything or of these services."""
        argv = ["docker", "compose", "--file", str(self.standard_file), "build", *images]
        return measure.run(argv, cwd=self.folder, env=self.standard_environ)

    def doit(self, *words: str) -> measure.Ran:
        """Our doit on the copy, with this repository's tasks."""
        argv = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), *words]
        return measure.run(argv, cwd=ROOT, env={**self.optimized_environ, "COMPOSE_FILE": str(self.optimized_file)})

    def forget_everything(self) -> None:
        """Back to the state in which nothing was ever built: base images, and no cache of any kind."""
        for engine in (self.optimized, self.standard):
            engine.forget_everything(self.bases)
        shutil.rmtree(self.optimized_file.parent / ".build", ignore_errors=True)

    def change_base(self, salt: str) -> None:
        """Give both engines other base images under the same names: one small file more, as after a security update."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "salt").write_text(salt)
            for base in self.bases:
                Path(folder, "Dockerfile").write_text(f"FROM {base}\nCOPY salt /etc/benchmark-salt\n")
                for engine in (self.optimized, self.standard):
                    measure.run(["docker", "buildx", "build", "--quiet", "--tag", base, folder], env=self._env(engine))

    def run(self) -> Run:
        """The copy as the optimized build sees it."""
        return Run((self.optimized_file,), self.optimized_environ)

    @property
    def optimized_environ(self) -> dict[str, str]:
        """The environment of docker commands on the optimized way's engine."""
        return self._env(self.optimized)

    @property
    def standard_environ(self) -> dict[str, str]:
        """The environment of docker commands on the standard way's engine."""
        return self._env(self.standard)

    def _env(self, engine: TemporaryEngine) -> dict[str, str]:
        # Provenance would make each standard image a little slower and larger: not what is compared.
        return {**self.environ, "DOCKER_HOST": engine.address, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


@contextlib.contextmanager
def side_by_side(run: Run) -> Iterator[SideBySide]:
    """Copy the project of ``run``, start the engines and give them the base images.

    Raises ``UserError`` where there is no standard declaration, no engine can be started, or a base image is missing.
    """
    from tasks.bases import base

    optimized_file, standard_file = run.files[0], standard_of(run)
    base.ensure(run.settings, ROOT)
    bases = external_bases(run)
    kept = {name: value for name, value in run.environ.items() if name not in ("COMPOSE_FILE", "DOCKER_CONTEXT")}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-copy-")))
        copy_project(optimized_file.parent, folder)
        optimized = stack.enter_context(temporary_engine("bm-optimized-"))
        standard = stack.enter_context(temporary_engine("bm-standard-"))
        for engine in (optimized, standard):
            for ref in bases:
                engine.load(ref)
        yield SideBySide(
            folder=folder,
            bases=bases,
            optimized_file=folder / optimized_file.name,
            standard_file=folder / standard_file.name,
            optimized=optimized,
            standard=standard,
            environ=kept,
        )


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
    for decision in run.decisions().values():
        found.update(dict.fromkeys(decision.inputs.bases))
    for ref in found:
        if run.snapshot().get(ref) is None:
            raise UserError(f"the engine at {endpoint(os.environ)} does not hold {ref}", remedy=f"docker pull {ref}")
    return tuple(found)
