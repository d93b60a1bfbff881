"""How are locked packages brought up to date? ``doit deps_update``.

    locks ──> lock command (nothing younger than the cool-down) ──> difference ──> build ──> tests ──> kept

or, where any of it fails, the locks as they were, and the images of before by their names again.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from packaging.utils import canonicalize_name

from tasks.base import commands, leftovers
from tasks.base.errors import UserError
from tasks.inputs.image_inputs import ImageInputs
from tasks.run import Run
from tasks.testing.act import run_test
from tasks.testing.planned import tests_of
from tasks.updating import behind, locks
from tasks.updating.package_index import Known, PackageIndex, Release


def index_of(run: Run) -> PackageIndex:
    """The package index of this machine: as pip and uv are told."""
    environ = run.environ
    url = environ.get("UV_DEFAULT_INDEX") or environ.get("PIP_INDEX_URL") or ""
    return PackageIndex(url, environ.get("PIP_CERT") or environ.get("REQUESTS_CA_BUNDLE") or "")


def look_up(run: Run, texts: Mapping[Path, str]) -> dict[tuple[str, str], Known]:
    """What the package index knows of all that these locks pin. Raises ``UserError``."""
    return index_of(run).look_up(pin for text in texts.values() for pin in locks.pins(text).items())


def update(run: Run, names: Sequence[str], cooldown: float) -> list[locks.Change]:
    """Lock newer releases (of these packages, or of all) that are older than ``cooldown`` seconds, build the images
    that they are in, and run the images' tests. ``UserError`` if any of it fails: all is then as it was before."""
    before = locks.texts(run.project.directory)
    _known_names(names, before)
    if not before:
        return []
    known = look_up(run, before)
    try:
        _lock(run, names, known, time.time() - cooldown)
        changes = locks.difference(before, {path: path.read_text() for path in before})
        for change in changes:
            place = change.lock.relative_to(run.project.directory)
            run.events.say(f"{change.name}: {change.before or 'new'} → {change.after or 'gone'} ({place})")
        if changes:
            _try(run, {change.lock for change in changes})
    except BaseException:
        _restore(run, before)
        raise
    return changes


def _known_names(names: Sequence[str], texts: Mapping[Path, str]) -> None:
    locked = {name for text in texts.values() for name in locks.pins(text)}
    for name in names:
        if canonicalize_name(name) not in locked:
            raise UserError(f"no lock of this project has the package {name}", remedy="doit deps_check lists them")


def _lock(run: Run, names: Sequence[str], known: Mapping[tuple[str, str], Known], cutoff: float) -> None:
    allowed = behind.exceptions(known, cutoff)
    with leftovers.folder("deps-") as folder:
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{name}<={each.version}\n" for name, each in allowed.items()))
        argv = [*shlex.split(run.settings.lock_command), *lock_options(names, allowed, cutoff, constraints)]
        done = commands.run(argv, cwd=run.project.directory, env=_environ(run))
    done.checked("the locks cannot be made")


def lock_options(names: Sequence[str], allowed: Mapping[str, Release], cutoff: float, constraints: Path) -> list[str]:
    """The options of ``uv pip compile`` that take new releases, but no younger ones than ``cutoff`` (seconds since the
    epoch) except those that are ``allowed``."""
    options = [f"--upgrade-package={name}" for name in names] or ["--upgrade"]
    options += [f"--exclude-newer={_stamp(cutoff)}", f"--constraint={constraints}"]
    for name, release in allowed.items():
        if release.uploaded is not None:
            options.append(f"--exclude-newer-package={name}={_stamp(release.uploaded + 1)}")
    return options


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _environ(run: Run) -> dict[str, str]:
    """With uv of this repository's own environment on PATH."""
    tools = str(Path(sys.executable).parent)
    return {**locks.uv_environ(run.environ), "PATH": f"{tools}:{run.environ.get('PATH', '')}"}


def _try(run: Run, changed: set[Path]) -> None:
    """Build the images that read these locks, and all on them, and run their tests."""
    images = concerned(Run(environ=run.environ).declared(), changed)
    if not images:
        run.events.say("no image reads a lock that changed")
        return
    _build(run, images)
    fresh = Run(environ=run.environ)
    for test in tests_of(fresh).values():
        if test.service in images:
            _test(run, fresh, test.name)


def concerned(declared: Mapping[str, ImageInputs], changed: set[Path]) -> list[str]:
    """The images that read one of these files, and those that are built on such an image; parents come first."""
    images: list[str] = []
    for name, inputs in declared.items():
        if changed & set(map(Path, inputs.file_dep())) or set(images) & set(inputs.needs):
            images.append(name)
    return images


def _build(run: Run, images: Sequence[str]) -> None:
    argv = [sys.executable, "-m", "doit", *(f"build_optimized:{name}" for name in images)]
    if status := commands.show(argv, env=dict(run.environ)):
        raise UserError(f"the images do not build with them (status {status})", remedy="see above")


def _test(run: Run, fresh: Run, name: str) -> None:
    """Run a test with the newer packages; what it says is said in the run that is shown."""
    fresh.events.listen(run.events.emit)
    try:
        run_test(fresh, name)
    except UserError as error:
        raise UserError(f"{name}: its tests fail with them: {error}") from None


def _restore(run: Run, before: Mapping[Path, str]) -> None:
    """Write the locks as they were; the images that were built meanwhile give their names back in the next build."""
    changed = {path for path, text in before.items() if path.read_text() != text}
    for path in changed:
        path.write_text(before[path])
    if changed and not commands.stopping():
        run.events.say("the locks are as they were before")
        if images := concerned(Run(environ=run.environ).declared(), changed):
            _build(run, images)
