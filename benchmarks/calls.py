"""Through how many files and functions does one build go, and how often does control come back to each?

.venv/bin/python benchmarks/calls.py [--files]

A project of one image, a two-line Dockerfile; it is built, edited and built again, and run once more with nothing to
do. The last two runs are traced in their own process (``sys.setprofile``, all threads). Needs an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from doit_images.core.base import commands

ROOT = Path(__file__).resolve().parent.parent
LOOP = ("make.py", "steps.py", "build_image.py", "attempt.py", "planner.py")
"""The files of the build loop."""

TRACED = """
import collections, inspect, json, sys, threading
package, out = sys.argv[1:3]
entered, calls, control = collections.Counter(), 0, []
comes, decided = collections.Counter(), 0

def hear(frame, event, argument):
    global decided
    code = frame.f_code
    # The bodies of modules and comprehensions have names in brackets, those of classes no locals: none is a function.
    if not code.co_filename.startswith(package) or code.co_name[0] == "<" or not code.co_flags & inspect.CO_NEWLOCALS:
        return
    if event == "call":
        entered[code.co_filename, code.co_qualname if hasattr(code, "co_qualname") else code.co_name] += 1
        decided += code.co_name == "_planned" and code.co_filename.endswith("core/planner.py")
    elif event == "return":
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename.startswith(package):
            if caller.f_code.co_filename != code.co_filename:
                comes[caller.f_code.co_filename] += 1

threading.setprofile(hear)
sys.setprofile(hear)
from doit.doit_cmd import DoitMain
from doit.cmd_base import DodoTaskLoader
try:
    status = DoitMain(DodoTaskLoader()).run(["build"])
finally:
    sys.setprofile(None)
    threading.setprofile(None)
with open(out, "w") as file:
    files = collections.Counter()
    for (name, function), count in entered.items():
        files[name] += count
    told = {name.removeprefix(package + "/"): count for name, count in files.items()}
    back = {name.removeprefix(package + "/"): count for name, count in comes.items()}
    json.dump({"files": told, "functions": len(entered), "calls": sum(told.values()), "comes": back,
               "decided": decided}, file)
sys.exit(status)
"""


def traced(folder: Path) -> Mapping[str, object]:
    """Run ``doit build`` in this folder, traced."""
    out = folder.parent / "trace.json"
    argv = [sys.executable, "-c", TRACED, str(ROOT / "doit_images"), str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder.parent / "state")}
    if commands.show(argv, cwd=folder, env=env):
        raise SystemExit("the build failed")
    told: dict[str, object] = json.loads(out.read_text())
    return told


def write(folder: Path, name: str) -> None:
    """A project of one image, named after this run."""
    (folder / "app").mkdir(parents=True)
    (folder / "app/file").write_text(name)
    (folder / "app/Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    compose = f"name: {name}\nservices:\n  app: {{image: {name}/app, build: {{context: app}}}}\n"
    (folder / "compose.yml").write_text(compose)
    (folder / "dodo.py").write_text("import doit_images\n\nglobals().update(doit_images.tasks())\n")


def shown(what: str, told: Mapping[str, object], files: bool) -> str:
    """What a traced run went through, in a few lines."""
    entered, comes = told["files"], told["comes"]
    if not isinstance(entered, dict) or not isinstance(comes, dict):
        raise TypeError("no trace")
    loop = ", ".join(f"{name.rpartition('/')[2]} {count}" for name, count in sorted(comes.items()) if _in_loop(name))
    text = f"""\
        {what}: {len(entered)} files, {told["functions"]} functions, {told["calls"]} calls; {told["decided"]} decisions
          control comes back to {loop or "no file of the build loop"}"""
    lines = textwrap.dedent(text).splitlines()
    return "\n".join([*lines, *(f"  {count:6} {name}" for name, count in sorted(entered.items()) if files)])


def _in_loop(name: str) -> bool:
    return name.rpartition("/")[2] in LOOP and "/core/" in f"/{name}"


def main() -> None:
    """Trace both runs, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="list the files, with the calls in each")
    asked = parser.parse_args()
    name = f"bm-calls-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="bm-") as folder:
        project = Path(folder, "project")
        write(project, name)
        traced(project)
        (project / "app/file").write_text("edited")
        edited = traced(project)
        print(shown("one file edited", edited, asked.files))
        print(shown("nothing to do", traced(project), asked.files))
    ids = commands.answer(["docker", "images", "--quiet", f"{name}/app"]).split()
    commands.run(["docker", "image", "rm", "--force", *dict.fromkeys(ids)])


if __name__ == "__main__":
    main()
