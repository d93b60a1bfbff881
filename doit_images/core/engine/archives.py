"""How is an archive read while the docker command writes it (``docker save``, ``docker export``)?"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TypeVar

from doit_images.core.base import commands
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError

_CHUNK = 1 << 20
Made = TypeVar("Made")


@contextlib.contextmanager
def written(*words: str, environ: Mapping[str, str] | None = None) -> Iterator[IO[bytes]]:
    """For the block that reads it: what ``docker`` writes with these words. ``UserError`` with the engine's words where
    it fails, or the block finds that it is no archive of an image."""
    wrong = ""
    with commands.start(["docker", *words], env=environ, stderr=commands.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise ValueError("both are pipes")
        try:
            yield process.stdout
        except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
            wrong = f"it gave no image ({error})"
        while process.stdout.read(_CHUNK):  # else it would wait for us, and not end
            pass
        stderr = process.stderr.read().decode(errors="replace")
    if wrong or process.returncode:
        raise UserError(f"docker {words[0]}: {last_words(stderr) if process.returncode else wrong}")


def images_in(
    stream: IO[bytes], layer: Callable[[tarfile.TarInfo, io.BufferedReader], Made]
) -> list[tuple[bytes, list[Made]]]:
    """The images in an archive of ``docker save``: of each its configuration, and what ``layer`` makes of each of its
    layers, from the base up; one that several images have is read once. Raises ``tarfile.TarError``, ``KeyError`` and
    ``ValueError`` for what is none."""
    layers: dict[str, Made] = {}
    papers: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if not isinstance(file, io.BufferedReader):
                continue
            if file.peek(1)[:1] in (b"{", b"["):
                papers[member.name] = file.read()
                continue
            with contextlib.suppress(tarfile.ReadError):  # no layer
                layers[member.name] = layer(member, file)
    return [
        (papers[image["Config"]], [layers[name] for name in image["Layers"]])
        for image in json.loads(papers["manifest.json"])
    ]
