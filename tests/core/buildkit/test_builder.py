"""Dedicated builders: the exact commands, what makes them made again, and a real remote BuildKit."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import BuilderDriver, Settings
from doit_images.core.buildkit import builder, oci_transfer
from doit_images.core.engine.client import Engine
from doit_images.core.engine.labels import FINGERPRINT
from tests import loopback
from tests.conftest import Lab, docker, printed
from tests.core.building.test_moved import hooked
from tests.waiting import patience

CONFIG = "[worker.oci]\n  max-parallelism = 2\n"
COMPOSE = """
services:
  base:
    image: PREFIX/base
    build: {context: ., dockerfile: base.Dockerfile}
  app:
    image: PREFIX/app
    build:
      context: .
      dockerfile: app.Dockerfile
      additional_contexts: {base: "service:base"}
"""
FILES = {
    "compose.yml": COMPOSE,
    "base.Dockerfile": "FROM tst-busybox:1\nRUN head -c 600000 /dev/urandom > /PREFIX\n",
    "app.Dockerfile": "FROM base\nCOPY app.py /\n",
    "app.py": "one",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "buildkitd.toml").write_text(CONFIG)
    return tmp_path


def settings(driver: str = "docker-container", **more: object) -> Settings:
    return replace(Settings(), builder_driver=driver, builder_name="b", **more)


def test_the_engines_own_is_named_by_its_context(tmp_path: Path) -> None:
    assert builder.argv(Settings(), {"DOCKER_CONFIG": str(tmp_path)}) == ["--builder", "default"]
    assert builder.argv(Settings(), {"DOCKER_CONTEXT": "far"}) == ["--builder", "far"]
    assert builder.argv(Settings(), {"DOCKER_CONTEXT": "far", "DOCKER_HOST": "tcp://x"}) == ["--builder", "default"]
    (tmp_path / "config.json").write_text('{"currentContext": "near"}')
    assert builder.argv(Settings(), {"DOCKER_CONFIG": str(tmp_path)}) == ["--builder", "near"]
    assert builder.argv(settings(), {}) == ["--builder", "b"]


def test_a_container_takes_the_configuration(root: Path) -> None:
    made = builder.recipe(settings(builder_options=("network=host", "image=moby/buildkit:v0.20.0")), root)
    assert builder.create_argv(made) == [
        [
            "docker", "buildx", "create", "--name", "b", "--driver", "docker-container", "--node", "b0",
            "--driver-opt", "network=host", "--driver-opt", "image=moby/buildkit:v0.20.0",
            "--buildkitd-config", f"{root}/buildkitd.toml",
        ]
    ]  # fmt: skip


def test_several_remote_nodes_with_their_platforms_and_certificates(root: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (root / name).touch()
    endpoints = ("tcp://amd:1234;linux/amd64", "tcp://arm:1234;linux/arm64;linux/arm/v7")
    made = builder.recipe(settings("remote", builder_endpoints=endpoints, builder_certs=str(root)), root)
    certs = [f"cacert={root}/ca.pem", f"cert={root}/cert.pem", f"key={root}/key.pem"]
    options = [word for option in certs for word in ("--driver-opt", option)]
    begin = ["docker", "buildx", "create", "--name", "b", "--driver", "remote", "--node"]
    assert builder.create_argv(made) == [
        [*begin, "b0", *options, "--platform", "linux/amd64", "tcp://amd:1234"],
        [*begin, "b1", "--append", *options, "--platform", "linux/arm64,linux/arm/v7", "tcp://arm:1234"],
    ]


def test_kubernetes(root: Path) -> None:
    made = builder.recipe(settings("kubernetes", builder_options=("namespace=build", "replicas=3")), root)
    [argv] = builder.create_argv(made)
    assert argv[5:7] == ["--driver", "kubernetes"]
    assert argv[-2:] == ["--buildkitd-config", f"{root}/buildkitd.toml"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (settings("remote"), "needs BUILDER_ENDPOINTS"),
        (settings("remote", builder_endpoints=("host:1234",)), "is not an address of BuildKit"),
        (settings("remote", builder_endpoints=("tcp://a:1;arm64",)), "platforms such as linux/arm64"),
        (
            settings("remote", builder_endpoints=("tcp://a:1",), builder_certs="/nowhere"),
            "/nowhere/ca.pem: there is no",
        ),
        (settings(builder_certs="/nowhere"), "is for remote builders"),
        (settings(builder_options=("host",)), "options look like network=host"),
        (settings(builder_config="nothing.toml"), "nothing.toml: there is no such file"),
    ],
)
def test_settings_that_do_not_fit_are_a_sentence(root: Path, given: Settings, words: str) -> None:
    with pytest.raises(UserError) as trouble:
        builder.recipe(given, root)
    assert words in str(trouble.value)


def test_a_mistake_in_the_configuration_has_its_line(root: Path) -> None:
    (root / "buildkitd.toml").write_text("[worker.oci]\nmax_parallelism = 2\n")
    with pytest.raises(UserError, match=r"^buildkitd\.toml:2: .*did you mean 'max-parallelism'"):
        builder.recipe(settings(), root)


def test_what_makes_it_made_again(root: Path) -> None:
    one = builder.recipe(settings(), root)
    assert one.digest == builder.recipe(settings(), root).digest
    others = [
        builder.recipe(settings(builder_options=("network=host",)), root),
        builder.recipe(settings(builder_endpoints=("far",)), root),
        builder.recipe(settings("kubernetes"), root),
    ]
    (root / "buildkitd.toml").write_text(CONFIG + "  gc = true\n")
    others.append(builder.recipe(settings(), root))
    assert len({one.digest, *(other.digest for other in others)}) == 5


@pytest.mark.engine
def test_buildx_takes_our_file_and_a_container_boots_where_its_image_is(engine: None, tmp_path: Path) -> None:
    """The file is accepted by buildx everywhere; the container needs the image moby/buildkit in the engine."""
    name = f"cch-{uuid.uuid4().hex[:8]}"
    given = replace(Settings(), builder_driver="docker-container", builder_name=name)
    [argv] = builder.create_argv(builder.recipe(given))
    made = subprocess.run(argv, capture_output=True, text=True)
    try:
        assert made.returncode == 0, made.stderr
        assert builder.driver_of(name, os.environ) == "docker-container"
        if docker("image", "inspect", "moby/buildkit:buildx-stable-1").returncode:
            with pytest.raises(UserError, match="it runs the image moby/buildkit"):
                builder.init(given, tmp_path, os.environ)
            pytest.skip("the image moby/buildkit is not in the engine, so its container cannot boot")
        assert "adopted" in builder.init(given, tmp_path, os.environ)
    finally:
        docker("buildx", "rm", "--force", name)
    assert builder.driver_of(name, os.environ) == ""


# ---- a remote BuildKit: the one inside a second engine, reached as a buildkitd would be


@pytest.fixture(scope="module")
def nowhere(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A run for whose builder buildx waits 20 seconds, in vain: other tests do their work meanwhile."""
    one = Lab(tmp_path_factory.mktemp("nowhere"))
    one.write(FILES)
    one.environ = {"BUILDER_DRIVER": "remote", "BUILDER_ENDPOINTS": "tcp://127.0.0.1:1"}
    one.environ["BUILDER_NAME"] = f"cch-{one.prefix}"
    run = one.start("cache_init")
    yield run
    run.kill()
    run.communicate()
    docker("buildx", "rm", "--force", one.environ["BUILDER_NAME"])


