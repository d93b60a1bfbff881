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
from typing import Any, NamedTuple

from tasks.base import files as kept
from tasks.engine import plugins

EPOCH = "SOURCE_DATE_EPOCH"
PLATFORMS = "PLATFORMS"


def sources(files: tuple[Path, ...], environ: Mapping[str, str]) -> list[Path] | None:
    """All files that the answer depends on: the Compose files, what they include and extend, the env files beside
    them. None if one of them is named by a variable or cannot be read: then the answer is not kept.

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
            named = _Named.of(content if isinstance(content, dict) else {})
        except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
            return None  # Compose says what is wrong with it, if it finds anything wrong
        if any("$" in text or "://" in text for text in (*named.files, *named.env_files, *named.folders)):
            return None
        places |= {place / folder: None for place in [*places] for folder in named.folders}
        sources |= {place / env_file: None for place in places for env_file in named.env_files}
        todo += [target for place in places for file in named.files if (target := place / file).is_file()]
    return [*sources, *(place / ".env" for place in places), *env_files(files, environ)]


def env_files(files: tuple[Path, ...], environ: Mapping[str, str]) -> list[Path]:
    """The env files that Compose may read for the project itself, whether they are there or not."""
    named = [part for part in environ.get("COMPOSE_ENV_FILES", "").split(",") if part]
    return [files[0].parent / name for name in (*named, ".env")]


def _tolerant_loader() -> Any:
    """A safe YAML loader that reads Compose's own tags (``!reset``, ``!override``) as nothing."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    # What Python has no such value for is nobody's name here.
    for kind in ("int", "float", "timestamp", "binary"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", lambda loader, node: str(node.value))
    return Loader


class _Named(NamedTuple):
    """What a Compose file names: further Compose files, env files, and the folders of what it includes."""

    files: tuple[str, ...]
    env_files: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> _Named:
        """What stands in the ``include`` and the ``extends`` of this file."""
        includes = [{"path": entry} if isinstance(entry, str) else entry for entry in content.get("include") or ()]
        extends = [(service or {}).get("extends") for service in (content.get("services") or {}).values()]
        files = [name for include in includes for name in _strings(include.get("path"))]
        files += [extended["file"] for extended in extends if isinstance(extended, Mapping) and extended.get("file")]
        env_files = [name for include in includes for name in _strings(include.get("env_file"))]
        folders = (include.get("project_directory") or "." for include in includes)
        return cls(tuple(files), tuple(env_files), tuple(folders))


def _strings(value: Any) -> list[str]:
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
    words = set(re.findall(rb"[A-Za-z_][A-Za-z0-9_]*", b"\n".join(texts)))
    for name in sorted(environ):
        if name.startswith(("COMPOSE_", "DOCKER_")) or name in ("HOME", EPOCH, PLATFORMS) or os.fsencode(name) in words:
            digest.update(os.fsencode(f"{name}={environ[name]}\0"))
    return digest.hexdigest()
