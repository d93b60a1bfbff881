"""What each image is made of, found from the declaration and the files alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from doit_images.core.base import checked_json
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.engine.client import ImageConfig
from doit_images.core.inputs.copied import copied
from doit_images.core.inputs.image_configs import ImageConfigCache
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver


class World:
    """A project made of images in code: no Compose is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: dict[str, Image] = {}
        self.facts: dict[str, ImageConfig] = {}

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def image(self, name: str, text: str, **more: object) -> None:
        self.write({f"{name}/Dockerfile": text})
        folder = str(self.folder / name)
        known: dict[str, object] = {"context": folder, "dockerfile": f"{folder}/Dockerfile", **more}
        self.images[name] = Image(name=name, ref=f"app/{name}", **known)

    def resolve(self, only: str = "", environ: Mapping[str, str] | None = None) -> dict[str, ImageInputs]:
        project = Project("p", self.folder, (self.folder / "compose.yml",), self.images)
        resolver = InputResolver(project, self.folder / ".doit-images", environ or {})
        known = self.facts
        return resolver.resolve(
            "linux/amd64", lambda ref, some: (known[ref],) * len(some) if ref in known else None, only
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_parents_come_first_however_they_are_named(world: World) -> None:
    world.image("a", "FROM base\n", contexts={"base": "service:z"})
    world.image("b", "FROM app/z\n")
    world.image("c", "FROM scratch\nCOPY --from=docker.io/app/z:latest /x /\n")
    world.image("d", "FROM scratch\nRUN --mount=from=app/z,target=/z true\n")
    world.image("e", "FROM other\n", contexts={"other": "docker-image://app/z"})
    world.image("z", "FROM scratch\n")
    found = world.resolve()
    assert next(iter(found)) == "z"
    for name in "abcde":
        assert list(found[name].parents.values()) == ["z"], name
        assert found[name].bases == {}
    assert list(world.resolve(only="b")) == ["z", "b"]


def test_a_parent_that_the_target_does_not_reach_is_none(world: World) -> None:
    world.image("z", "FROM scratch\n")
    world.image("a", "FROM app/z AS unused\nFROM scratch\n")
    world.image("b", "FROM scratch AS wanted\nFROM app/z\n", target="wanted")
    found = world.resolve()
    assert found["a"].parents == found["b"].parents == {}


def test_a_parent_may_be_named_by_any_of_its_tags(world: World) -> None:
    world.image("z", "FROM scratch\n", tags=("app/z:1.0",))
    world.image("a", "FROM app/z:1.0\n")
    assert world.resolve()["a"].parents == {"app/z:1.0": "z"}


@pytest.mark.parametrize("only", ["", "a"])
def test_an_image_that_an_onbuild_names_is_a_parent_and_comes_first(world: World, only: str) -> None:
    world.image("m", "FROM scratch\nONBUILD COPY --from=app/z /f /\n")
    world.image("a", "FROM app/m\n")
    world.image("z", "FROM scratch\n")
    found = world.resolve(only)
    assert found["a"].parents == {"app/m": "m", "app/z": "z"}
    assert list(found)[-1] == "a"


def test_our_own_folder_is_hidden_from_what_copies_everything(world: World) -> None:
    world.image("a", "FROM scratch\nCOPY . /\n", context=str(world.folder))
    world.write({".doit-images/facts.json": "{}", "f": ""})
    before = world.resolve()["a"]
    assert before.paths() == ["a/Dockerfile", "f"]
    assert before.ignore == "\n/.doit-images\n"
    world.write({".doit-images/facts.json": "changed", ".dockerignore": "*\n!f\n"})
    assert world.resolve()["a"].ignore == "*\n!f\n", "it is hidden already"
    world.write({".dockerignore": "nothing"})
    assert world.resolve()["a"].ignore == "nothing\n/.doit-images\n"


def test_what_can_only_come_from_our_own_folder_is_broken(world: World) -> None:
    world.image("a", "FROM scratch\nCOPY .doit-images/f /\n", context=str(world.folder))
    for name, context in {"b": ".doit-images", "c": ".doit-images/d"}.items():
        world.image(name, "FROM scratch\nCOPY . /\n", context=str(world.folder / context))
    world.image("d", "FROM scratch\nCOPY --from=more x /\n", contexts={"more": str(world.folder / ".doit-images/d")})
    world.write({".doit-images/f": "", ".doit-images/d/x": ""})
    found = world.resolve()
    assert found["a"].problem == (
        "a/Dockerfile:2: COPY: the context has no '.doit-images/f' "
        "(no build gets '.doit-images': these tasks keep there what they remember)"
    )
    for name, of in {"b": "", "c": "/d", "d": "/d"}.items():
        why = f"the context '{world.folder}/.doit-images{of}' is in .doit-images, which changes in every build"
        assert found[name].problem == f"{name}/Dockerfile: {why}"


def test_a_context_that_is_not_there_is_said_even_if_nothing_is_read_of_it(world: World) -> None:
    world.image("a", "FROM scratch\n", contexts={"data": str(world.folder / "nowhere")})
    assert "there is no folder" in world.resolve()["a"].problem


def test_a_declared_argument_counts_with_the_value_that_the_environment_has(world: World) -> None:
    world.image("a", "FROM scratch\nARG HTTP_PROXY\n", args={"HTTP_PROXY": None})
    world.image("b", "FROM scratch\n", args={"HTTP_PROXY": None})
    before, after = (world.resolve(environ={"HTTP_PROXY": f"http://me:{word}@proxy"}) for word in ("one", "two"))
    assert before["a"].input_digest != after["a"].input_digest
    assert "one" not in str(before["a"].settings)
    assert before["b"].input_digest == after["b"].input_digest, "without ARG it changes no layer"


def test_fingerprints_follow_parents_and_own_does_not(world: World) -> None:
    world.write({"z/f": "1"})
    world.image("z", "FROM scratch\nCOPY f /\n")
    world.image("a", "FROM app/z\n")
    before = world.resolve()
    world.write({"z/f": "2"})
    after = world.resolve()
    assert before["a"].input_digest == after["a"].input_digest
    assert before["a"].fingerprint != after["a"].fingerprint
    assert before["z"].input_digest != after["z"].input_digest


def test_the_same_tree_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    numbers = set()
    for place in ("one", "two/deeper"):
        world = World(tmp_path / place)
        world.write({"a/f": "x", "a/.dockerignore": "ignored\n", "a/ignored": place, "more/g": "y"})
        world.image("a", "FROM out\nCOPY . /\nCOPY --from=more g /\n", contexts={"more": f"{tmp_path}/{place}/more"})
        world.facts["out"] = ImageConfig("sha256:1", "linux/amd64")
        numbers.add(world.resolve()["a"].fingerprint)
    assert len(numbers) == 1


def test_what_an_external_base_holds_counts(world: World) -> None:
    world.image("a", "FROM python:3.13\n")
    unknown = world.resolve()["a"]
    assert unknown.bases == {"python:3.13": ""}
    world.facts["python:3.13"] = ImageConfig("sha256:1", "linux/amd64")
    known = world.resolve()["a"]
    assert known.bases == {"python:3.13": "sha256:1"}
    assert known.input_digest != unknown.input_digest
    pinned = "python:3.13@sha256:" + "a" * 64
    world.image("a", f"FROM {pinned}\n")
    assert world.resolve()["a"].bases == {pinned: "sha256:" + "a" * 64}


def test_a_frontend_that_the_engine_holds_counts(world: World) -> None:
    world.image("a", "# syntax=docker/dockerfile:1\nFROM scratch\n")
    assert world.resolve()["a"].bases == {}
    world.facts["docker/dockerfile:1"] = ImageConfig("sha256:1", "linux/amd64")
    assert world.resolve()["a"].bases == {"docker/dockerfile:1": "sha256:1"}


def test_what_bases_hand_on(world: World) -> None:
    world.write({"a/app/f": "", "a/other": "", "b/trigger": "", "b/more": ""})
    world.image("a", "FROM python:3.13\nCOPY $WHERE /\n")
    assert world.resolve()["a"].paths() == ["a/Dockerfile", "a/app/f", "a/other"]
    world.facts["python:3.13"] = ImageConfig("sha256:1", "linux/amd64", env={"WHERE": "app"})
    assert world.resolve()["a"].paths() == ["a/Dockerfile", "a/app/f"]
    world.image("y", "FROM unknown\n")
    world.image("c", "FROM app/y\nCOPY $WHERE /\n")
    world.write({"c/app/f": ""})
    assert world.resolve()["c"].paths() == ["c/Dockerfile", "c/app/f"], "what an unknown base sets cannot be known"
    world.facts["unknown"] = ImageConfig("sha256:2", "linux/amd64", env={"WHERE": "app"})
    world.write({"c/other": ""})
    assert world.resolve()["c"].paths() == ["c/Dockerfile", "c/app/f"]
    world.image("z", "FROM scratch\nONBUILD COPY trigger /\n")
    world.image("b", "FROM app/z\n")
    assert world.resolve()["b"].paths() == ["b/Dockerfile", "b/trigger"]


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"args": {"USED": "2", "NOT": "1"}}, True),
        ({"args": {"USED": "1", "NOT": "2"}}, False),
        ({"platforms": ("linux/arm64",)}, True),
        ({"network": "none"}, True),
        ({"labels": {"a": "b"}}, True),
        ({"extra_hosts": ("a:1.2.3.4",)}, True),
        ({"cache_from": ("type=inline",)}, False),
        ({"tags": ("app/a:2",)}, False),
        ({"no_cache": True}, False),
        ({"no_cache_filter": ("x",)}, False),
        ({"provenance": "mode=max"}, True),
        ({"sbom": "true"}, True),
        ({"unsupported": {"isolation": '"hyperv"'}}, True),
    ],
)
def test_which_settings_count(world: World, change: dict[str, object], counts: bool) -> None:
    same: dict[str, object] = {"args": {"USED": "1", "NOT": "1"}}
    world.image("a", "FROM scratch\nARG USED\n", **same)
    before = world.resolve()["a"].input_digest
    world.image("a", "FROM scratch\nARG USED\n", **{**same, **change})
    assert (world.resolve()["a"].input_digest != before) == counts


