"""The rule that installs packages of the system before files are copied, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import order
from doit_images.advise.rules import Rule
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
        ("WORKDIR /app\nCOPY . .\nRUN useradd app\n", "WORKDIR /app\nRUN useradd app\nCOPY . .\n"),
        ("COPY . /app\nRUN mkdir /data\n", "RUN mkdir /data\nCOPY . /app\n"),
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
        "COPY . /app\nRUN mkdir /app/data\n",
        "WORKDIR /app\nCOPY . .\nRUN mkdir data\n",
        "WORKDIR /app\nCOPY . .\nRUN useradd --create-home --home-dir /app app\n",
        "COPY . /app\nRUN mkdir /data && chown 5 /data\n",
        'COPY . /app\nRUN ["mkdir", "/data"]\n',
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
