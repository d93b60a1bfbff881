"""What a stranger's pull request may do: read, and leave every cache of the repository as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.base import settings
from doit_images.core.base.forks import fork
from doit_images.core.buildkit import backends

Event = Callable[..., dict[str, str]]


@pytest.fixture
def event(tmp_path: Path) -> Event:
    """The environment of GitHub's Actions for a pull request from a repository's branch `main`."""

    def made(head: Any, name: str = "pull_request") -> dict[str, str]:
        file = tmp_path / f"{head}-{name}.json".replace("/", "-")
        repo = None if head is None else {"full_name": head, "fork": True}
        login = (head or "gone/app").partition("/")[0]
        base = {"repo": {"full_name": "team/app"}}
        file.write_text(json.dumps({"pull_request": {"head": {"repo": repo, "user": {"login": login}}, "base": base}}))
        return {"GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": str(file), "GITHUB_HEAD_REF": "main"}

    return made


def test_whose_fork_it_is(event: Event, tmp_path: Path) -> None:
    assert fork(event("team/app")) == ""
    assert fork(event("ann/app")) == "ann"
    assert fork(event("ann/app", "pull_request_target")) == "ann"
    assert fork(event(None)) == "gone", "the fork was deleted since"
    assert fork({"GITHUB_EVENT_NAME": "push", "GITHUB_REF_NAME": "main"}) == ""
    broken = tmp_path / "broken"
    for text in ("", "{", "[]", '{"pull_request": 1}', "[" * 9999):
        broken.write_text(text)
        assert fork({"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(broken)}) == "unknown"
    assert fork({"CI_MERGE_REQUEST_PROJECT_PATH": "a/b", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "a/b"}) == ""


def test_a_forks_main_is_another_cache_than_ours(event: Event, tmp_path: Path) -> None:
    def ref(environ: dict[str, str], named: str = "") -> str:
        return backends.cache_ref("reg", "app", backends.branch_of(tmp_path, tuple(environ.items()), named))

    assert ref(event("team/app")) == "reg/app:cache-main"
    strangers = {ref(event("ann/app")), ref(event("bob/app")), ref(event(None)), ref(event("ann/app"), "release")}
    assert len(strangers) == 4
    assert not strangers & {"reg/app:cache-main", "reg/app:cache-release"}


def test_a_fork_writes_nothing_whatever_the_env_file_says(event: Event, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CACHE_WRITE=1\n")
    assert settings.load(tmp_path, event("team/app")).cache_write
    assert not settings.load(tmp_path, event("ann/app")).cache_write
    assert settings.load(tmp_path, event("ann/app") | {"CACHE_WRITE": "1"}).cache_write, "the workflow itself says so"
