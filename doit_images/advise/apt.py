"""Which commands of apt read the lists of packages, and which fetch them?"""

from __future__ import annotations

from collections.abc import Sequence

from doit_images.advise.shell import Command, is_of

INSTALLS = tuple((name, verb) for name in ("apt-get", "apt") for verb in ("install", "upgrade", "dist-upgrade"))
UPDATES = (("apt-get", "update"), ("apt", "update"))
LISTS = "/var/lib/apt/lists"


def installs(commands: Sequence[Command]) -> bool:
    """Whether one of these commands installs packages."""
    return any(is_of(command, INSTALLS) for command in commands)


def updates_first(commands: Sequence[Command]) -> bool:
    """Whether these commands fetch the lists before they install by them."""
    return [is_of(command, UPDATES) for command in commands if is_of(command, (*UPDATES, *INSTALLS))][:1] == [True]
