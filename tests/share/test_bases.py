"""Bases that move in their registries: what is said of them, what is built again, and what is pulled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.newer_engine import newer_engine
from benchmarks.temporary_engine import TemporaryEngine
from doit_images.core.base.references import beside
from doit_images.share.bases import Bases
from tests import loopback
from tests.conftest import Lab, docker

pytestmark = pytest.mark.engine

# What BuildKit runs to have an SBOM (its docs/attestations/sbom-protocol.md): here of /lib/apk/db/installed.
SCANNER = r"""
FROM tst-busybox:1
COPY --chmod=755 <<'EOF' /scan
#!/bin/sh
awk -F: 'BEGIN { print "{\"_type\":\"https://in-toto.io/Statement/v0.1\"," \
    "\"predicateType\":\"https://spdx.dev/Document\",\"subject\":[],\"predicate\":{" \
    "\"spdxVersion\":\"SPDX-2.3\",\"packages\":[" }
  /^P:/ { name = $2 } /^V:/ { printf "%s{\"name\":\"%s\",\"versionInfo\":\"%s\"}", more, name, $2; more = "," }
  END { print "]}}" }' "$BUILDKIT_SCAN_SOURCE/lib/apk/db/installed" >"$BUILDKIT_SCAN_DESTINATION/own.spdx.json"
EOF
ENTRYPOINT ["/bin/sh", "/scan"]
"""

ALPINE = """
FROM scratch
LABEL org.opencontainers.image.version={0} kept=1
COPY <<EOF /etc/alpine-release
{0}
EOF
COPY <<EOF /etc/os-release
ID=alpine
VERSION_ID={0}
EOF
COPY <<EOF /lib/apk/db/installed
P:musl
V:{0}-r0
A:x86_64
EOF
"""

TWO = """
ARG TARGETARCH
FROM scratch AS amd64
COPY <<EOF /f
own
EOF
FROM scratch AS arm64
COPY <<EOF /f
other {}
EOF
FROM ${{TARGETARCH}}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[loopback.Service]:
    with loopback.registry(tmp_path / "registry") as service:
        yield service


class Outside:
    """Bases in a registry of the test's own; what moves there does not move here."""

    def __init__(self, lab: Lab, server: loopback.Service) -> None:
        self._lab, self._server = lab, server

    def ref(self, name: str) -> str:
        return f"{self._server.address}/{self._lab.prefix}/{name}:1"

    def publish(self, name: str, dockerfile: str) -> str:
        """Let a base be in the registry; gives its digest. What the engine holds under this name stays."""
        ref, here = self.ref(name), self._lab.image_id(self.ref(name))
        self._lab.nameless.add(ref)
        done = docker("buildx", "build", "--quiet", "--tag", ref, "-", stdin=dockerfile.encode())
        assert done.returncode == 0, done.stderr
        assert docker("push", ref).returncode == 0
        pushed = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", ref).stdout.strip()
        docker("image", "rm", ref)
        if here:
            docker("tag", here, ref)
        return pushed.partition("@")[2]


@pytest.fixture
def outside(lab: Lab, server: loopback.Service) -> Outside:
    return Outside(lab, server)


@pytest.fixture(scope="module")
def newest(engine: None) -> Iterator[TemporaryEngine]:
    """An engine whose BuildKit pushes indexes with attestations, and of several platforms."""
    with newer_engine("tst-bases-", containerd_store=True) as one:
        yield one


def push(patches: pytest.MonkeyPatch, engine: TemporaryEngine, ref: str, dockerfile: str, option: str) -> None:
    with patches.context() as patch:
        for name, value in engine.environ.items():
            patch.setenv(name, value)
        argv = ["buildx", "build", "--provenance=false", option, "--push", "--tag", ref, "-"]
        done = docker(*argv, stdin=dockerfile.encode())
    assert done.returncode == 0, done.stderr


