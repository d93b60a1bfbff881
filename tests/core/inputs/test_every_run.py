"""`build.no_cache` and `build.pull`: what is done in every run, once, and that children and fingerprints see it."""

from __future__ import annotations

import pytest

from tests import loopback
from tests.conftest import Lab, docker, file_in

pytestmark = pytest.mark.engine

DUE = "`no_cache` is set: it is built in every run"


def content(lab: Lab, name: str) -> str:
    return file_in(lab.ref(name), "/stamp", lab.folder.parent)


def test_what_uses_no_cache_is_built_once_in_every_run_and_its_children_on_it(lab: Lab, busybox: str) -> None:
    # A base of its own: an engine notes of an image when it last got any name, and the other tests name busybox.
    external = f"{lab.prefix}/external:1"
    lab.nameless.add(external)
    stdin = f"FROM {busybox}\nLABEL of={lab.prefix}\n".encode()
    assert docker("buildx", "build", "--quiet", "--tag", external, "-", stdin=stdin).returncode == 0
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  base: {image: PREFIX/base, build: {context: base, no_cache: true}}
                  again: {image: PREFIX/base, build: {context: base, no_cache: true}}
                  app: {image: PREFIX/app, build: {context: app, additional_contexts: {base: "service:base"}}}
                  other: {image: PREFIX/other, build: {context: other, additional_contexts: {base: "service:base"}}}
                """,
            "base/Dockerfile": f"FROM {external}\nRUN cat /proc/sys/kernel/random/uuid > /stamp; echo PREFIX\n",
            "app/Dockerfile": "FROM base\nRUN cp /stamp /app\n",
            "other/Dockerfile": f"FROM {external}\nCOPY --from=base /stamp /stamp\n",
        }
    )
    first = lab.build()
    before = content(lab, "base")
    plan = lab.plan()
    assert {name: one["action"] for name, one in plan.items()} == dict.fromkeys(plan, "build")
    assert plan["base"]["reasons"] == [DUE] or plan["again"]["reasons"] == [DUE]
    second = lab.build()
    assert first == second, "one of the two services, and both children"
    assert len(second) == 3
    after = content(lab, "base")
    assert after != before
    assert content(lab, "app") == content(lab, "other") == after
    built = lab.doit("history", "--json").stdout.count('"action": "build"')
    assert built == 6, "never twice in a run"


def test_a_base_that_moved_is_pulled_and_counted(lab: Lab, busybox: str) -> None:
    lab.write({"compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: c, pull: true}}}\n"})
    with loopback.registry(lab.folder.parent / "registry") as service:
        base = f"{service.address}/{lab.prefix}/outside:1"
        lab.nameless.add(base)
        lab.write({"c/Dockerfile": f"FROM {base}\nCOPY f /f\n", "c/f": "PREFIX\n"})
        publish(base, "one")
        assert lab.build() == {"app": "built"}
        assert content(lab, "app") == "one\n"
        docker("tag", base, f"{lab.prefix}/old:1")
        publish(base, "two")
        docker("tag", f"{lab.prefix}/old:1", base)  # what moved is out there, not here
        plan = lab.plan()["app"]
        assert (plan["action"], plan["stale"]) == ("fresh", False), "a plan asks no registry"
        assert "its bases are pulled first" in plan["reasons"][0]
        assert lab.build() == {"app": "built"}
        assert content(lab, "app") == "two\n"
        assert lab.build() == {}, "pulled, and nothing moved"
    before = lab.image_id(lab.ref("app"))
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert f"app: its base {base} cannot be pulled, which `build.pull` asks for: " in done.stderr
    assert "without `pull: true` it is built on what the engine holds" in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.image_id(lab.ref("app")) == before


def publish(ref: str, text: str) -> None:
    stdin = f"FROM tst-busybox:1\nRUN echo {text} > /stamp\n".encode()
    assert docker("buildx", "build", "--quiet", "--tag", ref, "-", stdin=stdin).returncode == 0
    assert docker("push", ref).returncode == 0


def test_a_base_pinned_by_digest_is_not_pulled_again(lab: Lab, busybox: str) -> None:
    lab.write({"compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: c, pull: true}}}\n"})
    with loopback.registry(lab.folder.parent / "registry") as service:
        base = f"{service.address}/{lab.prefix}/outside:1"
        publish(base, "one")
        pinned = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", base).stdout.strip()
        lab.nameless |= {base, pinned}
        lab.write({"c/Dockerfile": f"FROM {pinned}\n"})
        assert lab.build() == {"app": "built"}
    assert lab.build() == {}
