"""What does a build see of a project, by which names, and was it checked again after the build?

The Dockerfile and the ignore file of its context are given to BuildKit as they were read: an edit of them that is
undone while the image is built can then not matter.

BuildKit's client tells contexts apart by the last part of their paths alone, and of one that the builder has seen it
sends again only files whose size, time or mode moved. So a folder ``src`` gets the files of another ``src`` where they
look alike, and a file that got other content with its old time stays as it was. Hence each context goes by a name of
its own: a link whose name says where it leads and in which ``generation`` its files are (``inputs.tree``).

If a file changes during the build and is then put back with its size and time, BuildKit's client does not send it
again. So a build that does not end normally begins another generation. A build that is killed leaves a mark, and the
next build begins the generation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from doit_images.core.base import lock
from doit_images.core.base.timestamps import DAY
from doit_images.core.compose.image import Image
from doit_images.core.inputs import policy
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.stamps import Changes, Stamps
from doit_images.core.inputs.tree import FileIndex

_LONGEST_BUILD = DAY


def as_built(inputs: ImageInputs, temporary: Path, folder: Path) -> Image:
    """The image as BuildKit gets it: ``temporary`` is a folder of this build alone, ``folder`` our ``.doit-images``.
    The platform is always told: without, BuildKit takes that of the base, a builder of several nodes that of the
    first."""
    image = replace(_as_read(inputs, temporary), platforms=inputs.platforms)
    return _by_own_names(image, inputs, folder / "contexts")


@contextlib.contextmanager
def sending(index: FileIndex | None, folder: Path) -> Iterator[None]:
    """Around all that reads contexts by the names that ``index`` gives them: in ``folder``, our ``.doit-images``, there
    is a locked file until the block ends, so that one without a lock is of a process that was killed. ``UserError``
    where it cannot be written."""
    if index is None:
        yield
        return
    marks = folder / "sending"
    _killed(index, marks)
    mark = marks / os.urandom(8).hex()
    try:
        with lock.exclusive(mark):
            yield
    except BaseException:
        index.renew()
        raise
    finally:
        mark.unlink(missing_ok=True)


def changes_since(index: FileIndex | None, before: Stamps) -> Changes:
    """The inputs whose stamps differ from those before they were sent. If a builder may hold other content, another
    generation begins. Call it within the block of ``sending``: a run that is killed before leaves the mark."""
    changes = before.moved()
    if index and (changes.files or changes.doubtful):
        index.renew()
    return changes


def links(common: Path) -> list[Path]:
    """The links in ``.doit-images`` (``common``) by which builds have seen contexts."""
    return sorted(path for path in (common / "contexts").glob("*") if path.is_symlink())


def unused(link: Path) -> bool:
    """Whether no build can be using this link: none did so for longer than a build takes. If one needs it again, it is
    made again, by the same name."""
    return time.time() - link.lstat().st_mtime > _LONGEST_BUILD


def remove_unused(link: Path) -> bool:
    """Remove this link, unless a build has taken it up meanwhile: one with another engine does not wait for pruning.
    Returns whether it is gone."""
    with contextlib.suppress(FileNotFoundError):
        if not unused(link):
            return False
        link.unlink()
    return True


def _as_read(inputs: ImageInputs, folder: Path) -> Image:
    """The image with its Dockerfile, the policy beside it and its context's ignore file in ``folder``, by the names by
    which buildx looks for them. ``<Dockerfile>.dockerignore`` comes before any other, also when it is empty. Where
    neither hides ``.doit-images``, this one does: that folder changes during a build, so an image that copies a whole
    project would never be fresh, and would hold its own past."""
    if inputs.image.remote_context and not inputs.image.dockerfile.startswith("/"):
        return inputs.image  # it comes with its Dockerfile, or gets it on standard input
    dockerfile = folder / (Path(inputs.image.dockerfile).name or "Dockerfile")
    texts = {str(dockerfile): inputs.dockerfile_text, f"{dockerfile}.dockerignore": inputs.ignore}
    asked = inputs.texts.get(policy.beside(inputs.image.dockerfile))
    for path, text in (texts if asked is None else {**texts, policy.beside(str(dockerfile)): asked}).items():
        Path(path).write_bytes(text.encode(errors="surrogateescape"))
    return replace(inputs.image, dockerfile=str(dockerfile), dockerfile_inline=None)


def _by_own_names(image: Image, inputs: ImageInputs, folder: Path) -> Image:
    if inputs.index is None:
        return image
    folders = {name: value for name, value in image.contexts.items() if value.startswith("/")}
    named = {name: _link(folder, value, inputs.index) for name, value in folders.items()}
    # Before buildx 0.32, named contexts went by the name of the main one.
    main = (
        image.context if image.remote_context else _link(folder, image.context, inputs.index, *sorted(named.values()))
    )
    return replace(image, context=main, contexts={**image.contexts, **named})


def _link(folder: Path, context: str, index: FileIndex, *more: str) -> str:
    root = os.path.realpath(context)  # a context that is a link itself may lead elsewhere in the next moment
    folder.mkdir(exist_ok=True)
    what = "\0".join((root, index.generation(root), *more))
    link = folder / hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()[:16]
    try:
        os.utime(link, follow_symlinks=False)  # in use: see `unused`
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            link.symlink_to(root)
    return str(link)


def _killed(index: FileIndex, marks: Path) -> None:
    for mark in marks.glob("*"):
        with lock.try_exclusive(mark) as ours:
            if ours:
                index.renew()
                mark.unlink(missing_ok=True)