def test_packages_are_compared_by_the_sboms_that_buildkit_attested(
    lab: Lab, busybox: str, outside: Outside, newest: TemporaryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.publish("scanner", SCANNER)
    lab.write(
        {
            "compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: app}}\n",
            "app/Dockerfile": f"FROM {outside.ref('alpine')}\n",
        }
    )
    sbom, ref = f"--sbom=generator={outside.ref('scanner')}", outside.ref("alpine")
    push(monkeypatch, newest, ref, ALPINE.format("1.2"), sbom)
    assert lab.doit("build_optimized", "--pull").returncode == 0, "one that is not here yet is brought"
    lab.nameless.add(ref)
    push(monkeypatch, newest, ref, ALPINE.format("1.3").replace("P:musl", "P:busybox\nV:1\n\nP:musl"), sbom)
    text = lab.doit("plan", "--pull").stdout
    assert "  packages  busybox 1 added, musl 1.2-r0 → 1.3-r0\n  builds    app\n" in text
    push(monkeypatch, newest, ref, ALPINE.format("1.2") + "LABEL only=this\n", sbom)
    assert "  packages  the same\n" in lab.doit("plan", "--pull").stdout


def test_an_index_that_is_another_moves_only_the_platform_whose_image_is(
    lab: Lab, outside: Outside, newest: TemporaryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, both = outside.ref("two"), "--platform=linux/amd64,linux/arm64"
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  own: {image: PREFIX/own, build: own}
                  other: {image: PREFIX/other, build: other}
                """,
            "own/Dockerfile": f"FROM {ref}\nLABEL a=PREFIX\n",
            "other/Dockerfile": f"FROM --platform=linux/arm64 {ref} AS o\nFROM scratch\nCOPY --from=o /f /\n",
        }
    )
    push(monkeypatch, newest, ref, TWO.format("1"), both)
    assert lab.build() == {"own": "built", "other": "built"}
    foreign = beside(ref, "linux/arm64")
    lab.nameless |= {ref, foreign}
    before = lab.image_id(foreign)
    push(monkeypatch, newest, ref, TWO.format("2"), both)
    bases = {one["platform"]: one for one in json.loads(lab.doit("plan", "--pull", "--json").stdout)["bases"]}
    assert bases["linux/amd64"]["state"] == "same"
    assert (bases["linux/arm64"]["state"], bases["linux/arm64"]["images"]) == ("moved", ["other"])
    assert lab.build("--pull") == {"other": "built"}
    assert lab.image_id(foreign) not in ("", before)


def test_docker_hub_is_asked_by_its_mirrors_as_the_engine_does(outside: Outside, server: loopback.Service) -> None:
    digest = outside.publish("alpine", ALPINE.format("3.20"))
    name = outside.ref("alpine").removeprefix(f"{server.address}/")
    info = {"RegistryConfig": {"Mirrors": ["http://localhost:1/", f"http://{server.address}/"]}}
    nothing: Any = SimpleNamespace(base=lambda ref, platform: None)
    run: Any = SimpleNamespace(own_base=None, engine=SimpleNamespace(info=lambda: info), local_images=nothing)
    read: Any = SimpleNamespace(read_for={name: ("linux/amd64",)})
    [base] = Bases(run).ask([read])
    assert base.there
    assert (base.there.digest, base.there.labels["kept"]) == (digest, "1")


def project(lab: Lab, outside: Outside) -> tuple[str, str]:
    """Images on bases that are named in each way; gives the digests of the first base and of one that is pinned."""
    first = outside.publish("alpine", ALPINE.format("3.20"))
    outside.publish("copied", "FROM scratch\nCOPY <<EOF /stamp\none\nEOF\n")
    outside.publish("named", "FROM scratch\nCOPY <<EOF /named\none\nEOF\n")
    pinned = outside.publish("pinned", "FROM scratch\nCOPY <<EOF /pinned\none\nEOF\n")
    lab.write(
        {
            "compose.yml": f"""
                name: PREFIX
                services:
                  on: {{image: PREFIX/on, build: on}}
                  child: {{image: PREFIX/child, build: child}}
                  copies: {{image: PREFIX/copies, build: copies}}
                  names:
                    image: PREFIX/names
                    build: {{context: names, additional_contexts: {{n: "docker-image://{outside.ref("named")}"}}}}
                  pins: {{image: PREFIX/pins, build: pins}}
                """,
            "on/Dockerfile": f"FROM {outside.ref('alpine')}\n",
            "child/Dockerfile": "FROM PREFIX/on\nLABEL a=PREFIX\n",
            "copies/Dockerfile": f"FROM scratch\nCOPY --from={outside.ref('copied')} /stamp /\n",
            "names/Dockerfile": "FROM scratch\nCOPY --from=n /named /\n",
            "pins/Dockerfile": f"FROM {outside.ref('pinned').removesuffix(':1')}@{pinned}\nLABEL a=PREFIX\n",
        }
    )
    assert set(lab.build()) == {"on", "child", "copies", "names", "pins"}
    return first, pinned


def test_a_plan_says_which_bases_moved_and_a_build_takes_just_these(
    lab: Lab, outside: Outside, server: loopback.Service
) -> None:
    first, _ = project(lab, outside)
    second = outside.publish("alpine", ALPINE.format("3.21"))
    outside.publish("named", "FROM scratch\nCOPY <<EOF /named\ntwo\nEOF\n")
    outside.publish("pinned", "FROM scratch\nCOPY <<EOF /pinned\ntwo\nEOF\n")
    held = lab.image_id(outside.ref("alpine"))
    assert set(lab.actions().values()) == {"fresh"}

    shown = json.loads(lab.doit("plan", "--pull", "--json").stdout)
    actions = {one["name"]: one["action"] for one in shown["images"]}
    assert actions == {"on": "build", "child": "build", "names": "build", "copies": "fresh", "pins": "fresh"}
    bases = {one["ref"].rpartition("/")[2]: one for one in shown["bases"]}
    states = {name.partition("@")[0]: one["state"] for name, one in bases.items()}
    assert states == {"alpine:1": "moved", "named:1": "moved", "copied:1": "same", "pinned": "stays"}
    alpine = bases["alpine:1"]
    assert (alpine["here"]["digest"], alpine["there"]["digest"]) == (first, second)
    assert alpine["here"]["created"] < alpine["there"]["created"] or alpine["here"]["created"][:4] == "2026"
    version = {"name": "org.opencontainers.image.version", "before": "3.20", "now": "3.21"}
    assert (alpine["labels"], alpine["images"]) == ([version], ["on", "child"])
    assert alpine["packages"] is None
    assert alpine["unknown"] == "no SBOM is attested to the image here and the one in the registry"
    assert lab.image_id(outside.ref("alpine")) == held, "a plan pulls nothing"

    text = lab.doit("plan", "--pull", "on").stdout
    assert f"moved: {first} → {second}" in text
    assert "  label     org.opencontainers.image.version 3.20 → 3.21" in text
    assert "named" not in text, "that is no base of what was asked for"

    done = lab.doit("build_optimized", "--pull")
    assert done.returncode == 0, done.stderr
    assert f"moved: {first} → {second}" in done.stderr
    assert {line.split()[1] for line in done.stderr.splitlines() if line.startswith("built ")} == {
        "on", "child", "names"
    }  # fmt: skip
    here = docker("image", "inspect", "--format", "{{.RepoDigests}}", outside.ref("alpine")).stdout
    assert second in here
    assert "nothing" not in lab.doit("plan", "--pull").stderr
    assert set(lab.actions().values()) == {"fresh"}
    assert "fresh" in lab.doit("build_optimized", "--pull").stderr, "nothing moved"


def test_a_base_whose_registry_does_not_answer_fails_a_build_and_no_plan(
    lab: Lab, outside: Outside, server: loopback.Service
) -> None:
    project(lab, outside)
    lab.write({"copies/Dockerfile": f"FROM scratch\nCOPY --from={outside.ref('copied')} /stamp /other\n"})
    server.kill()
    done = lab.doit("plan", "--pull")
    assert done.returncode == 0, done.stderr
    why = f"it cannot be said whether it moved: the registry {server.address} does not answer"
    assert f"{outside.ref('alpine')}: {why}" in done.stdout
    done = lab.doit("build_optimized", "--pull")
    assert done.returncode != 0
    assert f"{outside.ref('alpine')}: the registry {server.address} does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.actions()["copies"] == "build", "nothing was built"


def test_of_bases_that_are_not_debian_is_said_what_is_known_and_by_whom(
    lab: Lab, busybox: str, outside: Outside
) -> None:
    """The programs are stand-ins for apk and dnf, in whose formats they answer; no base is Debian's."""
    program = "FROM tst-busybox:1\nCOPY --chmod=755 <<'EOF' {}\n#!/bin/sh\n{}\nEOF\n"
    lists = "[ $1 != list ] || echo 'musl-1.3-r0 x86_64 {musl} (MIT) [upgradable from: musl-1.2-r0]'"
    says = 'case "$*" in *makecache*) echo Updating;; *installed) echo bash 5.1-1;; *) echo bash 5.2-1;; esac'
    bases = {
        "alpine": program.format("/sbin/apk", lists),
        "offline": program.format("/sbin/apk", "echo temporary error >&2; exit 1"),
        "fedora": program.format("/usr/bin/dnf", says),
        "micro": "FROM scratch\nCOPY <<EOF /etc/os-release\nID=fedora\nEOF\n",
        "distroless": "FROM scratch\nCOPY <<EOF /var/lib/dpkg/status.d/tzdata\nPackage: tzdata\nVersion: 1\nEOF\n",
    }
    services = []
    for name, dockerfile in bases.items():
        outside.publish(name, dockerfile)
        services.append(f"  {name}: {{image: PREFIX/{name}, build: {name}}}\n")
        lab.write({f"{name}/Dockerfile": f"FROM {outside.ref(name)}\nLABEL a=PREFIX\n"})
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n{''.join(services)}"})
    lab.build()

    done = lab.doit("bases_check", "--json")
    assert done.returncode == 1, "a fix is missing"
    assert "1 security fixes are not in the images" in done.stderr
    found = {one["ref"].rpartition("/")[2][:-2]: one for one in json.loads(done.stdout)["bases"]}
    assert {name: (one["state"], one["manager"]) for name, one in found.items()} == {
        "alpine": ("same", "apk"),
        "offline": ("same", None),
        "fedora": ("same", "dnf"),
        "micro": ("same", None),
        "distroless": ("same", None),
    }
    musl = {"name": "musl", "installed": "1.2-r0", "available": "1.3-r0", "security": None}
    assert found["alpine"]["newer"] == [musl]
    bash = {"name": "bash", "installed": "5.1-1", "available": "5.2-1", "security": True}
    assert found["fedora"]["newer"] == [bash]
    assert found["offline"]["packages_why"] == "apk cannot be asked what is newer: temporary error"
    for name in ("micro", "distroless"):
        assert found[name]["packages_why"] == "it has no apt, apk or dnf, so its registry's digest alone is known"

    outside.publish("fedora", "FROM scratch\nCOPY <<EOF /f\nEOF\n")
    done = lab.doit("bases_check")
    assert f"{outside.ref('fedora')} (linux/amd64) moved: sha256:" in done.stdout
    assert "  apk  1 newer: musl 1.2-r0 → 1.3-r0\n" in done.stdout
    assert "(doit build_optimized --pull)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "apt-get" not in done.stdout + done.stderr
