"""How are figures measured again that are older than their code? ``doit figures``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import readme
from benchmarks.age import FIGURES, HERE, ROOT, stale
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, meant
from doit_images.core.run import Run

_REMEDY = "python benchmarks/readme.py"


def measure(name: str, folder: Path = HERE) -> None:
    """Measure one again, with its progress on standard error; ``UserError`` when that fails, and its figures stay."""
    figure = FIGURES[name]
    if figure.needs:
        raise UserError(f"{name} needs {figure.needs}", remedy=f"the first lines of {figure.words[0]} say how")
    for also in ((), figure.also) if figure.also else ((),):
        argv = [sys.executable, *figure.words, *also]
        with tempfile.TemporaryFile() as file:
            with commands.start(argv, cwd=ROOT, stdout=file, stderr=sys.stderr) as process:
                process.wait()
            if process.returncode:
                status = f"status {process.returncode}"
                raise UserError(f"{name} could not be measured ({status}): its last words stand above")
            if figure.printed:
                file.seek(0)
                (folder / f"{name}.json").write_bytes(file.read())


def refresh(run: Run, names: Sequence[str], only_say: bool) -> None:
    """Say which figures are stale, and why; measure them (or those of these names) unless it should ``only_say`` so,
    and write the README's tables anew. What cannot be measured does not keep the others from it. ``UserError``, also
    where it should only say so and the README shows an older figure without its mark."""
    for name in names:
        if name not in FIGURES:
            raise UserError(f"there are no figures named {name!r}", remedy=meant(name, FIGURES))
    found = {name: why for name, why in stale() if not names or name in names}
    for name, why in found.items():
        print(f"{name}: {why}")
    wanted = list(names or (name for name in found if not FIGURES[name].needs))
    if only_say or not wanted:
        print(f"{len(found)} of {len(FIGURES)} figures are older than what they measure")
        if only_say and (lines := list(readme.unmarked())):
            shown = "\n".join(lines)
            raise UserError(f"shown without the mark of what is older than its code:\n{shown}", remedy=_REMEDY)
        return
    failed = []
    for number, name in enumerate(wanted, 1):
        run.events.say(f"{number}/{len(wanted)} {name}")
        try:
            measure(name)
        except UserError as error:
            run.events.say(str(error))
            failed.append(name)
        readme.write()
    if failed:
        raise UserError(f"{', '.join(failed)} could not be measured; all others were")
