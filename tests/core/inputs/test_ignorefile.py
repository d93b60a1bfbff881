"""Which paths an ignore file hides: moby's rules by example, against a library's port, and against BuildKit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from doit_images.core.inputs.ignorefile import IgnoreFile, State, effective, load
from doit_images.core.inputs.reads import Copy
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from tests.conftest import examples
from tests.differential import buildkit


def hides(text: str, path: str) -> bool:
    """Ask about a path after the folders above it, as a walk does."""
    ignore = IgnoreFile(text)
    parts = path.split("/")
    state: State = ()
    hidden = False
    for depth in range(1, len(parts) + 1):
        hidden, state = ignore.judge("/".join(parts[:depth]), state)
    return hidden


@pytest.mark.parametrize(
    ("text", "hidden", "shown"),
    [
        ("a", ["a", "a/b"], ["b/a", "ab"]),
        ("/a/", ["a", "a/b"], ["b/a"]),
        ("./a//b/../c", ["a/c", "a/c/d"], ["a/b"]),
        ("../a", [], ["a"]),
        ("*.md", ["x.md"], ["d/x.md"]),
        ("*/*.md", ["d/x.md"], ["x.md", "d/e/x.md"]),
        ("**/*.md", ["x.md", "d/x.md", "d/e/x.md"], ["x.mdx"]),
        ("d/**", ["d/x", "d/e/x"], ["d", "dx"]),
        ("**/d", ["d", "a/d", "a/d/x"], ["ad"]),
        ("**d", ["d", "ad", "a/xd"], ["dx"]),
        ("a**", ["a", "ab", "a/b"], ["b"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["z", "az"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("a.b+(c)|{d}$", ["a.b+(c)|{d}$"], ["axb+(c)|{d}$"]),
        ("# a\n #b\n#c", ["#b"], ["a", "#c"]),
        ("  a  \r\n\n\t\nb", ["a", "b"], [" a"]),
        ("\ufeffa", ["a"], []),
        ("*\n!a", ["b"], ["a"]),
        ("!a\na", ["a"], []),
        ("d\n!d/x\n", ["d", "d/y"], ["d/x"]),
        ("d\n! d/x\n", ["d/y"], ["d/x"]),
        ("*\n!**/keep", ["a", "a/b"], ["keep", "a/keep"]),
        ("a\n!a\na/b", ["a/b"], ["a", "a/c"]),
        ("**", ["a", "a/b"], []),
        ("*", ["a", "a/b"], []),
        (".", [], ["a"]),
        ("/", [], ["a"]),
        ("!\na", ["a"], []),
        # What moby's regular expressions make of these is not what anybody means: then nothing is hidden.
        ("a^*", [], ["a^b"]),
        ("a[*]b", [], ["a*b"]),
        ("[a", [], ["a"]),
        ("a\\d*", [], ["a1"]),
        ("[z-a]", [], ["z"]),
        ("*\n!a[*]b", [], ["x"]),
    ],
)
def test_rules(text, hidden, shown):
    assert [path for path in hidden if not hides(text, path)] == []
    assert [path for path in shown if hides(text, path)] == []


@pytest.mark.parametrize(
    ("rules", "folder", "expected"),
    [
        ("d\n!d/x", "d", True),
        ("d\n!e/x", "d", False),
        ("d\n!*.md", "d", False),
        ("d\n!*/x", "d", True),
        ("d\n!**/x", "d/e/f", True),
        ("d\n!d", "d", False),
        ("d\n![^x]y", "d", True),
        ("d", "d", False),
    ],
)
def test_a_hidden_folder_is_entered_only_where_something_may_be_shown(rules, folder, expected):
    assert IgnoreFile(rules).may_show_below(folder) is expected


def test_the_rule_that_hides_is_named():
    rule = IgnoreFile("# all\n\n*.md\nd\n").hider("d/x")
    assert rule is not None
    assert (rule.line, rule.text) == (4, "d")
    assert IgnoreFile("d\n!d/x\n").hider("d/x") is None


class TestEffective:
    def test_the_dockerfiles_own_comes_first_even_when_empty(self, tmp_path):
        (tmp_path / ".dockerignore").write_text("a")
        dockerfile = tmp_path / "sub" / "Dockerfile"
        dockerfile.parent.mkdir()
        assert effective(tmp_path, dockerfile) == tmp_path / ".dockerignore"
        own = dockerfile.with_name("Dockerfile.dockerignore")
        own.write_text("")
        assert effective(tmp_path, dockerfile) == own
        assert effective(tmp_path, None) == tmp_path / ".dockerignore"
        assert load(effective(tmp_path, dockerfile)).rules == ()

    def test_none(self, tmp_path):
        (tmp_path / ".dockerignore").mkdir()
        found = load(effective(tmp_path, tmp_path / "Dockerfile"))
        assert (found.path, found.text, found.rules) == (None, "", ())

    def test_a_link_counts_only_inside_its_folder(self, tmp_path):
        context = tmp_path / "context"
        (context / "sub").mkdir(parents=True)
        (context / "sub" / "rules").write_text("a")
        (tmp_path / "outside").write_text("a")
        link = context / ".dockerignore"
        link.symlink_to("sub/rules")
        assert load(effective(context, None)).rules
        for target in ("../outside", str(context / "sub" / "rules")):
            link.unlink()
            link.symlink_to(target)
            assert not load(effective(context, None)).rules

    def test_bytes_that_are_no_utf8(self, tmp_path):
        (tmp_path / ".dockerignore").write_bytes(b"a\xff\n\xff*\n")
        assert [rule.atoms != () for rule in load(effective(tmp_path, None)).rules] == [True, False]


NAMES = st.sampled_from(["a", "b", "ab", "a.md", ".h", "é", "c d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(
    ["a", "b", "ab", "*", "**", "?", "a*", "*.md", "[ab]", "[^a]", "a.md", ".h", "é", "..", ".", "c d"]
)
RULES = st.builds(
    lambda mark, lead, parts, trail: mark + lead + "/".join(parts) + trail,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(PIECES, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)
FILES = st.lists(RULES, max_size=6).map("\n".join)


@given(FILES, PATHS)
@examples(15)
def test_it_agrees_with_a_port_of_moby(text, path):
    try:
        theirs = PatternMatcher(text.split("\n"))
    except ValueError:
        assume(False)
    assert hides(text, path) == theirs.matches(path), IgnoreFile(text).rules


@pytest.mark.engine
@given(FILES, st.sets(PATHS, min_size=3, max_size=14))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_buildkit_sees_what_we_say(engine, text, paths):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        context = work / "context"
        context.mkdir()
        for path in sorted(paths, key=len):
            file = context / path
            if not any(parent.is_file() for parent in file.parents) and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(path)
        (work / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
        (work / "Dockerfile.dockerignore").write_text(text)
        try:
            seen, said = buildkit.contents(context, work / "Dockerfile", work), ""
        except buildkit.Refused as refused:
            seen, said = None, str(refused)
        view = View(Tree(context, FileIndex()), load(effective(context, work / "Dockerfile")))
        ours = {entry.path for entry in select(view, [Copy("", ("/",))], "Dockerfile").entries()}
    if seen is None:
        assert "pattern" in said  # one that moby calls an error
    else:
        assert ours == {path for path in seen if path}


@pytest.mark.parametrize("folder", [".doit-images", "pro[j] *?/.doit-images", "a\\b/.doit-images"])
def test_a_folder_that_is_hidden_whatever_the_file_says(folder: str) -> None:
    shown = IgnoreFile("!x\n", hidden=folder)
    assert shown.text == "!x\n"
    assert shown.completed.startswith("!x\n\n/")
    assert shown.hider(folder) is not None
    assert shown.hider("x") is None
    assert IgnoreFile("**/.doit-images\n", hidden=folder).completed == ""
