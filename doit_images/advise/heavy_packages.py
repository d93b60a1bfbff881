"""The rule: each heavy package is in a layer of its own, the same bytes in each image, and a small one moves alone.

    FROM python:3.13-slim                      FROM python:3.13-slim AS heavy-base
                                               FROM heavy-base AS heavy-lock
                                               COPY requirements.txt ./
                                               RUN … grep -E '^(--|torch==|scipy==)' > /heavy.txt
                                               FROM heavy-base AS heavy
                                               COPY --from=heavy-lock /heavy.txt /
                                          →    RUN … pip install --no-deps --root=/heavy/$name …
                                               FROM heavy-base
                                               COPY --link --from=heavy /heavy/torch/ /
                                               COPY --link --from=heavy /heavy/scipy/ /
    COPY requirements.txt ./                   COPY requirements.txt ./
    RUN pip install -r requirements.txt        RUN pip install -r requirements.txt

What is heavy the image says that is here (``installed``), and the list has to pin it: ``pip`` then finds it installed.
Where the environment is copied from another stage, that one installs the others alone, by a list that pins all of them.
A stage runs again when what is copied into it changes, so the heavy ones only with their own lines of the list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from doit_images.advise.around import RunInstruction, around, runs, shipped
from doit_images.advise.installed import canonical
from doit_images.advise.installs import PIP
from doit_images.advise.lists_apart import LIST, PINNED
from doit_images.advise.patch import Patch, Span, edited, spans, unnamed
from doit_images.advise.shell import flags, is_of, mounts, with_mounts
from doit_images.advise.steps import Step

NAME = "heavy-packages"
WORTH = 256 << 20
"""The bytes that the heavy packages have together, at least: the patch is twenty lines."""
_HEAVY, _MOST = 10 << 20, 20  # the bytes of one, and how many: an image has at most 127 layers
_VALUED = "-[fi]|--(extra-)?index-url|--find-links|--trusted-host|--(only|no)-binary|--timeout|--retries"
_PLAIN = re.compile(rf"(\s+({_VALUED})\s+[^\s-]\S*|\s+--?[a-z][\w-]*(=[^\s$]+)?)*\s*")  # names no package, no file
_OTHER = re.compile(r"--(user|target|prefix|root|\w+-install|(\w+-)?reinstall|ignore-installed|constraint|editable)\b")
_MORE = re.compile(r"(?m)^(-r|-c|-e|--requirement|--constraint|--editable)\b|\r")
_PIN = re.compile(r"(?m)^([A-Za-z0-9_-]+)==")
_JOINED = r"sed -e :a -e '/\\$/N; s/\\\n//; ta'"
_ROOT = "--root=/heavy/$name"
_UV_ROOT = "--prefix=\"/heavy/$name$(python3 -c 'import sys; print(sys.prefix)')\""
_STAGES = rf"""

# The lines of the heavy packages: while they stay, so do their layers.
FROM heavy-base AS heavy-lock
{{copies}}RUN {{mounts}}{_JOINED} {{lists}} | grep -E '^(--|{{pins}})' > /heavy.txt{{rest}}

# Each in a folder of its own and without times: the same layer for the same wheel.
FROM heavy-base AS heavy
COPY --from=heavy-lock /heavy.txt /
RUN {{flags}}for name in {{names}}; do \
        grep -E "^(--|$name==)" /heavy.txt \
        | SOURCE_DATE_EPOCH=0 {{command}} || exit 1; \
    done \
 && find /heavy -exec touch -hd @0 {{{{}}}} +

