"""Which instructions stand in a text: examples, and BuildKit's own parser as the judge of Dockerfiles made at random.

``DOCKERFILES=0-100000`` tries these instead of a few. The judge is the package ``dockerfile``, which has no wheel for
some processors; it reads as frontend 1.6 does, ``FRONTENDS[0]``.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.inputs import syntax
from doit_images.core.inputs.syntax import (
    CHECK,
    FRONTENDS,
    HEREDOC_AFTER_BLANK,
    WHOLE_JSON,
    WIDE_DIRECTIVE,
    Node,
    Wrong,
)
from tests.conftest import ROOT, examples
from tests.differential import dockerfiles

OLD, NEW = FRONTENDS[0], FRONTENDS[-1]
judged = pytest.mark.skipif(
    not (find_spec("dockerfile") or os.environ.get("CI")),
    reason="the package dockerfile is not here: few processors have it",
)


def only(text: str, frontend: int = NEW) -> Node:
    [node] = syntax.read(text, frontend).nodes
    return node


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ('COPY ["a","/x"] # c', ("a", "/x"), ('["a","/x"]', "#", "c")),
        ('COPY ["a","/x"]y', ("a", "/x"), ('["a","/x"]y',)),
        ('COPY ["a","/x"] \u3000', ("a", "/x"), ("a", "/x")),
        ('COPY ["a", "\\ud800"]', ("a", "\ufffd"), ("a", "\ufffd")),
        ('COPY ["a", NaN]', ('["a",', "NaN]"), ('["a",', "NaN]")),
        ("COPY ['a']", ("['a']",), ("['a']",)),
    ],
)
def test_the_exec_form_was_the_first_json_value(text: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    assert (only(text, WHOLE_JSON - 1).args, only(text, WHOLE_JSON).args) == (old, new)


@pytest.mark.parametrize("blank", ["\xa0", "\u3000", "\x85", "\u2003", "\u1680"])
def test_where_blanks_of_unicode_end_a_word_and_where_not(blank: str) -> None:
    assert only(f"COPY a{blank}b /x").args == (f"a{blank}b", "/x")
    assert only(f"FROM a{blank}b").args == (f"a{blank}b",)
    assert only(f"COPY{blank}a /x").name == f"copy{blank}a"
    assert only(f"{blank}COPY a /x{blank}").args == ("a", "/x")
    assert only(f"ENV A=b{blank}C=d").args == ("A", "b", "C", "d")
    assert only(f"ARG A{blank}B").args == ("A", "B")
    assert only(f"RUN a <<E{blank}b\nE").heredocs == (("E", ""),)
    assert only(f"RUN \\\n{blank}# c\n{blank}\na").args == ("a",)
    assert only(f"RUN a \\{blank}").args == ("a \\",)


@pytest.mark.parametrize("blank", ["\x1c", "\u200b", "\u180e"])
def test_what_python_calls_white_space_and_go_does_not(blank: str) -> None:
    assert only(f"ENV A=b{blank}C=d").args == ("A", f"b{blank}C=d")
    assert only(f"COPY a b{blank}").args == ("a", f"b{blank}")


def test_flags_are_read_byte_by_byte() -> None:
    assert only("COPY --from=\u3000 a /x").flags == ("--from=ã\x80\x80",)
    assert only("COPY --from=à b /x") == Node("copy", "COPY --from=à b /x", ("--from=Ã",), ("b", "/x"), line=1)
    assert only("COPY --from='a b' --x\\ y -- --z /x").flags == ("--from=a b", "--x y")
    assert only("# escape=`\nCOPY --x=a`b /x", WHOLE_JSON).flags == ("--x=ab",)
    assert only("# escape=`\nCOPY --x=a`b /x", WHOLE_JSON - 1).flags == ("--x=a`b",)


@pytest.mark.parametrize(
    ("text", "child", "heredocs"),
    [
        ("ONBUILD COPY a /x", ("copy", ("a", "/x")), ()),
        ("ON\\\nBUILD \\\n # c\n COPY a \\\n /x", ("copy", ("a", "/x")), ()),
        ("onbuild RUN <<E\nCOPY no /x\nE", ("run", ("<<E",)), (("E", "COPY no /x\n"),)),
        ("ONBUILD FOO x", ("foo", ("",)), ()),
        ('ONBUILD COPY ["<<E", "/x"]', ("copy", ("<<E", "/x")), ()),
    ],
)
def test_onbuild_holds_an_instruction(text: str, child: Any, heredocs: Any) -> None:
    node = only(text)
    assert node.child
    assert (node.name, (node.child.name, node.child.args), node.heredocs) == ("onbuild", child, heredocs)


def test_what_onbuild_hands_on_is_read_alike() -> None:
    node = only("onbuild \tCOPY <<E <<-F a /x\nhi\nE\n\tb\n\tF")
    text = syntax.as_one(node)
    assert text == "COPY <<E <<-F a /x\nhi\nE\n\tb\nF"
    assert node.child
    assert only(text).args == node.child.args
    assert only(text).heredocs == node.heredocs


@pytest.mark.parametrize(
    ("text", "frontend", "escape"),
    [
        ("# check=skip=all\n# escape=`\n", CHECK - 1, "\\"),
        ("# check=skip=all\n# escape=`\n", CHECK, "`"),
        ("#\xa0escape=`\n", WIDE_DIRECTIVE - 1, "\\"),
        ("#\xa0escape=`\n", WIDE_DIRECTIVE, "`"),
        (" # ESCAPE = ` \n", NEW, "`"),
        ("# c\n# escape=`\n", NEW, "\\"),
        ("\n# escape=`\n", NEW, "\\"),
        ("\ufeff#escape=`\r\n", OLD, "`"),
    ],
)
def test_directives(text: str, frontend: int, escape: str) -> None:
    assert syntax.read(f"{text}USER 1", frontend).escape == escape


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("#!x\n# syntax=a b", "a"),
        ("# syntax=a\n#!x", "a"),
        ("# check=x\n#\xa0Syntax = a\t", "a"),
        ("# x=y\n# syntax=a", ""),
        (" # syntax=a", ""),
        ("\ufeff# syntax=a\r\n", "a"),
    ],
)
def test_the_image_of_the_frontend(text: str, image: str) -> None:
    assert syntax.image(text) == image


def test_a_heredoc_after_blanks_is_new() -> None:
    text = "RUN cat << E\nUSER 1\nE"
    assert only(text, HEREDOC_AFTER_BLANK).heredocs == (("E", "USER 1\n"),)
    assert [node.name for node in syntax.read(text, HEREDOC_AFTER_BLANK - 1).nodes] == ["run", "user", "e"]


def test_a_line_with_what_the_lexer_did_not_know_had_no_heredoc() -> None:
    assert only("RUN <<E ${A%b}\nE").heredocs == (("E", ""),)
    assert len(syntax.read("RUN <<E ${A%b}\nE", OLD).nodes) == 2
    assert only("RUN <<E ${A:%b}\nE", OLD).heredocs
    assert only("RUN <<E '${A%b}'\nE", OLD).heredocs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no instructions"),
        ("ENV A", "two arguments"),
        ("ENV A=1 B", "can't find ="),
        ('COPY ["a", 1]', "strings only"),
        ("RUN <<E\n", "unterminated heredoc"),
        ("# escape=x\nUSER 1", "invalid escape"),
        ("# escape=`\n# escape=`\nUSER 1", "only one"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(Wrong, match=message):
        syntax.read(text, NEW)


def test_only_frontends_that_differ_count() -> None:
    assert syntax.differing(["FROM a\nCOPY [a] /x"]) == [NEW]
    assert syntax.differing(['FROM a\nCOPY ["a", "b"] # c']) == [NEW, CHECK]
    assert syntax.differing(["FROM a", 'COPY ["a", "b"] # c']) == [NEW, CHECK]


def readable(text: str) -> str:
    """What can be handed to the package: it takes no NUL and no bytes that are not UTF-8."""
    return text.replace("\0", "\ufffd").encode(errors="surrogateescape").decode(errors="replace")


def judge(text: str) -> Any:
    """What BuildKit's parser reads: the same as ``ours``."""
    import dockerfile

    try:
        found = dockerfile.parse_string(readable(text))
    except dockerfile.GoParseError:
        return "refused"
    except UnicodeDecodeError:  # half a letter, where BuildKit looks at bytes: the package cannot say it
        return ours(text)
    return [
        (syntax.lower(each.cmd), syntax.lower(each.sub_cmd or ""), each.json, each.flags, each.value, each.start_line)
        for each in found
    ]


