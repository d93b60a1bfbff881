"""Images of several platforms: built by a dedicated builder, held by both image stores, shared whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from doit_images.core.planning.several import problem
from tests import loopback
from tests.conftest import Lab, docker, printed
from tests.core.planning.test_plan import BASE

BOTH = ("linux/amd64", "linux/arm64")
FILES = {
    "compose.yml": """
    services:
      base: {image: PREFIX/base, build: {context: base, platforms: [linux/arm64, linux/amd64]}}
      app:
        image: PREFIX/app
        build: {context: app, platforms: [linux/amd64, linux/arm64], additional_contexts: {base: "service:base"}}
      one: {image: PREFIX/one, build: {context: one, additional_contexts: {base: "service:base"}}}
    """,
    "base/Dockerfile": """
    FROM scratch
    COPY mark /mark
    ARG TARGETARCH
    COPY $TARGETARCH /bin/sh
    ENV WHICH=$TARGETARCH
    """,
    "base/arm64": "no program\n",
    # containerd's store of Engine 28 does not fetch a layer of which it has the content, packed otherwise, and then
    # holds an image that is not whole: no two tests share a layer.
    "base/mark": "PREFIX",
    "app/Dockerfile": "FROM base\nCOPY f /f\n",
    "app/f": "1",
    "one/Dockerfile": "FROM base\nCOPY f /f\n",
    "one/f": "1",
}


TWO_OF_BOTH = FILES["compose.yml"].partition("      one:")[0]


@pytest.mark.parametrize(
    ("wanted", "engine", "dedicated", "containerd", "why"),
    [
        (
            BOTH,
            "linux/amd64",
            False,
            False,
            "which the engine's own BuildKit cannot build into the classic image store",
        ),
        (BOTH, "linux/s390x", True, False, "the classic image store of this engine can hold linux/s390x only"),
        (BOTH, "linux/amd64", True, False, ""),
        (("linux/386", "linux/arm64"), "linux/amd64", True, False, ""),
        (BOTH, "linux/s390x", False, True, ""),
        (("linux/arm64",), "linux/amd64", False, False, ""),
    ],
)
def test_what_no_store_or_builder_can_do_is_said(
    wanted: tuple[str, ...], engine: str, dedicated: bool, containerd: bool, why: str
) -> None:
    said = problem(replace(BASE, platforms=wanted), engine, dedicated=dedicated, containerd=containerd)
    assert why in said
    assert bool(why) == bool(said)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, engine: None) -> Iterator[TemporaryEngine]:
    """An engine with containerd's store: its BuildKit is the dedicated builder of the first, itself it is a second."""
    try:
        with temporary_engine("tst-several-far-", containerd_store=True, in_memory=True) as spare:
            yield spare
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.fixture(scope="module")
def endpoint(far: TemporaryEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loopback.grpc_of_engine(tmp_path_factory.mktemp("far"), far.address.removeprefix("unix://")) as one:
        yield one


@pytest.fixture
def remote(endpoint: str, lab: Lab) -> Iterator[Lab]:
    """A project whose images are for amd64 and arm64, with a dedicated builder."""
    lab.write(FILES)
    binary = next((path for path in ("/usr/bin/busybox", "/bin/busybox") if Path(path).exists()), None)
    if binary is None:
        pytest.skip("there is no busybox: apt-get install busybox-static")
    shutil.copy(binary, lab.folder / "base" / "amd64")
    lab.environ = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": f"sev-{lab.prefix}", "BUILDER_ENDPOINTS": endpoint}
    yield lab
    docker("buildx", "rm", "--force", lab.environ["BUILDER_NAME"])


def layout_of(lab: Lab, name: str) -> Path:
    return lab.folder / ".doit-images" / "compose.yml" / "results" / name


def platforms_in(layout: Path) -> dict[str, dict[str, str]]:
    """The labels of each platform that a layout's index holds whole."""

    def blob(digest: str) -> dict[str, Any]:
        return dict(json.loads((layout / "blobs" / digest.replace(":", "/")).read_text()))

    found = {}
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        for one in blob(entry["digest"])["manifests"]:
            config = blob(blob(one["digest"])["config"]["digest"])
            found[f"{config['os']}/{config['architecture']}"] = config["config"]["Labels"]
    return found


def architectures(lab: Lab, name: str) -> set[str]:
    """The processors of all images that the engine holds under the names of an image."""
    names = [tag for tag in lab.images() if tag.startswith(f"{lab.prefix}/{name}:")]
    assert {tag.rpartition(":")[2][:3] for tag in names} == {"lat", "in-"}
    return set(docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", *names).stdout.split())


@pytest.mark.engine
def test_the_classic_store_gets_its_own_platform_and_the_layout_holds_all(remote: Lab) -> None:
    assert remote.build() == {"base": "built", "app": "built", "one": "built"}
    assert remote.actions() == dict.fromkeys(("base", "app", "one"), "fresh")
    assert remote.build() == {}
    table = remote.doit("plan").stdout.splitlines()
    assert table[0].split() == ["image", "action", "for", "why", "seconds"]
    assert all(platform in " ".join(table[1:]) for platform in BOTH)
    seen = json.loads((remote.folder / ".doit-images" / "builder.json").read_text())
    assert seen["platforms"] == ["linux/amd64"], "where a build says that it is built (BUILDPLATFORM)"
    for name in ("base", "app", "one"):
        assert architectures(remote, name) == {"linux/amd64"}
        assert printed(remote.ref(name), "/bin/sh", "-c", "echo $WHICH") == "amd64\n"
    for name in ("base", "app"):
        assert set(platforms_in(layout_of(remote, name))) == set(BOTH)
    # A lost layout, or a foreign one, means to build again.
    (remote.folder / "app" / "f").write_text("2")
    assert remote.build() == {"app": "built"}
    (remote.folder / "app" / "f").write_text("1")
    plan = remote.plan()["app"]  # the engine still has that one, and the layout another
    assert (plan["action"], plan["reasons"]) == ("build", ["not all of linux/amd64, linux/arm64 are here"])
    layer = max((layout_of(remote, "base") / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    layer.unlink()
    assert remote.actions()["base"] == "build"
    shutil.rmtree(layout_of(remote, "base"))
    again = remote.build()
    assert (again["base"], again["app"]) == ("built", "built")
    assert set(platforms_in(layout_of(remote, "base"))) == set(BOTH)
    assert remote.actions() == dict.fromkeys(("base", "app", "one"), "fresh")


@pytest.fixture
def nodes(remote: Lab, endpoint: str, tmp_path: Path) -> Iterator[tuple[Lab, TemporaryEngine]]:
    """The same with two nodes, one for each platform, and the engine that is the node for arm64."""
    folder = Path(tempfile.mkdtemp())  # a socket's path must be short
    with (
        temporary_engine("tst-several-arm-", containerd_store=True, in_memory=True) as spare,
        loopback.grpc_of_engine(folder, spare.address.removeprefix("unix://")) as other,
    ):
        remote.environ |= {"BUILDER_ENDPOINTS": f"{endpoint};linux/amd64,{other};linux/arm64"}
        yield remote, spare
    shutil.rmtree(folder)


@pytest.mark.engine
def test_each_platform_is_built_on_its_node_and_both_become_one_index(
    nodes: tuple[Lab, TemporaryEngine], far: TemporaryEngine
) -> None:
    """buildx itself lets several nodes build one image only if it is pushed."""
    lab, native = nodes
    lab.environ |= {"CACHE_BACKEND": "local"}
    lab.write({"base/Dockerfile": FILES["base/Dockerfile"] + "COPY $TARGETARCH /native\n", "compose.yml": TWO_OF_BOTH})
    assert lab.build() == {"base": "built", "app": "built"}
    assert lab.actions() == dict.fromkeys(("base", "app"), "fresh")
    for name in ("base", "app"):
        assert architectures(lab, name) == {"linux/amd64"}
        assert set(platforms_in(layout_of(lab, name))) == set(BOTH)
    assert printed(lab.ref("app"), "/bin/sh", "-c", "echo $WHICH") == "amd64\n"
    built = [[one for one in records_of(address) if "/native" in one] for address in (far.address, native.address)]
    assert built == [["[3/3] COPY amd64 /native"], ["[3/3] COPY arm64 /native"]]
    (lab.folder / "base" / "arm64").write_text("another program\n")
    assert lab.plan()["base"]["reasons"] == ["`base/arm64` changed"]
    assert lab.build() == {"base": "built", "app": "built"}
    assert printed(lab.ref("app"), "/bin/sh", "-c", "echo $WHICH") == "amd64\n"


def records_of(address: str) -> list[str]:
    """What the records of a BuildKit's cache say that they are."""
    done = docker("--host", address, "system", "df", "--verbose", "--format", "{{json .BuildCache}}")
    assert done.returncode == 0, done.stderr
    return [str(one["Description"]) for one in json.loads(done.stdout)]


@pytest.mark.engine
def test_the_engines_own_builder_says_what_it_cannot_do(remote: Lab) -> None:
    done = remote.doit("plan", "--json", BUILDER_DRIVER="docker")
    by_name = {one["name"]: one for one in json.loads(done.stdout)["images"]}
    assert [by_name[name]["action"] for name in ("base", "app", "one")] == ["broken"] * 3
    assert "set BUILDER_DRIVER to a dedicated builder" in by_name["base"]["reasons"][0]
    assert by_name["one"]["reasons"] == ["needs `base`, which is broken"]


@pytest.mark.engine
@pytest.mark.parametrize("driver", ["docker", pytest.param("remote", marks=pytest.mark.all)])
def test_containerds_store_holds_all_platforms(remote: Lab, far: TemporaryEngine, driver: str) -> None:
    remote.environ |= {"DOCKER_HOST": far.address, "BUILDER_DRIVER": driver}
    assert remote.build() == {"base": "built", "app": "built", "one": "built"}
    assert remote.actions() == dict.fromkeys(("base", "app", "one"), "fresh")
    assert remote.build() == {}
    snapshot = Engine(far.address).snapshot()
    for name in ("base", "app", "one"):
        local_image = snapshot.get(remote.ref(name))
        assert local_image is not None
        out = remote.folder / name / "out"
        out.mkdir()
        done = docker("--host", far.address, "save", "--output", str(out / "tar"), local_image.id)
        assert done.returncode == 0, done.stderr
        shutil.unpack_archive(out / "tar", out, "tar", filter="data")
        if name != "one":
            assert set(platforms_in(out)) == set(BOTH)


@pytest.mark.engine
def test_what_only_one_platform_reads_counts_for_that_one_as_buildkit_has_it(remote: Lab, far: TemporaryEngine) -> None:
    remote.environ |= {"DOCKER_HOST": far.address, "BUILDER_DRIVER": "docker"}
    remote.write({"compose.yml": "services: {base: {image: PREFIX/base, build: base}}\n"})

    def fingerprint(platforms: str) -> str:
        planned = json.loads(remote.doit("plan", "--json", PLATFORMS=platforms).stdout)["images"]
        return str(planned[0]["fingerprint"])

    def made(platform: str) -> str:
        """What BuildKit makes for a platform: a digest of all files."""
        where = Path(tempfile.mkdtemp(dir=remote.folder)) / "out"
        argv = ["buildx", "build", "--platform", platform, "--output", f"type=local,dest={where}"]
        done = docker("--host", far.address, *argv, str(remote.folder / "base"))
        assert done.returncode == 0, done.stderr
        files = sorted(path for path in where.rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    before = {platform: (fingerprint(platform), made(platform)) for platform in BOTH}
    whole = fingerprint(",".join(BOTH))
    assert len({whole, *(number for number, _ in before.values())}) == 3
    assert fingerprint("") == before["linux/amd64"][0], "the engine's own"
    assert fingerprint("linux/arm64,linux/amd64") == whole, "in whatever order"
    (remote.folder / "base" / "arm64").write_text("another program\n")
    after = {platform: (fingerprint(platform), made(platform)) for platform in BOTH}
    moved = {
        platform: [old != new for old, new in zip(before[platform], after[platform], strict=True)] for platform in BOTH
    }
    assert moved == {"linux/amd64": [False, False], "linux/arm64": [True, True]}
    assert fingerprint(",".join(BOTH)) != whole


# ---- bases from outside: a real registry holds one for both platforms


@pytest.fixture
def outside(
    far: TemporaryEngine, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, loopback.Service]]:
    """A reference to an image of both platforms in a registry, and that registry."""
    with loopback.registry(tmp_path_factory.mktemp("outside")) as service:
        ref = f"{service.address}/{lab.prefix}/outside:1"
        push_base(far, ref)
        yield ref, service
    gone = docker(
        "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=localhost:0/bases/outside"
    )
    docker("image", "rm", "--force", ref, *gone.stdout.split())


def push_base(far: TemporaryEngine, ref: str, which: str = "") -> None:
    # The buildx of Debian 13 breaks off on several platforms without any layer.
    text = f"FROM scratch\nARG TARGETARCH\nLABEL which={which}$TARGETARCH\nENV FILE=$TARGETARCH\nCOPY <<E /e\n1\nE\n"
    argv = ["buildx", "build", "--provenance=false", "--platform", ",".join(BOTH), "--tag", ref, "-"]
    done = docker("--host", far.address, *argv, stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert docker("--host", far.address, "push", ref).returncode == 0


def which(lab: Lab, name: str, *host: str) -> list[str]:
    form = '{{.Os}}/{{.Architecture}} {{index .Config.Labels "which"}}'
    return docker(*host, "image", "inspect", "--format", form, lab.ref(name)).stdout.split()


def known_bases(lab: Lab) -> dict[str, bool]:
    return {name: all(base["digest"] for base in one["external_bases"]) for name, one in lab.plan().items()}


TWO = """
services:
  arm: {image: PREFIX/arm, platform: linux/arm64, build: {context: .}}
  amd: {image: PREFIX/amd, build: {context: .}}
"""


@pytest.mark.engine
@pytest.mark.parametrize("store", ["classic", pytest.param("containerd", marks=pytest.mark.all)])
def test_a_base_is_pulled_for_each_platform_and_no_name_is_stolen(
    lab: Lab, far: TemporaryEngine, outside: tuple[str, loopback.Service], store: str
) -> None:
    ref, service = outside
    host: tuple[str, ...] = ()
    if store == "containerd":
        lab.environ, host = {"DOCKER_HOST": far.address}, ("--host", far.address)
        assert docker(*host, "image", "rm", "--force", ref).returncode == 0  # it was made there
    lab.write({"compose.yml": TWO, "Dockerfile": f"FROM {ref}\nCOPY $FILE /f\n", "amd64": "1", "arm64": "1"})
    assert lab.build() == {"arm": "built", "amd": "built"}
    assert known_bases(lab) == {"arm": True, "amd": True}
    assert which(lab, "arm", *host) == ["linux/arm64", "arm64"]
    assert which(lab, "amd", *host) == ["linux/amd64", "amd64"]
    assert docker(*host, "image", "inspect", "--format", "{{.Architecture}}", ref).stdout == "amd64\n"
    assert lab.actions() == {"arm": "fresh", "amd": "fresh"}
    service.kill()
    (lab.folder / "arm64").write_text("2")
    assert lab.build() == {"arm": "built"}, "from what the fingerprint counts, with no registry; the other reads amd64"
    assert which(lab, "arm", *host) == ["linux/arm64", "arm64"]


@pytest.mark.engine
def test_one_reference_for_two_platforms_is_not_known_where_it_cannot_be_handed_over(
    lab: Lab, far: TemporaryEngine, outside: tuple[str, loopback.Service]
) -> None:
    ref, service = outside
    across = f"FROM --platform=$BUILDPLATFORM {ref} AS b\nCOPY f /f\nFROM {ref}\nCOPY --from=b /f /g\n"
    lab.write({"compose.yml": TWO.replace("  amd:", "  #"), "Dockerfile": across, "f": "1"})
    assert lab.build() == {"arm": "built"}
    assert known_bases(lab) == {"arm": False}
    lab.environ = {"DOCKER_HOST": far.address}
    assert lab.build() == {"arm": "built"}
    assert known_bases(lab) == {"arm": True}
    assert which(lab, "arm", "--host", far.address) == ["linux/arm64", "arm64"]
    push_base(far, ref, "new-")
    service.kill()
    (lab.folder / "f").write_text("2")
    assert lab.build() == {"arm": "built"}


@pytest.mark.engine
def test_a_dedicated_builder_gets_a_base_with_all_platforms(
    remote: Lab, far: TemporaryEngine, outside: tuple[str, loopback.Service]
) -> None:
    ref, service = outside
    remote.write(
        {
            "compose.yml": FILES["compose.yml"].split("  app:")[0],
            "base/Dockerfile": f"FROM {ref}\nCOPY f /f\n",
            "base/f": "1",
        }
    )
    assert remote.build() == {"base": "built"}
    assert known_bases(remote) == {"base": True}
    push_base(far, ref, "new-")
    service.kill()
    (remote.folder / "base" / "f").write_text("2")
    assert remote.build() == {"base": "built"}, "the builder has it from the engine"
    found = platforms_in(layout_of(remote, "base"))
    assert {name: labels["which"] for name, labels in found.items()} == {"linux/amd64": "amd64", "linux/arm64": "arm64"}


@pytest.mark.engine
@pytest.mark.parametrize("store", ["classic", "containerd"])
def test_a_base_that_is_here_for_another_platform_only_is_never_taken(
    lab: Lab, far: TemporaryEngine, store: str
) -> None:
    """containerd's store lets a build for amd64 start from an arm64 image, and calls the result amd64."""
    lab.environ = {"DOCKER_HOST": far.address} if store == "containerd" else {}
    host = ["--host", far.address] if store == "containerd" else []
    foreign = f"{lab.prefix}/foreign:1"
    text = b"FROM scratch\nLABEL x=1\n"
    made = docker(*host, "buildx", "build", "--platform", "linux/arm64", "--tag", foreign, "-", stdin=text)
    assert made.returncode == 0, made.stderr
    lab.write({"compose.yml": TWO.replace("  arm:", "  #"), "Dockerfile": f"FROM {foreign}\nCOPY f /f\n", "f": "1"})
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert f"the base {foreign} is linux/arm64 here, linux/amd64 is wanted" in done.stderr
    assert docker(*host, "image", "inspect", lab.ref("amd")).returncode != 0


# ---- shared whole


@pytest.fixture(scope="module")
def second(engine: None) -> Iterator[TemporaryEngine]:
    """Another machine's engine, with the classic store."""
    try:
        with temporary_engine("tst-several-second-", in_memory=True) as spare:
            yield spare
    except UserError as trouble:
        pytest.skip(str(trouble))


def another(lab: Lab, folder: Path, host: TemporaryEngine, **environ: str) -> Lab:
    """The same project in a checkout of its own, on another engine."""
    shutil.copytree(lab.folder, folder, ignore=shutil.ignore_patterns(".doit-images"))
    other = Lab(folder)
    other.prefix = lab.prefix
    other.environ = {**lab.environ, "DOCKER_HOST": host.address, **environ}
    return other


def saved(host: TemporaryEngine, ref: str, out: Path) -> dict[str, dict[str, str]]:
    out.mkdir()
    done = docker("--host", host.address, "save", "--output", str(out / "tar"), ref)
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(out / "tar", out, "tar", filter="data")
    return platforms_in(out)


def logged_in(folder: Path, service: loopback.Service, login: tuple[str, str] | None) -> None:
    """Make a configuration of docker that knows the login."""
    folder.mkdir()
    if login:
        words = ("--config", str(folder), "login", "--username", login[0], "--password-stdin")
        assert docker(*words, service.address, stdin=login[1].encode()).returncode == 0


@pytest.mark.engine
@pytest.mark.parametrize("login", [pytest.param(None, marks=pytest.mark.all), ("me", "secret")])
def test_what_a_classic_store_shares_others_get_whole(
    remote: Lab, far: TemporaryEngine, second: TemporaryEngine, tmp_path: Path, login: tuple[str, str] | None
) -> None:
    with loopback.registry(tmp_path / "registry", login) as service:
        remote.environ |= {"CACHE_REGISTRY": service.address, "DOCKER_CONFIG": str(tmp_path / "docker")}
        logged_in(tmp_path / "docker", service, login)
        assert remote.build() == {"base": "built", "app": "built", "one": "built"}
        classic = another(remote, tmp_path / "second", second)
        assert classic.actions() == dict.fromkeys(("base", "app", "one"), "pull")
        assert classic.build() == {"base": "pulled", "app": "pulled", "one": "pulled"}
        assert classic.actions() == dict.fromkeys(("base", "app", "one"), "fresh")
        for name in ("base", "app"):
            assert set(platforms_in(layout_of(classic, name))) == set(BOTH)
        run = docker(
            "--host",
            second.address,
            "run",
            "--rm",
            "--network=none",
            classic.ref("app"),
            "/bin/sh",
            "-c",
            "echo $WHICH",
        )
        assert run.stdout == "amd64\n", run.stderr
        (classic.folder / "app" / "f").write_text("2")
        assert classic.build() == {"app": "built"}, "on the whole index of its parent"
        assert set(platforms_in(layout_of(classic, "app"))) == set(BOTH)
        containerd = another(remote, tmp_path / "third", far, BUILDER_DRIVER="docker")
        assert containerd.build() == {"base": "pulled", "app": "pulled", "one": "pulled"}
        assert containerd.actions() == dict.fromkeys(("base", "app", "one"), "fresh")
        assert set(saved(far, containerd.ref("app"), tmp_path / "out")) == set(BOTH)


@pytest.mark.engine
def test_what_containerds_store_shares_a_classic_one_gets_whole(
    remote: Lab, far: TemporaryEngine, second: TemporaryEngine, tmp_path: Path
) -> None:
    remote.write({"compose.yml": TWO_OF_BOTH})
    with loopback.registry(tmp_path / "registry") as service:
        remote.environ |= {"CACHE_REGISTRY": service.address}
        first = another(remote, tmp_path / "first", far, BUILDER_DRIVER="docker")
        assert first.build() == {"base": "built", "app": "built"}
        classic = another(remote, tmp_path / "second", second)
        assert classic.build() == {"base": "pulled", "app": "pulled"}
        assert classic.actions() == dict.fromkeys(("base", "app"), "fresh")
        for name in ("base", "app"):
            assert set(platforms_in(layout_of(classic, name))) == set(BOTH)


@pytest.mark.engine
def test_what_a_builder_pushes_itself_others_get_whole(
    remote: Lab, far: TemporaryEngine, endpoint: str, second: TemporaryEngine, tmp_path: Path
) -> None:
    login = ("me", "secret")
    remote.write({"compose.yml": TWO_OF_BOTH})
    with (
        loopback.registry(tmp_path / "registry", login) as service,
        tempfile.TemporaryDirectory() as folder,  # a socket's path must be short
        loopback.grpc_of_engine(Path(folder), far.address.removeprefix("unix://")) as other,
    ):
        remote.environ["BUILDER_ENDPOINTS"] = f"{endpoint};linux/amd64,{other};linux/arm64"
        logged_in(tmp_path / "docker", service, login)
        remote.environ |= {"CACHE_REGISTRY": service.address, "DOCKER_CONFIG": str(tmp_path / "docker")}
        remote.environ["BUILD_OUTPUT"] = "registry"
        assert remote.build() == {"base": "built", "app": "built"}
        assert remote.actions() == dict.fromkeys(("base", "app"), "fresh")
        assert not remote.images()
        assert not remote.pulled()
        assert not layout_of(remote, "base").exists()
        classic = another(remote, tmp_path / "second", second, BUILD_OUTPUT="engine")
        assert classic.build() == {"base": "pulled", "app": "pulled"}
        for name in ("base", "app"):
            assert set(platforms_in(layout_of(classic, name))) == set(BOTH)
