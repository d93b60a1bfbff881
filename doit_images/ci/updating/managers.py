"""Which package manager does a base have, and what does that say is newer than in it?

It is asked in a container of the base, which is thrown away. Whoever is not here is found by its files: no image is
started to find out that it has no shell.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from doit_images.stack import one_container

# microdnf, which has no `check-update` and takes every question for yes, can only install what is newer.
_PROGRAMS = {"apt": "/usr/bin/apt-get", "apk": "/sbin/apk", "dnf": "/usr/bin/dnf"}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # of the distribution; an image may have set another
_APK = "apk --quiet update >&2\napk list --upgradable 2>/dev/null\n"
_APK_LINE = re.compile(r"(?P<name>\S+)-(?P<new>[^-\s]+-r\d+) .*\[upgradable from: (?P=name)-(?P<old>\S+)\]")
# A repository that does not answer counts as an error, and not as one that has nothing newer.
_DNF = """ask() { dnf --quiet --setopt='*.skip_if_unavailable=0' "$@"; }
ask --refresh makecache >&2
for what in --installed '--upgrades --latest-limit=1' '--upgrades --security'; do
    echo "== $what"
    ask repoquery --qf '%{name} %{evr}\n' $what
done
"""
# The last line: a busy engine may lose what a container prints, and nothing would look like nothing to do.
_END, _WHOLE = "echo =.\n", "=.\n"


class Pending(NamedTuple):
    """A package of which there is a newer version, and whether that is a security fix (None: nobody says)."""

    name: str
    installed: str
    available: str
    security: bool | None


def of(engine: Engine, image_id: str) -> str:
    """The manager that an image has and that can be asked: ``apt``, ``apk``, ``dnf``; "" for none. ``UserError`` where
    it cannot be looked into."""
    with one_container.created(engine, image_id, "none") as made:
        for name, program in _PROGRAMS.items():
            if one_container.archive(engine, image_id, made, program) is not None:
                return name
    return ""


def newer(base: str, manager: str) -> list[Pending]:
    """What ``apk`` or ``dnf`` of an image say is newer than in it. ``UserError`` where they cannot be asked."""
    if manager == "apk":
        lines = map(_APK_LINE.match, answer(base, manager, _APK).splitlines())
        return [Pending(line["name"], line["old"], line["new"], None) for line in lines if line]
    return _of_dnf(answer(base, manager, _DNF))


def _of_dnf(text: str) -> list[Pending]:
    """What dnf says is installed, newer, and a fix, by the headings between; version 4 writes empty lines, too."""
    parts = [part.splitlines()[1:] for part in text.split("== ")[1:]]
    here, there, fixes = (dict(line.split(" ", 1) for line in part if line) for part in parts)
    return [Pending(name, here.get(name, "?"), version, name in fixes) for name, version in there.items()]


def answer(base: str, manager: str, script: str, stdin: bytes = b"") -> str:
    """What a script prints in a container of an image, whole. ``UserError`` where it fails."""
    options = ["--rm", "--interactive", "--user=0:0", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    argv = ["docker", "run", *options, "--env=LC_ALL=C", f"--env=PATH={_PATH}", "--entrypoint=sh"]
    argv += [base, "-c", f"set -eu\n{script}{_END}"]
    done = commands.run(argv, stdin=stdin).checked(f"{manager} cannot be asked what is newer")
    if not done.stdout.endswith(_WHOLE):
        raise UserError(f"{manager}'s list of newer packages did not arrive whole", remedy="run it again")
    return done.stdout.removesuffix(_WHOLE)
