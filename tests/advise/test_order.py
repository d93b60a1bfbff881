"""The rule that installs packages of the system before files are copied, and what it leaves alone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.advise import order, rules
from doit_images.advise.patch import difference
from doit_images.advise.rules import Rule
from doit_images.advise.steps import Step, steps_of
from doit_images.core.inputs.image_inputs import ImageInputs
from tests.advise import examples

RULE = Rule(order.NAME, order.patches)
FILES = {
    "requirements.txt": "x\n",
    "main.py": "x\n",
    **dict.fromkeys(("src/a.py", "lib/b.py", "req/prod.txt", "tools/with.sh", "other/requirements.txt"), "x\n"),
}
APT = "RUN apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"COPY . /app\n{APT}CMD x\n", f"{APT}COPY . /app\nCMD x\n"),
        (
            f"WORKDIR /app\n# all\nCOPY . .\nCOPY --from=other /x x\n\n# tools\n{APT.strip()}",
            f"WORKDIR /app\n# tools\n{APT}\n# all\nCOPY . .\nCOPY --from=other /x x\n",
        ),
        (f"WORKDIR /usr/src/app\nCOPY . .\n{APT}", f"WORKDIR /usr/src/app\n{APT}COPY . .\n"),
        (  # what is read stays above, and the style of the lines
            "WORKDIR /app\nCOPY lib lib\nCOPY tools tools\n# code\nCOPY src src\nCOPY req req\n\n# packages\n"
            "RUN sh tools/with.sh pip install -r req/prod.txt\n\nCMD x\n",
            "WORKDIR /app\nCOPY tools tools\nCOPY req req\n\n# packages\n"
            "RUN sh tools/with.sh pip install -r req/prod.txt\n\nCOPY lib lib\n# code\nCOPY src src\n\nCMD x\n",
        ),
        (  # the name alone of a folder elsewhere is not it
            "WORKDIR /app\nCOPY src prod\nCOPY req req/prod\nRUN pip install -r req/prod/prod.txt\n",
            "WORKDIR /app\nCOPY req req/prod\nRUN pip install -r req/prod/prod.txt\nCOPY src prod\n",
        ),
        (f"COPY . /app\nCOPY main.py /etc/\n{APT}", f"COPY main.py /etc/\n{APT}COPY . /app\n"),
        ("COPY . /app\r\nRUN apk add \\\r\n  git\r\n", "RUN apk add \\\r\n  git\r\nCOPY . /app\r\n"),
        (f"COPY main.py /etc/\nCOPY . /app\n{APT}", f"COPY main.py /etc/\n{APT}COPY . /app\n"),
    ],
)
def test_it_moves_above_what_is_copied(tmp_path: Path, before: str, after: str) -> None:
    stage = "FROM base AS other\nFROM base\n"
    assert examples.better(tmp_path, RULE, f"{stage}{before}", FILES) == f"{stage}{after}"


@pytest.mark.parametrize(
    "text",
    [
        f"COPY . /\n{APT}",
        f"COPY . .\n{APT}",
        f"COPY main.py /etc/apt/sources.list.d/\n{APT}",
        f"COPY . /app\nENV A=1\n{APT}",
        f"COPY . /app\nRUN make\n{APT}",
        "COPY . /app\nRUN apt-get install -y /app/x.deb\n",
        "WORKDIR /app\nCOPY . .\nRUN apt-get install -y ./x.deb\n",
        "WORKDIR /app\nCOPY . .\nRUN apk add *.apk\n",
        "COPY . /app\nRUN apt-get install -y git && make\n",
        "COPY . /app\nRUN pip install -r requirements.txt\n",
        "COPY . /app\nRUN mkdir /data\n",
        "WORKDIR /app\nCOPY . .\nRUN apk add --allow-untrusted x.apk\n",
        "WORKDIR /app\nCOPY src .\nRUN pip install --find-links deep -r requirements.txt\n",
        "WORKDIR /app\nCOPY main.py main.py\nRUN apt-get install -y $(cat main.py)\n",
        "WORKDIR /app\nCOPY src src\nRUN pip install -r $LIST\n",
        "WORKDIR /\nCOPY src /app/src\nRUN cd /app && pip install --find-links src -r requirements.txt\n",
        "WORKDIR /app\nCOPY src src/deep\nRUN pip install --find-links=src -r requirements.txt\n",
        "COPY other /other\nRUN pip install -r requirements.txt\n",
        "COPY --from=base /x /x\nRUN pip install -r requirements.txt\n",
        "COPY src /wheels\nRUN pip install --find-links=/wheels a\n",
        "WORKDIR /app\nCOPY src src\nRUN pip install --find-links src -r requirements.txt\n",
        "COPY src /app/req\nCOPY req /app/req\nRUN pip install -r /app/req/prod.txt\n",
        f"ADD . /app\n{APT}",
    ],
)
def test_what_may_need_what_is_copied_stays(tmp_path: Path, text: str) -> None:
    assert examples.proposed(tmp_path, RULE, f"FROM base\n{text}", FILES) == []


BEFORE = """\
FROM base
WORKDIR /app

# everything
COPY . .
# tools
RUN apt-get update
RUN apt-get install -y git
RUN pip install --no-cache-dir -r requirements.txt
COPY main.py /srv
RUN chown -R 5:5 /srv
"""
AFTER = """\
FROM base
WORKDIR /app

RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \\
    rm -f /etc/apt/apt.conf.d/docker-clean \\
 && apt-get update && apt-get install -y git
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \\
    pip install -r requirements.txt
# everything
COPY . .
COPY --chown=5:5 main.py /srv
"""


def test_all_rules_one_on_top_of_the_other_as_git_applies_them(tmp_path: Path) -> None:
    inputs = examples.resolved(tmp_path, BEFORE, FILES)
    text, seen, used = BEFORE, {BEFORE}, list[str]()
    for rule in rules.RULES:
        while patch := next(rules.patches(rule, text, _steps(inputs, text), seen), None):
            argv, given = ["git", "apply", "-"], difference(text, patch, "Dockerfile")
            done = subprocess.run(argv, cwd=tmp_path / "app", input=given, text=True, check=False)
            assert done.returncode == 0
            text = patch.text
            seen.add(text)
            used.append(rule.name)
    assert (tmp_path / "app/Dockerfile").read_text() == text == AFTER
    assert used == ["apt-update", "order", "locks-first", "cache-mounts", "cache-mounts", "copied-twice"]
    assert not any(list(rule.patches(text, _steps(inputs, text))) for rule in rules.RULES), "once is enough"


def _steps(inputs: ImageInputs, text: str) -> list[Step]:
    return steps_of(replace(inputs, dockerfile_text=text))


def test_rules_are_picked_by_name() -> None:
    assert [rule.name for rule in rules.named(["web", "order"])] == ["order"]
    assert rules.named(["web"]) == rules.RULES
