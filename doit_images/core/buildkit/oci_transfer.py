"""How do images travel between the engine and a dedicated builder without being sent whole?

Both sides meet in a folder for each image, an OCI image layout in ``results`` of the project's folder:

    engine ── docker save, once ──> layout ── oci-layout:// context, by digest ──> builder
    engine <── docker load, of the layers it lacks ── layout <── blobs that are not there yet ── builder

``--load`` would send the whole image, every time, changed or not. BuildKit writes into a layout only the blobs that
are missing, and the engine takes an archive without those layers that it has: the classic store knows them by what they
hold, from the base up, containerd's store by the digests of their blobs. Bases come from the engine too, so that the
image is built from the very content that its fingerprint counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from doit_images.core.base import commands, leftovers, lock, oci, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.files import write_json
from doit_images.core.base.references import digest_of
from doit_images.core.buildkit.buildx import one_line
from doit_images.core.engine import archives
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.engine.labels import translated

# A blob that nothing names any more is kept for a while: another run may still be reading it.
_KEEP_SECONDS = 3600.0


@dataclass(frozen=True)
class Layout:
    """One image in an OCI image layout: the folder, the digests of its manifest and its configuration (the image id
    of the classic store), its layers' blobs and what each holds unpacked, from the base up. ``top`` is what the layout
    itself names: that manifest, or the index of several platforms that it is in."""

    folder: Path
    manifest: str
    config: str
    layers: tuple[str, ...]
    contents: tuple[str, ...]
    top: str

    @property
    def context(self) -> str:
        """The image as a build context, with all its platforms: BuildKit takes the one that it builds for."""
        return f"oci-layout://{self.folder}@{self.top}"


def output(folder: Path, *, packed: bool = False) -> list[str]:
    """The output argument of a build into a layout. What does not travel further need not be ``packed``."""
    packing = "gzip" if packed else "uncompressed"
    return ["--output", one_line("type=oci", "tar=false", f"compression={packing}", f"dest={folder}")]


def folder_of(results: Path, name: str) -> Path:
    """The layout's folder of an image or of a base's reference."""
    if re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        return results / name
    return results / "bases" / hashlib.sha256(name.encode()).hexdigest()[:16]


def read(folder: Path, image_id: str, platform: str) -> Layout | None:
    """The image with this id in a layout, None if it is not there whole; where the id is that of an index, its image
    for ``platform``."""
    by_platform: dict[str, Layout] = {}
    for layout, names, made in _images(folder):
        if image_id in (layout.config, *names):
            by_platform.setdefault(platforms.of(made), layout)
    only = next(iter(by_platform.values())) if len(by_platform) == 1 else None
    return by_platform.get(platforms.chosen(by_platform, platform)) or only


def whole(folder: Path, image_id: str, wanted: Iterable[str], labels: Mapping[str, str]) -> str:
    """The digest of the index in a layout that holds an image for each of these platforms, whole and with these labels,
    one of which is ``image_id``; "" if there is none."""
    by_index: dict[str, dict[str, str]] = {}
    for layout, _, made in _images(folder):
        marks = translated((made.get("config") or {}).get("Labels") or {})
        if all(marks.get(name, "") == value for name, value in labels.items()):
            by_index.setdefault(layout.top, {})[platforms.of(made)] = layout.config
    complete = (top for top, parts in by_index.items() if set(wanted) <= parts.keys() and image_id in parts.values())
    return next(complete, "")


def _images(folder: Path, top: str = "") -> Iterator[tuple[Layout, tuple[str, ...], dict[str, Any]]]:
    """The images that a layout holds whole, below the index ``top`` or all, newest first; each with the digests by
    which containerd's store may call it, and with its configuration. What is damaged is passed over."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        index = {"manifests": [{"digest": top}]} if top else json.loads((folder / "index.json").read_text())
        for digest, manifest, names in _manifests(folder, index, ()):
            config = manifest["config"]["digest"]
            layers = tuple(layer["digest"] for layer in manifest["layers"])
            if all(blob_of(folder, blob).is_file() for blob in (config, *layers)):
                made = json.loads(blob_of(folder, config).read_bytes())
                contents = tuple((made.get("rootfs") or {}).get("diff_ids") or ())
                if len(layers) == len(contents):
                    yield Layout(folder, digest, config, layers, contents, names[0]), names, made


