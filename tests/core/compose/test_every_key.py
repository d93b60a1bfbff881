"""What becomes of each key that a Compose file may have? ``docs/compose.md`` says it, and nothing is ignored.

The keys are those of the specification's schema, which every Compose carries in its program. ``every_key.yml`` has a
value for each, so that Compose itself says that they are keys.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import newer_engine
from doit_images.core.compose import project
from doit_images.core.compose.image import Image
from doit_images.core.compose.stack import Compose
from doit_images.core.engine import plugins
from doit_images.core.inputs import declaration
from doit_images.stack import compose_override
from doit_images.stack.images import Kept
from tests.conftest import ROOT, needs_docker_command

pytestmark = needs_docker_command

Key = tuple[str, ...]
SAMPLE = yaml.safe_load(Path(__file__).with_name("every_key.yml").read_text())
# Keys of Compose 5 that no Compose which can be had here knows.
LATER = {"services.*.pre_start", "services.*.build.no_cache_filter"}
_SCHEMA = re.compile(rb'\{\s*"\$schema": "[^"]+",\s*"\$id": "compose[_-]spec\.json"')


def keys_of(program: Path) -> set[Key]:
    """The keys in the schema that a Compose carries; ``*`` is any name."""
    data = program.read_bytes()
    found = _SCHEMA.search(data)
    assert found, f"{program} carries no schema"
    text = data[found.start() : found.start() + 2**20].decode(errors="replace")
    schema = json.JSONDecoder().raw_decode(text)[0]
    return set(_keys(schema, (), schema.get("definitions") or schema["$defs"]))


def _keys(node: object, path: Key, known: Mapping[str, Any], seen: Key = ()) -> Iterator[Key]:
    if not isinstance(node, dict):
        return
    name = node.get("$ref", "").rpartition("/")[2]
    if name and name not in seen:
        yield from _keys(known[name], path, known, (*seen, name))
    free = [each for pattern, each in (node.get("patternProperties") or {}).items() if pattern != "^x-" and path]
    for key, each in [*(node.get("properties") or {}).items(), *(("*", each) for each in free)]:
        yield (*path, key)
        yield from _keys(each, (*path, key), known, seen)
    for each in (node.get("items"), *node.get("oneOf", ()), *node.get("anyOf", ())):
        yield from _keys(each, path, known, seen)


def fits(key: Key, path: Key) -> bool:
    return len(key) == len(path) and all(one in ("*", two) for one, two in zip(key, path, strict=True))


def without(value: Any, keys: set[Key], path: Key = ()) -> Any:
    """What is declared, without the keys that a schema does not know; below what has none of its own all names are."""
    if isinstance(value, list):
        return [without(each, keys, path) for each in value]
    if not isinstance(value, dict):
        return value
    here = [key for key in keys if len(key) == len(path) + 1 and fits(key[:-1], path)]
    kept = {name: each for name, each in value.items() if not here or any(fits(key, (*path, name)) for key in here)}
    # A service of which nothing is left was all about such a key.
    return {
        name: inner
        for name, each in kept.items()
        if (inner := without(each, keys, (*path, name))) or not each or path != ("services",)
    }


def paths(value: Any, path: Key = ()) -> Iterator[Key]:
    for name, each in value.items() if isinstance(value, dict) else ():
        yield (*path, name)
        yield from paths(each, (*path, name))
    for each in value if isinstance(value, list) else ():
        yield from paths(each, path)


class Told:
    """The tables of the documentation: of each key, what they say in bold. A heading is the key that rows are of."""

    def __init__(self) -> None:
        self.said: dict[Key, set[str]] = {}
        self.parts: set[Key] = set()
        part: Key = ()
        for line in (ROOT / "docs/compose.md").read_text().splitlines():
            if line.startswith("## "):
                part = tuple(".".join(re.findall("`(.+)`", line)).split(".")) if "`" in line else ()
                self.parts |= {part, part[:1]}
            if row := re.match(r"\| (`.+?`) \| (.+) \|$", line):
                said = set(re.findall(r"\*\*(.+?)\*\*", row[2]))
                self.said |= {(*part, *key.split(".")): said for key in re.findall("`(.+?)`", row[1])}

    def of(self, path: Key) -> set[str]:
        """What is said of it, or of the nearest key above; a part says nothing of what it has no row for."""
        for length in range(len(path), 0, -1):
            if found := [said for key, said in self.said.items() if fits(key, path[:length])]:
                return found[0]
            if any(fits(key, path[:length]) for key in self.parts):
                return {"part"} if length == len(path) else set()
        return set()


class Here:
    """A Compose that is here, and the project of every key that it knows, in a folder."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        program = plugins._file("docker-compose", environ)
        assert program
        self.environ, self.folder, self.keys = environ, folder, keys_of(program)
        (folder / "included.yml").write_text("services: {base: {image: base}}\n")
        (folder / "included.env").write_text("A=b\n")
        (folder / "every.json").write_text(json.dumps(without(SAMPLE, self.keys)))

    def config(self, *overrides: Path, name: str = "every-b") -> dict[str, Any]:
        files = (self.folder / "every.json", *overrides)
        return Compose(files, name, self.environ).config("--profile", "*")


