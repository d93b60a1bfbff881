"""Projects for the benchmarks: many images on one base, made of small files, the same on every machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOIT = [sys.executable, "-m", "doit"]


@dataclass(frozen=True)
class Monorepo:
    """A generated project: ``count`` images on one base, each with a folder of ``files`` files of its own."""

    folder: Path
    name: str
    count: int
    files: int

    @property
    def compose(self) -> Path:
        """Its Compose file."""
        return self.folder / "compose.yml"

    def file(self, image: int, number: int) -> Path:
        """One file of one image."""
        return self.folder / f"services/s{image:04}/part{number % 5}/file{number:04}.txt"


def write_monorepo(folder: Path, name: str, count: int, files: int) -> Monorepo:
    """Write the project; its edges are said by ``FROM`` and ``image:``, which Compose, bake and doit all understand."""
    repo = Monorepo(folder, name, count, files)
    services: dict[str, Any] = {"base": {"image": f"{name}/base", "build": {"context": "base"}}}
    _write(folder / "base/Dockerfile", "FROM scratch\nCOPY base.txt /base.txt\n")
    _write(folder / "base/base.txt", f"{name}\n")
    for image in range(count):
        service = f"s{image:04}"
        services[service] = {"image": f"{name}/{service}", "build": {"context": f"services/{service}"}}
        _write(folder / f"services/{service}/Dockerfile", f"FROM {name}/base\nCOPY part* /app/\n")
        for number in range(files):
            _write(repo.file(image, number), f"{name} {image} {number}\n")
    _write(repo.compose, json.dumps({"name": name, "services": services}, indent=1))
    return repo


def plain() -> dict[str, str]:
    """The environment, without what it says of another Compose project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}


def environ(base: Mapping[str, str], compose: Path) -> dict[str, str]:
    """The environment in which doit and Compose work on another project than this repository's own."""
    return {**base, "COMPOSE_FILE": str(compose), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
