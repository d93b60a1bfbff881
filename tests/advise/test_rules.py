"""All rules together, and the page that tells how one is added."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from doit_images.advise import rules
from doit_images.advise.patch import difference
from doit_images.advise.rules import Rule
from doit_images.advise.steps import Step, steps_of
from doit_images.core.inputs.image_inputs import ImageInputs
from tests.advise import examples

PAGE = Path(__file__).parents[2] / "docs/advise-rules.md"
FILES = {"requirements.txt": "x\n", "main.py": "x\n"}
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
            argv, given = ["git", "apply", "-"], difference(text, patch.text, "Dockerfile")
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
    assert [rule.name for rule in rules.named(["web", "order"])[0]] == ["order"]
    assert rules.named(["web"]) == (rules.RULES, rules.PROJECT_RULES)


def test_the_rule_on_the_page_works(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    module: dict[str, Any] = {}
    exec(found[1], module)
    rule = Rule(module["NAME"], module["patches"])
    text = "FROM base AS one\nCMD a\nFROM one\n\n# two\nCMD b\n\nONBUILD CMD c\nCMD d\n"
    after = "FROM base AS one\nCMD a\nFROM one\n\nONBUILD CMD c\nCMD d\n"
    assert examples.better(tmp_path, rule, text, FILES) == after


def test_each_rule_has_its_row_in_the_list() -> None:
    page = (PAGE.parent / "seeing-builds.md").read_text()
    names = [*(rule.name for rule in rules.RULES), *(rule.name for rule in rules.PROJECT_RULES)]
    assert re.findall(r"^\| `([a-z-]+)` \| .*→", page, re.MULTILINE) == names