@pytest.fixture(scope="module", params=["here", pytest.param(newer_engine.SUITE, marks=pytest.mark.all)])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Here:
    more = {} if request.param == "here" else newer_engine.compose_alone(tmp_path_factory.mktemp("docker"))
    return Here({**os.environ, **more}, tmp_path_factory.mktemp("every"))


def test_every_key_of_this_compose_is_tried_and_told(here: Here) -> None:
    declared, told = set(paths(SAMPLE)), Told()
    named = {key for key in here.keys if key[-1] != "*"}
    assert len(named) > 300
    assert [key for key in named if not any(fits(key, path) for path in declared)] == [], "in every_key.yml"
    assert [key for key in named if not told.of(key)] == [], "in docs/compose.md"
    assert here.config()["name"] == "every-b", "Compose takes them"


@pytest.mark.all
def test_no_key_is_invented() -> None:
    known = keys_of(newer_engine.unpacked() / "usr/libexec/docker/cli-plugins/docker-compose")
    known |= {tuple(key.split(".")) for key in LATER}
    assert without(SAMPLE, known) == SAMPLE
    told = Told()
    assert [key for key in told.said if not any(fits(key, path) for path in paths(SAMPLE))] == []


def test_what_is_passed_on_is_what_it_was(here: Here) -> None:
    """Of a stack beside another's, whose files we change, too: but for what is said to be moved."""
    before = here.config()
    fixed = compose_override.names_of_files(before, here.config(name="elsewhere"))
    wanted = compose_override.wanted_ports(before)
    moved, pinned = here.folder / "moved.yml", here.folder / "pinned.json"
    moved.write_text(compose_override.override(before, fixed, dict.fromkeys(wanted, 28000)))
    built = Kept(("every-b-built", "every/built"), "every/built:in-1", "sha256:1")
    pinned.write_text(compose_override.pinned(before, {"built": built}))
    after, told = here.config(moved, pinned), Told()
    # Whom it is now put beside, as a service of this stack, Compose starts before it.
    changed = set(differences(before, after)) - {("services", "like", "depends_on")}
    assert {path for path in changed if "moved" not in told.of(path)} == set()
    moves = [key for key, said in told.said.items() if "moved" in said and key in here.keys]
    assert [key for key in moves if not any(fits(key, path[: len(key)]) for path in changed)] == []


def test_of_a_build_nothing_is_lost(here: Here) -> None:
    """Each key changes what counts, or what is told to BuildKit and kept, or what is said."""
    config = here.config()
    rows = {key: said for key, said in Told().said.items() if key[:3] == ("services", "*", "build")}
    for key, said in rows.items():
        if key not in here.keys:
            continue
        less = deepcopy(config)
        name = "inline" if key[-1] == "dockerfile_inline" else "built"
        remove(less["services"][name]["build"], key[3:])
        one, two = (project.resolved(each, (here.folder / "every.json",), {}).images[name] for each in (config, less))
        assert one != two, key
        assert (counted(one) != counted(two)) == ("honoured" not in said), key
        assert one.unsupported != two.unsupported or "said" not in said, key


def remove(value: Any, key: Key) -> None:
    for each in value if isinstance(value, list) else [value]:
        if len(key) == 1:
            each.pop(key[0], None)
        elif key[0] in each:
            remove(each[key[0]], key[1:])


def counted(image: Image) -> object:
    """What counts of it: the settings, and where that lies which counts by its content."""
    settings = declaration.settings(image, None, image.platforms, (), {})
    return settings, image.context, image.dockerfile, image.dockerfile_inline, image.contexts


def differences(one: Any, two: Any, path: Key = ()) -> Iterator[Key]:
    if isinstance(one, dict) and isinstance(two, dict):
        for name in one.keys() | two.keys():
            yield from differences(one.get(name), two.get(name), (*path, name))
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for mine, other in zip(one, two, strict=True):
            yield from differences(mine, other, path)
    elif one != two:
        yield path
