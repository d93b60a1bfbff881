"""Which plugin of the docker command is installed, and how is it run without the detour by that command?

``docker buildx`` looks at every plugin before it runs this one: 45 of the 190 ms in which a changed line is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from doit_images.core.engine.endpoint import configuration, configuration_folder, endpoint

_SYSTEM = ("/usr/local/lib/docker", "/usr/local/libexec/docker", "/usr/lib/docker", "/usr/libexec/docker")


def identity(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The plugin's file, size and time (``docker-compose``, ``docker-buildx``); "" where it is in no usual place."""
    plugin = _file(name, environ)
    if plugin is None:
        return ""
    status = plugin.stat()
    return f"{plugin} {status.st_size} {status.st_mtime_ns}"


def mentions(name: str, word: str, environ: Mapping[str, str]) -> bool:
    """Whether the plugin's program may know this word, such as a variable's name: it stands there, or cannot be looked
    for, because the plugin is in no usual place or a script that runs another."""
    plugin = _file(name, environ)
    return plugin is None or _holds(plugin, word.encode())


def direct(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """A command that begins with ``docker buildx``, as one of the plugin alone.

    Every plugin is also a command, with the same configuration and contexts. The command stays as it was where the
    plugin's file is in no usual place, and for an engine at the other end of a network: on its own, buildx does not
    read ``DOCKER_TLS_VERIFY``.
    """
    plugin = _file("docker-buildx", environ)
    if plugin is None or not os.access(plugin, os.X_OK) or not endpoint(environ).startswith("unix://"):
        return list(argv)
    return [str(plugin), *argv[2:]]


@cache
def _holds(program: Path, word: bytes) -> bool:
    import mmap

    with program.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content[:2] == b"#!" or content.find(word) >= 0


def _file(name: str, environ: Mapping[str, str]) -> Path | None:
    """The file that the docker command would run: the first one, in the order in which it looks for it."""
    further = configuration(environ).get("cliPluginsExtraDirs")
    places = [*further] if isinstance(further, list) else []
    places += [configuration_folder(environ) / "cli-plugins", *(f"{place}/cli-plugins" for place in _SYSTEM)]
    return next((file for place in places if (file := Path(place, name)).exists()), None)
