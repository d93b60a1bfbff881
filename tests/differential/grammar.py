"""A grammar of Dockerfiles: every instruction, flag and way of writing of the reference, on small contexts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.differential.dice import Dice

BASE = "tst-busybox:1"
OUTSIDE = "tst-outside:1"
"""A base with ONBUILD instructions and an environment; see ``projects_court``."""
FILES = ("f", "g.txt", "d/x", "d/y.md", ".hid", "s p", "é.txt", "run.sh", "d/e/z", "a\u00a0b", "x\u3000y", "[q]", "#h")
WORDS = ("f", "g.txt", "d")
"""What build arguments are set to: paths that most contexts have."""
_ODD = (".build/lib", ".build/contexts/x", ".git/HEAD", "Dockerfile.bak")
_AFTER_JSON = [(80, ""), (8, " "), (6, " # comment"), (6, " more")]
_PATTERNS = ("*", "*.txt", "d/*", "?", "[fg]*", "d*", "*/x", "**/x", ".*", "d/?.md", "[^f]*", "*.none", "\\f", "d/\\*")
_RULES = (
    "f", "*.txt", "d", "d/", "/f", "**/x", "*", "!f", "!d/x", "!d", "d/*", "# f", "", " f ", "./f", "../f", "**",
    "!**/x", ".*", "s p", "*/e", "[fg]*", "!g.txt", "é*", "Dockerfile*", ".dockerignore", "a\u00a0b", "\ufefff",
    "d/../f", "**/*.md",
)  # fmt: skip
_FLAGS = (
    ("--chown=1:2", "--chown=root", "--chown=7"),
    ("--chmod=600", "--chmod=0755", "--chmod=u+x"),
    ("--link", "--link=true", "--link=false"),
)
_PLAIN = {
    "ENV": (
        "V=$A", "V f", "A=d", "V=f W=$V", "V=\"a b\" W='$A'", "A=$A", "V=${B:-q}", "V=a\\ b", "V=${TARGETARCH}",
        'V "q" r', "PATH=/bin:$V",
    ),
    "LABEL": ("l=1", '"l m"="$A" n=$B', "l ${A}", "l=a\\ b"),
    "WORKDIR": ("/o", "rel", "$A", "/o/../w", '"/w x"'),
    "USER": ("1", "1:2", "root", "$A"),
    "VOLUME": ("/o", '["/o", "/v"]', "/v /w"),
    "EXPOSE": ("80", "80/udp 81", "${NONE:-82}"),
    "STOPSIGNAL": ("TERM", "9"),
    "HEALTHCHECK": (
        "CMD true", "NONE", '--interval=5s --retries=2 CMD ["true"]',
        "--start-period=1s --start-interval=1s --timeout=3s CMD $A",
    ),
    "SHELL": ('["/bin/sh", "-c"]', '["/bin/sh", "-ec"]'),
    "CMD": ('["f"]', "f $A", '["f",]', "[]"),
    "ENTRYPOINT": ('["f", "$A"]', "f"),
    "MAINTAINER": ("me",),
}  # fmt: skip
"""What instructions say that read no file."""
_ARGS = ("", "=", "=f", '="f"', "=$B", "=f B=d", "=${A:-d}")
_DECLARED = ("C", "TARGETARCH", "TARGETOS", "BUILDPLATFORM", "HTTP_PROXY", "SOURCE_DATE_EPOCH")
_MOUNTS = (
    "type=bind,target=/in", "type=bind,source=PATH,target=/in", "source=/PATH,dst=/in,rw", "type=cache,target=/c",
    "type=tmpfs,target=/t",
)  # fmt: skip
_COMMANDS = (
    "ls -R /in >/found 2>&1 || :", "cat /run/secrets/* >/found 2>&1 || :", 'echo "$A $B $V" >/found',
    '<<one\necho "$A" >/found\none', '["/bin/sh", "-c", "echo $A >/found"]', "<<one cat >/found\n$A text\none",
    "echo a >/found; \\\n  echo b >>/found", "cat /in >/found 2>&1 || :",
)  # fmt: skip
_WAYS = [
    (70, "plain"), (5, "case"), (5, "cut"), (5, "comment"), (4, "blank"), (4, "tabs"), (3, "end"), (2, "empty"),
    (2, "indent"),
]  # fmt: skip


@dataclass
class Stage:
    """A stage as its lines; ``shell``: whether it can run something, ``known``: variables and what they hold."""

    head: str
    name: str = ""
    shell: bool = False
    lines: list[str] = field(default_factory=list)


@dataclass
class Scope:
    """What a Dockerfile may speak of: the paths of its context, its build arguments, named contexts, references of
    other images, ids of secrets."""

    paths: tuple[str, ...]
    args: tuple[str, ...] = ("A", "B")
    contexts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def rules(dice: Dice) -> str:
    """An ignore file."""
    text = "\n".join(dice.some(_RULES, 0, 4))
    ending = dice.pick(("\n", "", "\r\n"))
    return (text + "\n").replace("\n", ending) if ending else text


def odd_path(dice: Dice) -> str:
    return dice.pick(_ODD)


class Grammar:
    """Draws Dockerfiles for a scope."""

    def __init__(self, dice: Dice, scope: Scope) -> None:
        self.dice, self.scope = dice, scope
        self.stages: list[Stage] = []

    def dockerfile(self) -> list[Stage]:
        """Some stages; the last one is what is built where no target says otherwise."""
        for number in range(self.dice.weighed([(60, 1), (30, 2), (10, 3)])):
            stage = self._head(number)
            for _ in range(self.dice.number(1, 4)):
                stage.lines += self.instruction(stage)
            self.stages.append(stage)
        return self.stages

    def _head(self, number: int) -> Stage:
        dice = self.dice
        named = [stage for stage in self.stages if stage.name]
        bases: list[tuple[int, str]] = [(50, "scratch"), (15, BASE), (6, OUTSIDE)]
        for weight, names in ((40, [one.name for one in named]), (25, self.scope.contexts), (40, self.scope.images)):
            bases += [(weight, dice.pick(names))] if names else []
        base = dice.weighed(bases)
        shell = base in (BASE, OUTSIDE) or any(stage.shell for stage in named if stage.name == base)
        name = dice.pick(("", f"st{number}", f"St{number}", f"s-{number}.x"))
        lines = []
        if number == 0 and dice.chance(10):
            lines.append(f"ARG BASE={base}")
            base = dice.pick(("$BASE", "${BASE}", f"${{BASE:-{base}}}", f"${{NONE:-{base}}}", f'"{base}"'))
        if number == 0 and dice.chance(10):
            lines.append(f"ARG {dice.pick(self.scope.args)}={dice.pick(WORDS)}")
        platform = dice.weighed([(91, ""), (3, "--platform=linux/amd64 "), (3, "--platform=$BUILDPLATFORM "),
                                 (2, "--platform=$TARGETPLATFORM "), (1, "--platform=linux ")])  # fmt: skip
        keyword = dice.weighed([(9, " AS "), (1, " as ")])
        lines.append(f"{dice.weighed([(9, 'FROM'), (1, 'from')])} {platform}{base}{keyword + name if name else ''}")
        return Stage("\n".join(lines), name.lower(), shell)

    def instruction(self, stage: Stage) -> list[str]:
        """One instruction, with what it needs before it, written in some way."""
        dice = self.dice
        kinds: list[tuple[int, Callable[[], list[str]]]] = [
            (40, self._copy), (10, self._add), (6, self._arg), (24, self._plain), (4, self._onbuild),
            (4, self._heredoc), (4, self._continued), (8 if stage.shell else 0, self._run),
        ]  # fmt: skip
        lines = dice.weighed(kinds)()
        return [*lines[:-1], self._written(lines[-1])]

    def _written(self, line: str) -> str:
        """The same instruction, written otherwise."""
        dice = self.dice
        if "<<" in line or "\n" in line:
            return line
        word, _, rest = line.partition(" ")
        match dice.weighed(_WAYS):
            case "case":
                return f"{word.lower()} {rest}"
            case "cut":
                return f"{word} \\\n  {rest}"
            case "comment":
                return f"{word} \\\n# between\n  {rest}"
            case "blank":
                return f"\n{line}\n# after"
            case "tabs":
                return f"{word}\t{rest}"
            case "end":
                return line + dice.pick((" ", "\t", " # comment", " \\", "\u00a0"))
            case "empty":
                return f"{word} \\\n\n  {rest}"
            case "indent":
                return f"  {line}"
        return line

    def _source(self) -> str:
        dice = self.dice
        paths = self.scope.paths or ("f",)
        path = dice.pick(paths)
        match dice.weighed(
            [(50, "path"), (12, "folder"), (12, "all"), (14, "pattern"), (8, "slashes"), (1, "missing")]
        ):
            case "folder":
                return path.partition("/")[0]
            case "all":
                return dice.pick((".", "./", "/", "*"))
            case "pattern":
                return dice.pick(_PATTERNS)
            case "slashes":
                return dice.pick(("/", "./", "../", "//", "d/../")) + path + dice.pick(("", "/"))
            case "missing":
                return "missing"
        return path

    def _word(self, value: str) -> tuple[list[str], str]:
        """A word that expands to a value, and the instruction that it needs before it."""
        dice = self.dice
        quoted = value.replace("[", "\\[") if dice.chance(10) else value
        match dice.weighed([(75, ""), (6, "arg"), (6, "env"), (5, "default"), (4, "build"), (4, "quotes")]):
            case "arg":
                line = f'ARG V="{value}"' if " " in value else f"ARG V={value}"
                return [line], dice.pick(("$V", "${V}", f"${{V:-{WORDS[0]}}}", "${NONE:+x}${V}", "${V%none}"))
            case "env":
                line = f'ENV V="{value}"' if dice.chance(50) else f"ENV V {value}"
                return [line], dice.pick(("$V", "${V}", f"${{V:+{value}}}"))
            case "default":
                return [], dice.pick((f"${{NONE:-{value}}}", f"${{NONE-{value}}}", f"${{PATH:+{value}}}"))
            case "build":
                name = dice.pick(self.scope.args)
                line = f"ARG {name}" + dice.pick((f"={WORDS[0]}", ""))
                return [line], dice.pick((f"${name}", f"${{{name}}}", f"${{{name}:-{value}}}"))
            case "quotes":
                return [], dice.pick((f'"{value}"', f"'{value}'"))
        return [], f'"{quoted}"' if " " in quoted else quoted

    def _copy(self) -> list[str]:
        return self._transfer("COPY", self._flags())

    def _add(self) -> list[str]:
        flags = self.dice.weighed(
            [(80, ""), (8, "--chmod=640 "), (6, "--link "), (3, "--unpack=false "), (3, "--keep-git-dir=true ")]
        )
        return self._transfer("ADD", flags)

    def _flags(self) -> str:
        dice = self.dice
        froms = [stage.name for stage in self.stages if stage.name] + [
            str(number) for number, _ in enumerate(self.stages)
        ]
        froms += [*self.scope.contexts, *self.scope.images] * 2 + [BASE, OUTSIDE]
        found = []
        if dice.chance(28 if self.stages or self.scope.contexts or self.scope.images else 4):
            found.append(f"--from={dice.pick(froms)}")
        for flags in dice.some(_FLAGS, 0, 2 if dice.chance(25) else 0):
            found.append(dice.pick(flags))
        if dice.chance(3):
            found.append(dice.pick(("--parents", "--exclude=*.md", "--exclude=d/x", "--nothing")))
        return "".join(f"{flag} " for flag in found)

    def _transfer(self, keyword: str, flags: str) -> list[str]:
        dice = self.dice
        sources = [self._source() for _ in range(dice.weighed([(75, 1), (20, 2), (5, 3)]))]
        if "--from" in flags and dice.chance(70):
            sources = [dice.pick(("/o", "/", "f", "d", "/o/f", "/bin/busybox", "o/*"))]
        to = (
            dice.pick(("/o/", "o/", "./", "/p/q/", "/"))
            if len(sources) > 1 or dice.chance(60)
            else dice.pick(("/o", "o/f", "/d"))
        )
        if dice.chance(12):
            last = json.dumps([*sources, to], ensure_ascii=dice.chance(50))
            return [f"{keyword} {flags}{last}{dice.weighed(_AFTER_JSON)}"]
        before, words = list[str](), list[str]()
        for source in sources:
            needs, word = self._word(source)
            before += needs
            words.append(word)
        return [*before, f"{keyword} {flags}{' '.join(words)} {to}"]

    def _arg(self) -> list[str]:
        return [f"ARG {self.dice.pick((*self.scope.args, *_DECLARED))}{self.dice.pick(_ARGS)}"]

    def _plain(self) -> list[str]:
        keyword = self.dice.pick([*_PLAIN])
        return [f"{keyword} {self.dice.pick(_PLAIN[keyword])}"]

    def _onbuild(self) -> list[str]:
        inner = self.dice.weighed([(60, self._copy), (25, self._plain), (15, self._heredoc)])()
        return [*inner[:-1], f"ONBUILD {inner[-1]}"]

    def _continued(self) -> list[str]:
        """An instruction whose text goes on in the next line, in the middle."""
        path, source = self.dice.pick(self.scope.paths or ("f",)), self._source()
        return [f"COPY {path.replace(' ', '?')} \\\n  {source.replace(' ', '?')} \\\n  /o/"]

    def _heredoc(self) -> list[str]:
        dice = self.dice
        word = dice.pick(("one", '"one"', "'one'", "-one"))
        body = dice.pick(("COPY none x", "text $A", "\ttabbed ${B}", "\\$A \\\\", "# comment", ""))
        source = f" {dice.pick(self.scope.paths)}" if self.scope.paths and dice.chance(30) else ""
        source = source if source.count(" ") < 2 else ""
        return [f"{dice.pick(('COPY', 'ADD', 'COPY --chmod=600'))} <<{word}{source} /o/\n{body}\none"]

    def _run(self) -> list[str]:
        dice = self.dice
        froms = [stage.name for stage in self.stages if stage.name] + [*self.scope.contexts, *self.scope.images]
        path = dice.pick(self.scope.paths or ("f",)).partition("/")[0].replace(" ", "?")
        mounts = [f"--mount={mount.replace('PATH', path)} " for mount in _MOUNTS] + ["--network=none "]
        mounts += [f"--mount=from={dice.pick(froms)},target=/in "] * 2 if froms else []
        mounts += [f"--mount=type=secret,id={name} " for name in self.scope.secrets] * 3
        flags = "".join(dice.some(mounts, 0, 2)) if dice.chance(80) else ""
        return [f"RUN {flags}{dice.pick(_COMMANDS)}"]


STYLES = [(84, ""), (3, "escape"), (4, "comment"), (4, "returns"), (2, "mark"), (3, "check"), (3, "open")]
"""How the text of a Dockerfile as a whole may be, and how often."""


def text(stages: Sequence[Stage], style: str) -> str:
    """The text of a Dockerfile, with directives, comments and line ends of some style."""
    whole = "\n".join(line for stage in stages for line in (stage.head, *stage.lines)) + "\n"
    match style:
        case "escape":
            return "# escape=`\n" + whole.replace("\\\n", "`\n")
        case "comment":
            return "# only a comment\n\n" + whole
        case "returns":
            return whole.replace("\n", "\r\n")
        case "mark":
            return "\ufeff" + whole
        case "check":
            return "# check=skip=all\n" + whole
        case "open":
            return whole.removesuffix("\n")
    return whole
