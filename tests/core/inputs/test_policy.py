"""A build policy decides about a build, so it lies where buildx looks for it, and counts with all that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doit_images.core.base import commands
from doit_images.core.building.context import as_built
from doit_images.core.buildkit import buildx
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.inputs.copied import copied
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.rego import Loaded, loaded
from doit_images.core.inputs.resolver import InputResolver
from tests.conftest import Lab

ALLOW = 'package docker\ndecision := {"allow": true}\n'


@pytest.mark.parametrize(
    ("policy", "reads"),
    [
        (ALLOW, Loaded()),
        ("import data.rules\nimport data.a.b_1 as c\nimport input.x", Loaded(("rules.rego", "a/b_1.rego"))),
        ('import data.a["b-c"]', Loaded(("a.rego", "/"))),
        ('x := load_json("./a//b.json")', Loaded(("a/b.json",))),
        ('x := load_json(\n  "a b.json" # why\n)', Loaded(("a b.json",))),
        ('# load_json("a") and import data.b\nx := "load_json(y)"', Loaded()),
        ("x := load_json(`a\\b`)", Loaded(("a\\b",))),
        (r'x := load_json("\u0061")', Loaded(("a",))),
        ('x := load_json("../a")\ny := load_json("/a")\nz := load_json(".")', Loaded()),
        ('x := load_json("cwd://a")', Loaded((), ("a",))),
        ('x := load_json(name)\ny := load_json("cwd://a")', Loaded(("/",), ("a", "/"))),
        ('x := load_json(sprintf("%s.json", [input.env.target]))', Loaded(("/",))),
        ('x := load_json("a" + "b")', Loaded(("/",))),
        ("allow if { f(load_json", Loaded(("/",))),
        ('x := $"{load_json("cwd://a")}"', Loaded(("/",), ("/",))),
        ('x if verify_git_signature(object.get(input, ["git", "x"], {}), "keys/a.asc")', Loaded(("keys/a.asc",))),
        ('x if artifact_attestation(input.http, "a.sigstore")', Loaded(("a.sigstore",))),
        ('x if verify_http_pgp_signature(input.http, "a.sig", "a.asc")', Loaded(("a.sig", "a.asc"))),
        ('x if verify_http_pgp_signature(input.http, name, "a.asc")', Loaded(("a.asc", "/"))),
        ('x if github_attestation(input.http, "owner/repository")', Loaded()),
    ],
)  # fmt: skip
def test_what_a_policy_reads(policy: str, reads: Loaded) -> None:
    assert loaded(policy, lambda name: "") == reads


def test_what_the_modules_of_a_policy_read() -> None:
    modules = {"a.rego": "import data.b", "b.rego": 'import data.a\nx := load_json("c")'}
    assert loaded("import data.a", lambda name: modules.get(name, "")).context == ("a.rego", "b.rego", "c")


@given(st.text() | st.text('load_json("a",)`#$\0\\ \n') | st.text('import data.a["]\n'))
@example('load_json("\\u0000")')
@example('load_json("\\ud800")')
def test_a_text_that_is_no_policy_is_no_error(text: str) -> None:
    loaded(text, lambda name: "")


class World:
    """A project of one image, made in code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = Image("app", "app", str(folder / "src"), str(folder / "deploy/app.Dockerfile"))
        self.write({"deploy/app.Dockerfile": "FROM scratch\nCOPY f /f\n", "src/f": "", "src/.dockerignore": "*\n!f\n"})

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True, parents=True)
            (self.folder / name).write_text(text)

    def inputs(self) -> ImageInputs:
        project = Project("p", self.folder, (self.folder / "compose.yml",), {"app": self.image})
        resolver = InputResolver(project, self.folder / ".doit-images", {})
        return resolver.resolve("linux/amd64", lambda ref, some: None)["app"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


POLICY = """
import data.rules
pins := load_json("pins.json")
own := load_json("cwd://own.json")
"""
READ = ("deploy/app.Dockerfile.rego", "src/rules.rego", "src/pins.json", "own.json")


def test_a_policy_and_what_it_reads_are_inputs_though_no_build_gets_them(world: World) -> None:
    plain = world.inputs()
    world.write({READ[0]: POLICY, **dict.fromkeys(READ[1:], "")})
    inputs = world.inputs()
    assert {*inputs.paths()} - {*plain.paths()} == {*READ}
    assert {*map(str, inputs.file_dep())} - {*plain.file_dep()} == {str(world.folder / name) for name in READ}
    assert {*inputs.build_inputs().files} >= {*READ}
    digests = {plain.input_digest, inputs.input_digest}
    for name in READ:
        world.write({name: (world.folder / name).read_text() + "\n"})
        digests.add(world.inputs().input_digest)
    assert len(digests) == 2 + len(READ)
    world.write({"src/other.json": ""})
    assert world.inputs().input_digest in digests
    assert copied([inputs], [world.folder / "own.json"]) == []


def test_a_policy_that_may_read_any_file_makes_all_of_the_context_count(world: World) -> None:
    world.write({READ[0]: "x := load_json(name)", "src/hidden/file": "", ".doit-images/contexts.sqlite3": ""})
    assert [*world.inputs().paths()] == [
        "deploy/app.Dockerfile", READ[0], "src/.dockerignore", "src/f", "src/hidden/file",
    ]  # fmt: skip
    world.write({READ[0]: 'x := load_json(name)\ny := load_json("cwd://a")'})
    assert not any(path.startswith(".doit-images") for path in world.inputs().paths())
    assert copied([world.inputs()], [world.folder / "src/hidden"]) == []


def test_a_policy_is_told_all_arguments(world: World) -> None:
    digests = []
    for policy in ("", ALLOW):
        if policy:
            world.write({READ[0]: policy})
        for value in ("1", "2"):
            world.image = Image("app", "app", world.image.context, world.image.dockerfile, args={"UNUSED": value})
            digests.append(world.inputs().input_digest)
    assert digests[0] == digests[1] != digests[2] != digests[3]


def test_an_inline_dockerfile_and_a_remote_context_have_no_policy_here(world: World) -> None:
    world.write({"src/.rego": "", "src/Dockerfile.rego": "", ".rego": ""})
    inline = Image("app", "app", world.image.context, dockerfile_inline="FROM scratch\n")
    remote = Image("app", "app", "https://example.org/r.git", "Dockerfile")
    for world.image in (inline, remote):
        assert not any(path.endswith(".rego") for path in world.inputs().paths())


def test_a_build_gets_the_policy_as_it_was_read_where_buildx_looks_for_it(world: World, tmp_path: Path) -> None:
    world.write({READ[0]: ALLOW})
    inputs = world.inputs()
    world.write({READ[0]: "changed"})
    here = tmp_path / "build"
    here.mkdir()
    image = as_built(inputs, here, tmp_path)
    assert image.dockerfile == f"{here}/app.Dockerfile"
    assert (here / "app.Dockerfile.rego").read_text() == ALLOW
    (world.folder / READ[0]).unlink()
    none = tmp_path / "none"
    none.mkdir()
    as_built(world.inputs(), none, tmp_path)
    assert sorted(path.name for path in none.iterdir()) == ["app.Dockerfile", "app.Dockerfile.dockerignore"]


def test_a_policy_that_cannot_be_read_is_said(world: World) -> None:
    (world.folder / READ[0]).mkdir()
    assert "cannot be read" in world.inputs().problem


MODULE = "package any\nproxy := true\n"
JSON = '{"proxy": true}'


@pytest.mark.parametrize(
    ("policy", "files"),
    [
        ("import data.a.b as x", {"context/a/b.rego": MODULE}),
        ('import data.a["b"] as x', {"context/a/b.rego": MODULE}),
        ("import data.a as x", {"context/a.rego": 'package any\nproxy := load_json("p").proxy', "context/p": JSON}),
        ("x := data.a", {"context/a.rego": MODULE}),
        ('x := load_json("./a//../p")', {"context/p": JSON}),
        ("x := load_json(`p`)", {"context/p": JSON}),
        (r'x := load_json("\u0070")', {"context/p": JSON}),
        ('x := load_json(sprintf("%s", ["p"]))', {"context/p": JSON}),
        ('x := load_json("../p")', {"p": JSON}),
        ('x := load_json("cwd://p")', {"p": JSON}),
        ('x := load_json("cwd://p")', {"context/p": JSON}),
    ],
)
def test_buildx_reads_no_file_but_those_that_count(
    engine: None, policy: str, files: dict[str, str], tmp_path: Path
) -> None:
    """A policy may ask for a network that this engine's BuildKit does not have, so buildx says what it has read."""
    needs_policies()
    world = World(tmp_path)
    world.image = Image("app", "app", f"{tmp_path}/context", f"{tmp_path}/Dockerfile")
    asks = 'decision := {"allow": true, "caps": {"exec.proxy": x.proxy}}'
    world.write({"Dockerfile": "FROM scratch\n", "Dockerfile.rego": f"package docker\n{policy}\n{asks}\n", **files})
    argv = ["docker", "buildx", "build", "--builder=default", f"--file={world.image.dockerfile}", world.image.context]
    has_read = "network proxy" in commands.run(argv, cwd=tmp_path).stderr
    assert has_read is all(name in world.inputs().paths() for name in files)


def needs_policies() -> None:
    if not buildx.is_at_least(buildx.version(), (0, 31)):
        pytest.skip("this BuildKit has no policies: its buildx is older than 0.31")


def test_buildx_refuses_what_the_policy_does(lab: Lab) -> None:
    """It imports a module that is not there, so no engine has to know policies."""
    lab.write({"compose.yml": "services: {app: {image: PREFIX/app, build: {context: ., dockerfile: d/Dockerfile}}}\n"})
    lab.write({"d/Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "PREFIX", ".dockerignore": "*\n!f\n"})
    assert lab.build() == {"app": "built"}
    lab.write({"d/Dockerfile.rego": 'package docker\nimport data.rules\ndecision := {"allow": rules.all}\n'})
    assert lab.plan()["app"]["reasons"] == ["`d/Dockerfile.rego` added"]
    needs_policies()
    done = lab.doit("build_optimized")
    assert "import data.rules not found" in done.stderr
    lab.write({"rules.rego": "package rules\nall := true\n"})
    assert lab.build() == {"app": "built"}
    planned = lab.plan()["app"]
    assert (planned["action"], planned["inputs"]) == (
        "fresh", [".dockerignore", "d/Dockerfile", "d/Dockerfile.rego", "f", "rules.rego"],
    )  # fmt: skip
    lab.write({"rules.rego": "package rules\nall := 1 == 1\n"})
    assert lab.plan()["app"]["reasons"] == ["`rules.rego` changed"]
