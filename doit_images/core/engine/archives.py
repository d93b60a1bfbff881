"""How is an archive read while the docker command writes it (``docker save``, ``docker export``)?"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO

from doit_images.core.base import commands
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError

_CHUNK = 1 << 20


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


def files_in(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, io.BufferedReader]]:
    """The regular files of an archive in its order; each is to be read before the next. Raises ``tarfile.TarError`` for
    what is none."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if isinstance(file, io.BufferedReader):
                yield member, file