@pytest.fixture(scope="module")
def far(busybox: str, nowhere: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with (
            temporary_engine("cch-far-", containerd_store=True, in_memory=True) as engine,
            loopback.grpc_of_engine(tmp_path_factory.mktemp("far"), engine.address.removeprefix("unix://")) as endpoint,
        ):
            yield endpoint
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.fixture
def remote(far: str, lab: Lab) -> Iterator[Lab]:
    lab.write(FILES)
    lab.environ = {"BUILDER_DRIVER": "remote", "BUILDER_NAME": f"cch-{lab.prefix}", "BUILDER_ENDPOINTS": far}
    yield lab
    docker("buildx", "rm", "--force", lab.environ["BUILDER_NAME"])


@pytest.mark.engine
def test_init_is_idempotent_adopts_and_makes_again(remote: Lab) -> None:
    name = remote.environ["BUILDER_NAME"]
    first = remote.doit("cache_init")
    assert first.returncode == 0, first.stderr
    assert f"made the builder '{name}' (remote, 1 node)" in first.stdout
    assert f"the builder '{name}' (remote) is as declared" in remote.doit("cache_init").stdout
    far = remote.environ["BUILDER_ENDPOINTS"]
    again = remote.doit("cache_init", BUILDER_ENDPOINTS=f"{far};linux/amd64").stdout
    assert "made again, because its settings changed" in again
    shutil.rmtree(remote.folder / ".doit-images")
    assert f"adopted the builder '{name}'" in remote.doit("cache_init").stdout


@pytest.mark.engine
def test_a_dedicated_builder_hands_over_only_what_changed(remote: Lab) -> None:
    assert remote.build() == {"base": "built", "app": "built"}
    assert remote.actions() == {"base": "fresh", "app": "fresh"}
    assert remote.build() == {}
    (remote.folder / "app.py").write_text("two")
    before = Engine().layers(remote.image_id(remote.ref("app")))
    assert remote.build() == {"app": "built"}
    assert printed(remote.ref("app"), "cat", "/app.py") == "two"
    after = Engine().layers(remote.image_id(remote.ref("app")))
    assert [one == other for one, other in zip(before, after, strict=True)].count(False) == 1
    # The base's own content is what children are built on, wherever it was built.
    assert docker("run", "--rm", remote.ref("app"), "ls", f"/{remote.prefix}").returncode == 0


@pytest.mark.engine
def test_what_the_builder_and_we_forgot_is_given_again(remote: Lab) -> None:
    """The base was built by the engine's own BuildKit: the builder gets it from the engine."""
    near = remote.doit("build_optimized:base", BUILDER_DRIVER="docker")
    assert near.returncode == 0, near.stderr
    assert remote.build() == {"app": "built"}
    shutil.rmtree(remote.folder / ".doit-images" / "compose.yml" / "results")
    (remote.folder / "app.py").write_text("three")
    assert remote.build() == {"app": "built"}
    assert printed(remote.ref("app"), "cat", "/app.py") == "three"


@pytest.mark.engine
@pytest.mark.parametrize("images", [pytest.param("base - app", marks=pytest.mark.all), "base app"])
def test_a_parent_that_vanishes_is_made_again_and_handed_over(remote: Lab, images: str) -> None:
    """Without a context for it the builder would look `base` up on Docker Hub."""
    remote.write({"base.Dockerfile": "FROM tst-busybox:1\nRUN echo mine > /PREFIX\n"})
    remove = f"docker rmi -f $(docker image ls -q --filter reference={remote.prefix}/base:*)"
    shutil.rmtree(remote.folder / ".doit-images", ignore_errors=True)
    done = hooked(
        remote, "app" if "-" not in images else "nobody", f"{remove}; rm -rf .doit-images/*/results", images=images
    )
    assert done.returncode == 0, done.stderr
    assert printed(remote.ref("app"), "cat", f"/{remote.prefix}") == "mine\n"
    assert remote.actions() == {"base": "fresh", "app": "fresh"}


@pytest.mark.engine
def test_the_handover_sends_what_the_engine_lacks(busybox: str, tmp_path: Path) -> None:
    """A layer that the engine has not is sent although it was thought to be there; a damaged layout is a sentence."""
    engine = Engine()
    local_image = engine.snapshot().get(busybox)
    assert local_image is not None
    folder = oci_transfer.folder_of(tmp_path, busybox)
    context = oci_transfer.context_of(engine, tmp_path, busybox, local_image, "linux/amd64")
    layout = oci_transfer.read(folder, local_image.id, "linux/amd64")
    assert layout is not None
    assert context == f"oci-layout://{folder}@{layout.top}"

    def take(image_id: str, *known: oci_transfer.Layout) -> str:
        if engine.uses_containerd_store():
            there = {local_image.id: {layer for one in known for layer in one.layers}}
            return oci_transfer.take_index(engine, folder, image_id, "linux/amd64", there)
        return oci_transfer.take(engine, folder, image_id, "linux/amd64", [one.contents for one in known])

    assert take(local_image.id, layout) == local_image.id
    assert take(local_image.id) == local_image.id
    assert oci_transfer.read(folder, "sha256:other", "linux/amd64") is None
    with pytest.raises(UserError, match="holds no image"):
        take("sha256:other")
    (folder / "blobs" / "sha256" / layout.layers[0].removeprefix("sha256:")).unlink()
    assert oci_transfer.read(folder, local_image.id, "linux/amd64") is None
    assert oci_transfer.context_of(engine, tmp_path, busybox, local_image, "linux/amd64") == context  # saved again


def test_only_what_the_index_reaches_is_kept(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(text: str) -> str:
        import hashlib

        number = hashlib.sha256(text.encode()).hexdigest()
        (blobs / number).write_text(text)
        return f"sha256:{number}"

    layer, config, old = put("layer"), put("{}"), put("old")
    cache = put(json.dumps({"layers": [{"blob": put("cached layer")}]}))
    manifest = put(json.dumps({"config": {"digest": config}, "layers": [{"digest": layer}, {"digest": cache}]}))
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": manifest}]}))
    now = (blobs / layer.removeprefix("sha256:")).stat().st_mtime
    assert oci_transfer.tidy(tmp_path, now + 60) == 0  # another run may just be reading it
    assert oci_transfer.tidy(tmp_path, now + 7200) == 3
    assert not (blobs / old.removeprefix("sha256:")).exists()
    assert len(list(blobs.iterdir())) == 5


# ---- results that never come into the engine


TOKEN = "hush-hush-0123456789"


@pytest.fixture
def pushing(remote: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A project whose builder pushes what it built, and whose `app` is built with a secret."""
    remote.write(
        {
            "compose.yml": f"{COMPOSE}      secrets: [token]\nsecrets: {{token: {{environment: TOKEN}}}}\n",
            "app.Dockerfile": """
                FROM base
                COPY app.py /
                RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /length; head -c 9 /dev/urandom > /random
                """,
        }
    )
    with loopback.registry(tmp_path / "registry") as server:
        remote.environ |= {"BUILD_OUTPUT": "registry", "CACHE_REGISTRY": server.address, "TOKEN": TOKEN}
        yield remote


def held(lab: Lab, name: str) -> set[str]:
    """The fingerprints under which the registry holds an image."""
    address = lab.environ["CACHE_REGISTRY"]
    server = loopback.Service(int(address.rpartition(":")[2]), None)
    return {tag for tag in loopback.tags(server, f"{lab.prefix}/{name}") if tag.startswith("in-")}


def reported(lab: Lab) -> dict[str, str]:
    """How each image ended, by the report of `ci_build`."""
    done = lab.doit("ci_build")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    report = json.loads((lab.folder / ".doit-images" / "compose.yml" / "ci" / "build.json").read_text())
    return {image["name"]: image["status"] for image in report["images"]}


@pytest.mark.engine
def test_what_the_builder_pushes_is_shared_and_never_in_the_engine(pushing: Lab, tmp_path: Path) -> None:
    assert pushing.actions() == {"base": "build", "app": "build"}
    assert reported(pushing) == {"base": "done", "app": "done"}
    planned = pushing.plan()
    assert {name: (one["action"], *one["reasons"]) for name, one in planned.items()} == dict.fromkeys(
        ("base", "app"), ("fresh", "the shared registry has it")
    )
    tags = {name: {f"in-{one['fingerprint'][:16]}"} for name, one in planned.items()}
    assert {name: held(pushing, name) for name in tags} == tags
    assert reported(pushing) == {"base": "fresh", "app": "fresh"}
    # A child is built on the parent that the registry holds, also by whoever has lost all else.
    shutil.rmtree(pushing.folder / ".doit-images")
    (pushing.folder / "app.py").write_text("two")
    assert reported(pushing) == {"base": "fresh", "app": "done"}
    # What is edited while it is built gets no name.
    before = held(pushing, "app")
    (pushing.folder / "app.py").write_text("never")
    moving = hooked(pushing, "app", "date +%N >> app.py", times=3, images="app")
    assert moving.returncode != 0
    assert "app.py` changed while it was built, so the result is not taken" in moving.stderr
    assert held(pushing, "app") == before
    moving = hooked(pushing, "app", "echo three > app.py", images="app")
    assert moving.returncode == 0, moving.stderr
    assert len(held(pushing, "app")) == 3
    assert not pushing.images()
    assert not pushing.pulled()
    made = {tag.removeprefix("in-") for name in ("base", "app") for tag in held(pushing, name)}
    assert not [one for one in Engine().snapshot().every() if one.labels.get(FINGERPRINT, "")[:16] in made]
    packed = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    whole = b"".join(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data for data in packed)
    assert b"three" in whole
    assert TOKEN.encode() not in whole
    # Whoever wants them in the engine takes them as any others.
    second = Lab(tmp_path / "second")
    second.prefix = pushing.prefix
    shutil.copytree(pushing.folder, second.folder, ignore=shutil.ignore_patterns(".doit-images", "registry", "second"))
    second.environ = {"CACHE_REGISTRY": pushing.environ["CACHE_REGISTRY"], "TOKEN": TOKEN}
    for text in ("one", "three\n"):
        (second.folder / "app.py").write_text(text)
        assert set(second.build().values()) == {"pulled"}
        assert printed(second.ref("app"), "cat", "/app.py", "/length") == f"{text}{len(TOKEN)}\n"
    assert second.actions() == {"base": "fresh", "app": "fresh"}


@pytest.mark.engine
def test_a_builder_that_does_not_come_up_is_said(nowhere: subprocess.Popen[str]) -> None:
    said, _ = nowhere.communicate(timeout=patience())
    assert nowhere.returncode not in (0, None)
    assert "does not come up" in said
    assert "Traceback" not in said


# ---- cache backends on an engine that can export


@pytest.fixture(scope="module")
def able(busybox: str) -> Iterator[TemporaryEngine]:
    try:
        with temporary_engine("cch-able-", containerd_store=True, in_memory=True) as engine:
            engine.load(busybox)
            yield engine
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.mark.engine
@pytest.mark.parametrize("backend", [pytest.param("local", marks=pytest.mark.all), "registry"])
def test_after_a_full_prune_a_cache_spares_every_step(able: TemporaryEngine, tmp_path: Path, backend: str) -> None:
    one = Lab(tmp_path / "project")
    one.write(FILES)
    with loopback.registry(tmp_path / "registry") as server:
        one.environ = {"DOCKER_HOST": able.address, "DOCKER_CONTEXT": "", "CACHE_BACKEND": backend}
        one.environ |= {"CACHE_REGISTRY": server.address} if backend == "registry" else {}
        assert one.build() == {"base": "built", "app": "built"}
        able.forget_everything()
        able.load("tst-busybox:1")
        # No finished image is to be had, only BuildKit's cache.
        shutil.rmtree(one.folder / ".doit-images" / "compose.yml" / "images")
        if backend == "registry":
            for name in ("base", "app"):
                folder = (
                    tmp_path / "registry/data/docker/registry/v2/repositories" / one.prefix / name / "_manifests/tags"
                )
                for tag in folder.glob("in-*"):
                    shutil.rmtree(tag)
        done = one.doit("build_optimized")
        assert done.returncode == 0, done.stderr
        assert "built base" in done.stderr
        assert done.stderr.count("1 of 1 steps cached") == 2


@pytest.mark.engine
def test_a_cache_that_cannot_be_written_fails_no_build(able: TemporaryEngine, tmp_path: Path) -> None:
    one = Lab(tmp_path / "project")
    one.write(FILES)
    one.environ = {
        "DOCKER_HOST": able.address,
        "DOCKER_CONTEXT": "",
        "CACHE_BACKEND": "registry",
        "CACHE_REGISTRY": "localhost:1",
    }
    assert one.build() == {"base": "built", "app": "built"}


@pytest.mark.engine
def test_the_classic_store_refuses_to_export_with_a_remedy(lab: Lab) -> None:
    lab.write(FILES)
    done = lab.doit("build_optimized", CACHE_BACKEND="local")
    if Engine().uses_containerd_store():
        pytest.skip("this engine keeps images in containerd's store")
    assert done.returncode != 0
    assert "classic image store cannot export a local cache" in done.stderr
    assert "containerd-snapshotter" in done.stderr


# ---- containerd's image store at this end


def counting(lab: Lab, folder: Path) -> Path:
    """Let the lab's docker command write down the bytes of each archive that the engine gets; the file."""
    path = lab.environ.get("PATH", os.environ["PATH"])
    real, sent = shutil.which("docker", path=path), folder / "sent"
    (folder / "bin").mkdir()
    program = folder / "bin" / "docker"
    program.write_text(f"""#!/bin/sh\n[ "$1" != load ] || stat -c %s "$3" >>'{sent}'\nexec '{real}' "$@"\n""")
    program.chmod(0o755)
    lab.environ["PATH"] = f"{folder}/bin:{path}"
    return sent


@pytest.mark.engine
def test_containerds_store_too_gets_only_the_blobs_that_it_lacks(
    able: TemporaryEngine, remote: Lab, tmp_path: Path
) -> None:
    remote.environ |= {"DOCKER_HOST": able.address, "DOCKER_CONTEXT": ""}
    sent = counting(remote, tmp_path)

    def archives() -> list[int]:
        sizes = [int(line) for line in sent.read_text().split()]
        sent.unlink()
        return sizes

    def written(text: str, *expected: str) -> None:
        (remote.folder / "app.py").write_text(text)
        assert set(remote.build()) == set(expected)

    written("one", "base", "app")
    base, app = archives()
    assert base > 600_000
    assert app < 100_000, "the parent is there"
    written("two", "app")
    assert archives()[0] < 100_000

    def near(*words: str) -> str:
        env = {**os.environ, **able.environ}
        return subprocess.run(["docker", *words], env=env, check=True, capture_output=True, text=True).stdout

    assert near("run", "--rm", remote.ref("app"), "cat", "/app.py") == "two"
    near("save", "--output", str(tmp_path / "all"), remote.ref("app"))
    assert (tmp_path / "all").stat().st_size > 600_000, "it is whole"
    near("image", "rm", "--force", *set(near("image", "ls", "--quiet", f"{remote.prefix}/*").split()))
    written("three", "base", "app")
    assert archives()[0] > 600_000, "the engine has lost it"


@pytest.mark.engine
def test_a_blob_that_containerds_store_lost_is_sent(
    able: TemporaryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole image goes there where a blob was counted on in vain, or an image that lent it is gone."""
    engine, folder = Engine(able.address), tmp_path / "layout"
    local_image = engine.snapshot().get("tst-busybox:1")
    assert local_image is not None
    oci_transfer.context_of(engine, tmp_path, "layout", local_image, "linux/amd64")
    own = oci_transfer.blobs_of(folder, local_image.id)
    assert own
    assert not oci_transfer.blobs_of(folder, "sha256:" + "0" * 64)
    number, layer = layer_more(folder, local_image.id)
    loads, load = list[object](), oci_transfer._load
    monkeypatch.setattr(oci_transfer, "_load", lambda *given: loads.append(given) or load(*given))
    for there, times in (({local_image.id: own | {layer}}, 2), ({"sha256:gone": own}, 2), ({local_image.id: own}, 1)):
        loads.clear()
        assert oci_transfer.take_index(engine, folder, number, "linux/amd64", there) == number
        assert len(loads) == times
        tag = f"{uuid.uuid4().hex}:1"
        engine.tag(number, tag)
        near = {**os.environ, **able.environ}
        done = subprocess.run(
            ["docker", "run", "--rm", tag, "cat", "/more"], env=near, capture_output=True, text=True, check=False
        )
        subprocess.run(["docker", "image", "rm", "--force", tag], env=near, check=True, capture_output=True)
        assert done.stdout == "more", done.stderr


def layer_more(folder: Path, image_id: str) -> tuple[str, str]:
    """Put an image of one more layer into a layout; its digest and that of the layer."""

    def put(data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        oci_transfer.blob_of(folder, digest).write_bytes(data)
        return digest

    layout = oci_transfer.read(folder, image_id, "linux/amd64")
    assert layout is not None
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("more")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"more"))
    layer = put(content.getvalue())
    config = json.loads(oci_transfer.blob_of(folder, layout.config).read_bytes())
    config["rootfs"]["diff_ids"].append(layer)
    config.pop("history", None)
    manifest = json.loads(oci_transfer.blob_of(folder, layout.manifest).read_bytes())
    media = "application/vnd.oci.image.layer.v1.tar"
    manifest["layers"].append({"mediaType": media, "digest": layer, "size": len(content.getvalue())})
    text = json.dumps(config).encode()
    manifest["config"] |= {"digest": put(text), "size": len(text)}
    text = json.dumps(manifest).encode()
    top = {"mediaType": manifest["mediaType"], "digest": put(text), "size": len(text)}
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "manifests": [top]}))
    return str(top["digest"]), layer


def test_which_programs_a_builder_runs_is_what_all_its_nodes_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "docker"
    fake.write_text(
        "#!/bin/sh\n[ \"$*\" = 'buildx inspect b' ] && cat <<'E'\nName: b\nNodes:\nName: b0\nPlatforms: linux/amd64*, "
        "linux/amd64/v2\nName: b1\nPlatforms: linux/arm64, linux/arm/v7\nE\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    remote = Settings(builder_driver=BuilderDriver.REMOTE, builder_name="b")
    assert builder.runs(remote, dict(os.environ)) == ("linux/amd64", "linux/amd64/v2", "linux/arm/v7", "linux/arm64")
    assert builder.runs(replace(remote, builder_name="c"), dict(os.environ)) == ()
