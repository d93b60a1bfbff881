"""The rule that copies what an installation reads before the rest: what it proposes, and what it leaves alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.advise import locks_first
from doit_images.advise.patch import Patch, difference, spans
from doit_images.advise.rules import Rule
from tests.advise import examples

NAMES = (
    "requirements.txt",
    "req/base.txt",
    "req/prod.txt",
    "req/notes",
    "package.json",
    "package-lock.json",
    "src/main.py",
)
FILES = {name: "-r base.txt\n" if name == "req/prod.txt" else "x\n" for name in NAMES}


def proposed(folder: Path, text: str) -> list[Patch]:
    return examples.proposed(folder, Rule(locks_first.NAME, locks_first.patches), text, FILES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "FROM base\nWORKDIR /app\nCOPY . .\nRUN pip install -r requirements.txt\nCMD x\n",
            "FROM base\nWORKDIR /app\nCOPY requirements.txt ./\nRUN pip install -r requirements.txt\nCOPY . .\nCMD x\n",
        ),
        (  # comments go with what stands below them, empty lines stay between
            "FROM base\n# all\nCOPY --chown=1:1 --link ./ /app/\n\n"
            "# packages\nRUN cd /app && npm ci \\\n  --omit=dev\n",
            "FROM base\nCOPY --chown=1:1 --link package-lock.json package.json /app/\n"
            "# packages\nRUN cd /app && npm ci \\\n  --omit=dev\n\n# all\nCOPY --chown=1:1 --link ./ /app/\n",
        ),
        (  # what a list of requirements includes, in its folder
            "FROM base\nCOPY . /srv\nRUN pip install --no-cache-dir -r /srv/req/prod.txt",
            "FROM base\nCOPY req/base.txt req/prod.txt /srv/req/\n"
            "RUN pip install --no-cache-dir -r /srv/req/prod.txt\nCOPY . /srv\n",
        ),
        (  # a folder alone, what is set between, several commands of which some are for the code
            "FROM base\nCOPY ./req /app\n\nWORKDIR /app\nENV A=1\n# all\n"
            "RUN --network=none cd /app && pip install -r prod.txt \\\n"
            "  && python setup.py develop && make\n",
            "FROM base\nCOPY req/base.txt req/prod.txt /app/\n\nWORKDIR /app\nENV A=1\n# all\n"
            "RUN --network=none cd /app && pip install -r prod.txt\nCOPY ./req /app\n"
            "RUN --network=none cd /app && python setup.py develop && make\n",
        ),
        (
            "FROM base\nWORKDIR /app\nCOPY --chown=1:1 . .\nWORKDIR src\nRUN npm ci\n",
            "FROM base\nWORKDIR /app\nCOPY --chown=1:1 package-lock.json package.json ./\nWORKDIR src\nRUN npm ci\n"
            "COPY --chown=1:1 . /app\n",
        ),
        (
            "FROM base\nWORKDIR /app\nCOPY . .\nRUN npm ci && npm run build\n",
            "FROM base\nWORKDIR /app\nCOPY package-lock.json package.json ./\nRUN npm ci\nCOPY . .\n"
            "RUN npm run build\n",
        ),
        (
            "FROM base\r\nCOPY . /\r\nRUN yarn install\r\n",
            "FROM base\r\nCOPY package.json /\r\nRUN yarn install\r\nCOPY . /\r\n",
        ),
    ],
)
def test_it_moves_whole_lines(tmp_path: Path, before: str, after: str) -> None:
    (patch,) = proposed(tmp_path, before)
    assert patch.text == after
    assert patch.why.startswith(f"line {patch.line} runs again whenever any file changes that line ")


@pytest.mark.parametrize(
    "text",
    [
        "FROM base\nCOPY requirements.txt ./\nRUN pip install -r requirements.txt\nCOPY . .\n",
        "FROM base\nCOPY . .\nRUN make\nRUN pip install -r requirements.txt\n",
        "FROM base\nCOPY . .\nONBUILD ENV A=1\nRUN pip install -r requirements.txt\n",
        "FROM base\nCOPY . .\nWORKDIR app\nRUN pip install -r requirements.txt\n",
        "FROM base\nARG A=1\nCOPY . $A\nENV A=2\nRUN pip install -r requirements.txt\n",
        "FROM base\nCOPY . .\nRUN pip install .\n",
        "FROM base\nCOPY . .\nRUN python setup.py develop && pip install -r requirements.txt\n",
        "FROM base\nCOPY . .\nRUN npm ci && npm run build && rm -rf node_modules\n",
        "FROM base\nCOPY . .\nRUN npm ci && npm cache clean --force\n",
        "FROM base\nCOPY . .\nRUN npm ci || npm run build\n",
        "FROM base\nCOPY . .\nRUN export A=1 && npm ci && npm run build\n",
        "FROM base\nCOPY sr[c] .\nRUN npm ci\n",
        "FROM base\nCOPY . .\nRUN apt-get update && apt-get install -y git\n",
        "FROM base\nCOPY src requirements.txt /app/\nRUN pip install -r /app/requirements.txt\n",
        "FROM base\nCOPY . .\nRUN pip install -r elsewhere.txt\n",
        "FROM base AS a\nCOPY . .\nFROM base\nRUN pip install -r requirements.txt\nCOPY --from=a / /\n",
        "FROM base\nADD . .\nRUN pip install -r requirements.txt\n",
        "FROM base\nCOPY --exclude=src . .\nRUN pip install -r requirements.txt\n",
    ],
)
def test_what_might_need_other_files_is_left_alone(tmp_path: Path, text: str) -> None:
    assert proposed(tmp_path, text) == []


def test_git_applies_it(tmp_path: Path) -> None:
    before = "FROM base\nCOPY . .\nRUN pip install -r requirements.txt\n"
    (patch,) = proposed(tmp_path, before)
    argv = ["git", "apply", "-"]
    text = difference(before, patch.text, "Dockerfile")
    assert subprocess.run(argv, cwd=tmp_path / "app", input=text, text=True, check=False).returncode == 0
    assert (tmp_path / "app/Dockerfile").read_text() == patch.text


LINES = st.sampled_from(["# note\n", "\n", "ENV A=1\n", "RUN one \\\n  two\n", "COPY <<E /x\ntext\n# no comment\nE\n"])


@given(st.lists(LINES, max_size=6))
def test_spans_are_in_order_and_hold_their_instruction(lines: list[str]) -> None:
    text = f"# syntax=docker/dockerfile:1\nFROM base\n{''.join(lines)}"
    there = spans(text)
    every = text.splitlines(keepends=True)
    last = -1
    for span in there:
        assert last < span.first <= span.line - 1 <= span.last
        assert list(span.lines) == every[span.first : span.last + 1]
        assert span.lines[span.line - 1 - span.first].startswith(span.instruction.name)
        assert all(line.startswith("#") for line in span.lines[: span.line - 1 - span.first])
        last = span.last
    assert there[0].first == 1, "what is for the frontend stays at the top"
