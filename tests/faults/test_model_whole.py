"""Anything in any order: edits, branches, names given and taken by others, images removed, runs killed, caches pruned.

A model says what of the project the engine holds, and so what a run may build, and what must be in it. BuildKit is
asked too, until the first pruning: what it makes again has other times. A walk that fails prints its steps, and
``FAULTS_SEED`` takes the same ones.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.faults.conftest import Rounds
from tests.faults.project import BUSYBOX, PARENTS, SOON, Project, ended
from tests.waiting import comes

pytestmark = pytest.mark.engine

State = tuple[str, ...]  # what the files of an image hold, and those of the images below it


class Walk:
    """A project that things happen to. ``held`` is what the engine is sure to hold, by image, under a name that nobody
    but us gives; what was lost or is in doubt is not in it."""

    def __init__(self, project: Project, chance: random.Random) -> None:
        self.project, self.chance = project, chance
        self.held: set[tuple[str, State]] = set()
        self.steps: list[str] = []
        self.pruned = False
        self.branches = ["main"]
        self._git("init", "--quiet", "--initial-branch=main")
        (project.folder / ".gitignore").write_text(".doit-images\n")
        self._commit()

    def step(self) -> None:
        """Let one thing happen."""
        happens: list[Callable[[], str]] = [
            self.edit, self.undo, self.touch, self.add, self.switch,
            self.name_another, self.take_name, self.remove, self.prune, self.kill, self.build, self.build,
        ]  # fmt: skip
        what = self.chance.choice(happens)
        self.steps.append(f"{what.__name__} …")
        self.steps[-1] = f"{what.__name__} {what()}"

    def build(self) -> str:
        """A run builds just what the engine does not hold for sure, and then all is right."""
        wanted = {name: self._state(name) for name in PARENTS}
        before = set(self.held)
        done = self.project.doit("build_optimized")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        built = re.findall(r"^built (\w+) in", done.stderr, re.MULTILINE)
        assert len(built) == len(set(built)), "an image was built twice"
        needless = [name for name in built if (name, wanted[name]) in before]
        assert not needless, done.stderr
        self._assert_right()
        self.held |= set(wanted.items())
        assert self.project.doit("build_optimized").stderr.strip() == "4 images fresh"
        return f"built {', '.join(built) or 'nothing'}"

    def edit(self) -> str:
        name = self._some()
        self.project.edit(name)
        return name

    def undo(self) -> str:
        """An editor's undo, or `git checkout FILE`."""
        name = self._some()
        self._git("checkout", "--quiet", "--", f"{name}/f")
        return name

    def touch(self) -> str:
        name = self._some()
        (self.project.folder / name / "f").touch()
        return name

    def add(self) -> str:
        """A file that no instruction reads."""
        name = self._some()
        (self.project.folder / name / uuid.uuid4().hex).write_text("unread")
        return name

    def switch(self) -> str:
        self._commit()
        if len(self.branches) < 3 and self.chance.random() < 0.5:
            self.branches.append(f"branch-{len(self.branches)}")
            self._git("switch", "--quiet", "--create", self.branches[-1])
            return f"to the new {self.branches[-1]}"
        branch = self.chance.choice(self.branches)
        self._git("switch", "--quiet", branch)
        return f"to {branch}"

    def name_another(self) -> str:
        """`docker tag` over one of ours: that name is wrong, and nothing is lost."""
        name = self._some()
        self.project.docker("tag", BUSYBOX, self.project.ref(name))
        return name

    def take_name(self) -> str:
        """`docker rmi` of the name that people use; by its `in-` tag the image stays."""
        name = self._some()
        self._docker("image", "rm", "--no-prune", self.project.ref(name))
        return name

    def remove(self) -> str:
        """All names of an image go, and so does the image unless another stands on it."""
        name = self._some()
        repository = self.project.ref(name).rpartition(":")[0]
        for ref in self._docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository).split():
            self._docker("image", "rm", "--no-prune", ref)
        self._doubt(name)
        return name

    def prune(self) -> str:
        """All that may go: of what is left of the cache nothing is known, and what is built again is another image."""
        done = self.project.doit("cache_prune", "--all", "--yes")
        assert done.returncode == 0, done.stderr
        self.pruned = True
        current = {(name, self._state(name)) for name in PARENTS}
        self.held &= current if self._is_fresh() else set()
        return ""

    def kill(self) -> str:
        """A run is killed at any moment; what it had done by then is not known."""
        with ended(self.project.begun()) as doit:
            time.sleep(self.chance.uniform(0.1, 2))
            os.killpg(doit.pid, signal.SIGKILL)
            assert comes(lambda: doit.poll() is not None, SOON)
            assert comes(lambda: not self.project.processes(), SOON), self.project.processes()
        return ""

    def _assert_right(self) -> None:
        """Each image holds what the files say. Layers are BuildKit's to compare only while it has made them once."""
        if not self.pruned:
            self.project.assert_right()
        for name in PARENTS:
            container = self.project.docker("create", self.project.ref(name), "none").strip()
            copy = self.project.folder.parent / "copy"
            self.project.docker("cp", f"{container}:/all-{name}", str(copy))
            self.project.docker("rm", "--volumes", container)
            chain = sorted([name, *self._below(name)])
            assert copy.read_text() == "".join(map(self._content, chain)), name

    def _content(self, name: str) -> str:
        return (self.project.folder / name / "f").read_text()

    def _doubt(self, name: str) -> None:
        """Of this image, and of those on it, nothing is sure: if it is built again it may be another one."""
        lost = {name} | {child for child in PARENTS if name in self._below(child)}
        self.held = {(image, state) for image, state in self.held if image not in lost}

    def _is_fresh(self) -> bool:
        return set(self.project.actions().values()) == {"fresh"}

    def _below(self, name: str) -> list[str]:
        parent = PARENTS[name]
        return [parent, *self._below(parent)] if parent else []

    def _state(self, name: str) -> State:
        return tuple(self._content(each) for each in (name, *self._below(name)))

    def _some(self) -> str:
        return self.chance.choice(list(PARENTS))

    def _docker(self, *words: str) -> str:
        done = subprocess.run(["docker", *words], env=self.project.env(), capture_output=True, text=True)
        return done.stdout

    def _commit(self) -> None:
        self._git("add", "--all")
        self._git(
            "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--allow-empty", "-m", "t"
        )

    def _git(self, *words: str) -> None:
        subprocess.run(["git", "-C", str(self.project.folder), *words], check=True, capture_output=True)


def test_anything_in_any_order(spare: TemporaryEngine, rounds: Rounds, tmp_path: Path) -> None:
    for number in rounds.of(1, 1000):
        walk = Walk(Project(tmp_path / str(number), spare), rounds.chance)
        try:
            for _ in range(15):
                walk.step()
            walk.build()
            walk.project.assert_clean()
        except AssertionError as error:
            raise AssertionError("\n".join([*walk.steps, str(error)])) from error
        finally:
            walk.project.close()