def ours(text: str) -> Any:
    try:
        nodes = syntax.read(readable(text), OLD).nodes
    except Wrong:
        return "refused"
    return [
        (node.name, node.child.name if node.child else "", said.json, node.flags, said.args, node.line)
        for node in nodes
        for said in [node.child or node]
    ]


@judged
@examples(1)
@given(st.randoms(use_true_random=False))
def test_buildkits_parser_reads_the_same(random: Random) -> None:
    text = dockerfiles.make(random)
    assert ours(text) == judge(text)


@judged
def test_buildkits_parser_reads_the_same_of_many() -> None:
    seeds = range(*map(int, os.environ.get("DOCKERFILES", "0-1000").split("-")))
    texts = [dockerfiles.make(Random(seed)) for seed in seeds]
    differing = [(seed, text) for seed, text in zip(seeds, texts, strict=True) if ours(text) != judge(text)]
    assert differing == []
    read = sum(ours(text) != "refused" for text in texts[:1000])
    assert read > 500, "most are refused: this test compares next to nothing"


@judged
def test_buildkits_parser_reads_our_own_dockerfiles_the_same() -> None:
    files = sorted(ROOT.glob("docker/*/Dockerfile"))
    assert len(files) > 5
    for file in files:
        assert ours(file.read_text()) == judge(file.read_text())
