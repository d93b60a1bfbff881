"""How are locked packages brought up to date? ``doit deps_update``.

    locks ──> lock command (nothing younger than the cool-down) ──> difference ──> build ──> tests ──> kept

or, where any of it fails, the locks as they were, and the images of before by their names again.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from packaging.utils import canonicalize_name

from doit_images.ci.testing.planned import tests_of
from doit_images.ci.testing.variants import name_of, with_tests
from doit_images.ci.updating import behind, locks
from doit_images.ci.updating.package_index import Known, PackageIndex, Release
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import host_platform
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run


def index_of(run: Run) -> PackageIndex:
    """The package index of this machine: as pip and uv are told."""
    environ = run.environ
    url = environ.get("UV_DEFAULT_INDEX") or environ.get("PIP_INDEX_URL") or ""
    return PackageIndex(url, environ.get("PIP_CERT") or environ.get("REQUESTS_CA_BUNDLE") or "")


def look_up(
    run: Run, texts: Mapping[Path, str], advised: Collection[str] | None = None
) -> dict[tuple[str, str], Known]:
    """What the package index knows of all that these locks pin; of advisories only those of the packages ``advised``,
    if these are given. Raises ``UserError``."""
    return index_of(run).look_up((pin for text in texts.values() for pin in locks.pins(text).items()), advised)


def update(run: Run, names: Sequence[str], cooldown: float) -> list[locks.Change]:
    """Lock newer releases (of these packages, or of all) that are older than ``cooldown`` seconds, build the images
    that they are in, and run the images' tests. ``UserError`` if any of it fails: all is then as it was before."""
    before = locks.texts(run.project.directory)
    _known_names(names, before)
    if not before:
        return []
    known = look_up(run, before, set(map(canonicalize_name, names)) or None)
    try:
        _lock(run, names, known, time.time() - cooldown)
        changes = locks.difference(before, {path: path.read_text() for path in before})
        _write_back(before, set(before) - {change.lock for change in changes})
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
    newer = names or sorted({name for name, _ in known})
    options = lock_options(newer, behind.exceptions(known, cutoff), cutoff)
    done = commands.run(
        [*shlex.split(run.settings.lock_command), *options], cwd=run.project.directory, env=_environ(run)
    )
    done.checked("the locks cannot be made")


def lock_options(names: Sequence[str], allowed: Mapping[str, Release], cutoff: float) -> list[str]:
    """The options of ``uv pip compile`` that take new releases of these packages, but no younger ones than ``cutoff``
    (seconds since the epoch) except those that are ``allowed``. Others keep their pins, so these must be seen, with all
    their files. No file of constraints: locks would name it."""
    options = [f"--exclude-newer={_stamp(cutoff)}"]
    for name in names:
        release = allowed.get(canonicalize_name(name))
        options.append(f"--upgrade-package={name}{f'<={release.version}' if release else ''}")
    for name, release in allowed.items():
        if release.complete is not None:
            options.append(f"--exclude-newer-package={name}={_stamp(release.complete + 1)}")
    return options


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _environ(run: Run) -> dict[str, str]:
    """With uv of this repository's own environment on PATH."""
    tools = str(Path(sys.executable).parent)
    return {**locks.uv_environ(run.environ), "PATH": f"{tools}:{run.environ.get('PATH', '')}"}


def _try(run: Run, changed: set[Path]) -> None:
    """Build the images that read these locks, and all on them; run the tests of these images, and those that read such
    a lock themselves."""
    words = _concerned(run.anew(), changed)
    if not words:
        run.events.say("no image and no test reads a lock that changed")
    elif status := _doit(run, words):
        raise UserError(f"an image does not build with them, or its tests fail (status {status})", remedy="see above")


def _concerned(run: Run, changed: set[Path]) -> list[str]:
    """The tasks that build and test what these files go into."""
    tests = tests_of(run)
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


def _doit(run: Run, words: Sequence[str]) -> int:
    """Run tasks, side by side as ever; returns the status."""
    return commands.show([sys.executable, "-m", "doit", *words], env=dict(run.environ), tidies=True)


def _restore(run: Run, before: Mapping[Path, str]) -> None:
    """Write the locks as they were; the images that were built meanwhile give their names back in the next build."""
    changed = _write_back(before, set(before))
    if changed and not commands.stopping():
        run.events.say("the locks are as they were before")
        if images := concerned(run.anew().declared(), changed):
            _doit(run, [run.parts.names(f"build:{name}") for name in images])


def _write_back(before: Mapping[Path, str], paths: set[Path]) -> set[Path]:
    """Give these files the text that they had ``before``; those that had another. A lock that pins what it did counts
    as changed for the images that read it."""
    changed = {path for path in paths if path.read_text() != before[path]}
    for path in changed:
        path.write_text(before[path])
    return changed
