"""Which platform is meant, and that no image of another one is ever taken for it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import ImageConfig, LocalImage, snapshot_of
from doit_images.core.engine.endpoint import endpoint
from doit_images.core.inputs.image_configs import ImageConfigCache
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.planning.plan import is_for, offered
from tests.conftest import Lab, docker
from tests.core.planning.test_plan import BASE, decide, engine, found, local_image

AMD, ARM = "linux/amd64", "linux/arm64"
PINNED = "python@sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"), ("amd64", "linux/amd64"), ("Linux/X86-64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"), ("linux/amd64/v3", "linux/amd64/v3"), ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"), ("linux/arm64/v9", "linux/arm64/v9"), ("aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"), ("linux/arm/7", "linux/arm/v7"), ("armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"), ("linux/arm/v6", "linux/arm/v6"), ("i386", "linux/386"),
        ("x86_64", "linux/amd64"), ("linux/s390x", "linux/s390x"), ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)  # fmt: skip
def test_the_normal_form_is_that_of_containerd(text: str, normal: str) -> None:
    assert platforms.normalise(text) == normal


@given(
    st.sampled_from(["linux", "Linux", "windows", "macos", "freebsd"]),
    st.sampled_from(["amd64", "x86_64", "arm64", "aarch64", "arm", "armhf", "armel", "i386", "386", "riscv64", "X"]),
    st.sampled_from(["", "/v1", "/v3", "/v6", "/7", "/8", "/v8", "/v9", "/odd"]),
)
def test_a_normal_form_stays_what_it_is(system: str, processor: str, variant: str) -> None:
    normal = platforms.normalise(f"{system}/{processor}{variant}")
    assert platforms.normalise(normal) == normal


@pytest.mark.parametrize("text", ["", "f", "f(1)", "linux/arm/v7/x", "linux//amd64", "linux/ amd64"])
def test_what_is_no_platform_is_said(text: str) -> None:
    with pytest.raises(UserError, match="is not a platform"):
        platforms.targets([text], AMD, "service app")


def resolve(
    folder: Path, platform: str, facts: Mapping[tuple[str, str], ImageConfig] | None = None, **images: object
) -> dict[str, ImageInputs]:
    """The project of these images, as an engine of this platform that knows these facts sees it."""
    made = {}
    for name, one in images.items():
        text, more = one if isinstance(one, tuple) else (one, {})
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "Dockerfile").write_text(textwrap.dedent(str(text)))
        where = str(folder / name)
        made[name] = Image(name=name, ref=f"app/{name}", context=where, dockerfile=f"{where}/Dockerfile", **more)
    project = Project("p", folder, (folder / "compose.yml",), made)
    known = facts or {}

    def facts_of(ref: str, some: tuple[str, ...]) -> tuple[ImageConfig, ...] | None:
        return tuple(known[ref, one] for one in some) if all((ref, one) in known for one in some) else None

    return InputResolver(project, folder / ".doit-images", {}).resolve(platform, facts_of)


@pytest.mark.parametrize("text", ["FROM scratch\nCOPY Dockerfile /\n", f"FROM {PINNED}\n", "FROM python\n"])
def test_two_platforms_never_have_one_fingerprint(tmp_path: Path, text: str) -> None:
    amd, arm = (resolve(tmp_path, one, a=text)["a"] for one in (AMD, ARM))
    assert (amd.platforms, arm.platforms) == ((AMD,), (ARM,))
    assert amd.input_digest != arm.input_digest
    assert amd.fingerprint != arm.fingerprint


@pytest.mark.parametrize(
    "declared", [("linux/amd64",), ("amd64",), ("linux/amd64/v1",), ("linux/amd64", "x86_64"), ("local",)]
)
def test_the_engines_platform_is_the_same_whether_it_is_declared_or_not(
    tmp_path: Path, declared: tuple[str, ...]
) -> None:
    text = "FROM scratch\nCOPY Dockerfile /\n"
    plain = resolve(tmp_path, AMD, a=text)["a"]
    assert resolve(tmp_path, AMD, a=(text, {"platforms": declared}))["a"].fingerprint == plain.fingerprint
    for other in ("linux/amd64/v3", "linux/386", ARM):
        assert resolve(tmp_path, AMD, a=(text, {"platforms": (other,)}))["a"].fingerprint != plain.fingerprint


def test_the_order_of_platforms_does_not_count(tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY Dockerfile /\n"
    both = [
        resolve(tmp_path, AMD, a=(text, {"platforms": some}))["a"].input_digest for some in ((AMD, ARM), (ARM, AMD))
    ]
    assert both[0] == both[1]


def test_where_it_is_built_counts_where_the_dockerfile_asks(tmp_path: Path) -> None:
    """A compiler for amd64 and one for arm64 are two inputs, whatever both make."""
    plain = ("FROM scratch\nCOPY Dockerfile /\n", {"platforms": (ARM,)})
    across = (
        f"FROM --platform=$BUILDPLATFORM {PINNED} AS b\nFROM scratch\nCOPY --from=b /x /\n",
        {"platforms": (ARM,)},
    )
    inside = ("FROM scratch\nARG BUILDARCH\nLABEL by=$BUILDARCH\n", {"platforms": (ARM,)})
    for one, counts in ((plain, False), (across, True), (inside, True)):
        amd, arm = (resolve(tmp_path, platform, a=one)["a"].input_digest for platform in (AMD, ARM))
        assert (amd != arm) == counts, one


def test_a_dedicated_builder_of_another_processor_reads_and_counts_as_that(tmp_path: Path) -> None:
    text = "FROM scratch\nARG BUILDARCH\nCOPY $BUILDARCH /x\n"
    image = Image("a", "app/a", str(tmp_path), str(tmp_path / "Dockerfile"))
    for name, content in (("Dockerfile", text), ("amd64", ""), ("arm64", "")):
        (tmp_path / name).write_text(content)
    project = Project("p", tmp_path, (tmp_path / "compose.yml",), {"a": image})

    def on(*built_on: str) -> ImageInputs:
        return InputResolver(project, tmp_path / ".doit-images", {}).resolve(
            AMD, lambda ref, some: None, built_on=built_on
        )["a"]

    assert on().paths() == on(AMD).paths() == ["Dockerfile", "amd64"]
    assert on(ARM).paths() == ["Dockerfile", "arm64"]
    assert on(AMD, ARM).paths() == ["Dockerfile", "amd64", "arm64"]
    assert len({on(AMD).input_digest, on(ARM).input_digest, on(AMD, ARM).input_digest}) == 3


def test_a_base_counts_for_the_platform_that_it_is_read_for(tmp_path: Path) -> None:
    facts = {("python", AMD): ImageConfig("sha256:amd", AMD), ("python", ARM): ImageConfig("sha256:arm", ARM)}
    text = "FROM python\n"
    assert resolve(tmp_path, AMD, facts, a=text)["a"].bases == {"python": "sha256:amd"}
    assert resolve(tmp_path, AMD, facts, a=(text, {"platforms": (ARM,)}))["a"].bases == {"python": "sha256:arm"}
    across = "FROM --platform=$BUILDPLATFORM python AS b\nFROM scratch\nCOPY --from=b /x /\n"
    one = resolve(tmp_path, AMD, facts, a=(across, {"platforms": (ARM,)}))["a"]
    assert (one.bases, one.read_for) == ({"python": "sha256:amd"}, {"python": (AMD,)})
    both = resolve(tmp_path, AMD, facts, a=(text, {"platforms": (AMD, ARM)}))["a"]
    assert both.bases == {"python": f"{AMD}=sha256:amd {ARM}=sha256:arm"}
    del facts["python", ARM]
    assert resolve(tmp_path, AMD, facts, a=(text, {"platforms": (AMD, ARM)}))["a"].bases == {"python": ""}


def test_a_processor_of_arm_has_its_variant_in_a_dockerfile(tmp_path: Path) -> None:
    """BuildKit sets TARGETVARIANT=v7 for ``linux/arm`` and none for ``linux/arm64/v8``."""
    text = "FROM scratch\nARG TARGETARCH TARGETVARIANT\nCOPY $TARGETARCH$TARGETVARIANT /x\n"
    (tmp_path / "a").mkdir()
    for name in ("armv7", "arm64"):
        (tmp_path / "a" / name).write_text(name)
    for declared, read in (("linux/arm", "a/armv7"), ("linux/arm64/v8", "a/arm64")):
        one = resolve(tmp_path, AMD, a=(text, {"platforms": (declared,)}))["a"]
        assert (one.problem, one.paths()) == ("", ["a/Dockerfile", read])


def test_what_a_parent_sets_for_one_platform_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("amd64", "arm64"):
        (tmp_path / "b" / name).write_text(name)
    parent = ("FROM scratch\nARG TARGETARCH\nENV WHICH=$TARGETARCH\n", {"platforms": (AMD, ARM)})
    child = ("FROM app/a\nCOPY $WHICH /x\n", {"platforms": (AMD, ARM)})
    assert resolve(tmp_path, AMD, a=parent, b=child)["b"].paths() == ["b/Dockerfile", "b/amd64", "b/arm64"]


def test_a_parent_of_another_platform_is_said(tmp_path: Path) -> None:
    child = ("FROM app/a\n", {"platforms": (ARM,)})
    one = resolve(tmp_path, AMD, a="FROM scratch\n", b=child)["b"]
    assert one.problem == (
        "service b: it reads a for linux/arm64, and a is built for linux/amd64 only (give a the same platforms, or "
        "read it with FROM --platform)"
    )
    across = ("FROM --platform=linux/amd64 app/a AS a\nFROM scratch\nCOPY --from=a /x /\n", {"platforms": (ARM,)})
    assert resolve(tmp_path, AMD, a="FROM scratch\n", b=across)["b"].problem == ""
    assert (
        resolve(tmp_path, AMD, a="FROM scratch\n", b=("FROM app/a\n", {"platforms": ("linux/amd64/v3",)}))["b"].problem
        == ""
    )


def test_an_image_of_another_platform_is_not_fresh() -> None:
    decided = decide([BASE], engine(local_image(BASE, ident="arm-base")))["base"]
    assert (decided.action, decided.reasons) == ("build", ("the image here is linux/arm64, linux/amd64 is wanted",))
    old = local_image(BASE, ident="arm-base", names=("app/base:in-0123",))
    assert decide([BASE], engine(old))["base"].action == "build", "not for a retag either"


@pytest.mark.parametrize(
    ("have", "wanted", "taken"),
    [
        ("linux/arm/v7", "linux/arm", True), ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm", "linux/arm/v6", False), ("linux/amd64/v3", "linux/amd64", False),
        ("linux/amd64", "linux/amd64/v3", False), ("linux/amd64/v1", "amd64", True),
        ("linux/arm64/v8", "linux/arm64", True), ("linux/arm64", "linux/amd64", False),
    ],
)  # fmt: skip
def test_a_shared_image_is_taken_with_its_variant(have: str, wanted: str, taken: bool) -> None:
    one = replace(BASE, platforms=platforms.targets([wanted], AMD))
    assert offered(one, found(one, platform=have), "") == taken
    assert is_for(one, have, AMD) == taken


def test_what_is_known_of_an_id_that_may_be_an_index_is_asked_again(tmp_path: Path) -> None:
    """In containerd's store an id may be an index, of which another platform may be here tomorrow."""
    ident = "sha256:" + "1" * 64

    def listed(**more: object) -> LocalImage:
        return snapshot_of([{"Id": ident, "RepoTags": ["a:1"], **more}], AMD).by_name["a:1"]

    manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": ident}
    index = {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "digest": ident}
    assert listed().fixed, "the classic store"
    assert listed(RepoDigests=["a@sha256:" + "2" * 64]).fixed, "the classic store, pulled"
    assert not listed(RepoDigests=[f"a@{ident}"]).fixed, "containerd's store before API 1.48"
    assert listed(RepoDigests=[f"a@{ident}"], Descriptor=manifest).fixed
    assert not listed(RepoDigests=[f"a@{ident}"], Descriptor=index).fixed

    here = [AMD]
    cache = ImageConfigCache(tmp_path / "facts.json", lambda image_id: ImageConfig(f"content for {here[0]}", here[0]))
    assert cache.get_passing(ident).platform == AMD
    cache.keep([ident])
    here[0] = ARM
    assert cache.get_passing(ident).platform == AMD, "once in a run"
    cache.forget()
    assert cache.get_passing(ident).platform == ARM
    (tmp_path / "facts.json").write_text(
        json.dumps({ident: {"content": "x", "platform": AMD, "env": {}, "onbuild": []}})
    )
    again = ImageConfigCache(tmp_path / "facts.json", lambda image_id: ImageConfig("y", ARM))
    assert again.get_passing(ident).platform == ARM, "not from what an earlier version kept"


