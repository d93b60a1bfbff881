"""``python -m doit_images``: take the package into the project of this folder, and out of it again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import doit_images
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, os_reason


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; the exit status. What is expected to go wrong is one sentence."""
    parser = argparse.ArgumentParser(prog="python -m doit_images", description=__doc__)
    parser.add_argument("--version", action="version", version=doit_images.__version__)
    parts = parser.add_subparsers(dest="part", required=True)
    init = parts.add_parser("init", help="write a dodo.py, or a few lines into the project's own, and a requirement")
    init.add_argument("--wrapper", action="store_true", help="write a doitw that brings all itself, no requirement")
    init.add_argument("--prefix", help="what the names of the tasks begin with, such as docker_")
    remove = parts.add_parser("remove", help="undo that, and remove what is ours on this machine for this project")
    remove.add_argument("--yes", "-y", action="store_true", help="do not ask")
    for part in (init, remove):
        part.add_argument("--dry-run", action="store_true", help="only say what would be done")
    given = vars(parser.parse_args(argv))
    try:
        _act(given.pop("part"), given)
    except (UserError, OSError) as error:
        print(os_reason(error) if isinstance(error, OSError) else error, file=sys.stderr)
        return 1
    except commands.Stopped:
        return 130
    return 0


def _act(part: str, given: dict[str, object]) -> None:
    sys.dont_write_bytecode = True  # of a dodo file that is only looked at
    commands.stop_on_signals()
    if part == "init":
        from doit_images.setup.init import init as act
    else:
        from doit_images.setup.remove import remove as act  # type: ignore[assignment]
    act(Path.cwd(), **given)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
