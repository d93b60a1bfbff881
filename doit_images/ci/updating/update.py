"""How are locked packages brought up to date? ``doit deps_update``.

    locks ──> lock command (nothing younger than the cool-down) ──> difference ──> build ──> tests ──> kept

or, where any of it fails, the locks as they were, and the images of before by their names again. ``doit deps_check``
ends with the difference.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from doit_images.ci.testing.planned import tests_of
from doit_images.ci.testing.variants import name_of, with_tests
from doit_images.ci.updating import locks
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, nearest
from doit_images.core.base.timestamps import utc
from doit_images.core.engine.client import host_platform
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run


def newer(run: Run, cooldown: float) -> list[locks.LockChange]:
    """What ``update`` would change in the locks, which stay as they are. Raises ``UserError``."""
    before = locks.texts(run.project.directory)
    try:
        return _locked(run, (), before, cooldown)
    finally:
        _write_back(before, set(before))


def update(run: Run, names: Sequence[str], cooldown: float) -> list[locks.LockChange]:
    """Lock newer releases (of these packages, or of all) that are older than ``cooldown`` seconds, build the images
    that they are in, and run the images' tests. ``UserError`` if any of it fails: all is then as it was before."""
    before = locks.texts(run.project.directory)
    _known_names(names, before)
    try:
        changes = _locked(run, names, before, cooldown)
        _write_back(before, set(before) - {change.lock for change in changes})
        for change in changes:
            run.events.say(change.shown(run.project.directory))
        if changes:
            _try(run, {change.lock for change in changes})
    except BaseException:
        _restore(run, before)
        raise
    return changes


def _known_names(names: Sequence[str], texts: Mapping[Path, str]) -> None:
    locked = locks.names(texts)
    for name in names:
        if canonicalize_name(name) not in locked:
            near = nearest(canonicalize_name(name), locked)
            remedy = f"did you mean {near}?" if near else "a new one is asked for in what the lock is made from"
            raise UserError(f"no lock of this project has the package {name}", remedy=remedy)


def _locked(run: Run, names: Sequence[str], before: Mapping[Path, str], cooldown: float) -> list[locks.LockChange]:
    """Lock newer releases; what the locks then pin otherwise than ``before``. uv would go back behind a locked release
    that is younger than the cool-down: such packages are locked again, and stay."""
    for sentence in locks.left_out(run.project.directory):
        run.events.say(sentence)
    cutoff, held = time.time() - cooldown, dict[str, str]()
    while True:
        for argv, folder in _lockers(run, before, lock_options(names or locks.names(before), held, cutoff)):
            commands.run(argv, cwd=folder, env=with_tools(run.environ)).checked("the locks cannot be made")
        changes = locks.difference(before, {path: path.read_text() for path in before})
        lower = {change.name: change.before for change in changes if change.lower and change.name not in held}
        if not lower:
            return changes
        held |= lower
        _write_back(before, set(before))


def _lockers(run: Run, before: Mapping[Path, str], options: Sequence[str]) -> Iterator[tuple[list[str], Path]]:
    """The commands that make these locks again with these options, each with its folder."""
    if any(lock.name != locks.UV for lock in before if locks.makes_again(lock)):
        yield [*shlex.split(run.settings.lock_command), *options], run.project.directory
    for lock in before:
        if lock.name == locks.UV:
            yield ["uv", "lock", *options], lock.parent
            yield ["uv", "lock"], lock.parent  # uv writes the cool-down into its lock: now without, with the same pins


def lock_options(names: Sequence[str], held: Mapping[str, str], cutoff: float) -> list[str]:
    """The options of ``uv pip compile`` that take new releases of these packages, but none that is younger than
    ``cutoff`` (seconds since the epoch). Of those that are ``held`` younger ones are seen, and none after this version
    is taken. No file of constraints: locks would name it."""
    wanted: dict[str, str] = {canonicalize_name(name): "" for name in names}
    wanted |= {name: f"<={version}" for name, version in held.items()}
    return [
        f"--exclude-newer={utc(cutoff)}",
        *(f"--exclude-newer-package={name}={utc(time.time())}" for name in held),
        *(f"--upgrade-package={name}{limit}" for name, limit in wanted.items()),
    ]


def with_tools(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run, with the programs of this Python's own environment on PATH, such as uv."""
    tools = str(Path(sys.executable).parent)
    return {**locks.uv_environ(environ), "PATH": f"{tools}:{environ.get('PATH', '')}"}


def _try(run: Run, changed: set[Path]) -> None:
    """Build the images that read these locks, and all on them; run the tests of these images, and those that read such
    a lock themselves."""
    words = _concerned(run.anew(), changed)
    if not words:
        run.events.say("no image and no test reads a lock that changed")
    elif status := _doit(run.environ, words):
        raise UserError(f"an image does not build with them, or its tests fail (status {status})", remedy="see above")


def _concerned(run: Run, changed: set[Path]) -> list[str]:
    """The tasks that build and test what these files go into."""
    tests = tests_of(run.project, run.planner)
    resolver = run.resolver.of(with_tests(run.project, tests))
    names = concerned(resolver.resolve(host_platform(), lambda ref, some: None), changed)
    tested = [test.name for test in tests.values() if {test.service, name_of(test)} & set(names)]
    built = [name for name in names if name in run.project.images]
    words = [*(f"build:{name}" for name in built), *(f"test_image:{name}" for name in tested)]
    return [*map(run.parts.names, words)]


def concerned(declared: Mapping[str, ImageInputs], changed: set[Path]) -> list[str]:
    """The images that read one of these files, and those that are built on such an image; parents come first."""
    images: list[str] = []
    for name, inputs in declared.items():
        if changed & set(map(Path, inputs.file_dep())) or set(images) & set(inputs.needs):
            images.append(name)
    return images


def _doit(environ: Mapping[str, str], words: Sequence[str]) -> int:
    """Run tasks, side by side as ever; returns the status."""
    return commands.show([sys.executable, "-m", "doit", *words], env=dict(environ), tidies=True)


def _restore(run: Run, before: Mapping[Path, str]) -> None:
    """Write the locks as they were; the images that were built meanwhile give their names back in the next build."""
    changed = _write_back(before, set(before))
    if changed and not commands.stopping():
        run.events.say("the locks are as they were before")
        if images := concerned(run.anew().planner.declared(), changed):
            _doit(run.environ, [run.parts.names(f"build:{name}") for name in images])


def _write_back(before: Mapping[Path, str], paths: set[Path]) -> set[Path]:
    """Give these files the text that they had ``before``; those that had another. A lock that pins what it did counts
    as changed for the images that read it."""
    changed = {path for path in paths if path.read_text() != before[path]}
    for path in changed:
        path.write_text(before[path])
    return changed