def _manifests(
    folder: Path, index: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """The image manifests that an index names and that are there, newest first: digest, manifest, and the digests by
    which the containerd store may call the image (its own, and those of the indexes that it is in)."""
    for entry in reversed(index["manifests"]):
        digest = entry["digest"]
        path = blob_of(folder, digest)
        if not path.is_file():
            continue  # of another platform
        content = json.loads(path.read_bytes())
        if "manifests" in content:
            yield from _manifests(folder, content, (*above, digest))
        elif "config" in content:
            yield digest, content, (*above, digest)


def context_of(engine: Engine, results: Path, name: str, local_image: LocalImage, platform: str) -> str:
    """The build context that stands for an image of the engine, called ``name`` here; it is saved unless it is here.
    Of an index the image for ``platform`` has to be there.

    ``UserError`` when the engine cannot give it.
    """
    folder = folder_of(results, name)
    # Images that are built side by side on one base save it once.
    with lock.exclusive(folder.with_name(f".{folder.name}.lock")):
        layout = read(folder, local_image.id, platform)
        if layout is None:
            _save(engine, local_image, folder)
            layout = read(folder, local_image.id, platform)
    if layout is None:
        raise UserError(
            f"the engine cannot hand {name} to a dedicated builder",
            remedy="that needs Docker Engine 25 or later, or BUILDER_DRIVER=docker",
        )
    return layout.context


def together(engine: Engine, results: Path, ref: str, named: Mapping[str, tuple[str, LocalImage]]) -> str:
    """The build context that stands for the images that the engine holds of one reference for several platforms: by
    platform, the name and the image. Their layouts become one, whose index names them all. Raises ``UserError``."""
    parts = {}
    for platform, (name, local_image) in sorted(named.items()):
        context_of(engine, results, name, local_image, platform)
        parts[platform] = _result(folder_of(results, name), local_image.id, platform)
    folder = folder_of(results, f"{ref} for {' '.join(sorted(named))}")
    with lock.exclusive(folder.with_name(f".{folder.name}.lock")):
        return f"oci-layout://{folder}@{_join(folder, parts)}"


def indexed(folder: Path, images: Mapping[str, tuple[Path, str]]) -> str:
    """Let a layout hold as one index what others hold: for each platform the layout and the image's id in it. Returns
    the digest of the index. Raises ``UserError``."""
    digest = _join(folder, {platform: _result(*image, platform) for platform, image in sorted(images.items())})
    for layout, _ in images.values():
        tidy(layout)
    return digest


def _join(folder: Path, parts: Mapping[str, Layout]) -> str:
    """Let a layout hold these images, by platform, as one index; returns its digest."""
    index = index_of({name: blob_of(part.folder, part.manifest).read_bytes() for name, part in parts.items()})
    digest = digest_of(index)
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (folder / "ingest").mkdir(exist_ok=True)
    for part in parts.values():
        for blob in (part.manifest, part.config, *part.layers):
            with contextlib.suppress(FileExistsError):
                os.link(blob_of(part.folder, blob), blob_of(folder, blob))
    blob_of(folder, digest).write_bytes(index)
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    top = {"schemaVersion": 2, "manifests": [{"mediaType": oci.INDEX, "digest": digest, "size": len(index)}]}
    write_json(folder / "index.json", top)
    return digest


def index_of(manifests: Mapping[str, bytes]) -> bytes:
    """The index of images that have these manifests, by platform."""
    entries = []
    for platform, manifest in manifests.items():
        system, processor, *variant = platform.split("/")
        of = {"os": system, "architecture": processor, **({"variant": variant[0]} if variant else {})}
        media = oci.media_type_of(json.loads(manifest))
        entries.append({"mediaType": media, "digest": digest_of(manifest), "size": len(manifest), "platform": of})
    return json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}).encode()


def take(engine: Engine, folder: Path, image_id: str, platform: str, there: Iterable[tuple[str, ...]]) -> str:
    """Let the engine's classic store have the image with this id from a layout; returns its id in the engine.

    That store holds one platform: of an index it gets the image for ``platform``. ``there`` are the layers (unpacked
    content, from the base up) of images that it holds: what begins as they do is not sent again. ``UserError`` when the
    engine refuses it.
    """
    layout = _result(folder, image_id, platform)
    known = max((_common(layout.contents, other) for other in there), default=0)

    def load(known: int) -> str:
        return _load(engine, layout, layout.manifest, [layout.manifest, layout.config, *layout.layers[known:]])

    try:
        loaded = load(known)
    except UserError:
        if not known:
            raise
        loaded = load(0)  # a layer was removed meanwhile
    return _taken(layout, loaded, layout.manifest)


def take_index(engine: Engine, folder: Path, image_id: str, platform: str, there: Mapping[str, Set[str]]) -> str:
    """Let containerd's store have the image with this id from a layout, with the whole index that it may be in; returns
    its id in the engine.

    ``there`` are the blobs of the layers (``blobs_of``) of images that the engine holds, by their ids: these are not
    sent again. The store keeps a blob while an image names it, so all that were counted on have to be there afterwards.
    ``UserError`` when the engine refuses it.
    """
    layout = _result(folder, image_id, platform)
    reached = [
        digest for digest in sorted(_reached(folder, {"digest": layout.top})) if blob_of(folder, digest).is_file()
    ]
    lending = {number: blobs for number, blobs in there.items() if blobs & set(reached)}
    known = set[str]().union(*lending.values())
    loaded = ""
    if known:
        with contextlib.suppress(UserError):
            loaded = _load(engine, layout, layout.top, [digest for digest in reached if digest not in known])
    if not loaded or not lending.keys() <= {local_image.id for local_image in engine.snapshot().every()}:
        loaded = _load(engine, layout, layout.top, reached)
    return _taken(layout, loaded, layout.top)


