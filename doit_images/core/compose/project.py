"""What does the Compose project declare?

An *image* is a service with a ``build:`` section. Compose itself resolves the file (interpolation,
``extends``, ``include``, profiles): ``docker compose config``. Its answer is kept in
``project.json`` in the project's folder together with a digest of all that it depends on, so that a run that changes
nothing does not pay for it again. Of the answer only what builds need is kept, never a service's
environment, which may hold secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.core.base import checked_json, files
from doit_images.core.base.errors import UserError, meant
from doit_images.core.base.masking import safe_arguments
from doit_images.core.base.places import project_folder
from doit_images.core.base.references import familiar, is_taggable
from doit_images.core.base.settings import read_env, root
from doit_images.core.base.shapes import fits
from doit_images.core.compose import answer as compose_answer
from doit_images.core.compose import env_files, tests
from doit_images.core.compose import needs as build_needs
from doit_images.core.compose.answer import EPOCH, PLATFORMS
from doit_images.core.compose.image import Image, Secret, is_remote
from doit_images.core.compose.place import place

DEFAULT_FILE = "docker-compose.optimized.yml"
_FORMAT = 12  # of project.json: raised whenever what is kept there changes its meaning
_OPTIONAL, _COUNTED = "x-optional-secrets", "x-counted-secrets"
# In the order in which Compose looks for them: the first that is there, and the first of those that are put over it.
_COMPOSE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_OVERRIDES = (
    "compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml",
)  # fmt: skip

# Arguments that BuildKit predefines: they count for no cache and no history, and may hold a proxy's password.
PROXIES = {f"{scheme}_PROXY" for scheme in ("HTTP", "HTTPS", "FTP", "NO", "ALL")}
# Every key of `build:` that buildx has an option for; other keys, of this Compose or a later one, are `unsupported`.
_HONOURED = {
    "context", "dockerfile", "dockerfile_inline", "args", "target", "additional_contexts", "secrets", "ssh",
    "platforms", "cache_from", "cache_to", "labels", "network", "shm_size", "extra_hosts", "no_cache", "pull",
    "tags", "entitlements", "privileged", "ulimits", "provenance", "sbom", "no_cache_filter",
}  # fmt: skip


NO_IMAGES = "no service of this project has a `build:` section: there is nothing to build"


class Project(NamedTuple):
    """A resolved Compose project: its name, its folder, its Compose files, its images by name, what of the machine
    their builds need, where it says so, and what is said of tests (``compose.tests``)."""

    name: str
    directory: Path
    files: tuple[Path, ...]
    images: Mapping[str, Image]
    needs: Mapping[str, build_needs.Needs] = {}
    tests: Mapping[str, Any] = {}

    def image(self, name: str) -> Image:
        """The image of that name; ``UserError`` that offers the nearest names where there is none."""
        if name in self.images:
            return self.images[name]
        remedy = meant(name, self.images) if self.images else "none is built here"
        raise UserError(f"no image is called {name!r}", where=str(self.files[0]), remedy=remedy)


def compose_files(environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> tuple[Path, ...]:
    """The Compose files of a folder (default: the project's root), absolute: ``COMPOSE_FILE`` (several: by
    ``COMPOSE_PATH_SEPARATOR``), from the environment or from its ``.env``, else our own declaration, else Compose's
    default names with their override. ``UserError`` for one that names none."""
    folder = folder or root()
    stored = (
        read_env(folder / ".env") if "COMPOSE_FILE" not in environ or "COMPOSE_PATH_SEPARATOR" not in environ else {}
    )
    named = environ.get("COMPOSE_FILE") or stored.get("COMPOSE_FILE", "")
    if named:
        separator = environ.get("COMPOSE_PATH_SEPARATOR") or stored.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        files = tuple((folder / part).absolute() for part in named.split(separator) if part)
        if not files:
            raise UserError(f"COMPOSE_FILE is {named!r} and names no file", remedy="unset it, or name one")
        return files
    if (folder / DEFAULT_FILE).is_file():
        return (folder / DEFAULT_FILE,)
    first, over = (
        next((folder / name for name in names if (folder / name).is_file()), None)
        for names in (_COMPOSE_NAMES, _OVERRIDES)
    )
    return tuple(filter(None, (first, over))) if first else (folder / DEFAULT_FILE,)


def load(files: tuple[Path, ...], environ: Mapping[str, str]) -> Project:
    """The resolved project of these Compose files: from its ``project.json`` if nothing that it depends on
    changed, else from ``docker compose config``, in ``environ``.

    Raises ``UserError`` with Compose's own words when the files are not there or not valid.
    """
    for file in files:
        if not file.is_file():
            raise UserError("there is no such Compose file", where=str(file), remedy="see COMPOSE_FILE")
    kept = project_folder(files, environ) / "project.json"
    # Of what another version wrote: Compose is then asked.
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
        known = checked_json.recall(kept) or {}
        sources = [Path(path) for path in known["sources"]]
        if known["format"] == _FORMAT and known["key"] == compose_answer.key(sources, files, environ):
            return _from_json(known["project"])
    from doit_images.core.compose.stack import Compose

    given = env_files.with_values(files, environ, ["DOCKER_DEFAULT_PLATFORM"])
    project = resolved(Compose(files, "", environ).config(), files, given)
    current = compose_answer.sources(files, environ)
    if current is not None and not _holds_secret(project, current):
        key = compose_answer.key(current, files, environ)
        content = {"format": _FORMAT, "key": key, "sources": list(map(str, current)), "project": _to_json(project)}
        checked_json.remember(kept, content)
    return project


def resolved(answer: Any, files: tuple[Path, ...], environ: Mapping[str, str]) -> Project:
    """The project that ``docker compose config`` gave this ``answer`` about. ``UserError`` for an answer of a form that
    no Compose is known to give."""
    try:
        declared = sorted((answer.get("services") or {}).items())
        builds = [(name, service) for name, service in declared if service.get("build")]
        images = {name: _image(name, service, answer, environ) for name, service in builds}
        images = {name: _checked(image, answer, files) for name, image in images.items()}
        needs = build_needs.parse(answer.get(build_needs.DECLARED), images, files[0])
        said = tests.said(answer.get(tests.DECLARED))
        project = Project(answer["name"], files[0].parent, files, _without_clashes(images, files), needs, said)
        odd = [name for name, image in project.images.items() if not fits(image, Image)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        odd = [f"{type(error).__name__}: {error}"]
    if odd:
        raise UserError(
            f"Compose's answer has an unknown form: {', '.join(odd)}",
            where=str(files[0]),
            remedy="`docker compose config` shows it",
        )
    return project


def _holds_secret(project: Project, sources: Sequence[Path]) -> bool:
    """Whether an argument or a label may be a secret that stands in none of these files: it came from the environment,
    and is kept nowhere."""
    given = [known for image in project.images.values() for known in (image.args, image.labels)]
    suspect = [(known, name) for known in given for name, safe in safe_arguments(known).items() if safe != known[name]]
    values = [known[name] or "" for known, name in suspect]
    texts = "".join(path.read_text(errors="replace") for path in sources if path.is_file()) if values else ""
    return not all(value in texts for value in values)


def with_dockerfile(image: Image) -> Image:
    """The image with the Dockerfile that buildx takes: ``dockerfile`` where no ``Dockerfile`` lies beside it."""
    folder, _, name = image.dockerfile.rpartition("/")
    if name != "Dockerfile" or not folder or os.path.lexists(image.dockerfile):
        return image
    lower = f"{folder}/dockerfile"
    return replace(image, dockerfile=lower) if os.path.lexists(lower) else image


def dockerfile_text(image: Image) -> str:
    """The text of an image's Dockerfile, its odd bytes as surrogates; ``UserError`` if it cannot be read."""
    if image.dockerfile_inline is not None:
        return image.dockerfile_inline
    try:
        return files.content(Path(image.dockerfile)).decode(errors="surrogateescape")
    except FileNotFoundError:
        where = f"service {image.name}"
        raise UserError(
            f"there is no Dockerfile {image.dockerfile!r}", where=where, remedy="see build.dockerfile"
        ) from None
    except OSError as error:
        raise UserError(f"the Dockerfile cannot be read: {error.strerror}", where=image.dockerfile) from None


