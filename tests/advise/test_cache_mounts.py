"""The rule that gives installations the cache mounts of their tools: what it proposes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import cache_mounts
from doit_images.advise.rules import Rule
from tests.advise import examples

RULE = Rule(cache_mounts.NAME, cache_mounts.patches)
APT = """\
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \\
    rm -f /etc/apt/apt.conf.d/docker-clean \\
 && """


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# packages\nRUN pip install --no-cache-dir -r requirements.txt\nCMD x",
            "# packages\nRUN --mount=type=cache,target=/root/.cache/pip \\\n    pip install -r requirements.txt\nCMD x",
        ),
        (  # the style of what is there: a word a line, a comment inside, CRLF
            "RUN python3 -m pip install \\\r\n    --no-cache-dir \\\r\n    # why\r\n    -r requirements.txt\r\n",
            "RUN --mount=type=cache,target=/root/.cache/pip \\\r\n    python3 -m pip install \\\r\n"
            "    # why\r\n    -r requirements.txt\r\n",
        ),
        (
            "RUN --mount=type=secret,id=a sh tools/with.sh pip install --no-cache-dir -r a.txt \\\n        -r b.txt\n",
            "RUN --mount=type=secret,id=a \\\n    --mount=type=cache,target=/root/.cache/pip \\\n"
            "    sh tools/with.sh pip install -r a.txt \\\n        -r b.txt\n",
        ),
        (
            "RUN --mount=type=secret,id=a --mount=type=secret,id=b \\\n    pip install a \\\n    --no-cache-dir\n",
            "RUN --mount=type=secret,id=a --mount=type=secret,id=b \\\n"
            "    --mount=type=cache,target=/root/.cache/pip \\\n    pip install a\n",
        ),
        (
            "RUN apt-get update && apt-get install -y \\\n    git \\\n    curl \\\n && rm -rf /var/lib/apt/lists/*\n",
            f"{APT}apt-get update && apt-get install -y \\\n    git \\\n    curl\n",
        ),
        (
            "RUN apt-get update && apt-get install -y git && apt-get clean \\\n"
            " && rm -rf /var/lib/apt/lists/* /tmp/* && echo done\n",
            f"{APT}apt-get update && apt-get install -y git \\\n && rm -rf /tmp/* && echo done\n",
        ),
        (  # docker-clean goes once
            "RUN apt-get update && apt-get install -y a\n"
            "RUN apt-get update; apt-get install -y b; rm -rf /var/lib/apt/lists\n",
            f"{APT}apt-get update && apt-get install -y a\n"
            f"{APT.partition('    rm')[0]}    apt-get update; apt-get install -y b\n",
        ),
        (
            "RUN npm ci --omit=dev && npm cache clean --force\n",
            "RUN --mount=type=cache,target=/root/.npm \\\n    npm ci --omit=dev\n",
        ),
        (
            "RUN --mount=type=cache,target=/root/.cache/uv uv sync --no-cache --frozen\n",
            "RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen\n",
        ),
        (
            "RUN apk add --no-cache git && pip install --no-cache-dir a && rm -rf /root/.cache\n",
            "RUN --mount=type=cache,target=/root/.cache/pip \\\n"
            "    apk add --no-cache git && pip install a && rm -rf /root/.cache\n",
        ),
    ],
)
def test_an_installation_gets_the_mount_of_its_tool(tmp_path: Path, before: str, after: str) -> None:
    assert examples.better(tmp_path, RULE, f"FROM base\n{before}", {}) == f"FROM base\n{after}"


def test_what_later_steps_need_is_mounted_for_each_of_them(tmp_path: Path) -> None:
    stage = "FROM golang:1.25 AS build\nRUN apk add git\nRUN go mod download\nRUN make\n"
    before = f"{stage}FROM scratch\nCOPY --from=build /x /\n"
    mounts = "--mount=type=cache,target=/go/pkg/mod \\\n    --mount=type=cache,target=/root/.cache/go-build \\\n    "
    after = before.replace("RUN go", f"RUN {mounts}go").replace("RUN make", f"RUN {mounts}make")
    assert examples.better(tmp_path, RULE, before, {}) == after
    (patch,) = examples.proposed(tmp_path, RULE, before, {})
    assert patch.removes == {}


@pytest.mark.parametrize(
    "text",
    [
        "FROM base\nRUN make\n",
        "FROM base\nUSER 5\nRUN pip install a\n",
        "FROM base AS one\nUSER app\nFROM one\nRUN pip install a\n",
        "FROM base\nENV PIP_NO_CACHE_DIR=1\nRUN pip install a\n",
        "FROM base\nENV HOME=/home/me\nRUN npm ci\n",
        "FROM base\nRUN PIP_CACHE_DIR=/c pip install a\n",
        "FROM base\nRUN pip install --cache-dir /c a\n",
        "FROM base\nRUN --mount=type=cache,target=/root/.cache pip install a\n",
        "FROM base\nENV UV_LINK_MODE=symlink\nRUN uv sync\n",
        "FROM base\nRUN pnpm install --offline\n",
        "FROM base\nRUN yarn install --immutable\n",
        "FROM base\nRUN apt-get update\nRUN apt-get install -y git\n",
        "FROM base\nRUN if x; then pip install a; fi\n",
        "FROM base\nRUN <<E\npip install a\nE\n",
        'FROM base\nRUN ["pip", "install", "a"]\n',
        "FROM golang\nRUN go mod download\n",
        "FROM golang AS a\nRUN go mod download\nFROM a AS b\nRUN go test\nFROM base\nCOPY --from=b /x /\n",
        "FROM base AS build\nRUN go mod download\nFROM base\nCOPY --from=build /x /\n",
        "FROM base AS a\nRUN dotnet restore\nRUN dotnet publish --no-restore\nFROM base\nCOPY --from=a /x /\n",
        "FROM base AS a\nRUN mvn dependency:go-offline\nRUN mvn package -o\nFROM base\nCOPY --from=a /x /\n",
        "FROM rust AS a\nRUN cargo fetch\nRUN cargo build --frozen\nFROM base\nCOPY --from=a /x /\n",
        "# escape=`\nFROM base\nRUN pip install a\n",
        "FROM base AS other\nRUN pip install a\nFROM base\nRUN make\n",
    ],
)
def test_where_the_cache_may_be_elsewhere_nothing_is_proposed(tmp_path: Path, text: str) -> None:
    assert examples.proposed(tmp_path, RULE, text, {}) == []


def test_what_goes_is_said(tmp_path: Path) -> None:
    (patch,) = examples.proposed(tmp_path, RULE, "FROM base\nRUN apt-get update && apt-get install -y git\n", {})
    assert list(patch.removes) == ["/var/cache/apt", "/var/lib/apt/lists", "/etc/apt/apt.conf.d/docker-clean"]
