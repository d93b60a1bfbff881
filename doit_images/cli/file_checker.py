"""Did a file change since a task last ran, as doit asks for each ``file_dep``?"""

from __future__ import annotations

import os

from doit.dependency import FileChangedChecker

from doit_images.cli.process import current


class FileChecker(FileChangedChecker):  # type: ignore[misc]
    """Compares when a file was last written, in ns. The fingerprint decides what is built; this has only to be cheap,
    so a file that the plan has looked at is not looked at again."""

    def info(self, path: str) -> int:
        """When a file was last written; ``OSError`` if it is not there."""
        known = current().resolver.mtime_ns(path)
        return os.stat(path).st_mtime_ns if known is None else known  # noqa: PTH116  Path takes four times as long

    def check_modified(self, path: str, written: int, state: int) -> bool:
        """Whether it was written since ``state`` was taken."""
        return written != state

    def get_state(self, path: str, state: int | None) -> int | None:
        """What to compare with next time; None if that is ``state``."""
        written = os.stat(path).st_mtime_ns  # noqa: PTH116
        return None if written == state else written
