"""The rule: what compiles stays in a stage of its own, and the image gets what was built there.

    FROM python:3.13-slim                                      FROM python:3.13-slim AS builder
    RUN apt-get update && apt-get install -y curl gcc          RUN apt-get update && apt-get install -y curl gcc
    RUN python -m venv /opt/venv                               RUN python -m venv /opt/venv
    RUN /opt/venv/bin/pip install -r requirements.txt    →     RUN /opt/venv/bin/pip install -r requirements.txt

                                                               FROM python:3.13-slim
                                                               RUN apt-get update && apt-get install -y curl
                                                               COPY --from=builder /opt/venv /opt/venv

For an image of one stage that installs by pip, uv or npm, and compiles nothing itself. A package of headers leaves the
library that it is for, where a table knows that, else there is no patch. ``proof`` finds what needs what goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from doit_images.advise.apt import INSTALLS, UPDATES
from doit_images.advise.around import RunInstruction, around, runs, shipped
from doit_images.advise.installs import PIP, read_by
from doit_images.advise.patch import Patch, Span, spans, unnamed
from doit_images.advise.shell import head, is_of, without_words
from doit_images.advise.steps import Step

NAME = "compilers-out"
_TOOLS = {
    *("build-essential", "gcc", "g++", "make", "cmake", "ninja-build", "autoconf", "automake", "libtool", "gfortran"),
    *("pkg-config", "pkgconf", "clang", "cargo", "rustc", "bison", "flex", "nasm"),
}
# The library for which headers are; nothing where each Python has it, or each system.
_NONE = "python3 libc6 libc linux-libc libffi libssl zlib1g libbz2 liblzma libsqlite3 libreadline uuid libexpat1"
_LIBRARIES = dict.fromkeys(_NONE.split(), "") | {
    "libpq": "libpq5",
    "libxml2": "libxml2",
    "libxslt1": "libxslt1.1",
    "libxslt": "libxslt1.1",
    "default-libmysqlclient": "libmariadb3",
    "libmariadb": "libmariadb3",
    "libcairo2": "libcairo2",
    "libyaml": "libyaml-0-2",
    "libjpeg": "libjpeg62-turbo",
    "libsasl2": "libsasl2-2",
    "libsndfile1": "libsndfile1",
    "libcurl4-openssl": "libcurl4",
    "libgmp": "libgmp10",
    "libzmq3": "libzmq5",
    "librdkafka": "librdkafka1",
}
_AROUND = (*UPDATES, ("apt-get", "clean"), ("rm",), ("set",))
_NPM = (("npm", "ci"), ("npm", "install"))
_VENV = (("venv",), ("virtualenv",), ("uv", "venv"))
_ELSEWHERE = re.compile(r"--(user|target|prefix|root|global)\b|\s-[gt]\s")
_COMPILES = re.compile(r"(?<![\w.-])(gcc|g\+\+|cc|make|cmake|cargo|rustc|clang)(?![\w.-])")
_INSTALLS = re.compile(r"\b(pip3?|uv|npm|pnpm|yarn|poetry|pipenv|bundle|go|setup\.py)\s")
# What compiles while it runs, in what is copied: code, or a list of packages.
_AT_RUN = re.compile(rb"(?i)\b(gcc|pyximport|cpp_extension|load_inline|triton|torch|cupy|numba\.pycc)\b|\bg\+\+")
_GIT = re.compile(rb"(?i)(?<![a-z])git(?!hub|lab|ignore|attributes|keep)")
_IMAGE_ONLY = ("LABEL", "EXPOSE", "HEALTHCHECK", "CMD", "ENTRYPOINT", "STOPSIGNAL", "VOLUME")
_PYTHON = re.compile(r"(?:^|/)python:(3\.\d+)")


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """A patch of a Dockerfile with these steps, if its image is made in one stage with what compiles; a second one for
    where a folder of the system's Python is not all that was installed."""
    there, every = around(text), spans(text)
    stages = shipped(text, steps)
    own = [span for span in every if {there[span.line].stage} == stages]
    taken = {name for each in there.values() for name in (each.stage, each.parent)}
    if not own or own[-1] != every[-1] or "builder" in taken or any(each.instruction.trigger for each in own):
        return
    by_line = {run.span.line: run for run in runs(text, steps)}
    aptly = [(run, tools) for span in own if (run := by_line.get(span.line)) and (tools := _tools(run, steps))]
    built = {span.line: paths for span in own if (run := by_line.get(span.line)) and (paths := _built(run))}
    if len(aptly) != 1 or not built or max(built) < aptly[0][0].span.line:
        return
    run, tools = aptly[0]
    rest = " ".join(each.text for each in own if each.line not in {run.span.line, *built})
    others = (each.text for each in own if each.instruction.name == "RUN" and each.line not in built)
    if (
        _COMPILES.search(rest)
        or any(map(_INSTALLS.search, others))
        or any(_AT_RUN.search(content) for content in _copied(steps))
    ):
        return
    venvs = [path for paths in built.values() for path in paths if path != "pip"]
    pip = any("pip" in paths for paths in built.values())
    version = _PYTHON.search(own[0].instruction.words[0]) or _PYTHON.search(text[: text.find("\nFROM")])
    if pip and not any(not path.endswith("/node_modules") for path in venvs):
        site = f"/usr/local/lib/python{version[1]}/site-packages" if version else ""
        ways = [[site, "/usr/local/bin"], ["/usr/local"]] if site else []
    else:
        ways = [[]]
    removes = dict.fromkeys(tools, "a compiler, or what only it reads")
    for way in ways:
        new = _two(text, own, {run.span.line: _less(run, tools)}, (built, [*venvs, *way]))
        yield Patch(NAME, run.span.line, f"{', '.join(tools)} stay in the image", new, removes)


