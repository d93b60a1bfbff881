"""Which settings are there, and what are they set to?

Every setting comes from the environment, else from the ``.env`` beside ``dodo.py``, else from the
default in the table below; ``.env.example`` shows the same table to people, and a test holds both
together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tasks.errors import Trouble

# Where pip, Python's ssl and requests look for a certificate bundle, in this order.
_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
ROOT = Path(__file__).resolve().parent.parent


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise ValueError("a whole number from 1 to 9999")
    return int(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _setting(default: Any, parse: Callable[[str], Any], meaning: str) -> Any:
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """All settings, typed. A field's name in capitals is the name of its variable."""

    build_jobs: int = _setting(4, _count, "how many images are built side by side when -n is not given")
    base_image: str = _setting(
        "python:3.13-slim-trixie", str, "the Debian-with-Python image that base-python starts from"
    )
    base_source: str = _setting(
        "auto",
        _one_of("auto", "registry", "debian"),
        "where BASE_IMAGE comes from: a registry, Debian's packages, or whichever answers",
    )
    build_ca_cert: str = _setting(
        "", str, "certificate bundle for TLS inside builds (default: PIP_CERT, SSL_CERT_FILE or REQUESTS_CA_BUNDLE)"
    )


def load(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of ``root``: the environment first, then ``root/.env``, then the defaults.

    An empty value counts as not set. A value that is not of its setting's type raises ``Trouble`` that
    names the variable, the file and line where it stands, and what would be accepted.
    """
    env_file = root / ".env"
    stored = read_env(env_file)
    values = {}
    for entry in fields(Settings):
        name = entry.name.upper()
        text = environ.get(name) or stored.get(name) or ""
        if not text:
            continue
        try:
            values[entry.name] = entry.metadata["parse"](text)
        except ValueError as error:
            where = "environment" if environ.get(name) else f"{env_file}:{_line_of(env_file, name)}"
            raise Trouble(f"{name} must be {error}, not {text!r}", where=where) from None
    return Settings(**values)


def build_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of builds: the caller's, with ``BUILD_CA_CERT`` set to the bundle that the setting names, else to
    the one that this machine's own tools are told to trust, if that file is there."""
    named = (settings.build_ca_cert, *(environ.get(name, "") for name in _BUNDLES))
    found = next((path for path in named if path and Path(path).is_file()), "")
    return {**environ, "BUILD_CA_CERT": found} if found else dict(environ)


def read_env(path: Path) -> dict[str, str]:
    """The variables that an env file sets (Compose's syntax, as python-dotenv reads it); none without a file."""
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value or "" for name, value in dotenv_values(path).items()}


def _line_of(path: Path, name: str) -> int:
    pattern = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=")
    lines = path.read_text().splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)
