"""The rule that lets COPY set owner and mode: what it proposes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import copied_twice
from doit_images.advise.rules import Rule
from tests.advise import examples

RULE = Rule(copied_twice.NAME, copied_twice.patches)
FILES = {"run.sh": "x\n", "src/a.py": "x\n", "src/b.py": "x\n"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# code\nCOPY --link src /app\nRUN chown -R 5:6 /app\nCMD x\n",
            "# code\nCOPY --link --chown=5:6 src /app\nCMD x\n",
        ),
        (  # without a group it stays root's; what else the step does stays, an empty line too much goes
            "COPY src /app\n\nRUN chown -R app /app \\\n && touch /x\n\nRUN chmod -R 755 /app\n\nCMD x\n",
            "COPY --chown=app:0 src /app\n\nRUN touch /x\n\nRUN chmod -R 755 /app\n\nCMD x\n",
        ),
        (  # the folder that WORKDIR made
            "RUN useradd app\nWORKDIR /app\nCOPY . .\nENV A=1\nRUN chown -R app:app .\nUSER app\n",
            "RUN useradd app\nWORKDIR /app\nCOPY --chown=app:app . .\nENV A=1\nRUN chown app:app .\nUSER app\n",
        ),
        (
            "COPY src /app/src\nCOPY run.sh /usr/bin/\nCOPY run.sh /app/\nRUN chown -R 5:5 /app && chmod -R 755 /app\n",
            "COPY --chown=5:5 --chmod=755 src /app/src\nCOPY run.sh /usr/bin/\n"
            "COPY --chown=5:5 --chmod=755 run.sh /app/\n",
        ),
        (
            "COPY src /app\r\nRUN chmod -R 700 /app\r\n",
            "COPY --chmod=700 src /app\r\nRUN chmod 700 /app\r\n",
        ),
        (
            "COPY run.sh /usr/local/bin/\n# it starts\nRUN chmod +x /usr/local/bin/run.sh\n",
            "COPY --chmod=755 run.sh /usr/local/bin/\n",
        ),
        (
            "COPY ./run.sh /entry\nRUN chmod u+x /entry && make\n",
            "COPY --chmod=744 ./run.sh /entry\nRUN make\n",
        ),
        ("WORKDIR /app\nCOPY run.sh .\nRUN chmod 0555 run.sh\n", "WORKDIR /app\nCOPY --chmod=0555 run.sh .\n"),
    ],
)
def test_copy_sets_it(tmp_path: Path, before: str, after: str) -> None:
    assert examples.better(tmp_path, RULE, f"FROM base\n{before}", FILES) == f"FROM base\n{after}"


@pytest.mark.parametrize(
    "text",
    [
        "WORKDIR /app\nCOPY src .\nRUN npm ci\nCOPY . .\nRUN chown -R 5:5 /app\n",
        "RUN mkdir /app && touch /app/x\nCOPY src /app\nRUN chown -R 5:5 /app\n",
        "COPY src /app\nRUN make\nRUN chown -R 5:5 /app\n",
        "COPY src /app\nRUN useradd app && chown -R app /app\n",
        "COPY src /app/src\nWORKDIR /app/other\nRUN chown -R 5:5 /app\n",
        "COPY src /app/src\nRUN chown -R 5:5 /app/src/deep\n",
        "COPY src /\nRUN chown -R 5:5 /app\n",
        "COPY src $HOME/app\nRUN chown -R 5:5 /app\n",
        "COPY src app\nRUN chown -R 5:5 app\n",
        "COPY src /app\nRUN chown -R $OWNER /app\n",
        "COPY src /app\nRUN chown -R 5:5 /app /var\n",
        "COPY src /app\nRUN chown -R 5:5 /app || true\n",
        "COPY src /app\nRUN chown -R -h 5:5 /app\n",
        "COPY --chown=7:7 src /app\nRUN chown -R 5:5 /app\n",
        "COPY --link src /app\nRUN chown -R app:app /app\n",
        "COPY --parents src /app\nRUN chown -R app:app /app\n",
        "COPY --from=other /x /app\nRUN chown -R app /app\n",
        "USER 5\nCOPY src /app\nRUN chown -R 5:5 /app\n",
        "COPY run.sh /etc/tool/run.sh\nRUN chown -R 5:5 /etc/tool\n",
        "ADD src /app\nRUN chown -R 5:5 /app\n",
        "COPY src /app\nRUN chmod -R +x /app\n",
        "COPY src /app/src\nRUN chmod -R 700 /app\n",
        "COPY src run.sh /app/\nRUN chmod +x /app/run.sh\n",
        "COPY --from=other /x /usr/bin/x\nRUN chmod +x /usr/bin/x\n",
        "RUN cd /app && make\nCOPY src /app\nRUN chown -R 5:5 /app\n",
        "RUN <<E\ntouch /app/x\nE\nCOPY src /app\nRUN chown -R 5:5 /app\n",
    ],
)
def test_where_it_may_not_be_the_same_nothing_is_proposed(tmp_path: Path, text: str) -> None:
    assert examples.proposed(tmp_path, RULE, f"FROM other AS other\nFROM base\n{text}", FILES) == []
