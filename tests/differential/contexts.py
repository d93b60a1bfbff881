"""Random contexts, ignore files and sources, for tests that compare with BuildKit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

NAMES = ("a", "b", "ab", "a.md", ".h", "c d", "é")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
_PARTS = ("a", "b", "ab", "*", "a*", "*.md", "?", "[ab]", "[^a]", "[a-b]*", ".*", "..", "l0", "l1")
SOURCES = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3).map("/".join)
_TARGETS = st.one_of(PATHS, PATHS.map(lambda path: "/" + path), PATHS.map(lambda path: "../" + path))
_RULES = ("a", "b/*", "*.md", "!a.md", "**/ab", "!**/b", "*/a", "!a/b")


@dataclass(frozen=True)
class Random:
    """A context to be laid out, its ignore file, and a source of ``COPY``."""

    files: frozenset[str]
    links: tuple[str, ...]
    rules: tuple[str, ...]
    source: str

    def lay(self, work: Path, destination: str) -> tuple[Path, Path]:
        """The context and the Dockerfile, both laid into ``work``."""
        context = work / "context"
        context.mkdir()
        for path in sorted(self.files, key=lambda path: (len(path), path)):
            _lay(context / path, lambda file: _write(file, f"content of {file.relative_to(context)}"))
        for number, target in enumerate(self.links):
            _lay(context / f"l{number}", partial(Path.symlink_to, target=target))
        (work / "Dockerfile.dockerignore").write_text("\n".join(self.rules))
        (work / "Dockerfile").write_text(f"FROM scratch\nCOPY {self.source} /{destination}/\n")
        return context, work / "Dockerfile"


CONTEXTS = st.builds(
    Random,
    st.frozensets(PATHS, min_size=4, max_size=14),
    st.lists(_TARGETS, max_size=3).map(tuple),
    st.lists(st.sampled_from(_RULES), max_size=3).map(tuple),
    SOURCES,
)


def _lay(path: Path, make: Callable[[Path], None]) -> None:
    if not any(parent.is_symlink() or parent.is_file() for parent in path.parents) and not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