def test_secret_values_are_in_nothing(world: World) -> None:
    world.image("a", "FROM scratch\nARG API_TOKEN\n", args={"API_TOKEN": "hunter2"})
    found = world.resolve()["a"]
    assert "hunter2" not in str(found.build_inputs())
    assert "hunter2" not in str(found.settings)


def test_a_cycle_is_the_problem_of_those_in_it(world: World) -> None:
    world.image("a", "FROM app/b\n")
    world.image("b", "FROM app/a\n")
    world.image("c", "FROM scratch\n")
    found = world.resolve()
    assert "a → b → a" in found["a"].problem or "b → a → b" in found["a"].problem
    assert found["b"].problem == found["a"].problem
    assert found["c"].problem == ""


def test_a_lower_case_dockerfile_is_read_where_there_is_no_other(world: World) -> None:
    world.image("a", "FROM scratch\nCOPY f /\n")
    world.write({"a/dockerfile": "FROM scratch\nCOPY . /\n", "a/dockerfile.dockerignore": "hidden\n", "a/f": ""})
    assert world.resolve()["a"].paths() == ["a/Dockerfile", "a/f"]
    (world.folder / "a/Dockerfile").unlink()
    world.write({"a/hidden": ""})
    found = world.resolve()["a"]
    assert found.image.dockerfile == str(world.folder / "a/dockerfile")
    assert found.paths() == ["a/dockerfile", "a/dockerfile.dockerignore", "a/f"]


