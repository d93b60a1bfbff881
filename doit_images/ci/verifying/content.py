"""What does an image hold, byte for byte? Read from ``docker save``, which gives every byte of its layers.

The digests of the layers are computed from these bytes, not taken from what the engine says of them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, NamedTuple

from doit_images.core.base.references import digest_of
from doit_images.core.engine import archives

_CHUNK = 1 << 20
_SPOOLED = 1 << 26  # what is larger goes to the disk
# What is no folder, file or link is a device or a pipe, which few images hold.
_KINDS = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard link"}
Look = Callable[[str, IO[bytes]], object | None]
_XATTR = "SCHILY.xattr."


class LayerEntry(NamedTuple):
    """What a layer says of one path; ``digest`` is of a file's bytes, ``time`` in whole seconds since the epoch. The
    ``target`` of a device is its type and numbers."""

    kind: str
    mode: int
    owner: tuple[int, int]
    digest: str
    target: str
    attributes: tuple[tuple[str, str], ...]
    time: int


class LayerContent(NamedTuple):
    """A layer: the digest of its bytes, not packed, its entries by path, and by the digests of files what a look into
    them gave."""

    digest: str
    entries: Mapping[str, LayerEntry]
    looked: Mapping[str, object] = {}


class ImageContent(NamedTuple):
    """An image: the digest of its configuration, the layers that this names (``promised``), and those that there are,
    from the base up; ``steps`` says what made each of these, as far as the configuration tells."""

    config: str
    promised: tuple[str, ...]
    layers: tuple[LayerContent, ...]
    steps: tuple[str, ...] = ()

    def damage(self) -> list[str]:
        """The layers that are not what the configuration promises, in words."""
        found = [layer.digest for layer in self.layers]
        if len(found) != len(self.promised):
            return [f"{len(self.promised)} layers are promised, and {len(found)} are there"]
        pairs = enumerate(zip(self.promised, found, strict=True), 1)
        return [f"layer {number} is not what its digest says ({promised[:19]}…)"
                for number, (promised, real) in pairs if promised != real]  # fmt: skip


def content_of(image_id: str, environ: Mapping[str, str], look: Look | None = None) -> ImageContent:
    """All that an image of the engine holds, with a ``look`` into each of its files. ``UserError`` with the engine's
    words where it cannot give it, as when it finds a file of a layer changed."""
    with archives.written("save", image_id, environ=environ) as stream:
        [content] = read(stream, look)
        return content


def contents_of(image_ids: Iterable[str], environ: Mapping[str, str]) -> list[ImageContent]:
    """The same of several images, in no order. A layer that several of them have is read once."""
    with archives.written("save", *image_ids, environ=environ) as stream:
        return read(stream)


def read(stream: IO[bytes], look: Look | None = None) -> list[ImageContent]:
    """The images in an archive of ``docker save``. Raises ``tarfile.TarError``, ``KeyError`` and ``ValueError`` for
    what is none."""
    found = archives.images_in(stream, lambda _, file: _layer(file, look))
    return [_image(config, tuple(layers)) for config, layers in found]


def _image(config: bytes, layers: tuple[LayerContent, ...]) -> ImageContent:
    said = json.loads(config)
    made = tuple(each.get("created_by", "") for each in said.get("history", ()) if not each.get("empty_layer"))
    return ImageContent(digest_of(config), tuple(said["rootfs"]["diff_ids"]), layers, made)


class _Hashed:
    """A stream that hashes what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._sum = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._sum.update(data)
        return data

    def digest(self) -> str:
        """The digest of the whole stream, the rest included."""
        while self.read(_CHUNK):
            pass
        return f"sha256:{self._sum.hexdigest()}"


def _layer(file: io.BufferedReader, look: Look | None) -> LayerContent:
    """The layer in a file, packed or not. Raises ``tarfile.ReadError`` for what is no archive."""
    stream = _Hashed(gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file)  # type: ignore[arg-type]
    entries: dict[str, LayerEntry] = {}
    looked: dict[str, object] = {}
    with tarfile.open(fileobj=stream, mode="r|") as layer:  # type: ignore[call-overload]
        for member in layer:
            entries[member.name.removeprefix("./")] = _entry(layer, member, look, looked)
    return LayerContent(stream.digest(), entries, looked)


def _entry(layer: tarfile.TarFile, member: tarfile.TarInfo, look: Look | None, looked: dict[str, object]) -> LayerEntry:
    digest = ""
    if member.isfile() and (file := layer.extractfile(member)):
        with tempfile.SpooledTemporaryFile(_SPOOLED) as whole:  # a stream is read once
            if look:
                shutil.copyfileobj(file, whole)
                whole.seek(0)
            digest = hashlib.file_digest(whole if look else file, "sha256").hexdigest()  # type: ignore[arg-type]
            if look:
                whole.seek(0)
                if (seen := look(member.name.removeprefix("./"), whole)) is not None:
                    looked[digest] = seen
    kind = "file" if member.isreg() else _KINDS.get(member.type, "device")
    attributes = sorted((name, value) for name, value in member.pax_headers.items() if name.startswith(_XATTR))
    owner = (member.uid, member.gid)
    device = f"{member.type.decode()} {member.devmajor}:{member.devminor}" if kind == "device" else ""
    return LayerEntry(kind, member.mode, owner, digest, member.linkname or device, tuple(attributes), int(member.mtime))
