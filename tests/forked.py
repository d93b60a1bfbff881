"""doit without its start: one process has imported it all, and is forked for each run.

A run of doit in a process of its own spends most of its processor time on the start of Python and on imports. Here
that is paid once for each worker of pytest. A fork has what such a process has: environment, signals, pipes, exit
status, and all that a run keeps on modules, for itself alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the interpreter itself reads of its environment, when it starts.
_OF_THE_START = ("PYTHON", "LC_", "LANG", "TZ")
_TIDIES = 60.0


def run(argv: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run`` with ``capture_output`` and ``text``, for a command line that begins with this Python and
    ``-m MODULE`` or ``-c CODE``; in this repository, or in another folder with ``tasks`` of its own."""
    if _start(env) != _start(os.environ):
        return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(_server())
        out, err = os.pipe(), os.pipe()
        ends = [stack.enter_context(os.fdopen(end)) for end in (out[0], err[0])]
        asked = {"argv": list(argv), "env": dict(env), "cwd": str(cwd), "group": os.getpgrp()}
        request = json.dumps(asked).encode()
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], [out[1], err[1]])
        for end in (out[1], err[1]):
            os.close(end)
        connection.sendall(request)
        answers = connection.makefile()
        pid = int(answers.readline())
        with ThreadPoolExecutor(2) as pool:
            try:
                stdout, stderr = pool.map(lambda end: end.read(), ends)
                status = int(answers.readline())
            except BaseException as error:
                # Interrupted, it was too, and tidies up; past a time limit it is not waited for.
                if not isinstance(error, KeyboardInterrupt) or not select.select([connection], [], [], _TIDIES)[0]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise
    return subprocess.CompletedProcess(list(argv), status, stdout, stderr)


def _start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_OF_THE_START)}


@functools.cache
def _server() -> str:
    """Where the process that forks listens; it ends with this one."""
    folder = tempfile.mkdtemp(prefix="tst-forked-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = f"{folder}/socket"
    # In a group of its own: what interrupts ours is for the forks, which join it, and nobody waits for this one to end.
    argv = [sys.executable, "-m", "tests.forked", path]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return path


def serve(path: str) -> None:
    """Fork for each request, and tell how that ended. Only in a fork this returns by ``SystemExit``, as its run did."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:  # whoever started this has ended
                os._exit(0)
            if key.fileobj is listener:
                _accept(listener, selector)
            else:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _, status = os.waitpid(key.data[0], 0)
                with contextlib.suppress(OSError), key.data[1] as connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    connection, _ = listener.accept()
    length, fds, _, _ = socket.recv_fds(connection, 4, 2)
    request = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    if pid := os.fork():
        for fd in fds:
            os.close(fd)
        connection.sendall(f"{pid}\n".encode())
        selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
        return
    os.setpgid(0, request["group"])
    for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), *fds)):
        os.dup2(fd, number)
        os.close(fd)
    for key in [*selector.get_map().values()]:
        if key.fd > 2:
            os.close(key.fd)
    connection.close()
    os.environ.clear()
    os.environ.update(request["env"])
    if request["cwd"] != str(ROOT):
        _go(request["cwd"])
    _become(request["argv"][1:])


def _go(folder: str) -> None:
    """Stand in another folder, as one that was started there would: its own tasks are imported, not ours."""
    os.chdir(folder)
    sys.path[0] = folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]


def _become(words: list[str]) -> None:
    """Do what Python does for these words after it has started."""
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    raise SystemExit


if __name__ == "__main__":
    path, sys.argv[0] = sys.argv[1], "__main__.py"  # what doit is called when it is not forked
    for module in sorted((*ROOT.glob("doit_images/**/*.py"), *ROOT.glob("tasks/**/*.py"))):
        importlib.import_module(".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    gc.freeze()
    serve(path)
