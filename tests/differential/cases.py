"""Dockerfiles of every kind that reads files, each with the context that it reads."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

BASE = f"inp-base:{os.getpid()}"  # for RUN
EXEC_AND_MORE = "exec form with something after it"  # newer ones take that for words, and find no such files
ONBUILD_BASE = f"inp-onbuild:{os.getpid()}"  # tests that run side by side must not take it from each other


@dataclass(frozen=True)
class Case:
    """A Dockerfile (``OUT`` becomes a path that no other run used) and how it is built.

    ``ignore`` is the context's ignore file, ``own_ignore`` the Dockerfile's. ``contexts`` are names that all mean
    the same (mutated) folder. ``inside`` lays the Dockerfile into the context.
    """

    name: str
    dockerfile: str
    ignore: str = ""
    own_ignore: str | None = None
    target: str | None = None
    args: dict[str, str] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    inside: bool = False
    small: bool = False  # a context of few paths, for Dockerfiles that run something
    needs: str = ""  # a flag, or EXEC_AND_MORE, that not every BuildKit has


def lay(case: Case, root: Path) -> None:
    """Make the context of a case."""
    files = ["a.txt", "d/x.txt", "n/drop.log"] if case.small else list(_FILES)
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
        (root / path).chmod(0o644)
    for folder in sorted({parent for path in files for parent in (root / path).relative_to(root).parents}):
        (root / folder).chmod(0o755)
    (root / "ln").symlink_to("a.txt")
    if not case.small:
        (root / "d" / "empty").mkdir(mode=0o755)
        (root / "dl").symlink_to("d")
        (root / "d" / "up").symlink_to("../a.txt")
        (root / "d" / "run.sh").chmod(0o755)
        with tarfile.open(root / "pack.tar", "w") as tar:
            tar.add(root / "a.txt", "packed.txt")
    if case.ignore:
        (root / ".dockerignore").write_text(case.ignore)


_FILES = (
    "a.txt",
    "b.md",
    "d/x.txt",
    "d/y.md",
    "d/e/z.txt",
    "d/run.sh",
    "n/keep.log",
    "n/drop.log",
    ".hidden",
    "s p.txt",
)

CASES = [
    Case("one file", "FROM scratch\nCOPY a.txt /OUT/\n"),
    Case("several sources", "FROM scratch\nCOPY a.txt b.md d/e /OUT/\n"),
    Case("JSON form", 'FROM scratch\nCOPY ["s p.txt", "a.txt", "/OUT/"]\n'),
    Case(
        "JSON form with a comment after it",
        'FROM scratch\nCOPY ["a.txt", "/OUT/"] # comment\n',
        needs=EXEC_AND_MORE,
    ),
    Case("Unicode's blanks in names", "FROM scratch\nCOPY a*\u00a0b c*\u3000d a.txt /OUT/\n"),
    Case("trigger over lines", "FROM scratch AS a\nON\\\nBUILD COPY <<E a.txt /OUT/\nx\nE\nFROM a\nCOPY d /OUT/\n"),
    Case("lower case and continuation", "from scratch\ncopy a.txt \\\n# a comment\n\n  b.md \\\n  /OUT/\n"),
    Case("escape directive", "# escape=`\nFROM scratch\nCOPY a.txt `\n  /OUT/\n"),
    Case("folder", "FROM scratch\nCOPY d /OUT\n"),
    Case("folder with slash", "FROM scratch\nCOPY ./d/ /OUT/\n"),
    Case("everything", "FROM scratch\nCOPY . /OUT/\n"),
    Case("everything but", "FROM scratch\nCOPY . /OUT/\n", ignore="*.md\nn\nd/e/\n"),
    Case("hidden but shown", "FROM scratch\nCOPY . /OUT/\n", ignore="# all\n*\n!d\n!n/keep.log\nd/*.md\n"),
    Case("ignore with order", "FROM scratch\nCOPY . /OUT/\n", ignore="d\n!d/x.txt\nd/x.txt\n!d/e/**\n"),
    Case("ignore with doublestar", "FROM scratch\nCOPY . /OUT/\n", ignore="**/*.txt\n!**/z.txt\n/n/\n"),
    Case("ignore hides itself", "FROM scratch\nCOPY . /OUT/\n", ignore=".dockerignore\nDockerfile\n", inside=True),
    Case("Dockerfile in its context", "FROM scratch\nCOPY d . /OUT/\n", ignore="a.txt\n", inside=True),
    Case("own ignore file wins", "FROM scratch\nCOPY . /OUT/\n", ignore="*\n", own_ignore="d\n"),
    Case("empty own ignore file", "FROM scratch\nCOPY a.txt /OUT/\n", ignore="d\n", own_ignore=""),
    Case("wildcards", "FROM scratch\nCOPY *.txt d/?.md /OUT/\n"),
    Case("wildcard of folders", "FROM scratch\nCOPY */x.txt */*/z.txt /OUT/\n"),
    Case("wildcard matches folder", "FROM scratch\nCOPY d/e* /OUT/\n"),
    Case("character class", "FROM scratch\nCOPY [ab].* d/[^x]* /OUT/\n"),
    Case("wildcard that may be empty", "FROM scratch\nCOPY added* none* a.txt /OUT/\n"),
    Case("dot files", "FROM scratch\nCOPY .h* /OUT/\n"),
    Case("link to file", "FROM scratch\nCOPY ln /OUT/\n"),
    Case("link to folder", "FROM scratch\nCOPY dl /OUT/\n"),
    Case("through a link", "FROM scratch\nCOPY dl/e/z.txt /OUT/\n"),
    Case("wildcard through a link", "FROM scratch\nCOPY dl/*.md /OUT/\n"),
    Case("wildcard of links", "FROM scratch\nCOPY l* /OUT/\n"),
    Case("above the root", "FROM scratch\nCOPY ../a.txt /d/./x.txt /OUT/\n"),
    Case("archive", "FROM scratch\nADD pack.tar a.txt /OUT/\n"),
    Case("flags", "FROM scratch\nCOPY --chmod=600 --chown=1:1 --link a.txt d/e /OUT/\n"),
    Case("exclude", "FROM scratch\nCOPY --exclude=*.md --exclude=e d /OUT/\n", needs="--exclude"),
    Case("exclude from all", "FROM scratch\nCOPY --exclude=d/*.md --exclude=/n . /OUT/\n", needs="--exclude"),
    Case("exclude but", "FROM scratch\nCOPY --exclude=* --exclude=!x.txt d /OUT/\n", needs="--exclude"),
    Case("parents", "FROM scratch\nCOPY --parents d/*/z.txt n/./keep.log /OUT/\n", needs="--parents"),
    Case("heredoc", "FROM scratch\nCOPY <<one <<-two a.txt /OUT/\nCOPY b.md x\none\n\tmore\n\ttwo\n"),
    Case(
        "only the target's stages",
        "FROM scratch AS first\nCOPY a.txt /OUT/\nFROM scratch AS second\nCOPY b.md /OUT/\n"
        "FROM scratch AS third\nCOPY --from=first /OUT/ /OUT3/\nCOPY d/x.txt /OUT/\nFROM scratch\nCOPY n /OUT/\n",
        target="Third",
    ),
    Case(
        "stages by number and from stages",
        "FROM scratch\nCOPY a.txt /OUT/\nFROM scratch AS unused\nCOPY n /OUT/\n"
        "FROM scratch AS kid\nCOPY d/x.txt /OUT/\nFROM kid\nCOPY --from=0 /OUT /OUT2\nCOPY b.md /OUT/\n",
    ),
    Case(
        "variables",
        "ARG WHERE=n\nARG STAGE=first\nFROM scratch AS first\nARG WHERE\nARG MORE=d\nENV E=${MORE}/e\n"
        "COPY ${WHERE}/keep.log $E/ ${NONE:-a}.txt ${MORE:+b}.md /OUT/\nFROM ${STAGE}\n",
        args={"MORE": "d"},
    ),
    Case("platform variables", "FROM scratch\nARG TARGETOS\nARG BUILDOS=x\nCOPY ${TARGETOS#linux}a.txt /OUT/\n"),
    Case("own ONBUILD", "FROM scratch AS one\nONBUILD COPY a.txt /OUT/\nFROM one AS two\nFROM two\nCOPY b.md /OUT/\n"),
    Case("ONBUILD of the base", f"FROM {ONBUILD_BASE}\nCOPY b.md /OUT/\n"),
    Case("folder context", "FROM scratch\nCOPY --from=other d /OUT/\n", ignore="d/e\n*.md\n", contexts=("other",)),
    Case(
        "folder context as a stage",
        "FROM scratch AS other\nCOPY b.md /\nFROM scratch\nCOPY --from=other a.txt /OUT/\n",
        contexts=("other",),
    ),
    Case(
        "bind mount",
        f"FROM {BASE}\nRUN --mount=target=/in,source=d --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \\\n"
        ": OUT\n",
        small=True,
    ),
    Case("bind mount of all", f"FROM {BASE}\nRUN --mount=type=bind,target=/in : OUT\n", ignore="n\n", small=True),
    Case("bind mount of a link", f'FROM {BASE}\nARG P=ln\nRUN --mount="type=bind,src=$P,dst=/in" : OUT\n', small=True),
    Case(
        "bind mount from a context and a stage",
        f"FROM scratch AS s\nCOPY a.txt /\nFROM {BASE}\n"
        "RUN --mount=from=other,src=d,dst=/in,rw --mount=from=s,dst=/s : OUT\n",
        contexts=("other",),
        small=True,
    ),
]  # fmt: skip
