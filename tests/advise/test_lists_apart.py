"""The rule that installs several lists of packages one after the other, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import lists_apart
from doit_images.advise.rules import Rule
from tests.advise import examples

RULE = Rule(lists_apart.NAME, lists_apart.patches)
PINNED = "# all\na==1 \\\n    --hash=sha256:0\n"
FILES = {
    **dict.fromkeys(("one/r.txt", "two/r.txt", "three/r.txt", "p.txt", "q.txt"), PINNED),
    "one/free.txt": "a==1\nb>1\n",
    "one/more.txt": "-r r.txt\n",
    "tools/with.sh": "x\n",
}
COPIES = "WORKDIR /app\nCOPY one one\nCOPY two two\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"{COPIES}RUN pip install -r one/r.txt -r two/r.txt\n",
            "WORKDIR /app\nCOPY one one\nRUN pip install -r one/r.txt\nCOPY two two\nRUN pip install -r two/r.txt\n",
        ),
        (
            "WORKDIR /app\nCOPY tools tools\nCOPY one two /x/\nCOPY p.txt p/\nCOPY q.txt q/\n\n# all\n"
            "RUN --mount=type=secret,id=a \\\n    sh tools/with.sh pip install --requirement p/p.txt \\\n"
            "        --requirement=q/q.txt -q\n",
            "WORKDIR /app\nCOPY tools tools\nCOPY one two /x/\nCOPY p.txt p/\n\n# all\n"
            "RUN --mount=type=secret,id=a \\\n    sh tools/with.sh pip install --requirement p/p.txt -q\n\n"
            "COPY q.txt q/\nRUN --mount=type=secret,id=a \\\n"
            "    sh tools/with.sh pip install \\\n        --requirement=q/q.txt -q\n",
        ),
        (
            f"{COPIES}COPY three three\nRUN uv pip install -r two/r.txt -r one/r.txt -r three/r.txt\n",
            "WORKDIR /app\nCOPY two two\nRUN uv pip install -r two/r.txt\nCOPY one one\n"
            "RUN uv pip install -r one/r.txt\nCOPY three three\nRUN uv pip install -r three/r.txt\n",
        ),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_list_is_installed_as_it_is_copied(tmp_path: Path, before: str, after: str, end: str) -> None:
    texts = [f"FROM base\n{text}".replace("\n", end) for text in (before, after)]
    assert examples.better(tmp_path, RULE, texts[0], FILES) == texts[1]


@pytest.mark.parametrize(
    "text",
    [
        f"{COPIES}RUN pip install -r one/r.txt\n",
        f"{COPIES}RUN pip install -r one/free.txt -r two/r.txt\n",
        f"{COPIES}RUN pip install -r one/more.txt -r two/r.txt\n",
        f"{COPIES}RUN pip install -r one/r.txt -r two/r.txt && make\n",
        f"{COPIES}RUN pip install -r one/r.txt -r $WHICH/r.txt\n",
        f"{COPIES}RUN pip download -r one/r.txt -r two/r.txt\n",
        "WORKDIR /app\nCOPY . .\nRUN pip install -r one/r.txt -r two/r.txt\n",
        "WORKDIR /app\nCOPY one one\nCOPY two one/two\nRUN pip install -r one/r.txt -r one/two/r.txt\n",
        "COPY one one\nCOPY two two\nRUN pip install -r one/r.txt -r two/r.txt\n",
        "WORKDIR /app\nCOPY one one\nRUN make\nCOPY two two\nRUN pip install -r one/r.txt -r two/r.txt\n",
    ],
)
def test_where_another_list_may_count_nothing_is_proposed(tmp_path: Path, text: str) -> None:
    assert not examples.proposed(tmp_path, RULE, f"FROM base\n{text}", FILES)