def _tools(run: RunInstruction, steps: Sequence[Step]) -> dict[str, str]:
    """The packages that only a build needs, of a RUN that does nothing but install by apt, each with what stays of it;
    none where that is not known."""
    plain = all(is_of(each, (*INSTALLS, *_AROUND)) and each.join in ("", "&&", ";") for each in run.commands)
    names = [word for each in run.commands if is_of(each, INSTALLS) for word in each.words[2:] if word[0] != "-"]
    if not plain or not run.around.is_root or any(re.search(r"[^a-z0-9+.-]", name) for name in names):
        return {}
    found = {name: "" for name in names if name in _TOOLS}
    for name in names:
        if name.endswith("-dev"):
            if (library := _LIBRARIES.get(name.removesuffix("-dev"))) is None:
                return {}
            found[name] = "" if library in names else library
    if found and "git" in names and not any(_GIT.search(content) for content in _copied(steps)):
        found["git"] = ""
    return found


def _built(run: RunInstruction) -> list[str]:
    """The environments that a RUN makes or fills, if it does nothing else; ``pip`` for that which is in use."""
    found: list[str] = []
    for each in run.commands:
        own = re.sub(r"^\S*/bin/(?=(python|pip|uv|npm))", "", run.span.text[each.start : each.end])
        words = [word for word in head(tuple(own.split())) if not word.startswith("-")]
        if each.join not in ("", "&&", ";") or _ELSEWHERE.search(own):
            return []
        if any(tuple(words[: len(one)]) == one for one in _VENV):
            found.append(run.around.path(words[-1]))
        elif any(tuple(words[: len(one)]) == one for one in PIP) and read_by(f"RUN {own}") is not None:
            found.append("pip")
        elif any(tuple(words[: len(one)]) == one for one in _NPM) and read_by(f"RUN {own}") is not None:
            found.append(run.around.path("node_modules"))
        elif words[:1] != ["set"]:
            return []
    return found if all(found) else []


def _copied(steps: Sequence[Step]) -> Iterator[bytes]:
    """What files of the context say that the image gets, but for those that nobody runs."""
    for root, selection in (each for step in steps for each in step.files):
        for path in selection.files():
            file = Path(root, path)
            told = "Dockerfile" in file.name or file.suffix in (".md", ".rst")
            if not told and file.is_file() and file.stat().st_size < 1 << 22:
                yield file.read_bytes()


def _less(run: RunInstruction, tools: Mapping[str, str]) -> str:
    """A RUN that installs just what stays; nothing where that is nothing."""
    text = run.span.text
    for each in reversed(run.commands):
        if is_of(each, INSTALLS):
            own = text[each.start : each.end]
            for name, library in tools.items():
                if library:
                    own = re.sub(rf"(?<=\s){re.escape(name)}(?=\s|$)", library, own)
            text = text[: each.start] + own + text[each.end :]
            gone = [name for name, library in tools.items() if not library]
            text = without_words(text, each._replace(end=each.start + len(own)), gone)
            if not {word for word in own.split() if word[0] not in "-\\"} - {*gone, *own.split()[:2]}:
                return ""
    return text


def _two(
    text: str, own: Sequence[Span], new: Mapping[int, str], made: tuple[Mapping[int, Sequence[str]], Sequence[str]]
) -> str:
    """The Dockerfile in two stages: all up to the last of these RUN that are ``made`` elsewhere, and all without them
    but with what they give, other instructions ``new``."""
    (built, paths), end = made, own[0].end
    lines = (text if text.endswith("\n") else f"{text}{end}").splitlines(keepends=True)
    base = unnamed(own[0].text)
    first = [*lines[: own[0].line - 1], f"{base} AS builder{end}"]
    second = [end, *lines[own[0].line - 1 : own[0].last + 1]]
    for above, span in pairwise(own):
        block = lines[above.last + 1 : span.last + 1]
        blank = list(takewhile(lambda line: not line.strip(), block))
        if span.line <= max(built) and span.instruction.name not in _IMAGE_ONLY:
            first += block
        if span.line == max(built):
            second += [*blank, *(f"COPY --from=builder {path} {path}{end}" for path in dict.fromkeys(paths))]
        elif new.get(span.line):
            second += [*block[: span.line - 1 - above.last - 1], f"{new[span.line]}\n".replace("\n", end)]
        elif span.line not in {*built, *new}:
            second += block
    whole = "".join([*first, *second, *lines[own[-1].last + 1 :]])
    return whole if text.endswith("\n") else whole.removesuffix(end)
