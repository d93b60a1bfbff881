"""A project before it is written: services with what they say of their builds, and how they are spread over files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.differential.grammar import Scope, Stage, text
from tests.differential.projects import Entry, Project

_SECOND = "second.yml"
MAINS = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")


class Tagged(NamedTuple):
    """A value under a tag, an anchor or an alias of YAML: what is written before it."""

    tag: str
    value: Any


OVERRIDES = (
    "compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml",
)  # fmt: skip
INCLUDED = "sub/.env"
"""The env file of what is included."""


@dataclass
class Service:
    """A service as it is declared: ``build`` by key, ``more`` of the service itself, where its Dockerfile and its
    ignore file lie ("" for an inline one), and ``place``: in which way it is spread over Compose files."""

    name: str
    scope: Scope
    stages: list[Stage]
    style: str
    build: dict[str, Any]
    context: str
    dockerfile: str = ""
    ignore: str = ""
    rules: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    place: str = "plain"
    apart: tuple[str, ...] = ()


@dataclass
class Model:
    """A project before it is written."""

    files: dict[str, Entry] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    included: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, Any] = field(default_factory=dict)
    main: str = MAINS[0]
    second: str = ""
    named: str = ""
    separator: str = ""

    def project(self) -> Project:
        tree: dict[str, Entry] = dict(self.files)
        for service in self.services:
            if service.dockerfile:
                tree[service.dockerfile] = text(service.stages, service.style)
            if service.rules is not None:
                tree[service.ignore] = service.rules
        environ, stored = dict(self.environ), dict(self.stored)
        documents = _documents(self)
        files = (self.separator or ":").join((self.main, *filter(None, (self.second,))))
        if self.named:  # older versions of Compose take both from one place
            holder = environ if self.named == "environ" else stored
            holder["COMPOSE_FILE"] = files
            if self.separator:
                holder["COMPOSE_PATH_SEPARATOR"] = self.separator
        tree |= {path: _written(document) for path, document in documents.items()}
        for path, variables in {".env": stored, INCLUDED: self.included}.items():
            if variables:
                tree[path] = "".join(f"{name}={value}\n" for name, value in variables.items())
        return Project(tree, environ)


def _documents(model: Model) -> dict[str, dict[str, Any]]:
    """The Compose files by their paths."""
    main: dict[str, Any] = {"name": "NAME", "services": {}}
    found = {model.main: main}
    if model.secrets:
        main["secrets"] = model.secrets
    for service in model.services:
        build: Any = dict(service.build)
        if service.dockerfile == "":
            build["dockerfile_inline"] = text(service.stages, "").replace("$", "$$")
        whole = {"image": f"NAME/{service.name}", **service.more, "build": build}
        _PLACES[service.place](found, main, service, whole)
    if model.second:
        found[model.second] = found.pop(_SECOND, {"services": {}})
    return found


def _plain(found, main, service: Service, whole: dict[str, Any]) -> None:
    if [*whole["build"]] == ["context"]:
        whole["build"] = whole["build"]["context"]
    main["services"][service.name] = whole


def _extends(found, main, service: Service, whole: dict[str, Any], tag: str = "") -> None:
    path = f"base-{service.name}.yml"
    found[path] = {"services": {"under": whole}}
    over = {key: whole["build"].pop(key) for key in service.apart if key in whole["build"]}
    said: dict[str, Any] = {"extends": {"file": path, "service": "under"}}
    if over:
        said["build"] = over
    main["services"][service.name] = Tagged(tag, said) if tag else said


def _override_extends(found, main, service: Service, whole: dict[str, Any]) -> None:
    _extends(found, main, service, whole, "!override")


def _include(found, main, service: Service, whole: dict[str, Any]) -> None:
    path = f"inc-{service.name}.yml"
    found[path] = {"services": {service.name: whole}}
    entry: Any = path if "args" not in service.apart else {"path": [f"./{path}"], "project_directory": "."}
    main.setdefault("include", []).append(entry)


def _include_below(found, main, service: Service, whole: dict[str, Any]) -> None:
    """From a folder with an env file of its own, which relative paths start from as well."""
    build = whole["build"] = {**whole["build"], "context": f"../{whole['build']['context']}", "args": {"A": "${INC}"}}
    if isinstance(named := build.get("additional_contexts"), dict):
        build["additional_contexts"] = {name: value if ":" in value else f"../{value}" for name, value in named.items()}
    found[f"sub/inc-{service.name}.yml"] = {"services": {service.name: whole}}
    main.setdefault("include", []).append(f"sub/inc-{service.name}.yml")


def _include_with(found, main, service: Service, whole: dict[str, Any]) -> None:
    whole["build"]["args"] = ["A=${INC:-d}"]
    found[f"inc-{service.name}.yml"] = {"services": {service.name: whole}}
    entry = {"path": f"inc-{service.name}.yml", "env_file": INCLUDED, "project_directory": "."}
    main.setdefault("include", []).append(entry)


def _second(found, main, service: Service, whole: dict[str, Any], tag: str = "") -> None:
    second = found.setdefault(_SECOND, {"services": {}})
    over = {key: whole["build"].pop(key) for key in service.apart if key in whole["build"]}
    if tag == "!override":
        whole["build"] |= {key: _other(value) for key, value in over.items() if key in ("args", "labels")}
    main["services"][service.name] = whole
    tagged = {key: Tagged(tag, value) if tag and key in ("args", "labels") else value for key, value in over.items()}
    second["services"][service.name] = {"build": tagged} if tagged else {"labels": {"of": "a container"}}


def _override(found, main, service: Service, whole: dict[str, Any]) -> None:
    _second(found, main, service, whole, "!override")


def _reset(found, main, service: Service, whole: dict[str, Any]) -> None:
    second = found.setdefault(_SECOND, {"services": {}})
    main["services"][service.name] = whole
    whole["build"].setdefault("labels", {"gone": "1"})
    second["services"][service.name] = {"build": {"labels": Tagged("!reset", None)}}


def _anchor(found, main, service: Service, whole: dict[str, Any]) -> None:
    over = {key: whole["build"].pop(key) for key in service.apart if key in whole["build"]}
    main[f"x-{service.name}"] = Tagged(f"&{service.name}", whole["build"])
    main["services"][service.name] = {**whole, "build": {"<<": Tagged(f"*{service.name}", ...), **over}}


_PLACES = {
    "plain": _plain,
    "extends": _extends,
    "override extends": _override_extends,
    "include": _include,
    "include below": _include_below,
    "include with": _include_with,
    "second": _second,
    "override": _override,
    "reset": _reset,
    "anchor": _anchor,
}
IN_SECOND = ("second", "override", "reset")


def _other(value: Any) -> Any:
    return ["GONE=1"] if isinstance(value, list) else {"GONE": "1"}


def _written(document: Mapping[str, Any]) -> str:
    lines = []
    for key, value in sorted(document.items(), key=lambda item: item[0] == "services"):  # anchors come first
        if key == "services":
            lines += ["services:", *(f"  {name}: {_yaml(service)}" for name, service in value.items())]
            if not value:
                lines[-1] += " {}"
        else:
            lines.append(f"{key}: {_yaml(value)}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    match value:
        case Tagged(tag, inner):
            return tag if inner is ... else f"{tag} {_yaml(inner)}"
        case dict():
            return (
                "{"
                + ", ".join(f"{key if key == '<<' else json.dumps(key)}: {_yaml(each)}" for key, each in value.items())
                + "}"
            )
        case list():
            return "[" + ", ".join(map(_yaml, value)) + "]"
    return json.dumps(value)
