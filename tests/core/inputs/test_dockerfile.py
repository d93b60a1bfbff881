"""What a Dockerfile reads: each rule of BuildKit by an example."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import familiar, is_git, is_pinned, is_remote
from doit_images.core.inputs.dockerfile import Copy, Reads, reads
from doit_images.core.inputs.reads import joined


def read(text: str, **options) -> Reads:
    return reads(text, where="Dockerfile", **options)


def sources(text: str, **options) -> list[str]:
    """The sources read from the image's own context, in order."""
    return [source for copy in read(text, **options).copies if not copy.context for source in copy.sources]


def trouble(text: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(text, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPY a /x", ["a"]),
        ("copy a b c/ /x/", ["a", "b", "c/"]),
        ('COPY ["a b", "c", "/x/"]', ["a b", "c"]),
        ("COPY a\\ b /x/", ["a", "b"]),  # BuildKit splits at white space, escaped or not
        ("COPY --chown=1:1 --chmod=644 --link a /x", ["a"]),
        ("COPY a \\\n  # between\n\n  b \\\n /x", ["a", "b"]),
        ("ADD a.tar /x", ["a.tar"]),
        ("COPY <<EOF /x\nCOPY not /this\nEOF\nCOPY b /x", ["b"]),
        ("COPY <<-'ONE' a <<TWO /x\n\tCOPY not /this\n\tONE\nTWO", ["a"]),
        ("RUN cat <<EOF\nCOPY not /this\nEOF", []),
        ("RUN --mount=type=bind,source=req.txt,target=/r pip", ["req.txt"]),
        ("RUN --mount=target=/src make", ["/"]),
        ("RUN --mount=type=bind,target=/a,src=b --mount=dst=/c,source=d make", ["b", "d"]),
        ('RUN --mount="type=bind,\\"source=a,b\\",target=/r" x', ["a,b"]),
        ("RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=ssh x", []),
        ("ARG T=bind\nRUN --mount=type=$T,src=${T}s,target=/x y", ["binds"]),
        ("ENV A=1 B=$A\nCOPY x$A y$B /z", ["x1", "y"]),  # within one ENV the old values count
        ("ARG A=1\nENV A=2\nCOPY $A /z", ["2"]),
        ("ARG A\nCOPY x${A:-default} ${A:+set}y /z", ["xdefault", "y"]),
        ("ARG A=a.tar.gz\nCOPY ${A%.*} ${A%%.*} ${A#*.} ${A//a/b} /z", ["a.tar", "a", "tar.gz", "b.tbr.gz"]),
        ("ARG A=b\nCOPY '$A' \"$A\" \\$A /z", ["$A", "b", "$A"]),
        ("ENV key a value\nCOPY $key /z", ["a value"]),
        ("ARG TARGETARCH\nCOPY $TARGETARCH /z", ["amd64"]),
        ("COPY x$TARGETARCH /z", ["x"]),  # without ARG it is not set
        ("COPY a\u00a0b c\u3000d\u0085 /x", ["a\u00a0b", "c\u3000d\u0085"]),  # words end at ASCII's blanks only
        ("ENV A=1\u00a0B=2\nCOPY $A$B /x", ["12"]),  # but here at Unicode's
        ("COPY x${PATH:+y} ${PATH##*:} /z", ["xy", "/bin"]),  # BuildKit sets it where no base does
        ("ENV PATH=/p\nCOPY $PATH /z", ["/p"]),
        ("WORKDIR /x\nLABEL a=b\nEXPOSE 80\nUSER 1\nSHELL [\"sh\"]\nHEALTHCHECK CMD x\nSTOPSIGNAL 9\nVOLUME /v", []),
    ],
)  # fmt: skip
def test_sources_of_one_stage(text, expected):
    assert sources(f"FROM scratch\n{text}\n") == expected