def _image(name: str, service: Mapping[str, Any], answer: Mapping[str, Any], environ: Mapping[str, str]) -> Image:
    build = service["build"]
    secrets = tuple(_secret(item, answer) for item in build.get("secrets") or ())
    ref = service.get("image") or f"{answer['name']}-{name}"
    context = build.get("context") or ""
    contexts = dict(build.get("additional_contexts") or {})
    # buildx would take the platform, and the time of layers, from the environment by itself.
    platform = service.get("platform") or environ.get(PLATFORMS) or environ.get("DOCKER_DEFAULT_PLATFORM")
    args = {name: environ[name] for name in (EPOCH,) if environ.get(name)} | (build.get("args") or {})
    return Image(
        name=name,
        ref=ref,
        context=context,
        dockerfile=_dockerfile(build, context),
        dockerfile_inline=build.get("dockerfile_inline"),
        target=build.get("target") or None,
        args={key: _argument(key, value, environ) for key, value in args.items()},
        contexts=contexts,
        secrets=secrets,
        ssh=tuple(_pairs(build.get("ssh"))),
        platforms=tuple(build.get("platforms") or ([platform] if platform else [])),
        cache_from=tuple(build.get("cache_from") or ()),
        cache_to=tuple(build.get("cache_to") or ()),
        labels={key: str(value) for key, value in (build.get("labels") or {}).items()},
        network=build.get("network") or "",
        shm_size=str(build.get("shm_size") or ""),
        extra_hosts=tuple(item.replace("=", ":", 1) for item in _pairs(build.get("extra_hosts"))),
        no_cache=bool(build.get("no_cache")),
        pull=bool(build.get("pull")),
        tags=tuple(build.get("tags") or ()),
        entitlements=tuple(build.get("entitlements") or ()),
        privileged=bool(build.get("privileged")),
        ulimits=tuple(_ulimits(build.get("ulimits") or {})),
        provenance=_attestation(build.get("provenance")),
        sbom=_attestation(build.get("sbom")),
        no_cache_filter=tuple(build.get("no_cache_filter") or ()),
        unsupported=_unsupported(build),
    )


