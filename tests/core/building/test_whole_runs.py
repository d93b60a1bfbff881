"""Whole runs of doit on an engine that only pretends (``tests/pretended.py``): what is planned, done, said and kept."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pretended
from tests.conftest import Lab
from tests.pretended import PretendedEngine
from tests.waiting import patience

FILES = {
    "compose.yml": """
        name: shop
        services:
          base: {image: shop/base, build: {context: base}, scale: 0}
          web: {image: shop/web, build: {context: web, additional_contexts: {base: "service:base"}}}
          worker: {image: shop/worker, build: {context: worker}}
        """,
    "base/Dockerfile": "FROM outside:1\nCOPY f /\n",
    "base/f": "1\n",
    "web/Dockerfile": "FROM outside:1 AS early\nCOPY f /\nFROM base\nCOPY --from=early /f /\nCOPY f /\n",
    "web/f": "1\n",
    "worker/Dockerfile": "FROM scratch\nCOPY f /\n",
    "worker/f": "1\n",
}


Shop = tuple[Lab, PretendedEngine]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Shop]:
    """A project whose engine only pretends."""
    lab = Lab(folder / "shop")
    lab.folder.mkdir()
    lab.write(FILES)
    (folder / "docker").mkdir()
    with pretended.engine(folder / "docker") as (engine, environ):
        # Another test's project is no other checkout that needs these images.
        lab.environ = {**environ, "BUILD_JOBS": "2", "XDG_STATE_HOME": str(folder / "state")}
        yield lab, engine


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A project whose images are all there."""
    with opened(tmp_path_factory.mktemp("built")) as (lab, engine):
        engine.cache.append({"ID": "a", "Type": "regular", "Size": 7, "CreatedAt": "2026-01-01T00:00:00Z"})
        lab.build()
        yield lab


def test_all_is_built_then_fresh_then_only_what_an_edit_means(shop: Shop) -> None:
    lab, engine = shop
    assert {name: one["action"] for name, one in lab.plan().items()} == dict.fromkeys(
        ("base", "web", "worker"), "build"
    )
    assert lab.build() == dict.fromkeys(("base", "web", "worker"), "built")
    assert "outside:1" in engine.tags(), "a base from outside is pulled first"
    assert not [tag for tag in engine.tags() if "building" in tag or "parent-" in tag], "no temporary name is left"
    assert lab.build() == {}
    lab.write({"web/f": "2\n"})
    assert lab.plan()["web"]["reasons"] == ["`web/f` changed"]
    assert lab.build() == {"web": "built"}
    lab.write({"web/f": "1\n"})
    assert lab.actions()["web"] == "retag"
    assert lab.build() == {"web": "retagged"}


def test_an_image_that_was_removed_is_built_again_and_its_name_put_right(shop: Shop) -> None:
    lab, engine = shop
    lab.build()
    for image in [image for image in engine.images.values() if "shop/worker:latest" in image["tags"]]:
        del engine.images[image["id"]]
    assert lab.build() == {"worker": "built"}
    for image in engine.images.values():
        image["tags"] = [tag for tag in image["tags"] if tag != "shop/web:latest"]
    assert lab.build() == {"web": "retagged"}


def test_an_edit_during_the_build_is_not_taken_and_built_again(shop: Shop) -> None:
    lab, _ = shop
    lab.write({"worker/during-build": "f\n", "worker/Dockerfile.dockerignore": "during-build\n"})
    done = lab.doit("build_optimized:worker")
    assert done.returncode == 0, done.stderr
    assert "while it was built, building again (1 of 2)" in done.stderr
    assert lab.actions()["worker"] == "fresh"


def test_a_step_that_fails_is_explained_and_holds_up_only_what_needs_it(shop: Shop) -> None:
    lab, _ = shop
    lab.write({"base/Dockerfile": "FROM outside:1\nRUN false\n"})
    done = lab.doit("-c", "build_optimized")
    assert done.returncode != 0
    assert "1 failed (base)" in done.stderr
    assert "web: `base` failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.actions()["worker"] == "fresh"
    assert json.loads(lab.doit("history", "--json", "base").stdout)[0]["status"] == "failed"


def test_the_doctor_tells_scripts_what_it_finds(shop: Shop) -> None:
    lab, engine = shop
    found = {one["subject"]: one for one in json.loads(lab.doit("doctor", "--json").stdout)}
    assert found["engine"]["verdict"] == "ok"
    engine.close()
    engine.place.unlink()
    done = lab.doit("doctor", "--json")
    assert done.returncode != 0
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert found["engine"]["verdict"] == "fail"
    assert "no Docker engine answers" in found["engine"]["detail"]
    assert found["engine"]["remedy"]


