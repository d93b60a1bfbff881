"""How long does an edit take to reach the running service?

    .venv/bin/python benchmarks/watch.py [--repeat 5] [--engine testing]

Needs root and dockerd: all runs in an engine of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import newer_engine
from benchmarks.peers import DOIT, ROOT
from benchmarks.results import Results, say
from benchmarks.temporary_engine import temporary_engine
from doit_images.core.base import commands, settings
from doit_images.core.base.errors import UserError
from tasks.bases import base
from tests.loopback import free_port

ABOUT = """
Two copies of one project with one service are up, one followed by `doit dev_optimized`, one by `docker compose watch`,
by the same `develop.watch`: its code is synced and the service restarted, its list of requirements is built in. A file
is saved, and the service asked until its answer comes from it. Both follow all the time; edits are made in turns. How
doit gathers edits is part of it: 0.3 s, so that a save of many files is one reaction.
"""
COMPOSE = """
name: NAME
services:
  app:
    image: NAME/app
    build: .
    ports: ["127.0.0.1:PORT:8000"]
    develop:
      watch:
        - {action: sync+restart, path: ./src, target: /app/src}
        - {action: rebuild, path: ./requirements.txt}
"""
DOCKERFILE = 'FROM BASE\nWORKDIR /app\nCOPY requirements.txt ./\nCOPY src src\nCMD ["python3", "src/serve.py"]\n'
SERVE = """\
import http.server, os, pathlib, signal

SAYS = ""

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (SAYS + pathlib.Path("/app/requirements.txt").read_text()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""
CODE, BUILT_IN = "src/serve.py", "requirements.txt"
# What is edited, and how much of Compose's time ours may take.
EDITS = (("a line of synced code", CODE, 1.0), ("a file that is built in", BUILT_IN, 1.0))
_LIMIT_SECONDS = 120.0
_FIRST_EDITS = 8


@dataclass(frozen=True)
class Followed:
    """A copy of the project in ``folder`` that is up, and answers on ``port``."""

    folder: Path
    port: int

    def edit(self, path: str, at_most: float = _LIMIT_SECONDS) -> float:
        """Save a file; the seconds until the service answers by it. ``UserError`` if that takes longer."""
        says, file = f"edit {time.time_ns()}", self.folder / path
        text = f"{says}\n" if path == BUILT_IN else SERVE.replace('SAYS = ""', f"SAYS = {says!r}")
        began = time.perf_counter()
        file.write_text(text)
        self.wait_for(says, at_most)
        return time.perf_counter() - began

    def begin(self) -> None:
        """Wait until edits are followed: what is saved before that reaches nobody. ``UserError`` if it never is."""
        self.wait_for("first", _LIMIT_SECONDS)
        for _ in range(_FIRST_EDITS):
            with contextlib.suppress(UserError):
                self.edit(CODE, _LIMIT_SECONDS / _FIRST_EDITS)
                break
        self.edit(BUILT_IN)

    def wait_for(self, says: str, at_most: float) -> None:
        """Wait until it answers with this. ``UserError`` if that takes longer."""
        until = time.monotonic() + at_most
        while says not in self._answer():
            if time.monotonic() > until:
                raise UserError(f"the service does not answer with {says!r} in {at_most:.0f} s")
            time.sleep(0.01)

    def _answer(self) -> str:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer,
        ):
            return str(answer.read().decode())
        return ""


@contextlib.contextmanager
def followed(folder: Path, argv: Sequence[str], ref: str, environ: Mapping[str, str]) -> Iterator[Followed]:
    """Write the project, start what follows it (``argv``, with its Compose file for ``FILE``) and wait until it does.
    ``UserError`` where it does not begin."""
    name, one = f"bm-watch-{folder.name}", Followed(folder, free_port())
    (folder / "src").mkdir(parents=True)
    (folder / "compose.yml").write_text(COMPOSE.replace("NAME", name).replace("PORT", str(one.port)))
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("BASE", ref))
    (folder / CODE).write_text(SERVE)
    (folder / BUILT_IN).write_text("first\n")
    words = [str(folder / "compose.yml") if word == "FILE" else word for word in argv]
    env = {**environ, "COMPOSE_FILE": str(folder / "compose.yml")}
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = commands.begin(words, cwd=ROOT, env=env, stdout=log, stderr=log, cleanup=True)
        try:
            one.begin()
            yield one
        except UserError as error:
            raise UserError(f"{error}; {words[0]} said: {Path(log.name).read_text()[-2000:]}") from None
        finally:
            process.stop(30)
            down = ["docker", "compose", "--file", str(folder / "compose.yml"), "down", "--timeout", "0"]
            commands.run(down, env=env, cleanup=True)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    newer_engine.option(parser)
    given = parser.parse_args()
    commands.stop_on_signals()
    chosen = settings.load()
    base.ensure(chosen, ROOT)
    with (
        Results(Path(__file__), "From an edit to the running service", ABOUT) as results,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bm-")))
        engine = stack.enter_context(temporary_engine("bm-watch-", programs=newer_engine.programs(given.engine)))
        engine.load(chosen.base_image)
        results.on(given.engine, engine.environ)
        ways = {
            "doit dev_optimized": [str(DOIT), "dev_optimized"],
            "docker compose watch": ["docker", "compose", "--file", "FILE", "watch"],
        }
        both = {}
        for number, (name, argv) in enumerate(ways.items()):
            say(f"starting {name}")
            both[name] = stack.enter_context(followed(folder / f"p{number}", argv, chosen.base_image, engine.environ))
        for what, path, at_most in EDITS:
            cases = {name: partial(one.edit, path) for name, one in both.items()}
            ours, theirs = results.measured(what, cases, given.repeat).values()
            note = f"{ours:.2f} s against {theirs:.2f} s"
            results.add(f"{what}, against docker compose watch", ours / theirs, "×", at_most, note)


if __name__ == "__main__":
    main()
