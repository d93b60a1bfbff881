"""Is each symptom of docs/troubleshooting.md made to happen by the test that its row names?"""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import ROOT, Lab

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| you see")]
_TRIED = re.compile(r"^\| (?P<symptom>.*?) \| .* \| `(?P<place>[\w/]+\.py)::(?P<test>\w+)` \|$")
ROWS = [found.groups() for line in LINES if (found := _TRIED.match(line))]


def test_each_row_is_read() -> None:
    assert len(ROWS) == len(LINES) > 15


@pytest.mark.parametrize(("symptom", "place", "test"), ROWS)
def test_each_row_names_a_test_and_what_is_said(symptom: str, place: str, test: str) -> None:
    (file,) = (ROOT / "tests").rglob(place)
    assert re.search(rf"^def {test}\(", file.read_text(), re.MULTILINE)
    said = "".join(path.read_text() for path in (ROOT / "doit_images").rglob("*.py"))
    for words in re.findall(r"`([^`]+)`", symptom):
        assert words in said or words in (".doit-images", "cache_prune"), words


@pytest.mark.engine
def test_an_edit_that_installs_again_is_explained_and_the_remedy_works(lab: Lab, busybox: str) -> None:
    install = "RUN cat lock > /installed"
    lab.write({
        "compose.yml": "services: {app: {image: PREFIX/app, build: app}}\n",
        "app/Dockerfile": f"FROM {busybox}\nWORKDIR /app\nCOPY . .\n{install}\n",
        "app/lock": "PREFIX",
        "app/code": "1",
    })  # fmt: skip
    lab.build()
    assert installs(lab, "2") == "follows 3/4 COPY . ."
    lab.write({"app/Dockerfile": f"FROM {busybox}\nWORKDIR /app\nCOPY lock .\n{install}\nCOPY . .\n"})
    lab.build()
    assert installs(lab, "3") == "cached"


def installs(lab: Lab, code: str) -> str:
    """What became of the step that installs, when the code was edited: ``cached``, or why it was executed."""
    lab.write({"app/code": code})
    assert lab.build() == {"app": "built"}
    [last] = json.loads(lab.doit("history", "--json", "--limit", "1").stdout)
    [step] = [step for step in last["steps"] if "/installed" in step["name"]]
    return "cached" if step["cached"] else str(step["why"])