def test_proxies_that_every_build_gets_count_for_a_remote_dockerfile(world: World) -> None:
    world.images["r"] = Image(name="r", ref="app/r", context="https://example.org/r.git", dockerfile="Dockerfile")
    digests = []
    for number in "12":
        world.write({"docker/config.json": json.dumps({"proxies": {"default": {"httpProxy": f"http://{number}"}}})})
        digests.append(world.resolve(environ={"DOCKER_CONFIG": str(world.folder / "docker")})["r"].input_digest)
    assert digests[0] != digests[1]


def test_remote_contexts_count_by_their_text(world: World) -> None:
    world.images["r"] = Image(name="r", ref="app/r", context="https://example.org/r.git#main", dockerfile="Dockerfile")
    found = world.resolve()["r"]
    assert (found.problem, found.remotes, found.paths()) == ("", ("https://example.org/r.git#main",), [])


def test_inline_dockerfiles_count(world: World) -> None:
    world.write({"a/f": ""})
    inline = {"dockerfile": "", "dockerfile_inline": "FROM scratch\nCOPY f /\n"}
    world.image("a", "", **inline)
    before = world.resolve()["a"]
    assert before.paths() == ["a/f"]
    world.image("a", "", **{**inline, "dockerfile_inline": "FROM scratch\nCOPY f /g\n"})
    assert world.resolve()["a"].input_digest != before.input_digest


