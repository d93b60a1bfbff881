"""Which files are inputs: each rule of BuildKit's by example, and random contexts and sources against BuildKit."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.inputs.ignorefile import IgnoreFile, effective, load
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import InputFile, Selection, select, shown
from doit_images.core.inputs.sources import _go_match
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from tests.conftest import examples
from tests.differential import buildkit
from tests.differential.contexts import CONTEXTS


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "context"
    for path in ("a.txt", "b.md", "d/x.txt", "d/y.md", "d/e/z.txt", "n/keep.log", "n/drop.log"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "d" / "empty").mkdir()
    (folder / "ln").symlink_to("a.txt")
    (folder / "dl").symlink_to("d")
    (folder / "d" / "up").symlink_to("/a.txt")
    return folder


def selected(root: Path, *sources: str, ignore: str = "", **options) -> Selection:
    view = View(Tree(root, FileIndex()), IgnoreFile(ignore, root / ".dockerignore"))
    return select(view, [Copy("", sources, line=3, **options)], "Dockerfile")


def paths(root: Path, *sources: str, **options) -> list[str]:
    selection = selected(root, *sources, **options)
    entries = selection.entries()
    there = [str(path.relative_to(root)) for path in root.rglob("*")]
    assert {path for path in [*there, "none", "a.txt/none"] if selection.has(path)} == {entry.path for entry in entries}
    return shown(entries)


ALL_OF_D = ["d/e/z.txt", "d/empty", "d/up", "d/x.txt", "d/y.md"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a.txt"], ["a.txt"]),
        (["/a.txt", "./b.md", "../d/./x.txt"], ["a.txt", "b.md", "d/x.txt"]),
        (["d"], ALL_OF_D),
        (["d/"], ALL_OF_D),
        (["d/e", "d"], ALL_OF_D),
        (["*.txt"], ["a.txt"]),
        (["?.md"], ["b.md"]),
        (["*/x.txt"], ["d/x.txt"]),
        (["*/*.log"], ["n/drop.log", "n/keep.log"]),
        (["d/e*"], ["d/e/z.txt", "d/empty"]),
        (["[ab].*"], ["a.txt", "b.md"]),
        (["[^b].txt"], ["a.txt"]),
        (["d[^a]x.txt"], ["d/x.txt"]),  # Go's classes match "/" too
        (["**/z.txt"], []),  # "**" is "*" in COPY
        (["none*"], []),
        (["none/*"], []),
        (["ln"], ["a.txt", "ln"]),
        (["dl"], [*ALL_OF_D, "dl"]),
        (["dl/e/z.txt"], ["d/e/z.txt", "dl"]),
        (["dl/*.md"], ["d/y.md", "dl"]),
        (["d/u*"], ["a.txt", "d/up"]),
        (["l*"], ["a.txt", "ln"]),
    ],
)
def test_sources(root, sources, expected):
    assert paths(root, *sources) == sorted(expected)


def test_a_backslash_is_a_character_unless_a_wildcard_follows(root):
    for path in ("a\\b", "ab", "f\\x/y", "fx/y"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(path)
    assert paths(root, "a\\b") == ["a\\b"]
    assert paths(root, "a\\b*") == ["ab"]
    assert paths(root, "[a\\\\]\\b*") == ["ab"]
    assert paths(root, "f\\x/*") == ["f\\x/y"]  # BuildKit copies this, and makes its cache key of fx/y


def test_optional_sources_may_be_missing(root):
    view = View(Tree(root, FileIndex()), IgnoreFile())
    found = select(view, [Copy("", ("a.txt", "none", "d/none"), optional=True)], "Dockerfile")
    assert [entry.path for entry in found.entries()] == ["a.txt"]


def test_everything_keeps_links_as_links(root):
    assert paths(root, ".") == sorted(["a.txt", "b.md", *ALL_OF_D, "dl", "ln", "n/drop.log", "n/keep.log"])


def test_patterns_of_bind_mounts_are_plain_names(root):
    (root / "*").write_text("star")
    assert paths(root, "*", instruction="RUN --mount") == ["*"]


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        ("d\nn\n", ["a.txt", "b.md", "dl", "ln"]),
        ("*\n!d/e\n", ["d/e/z.txt"]),
        ("*\n!n/keep.log\n", ["n/keep.log"]),
        ("**\n!**/*.md\n", ["b.md", "d/y.md"]),
        ("d\n!d/none\n*.*\n*n*\n*l\n", []),
    ],
)
def test_what_the_ignore_file_hides_is_no_input(root, ignore, expected):
    assert paths(root, ".", ignore=ignore) == expected


def test_a_hidden_folder_is_not_walked(root):
    index = FileIndex()
    select(View(Tree(root, index), IgnoreFile("d\nn\n!a.txt\n")), [Copy("", (".",))], "Dockerfile").entries()
    assert list(index._folders) == [str(root.resolve())]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exclude": ("*.md",)}, ["d/e/z.txt", "d/empty", "d/up", "d/x.txt"]),
        ({"exclude": ("**/*.txt", "empty")}, ["d/e", "d/up", "d/y.md"]),
        ({"exclude": ("e", "!e/z.txt")}, ALL_OF_D),
        ({"exclude": ("d",)}, ALL_OF_D),
        ({"exclude": ("/x.txt", " !/e", "x.txt")}, ["d/e/z.txt", "d/empty", "d/up", "d/y.md"]),
        ({"exclude": ("/x.txt",)}, ALL_OF_D),
    ],
)
def test_exclude(root, options, expected):
    assert paths(root, "d", **options) == expected


def test_what_a_link_leads_to_counts_where_something_is_excluded(root):
    assert "d/y.md" not in paths(root, ".", exclude=("d/*.md", "dl"))
    assert "d/y.md" in paths(root, ".", exclude=("d/*.md",))  # dl leads there, and BuildKit counts all of it


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("d/e/z.txt", ["d/e/z.txt"]),
        ("./d/./e/z.txt", ["d/e/z.txt"]),
        ("**/z.txt", ["d/e/z.txt"]),
        ("n", ["n/drop.log", "n/keep.log"]),
        ("none", []),
    ],
)
def test_parents(root, source, expected):
    found = paths(root, source, parents=True)
    assert [path for path in found if path not in ("ln", "dl", "a.txt", *ALL_OF_D) or path in expected] == expected


def test_modes_of_parents_count_only_with_the_flag(root):
    plain, parents = selected(root, "d/e/z.txt"), selected(root, "n/keep.log", parents=True)
    assert plain.digest == selected(root, "d/e/z.txt").digest
    (root / "d").chmod(0o700)
    (root / "n").chmod(0o700)
    assert plain.digest == selected(root, "d/e/z.txt").digest
    assert parents.digest != selected(root, "n/keep.log", parents=True).digest


@pytest.mark.parametrize(
    ("source", "ignore", "said"),
    [
        ("a.tx", "", "Dockerfile:3: COPY: the context has no 'a.tx' (did you mean 'a.txt'?)"),
        ("d/e/zz.txt", "", "Dockerfile:3: COPY: the context has no 'd/e/zz.txt' (did you mean 'd/e/z.txt'?)"),
        ("a.txt", "#\n*.txt", ":2 hides 'a.txt' with '*.txt')"),
        ("d/x.txt", "d", ":1 hides 'd' with 'd')"),
        ("n/other", "", "(n holds 'drop.log', 'keep.log')"),
        ("lost", "", "(the link 'lost' points to 'nowhere')"),
        ("los*", "", "(the link 'lost' points to 'nowhere')"),
        ("loop", "", "points to 'loop')"),
        ("a.txt/x", "", "('a.txt' is not a folder)"),
    ],
)
def test_a_source_that_is_not_there_is_explained(root, source, ignore, said):
    (root / "lost").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    with pytest.raises(UserError) as caught:
        selected(root, source, ignore=ignore)
    assert said in str(caught.value)


def test_links_cannot_leave_the_context(root, tmp_path):
    (tmp_path / "outside").write_text("x")
    (root / "out").symlink_to("../outside")
    with pytest.raises(UserError):
        selected(root, "out")
    (root / "outside").write_text("inside")
    assert paths(root, "out") == ["out", "outside"]


def test_a_link_through_a_hidden_path_leads_nowhere(root):
    with pytest.raises(UserError):
        selected(root, "dl/x.txt", ignore="dl")
    with pytest.raises(UserError):
        selected(root, "dl/x.txt", ignore="d/x.txt")


class TestDigest:
    def test_equal_content_elsewhere_is_equal(self, root, tmp_path):
        import shutil

        shutil.copytree(root, tmp_path / "twin", symlinks=True)
        for path in (tmp_path / "twin").rglob("*"):
            os.utime(path, (1, 1), follow_symlinks=False)
        assert selected(root, ".").digest == selected(tmp_path / "twin", ".").digest

    @pytest.mark.parametrize(
        "change",
        [
            lambda root: (root / "d/x.txt").write_text("new"),
            lambda root: (root / "d/x.txt").chmod(0o600),
            lambda root: (root / "d/x.txt").unlink(),
            lambda root: (root / "d/x.txt").rename(root / "d/w.txt"),
            lambda root: (root / "d/more").mkdir(),
            lambda root: (root / "d/empty").rmdir(),
            lambda root: (root / "d/empty").chmod(0o700),
            lambda root: (root / "d/up").unlink() or (root / "d/up").symlink_to("../b.md"),
            lambda root: (root / "d/y.md").unlink() or (root / "d/y.md").mkdir(),
            lambda root: (root / "d").chmod(0o700),
            lambda root: os.mkfifo(root / "d/fifo"),
        ],
    )
    def test_what_matters(self, root, change):
        before = selected(root, "d").digest
        change(root)
        assert selected(root, "d").digest != before

    @pytest.mark.parametrize(
        "change",
        [
            lambda root: os.utime(root / "d/x.txt", (1, 1)),
            lambda root: (root / "a.txt").write_text("new"),
            lambda root: root.chmod(0o700),
            lambda root: (root / "d/x.txt").write_text("d/x.txt"),
            lambda root: (root / "d/x.txt").rename(root / "t") and (root / "t").rename(root / "d/x.txt"),
        ],
    )
    def test_what_does_not(self, root, change):
        before = selected(root, "d").digest
        change(root)
        assert selected(root, "d").digest == before


def test_entries_and_what_people_see():
    entries = [InputFile("a", "dir", 0o755, ""), InputFile("a/b", "file", 0o644, "0"), InputFile("c", "dir", 0o755, "")]
    assert shown(entries) == ["a/b", "c"]


def test_the_files_alone_are_those_of_the_entries(root):
    for selection in (selected(root, "."), selected(root, "dl", "a.txt"), selected(root, "d", exclude=("*.md",))):
        files = [entry.path for entry in selection.entries() if entry.kind == "file"]
        assert sorted(selection.files()) == files


@pytest.mark.parametrize("sources", [["d"], ["."], ["d/e/"]])
def test_attributes_of_folders_that_are_copied_count(root, sources):
    """BuildKit sends them; of the folder that a source names, and of those below it."""
    before = selected(root, *sources).digest
    try:
        os.setxattr(root / "d/e", "user.test", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    assert selected(root, *sources).digest != before
    os.removexattr(root / "d/e", "user.test")
    assert selected(root, *sources).digest == before


def test_one_answer_per_question(root):
    view = View(Tree(root, FileIndex()), IgnoreFile())
    copies = [Copy("", ("d",))]
    assert select(view, copies, "D") is select(view, list(copies), "D")


@given(st.text("ab*?[]^-\\/", max_size=8), st.text("ab-/^", max_size=6))
@examples(5)
def test_patterns_of_go_match_as_a_shell_would_where_both_mean_the_same(pattern, name):
    found = _go_match(pattern)
    if found is None:
        assert set(pattern) & set("[\\")  # nothing else can be malformed
    elif not set(pattern + name) & set("[]^\\/"):
        assert bool(found(name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.engine
@given(CONTEXTS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_buildkit_copies_what_we_count(engine, random):
    """Every file that arrives in the image is an input, and BuildKit fails where we say that a source is missing."""
    with tempfile.TemporaryDirectory() as name:
        context, dockerfile = random.lay(Path(name), "out")
        view = View(Tree(context, FileIndex()), load(effective(context, dockerfile)))
        try:
            entries = select(view, [Copy("", (random.source,))], "Dockerfile").entries()
            ours = {(context / entry.path).read_bytes() for entry in entries if entry.kind == "file"}
        except UserError:
            ours = None
        try:
            theirs = {content for content in buildkit.contents(context, dockerfile, Path(name)).values() if content}
        except buildkit.Refused:
            theirs = None
    if theirs is not None:
        assert ours is not None, "we say it is broken, BuildKit builds it"
        assert theirs <= ours, "BuildKit copies what we do not count"
