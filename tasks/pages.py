"""Which pages are written from the code? ``doit docs``: docs/settings.md and docs/tasks.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, fields
from typing import Any

from doit_images.cli import tests
from doit_images.cli.action import QUIET, Task
from doit_images.cli.catalogue import TASKS
from doit_images.core.base.settings import Settings, read_env
from tasks import ROOT

_SETTINGS = """\
# Settings

Each is a variable of the environment, or a line of the `.env` beside `dodo.py`; the environment wins, and an empty
value counts as not set. A wrong one is answered with its file and line, and with what it takes. What the stack of this
repository takes stands in [.env.example](../.env.example). (`doit docs` writes this page from the code.)

| setting | default | takes | means |
|---|---|---|---|
"""
_TASKS = """\
# Tasks

By their plain names. A project may give them others ([your-project.md](your-project.md#names)); here seven are called
`…_optimized`, and the [README](../README.md#the-tasks) tells of them all in a table. Options stand behind the task,
before its words or after them. (`doit docs` writes this page from the code.)
"""
_USAGE = re.compile(r": ((?:\[|[A-Z]{2}).*)$")
_OF_ONE = {"test_image": (tests.AGAIN, tests.RUNS)}  # options of the parts of a task, which a project makes


def task_docs() -> Task:
    """Write the pages of the settings and of the tasks from the code"""
    return {"actions": [(write,)], **QUIET}


def write() -> None:
    """Write both pages anew."""
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text)


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    defaults = read_env(ROOT / ".env.example")
    rows = (_setting(entry, defaults.get(entry.name.upper(), "")) for entry in fields(Settings))
    described = (_task(name, creator) for name, creator in TASKS.items() if not name.startswith("_"))
    return {"settings.md": _SETTINGS + "".join(rows), "tasks.md": "\n".join([_TASKS, *described])}


def _setting(entry: Field[Any], default: str) -> str:
    cells = [f"`{entry.name.upper()}`", f"`{default}`" if default else "", _takes(entry), entry.metadata["meaning"]]
    return f"| {' | '.join(cells)} |\n"


def _takes(entry: Field[object]) -> str:
    """What a value has to be, as it is said of one that is wrong."""
    try:
        entry.metadata["parse"]("\0")
    except ValueError as error:
        return str(error)
    return "words with commas between them" if entry.default == () else "text"


def _task(name: str, creator: Callable[[], Any]) -> str:
    said = _USAGE.sub(r": `\1`", (creator.__doc__ or "").rstrip("."))
    options = _OF_ONE.get(name, ()) if inspect.isgeneratorfunction(creator) else creator().get("params", ())
    return "\n".join([f"## {name}", "", f"{said}.", "", *_options(options)])


def _options(options: Iterable[Task]) -> Iterator[str]:
    for one in options:
        flag = isinstance(one["default"], bool)
        value = "" if flag else f"={one['long'].upper()}"
        short = f"`-{one['short']}`, " if "short" in one else ""
        default = f" (default: `{one['default']}`)" if not flag and one["default"] != "" else ""
        yield f"- {short}`--{one['long']}{value}`: {one['help']}{default}"
    if options:
        yield ""