def test_escape_directive_and_byte_order_mark():
    assert sources("\ufeff# escape=`\nFROM scratch\nCOPY a `\n b /x\n") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "always", "perhaps"),
    [
        ('COPY ["a","/x/"] # comment', [], ["[a,/x/]", "#", "a"]),
        ('COPY ["a", "/x/"] # comment', ["a"], []),  # no BuildKit copies "[a,"
        ('COPY ["a\\\\", "/x/"] # comment', [], ["[a\\,", "/x/]", "#", "a"]),
        ('COPY b /x\nADD ["a","/x/"] c', ["b"], ["[a,/x/]", "a"]),
        ("COPY b /x\nRUN cat << USER\nCOPY a /x\nUSER", ["b"], ["a"]),
        ('COPY b /x\nONBUILD COPY ["a","/x/"] c\nFROM s', ["b"], ["[a,/x/]", "a"]),
        ('COPY ["a","/x/"] ${ # what one refuses, another may build', ["a"], []),
    ],
)
def test_what_versions_of_buildkit_take_for_other_instructions(text, always, perhaps):
    copies = read(f"FROM scratch AS s\n{text}\n").copies
    assert [source for copy in copies if not copy.optional for source in copy.sources] == always
    assert [source for copy in copies if copy.optional for source in copy.sources] == perhaps


def test_a_directive_that_is_new_moves_the_end_of_lines():
    found = read("# check=skip=all\n# escape=`\nFROM scratch\nCOPY a `\n b /x\n")
    assert [copy.sources for copy in found.copies] == [("a", "b")]  # an older BuildKit does not know the word "b"
    found = read("# check=skip=all\n# escape=`\nFROM scratch\nCOPY a `b /x\n")
    assert [copy.sources for copy in found.copies] == [("a", "b"), ("a", "`b")]


def test_flags_that_choose_files_are_kept():
    found = read("FROM scratch\nCOPY --exclude=*.md --exclude=b --parents ./a/./b c /x\n")
    assert found.copies == (Copy("", ("./a/./b", "c"), ("*.md", "b"), True, 2, "COPY"),)


class TestStages:
    TEXT = """
        FROM scratch AS one
        COPY one /
        FROM scratch AS two
        COPY two /
        FROM One AS three
        COPY three /
        FROM scratch
        COPY --from=TWO /two /
        COPY four /
        """

    def test_only_what_the_target_reaches(self):
        assert sources(self.TEXT) == ["two", "four"]
        assert sources(self.TEXT, target="ONE") == ["one"]

    def test_a_base_in_another_case_is_an_image(self):
        found = read(self.TEXT, target="three")
        assert (found.externals, [c.sources for c in found.copies]) == (("One",), [("three",)])

    def test_copy_by_number_and_mount_from(self):
        text = "FROM scratch\nCOPY a /\nFROM scratch AS b\nCOPY b /\nFROM x\nCOPY --from=0 / /\n"
        text += "RUN --mount=from=b,target=/b y\n"
        assert sources(text) == ["a", "b"]
        assert read(text.replace("from=b", "from=0")).externals == ("x", "0")  # a mount has no numbers

    def test_a_stage_hides_an_earlier_one_of_its_name(self):
        text = "FROM scratch AS a\nCOPY 1 /\nFROM a AS a\nCOPY 2 /\nFROM scratch\nCOPY --from=a / /\n"
        assert sources(text) == ["1", "2"]

    def test_mistakes_are_told_with_their_line(self):
        assert trouble(self.TEXT, target="tow") == "Dockerfile:1: there is no stage 'tow' (did you mean 'two'?)"
        assert trouble("FROM scratch\nCOPY --from=1 a b").startswith("Dockerfile:2: --from=1 is not an earlier stage")
        assert "Dockerfile:2: stage 'b' is used before it is defined" in trouble(
            "FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=a x y"
        )
        assert "'a' is in a dependency cycle" in trouble("FROM scratch AS a\nCOPY --from=a x y")
        assert trouble("FROM scratch\nCPY a b") == "Dockerfile:2: unknown instruction: CPY (did you mean COPY?)"
        assert trouble("COPY a b\n").startswith("Dockerfile:1: COPY before the first FROM")
        assert trouble("# nothing\n").startswith("Dockerfile:1: ")
        assert trouble("FROM scratch\nCOPY a\n") == "Dockerfile:2: COPY needs a source and a destination"
        assert trouble("FROM scratch\nCOPY ${a b\n").startswith("Dockerfile:2: ")
        assert trouble("FROM a b\n") == "Dockerfile:1: FROM takes an image, and AS with a name"
        assert trouble("FROM a AS 1b\n") == "Dockerfile:1: '1b' cannot be the name of a stage"
        assert "is empty after expansion" in trouble("ARG X\nFROM $X\n")
        assert trouble("FROM scratch\nCOPY <<EOF /x\nmore\n") == "Dockerfile:2: unterminated heredoc"


