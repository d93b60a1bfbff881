"""The rules for apt's lists: fetched where they are used, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import apt_lists, apt_update
from doit_images.advise.rules import Rule
from tests.advise import examples

UPDATE = Rule(apt_update.NAME, apt_update.patches)
LISTS = Rule(apt_lists.NAME, apt_lists.patches)


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (
            UPDATE,
            "RUN apt-get update\n# tools\nRUN apt-get install -y \\\n    git\nCMD x\n",
            "# tools\nRUN apt-get update && apt-get install -y \\\n    git\nCMD x\n",
        ),
        (
            UPDATE,
            "RUN apt-get -qq update\r\nENV A=1\r\nRUN make\r\nRUN apt-get install a\r\nRUN apt-get install b\r\n",
            "ENV A=1\r\nRUN make\r\nRUN apt-get -qq update && apt-get install a\r\n"
            "RUN apt-get -qq update && apt-get install b\r\n",
        ),
        (
            LISTS,
            "RUN apt-get update && apt-get install -y git\n",
            "RUN apt-get update && apt-get install -y git \\\n && rm -rf /var/lib/apt/lists/*\n",
        ),
        (
            LISTS,
            "RUN apt-get update \\\n    && apt-get install -y \\\n        # a tool\n        git\nCMD x",
            "RUN apt-get update \\\n    && apt-get install -y \\\n        # a tool\n        git \\\n"
            "    && rm -rf /var/lib/apt/lists/*\nCMD x",
        ),
        (
            LISTS,
            "RUN apt-get update; apt-get install a || true\n",
            "RUN apt-get update; apt-get install a || true \\\n && rm -rf /var/lib/apt/lists/*\n",
        ),
    ],
)
def test_lists_are_where_they_are_needed(tmp_path: Path, rule: Rule, before: str, after: str) -> None:
    assert examples.better(tmp_path, rule, f"FROM base\n{before}", {}) == f"FROM base\n{after}"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (UPDATE, "FROM base\nRUN apt-get update\nRUN make\n"),
        (UPDATE, "FROM base\nRUN apt-get update && apt-get install git\n"),
        (UPDATE, "FROM base\nRUN apt-get update\nRUN apt-get update && apt-get install git\n"),
        (UPDATE, "FROM base\nRUN apt-get update\nRUN if x; then apt-get install y; fi\nRUN apt-get install git\n"),
        (UPDATE, "FROM base AS a\nRUN apt-get update\nRUN apt-get install b\nFROM a\nRUN apt-get install c\n"),
        (UPDATE, "FROM base\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\nRUN apt-get install b\n"),
        (UPDATE, "FROM base\nRUN apt-get update\nFROM base\nRUN apt-get install b\n"),
        (LISTS, "FROM base\nRUN apt-get update && apt-get install git && rm -r /var/lib/apt/lists\n"),
        (LISTS, "FROM base\nRUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install git\n"),
        (LISTS, "FROM base\nRUN apt-get update && apt-get install git\nRUN apt-get install a\n"),
        (LISTS, "FROM base AS a\nRUN apt-get update && apt-get install git\nFROM base\nCOPY --from=a /x /\n"),
        (LISTS, "FROM base\nUSER 5\nRUN apt-get update && apt-get install git\n"),
        (LISTS, "FROM base\nRUN apt-get update\n"),
    ],
)
def test_where_something_may_need_them_nothing_is_proposed(tmp_path: Path, rule: Rule, text: str) -> None:
    assert examples.proposed(tmp_path, rule, text, {}) == []


def test_what_goes_is_said(tmp_path: Path) -> None:
    (patch,) = examples.proposed(tmp_path, LISTS, "FROM base\nRUN apt-get update && apt-get install git\n", {})
    assert patch.removes == {"/var/lib/apt/lists": "the lists of packages of apt"}
