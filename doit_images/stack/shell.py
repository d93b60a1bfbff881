"""How does one look into a service without tools or a shell? From a container with tools, in the service's namespaces.

It sees the service's processes (so the first one's root is the service's filesystem, /proc/1/root) and its network, and
is the service's user, or it could not look into these. It is removed when the shell, or the command, ends.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator, Sequence

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.run import Run
from doit_images.stack import failed_step, one_container, parts
from doit_images.stack.containers import ONE_OFF, PROJECT, SERVICE, Container
from doit_images.stack.inside import has_terminal

_SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")


def shell(run: Run, words: Sequence[str], *, root: bool, image: str, failed: bool) -> None:
    """Open a shell, or run the command behind the service's name, with the tools of ``image`` ("": the base image's).
    ``UserError`` when the service is not there, and for a command that fails. ``failed``: as ``failed_step`` says."""
    if failed:
        if image:
            raise UserError("--image names tools for a service: what failed is looked at with its own")
        failed_step.shell(run, words, root=root)
        return
    if not words:
        raise UserError("shell needs the name of a service", remedy="doit shell SERVICE [COMMAND …]")
    service, *command = words
    container = parts.running(run, service)
    user = "0:0" if root else _user(container)
    if not command and sys.stdin.isatty():
        print(f"as {user} beside {container.name}: its files are in /proc/1/root, `exit` ends this", file=sys.stderr)
    words = [*_options(container, user, root=root), image or _tools(run), *(command or _SHELL)]
    with one_container.created(run.engine, *words) as name:
        argv = ["docker", "start", "--attach", "--interactive", name]
        status = commands.show(argv, env=leading_to(run.engine.address))
    if status and command:
        raise UserError(f"{command[0]} ended with status {status}")


def _tools(run: Run) -> str:
    """The base image as the engine calls it."""
    found = run.own_base.held() if run.own_base else None
    return found[0] if found else run.settings.base_image


def _options(container: Container, user: str, *, root: bool) -> list[str]:
    argv = ["--interactive", "--user", user]
    argv += ["--tty"] if has_terminal() else []
    for kind in ("pid", "network"):
        argv += [f"--{kind}", f"container:{container.id}"]
    # What Compose made of this project it removes with it.
    for label in (f"{PROJECT}={container.project}", f"{SERVICE}={container.service}", f"{ONE_OFF}=True"):
        argv += ["--label", label]
    if root:
        return [*argv, "--cap-add", "SYS_PTRACE"]
    # Who has less rights than a process may not look into it, so a service that is root is left with what it has.
    confined = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    return argv if user.startswith("0:") else [*argv, *confined]


def _user(container: Container) -> str:
    """The user and group, as numbers, that the service runs as: names are those of its own files."""
    user, _, group = (container.user or "0").partition(":")
    for name, _, uid, gid, *_ in _rows(container, "/etc/passwd"):
        if user in (name, uid):
            user, group = uid, group or gid
            break
    for name, _, gid, *_ in _rows(container, "/etc/group") if group and not group.isdigit() else ():
        group = gid if name == group else group
    return f"{user}:{group or 0}"


def _rows(container: Container, path: str) -> Iterator[list[str]]:
    done = commands.run(["docker", "cp", f"{container.id}:{path}", "-"])
    if done.status:
        return  # it has none, as an image from scratch
    with tarfile.open(fileobj=io.BytesIO(done.output)) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        for line in (file.read().decode(errors="replace") if file else "").splitlines():
            if line.count(":") >= 3:
                yield line.split(":")