class TestArguments:
    def test_global_scope_feeds_from_and_only_declared_names_enter_a_stage(self):
        text = "ARG V=1\nARG D=d\nFROM py:$V\nCOPY x$V /z\nARG D\nCOPY $D /z\n"
        found = read(text, env={"py:1": {}})
        assert found.externals == ("py:1",)
        assert [c.sources for c in found.copies] == [("x",), ("d",)]
        assert found.args == ("D", "V")
        assert read(text, args={"V": "2", "D": "e"}, env={"py:2": {}}).copies[1].sources == ("e",)

    def test_unused_arguments_do_not_count(self):
        text = "ARG A=1\nARG B=$A\nARG C=$B\nFROM scratch AS x\nARG NOT\nFROM scratch\nARG C\n"
        assert read(text, args={"NOT": "1", "ELSE": "2", "HTTP_PROXY": "p"}).args == ("A", "B", "C")

    def test_arguments_of_buildkit_itself_always_count(self):
        assert read("FROM scratch", args={"SOURCE_DATE_EPOCH": "0", "BUILDKIT_INLINE_CACHE": "1"}).args == (
            "BUILDKIT_INLINE_CACHE",
            "SOURCE_DATE_EPOCH",
        )

    def test_platform(self):
        text = "FROM --platform=$BUILDPLATFORM go AS b\nARG TARGETVARIANT TARGETPLATFORM\nCOPY ${TARGETVARIANT} /\n"
        found = read(text, platform="linux/arm/v7", build_platform="linux/amd64", env={"go": {}})
        assert [(image.ref, image.platform) for image in found.images] == [("go", "linux/amd64")]
        assert found.copies[0].sources == ("v7",)

    def test_what_versions_of_buildkit_see_differently_counts_in_each_way(self):
        assert sources("FROM scratch\nENV A=1\nARG A=2\nCOPY $A /z") == ["2"]
        assert sources("# syntax=docker/dockerfile:1.0\nFROM scratch\nENV A=1\nARG A=2\nCOPY $A /z") == ["2", "1"]
        assert sources("FROM scratch\nARG A=1 B=$A\nCOPY x$B y /z") == ["y", "x1", "x"]
        assert sources("FROM scratch\nARG A=1 B=$A\nENV C=$B D=a\nCOPY $C$B /z") == ["11", "1", ""]
        assert sources("FROM scratch\nARG A=1 B=$A\nRUN --mount=source=x$B,target=/y :") == ["x1", "x"]
        text = "# syntax=s\nFROM scratch\nENV A=1\nARG A=2\nENV A=3\nCOPY $A /z"
        assert sources(text) == ["3"]
        many = "ARG A=1 " + " ".join(f"B{n}=$A" for n in range(9))
        assert sources(f"FROM scratch\n{many}\nCOPY {''.join(f'$B{n}' for n in range(9))} /z") == ["/"]

    def test_only_what_no_buildkit_misses_is_optional(self):
        found = read("FROM scratch\nARG A=1 B=$A\nCOPY x$B y /z").copies
        assert [(copy.sources, copy.optional) for copy in found] == [(("y",), False), (("x1", "x"), True)]

    def test_one_expansion_that_is_refused_does_not_speak_for_the_other(self):
        text = "FROM scratch\nARG A=1 B=$A\nCOPY ${B:?unset} /z"
        assert sources(text) == ["1"]
        assert "unset" in trouble("FROM scratch\nARG A B=$A\nCOPY ${B:?unset} /z")

    def test_a_name_that_is_not_certain_makes_every_variable_so(self):
        assert sources("FROM base\nARG A=1\nENV $WHICH=x\nCOPY $A /z") == ["/"]
        assert set(sources("FROM scratch\nARG A=1 B=$A\nENV A=2 X$B=y\nCOPY $A$X1$X /z")) == {"2y", "2yy", "2"}

    def test_a_value_that_is_not_certain_is_handed_on_as_such(self):
        found = read("FROM base\nARG A=1 B=$A\nENV C=$B D=d E=$UNKNOWN\n")
        assert found.env == {"C": None, "D": "d", "E": None}
        assert sources("FROM parent\nCOPY $D /z\nCOPY $C /z", env={"parent": found.env}) == ["d", "/"]

    def test_the_first_frontends_expand_names_of_arguments_and_pass_over_what_is_wrong(self):
        assert sources("FROM scratch\nARG A=N\nARG $A=x\nCOPY a$N /z") == ["ax", "a"]
        assert sources("FROM scratch\nARG A=x.y\nCOPY ${A:%.*} /z") == ["x"]
        assert read("ARG A=${B\nFROM scratch$A").images == ()

    def test_the_environment_of_a_base(self):
        text = "FROM base\nCOPY $WHERE /z"
        assert sources(text) == ["/"]  # nobody said what the base's environment is
        assert sources(text, env={"docker.io/library/base:latest": {"WHERE": "w"}}) == ["w"]
        assert sources(text, env={"base": {}}) == [""]