def test_an_image_that_copies_passwords_is_refused_and_doctor_says_so(shop: Shop) -> None:
    lab, _ = shop
    assert lab.doit("plan").returncode == 0
    lab.write({"worker/Dockerfile": "FROM scratch\nCOPY . /\n", "worker/.env": "A=1\n", ".env": "A=1\n"})
    assert lab.doit("plan").returncode == 0, "one of its own, which no Compose reads"
    lab.write(
        {"compose.yml": FILES["compose.yml"].replace("context: worker", "context: ., dockerfile: worker/Dockerfile")}
    )
    remedy = f"put a line .env into {lab.folder}/.dockerignore, or !.env if that is what you want"
    refused = f"worker/Dockerfile:2: COPY takes .env, which may hold passwords ({remedy})"
    for task in ("plan", "build_optimized"):
        done = lab.doit(task)
        assert done.returncode == 1
        assert refused in done.stderr
    [finding] = [each for each in json.loads(lab.doit("doctor", "--json").stdout) if each["subject"] == "project"]
    assert (finding["verdict"], finding["detail"]) == ("fail", f"worker: {refused}")
    lab.write({".dockerignore": ".env\n"})
    assert lab.doit("plan").returncode == 0


def test_a_rebuild_uses_no_cache_and_says_so(shop: Shop) -> None:
    lab, _ = shop
    lab.build()
    done = lab.doit("rebuild_optimized")
    assert done.returncode == 0, done.stderr
    assert "3 built" in done.stderr


def test_a_parent_of_another_content_is_a_reason_and_one_of_the_same_is_none(shop: Shop) -> None:
    lab, _ = shop
    lab.build()
    lab.write({"base/f": "2\n"})
    assert lab.actions() == {"base": "build", "web": "build", "worker": "fresh"}
    assert lab.build() == {"base": "built", "web": "built"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan", "worker"),
        ("plan web --inputs", "web/f"),
        ("plan --bake", '"target"'),
        ("history", "worker"),
        ("history --show 1", "COPY"),
        ("history web --json", '"web"'),
        ("cache_stats", "image"),
        ("cache_stats --json", "{"),
        ("cache_prune --dry-run", ""),
        ("cache_prune --dry-run --all", ""),
        ("cache_init", ""),
        ("build_report", ""),
        ("ci_build", ""),
        ("info build_optimized:web", "web/f"),
    ],
)
def test_what_is_shown_of_it(built: Lab, command: str, said: str) -> None:
    done = built.doit(*command.split())
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_a_damaged_history_fails_no_build(shop: Shop) -> None:
    lab, _ = shop
    lab.build()
    (lab.folder / ".doit-images/compose.yml/history/history.sqlite3").write_text("no database at all, but long enough")
    lab.write({"worker/f": "2\n"})
    done = lab.doit("build_optimized")
    assert done.returncode == 0, done.stderr
    assert "the build history was damaged; it is kept as history.sqlite3.damaged, and a new one begins" in done.stderr
    assert lab.actions()["worker"] == "fresh"


def test_the_stack_comes_up_is_shown_and_goes(shop: Shop) -> None:
    lab, engine = shop
    up = lab.doit("up_optimized")
    assert up.returncode == 0, up.stderr
    assert {name: one["health"] for name, one in engine.services.items()} == {"web": "healthy", "worker": "healthy"}
    shown = lab.doit("ps_optimized", "--json")
    assert shown.returncode == 0, shown.stderr
    listed = json.loads(shown.stdout)
    assert {one["service"]: one["state"] for one in listed} == {"web": "running", "worker": "running"}
    assert "web" in lab.doit("ps_optimized").stdout
    assert "worker says hello" in lab.doit("logs_optimized", "worker").stdout
    again = lab.doit("up_optimized")
    assert again.returncode == 0, again.stderr
    down = lab.doit("down_optimized")
    assert "removed shop: 2 containers" in down.stderr
    assert not engine.services
    assert "nothing of shop is up" in lab.doit("down_optimized").stderr


def test_a_service_that_does_not_get_well_is_named_with_its_last_lines(shop: Shop) -> None:
    lab, _ = shop
    text = (lab.folder / "compose.yml").read_text()
    (lab.folder / "compose.yml").write_text(f"{text}  sick: {{image: shop/sick, build: {{context: worker}}}}\n")
    done = lab.doit("up_optimized")
    assert done.returncode != 0
    assert "sick: unhealthy" in done.stderr
    assert "its last health check said: sick is unhealthy" in done.stderr
    assert "    sick says hello" in done.stderr


def test_what_nothing_needs_is_pruned_and_images_stay(shop: Shop) -> None:
    lab, engine = shop
    lab.build()
    lab.write({"worker/f": "2\n"})
    lab.build()
    done = lab.doit("cache_prune", "--yes", "--all")
    assert done.returncode == 0, done.stderr
    assert len([tag for tag in engine.tags() if tag.startswith("shop/worker:in-")]) == 1
    assert set(lab.actions().values()) == {"fresh"}


def test_the_doctor_says_what_is_too_old(shop: Shop) -> None:
    done = shop[0].doit("doctor")
    assert done.returncode != 0
    assert "v0.13 is old" in done.stdout
    assert "shop: 3 images" in done.stdout
    assert done.stderr == "this machine cannot build yet: compose\n"


def test_a_run_that_waits_for_a_registry_that_hangs_is_interrupted(shop: Shop) -> None:
    lab, _ = shop
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        with lab.start("plan", CACHE_REGISTRY=f"localhost:{server.getsockname()[1]}") as doit:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)  # it has asked, and nobody will answer
                doit.send_signal(signal.SIGINT)
                assert doit.wait(patience()) == 128 + signal.SIGINT
            assert doit.stdout
            said = doit.stdout.read()
    assert "Traceback" not in said
    assert "in time" not in said, "it has not waited for that"
