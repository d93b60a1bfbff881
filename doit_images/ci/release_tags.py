"""What does git say of a release: which names does it give, and is the working tree just a commit?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import kind_of

_FROM_GIT = {
    "@describe": ["describe", "--tags", "--always"],
    "@sha": ["rev-parse", "--short=12", "HEAD"],
    "@branch": ["symbolic-ref", "--short", "HEAD"],
}
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # as OCI's distribution specification has it
_OURS = ("keep-", "cache-", "sha256-")
_VERSION = re.compile(r"v?\d+\.\d+\.\d+")
_SHOWN = 5


def names(folder: Path, words: Iterable[str], *, changed: bool) -> dict[str, bool]:
    """The tags that these words mean, each with whether it is fixed: whoever uses a whole version, or a commit, expects
    it to mean the same for ever; ``latest`` and a branch move. Of a tree that is ``changed`` no tag is a commit's: it
    ends with ``-dirty``. ``UserError`` for what is no tag, and where git knows none."""
    found: dict[str, bool] = {}
    for word in words:
        tag = _from_git(folder, word, changed=changed) if word.startswith("@") else word
        if not _TAG.fullmatch(tag) or kind_of(tag) or tag.startswith(_OURS):
            how = "letters, digits, - _ and ., and none that begins as our own do"
            raise UserError(f"an image cannot be tagged {tag!r}", remedy=how)
        found[tag] = word in ("@describe", "@sha") or _VERSION.match(tag) is not None
    return found


def _from_git(folder: Path, word: str, *, changed: bool) -> str:
    if word not in _FROM_GIT:
        raise UserError(f"--tag {word} means nothing", remedy=f"{', '.join(_FROM_GIT)}, or a tag without @")
    done = commands.run(["git", "-C", folder, *_FROM_GIT[word]])
    if done.status:
        remedy = "on CI no branch is checked out: name the tag" if word == "@branch" else "name the tag"
        raise UserError(f"git gives nothing for --tag {word}: {done.why}", where=str(folder), remedy=remedy)
    tag = re.sub(r"[^A-Za-z0-9_.-]", "-", done.stdout.strip())
    return f"{tag}-dirty" if changed and word != "@branch" else tag


def changed(folder: Path, words: Iterable[str], *, dirty: bool) -> bool:
    """Whether something is not as the commit has it, where that matters: to a tag from git or, unless it may be
    ``dirty``, to anything; then that is a ``UserError``, and so is that git knows nothing of this folder."""
    if dirty and not any(word.startswith("@") for word in words):
        return False
    done = commands.run(["git", "-C", folder, "status", "--porcelain"])
    if done.status:
        why = f"git cannot tell from which commit this is made: {done.why}"
        raise UserError(why, where=str(folder), remedy="publish --dirty does without, and without tags from git")
    there = done.stdout.splitlines()
    if there and not dirty:
        files = ", ".join(line[3:] for line in there[:_SHOWN])
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise UserError(
            f"nobody could tell later what is published: {files}{more} are not as the commit has them",
            where=str(folder),
            remedy="commit or stash them; publish --dirty does it all the same",
        )
    return bool(there)
