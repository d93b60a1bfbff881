"""Where do the passwords of the stack come from, and are they fit for use?

``.env.example`` gives a secret the value ``change-me``; ``.env``, which is made from it at the first use, never does.
The project's own ``.env.example`` decides which variables are meant, so this works for any project that keeps one.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from doit_images.core.base import files, leftovers
from doit_images.core.base.errors import UserError
from doit_images.core.base.masking import masker

EXAMPLE, ENV = ".env.example", ".env"
_BYTES = 32
# With quotes or without; the entrypoints of the stores refuse the same word.
_EXAMPLE_VALUE = re.compile(r"change-me[^\s\"'#]*")


@dataclass(frozen=True)
class Line:
    """A variable in an env file: its name, its value and the number of its line."""

    name: str
    value: str
    number: int


def needed(folder: Path) -> list[str]:
    """The variables that the project's ``.env.example`` marks as secrets; none without that file."""
    return [line.name for line in read(folder / EXAMPLE) if _EXAMPLE_VALUE.fullmatch(line.value)]


def make_env(folder: Path, scratch: Path) -> bool:
    """Make ``.env`` from ``.env.example`` with a random value for every secret; whether it was made.

    Never touches one that is there, not even one that appears meanwhile. Only its owner can read it, from the
    first byte on, and it is complete or not there at all. ``scratch`` is a folder of the same filesystem that git
    ignores, for the time that it takes.
    """
    example, env = folder / EXAMPLE, folder / ENV
    if env.exists() or not example.is_file():
        return False
    text = filled(files.text(example))
    with leftovers.folder("env-", scratch) as own:
        made = own / ENV
        try:
            made.touch(0o600)
            with made.open("wb") as stream:
                stream.write(text.encode(errors="surrogateescape"))
                stream.flush()
                os.fsync(stream.fileno())
            # A link, because a rename would replace what another process has just made.
            os.link(made, env)
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(f"this file cannot be made: {error.strerror}", where=str(env)) from None
    return True


def filled(example: str) -> str:
    """The text of an example with a new random value in place of each ``change-me``; all else as it is."""
    lines = example.splitlines(keepends=True)
    return "".join(line if line.lstrip().startswith("#") else _fill(line) for line in lines)


def random_values(folder: Path) -> dict[str, str]:
    """A new random value for each secret, for a stack that ends with this process."""
    return {name: _new() for name in needed(folder)}


def check(folder: Path, environ: Mapping[str, str]) -> None:
    """Check that every secret has a value other than the example's, as Compose will read it: from the environment
    first, then from ``.env``. ``UserError`` names the variable, the file and the line, never a value."""
    stored = {line.name: line for line in read(folder / ENV)}
    for name in needed(folder):
        line = stored.get(name)
        value = environ.get(name, line.value if line else "")
        number = f":{line.number}" if line else ""
        where = "environment" if name in environ else f"{folder / ENV}{number}"
        if not value:
            raise UserError(f"{name} is {'empty' if number else 'not set'}", where=where, remedy=_remedy(name))
        if _EXAMPLE_VALUE.match(value):
            raise UserError(f"{name} still has the value of the example", where=where, remedy=_remedy(name))


def hider(folder: Path, environ: Mapping[str, str]) -> Callable[[str], str]:
    """A function that replaces the value of every secret by ``***``, for output of other programs."""
    known = {line.name: line.value for line in read(folder / ENV)} | dict(environ)
    return masker(known, needed(folder))


def read(path: Path) -> list[Line]:
    """The variables of an env file in their order, as python-dotenv reads them; none without a file. ``UserError``
    where it cannot be read."""
    return list(_lines(files.text(path))) if path.exists() else []


def _lines(text: str) -> Iterator[Line]:
    from io import StringIO

    from dotenv.parser import parse_stream

    for binding in parse_stream(StringIO(text)):
        if binding.key:
            # What dotenv took with it of empty lines before does not count.
            blank = len(binding.original.string) - len(binding.original.string.lstrip("\n\r \t"))
            before = binding.original.string[:blank].count("\n")
            yield Line(binding.key, binding.value or "", binding.original.line + before)


def _fill(line: str) -> str:
    name, equals, value = line.partition("=")
    match = _EXAMPLE_VALUE.match(value.lstrip().lstrip("\"'"))
    return f"{name}{equals}{value.replace(match.group(), _new(), 1)}" if match else line


def _new() -> str:
    return secrets.token_hex(_BYTES)


def _remedy(name: str) -> str:
    return f"openssl rand -hex {_BYTES} makes one for {name}=…"
