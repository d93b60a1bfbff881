"""What a Compose project declares; Compose itself resolves it."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.compose import project
from doit_images.core.compose.image import Secret
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from tests.conftest import needs_docker_command

pytestmark = needs_docker_command

WHOLE = """
    name: shop
    services:
      base: {image: shop/base, build: {context: base}, scale: 0}
      web:
        platform: linux/amd64
        build:
          context: .
          dockerfile: docker/web/Dockerfile
          target: run
          args: {PORT: "${PORT:-8000}", EMPTY: ""}
          additional_contexts:
            base: "service:base"
            data: ./data
            outside: "docker-image://alpine:3"
          secrets: [token, {source: ca, target: bundle}]
          ssh: [default]
          labels: {a: b}
          cache_from: ["type=inline"]
          extra_hosts: ["host:1.2.3.4"]
          shm_size: 64m
          ulimits: {nofile: {soft: 1, hard: 2}}
          tags: ["shop/web:extra"]
          network: none
          no_cache: true
          pull: true
          privileged: true
          entitlements: [network.host]
      inline: {build: {dockerfile_inline: "FROM scratch\\nCOPY $$x /\\n"}}
      stored: {image: "postgres:17"}
    secrets: {token: {environment: TOKEN}, ca: {file: ./ca.crt}}
"""


def load(folder: Path, text: str, **environ: str) -> Project:
    (folder / "compose.yml").write_text(textwrap.dedent(text))
    return project.load((folder / "compose.yml",), {**os.environ, **environ})


def test_everything_that_a_build_may_say(tmp_path: Path) -> None:
    found = load(tmp_path, WHOLE)
    assert (found.name, found.directory, sorted(found.images)) == ("shop", tmp_path, ["base", "inline", "web"])
    web = found.images["web"]
    assert web.ref == "shop-web"
    assert web.names == ("shop-web", "shop/web:extra")
    assert (web.context, web.dockerfile) == (str(tmp_path), str(tmp_path / "docker/web/Dockerfile"))
    assert (web.target, web.args) == ("run", {"PORT": "8000", "EMPTY": ""})
    assert web.contexts == {
        "base": "service:base",
        "data": str(tmp_path / "data"),
        "outside": "docker-image://alpine:3",
    }
    assert web.secrets == (Secret("token", environment="TOKEN"), Secret("bundle", file=str(tmp_path / "ca.crt")))
    assert (web.ssh, web.platforms, web.labels) == (("default",), ("linux/amd64",), {"a": "b"})
    assert (web.extra_hosts, web.shm_size, web.ulimits) == (("host:1.2.3.4",), "67108864", ("nofile=1:2",))
    assert (web.network, web.no_cache, web.pull, web.privileged) == ("none", True, True, True)
    assert (web.cache_from, web.entitlements, web.problem) == (("type=inline",), ("network.host",), "")
    assert found.images["inline"].dockerfile_inline == "FROM scratch\nCOPY $x /\n"


def test_the_answer_is_kept_until_something_that_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    really = Compose.config
    monkeypatch.setattr(Compose, "config", lambda self: asked.append(1) or really(self))
    first = load(tmp_path, WHOLE)
    assert load(tmp_path, WHOLE, UNRELATED="1") == first
    assert len(asked) == 1
    assert load(tmp_path, WHOLE, PORT="9000").images["web"].args["PORT"] == "9000"
    (tmp_path / ".env").write_text("PORT=7000\n")
    assert load(tmp_path, WHOLE).images["web"].args["PORT"] == "7000"
    assert load(tmp_path, WHOLE.replace("target: run", "target: dev")).images["web"].target == "dev"
    assert len(asked) == 4


def test_included_and_extended_files_count(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    more = tmp_path / "more/compose.yml"
    more.write_text("services: {extra: {build: {context: .}}}\n")
    common = tmp_path / "common.yml"
    common.write_text("services: {like: {build: {context: ., target: one}}}\n")
    text = "include: [more/compose.yml]\nservices: {app: {extends: {file: common.yml, service: like}}}\n"
    assert load(tmp_path, text).images["app"].target == "one"
    common.write_text("services: {like: {build: {context: ., target: two}}}\n")
    assert load(tmp_path, text).images["app"].target == "two"
    more.write_text("services: {extra: {build: {context: ., target: x}}}\n")
    assert load(tmp_path, text).images["extra"].target == "x"


def test_a_file_of_any_name_and_place_counts(tmp_path: Path) -> None:
    """An override in another folder names its files from the project's; an include may have a folder of its own."""
    (tmp_path / "more").mkdir()
    (tmp_path / "of").mkdir()
    override, common = tmp_path / "more/override.yml", tmp_path / "common.part"
    override.write_text("services: {app: {extends: {file: common.part, service: like}}}\n")
    (tmp_path / "more/common.part").write_text("services: {}\n")
    (tmp_path / "more/inc.yml").write_text("services: {inc: {build: {context: ., target: '${T}'}}}\n")
    (tmp_path / "compose.yml").write_text("include: [{path: more/inc.yml, project_directory: of}]\nservices: {}\n")
    for name in ("one", "two"):
        common.write_text(f"services: {{like: {{build: {{context: ., target: {name}}}}}}}\n")
        (tmp_path / "of/.env").write_text(f"T={name}\n")
        images = project.load((tmp_path / "compose.yml", override), os.environ).images
        assert (images["app"].target, images["inc"].target) == (name, name)