FROM heavy-base{{stage}}
{{links}}"""


class _Install(NamedTuple):
    """An installation: the instructions of its stage; those of them right above it that copy its ``lists``; what these
    say, by their names in the RUN; and what copies from its stage into the image, where that is another."""

    run: RunInstruction
    own: Sequence[Span]
    copies: Sequence[Span]
    lists: Mapping[str, str]
    taken: Sequence[Span]


def patches(
    text: str, steps: Sequence[Step], sizes: Callable[[], Mapping[str, int]] = dict[str, int]
) -> Iterator[Patch]:
    """A patch for each installation of a Dockerfile with these steps that brings heavy packages, by the ``sizes`` of
    those that are installed."""
    stages = {name for each in around(text).values() for name in (each.stage, each.parent)}
    if {"heavy", "heavy-base", "heavy-lock"} & stages or re.search(r"\bfrom=\d", text):
        return
    for install in _installs(text, steps):
        pinned = [name for said in install.lists.values() for name in _PIN.findall(said)]
        held = sizes() if pinned else {}  # it reads a whole image
        pins = {name: held.get(canonical(name), 0) for name in pinned}
        heavy = sorted((name for name in pins if pins[name] >= _HEAVY), key=lambda name: (-pins[name], name))[:_MOST]
        if (total := sum(pins[name] for name in heavy)) >= WORTH:
            why = f"{total >> 20} MB of {len(heavy)} packages are new whenever a small one is"
            yield Patch(NAME, install.run.span.line, why, _apart(text, install, heavy))


def _installs(text: str, steps: Sequence[Step]) -> Iterator[_Install]:
    there, every, final = around(text), spans(text), shipped(text, steps)
    by_line = {step.line: step for step in steps}
    for run in runs(text, steps):
        stage = run.around.stage
        if len(run.commands) != 1 or not is_of(run.commands[0], PIP) or not _is_plain(run):
            continue
        own = [span for span in every if there[span.line].stage == stage]
        above = reversed(own[: own.index(run.span)])
        copies = list(takewhile(lambda one: one.instruction.name == "COPY" and one.line in by_line, above))[::-1]
        names = LIST.findall(run.span.text)
        files = {name: _files(name, (by_line[one.line] for one in (*copies, run.span))) for name in names}
        lists = {name: found[0].read_text(errors="replace") for name, found in files.items() if len(found) == 1}
        inner = stage not in final
        taken = [one for one in every if inner and there[one.line].stage in final and _takes(one, stage)]
        lines = [line for said in lists.values() for line in said.splitlines()]
        whole = not inner or (taken and all(PINNED.match(line) or line.startswith("--") for line in lines))
        plain = run.around.is_root and all(each.name != "SHELL" for each in run.around.above)
        if names and len(lists) == len(names) and whole and plain and not any(map(_MORE.search, lists.values())):
            first = [at for at, one in enumerate(copies) if any(_files(name, [by_line[one.line]]) for name in names)]
            yield _Install(run, own, copies[first[0] :] if first else [], lists, taken)


def _is_plain(run: RunInstruction) -> bool:
    """Whether it installs the lists that it names, and nothing else, where all is installed."""
    text = run.span.text[run.commands[0].start :]
    options = re.split(r"\b(?:install|sync)\b", LIST.sub("", text).replace("\\\n", " "), maxsplit=1)[-1]
    return bool(_PLAIN.fullmatch(options)) and not _OTHER.search(options)


def _files(name: str, steps: Iterable[Step]) -> Sequence[Path]:
    """The files of a context that a list of this name is: that path, else such a path elsewhere, else such a file."""
    every = {Path(path).parts: Path(root, path) for step in steps for root, some in step.files for path in some.files()}
    parts = PurePosixPath(name.lstrip("/")).parts
    if parts in every:
        return [every[parts]]
    same = [each for each in every if each[-1] == parts[-1]]
    return [every[each] for each in same if each[-len(parts) :] == parts] or [every[each] for each in same]


def _takes(span: Span, stage: str) -> bool:
    said = span.instruction.flags.get("from", ())
    return span.instruction.name == "COPY" and stage in [each.lower() for each in said]


def _apart(text: str, install: _Install, heavy: Sequence[str]) -> str:
    """The Dockerfile whose stage goes on from one that ends above the lists, with the heavy packages from another."""
    run, own, copies, lists, taken = install
    end, first = own[0].end, (copies[0] if copies else run.span).first
    pins = "|".join(f"{name}==" for name in heavy)
    links = [f"COPY --link --from=heavy /heavy/{name}/ /" for name in heavy]
    mounted = mounts(run.span.text)
    kept = {each: not _is_of_list(run, mounted.get(each, {}), lists) for each in flags(run.span.text)[0]}
    if taken:
        mount = ["--mount=type=bind,from=heavy-lock,source=/rest.txt,target=/rest.txt"]
        there = "RUN " + " ".join([*(each for each in kept if kept[each]), _command(run, "--no-deps -r /rest.txt")])
        text = edited(
            text, {run.span.line: with_mounts(there, mount), taken[0].line: "\n".join([*links, taken[0].text])}
        )
    lines, base = text.splitlines(keepends=True), unnamed(own[0].text)
    new = _STAGES.format(
        copies="".join(f"{one.text}\n" for one in copies),
        mounts="".join(f"{each} " for each in kept if not kept[each]),
        lists=" ".join(lists),
        rest=f" \\\n && {_JOINED} {' '.join(lists)} | grep -vE '^({pins})' > /rest.txt" if taken else "",
        pins=pins,
        flags="".join(f"{each} \\\n    " for each in kept if kept[each]),
        names=" ".join(heavy),
        command=_command(run, f"--no-deps {_UV_ROOT if ' uv ' in f' {run.span.text}' else _ROOT} -r /dev/stdin"),
        stage=own[0].text[len(base) :],
        links="" if taken else "".join(f"{each}\n" for each in links),
    )
    above = "".join([f"{base} AS heavy-base{end}", *lines[own[0].last + 1 : first]]).rstrip()
    return "".join([*lines[: own[0].line - 1], above, new.replace("\n", end), *lines[first:]])


def _is_of_list(run: RunInstruction, fields: Mapping[str, str], lists: Iterable[str]) -> bool:
    """Whether these are the fields of a mount of one of these lists."""
    target, *others = (PurePosixPath(run.around.folder, each) for each in (fields.get("target", ""), *lists))
    return fields.get("type", "bind") == "bind" and target in others


def _command(run: RunInstruction, words: str) -> str:
    """The command in one line, with these words in place of its lists."""
    (command,) = run.commands
    own = run.span.text[command.start : command.end]
    first = next(LIST.finditer(own))
    one = own[: first.start()] + f" {words}" + LIST.sub("", own[first.end() :])
    return re.sub(r"\s*\\\n\s*", " ", one)
