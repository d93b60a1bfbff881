"""What is newer than the packages in bases and images, by whom each base has for that?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from doit_images.ci.updating import debian, managers
from doit_images.ci.updating.managers import Pending
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from doit_images.share.bases import Base
from doit_images.ui.bases_check import Packages, age_of, text
from tests.conftest import ROOT, Lab

OLD = """Package: tzdata
Status: install ok installed
Architecture: all
Version: 2020a-0+deb11u1
Maintainer: somebody <somebody@example.org>
Description: time zones
"""
LISTED = """== auth
openssl/stable-security,stable 3.5.2-1 amd64 [upgradable from: 3.5.1-1]
tzdata/stable-updates,stable 2026b-0 all [upgradable from: 2025a-0]
Listing...
== redis
"""


def test_what_apt_lists_is_read_by_image() -> None:
    assert debian.parsed(LISTED) == {
        "auth": [
            Pending("openssl", "3.5.1-1", "3.5.2-1", security=True),
            Pending("tzdata", "2025a-0", "2026b-0", security=False),
        ],
        "redis": [],
    }


@pytest.mark.parametrize("printed", ["", "== auth\n", "== auth\nopenssl/stable-security 3.5.2-1 amd64 [upgr"])
def test_an_answer_that_was_cut_off_is_not_taken_for_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\ncat >/dev/null\nprintf %s '{printed}'\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="did not arrive whole"):
        debian.pending("base", {"auth": b""})


def test_security_fixes_come_first() -> None:
    found = Packages("apt", {"auth": list(reversed(debian.parsed(LISTED)["auth"])), "base:": []})
    assert text(Base("debian:1", "linux/amd64", why="the registry docker.io does not answer"), found) == [
        "debian:1: it cannot be said whether it moved: the registry docker.io does not answer",
        "  auth  2 newer, 1 of them security fixes: openssl 3.5.1-1 → 3.5.2-1, tzdata 2025a-0 → 2026b-0",
        "  apt   0 newer, 0 of them security fixes",
    ]
    assert age_of("no day", date(2026, 1, 1)) is None


@pytest.mark.parametrize(
    ("manager", "printed", "found"),
    [
        (
            "apk",
            "a-b-1.2-r0 x86_64 {a} (MIT AND X) [upgradable from: a-b-1.1-r9]\nb-1-r0 x86_64 {b} (MIT) [installed]\n",
            [Pending("a-b", "1.1-r9", "1.2-r0", None)],
        ),
        (
            "dnf",  # as version 4 writes it; 5 writes no empty lines
            "== --installed\na 1-1\n\nb 1-1\n\n== --upgrades\na 1:1-3\n\nb 1-2\n\n== --security\na 1:1-2\n\n",
            [Pending("a", "1-1", "1:1-3", security=True), Pending("b", "1-1", "1-2", security=False)],
        ),
        ("dnf", "== --installed\na 1-1\n== --upgrades\n== --security\n", []),
    ],
)
def test_what_other_managers_list_is_read(
    monkeypatch: pytest.MonkeyPatch, manager: str, printed: str, found: list[Pending]
) -> None:
    monkeypatch.setattr(managers, "answer", lambda base, asked, script: printed)
    assert managers.newer("base", manager) == found


@pytest.mark.engine
def test_an_image_needs_neither_apt_nor_a_shell_to_be_looked_into(lab: Lab) -> None:
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  whole: {image: PREFIX/whole, build: {context: whole}}
                  parts: {image: PREFIX/parts, build: {context: parts}}
                  none: {image: PREFIX/none, build: {context: none}}
                """,
            "whole/Dockerfile": "FROM scratch\nCOPY status /var/lib/dpkg/status\n",
            "whole/status": OLD,
            "parts/Dockerfile": "FROM scratch\nCOPY d /var/lib/dpkg/status.d\n",
            "parts/d/tzdata": OLD,
            "parts/d/tzdata.md5sums": "0 /x\n",
            "parts/d/base-files": OLD.replace("tzdata", "base-files"),
            "none/Dockerfile": "FROM scratch\nCOPY f /f\n",
            "none/f": "PREFIX\n",
        }
    )
    lab.build()
    whole, parts, none = (debian.list_of(Engine(), lab.ref(name)) for name in ("whole", "parts", "none"))
    assert whole == OLD.encode()
    assert parts is not None
    assert {each.strip() for each in parts.decode().split("\n\n")} == {
        OLD.strip(),
        OLD.replace("tzdata", "base-files").strip(),
    }
    assert none is None


@pytest.mark.engine
def test_apt_says_what_is_newer(base_image: str) -> None:
    found = debian.pending(base_image, {"old": OLD.encode(), "none": b""})
    assert [each.name for each in found["old"]] == ["tzdata"]
    assert found["old"][0].installed == "2020a-0+deb11u1"
    assert found["none"] == []


@pytest.mark.stack
def test_the_task_shows_all_images(stack_images: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doit", "bases_check", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    shown = json.loads(done.stdout)
    assert shown["own_base"]["days"] >= 0
    [base] = shown["bases"]
    assert base["manager"] == "apt"
    assert {"auth", "memory", "orchestrator", "postgres", "redis"} <= set(base["images"])
    fixes = any(each["security"] for packages in (base["newer"], *base["images"].values()) for each in packages)
    late = shown["own_base"]["days"] > shown["own_base"]["allowed_days"]
    assert (done.returncode != 0) == (fixes or late), done.stderr
