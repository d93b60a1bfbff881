"""``--watch``: an edit is built, or planned, as it happens."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.conftest import Lab
from tests.waiting import patience, until

FILES = {
    "compose.yml": """
        services:
          base: {image: PREFIX/base, build: base}
          web: {image: PREFIX/web, build: {context: web, additional_contexts: {base: "service:base"}}}
          other: {image: PREFIX/other, build: other}
        """,
    "base/Dockerfile": "FROM scratch\nCOPY f /\n",
    "base/f": "PREFIX\n",
    "web/Dockerfile": "FROM base\nCOPY . /web\n",
    "web/f": "1\n",
    "other/Dockerfile": "FROM scratch\nCOPY f /\n",
    "other/f": "PREFIX\n",
}


class Watched:
    """A doit that follows edits, and what it said."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.process = lab.start(*words)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)

    def says(self, what: str) -> None:
        """It says this now, once more."""
        until(lambda: any(what in line for line in self.lines), what)
        self.lines.clear()


@pytest.fixture
def project(lab: Lab) -> Lab:
    lab.write(FILES)
    return lab


@pytest.mark.engine
def test_what_an_edit_makes_stale_is_built_until_ctrl_c(project: Lab) -> None:
    watched = Watched(project, "build_optimized:web", "--watch")
    watched.says("2 built")
    for edit in ({"web/f": "2\n"}, {"web/new/f": "in a new folder\n"}):
        project.write(edit)
        watched.says("1 built, 1 fresh")
    project.write({"web/Dockerfile": "FORM base\n"})
    watched.says("FORM")
    project.write({"web/Dockerfile": "FROM base\nCOPY f /\n"})
    watched.says("1 built")
    assert project.actions() == {"base": "fresh", "web": "fresh", "other": "build"}, "that was not asked for"
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.wait(patience()) == 130


@pytest.mark.engine
def test_the_plan_is_shown_after_each_edit_that_changes_it(project: Lab) -> None:
    watched = Watched(project, "plan", "other", "--watch")
    watched.says("never built here")
    assert project.doit("build_optimized:other").returncode == 0
    project.write({"other/f": "2\n"})
    watched.says("`other/f` changed")
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(patience()) == 143
