"""What may a shell offer after ``doit``? ``doit completion bash|zsh|fish`` prints what it has to read at its start.

Each asks ``completion.sh`` with every key, which takes milliseconds: doit itself is asked only when a file has changed
that what there is depends on. Images and services stand where a task's sentence has IMAGE and SERVICE.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doit_images import ui
from doit_images.cli.options import COMMON, general, typed
from doit_images.cli.process import current
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run

_TAKEN = re.compile(r"(?<![-\w])(IMAGE|SERVICE)\b")
_OPTION = re.compile(r"\[--[^]]*\]")


def script(run: Run, words: Sequence[str]) -> None:
    """Print what this shell reads at its start. Raises ``UserError`` for an unknown shell."""
    shells = ("bash", "zsh", "fish")
    if len(words) != 1 or words[0] not in shells:
        raise UserError(f"completion takes the name of a shell: {', '.join(shells)}")
    templates = Path(ui.__file__).parent / "templates"
    text = (templates / "completion.sh").read_text()
    in_fish = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    quoted = in_fish if words[0] == "fish" else shlex.quote(text)
    print((templates / f"completion.{words[0]}").read_text().replace("SCRIPT", quoted), end="")


def show(tasks: Mapping[str, object]) -> None:
    """Print what there is to offer, as ``completion.sh`` reads it."""
    for line in (("files", *_files()), *_offered(tasks)):
        print("\t".join(" ".join(word.split()) for word in line))


def _files() -> Iterator[str]:
    """The files that the offer depends on."""
    import doit_images

    yield from map(str, (Path("dodo.py").absolute(), Path(".env").absolute(), Path(doit_images.__file__)))
    try:
        yield from map(str, current().project.files)
    except UserError:
        yield from map(str, Path.cwd().glob("*compose*.y*ml"))


def _offered(tasks: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """What each line is, of which task, the word itself, and what it means."""
    from doit.cmd_run import Run as DoitRun
    from doit.doit_cmd import DoitMain

    for name, task in tasks.items():
        if name.startswith("_"):
            continue
        yield "task", "", name, task.doc
        for option in (*task.params, *general(task, tasks)):
            yield from (("option", name, word, option.get("help", "")) for word in typed(option))
        for taken in _TAKEN.findall(_OPTION.sub("", task.doc)):
            yield "takes", name, taken.lower(), ""
    for command in DoitMain.DOIT_CMDS:
        yield "task", "", command.get_name(), command.doc_purpose
    for option in (*DoitRun.cmd_options, *COMMON[1:]):
        yield from (("option", "", word, option["help"].partition("\n")[0]) for word in typed(option))
    with contextlib.suppress(UserError):
        yield from (("image", "", name, image.ref) for name, image in current().project.images.items())
    with contextlib.suppress(UserError):
        from doit_images.stack.checkout import project_of

        yield from (("service", "", name, "a service") for name in project_of(current()).services())
