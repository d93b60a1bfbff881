"""What would a patch have saved over the commits of late?"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from doit_images.advise.gain import Gain, Work, gains
from doit_images.advise.locks_first import patches
from doit_images.advise.replay import costs
from doit_images.advise.steps import steps_of
from doit_images.ci.commits import WorkingCopy
from doit_images.core.history.store import Build, Status, StepRecord
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action
from doit_images.core.run import Run
from doit_images.ui.patches_page import Shown, page
from tests.advise.test_replay import COMPOSE
from tests.ci.test_since import History

TEXT = "FROM scratch\nWORKDIR /src\nCOPY . .\nRUN pip install -r requirements.txt\nRUN make\n"


@pytest.fixture
def history(tmp_path: Path) -> History:
    """The first of five commits has another Dockerfile, one changes what is installed, the others change code."""
    made = History(tmp_path / "project")
    first = {"compose.yml": COMPOSE, "Dockerfile": "FROM scratch\nCOPY . .\n", ".dockerignore": "Dockerfile\n.git\n"}
    made.commit({**first, "requirements.txt": "one==1\n", "app.py": "1\n"})
    for change in ({"app.py": "2\n"}, {"requirements.txt": "one==2\n"}, {"app.py": "3\n"}, {"Dockerfile": TEXT}):
        made.commit(change)
    return made


def asked(history: History) -> tuple[WorkingCopy, ImageInputs]:
    files = (history.folder / "compose.yml",)
    run = Run(files, dict(os.environ))
    return WorkingCopy(files, dict(os.environ), history.folder / ".doit-images"), run.planner.declared()["app"]


def build(*steps: tuple[int, str, float]) -> Build:
    records = (StepRecord(f"[{number}/4] {text}", "", number, 4, 1.0, seconds) for number, text, seconds in steps)
    return Build("app", "app", "", Action.BUILD, Status.DONE, (), 1.0, 60.0, steps=tuple(records))


def test_both_are_replayed_as_if_each_commit_had_had_them(history: History) -> None:
    copy, inputs = asked(history)
    (patch,) = patches(inputs.dockerfile_text, steps_of(inputs))
    texts = {"app": (inputs.dockerfile_text, patch.text)}
    builds = [build((3, "RUN pip install -r requirements.txt", 40.0), (4, "RUN make", 2.0))]
    told = gains(copy, 60, texts, lambda name: builds)
    assert told == {"app": Gain(4, Work(6, 126.0), Work(4, 46.0), 0)}
    assert [[sorted(cost.ran) for cost in lines] for lines in told["app"].lines] == [[[0, 1, 2]] * 2, [[1], [0, 1, 2]]]
    drawn = page("x", [Shown("Dockerfile:3: rule", ["app: stays"], "-COPY <a>\n")], {"app": (told["app"], "said")})
    strips = re.findall(r"<span class=.strip.*?>(.*?)</span>", drawn)
    ran = [[kind == "executed" for kind in re.findall(r'class="(\w+)"', strip)] for strip in strips]
    assert ran == [[True, True, True, False]] * 2 + [[False, True, False, False], [True, True, True, False]]
    assert "-COPY &lt;a&gt;" in drawn
    assert gains(copy, 60, texts, lambda name: []) == {"app": Gain(4, Work(6, 0.0), Work(4, 0.0), 2)}


def test_only_images_that_have_a_patch_are_looked_at(history: History) -> None:
    other = "  other: {image: other, build: .}\n"
    history.commit({"compose.yml": f"services:\n  {COMPOSE[11:-2]}\n{other}"})
    copy, _ = asked(history)
    assert {cost.image for cost in costs(copy, 60)[0]} == {"app", "other"}
    assert {cost.image for cost in costs(copy, 60, {"app": TEXT})[0]} == {"app"}


def test_an_ignore_file_is_replayed_as_if_each_commit_had_had_it(history: History) -> None:
    copy, _ = asked(history)
    ignores = {history.folder / ".dockerignore": "Dockerfile\n.git\napp.py\n"}
    told = gains(copy, 60, {"app": (TEXT, TEXT)}, lambda name: [], ignores)["app"]
    assert (told.before.runs, told.after.runs) == (6, 2), "only what is installed counts"


def test_a_step_that_a_patch_rewrites_counts_as_it_took_before(history: History) -> None:
    copy, _ = asked(history)
    mounted = TEXT.replace("RUN pip", "RUN --mount=type=cache,target=/root/.cache/pip pip")
    builds = [build((3, "RUN pip install", 40.0), (4, "RUN make", 2.0))]
    told = gains(copy, 60, {"app": (TEXT, mounted)}, lambda name: builds)["app"]
    assert told.after == told.before == Work(6, 126.0)
