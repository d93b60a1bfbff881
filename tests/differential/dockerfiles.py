"""Dockerfiles made at random from the grammar of its reference: all instructions, flags, forms and directives, with
blanks, quotes, escapes and letters also where they are rare."""

from __future__ import annotations

import re
from random import Random

_RARE = 0.1
_HOLE = re.compile("«([a-z]+)([*+?]?)»")
_TIMES = {"": (1, 1), "*": (0, 3), "+": (1, 3)}
# Each part: how it is usually written, and how rarely. «part» stands for one, «part*» for up to three, «part+» for at
# least one, «part?» for one, rarely.
_GRAMMAR: dict[str, tuple[list[str], list[str]]] = {
    "file": (
        ["«meta?»«stage+»"],
        ["«top»«directive*»«meta?»«stage+»", "«directive+»«meta?»«stage+»", "«instruction»"],
    ),
    "top": (["\ufeff"], ["#!x\n", " ", "\n", "# c\n", "\u3000", "\ufeff\ufeff"]),
    "directive": (
        ["# «key»=«setting»\n"],
        ["#«blank?»«key»«blank?»=«blank?»«setting»«blank?»\n", "#«blank»«key»=«setting»\r\n"],
    ),
    "key": (["escape", "syntax", "check"], ["ESCAPE", "other", "Syntax"]),
    "setting": (["`", "\\", "skip=all", "docker/dockerfile:1"], ["x y", "x\ty", "``", "", "\xa0"]),
    "meta": (["ARG«blank»«pair+»«end»"], ["ARG A\n", "ARG«blank»B=$A «pair»\n"]),
    "stage": (["«from»«end»«line*»", "«from»«end»«line+»«line*»"], ["«from»«end»«line+»«line+»«line+»"]),
    "from": (
        ["FROM«blank»«base»", "FROM «base» AS «name»"],
        ["from«blank»--platform=«word»«blank»«base»«blank»«as»«blank»«name»«blank?»"],
    ),
    "base": (
        ["scratch", "base", "s1", "${A:-base}"],
        ["'base'", "s\xa01", "$B", "base:1\u3000", "ba\\se", "S1", "s2"],
    ),
    "as": (["AS", "as"], ["A\u017f", "AS«blank»"]),
    "name": (["s1", "s2", "S2"], ["\u212a", "s\xa01", "1s", "s-1_.", "s1«blank»"]),
    "line": (["«instruction»«end»"], ["«trigger»«end»"]),
    "end": (["\n"], ["\r\n", "\n\n", " \n", "\n# c\n", "\n\xa0\n", "\n #\r\n", "«blank»\n", " # c\n"]),
    "trigger": (
        ["ONBUILD«blank»«instruction»"],
        ["onbuild«blank»«instruction»", "ONBU\u0130LD COPY a /x", "ONBUILD", "ONBUILD«trigger»"],
    ),
    "instruction": (
        ["COPY«blank»«flag?»«files»", "ADD«blank»«flag?»«files»", "RUN«blank»«mount*»true", "RUN «mount+»«command»",
         "«env»", "«arg»"],
        ["copy«blank»«flag*»«files»", "Add «files»", "RUN«blank»«mount*»«command»", "«other»", "«blank»USER 1",
         "ENV«blank»«words»", "«odd»"],
    ),
    "odd": (
        ["FOO a", "COPY", "ENV", "ENV A", "-", "#x", "ADD a"],
        ["U\u017fER 1", "WORKD\u0130R /w", "COPY\xa0a /x", "\0"],
    ),
    "other": (
        ["WORKDIR /w", "USER 1", "LABEL a=b c=d", "EXPOSE 80 81", "VOLUME /v", "STOPSIGNAL 9", "CMD«blank»«exec»",
         "SHELL «exec»"],
        ["LABEL «words»", "VOLUME«blank»«exec»", "HEALTHCHECK«blank»CMD«blank»«exec»", "HEALTHCHECK NONE",
         "MAINTAINER me", "HEALTHCHECK", "ENTRYPOINT «exec»"],
    ),
    "files": (
        ["«path+»/x/", "«path»/x", "«exec»"],
        ["«heredoc+»«path*»/x/«body»", "«path+»«word»", "«path»", "«exec»«blank»«path»"],
    ),
    "path": (
        ["«word»«blank»"],
        ["«quoted»«blank»", "https://example.org/«word» ", "git@example.org:a/b.git ", "<<E "],
    ),
    "word": (["«piece»", "«piece»«piece»"], ["«piece»«rare»", "«rare»", "«rare»«piece»", "«rare»«rare»«rare»"]),
    "words": (["«word»«blank»«word»", "«word»"], ["«word»«blank»«quoted»«blank»«word»«blank?»"]),
    "quoted": (
        ["'«piece»'", '"«piece»"'],
        ['"«piece»«blank»«piece»"', "'«piece»«blank»«rare»'", '"«rare»"', "«piece»'«rare»'"],
    ),
    "piece": (["a", "b", "d/e", "x.txt", "*", "$A", "${B}", "."], ["é", "${A:-x}", "${B:+$A}", "?", "/", ".."]),
    "rare": (
        ["\xa0", "\u3000", "\x85", "à", "\\", "`", "'", '"', "\\ ", "\\$A", "<", "#", "[", "]", "{", "}", "=", ",",
         "``", "\\\\", "«modified»"],
        ["\udcff", "\ufeff", "\ufffd", "\x1c", "\u200b", "\u2028", "\0", "\v", "$", "${A", "$1", "$é", "~", "!",
         "[^a]", '\\"', "\udce3\udc80", "%", "^"],
    ),
    "modified": (
        ["${A%%*}", "${B#*a}", "${A/a/b}", "${A//a/$B}", "${Z:-}", "${A-«piece»}", "${A:-«quoted»}", "${B%«piece»}",
         "${A##«piece»}"],
        ["${A:?no}", "${A?}", "${PATH##*/}", "$D", "$C", "${A//«piece»/«piece»}", "${A/«rare»/«piece»}",
         "${A:+«rare»}", "${A#«rare»}", "${A:%a}", "${«rare»}", "${é}"],
    ),
    "exec": (
        ["[«string»,«string»]", "[«string», «string», «string»]"],
        ["[«string»,«string»]«after»", "[«value»,«string»]«after?»", "[«string»«blank»,«blank?»«string»]",
         "[«string»]", "[]«after?»", "[«string»"],
    ),
    "string": (
        ['"a"', '"/x"', '"x.txt"', '"$A"', '"d/e"'],
        ['"«piece»«blank»«piece»"', '"\\u00e9"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\"a"', '"«rare»"', "'a'",
         '"\t"'],
    ),
    "value": (["1", "null", "[]", "NaN"], ['{"a": [1]}', "1e9", "true", "-0", "01"]),
    "after": ([" # c", "x", " ]", "\u3000", ","], [' ["c"]', "\xa0y", "\x85", "«blank»«path»", "\\"]),
    "heredoc": (
        ["<<E ", "<<-E "],
        ["<<'E'«blank»", '3<<"E" ', "<<«blank»E ", "<<$A ", "<<\\E ", "<<E<<E ", "<< <<E ", "<<E\xa0", "<<«rare» ",
         '"<< E" '],
    ),
    "body": (
        ["\na\nE", "\nE"],
        ["\nCOPY c /c\n E\nE«end»E", "\n\tE«end»E", "\nE\n\u200bb\nE\r", "\n\udcff\nE", "\nRUN <<E\nE\nE",
         "\nARG A\n$A"],
    ),
    "command": (
        ["true", "«exec»", "cat «heredoc»«body»"],
        ["«words»", "«heredoc»«words»«body»", "--«blank»true", "--mount=type=cache,target=/c"],
    ),
    "flag": (
        ["--link ", "--from=«name» ", "--from=0 ", "--chown=1:1 "],
        ["--from=base ", "--parents ", "--exclude=*.md ", "--chmod=$A«blank»", "--«oddflag»«blank»",
         "--exclude=«word» ", "--parents=TRUE "],
    ),
    "oddflag": (
        ["from=«word»", "exclude='«piece»«blank»«piece»'", ""],
        ["x=«rare»", "fr\\om=s1", '"from=s1"', "from=s1«rare»", "=", "link=maybe"],
    ),
    "mount": (
        ["--mount=«field»,«field» ", "--mount=type=bind,«field»,target=/t "],
        ["--mount=«field?»«blank»", '--mount="«field»,«field»"«blank»',
         "--mount=«field»,target=/t,«field»,«field»«blank»", "«flag»"],
    ),
    "field": (
        ["type=bind", "type=cache", "type=secret", "source=a", "src=d/e", "target=/t", "dst=/u/v", "id=i", "from=s1"],
        ["type=ssh", "from=base", "source=«word»", "target=«word»", "from=«word»", '\\"source=a,b\\"',
         '"src=«piece»"', "ro", "required", "", "uid=1", "type=«word»", "Source=a", "id=«word»", "env=A",
         "sharing=locked", 'x"', "src='a'"],
    ),
    "env": (
        ["ENV«blank»«pair+»", "ENV «pair»«blank»«pair»"],
        ["env«blank»«name»«blank»«words»", "ENV A«blank»«words»", "ENV $A=«word»", "ENV «pair»«word»"],
    ),
    "arg": (
        ["ARG«blank»«pair+»", "ARG A"],
        ["ARG«blank»«pair»«blank»B=$A", "ARG C B", "ARG «words»", "ARG TARGETARCH A=$TARGETARCH"],
    ),
    "pair": (
        ["A=«word» ", "B=«word» ", "C=«word»«blank»"],
        ["A=«quoted»«blank»", "B= ", "a='«word»'\"«word»\" ", "B=${A}«word»«blank»", "B=${B}$A "],
    ),
    "blank": (
        [" ", " ", "  ", "\t"],
        ["\v", "\f", "\r ", " \u3000", "\x85 ", "\xa0", " \u2003", " \x1c", " \ufeff", "«continued»", "«continued»"],
    ),
    "continued": (
        [" \\\n", "\\\n  ", "`\n "],
        ["\\ \n", "\\\r\n", " \\\n# c\n", " \\\n\n ", " \\\n \u3000# c\n", "\\\n \xa0\n ", " \\\\\n", " \\\n\\\n ",
         " \\\n#escape=`\n"],
    ),
}  # fmt: skip


def make(random: Random) -> str:
    """A Dockerfile; bytes that are not UTF-8 are surrogates in it."""
    return _written("file", random, 0)


def _written(part: str, random: Random, depth: int) -> str:
    usual, rare = _GRAMMAR[part]
    return _HOLE.sub(
        lambda hole: "".join(_written(hole[1], random, depth + 1) for _ in range(_times(hole[2], random))),
        random.choice(rare if depth < 40 and random.random() < _RARE else usual),
    )


def _times(mark: str, random: Random) -> int:
    return int(random.random() < _RARE) if mark == "?" else random.randint(*_TIMES[mark])