def test_facts_are_asked_for_once_and_forgotten_with_their_image(tmp_path: Path) -> None:
    asked = []

    def ask(ident: str) -> ImageConfig:
        asked.append(ident)
        return ImageConfig(f"content of {ident}", "linux/amd64", {"A": "1"}, ("COPY . /",))

    cache = ImageConfigCache(tmp_path / "facts.json", ask)
    first = [cache.get("x"), cache.get("y"), cache.get("x")]
    cache.keep(["x"])
    again = ImageConfigCache(tmp_path / "facts.json", ask)
    assert [again.get("x"), again.get("y")] == first[:2]
    assert asked == ["x", "y", "y"]
    older = {
        key: value for key, value in (checked_json.recall(tmp_path / "facts.json") or {}).items() if key != "format"
    }
    checked_json.remember(tmp_path / "facts.json", older)
    ImageConfigCache(tmp_path / "facts.json", ask).get("x")
    assert asked[3:] == ["x"], "an older version may have known less of it"


def test_an_image_in_a_folder_counts_by_what_its_tag_is(world: World) -> None:
    layout = "oci-layout://layout:1"
    world.image("a", "FROM scratch\nCOPY --from=lay f /\n", contexts={"lay": layout})
    world.image("b", "FROM lay\n", contexts={"lay": layout})
    world.image("c", "FROM scratch\nCOPY --from=lay f /\n", contexts={"lay": f"{layout}@sha256:{'0' * 64}"})
    world.write({"layout/index.json": "{}", "b/onbuild": "1"})
    before = world.resolve()
    world.write({"layout/index.json": '{"moved": 1}'})
    after = world.resolve()
    assert [name for name in "abc" if before[name].input_digest != after[name].input_digest] == ["a", "b"]
    world.write({"a/spare": "1", "b/onbuild": "2"})
    last = world.resolve()
    assert last["a"].input_digest == after["a"].input_digest
    assert last["b"].input_digest != after["b"].input_digest, "an ONBUILD of its base may read it"


def test_what_no_image_should_hold_is_told_with_the_ignore_file_that_would_hide_it(world: World) -> None:
    for name, source in {"all": ".", "other": ".", "named": "*.env", "some": "app.py", "hides": "."}.items():
        world.image(name, f"FROM scratch\nCOPY {source} /\n", context=str(world.folder))
    above = {"top": str(world.folder.parent)}
    world.image("below", f"FROM scratch\nCOPY --from=top /{world.folder.name} /\n", contexts=above)
    world.write({".env": "", "prod.env": "", "app.py": "", "hides/Dockerfile.dockerignore": "*.env\n"})
    files = [world.folder / ".env", world.folder / "list.toml", world.folder.parent / ".env"]
    found = copied(world.resolve().values(), files)
    assert [(each.ignore, each.images, each.lines) for each in found] == [
        (world.folder / ".dockerignore", ("all", "named", "other"), (".env",)),
        (world.folder.parent / ".dockerignore", ("below",), (f"{world.folder.name}/.env",)),
    ]
    assert str(found[0]) == "all, named, other copy .env into their images"
    assert str(found[1]) == f"below copies {world.folder.name}/.env into its image"
    assert found[0].remedy == f"put a line for each into {world.folder}/.dockerignore, which is not there"
    world.write({".dockerignore": "app.py\n"})
    world.resolve()
    assert found[0].remedy == f"put a line for each into {world.folder}/.dockerignore"
    world.write({".dockerignore": ".env\n"})
    assert [each.images for each in copied(world.resolve().values(), files)] == [("below",)]


@pytest.mark.parametrize(
    ("source", "ignore", "taken"),
    [
        (".", None, True),
        (".", "*\n!app.py\n", False),
        (".", "!.env\n", False),
        (".", "*\n!**/.env\n", False),
        (".", "*\n!*\n", True),
        (".", "!.env\n.env\n", False),
        ("app.py", None, False),
        ("*.env", None, True),
        (".env", "other\n!/.env", False),
        ("link", None, True),
    ],
)
def test_an_env_file_that_a_context_takes_is_refused(
    world: World, source: str, ignore: str | None, taken: bool
) -> None:
    world.write({".env": "PASSWORD=HUSH\n", "app.py": "", "app/Dockerfile": f"FROM scratch\n\nCOPY {source} /x/\n"})
    (world.folder / "link").symlink_to(".env")
    if ignore is not None:
        world.write({".dockerignore": ignore})
    world.image("app", f"FROM scratch\n\nCOPY {source} /x/\n", context=str(world.folder))
    found = world.resolve()["app"]
    where = f"put a line .env into {world.folder}/.dockerignore, or !.env if that is what you want"
    assert found.problem == ""
    assert found.private == (f"app/Dockerfile:3: COPY takes .env, which may hold passwords ({where})" if taken else "")