def blobs_of(folder: Path, image_id: str) -> Set[str]:
    """The blobs of the layers of the image or index with this digest that came through a layout; none if it did not.
    The layout may have been written again since."""
    return {blob for layout, _, _ in _images(folder, image_id) for blob in layout.layers}


def _result(folder: Path, image_id: str, platform: str) -> Layout:
    layout = read(folder, image_id, platform)
    if layout is None:
        raise UserError(f"this layout holds no image for {platform}", where=str(folder), remedy="run it again")
    return layout


def _taken(layout: Layout, loaded: str, top: str) -> str:
    """The id that the engine gave to what was loaded, which has to be the image; the layout is tidied."""
    tidy(layout.folder)
    if loaded not in (layout.config, top):
        raise UserError(f"the engine made {loaded[:19]} of an image that is {layout.config[:19]}")
    return loaded


def tidy(folder: Path, now: float = 0.0) -> int:
    """Remove the blobs of a layout that its index reaches no more, but those that are very new; returns their bytes."""
    blobs = folder / "blobs" / "sha256"
    try:
        reached = _reached(folder, json.loads((folder / "index.json").read_text()))
    except (OSError, ValueError):
        return 0  # no layout, or one that is just being written
    freed = 0
    for blob in blobs.iterdir() if blobs.is_dir() else ():
        status = blob.stat()
        if f"sha256:{blob.name}" not in reached and (now or time.time()) - status.st_mtime > _KEEP_SECONDS:
            blob.unlink(missing_ok=True)
            freed += status.st_size
    return freed


def _reached(folder: Path, above: object) -> set[str]:
    """Every digest that is named from there down."""
    reached: set[str] = set()
    todo = list(_digests(above))
    while todo:
        digest = todo.pop()
        if digest in reached:
            continue
        reached.add(digest)
        blob = blob_of(folder, digest)
        # Manifests, indexes and cache configurations are JSON; layers are larger than any of them, or no JSON.
        if blob.is_file() and blob.stat().st_size < 4_000_000 and blob.open("rb").read(1) == b"{":
            todo.extend(_digests(json.loads(blob.read_bytes())))
    return reached


def _digests(value: object) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, inside in value.items():
            if key in ("digest", "blob") and isinstance(inside, str):
                yield inside
            else:
                yield from _digests(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _digests(inside)


def blob_of(folder: Path, digest: str) -> Path:
    """Where a layout keeps the blob with this digest; ``ValueError`` for what is no digest."""
    algorithm, _, number = digest.partition(":")
    if not re.fullmatch(r"[0-9a-f]{64}", number) or algorithm != "sha256":
        raise ValueError(f"{digest} is no digest")
    return folder / "blobs" / algorithm / number


def _common(layers: tuple[str, ...], others: tuple[str, ...]) -> int:
    """How many layers are the same, from the base up."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(layers, others, strict=False)))


def _load(engine: Engine, layout: Layout, top: str, blobs: Iterable[str]) -> str:
    """Load an archive of the image or index ``top`` of a layout that holds these blobs alone; returns the id that the
    engine gave it. ``UserError`` when it does not take it: 28 ends with status 0 where a blob is missing."""
    with leftovers.folder("load-", layout.folder) as folder:
        archive = folder / "image.tar"
        with tarfile.open(archive, mode="w") as tar:
            for name, text in _papers(layout, top).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
            for digest in dict.fromkeys(blobs):
                tar.add(blob_of(layout.folder, digest), _path(digest))
        done = commands.run(["docker", "load", "--input", str(archive)], env=leading_to(engine.address))
    loaded = re.search(r"Loaded image ID: (sha256:[0-9a-f]{64})", done.stdout)
    broken = re.search(r"Error unpacking image.*", done.stdout)
    if done.status or not loaded or broken:
        raise UserError(f"the engine does not take the image from the builder: {broken[0] if broken else done.why}")
    return loaded[1]


def _papers(layout: Layout, top: str) -> dict[str, bytes]:
    """What an archive says of itself, in both of the forms that engines read. The image gets no name here."""
    manifest = blob_of(layout.folder, top).read_bytes()
    entry = {"mediaType": oci.media_type_of(json.loads(manifest)), "digest": top, "size": len(manifest)}
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
    layers = [_path(layer) for layer in layout.layers]
    papers = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": index,
        "manifest.json": [{"Config": _path(layout.config), "RepoTags": None, "Layers": layers}],
    }
    return {name: json.dumps(content).encode() for name, content in papers.items()}


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _save(engine: Engine, local_image: LocalImage, folder: Path) -> None:
    """Unpack what ``docker save`` writes into a layout's folder, in place of what was there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with leftovers.folder(".save-", folder.parent) as fresh:
        with (
            archives.written("save", local_image.id, environ=leading_to(engine.address)) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            tar.extractall(fresh, filter="data")
        (fresh / "ingest").mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
