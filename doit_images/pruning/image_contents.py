"""What takes space in images, and what of it could be removed?

Which bytes images share, ``engine.layers`` knows. Files are read from ``docker save``; what a
layer holds that a later one replaces or deletes still takes its space, and is counted as such.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from doit_images.core.base import checked_json
from doit_images.core.engine import archives
from doit_images.core.engine.client import Engine
from doit_images.stack.layers import Layer, chained, parts_of

# What an image that only runs a service rarely needs: what it is, where it lies, and how one is rid of it.
_RULES = tuple(
    (what, re.compile(pattern), remedy)
    for what, pattern, remedy in (
        ("compilers and headers",
         r"usr/(local/)?(bin/([\w.-]+-)?(gcc|g\+\+|cc|c\+\+|cpp|ld|as|make)(-[\d.]+)?$|lib/gcc/|libexec/gcc/|include/)"
         r"|usr/lib/.*\.(a|o)$|.*/lib(asan|tsan|lsan|ubsan|hwasan|itm|gfortran|cc1)[\w.]*$|usr/bin/[\w-]+-linux-gnu-",
         "compile in a builder stage"),
        ("what the package manager downloaded",
         r"var/(lib/apt/lists|cache/(apt|debconf|yum|dnf|apk))/.+|(root|home/[^/]+)/\.(cache|npm)/",
         "cache mounts: RUN --mount=type=cache"),
        ("documentation and translations", r"usr/(local/)?share/(doc|man|info|locale|help)/", "dpkg's path-exclude"),
        ("installers",
         r".*/(site|dist)-packages/(pip|setuptools|wheel|uv)(/|-)|.*/ensurepip/|usr/share/python-wheels/|.*/bin/uvx?$",
         "install in a builder stage, copy the environment"),
        ("tests of packages", r".*/(site|dist)-packages/.*/tests?/", "remove them in the step that installs"),
        ("git data", r"(.*/)?\.git/", "an ignore file"),
        ("stubs and sources of extensions", r".*/(site|dist)-packages/.*\.(pyi|pyx|pxd|c|h)$", "remove them"),
        ("Perl", r"usr/(lib|share)/([\w-]+/)?perl[\w.-]*/", "remove it in a stage that is copied from"),
    )
)  # fmt: skip
_FORMAT = "2"  # of the file that contents are kept in: raised whenever the rules above change
_LARGEST = 5
_WASTED = ("replaced or deleted by a later layer", "do it in one step, or in another stage")


@dataclass(frozen=True)
class Measured:
    """An image that the engine holds: its reference, all its bytes, its layers from the base up."""

    ref: str
    id: str
    size: int
    layers: tuple[Layer, ...]

    @property
    def chain(self) -> str:
        """The name of all its layers together: the same files, whatever the engine's store calls the image."""
        return self.layers[-1].chain if self.layers else ""

    @property
    def parts(self) -> dict[str, int]:
        """Its bytes by layer, for ``Disk``."""
        return parts_of(self.layers)


@dataclass(frozen=True)
class LayerFile:
    """A file of a layer; ``layer`` counts from 0, the base. A hard link has no bytes of its own."""

    path: str
    size: int
    layer: int


@dataclass(frozen=True)
class Removable:
    """A kind of content that could be removed: how many bytes in how many files, and what to do about it."""

    what: str
    size: int
    files: int
    remedy: str


@dataclass(frozen=True)
class SizeReport:
    """What was found in an image: its largest files, and what of it could be removed."""

    largest: tuple[LayerFile, ...]
    could_go: tuple[Removable, ...]


def measure_image(engine: Engine, ref: str) -> Measured | None:
    """The image that the engine holds under this reference; None if there is none."""
    local_image = engine.snapshot().get(ref) if ref else None
    if local_image is None:
        return None
    made = chained(engine.layers(local_image.id))
    known = sum(layer.size for layer in made)
    if made and known < local_image.size:  # an imported base does not tell the size of its layer
        made[0] = replace(made[0], size=made[0].size + local_image.size - known)
    return Measured(ref, local_image.id, local_image.size, tuple(made))