class TestOutside:
    def test_named_contexts_come_before_images(self):
        text = "FROM docker.io/library/base AS b\nCOPY --from=files x /\nFROM b\nCOPY --from=alpine:3 y /\n"
        found = read(text, named=["base", "files", "alpine"])
        assert found.contexts == ("base", "files")
        assert found.externals == ("alpine:3",)
        assert [(c.context, c.sources, c.instruction) for c in found.copies] == [
            ("base", ("/",), "FROM"),
            ("files", ("x",), "COPY"),
        ]

    def test_a_named_context_takes_the_place_of_a_stage(self):
        text = "FROM scratch AS b\nCOPY a /\nFROM scratch\nCOPY --from=b x /\n"
        found = read(text, named=["b"])
        assert [(c.context, c.sources) for c in found.copies] == [("b", ("/",))]

    def test_a_named_context_of_one_platform(self):
        assert read("FROM x", named=["x::linux/arm64"]).externals == ("x",)
        assert read("FROM x", named=["x::linux/arm64"], platform="linux/arm64").contexts == ("x::linux/arm64",)

    def test_images_by_every_way_and_never_scratch(self):
        text = "FROM scratch\nCOPY --from=a:1 / /\nRUN --mount=from=b@sha256:0,target=/x y\nCOPY --from=scratch / /\n"
        assert read(text).externals == ("a:1", "b@sha256:0")

    def test_remote_sources(self):
        text = (
            "FROM scratch\nARG V=1\n"
            "ADD https://example.org/a-$V.tgz local /x/\n"
            "ADD --checksum=sha256:0 https://example.org/b /x/\n"
            "ADD https://github.com/a/b.git#main git@github.com:a/b.git#" + "0" * 40 + " /x/\n"
        )
        found = read(text)
        assert [(r.text.partition("#")[0], r.pinned) for r in found.remotes] == [
            ("https://example.org/a-1.tgz", False),
            ("https://example.org/b", True),
            ("https://github.com/a/b.git", False),
            ("git@github.com:a/b.git", True),
        ]
        assert [c.sources for c in found.copies] == [("local",)]
        assert "COPY cannot fetch" in trouble("FROM scratch\nCOPY https://example.org/a /x\n")

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.org/v$VERSION/x.jar",
            '"http://$HOST/${PATH#/}"',
            "https://github.com/a/b.git#$REF",
            "https://example.org/${VERSION:?unset}/x",
        ],
    )
    def test_a_url_is_no_part_of_the_context_whatever_stands_in_it(self, url):
        found = read(f"FROM unknown\nADD {url} /x/\nCOPY a /x/\n")
        assert [copy.sources for copy in found.copies] == [("a",)]
        assert [(remote.text, remote.pinned) for remote in found.remotes] == [(url.strip('"'), False)]

    @pytest.mark.parametrize(
        "source", ["$BASE/x", "${BASE:-https://example.org}/x", "ssh://$HOST/a", "git@a:$X", "HTTPS://$X"]
    )
    def test_what_may_become_a_path_is_one(self, source):
        assert sources(f"FROM unknown\nADD {source} /x/\n") == ["/"]

    def test_a_variable_that_may_be_a_url_or_a_path(self):
        found = read("FROM scratch\nARG A=https://example.org B=${A:-local}\nADD $B/x /y/\n")
        assert [(copy.sources, copy.optional) for copy in found.copies] == [(("local/x",), True)]
        assert [remote.text for remote in found.remotes] == ["https://example.org/x"]

    def test_what_a_version_of_buildkit_may_fail_to_read_as_a_url_may_be_a_path_as_well(self):
        found = read("FROM scratch\nADD ssh://example.org/%zz/a.git /x/\n")
        assert [(copy.sources, copy.optional) for copy in found.copies] == [(("ssh://example.org/%zz/a.git",), True)]
        assert len(found.remotes) == 1

    def test_secrets_and_ssh(self):
        text = (
            "FROM scratch\nRUN --mount=type=secret,id=a --mount=type=secret,target=/run/b "
            "--mount=type=ssh --mount=type=ssh,id=c x\n"
        )
        assert (read(text).secrets, read(text).ssh) == (("a", "b"), ("c", "default"))

    def test_the_frontend(self):
        assert read("# syntax = docker/dockerfile:1\n# escape=\\\nFROM scratch").syntax == "docker/dockerfile:1"
        assert read("# no\n# syntax=a\nFROM scratch").syntax == ""
        assert read("# syntax=a\nFROM scratch", args={"BUILDKIT_SYNTAX": "b"}).syntax == "b"