def _checked(image: Image, answer: Mapping[str, Any], files: Sequence[Path]) -> Image:
    """The image, with all that already its declaration shows to be impossible."""
    problems = (
        f"{place(files, 'services', image.name, *keys)}: {sentence} ({remedy})"
        for keys, sentence, remedy in _problems(image, answer["services"])
    )
    return replace(image, problem="; ".join(problems))


def _dockerfile(build: Mapping[str, Any], context: str) -> str:
    """Where the Dockerfile is, "" for an inline one."""
    if build.get("dockerfile_inline") is not None:
        return ""
    path: str = build.get("dockerfile") or "Dockerfile"
    return path if is_remote(context) else os.path.normpath(Path(context) / path)


def _problems(image: Image, services: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What cannot be, each with the keys of the service that say it, and the remedy."""
    for ref in image.names:
        if not is_taggable(ref):
            why = "names are lower case and have no digest, tags have at most 128 characters"
            keys = ("image",) if ref == image.ref else ("build", "tags")
            yield keys, f"an image cannot be called {ref!r}: {why}", "name it so"
    if not image.context:  # some versions of Compose refuse it, others take the folder that they are called in
        yield ("build", "context"), "the build's context is empty", "write `.` for the folder of the Compose file"
    for secret in image.secrets:
        if not secret.file and not secret.environment:
            why = f"a build's secret comes from a file or a variable, and {secret.id!r} from neither"
            yield ("build", "secrets"), why, "say `file:` or `environment:` of it"
    for key, value in image.contexts.items():  # not every Compose sees to that
        service = value.removeprefix("service:")
        if service != value and not services.get(service, {}).get("build"):
            why = f"additional_contexts.{key} names {value!r}, which is not a service with a build section"
            yield ("build", "additional_contexts", key), why, "name one that is built"


def _unsupported(build: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a build that buildx has no option for. Of a secret's owner and mode Compose's versions write
    the values in several ways, and BuildKit goes by the Dockerfile's: that there are some is all."""
    kept = {key: value for key, value in build.items() if key not in _HONOURED and not key.startswith("x-")}
    parts = {key for item in build.get("secrets") or () if isinstance(item, Mapping) for key in item}
    kept |= {f"secrets.{key}": True for key in sorted(parts & {"uid", "gid", "mode"})}
    return {key: json.dumps(value, sort_keys=True) for key, value in kept.items()}


def _argument(name: str, value: object, environ: Mapping[str, str]) -> str | None:
    """The value of a build argument; None where the environment has it, as with proxies: their values are not kept."""
    taken = name.upper() in PROXIES and environ.get(name) == value
    return None if value is None or taken else str(value)


def _pairs(value: Any) -> Iterator[str]:
    """Compose writes such lists either as ``["a=b"]`` or as ``{"a": "b"}`` (a value may be a list)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for text in inner if isinstance(inner, list) else [inner]:
                yield f"{key}={text}" if text else key
    else:
        yield from value or ()


def _ulimits(value: Mapping[str, object]) -> Iterator[str]:
    for name, limit in value.items():
        both = f"{limit['soft']}:{limit['hard']}" if isinstance(limit, Mapping) else str(limit)
        yield f"{name}={both}"


def _attestation(value: object) -> str:
    """What ``provenance`` or ``sbom`` asks for; "" for nothing, which is what a build here does by itself."""
    text = str(value or "")
    return "" if text.lower() in ("false", "f", "0") else text


def _secret(item: Mapping[str, Any] | str, answer: Mapping[str, Any]) -> Secret:
    source = item if isinstance(item, str) else item["source"]
    ident = source if isinstance(item, str) else item.get("target") or source
    origin = (answer.get("secrets") or {}).get(source) or {}
    optional, counts = (source in (answer.get(key) or ()) for key in (_OPTIONAL, _COUNTED))
    return Secret(ident, origin.get("file") or "", origin.get("environment") or "", optional, counts)


def _without_clashes(images: Mapping[str, Image], files: Sequence[Path]) -> dict[str, Image]:
    """Services may share an image's name if they build it the same way: it is then built once. Else the later of them
    would win, whichever that is, so that is refused."""
    owners: dict[str, Image] = {}
    result: dict[str, Image] = {}
    for name, image in images.items():
        shared = [ref for ref in image.names if owners.setdefault(familiar(ref), image) is not image]
        first = owners[familiar(shared[0])] if shared else image
        if shared and replace(first, name=name, ref=image.ref) == image:
            image = replace(image, duplicate_of=first.name)
        elif shared:
            where = place(files, "services", name, "image")
            problem = f"the services {first.name} and {name} build the same image {shared[0]} differently"
            image = replace(image, problem=image.problem or f"{where}: {problem} (give one another `image:`)")
        result[name] = image
    return result


def _to_json(project: Project) -> dict[str, Any]:
    return {
        "name": project.name,
        "directory": str(project.directory),
        "files": [str(file) for file in project.files],
        "images": [asdict(image) for image in project.images.values()],
        "needs": project.needs,
        "tests": dict(project.tests),
    }


def _from_json(kept: Mapping[str, Any]) -> Project:
    images = {}
    for image in kept["images"]:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in image.items()}
        values["secrets"] = tuple(Secret(**secret) for secret in image["secrets"])
        images[image["name"]] = Image(**values)
    needs = {name: build_needs.Needs(*each) for name, each in kept["needs"].items()}
    return Project(kept["name"], Path(kept["directory"]), tuple(map(Path, kept["files"])), images, needs, kept["tests"])