def contents_of(
    images: Sequence[Measured], kept: Path, environ: Mapping[str, str], progress: Callable[[str], None]
) -> dict[str, SizeReport]:
    """What is in these images, by ``Measured.chain``. A chain never changes what it means, so that each is read once:
    what was found is kept in the file ``kept``."""
    known = (checked_json.recall(kept) or {}).get(_FORMAT, {})
    unknown = [image for image in images if image.chain not in known]
    for chain, files in files_of(unknown, environ, progress).items():
        known[chain] = asdict(content_of(files))
    if unknown:
        checked_json.remember(kept, {_FORMAT: known})
    return {
        image.chain: SizeReport(
            tuple(LayerFile(**file) for file in known[image.chain]["largest"]),
            tuple(Removable(**finding) for finding in known[image.chain]["could_go"]),
        )
        for image in images
    }


def files_of(
    images: Sequence[Measured], environ: Mapping[str, str], progress: Callable[[str], None]
) -> dict[str, list[LayerFile]]:
    """The files of these images' layers by ``Measured.chain``, from one ``docker save``; ``UserError`` with the
    engine's words."""
    ids = list({image.chain: image.id for image in images}.values())
    if not ids:
        return {}
    with archives.written("save", *ids, environ=environ) as stream:
        return read_archive(stream, progress)


def read_archive(stream: IO[bytes], progress: Callable[[str], None] = lambda line: None) -> dict[str, list[LayerFile]]:
    """The files of all images in a ``docker save`` archive, by ``Measured.chain``, layer by layer."""

    def listed(member: tarfile.TarInfo, file: IO[bytes]) -> list[tuple[str, int]]:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            found = [(at.name.removeprefix("./"), at.size) for at in archive if not at.isdir()]
        progress(f"read a layer of {member.size / 1e6:.0f} MB, {len(found)} files")
        return found

    files = {}
    for config, layers in archives.images_in(stream, listed):
        made = chained((digest, 0) for digest in json.loads(config)["rootfs"]["diff_ids"])
        files[made[-1].chain if made else ""] = [
            LayerFile(path, size, place) for place, layer in enumerate(layers) for path, size in layer
        ]
    return files


def remaining(files: Iterable[LayerFile]) -> tuple[list[LayerFile], list[LayerFile]]:
    """The files that a container sees, and those of lower layers that a later one replaced or deleted."""
    seen: dict[str, LayerFile] = {}
    gone: list[LayerFile] = []
    for file in sorted(files, key=lambda file: file.layer):
        folder, _, name = file.path.rpartition("/")
        if name == ".wh..wh..opq":
            covered = [path for path, old in seen.items() if path.startswith(f"{folder}/") and old.layer < file.layer]
        elif name.startswith(".wh."):
            target = f"{folder}/{name[4:]}" if folder else name[4:]
            covered = [path for path in seen if path == target or path.startswith(f"{target}/")]
        else:
            covered = [file.path] if file.path in seen else []
        gone += [seen.pop(path) for path in covered]
        if not name.startswith(".wh."):
            seen[file.path] = file
    return list(seen.values()), gone


def content_of(files: Iterable[LayerFile]) -> SizeReport:
    """The largest of these files, and what of them an image that runs a service rarely needs, most bytes first."""
    kept, gone = remaining(files)
    kinds: dict[tuple[str, str], list[int]] = {}
    if sum(file.size for file in gone):
        kinds[_WASTED] = [file.size for file in gone]
    for file in kept:
        for what, pattern, remedy in _RULES:
            if pattern.match(file.path):
                kinds.setdefault((what, remedy), []).append(file.size)
                break
    findings = [
        Removable(what, sum(sizes), len(sizes), remedy) for (what, remedy), sizes in kinds.items() if sum(sizes)
    ]
    largest = sorted(kept, key=lambda file: (-file.size, file.path))[:_LARGEST]
    return SizeReport(tuple(largest), tuple(sorted(findings, key=lambda finding: -finding.size)))