def test_what_buildx_takes_from_the_environment_counts(tmp_path: Path) -> None:
    text = (
        "services: {app: {build: .}, fixed: {platform: linux/386, build: {context: ., args: {SOURCE_DATE_EPOCH: 3}}}}\n"
    )
    assert load(tmp_path, text).images["app"].platforms == ()
    environ = {"DOCKER_DEFAULT_PLATFORM": "linux/arm64", "SOURCE_DATE_EPOCH": "2"}
    images = load(tmp_path, text, **environ).images
    assert (images["app"].platforms, images["app"].args) == (("linux/arm64",), {"SOURCE_DATE_EPOCH": "2"})
    assert (images["fixed"].platforms, images["fixed"].args) == (("linux/386",), {"SOURCE_DATE_EPOCH": "3"})
    images = load(tmp_path, text, **environ, PLATFORMS="linux/amd64,linux/arm64").images
    assert images["app"].platforms == ("linux/amd64,linux/arm64",), "the setting says more than Docker's variable"
    assert images["fixed"].platforms == ("linux/386",), "and less than the Compose file"


def test_a_proxy_that_only_the_file_names_is_not_lost(tmp_path: Path) -> None:
    text = "services: {app: {build: {context: ., args: {HTTP_PROXY: 'http://proxy:3128'}}}}\n"
    assert load(tmp_path, text).images["app"].args == {"HTTP_PROXY": "http://proxy:3128"}


def test_a_name_that_no_image_can_have_is_the_problem_of_that_image(tmp_path: Path) -> None:
    good = ["a", "a/b:C_1", "localhost:5000/a/b-c.d__e:1", "[::1]:5000/a", "Registry.example.org/a:" + "t" * 128]
    bad = ["Web", "a:" + "t" * 129, "a@sha256:" + "0" * 64, "a/-b", "a:"]
    services = "".join(f"  s{number}: {{build: ., image: {ref!r}}}\n" for number, ref in enumerate([*good, *bad], 1))
    images = load(tmp_path, f"services:\n{services}  Upper: {{build: .}}\n").images
    refused = [image.ref for image in images.values() if "cannot be called" in image.problem]
    assert sorted(refused) == sorted([*bad, images["Upper"].ref])


@pytest.mark.parametrize(
    "other", ["image: docker.io/library/same:latest", "image: another, build: {context: ., tags: [same]}"]
)
def test_two_images_of_one_name_are_refused_however_it_is_written(tmp_path: Path, other: str) -> None:
    build = "" if "build" in other else ", build: {context: ., target: x}"
    images = load(tmp_path, f"services: {{one: {{image: same, build: .}}, two: {{{other}{build}}}}}\n").images
    assert images["one"].problem == ""
    assert ": the services one and two build the same image " in images["two"].problem


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".doit-images").write_text("a file")
    assert load(tmp_path, "services: {}\n").images == {}
    assert f"{tmp_path}/.doit-images: what runs remember cannot be written: " in capsys.readouterr().err


def test_nothing_secret_is_kept(tmp_path: Path) -> None:
    text = """
        services:
          app:
            build: {context: ., secrets: [token], args: {HTTP_PROXY: "${HTTP_PROXY}"}}
            environment: {PASSWORD: "${PASSWORD}"}
        secrets: {token: {environment: TOKEN}}
        """
    found = load(tmp_path, text, PASSWORD="hunter2", TOKEN="hunter3", HTTP_PROXY="http://me:hunter4@proxy")
    assert found.images["app"].args == {"HTTP_PROXY": None}, "the build takes it from its environment"
    kept = (tmp_path / ".doit-images/compose.yml/project.json").read_text()
    assert "hunter" not in kept


def test_a_kept_answer_that_is_broken_is_asked_for_again(tmp_path: Path) -> None:
    first = load(tmp_path, WHOLE)
    (tmp_path / ".doit-images/compose.yml/project.json").write_text("{")
    assert load(tmp_path, WHOLE) == first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: {a: {build: .}, b: [}\n", "compose.yml: Compose refuses it: "),
        ("services: {a: {biuld: .}}\n", "biuld"),
        ("services: {a: {build: {contxt: .}}}\n", "contxt"),
    ],
)
def test_an_invalid_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such Compose file"):
        project.load((tmp_path / "nowhere.yml",), os.environ)