BOTH = """
services:
  app: {image: PREFIX/app, build: {context: .}}
"""


def test_an_engines_image_of_another_platform_is_built_again(lab: Lab) -> None:
    """The image under our tags is exchanged for one of arm64 with the same labels: nothing but its platform tells."""
    lab.write({"compose.yml": BOTH, "Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "1"})
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"app": "fresh"}
    kept = next(tag for tag in lab.images() if ":in-" in tag)
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", kept).stdout)
    argv = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    done = docker(
        "buildx", "build", "--quiet", "--platform", ARM, "--tag", kept, "--tag", lab.ref("app"), *argv, str(lab.folder)
    )
    assert done.returncode == 0, done.stderr
    plan = lab.plan()["app"]
    assert (plan["action"], plan["reasons"]) == ("build", ["the image here is linux/arm64, linux/amd64 is wanted"])
    assert lab.build() == {"app": "built"}
    assert (
        docker("image", "inspect", "--format", "{{.Architecture}}", lab.ref("app"), kept).stdout.split()
        == ["amd64"] * 2
    )
    assert lab.actions() == {"app": "fresh"}


@pytest.mark.engine
def test_a_base_of_another_platform_is_built_on_where_that_platform_is_declared(lab: Lab) -> None:
    """Docker would build on it and warn: an image of which nobody said that it is for that platform."""
    outside = f"{lab.prefix}/outside:1"
    lab.write({"compose.yml": BOTH, "Dockerfile": f"FROM {outside}\nCOPY f /f\n", "f": "1"})
    argv = ["--quiet", "--platform", ARM, "--tag", outside, "--file", "-", str(lab.folder)]
    assert docker("buildx", "build", *argv, stdin=b"FROM scratch\nCOPY f /g\n").returncode == 0
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert (
        f"app: the base {outside} is linux/arm64 here, linux/amd64 is wanted, and that cannot be pulled (docker pull "
        f"--platform linux/amd64 {outside}, or declare `platforms: [linux/arm64]` for the image)"
    ) in done.stderr
    lab.write({"compose.yml": BOTH.replace("context: .", "context: ., platforms: [linux/arm64]")})
    assert lab.build() == {"app": "built"}
    assert docker("image", "inspect", "--format", "{{.Architecture}}", lab.ref("app")).stdout.strip() == "arm64"
    assert lab.actions() == {"app": "fresh"}


@contextlib.contextmanager
def overheard(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The engine behind a socket that notes what is asked: its address, and the requests so far."""
    asked: list[str] = []
    path = folder / "engine.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(64)

    def hand_over(client: socket.socket) -> None:
        first = client.recv(65536)
        asked.append(" ".join(first.split(b"\r\n")[0].decode().split()[:2]))
        with socket.socket(socket.AF_UNIX) as real, client:
            real.connect(endpoint().removeprefix("unix://"))
            real.sendall(first)
            while data := real.recv(65536):
                client.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=hand_over, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}", asked
    finally:
        server.close()


@pytest.mark.engine
def test_a_run_with_nothing_to_do_asks_for_no_image(lab: Lab, tmp_path: Path) -> None:
    """The platforms of its images are compared too, and known by their ids."""
    if not endpoint().startswith("unix://"):
        pytest.skip("the engine is no local one, so nothing can be put before it")
    lab.write({"compose.yml": BOTH, "Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "1"})
    assert lab.build() == {"app": "built"}
    assert lab.build() == {}
    with overheard(tmp_path) as (address, asked):
        done = lab.doit("build_optimized", DOCKER_HOST=address)
    assert done.returncode == 0, done.stderr
    asked_for = sorted(re.sub(r"^\w+ (/v[\d.]+)?", "", line) for line in asked)
    assert [path for path in asked_for if path != "/_ping"] == ["/images/json", "/version"], asked
