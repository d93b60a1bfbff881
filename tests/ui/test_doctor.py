"""What `doit doctor` finds, and what `--fix` puts in order: nothing that anybody could miss."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.base import lock
from doit_images.pruning import repairs
from doit_images.ui import surroundings
from tests.conftest import Lab
from tests.core.building.test_whole_runs import Shop
from tests.faults.test_state_runs import built

LONG_AGO = time.time() - 3 * 86400
OLD_NAME = f"shop/web:building-{LONG_AGO:.0f}-0a1b2c3d4e5f"
NEW_NAME = f"shop/web:building-{time.time():.0f}-0a1b2c3d4e5f"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with built(tmp_path) as one:
        yield one


def findings(lab: Lab, *words: str, **environ: str) -> dict[str, dict[str, Any]]:
    done = lab.doit("doctor", "--json", *words, **environ)
    assert "Traceback" not in done.stderr, done.stderr
    return {one["subject"]: one for one in json.loads(done.stdout)}


def entry(kind: str, *words: str) -> str:
    line = json.dumps(["+", kind, *words])
    return f"{zlib.crc32(line.encode()):08x} {line}\n"


def gone_pid() -> int:
    gone = subprocess.Popen(["true"])
    gone.wait()
    return gone.pid


@pytest.fixture
def disorder(shop: Shop, tmp_path: Path) -> dict[str, list[Path]]:
    """All that can be put in order, by what doctor calls it."""
    lab, engine = shop
    build = lab.folder / ".doit-images"
    # Of another project: what is damaged or left of this one is seen to when a run begins.
    record, history = build / "compose.yml/images/web.json", build / "other.yml/history/history.sqlite3"
    history.parent.mkdir(parents=True)
    record.write_bytes(record.read_bytes().replace(b"shop/web", b"shop/wed", 1))
    history.write_bytes(os.urandom(5000))
    facts = build / "facts.json"
    facts.unlink()
    facts.mkdir()
    left = tmp_path / "build-0123456789ab"
    left.mkdir()
    journal = build / "other.yml/runs/7-a.json"
    journal.parent.mkdir()
    journal.write_text(entry("path", str(left)) + entry("name", f"unix://{engine.place}", NEW_NAME))
    half = build / f"compose.yml/reads.json.{gone_pid()}.12.partial"
    half.touch()
    os.utime(half, (LONG_AGO, LONG_AGO))
    web = engine._find("shop/web")
    assert web
    web["tags"] += [OLD_NAME, NEW_NAME]
    return {"what runs remember": [record, history, facts], "killed runs": [left, journal, half]}


def test_what_nobody_can_miss_is_put_in_order(shop: Shop, disorder: dict[str, list[Path]]) -> None:
    lab, engine = shop
    before = findings(lab)
    for subject, paths in disorder.items():
        assert before[subject]["verdict"] == "warn", before[subject]
        assert before[subject]["remedy"] == "doit doctor --fix"
        assert before[subject]["fixes"]
        assert all(path.exists() for path in paths), "to look changes nothing"
    assert OLD_NAME in before["temporary names"]["detail"]
    assert {OLD_NAME, NEW_NAME} <= set(engine.tags())

    asked = lab.doit("doctor", "--fix")
    assert asked.returncode != 0
    assert "pass --yes" in asked.stderr
    assert f"take the name {OLD_NAME} away" in asked.stderr
    assert all(path.exists() for paths in disorder.values() for path in paths), "nobody has agreed"

    after = findings(lab, "--fix", "--yes")
    for subject, paths in disorder.items():
        assert (after[subject]["verdict"], after[subject]["fixes"]) == ("ok", []), after[subject]
        assert not [path for path in paths if path.exists()]
    assert not {OLD_NAME, NEW_NAME} & set(engine.tags())
    aside = lab.folder / ".doit-images/other.yml/history/history.sqlite3.damaged"
    assert aside.stat().st_size == 5000, "of a history nothing is thrown away"
    done = lab.doit("build_optimized")
    assert done.stderr.splitlines()[-1] == "3 images fresh"
    assert "damaged" not in done.stderr
    assert set(lab.actions().values()) == {"fresh"}


def test_what_may_be_in_use_or_is_of_others_stays(shop: Shop) -> None:
    lab, engine = shop
    build = lab.folder / ".doit-images"
    facts = build / "facts.json"
    facts.unlink()
    facts.mkdir()
    (facts / "precious").touch()
    writing = build / f"compose.yml/reads.json.{os.getpid()}.12.partial"
    fresh = build / f"compose.yml/reads.json.{gone_pid()}.12.partial"
    for path in (writing, fresh):
        path.touch()
    os.utime(writing, (LONG_AGO, LONG_AGO))
    web = engine._find("shop/web")
    assert web
    web["tags"].append(NEW_NAME)
    done = lab.doit("doctor", "--fix", "--yes")
    assert f"not done: remove {facts}" in done.stderr
    assert (facts / "precious").exists()
    assert writing.exists()
    assert fresh.exists()
    assert NEW_NAME in engine.tags()


def test_a_platform_whose_programs_the_builder_does_not_run_is_found(shop: Shop) -> None:
    lab, _ = shop
    assert "platforms" not in findings(lab)
    found = findings(lab, PLATFORMS="linux/arm64")["platforms"]
    assert (found["verdict"], found["detail"]) == (
        "warn",
        "the builder runs no programs for linux/arm64: a RUN there will fail",
    )
    assert "qemu-user-static" in found["remedy"]


@pytest.mark.parametrize("name", ["doit-images-b", "vllm-swarm-b"])
def test_a_lock_goes_that_nobody_holds_or_used_for_a_day(tmp_path: Path, name: str) -> None:
    names = ("doit-images-a", name, "doit-images-c", "d")
    held, free, fresh, other = (tmp_path / f"{name}.lock" for name in names)
    with lock.exclusive(held):
        for path in (free, fresh, other):
            path.touch()
        for path in (held, free, other):
            os.utime(path, (LONG_AGO, LONG_AGO))
        (repair,) = repairs.locks(tmp_path)
        assert str(free) in repair.what
        with lock.shared(free, lambda: None):
            repair.do()
            assert free.exists(), "somebody took it meanwhile"
        repair.do()
    assert sorted(tmp_path.iterdir()) == sorted([held, fresh, other])


def test_a_bundle_of_certificates_counts_only_as_a_secret(shop: Shop) -> None:
    lab, _ = shop
    bundle = lab.folder / "ca.pem"
    bundle.touch()
    assert "no image gets BUILD_CA_CERT" in findings(lab, BUILD_CA_CERT=str(bundle))["settings"]["detail"]
    text = (
        (lab.folder / "compose.yml")
        .read_text()
        .replace("build: {context: base}", "build: {context: base, secrets: [a]}")
    )
    lab.write({"compose.yml": f"{text}\nsecrets: {{a: {{file: {bundle}}}}}\n"})
    assert f"steps that mount it trust {bundle}" in findings(lab, BUILD_CA_CERT=str(bundle))["settings"]["detail"]


def test_a_registry_and_a_redis_that_do_not_answer_are_found(shop: Shop) -> None:
    lab, _ = shop
    found = findings(lab, CACHE_REGISTRY="localhost:1", REDIS_URL="redis://:s3cret-word@127.0.0.1:1/0")
    for subject, setting in {"shared registry": "CACHE_REGISTRY", "redis": "REDIS_URL"}.items():
        assert found[subject]["verdict"] == "warn"
        assert setting in found[subject]["remedy"]
    assert "s3cret-word" not in json.dumps(found)


def test_a_healthy_machine_has_nothing_to_put_in_order(shop: Shop) -> None:
    lab, _ = shop
    done = lab.doit("doctor", "--fix")
    assert "yes" not in done.stderr, "nobody is asked"
    assert not [one for one in findings(lab).values() if one["fixes"] and one["subject"] != "locks"]


def test_what_surrounds_a_run_is_looked_at(shop: Shop, tmp_path: Path) -> None:
    lab, _ = shop
    before = findings(lab)
    for subject in ("git", "home", "temporary files", "clock"):
        assert before[subject]["verdict"] == "ok", before[subject]
    ahead = lab.folder / "web" / "Dockerfile"
    os.utime(ahead, (time.time() + 86400, time.time() + 86400))
    wrong = findings(lab, HOME="", TMPDIR=str(tmp_path / "nothing"))
    for subject, word in {"home": "HOME is not set", "temporary files": "TMPDIR is", "clock": str(ahead)}.items():
        assert wrong[subject]["verdict"] == "warn", wrong[subject]
        assert word in wrong[subject]["detail"]
        assert wrong[subject]["remedy"]


def test_a_home_that_is_none(tmp_path: Path) -> None:
    for place, word in (("", "is not set"), (str(tmp_path / "nothing"), "not a folder")):
        assert word in surroundings.home({"HOME": place}).detail
    assert surroundings.home({"HOME": str(tmp_path)}).verdict == "ok"
    others = "may not be written" if os.geteuid() else "another user's"
    if not os.geteuid():
        os.chown(tmp_path, 12345, 12345)
    assert others in surroundings.home({"HOME": str(tmp_path) if not os.geteuid() else "/"}).detail


def test_git_is_missed_where_there_is_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert surroundings.git(tmp_path).verdict == "ok"
    (tmp_path / ".git").touch()
    finding = surroundings.git(tmp_path)
    assert (finding.verdict, finding.remedy) == ("warn", "install git")


def test_variables_that_no_build_gets() -> None:
    assert [*surroundings.variables({"BUILDX_BUILDER": "b", "BUILDX_GIT_LABELS": "0"})] == []
    (finding,) = surroundings.variables({"BUILDX_GIT_LABELS": "full", "BUILDX_NO_DEFAULT_LOAD": "1"})
    assert finding.detail.startswith("BUILDX_GIT_LABELS, BUILDX_NO_DEFAULT_LOAD: no build gets")
