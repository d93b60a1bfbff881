"""What did a file say before, and can two changes of it be brought together? git knows both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.base import commands


def versions(root: Path, name: str) -> Iterator[bytes]:
    """What the file ``name`` in ``root`` has been in git's history, the newest first; nothing without a history."""
    try:
        for commit in commands.run(["git", "log", "--format=%H", "--", name], cwd=root).stdout.split():
            shown = commands.run(["git", "show", f"{commit}:./{name}"], cwd=root)
            if shown.status == 0:  # else this is the commit that removed it
                yield shown.output
    except commands.NotInstalled:
        return


def merged(yours: bytes, before: bytes, new: bytes) -> bytes | None:
    """``new`` with what ``yours`` changes in ``before``; None where both change the same lines."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("yours", "before", "new")]
        for file, content in zip(files, (yours, before, new), strict=True):
            file.write_bytes(content)
        try:
            done = commands.run(["git", "merge-file", "--stdout", "--quiet", *files])
        except commands.NotInstalled:
            return None
    return done.output if done.status == 0 else None
