"""On what does Compose's answer about the project's files depend?

Asking (``docker compose config``) takes longer than a run with nothing to do may take in all, so the answer is kept
under a digest of everything that goes into it: more than Compose reads where that is in doubt, never less.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from doit_images.core.base import files as kept
from doit_images.core.engine import plugins

EPOCH = "SOURCE_DATE_EPOCH"
PLATFORMS = "PLATFORMS"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # an argument may have any other name too


def sources(files: tuple[Path, ...], environ: Mapping[str, str]) -> list[Path] | None:
    """All files that the answer depends on: the Compose files, what they include and extend, the env files beside
    them. None if one of them is not known, or which variables count is not: then the answer is not kept.

    Compose takes a relative name from the folder of the file that holds it, from the project's or from one that an
    include names; here all files of that name count.
    """
    import yaml

    sources: dict[Path, None] = {}
    places: dict[Path, None] = {path.parent: None for path in files}
    todo = [*files]
    while todo:
        path = todo.pop()
        if path in sources:
            continue
        sources[path] = None
        places[path.parent] = None
        try:
            content = yaml.load(kept.content(path), _tolerant_loader())  # noqa: S506  a SafeLoader
            further, envs, folders = _named(content or {})
            if any("$" in text or "://" in text for text in (*further, *envs, *folders)):
                return None
        except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
            return None  # Compose says what is wrong with it, if it finds anything wrong
        places |= {place: None for folder in folders for place in _placed(folder, places)}
        sources |= {path: None for env_file in envs for path in _placed(env_file, places)}
        for file in further:
            found = [path for path in _placed(file, places) if path.is_file()]
            if not found:
                return None
            todo += found
    return [*sources, *(place / ".env" for place in places), *env_files(files, environ)]


def env_files(files: tuple[Path, ...], environ: Mapping[str, str]) -> list[Path]:
    """The env files that Compose may read for the project itself, whether they are there or not."""
    named = [part for part in environ.get("COMPOSE_ENV_FILES", "").split(",") if part]
    return [files[0].parent / name for name in (*named, ".env")]


def _placed(name: str, places: Iterable[Path]) -> list[Path]:
    """All that a name may mean: of ``link/..`` the system takes the folder above what the link leads to, Compose the
    one that holds the link."""
    paths = [place / name for place in places]
    return [*paths, *(Path(os.path.normpath(path)) for path in paths if ".." in path.parts)]


def _tolerant_loader() -> Any:
    """A safe YAML loader that reads what carries one of Compose's own tags (``!reset``, ``!override``) as it would
    without."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def untagged(loader: Any, suffix: str, node: Any) -> Any:
        tag = loader.resolve(type(node), node.value, (True, False))
        return loader.construct_object(type(node)(tag, node.value), deep=True)

    Loader.add_multi_constructor("!", untagged)
    # What Python has no such value for is nobody's name here.
    for kind in ("int", "float", "timestamp", "binary"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", lambda loader, node: str(node.value))
    return Loader


def _named(content: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """What a Compose file names in ``include`` and ``extends``: further Compose files, env files, and the folders of
    what it includes. Raises what a file of another form than Compose's makes it raise, and ``ValueError`` where an
    argument gets its name from a variable: whichever that names may count."""
    includes = [{"path": entry} if isinstance(entry, str) else entry for entry in content.get("include") or ()]
    services = [service or {} for service in (content.get("services") or {}).values()]
    extends = [service.get("extends") for service in services]
    builds = [service.get("build") for service in services]
    arguments = [build.get("args") for build in builds if isinstance(build, Mapping)]
    if any("$" in str(each).partition("=")[0] for args in arguments if isinstance(args, list) for each in args):
        raise ValueError("an argument is named by a variable")
    files = [name for include in includes for name in _strings(include.get("path"))]
    files += [extended["file"] for extended in extends if isinstance(extended, Mapping) and extended.get("file")]
    env_files = [name for include in includes for name in _strings(include.get("env_file"))]
    folders = [name for include in includes for name in _strings(include.get("project_directory") or ".")]
    if odd := [name for name in (*files, *env_files, *folders) if not isinstance(name, str)]:
        raise TypeError(f"{odd[0]!r} is no name")
    return files, env_files, folders


def _strings(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or ())


def key(sources: Iterable[Path], files: Iterable[Path], environ: Mapping[str, str]) -> str:
    """A digest of all that Compose's answer depends on; values of variables enter it only by their digest."""
    head = f"{[str(file) for file in files]} {plugins.identity('docker-compose')}"
    digest = hashlib.sha256(os.fsencode(head))
    texts = []
    for path in sources:
        try:
            text = kept.content(path)
        except OSError:
            text = b""
            digest.update(b"absent")
        texts.append(text)
        digest.update(os.fsencode(f"{path}\0{len(text)}\0") + text)
    # Any variable whose name is a word of the files may be interpolated: more than Compose reads, never less.
    text = b"\n".join(texts)
    words = set(re.findall(rb"[A-Za-z_][A-Za-z0-9_]*", text))
    for name in sorted(environ):
        known = name.startswith(("COMPOSE_", "DOCKER_")) or name in ("HOME", EPOCH, PLATFORMS)
        if known or os.fsencode(name) in (words if _VARIABLE.fullmatch(name) else text):
            digest.update(os.fsencode(f"{name}={environ[name]}\0"))
    return digest.hexdigest()
