"""What can a container have of the mounts of a RUN?

What a bind mount shows is copied by BuildKit, which knows its source, into an image; from there a volume has it, which
the container mounts, each part at its place. The content of a cache mount stays in the builder: it may be of any size,
and nothing but a step of a build gets at it. Secrets go into the container when it has been made, as Compose hands them
over: no image, no log and no command line ever has them, and they go with the container.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import posixpath
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from doit_images.core.base import commands, leftovers
from doit_images.core.buildkit.buildx import one_line
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import Engine
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.run import Run

HELD = "/.doit-mounts"
"""Where an image and a volume hold what is mounted, under the mount's number."""

_AGENT_SECONDS = 5.0


@dataclass
class Mounts:
    """The mounts of one RUN of ``image``, whose working directory is ``folder``: the words of ``docker create`` that
    mount them from the ``volume``, the lines of a Dockerfile (``copies``) and the folders (``entries``) that fill it,
    the ``secrets`` and variables that the container gets, and what people are told. ``stack`` ends what serves them."""

    run: Run
    image: Image
    folder: str
    volume: str
    stack: contextlib.ExitStack
    options: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    entries: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    secrets: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def add(self, number: int, mount: Mapping[str, str]) -> None:
        """Add the one with this number, by its fields. Raises ``UserError``."""
        target = posixpath.join("/", self.folder, mount.get("target", ""))
        match mount.get("type", "bind").lower():
            case "bind":
                self._copy(number, mount)
                writable = mount.get("readwrite") == "true" or mount.get("readonly") == "false"
                self._mount(number, target, writable=writable)
            case "cache":
                self._cache(number, target, mount)
            case "tmpfs":
                size = [f"size={number}" for number in [mount.get("size", "").lower().rstrip("ib")] if number]
                self.options += ["--tmpfs", ":".join([target, ",".join(["exec", "nosuid", *size])])]
            case "secret":
                self._secret(mount)
            case "ssh":
                self._ssh(mount)
            case kind:
                self.said.append(f"a mount of the type {kind}, which is not known, is not here")

    def _copy(self, number: int, mount: Mapping[str, str]) -> None:
        origin = f"--from={mount['from']} " if mount.get("from") else ""
        self.copies.append(f"COPY {origin}{json.dumps([mount.get('source') or '/', f'{HELD}/{number}'])}")

    def _mount(self, number: int, target: str, *, writable: bool) -> None:
        only = [] if writable else ["readonly"]
        where = (f"source={self.volume}", f"target={target}", f"volume-subpath={number}")
        self.options += ["--mount", one_line("type=volume", *where, *only)]

    def _cache(self, number: int, target: str, mount: Mapping[str, str]) -> None:
        if mount.get("from"):
            self._copy(number, mount)
            self.said.append(f"the cache mount {target} holds only what a new one begins with")
        else:
            self.entries.append((_entry(str(number), mount, 0o755, tarfile.DIRTYPE), b""))
            self.said.append(f"the cache mount {target} is empty here: what it holds stays in the builder")
        self._mount(number, target, writable=mount.get("readonly") != "true")

    def _secret(self, mount: Mapping[str, str]) -> None:
        target = mount.get("target", "")
        name = mount.get("source") or mount.get("id") or posixpath.basename(target.rstrip("/"))
        secret = next((each for each in self.image.secrets if each.id == name), None)
        if secret is None:
            return  # BuildKit goes without, unless it is required: then the step never ran
        value = secret.read(self.run.build_environ)
        if variable := mount.get("env"):
            self.environ[variable] = os.fsdecode(value)
        if target or not variable:
            place = posixpath.join("/", self.folder, target or f"/run/secrets/{name}")
            entry = _entry(place.lstrip("/"), mount, 0o400)
            entry.size = len(value)
            self.secrets.append((entry, value))

    def _ssh(self, mount: Mapping[str, str]) -> None:
        name = mount.get("id") or "default"
        target = mount.get("target") or f"/run/buildkit/ssh_agent.{len(self.options)}"
        declared = (each.partition("=") for each in self.image.ssh)
        where = next((paths.split(",") for each, _, paths in declared if each == name), None)
        if where is None:
            return
        if not self.run.engine.address.startswith("unix:"):
            self.said.append(f"the SSH agent {name} is not here: a socket does not reach an engine elsewhere")
            return
        socket = self.stack.enter_context(agent([self.run.project.directory / path for path in where if path]))
        self.options += ["--mount", one_line("type=bind", f"source={socket}", f"target={target}")]
        self.environ.setdefault("SSH_AUTH_SOCK", target)


@contextlib.contextmanager
def agent(paths: list[Path]) -> Iterator[str]:
    """For the block: the socket of an SSH agent, this user's own or the one that is named, or of one with these keys.
    Raises ``UserError``."""
    if not paths or stat.S_ISSOCK(paths[0].stat().st_mode if paths[0].exists() else 0):
        yield str(paths[0]) if paths else os.environ.get("SSH_AUTH_SOCK", "")
        return
    with leftovers.folder("agent-") as folder:
        socket = folder / "socket"
        with commands.start(["ssh-agent", "-D", "-a", str(socket)]) as process:
            until = time.monotonic() + _AGENT_SECONDS
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.01)
            argv = ["ssh-add", *map(str, paths)]
            commands.run(argv, env={**os.environ, "SSH_AUTH_SOCK": str(socket)}).checked("the SSH keys are not taken")
            try:
                yield str(socket)
            finally:
                process.stop()


def hand_over(engine: Engine, container: str, path: str, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Put these files and folders into a container that does not run yet, with their owners. Raises ``UserError``."""
    if not entries:
        return
    with tempfile.TemporaryFile() as held:  # without a name, and never in the log of commands
        _write(held, entries)
        argv = ["docker", "cp", "-", f"{container}:{path}"]
        commands.run(argv, env=leading_to(engine.address), stdin=held).checked("the container cannot be filled")


def _write(held: IO[bytes], entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(fileobj=held, mode="w") as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    held.seek(0)


def _entry(name: str, mount: Mapping[str, str], mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, int(mount["mode"], 8) if mount.get("mode") else mode
    entry.uid, entry.gid = (int(mount.get(key) or 0) for key in ("uid", "gid"))
    return entry