def test_what_cannot_be_honoured_is_the_problem_of_that_image_alone(tmp_path: Path) -> None:
    text = """
        services:
          one: {image: same, build: {context: ., target: a}}
          two: {image: same, build: {context: ., target: b}}
          fine: {build: .}
          far: {build: {context: .,
            secrets: [far]}}
          named:
            image: a@sha256:00
            build:
              context: .
              tags: ["B:1"]
          empty: {build: "$NONE"}
          inline: {build: {dockerfile_inline: FROM scratch}}
        secrets: {far: {external: true}}
        """
    images, file = load(tmp_path, text).images, tmp_path / "compose.yml"
    assert images["two"].problem == (
        f"{file}:4: the services one and two build the same image same differently (give one another `image:`)"
    )
    assert images["fine"].problem == images["one"].problem == images["inline"].problem == ""
    assert images["empty"].problem == (
        f"{file}:13: the build's context is empty (write `.` for the folder of the Compose file)"
    )
    assert images["far"].problem == (
        f"{file}:7: a build's secret comes from a file or a variable, and 'far' from neither"
        " (say `file:` or `environment:` of it)"
    )
    why = "names are lower case and have no digest, tags have at most 128 characters (name it so)"
    assert images["named"].problem == (
        f"{file}:9: an image cannot be called 'a@sha256:00': {why}; {file}:12: an image cannot be called 'B:1': {why}"
    )


@pytest.mark.parametrize(
    ("declared", "field", "value"),
    [
        ({"provenance": "mode=max"}, "provenance", "mode=max"),
        ({"provenance": True}, "provenance", "True"),
        ({"provenance": "false"}, "provenance", ""),
        ({"sbom": "generator=x/y"}, "sbom", "generator=x/y"),
        ({"sbom": False}, "sbom", ""),
        ({"no_cache_filter": ["a"]}, "no_cache_filter", ("a",)),
        ({"isolation": "hyperv"}, "unsupported", {"isolation": '"hyperv"'}),
        ({"of_tomorrow": {"b": 1, "a": 2}}, "unsupported", {"of_tomorrow": '{"a": 2, "b": 1}'}),
        (
            {"secrets": [{"source": "s"}, {"source": "t", "uid": "1", "mode": 256, "x-a": 1}]},
            "unsupported",
            {"secrets.mode": "true", "secrets.uid": "true"},
        ),
        ({"x-mine": 1}, "unsupported", {}),
    ],
)
def test_a_key_of_another_compose_breaks_nothing(declared: dict[str, object], field: str, value: object) -> None:
    secrets = {name: {"file": f"/{name}"} for name in "st"}
    answer = {"name": "shop", "secrets": secrets, "services": {"web": {"build": {"context": "/src", **declared}}}}
    image = project.resolved(answer, (Path("/src/compose.yml"),), {}).images["web"]
    assert getattr(image, field) == value
    assert image.problem == ""
    assert project._from_json(
        json.loads(json.dumps(project._to_json(Project("shop", Path("/src"), (), {"web": image}))))
    )


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image is called 'wbe' \(did you mean 'web'\?\)"):
        load(tmp_path, WHOLE).image("wbe")


def test_compose_files(tmp_path: Path) -> None:
    assert project.compose_files({}, tmp_path) == (tmp_path / "docker-compose.optimized.yml",)
    assert project.compose_files({"COMPOSE_FILE": "a.yml:/b/c.yml"}, tmp_path) == (tmp_path / "a.yml", Path("/b/c.yml"))
    assert project.compose_files({"COMPOSE_FILE": "a|b", "COMPOSE_PATH_SEPARATOR": "|"}, tmp_path) == (
        tmp_path / "a",
        tmp_path / "b",
    )
    (tmp_path / "compose.yaml").touch()
    (tmp_path / "compose.override.yaml").touch()
    assert project.compose_files({}, tmp_path) == (tmp_path / "compose.yaml", tmp_path / "compose.override.yaml")
    (tmp_path / ".env").write_text("COMPOSE_FILE=mine.yml\n")
    assert project.compose_files({}, tmp_path) == (tmp_path / "mine.yml",)


@pytest.mark.parametrize(
    ("there", "environ", "taken"),
    [
        (["compose.yaml", "compose.override.yml"], {}, ["compose.yaml", "compose.override.yml"]),
        (["compose.yml", "docker-compose.override.yaml"], {}, ["compose.yml", "docker-compose.override.yaml"]),
        (["docker-compose.yaml", "docker-compose.yml"], {}, ["docker-compose.yml"]),
        (
            ["compose.yaml", "compose.override.yaml", "compose.override.yml"],
            {},
            ["compose.yaml", "compose.override.yml"],
        ),
        ([".env=COMPOSE_PATH_SEPARATOR=,"], {"COMPOSE_FILE": "a.yml,b.yml"}, ["a.yml", "b.yml"]),
        ([".env=COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=a,b"], {}, ["a", "b"]),
        ([".env=COMPOSE_FILE=a|b"], {"COMPOSE_PATH_SEPARATOR": "|"}, ["a", "b"]),
    ],
)
def test_compose_files_are_those_that_compose_takes(
    tmp_path: Path, there: list[str], environ: dict[str, str], taken: list[str]
) -> None:
    for name, _, text in (file.partition("=") for file in there):
        (tmp_path / name).write_text(text)
    assert project.compose_files(environ, tmp_path) == tuple(tmp_path / name for name in taken)
