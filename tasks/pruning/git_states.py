"""Which results do the branches and tags of a project's repository need?

The tree of each is checked out into a temporary folder, once for all that have the same, and what its images are made
of is computed as for the working tree: by this machine's bases, for its platform.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.base import commands, leftovers
from tasks.base.errors import UserError, os_reason
from tasks.run import Run
from tasks.sharing.wanted import wanted_of

_REFS = "%(refname)%00%(tree)%00%(*tree)%00%(symref)"
Result = tuple[str, str]
"""A repository and a tag in the shared registry."""


def needed(run: Run) -> tuple[dict[Result, str], dict[str, str]]:
    """The results that are needed, each with who needs it in words; and the branches and tags that cannot be read, with
    the reason. Raises ``UserError`` for a working tree that cannot be, and for a repository that cannot be asked."""
    found = dict.fromkeys(_results(run), "this working tree needs it")
    unread: dict[str, str] = {}
    for tree, names in _trees(run.project.directory).items():
        try:
            for result in _of_tree(run, tree):
                found.setdefault(result, f"{names[0]} needs it")
        except UserError as error:
            unread |= dict.fromkeys(names, str(error))
        except OSError as error:
            unread |= dict.fromkeys(names, os_reason(error))
    return found, unread


def _trees(directory: Path) -> Mapping[str, list[str]]:
    """The trees of all branches, here and of other repositories, and tags, each with their names; none where there is
    no repository. Raises ``UserError`` where there is one that cannot be asked, for then everything would go."""
    if not any((above / ".git").exists() for above in (directory, *directory.parents)):
        return {}
    unknown = "what other branches need cannot be known"
    try:
        done = commands.run(["git", "-C", str(directory), "for-each-ref", f"--format={_REFS}"])
    except commands.NotInstalled:
        raise UserError(f"{unknown}: git is not installed", remedy="install git") from None
    trees: dict[str, list[str]] = defaultdict(list)
    for line in done.checked(unknown).stdout.splitlines():
        name, tree, of_tag, symbolic = line.split("\0")
        if (tree or of_tag) and not symbolic:
            trees[of_tag or tree].append(_in_words(name))
    return trees


def _in_words(ref: str) -> str:
    """A full name of git's as people say it.

    >>> _in_words("refs/heads/main"), _in_words("refs/remotes/origin/main"), _in_words("refs/tags/v1")
    ('branch main', 'branch origin/main', 'tag v1')
    """
    _, kind, name = ref.split("/", 2) if ref.count("/") > 1 else ("", "", ref)
    return f"tag {name}" if kind == "tags" else f"branch {name}"


def _of_tree(run: Run, tree: str) -> Iterator[Result]:
    top = Path(commands.answer(["git", "-C", str(run.project.directory), "rev-parse", "--show-toplevel"]))
    with leftovers.folder("state-") as folder:
        root = folder / top.name  # a project without a name has its folder's
        root.mkdir()
        argv = ["git", "-C", str(top), "--work-tree", str(root), "checkout", "--quiet", "--force", tree, "--", "."]
        done = commands.run(argv, env={**os.environ, "GIT_INDEX_FILE": str(folder / "index")})
        done.checked("git does not check it out")
        files = tuple(root / file.relative_to(top) for file in run.files)
        if not all(file.is_file() for file in files):
            return
        own, there = run.project.directory / ".env", root / run.project.directory.relative_to(top) / ".env"
        if own.is_file() and not there.exists():
            there.symlink_to(own)  # Compose reads it; git does not have it
        other = Run(files, run.environ)
        other.share, other.coordinator = run.share, run.coordinator
        yield from _results(other)


def _results(run: Run) -> Iterator[Result]:
    platform = run.snapshot().platform
    for decision in run.decisions().values():
        if wanted := wanted_of(decision.inputs, platform):
            yield wanted.path, wanted.tag
