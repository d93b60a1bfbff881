"""What did each line cost over the commits of late? BuildKit, which builds each of them, is the judge."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from doit_images.advise.installs import read_by
from doit_images.advise.replay import Cost, costs
from doit_images.ci.commits import WorkingCopy
from doit_images.core.base.errors import UserError
from tests.ci.test_since import History
from tests.conftest import Lab
from tests.differential import buildkit

COMPOSE = "services: {app: {image: app, build: {context: ., args: {LEVEL: '1'}}}}\n"
DOCKERFILE = """\
# the packages
FROM BASE AS packages
COPY . /src
RUN pip install -r /src/requirements.txt
RUN make /src

FROM BASE AS aside
COPY other /other

FROM BASE
ARG LEVEL
COPY --link assets /assets
COPY --from=packages /src /srv
RUN one
COPY app.py /srv/
"""
BUILT = """\
FROM BASE AS packages
ENV W=OWN
COPY . /$W
RUN : pip install -r /$W/requirements.txt
RUN echo make OWN

FROM BASE AS aside
COPY other /other

FROM BASE
ARG LEVEL
COPY --link assets /OWN-assets
ENV W=OWN
COPY --from=packages /$W /OWN-srv
WORKDIR /w
RUN echo one OWN
COPY app.py .
"""
FILES = {
    "compose.yml": COMPOSE,
    "Dockerfile": DOCKERFILE.replace("BASE", "scratch"),
    ".dockerignore": "Dockerfile\ncompose.yml\n*.md\n.git\n",
    "requirements.txt": "one==1\n",
    "app.py": "1\n",
    "assets/logo": "1\n",
    "other": "1\n",
    "README.md": "1\n",
}


def found(history: History, commits: int = 60) -> dict[int, Cost]:
    copy = WorkingCopy((history.folder / "compose.yml",), dict(os.environ), history.folder / ".doit-images")
    return {cost.step.line: cost for cost in costs(copy, commits)[0]}


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "project")
    made.commit(FILES)
    return made


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"README.md": "2\n"}, set()),  # the ignore file hides it
        ({"app.py": "2\n"}, {3, 4, 5, 13, 14, 15}),
        ({"requirements.txt": "one==2\n"}, {3, 4, 5, 13, 14, 15}),
        ({"assets/logo": "2\n"}, {3, 4, 5, 12, 13, 14, 15}),
        ({"compose.yml": COMPOSE.replace("1", "2")}, {14, 15}),  # an argument counts for RUN
        ({"Dockerfile": FILES["Dockerfile"].replace("RUN one", "RUN two")}, {14, 15}),
        ({"Dockerfile": FILES["Dockerfile"].replace("# the packages\n", "\n# more words\n")}, set()),
        ({"Dockerfile": FILES["Dockerfile"].replace("COPY other", "COPY assets")}, set()),  # nobody reaches that stage
    ],
)
def test_what_rests_on_a_change_runs_again(history: History, change: Mapping[str, str | None], lines: set[int]) -> None:
    history.commit(change)
    assert {line for line, cost in found(history).items() if cost.runs} == lines


def test_an_installation_is_needless_where_nothing_that_it_reads_changed(history: History) -> None:
    for number in range(2, 6):
        history.commit({"app.py": f"{number}\n"})
    history.commit({"requirements.txt": "one==2\n", "app.py": "6\n"})
    history.commit({"app.py": "2\n", "requirements.txt": "one==1\n"})  # built before
    lines = found(history)
    pip, make = lines[4], lines[5]
    assert (pip.runs, pip.needless, pip.commits) == (5, 4, 6)
    assert pip.needless_because == Counter({3: 4})
    assert pip.paths["app.py"] == 5
    assert (make.runs, make.needless) == (5, 0), "it may read anything"
    pip.seconds = 41.0
    assert pip.saving == 164.0


def test_a_line_is_the_same_one_after_edits_around_it(history: History) -> None:
    history.commit({"app.py": "2\n"})
    longer = FILES["Dockerfile"].replace("COPY . /src\n", "WORKDIR /srv\n\nCOPY . /src\n").replace("RUN one", "RUN two")
    history.commit({"Dockerfile": longer})
    lines = found(history)
    assert lines[6].step.text == "RUN pip install -r /src/requirements.txt"
    assert (lines[6].runs, lines[6].needless) == (2, 1), "the second time because of a line of the Dockerfile"
    assert lines[16].step.text == "RUN two"
    assert lines[16].runs == 2


def test_a_parent_image_and_commits_that_cannot_be_read(history: History) -> None:
    two = "services: {app: {image: app, build: .}, child: {image: child, build: child}}\n"
    history.commit({"compose.yml": two, "child/Dockerfile": "FROM app\nRUN apt-get install -y git\n"})
    history.commit({"compose.yml": "services: [\n"})
    history.commit({"compose.yml": two})
    history.commit({"app.py": "2\n"})
    copy = WorkingCopy((history.folder / "compose.yml",), dict(os.environ), history.folder / ".doit-images")
    lines, commits = costs(copy, 60)
    child = next(cost for cost in lines if cost.image == "child")
    assert commits == 3
    assert (child.runs, child.needless, child.because) == (1, 0, Counter({1: 1})), "its base is another one"
    assert {cost.commits for cost in costs(copy, 1)[0]} == {1}


def test_a_commit_without_images_counts(tmp_path: Path) -> None:
    history = History(tmp_path / "project")
    history.commit({"compose.yml": "services: {db: {image: db}}\n"})
    history.commit(FILES)
    history.commit({"app.py": "2\n"})
    assert {cost.commits for cost in found(history).values()} == {2}


def test_no_repository(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(COMPOSE)
    with pytest.raises(UserError, match="git reads no repository here"):
        costs(WorkingCopy((tmp_path / "compose.yml",), {**os.environ, "GIT_DIR": "/nowhere"}, tmp_path), 60)


@pytest.mark.parametrize(
    ("instruction", "names"),
    [
        ("RUN --mount=type=cache,target=/root/.cache pip install -r req/prod.txt -c limits.txt", "prod.txt limits.txt"),
        ("RUN python3 -m pip install --no-cache-dir --requirement=a.txt", "a.txt"),
        ("RUN pip install flask==3.0", ""),
        ("RUN pip install .", None),
        ("RUN pip install -e .", None),
        ("RUN A=b uv sync --frozen", "pyproject.toml uv.lock uv.toml .python-version"),
        ("RUN npm ci --omit=dev", "package.json package-lock.json npm-shrinkwrap.json .npmrc"),
        ("RUN npm ci && npm run build", None),
        ("RUN yarn", "package.json yarn.lock .yarnrc .yarnrc.yml"),
        ("RUN yarn build", None),
        ("RUN go mod download", "go.mod go.sum go.work go.work.sum"),
        ("RUN apt-get update \\\n # words\n && apt-get install -y git \\\n && rm -rf /var/lib/apt/lists/*", ""),
        ("RUN apt-get install ./mine.deb", None),
        ("RUN sh tools/with.sh pip install -r a.txt", "a.txt with.sh"),
        ("RUN sh -c 'pip install -r a.txt'", None),
        ("RUN echo 'no end", None),
        ('RUN ["pip", "install", "-r", "a.txt"]', None),
    ],
)
def test_what_an_installation_reads(instruction: str, names: str | None) -> None:
    assert read_by(instruction) == (None if names is None else frozenset(names.split()))


@pytest.mark.engine
def test_buildkit_runs_what_the_replay_says(lab: Lab, busybox: str) -> None:
    """It builds each commit after those before it, with the steps of this project alone in its cache."""
    history = History(lab.folder / "project")
    text = BUILT.replace("BASE", busybox).replace("OWN", lab.prefix)
    changes = [
        {**FILES, "Dockerfile": text},
        {"app.py": "2\n"},
        {"requirements.txt": "one==2\n"},
        {"README.md": "2\n"},
        {"assets/logo": "2\n"},
        {"app.py": "1\n", "requirements.txt": "one==1\n", "assets/logo": "1\n"},  # built before
        {"compose.yml": COMPOSE.replace("1", "2")},
        {"Dockerfile": text.replace("echo one", "echo two")},
        {"Dockerfile": text.replace("WORKDIR /w", "LABEL a=b\nWORKDIR /v")},
        {"Dockerfile": text.replace("ARG LEVEL", "ENV B=c")},
        {"Dockerfile": text.replace(f"W={lab.prefix}", f"W={lab.prefix}w")},
        {"Dockerfile": text.replace("COPY other", "COPY assets")},
    ]
    ran: list[list[str]] = []
    for change in changes:
        history.commit(change)
        args = {"LEVEL": (history.folder / "compose.yml").read_text().partition("LEVEL: '")[2][0]}
        answer = buildkit.ask(buildkit.Question(history.folder, history.folder / "Dockerfile", args=args))
        assert not answer.failed, answer.said
        ran.append(re.findall(r"\[(?:stage-)?(\w+) +(\d+)/\d+\] (?!WORKDIR)", "\n".join(answer.run)))
    steps = {line: (cost.step.stage, str(cost.step.number)) for line, cost in found(history).items()}
    expected = Counter({steps[line]: cost.runs for line, cost in found(history).items()})
    assert len(expected) == 7
    assert Counter(step for some in ran[1:] for step in some) == expected


def test_advise_says_it_by_line(lab: Lab) -> None:
    history = History(lab.folder / "project")
    history.commit({**FILES, "compose.yml": COMPOSE.replace("image: app", f"image: {lab.prefix}/app")})
    history.commit({"app.py": "2\n"})
    lab.environ["COMPOSE_FILE"] = str(history.folder / "compose.yml")
    done = lab.doit("advise", "--commits", "5")
    assert done.returncode == 0, done.stderr
    sentence = (
        "Dockerfile:3 lets line 4 (RUN pip install -r /src/requirements.txt) run again in 1 of 1 commits; 1 of them"
    )
    assert f"{sentence} did not touch requirements.txt\n" in done.stdout
    told = json.loads(lab.doit("advise", "app", "--json").stdout)
    assert told["commits"] == 1
    pip = next(line for line in told["lines"] if line["line"] == 4)
    assert (pip["dockerfile"], pip["runs"], pip["needless"], pip["seconds"]) == ("Dockerfile", 1, 1, None)
    assert pip["because_of_files"] == {"app.py": 1}
    refused = lab.doit("advise", "--commits", "few")
    assert (refused.returncode, "--commits needs a whole number, not 'few'" in refused.stderr) == (1, True)


def test_without_a_commit_before_no_line_has_a_cost(lab: Lab) -> None:
    history = History(lab.folder / "project")
    history.commit({**FILES, "compose.yml": COMPOSE.replace("image: app", f"image: {lab.prefix}/app")})
    lab.environ["COMPOSE_FILE"] = str(history.folder / "compose.yml")
    assert lab.doit("advise").stdout.startswith("there is no commit before HEAD that could tell which lines run again")