class TestOnbuild:
    def test_triggers_of_an_image_run_first_in_the_child(self):
        onbuild = {"base": ["ARG D=x", "COPY $D /", "COPY --from=one /x /y"]}
        text = "FROM scratch AS one\nCOPY 1 /\nFROM base\nCOPY b /\n"
        assert sources(text, onbuild=onbuild) == ["x", "1", "b"]

    def test_triggers_of_a_stage_run_in_its_children_but_not_further(self):
        text = "FROM scratch AS a\nonbuild copy t \\\n u /\nFROM a AS b\nCOPY b /\nFROM b\nCOPY c /\n"
        assert sources(text) == ["t", "u", "b", "c"]
        assert sources(text, target="a") == []

    def test_a_trigger_may_hold_a_heredoc(self):
        assert sources("FROM scratch\nONBUILD COPY <<E /x\nCOPY not /this\nE\nCOPY a /\n") == ["a"]

    @pytest.mark.parametrize(
        ("text", "sources_of_child"),
        [
            ("ON\\\nBUILD COPY t /t", ["t"]),
            ("ONBUILD\\\n  # c\n COPY t \\\n /t", ["t"]),
            ("ONBUILD COPY <<E u /t\nCOPY not /this\nE", ["u"]),
            ("ONBUILD RUN <<E cat\nCOPY not /this\nE", []),
            ("ONBUILD\tRUN --mount=type=bind,src=m,target=/m x", ["m"]),
        ],
    )
    def test_a_trigger_is_read_like_any_other_instruction(self, text, sources_of_child):
        assert sources(f"FROM scratch AS a\n{text}\nFROM a") == sources_of_child
        handed_on = read(f"FROM scratch\n{text}").onbuild
        assert sources("FROM parent", onbuild={"parent": handed_on}) == sources_of_child

    def test_a_trigger_is_refused_where_it_runs(self):
        assert sources("FROM scratch AS a\nONBUILD FOO x\nCOPY a /x") == ["a"]
        assert "unknown instruction: FOO" in trouble("FROM scratch AS a\nONBUILD FOO x\nFROM a")
        assert "is not one instruction" in trouble("FROM base", onbuild={"base": ["COPY a /x\nCOPY b /x"]})
        assert "of the base" in trouble("FROM base", onbuild={"base": ["COPY <<E /x"]})

    def test_words_of_a_trigger_have_the_escapes_of_the_file_that_it_runs_in(self):
        onbuild = {"base": ["COPY a`b c\\d /x"]}
        assert sources("# escape=`\nFROM base", onbuild=onbuild) == ["ab", "c\\d"]
        assert sources("FROM base", onbuild=onbuild) == ["a`b", "cd"]

    def test_an_argument_hides_a_variable_in_its_own_stage_only(self):
        found = read("FROM scratch AS a\nENV A=1\nARG A=2 B=3\nCOPY $A /x\nFROM a\nCOPY $A $B /x")
        assert [copy.sources for copy in found.copies] == [("2",), ("1", "3")]
        assert found.env == {"A": "1"}
        assert read("FROM base\nARG A=2", env={"base": {"A": "1"}}).env == {"A": "1"}

    def test_what_an_image_hands_on(self):
        found = read("FROM base\nENV A=1\nARG B=2\nENV C=$B\nONBUILD COPY x /\n", env={"base": {"PATH": "/bin"}})
        assert found.env == {"A": "1", "C": "2", "PATH": "/bin"}
        assert found.onbuild == ("COPY x /",)
        assert read("FROM scratch AS a\nENV A=1\nONBUILD RUN x\nFROM a").env == {"A": "1"}


def test_reads_survive_json():
    text = "# syntax=s\nFROM a\nCOPY --exclude=e a b /\nADD https://x/y /\nRUN --mount=type=secret,id=i x\nENV E=1"
    found = read(text, env={"a": {}})
    assert Reads.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises((KeyError, TypeError)):
        Reads.from_json({"copies": []})


def test_several_platforms_read_what_each_of_them_reads():
    text = "FROM scratch\nARG TARGETARCH\nCOPY app-$TARGETARCH /app\nCOPY b /\n"
    found = joined([read(text, platform=platform) for platform in ("linux/amd64", "linux/arm64")])
    assert [copy.sources for copy in found.copies] == [("app-amd64",), ("b",), ("app-arm64",)]
    assert joined([read(text)]) == read(text)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("alpine", "alpine"),
        ("alpine:latest", "alpine"),
        ("docker.io/library/alpine:3", "alpine:3"),
        ("index.docker.io/a/b", "a/b"),
        ("library/alpine", "alpine"),
        ("localhost/a", "localhost/a"),
        ("ghcr.io/library/x:latest", "ghcr.io/library/x"),
        ("a@sha256:00", "a@sha256:00"),
        ("localhost:5000/a", "localhost:5000/a"),
    ],
)
def test_familiar_names(reference, name):
    assert familiar(reference) == name


def test_kinds_of_remote_sources():
    assert is_git("https://x/y.git")
    assert is_git("git@x:y")
    assert is_git("ssh://x/y")
    assert not is_git("https://x/y.git.gz")
    assert is_remote("http://x")
    assert not is_remote("ftp://x")
    assert not is_remote("github.com/x/y")
    assert is_pinned("https://x/y.git?ref=" + "a" * 40, "")
    assert not is_pinned("https://x/" + "a" * 40, "")


@given(st.text(alphabet="FROM COPY--=\\\n\"'[]${}<>#abc/.*", max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        assert isinstance(read("FROM scratch\n" + text), Reads)
    except UserError as error:
        assert error.where.startswith("Dockerfile:")  # noqa: PT017
