"""Which files does a build policy name?

It may import modules (``import data.rules`` is ``rules.rego``) and read files (``load_json("pins.json")``). All of them
lie in the context, whatever its ignore file says; a name that begins with ``cwd://`` is one in the folder that buildx
runs in. The rules are those of buildx's ``policy/validate.go``, ``policy/funcs.go`` and ``build/policy_loader.go``.

A policy is not parsed as Rego. Where the name of a file does not stand in it as plain text, it may read any file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from doit_images.core.inputs.ignorefile import clean
from doit_images.core.inputs.reads import WHOLE

_CWD = "cwd://"
_TOKEN = re.compile(r'#[^\n]*|`[^`]*`|"(?:[^"\\\n]|\\.)*"')
_TEXT = re.compile(r"\s*\0(\d+)\0\s*")  # stands for a text in what is left of a policy without its texts
_IMPORT = re.compile(r"\bimport\s+data((?:\s*\.\s*\w+)*)(\s*\[)?")
# What reads files, and how many of its last arguments name one.
_FUNCTIONS = {"artifact_attestation": 1, "load_json": 1, "verify_git_signature": 1, "verify_http_pgp_signature": 2}
_OPENED = re.compile(r"\s*\(")
_CALL = re.compile(rf"\b({'|'.join(_FUNCTIONS)})\b")


class Loaded(NamedTuple):
    """What a policy reads: paths in the context, and in the folder that buildx runs in; ``WHOLE`` for all of it."""

    context: tuple[str, ...] = ()
    directory: tuple[str, ...] = ()


def loaded(text: str, module: Callable[[str], str]) -> Loaded:
    """What the policy with this ``text`` reads; ``module`` gives the text of a file in the context, "" for none."""
    found: dict[str, None] = {}
    texts = [text]
    for policy in texts:
        names = [name for name in _named(policy) if name not in found]
        found |= dict.fromkeys(names)
        texts += [module(name) for name in names if name.endswith(".rego")]
    if WHOLE in found and any("cwd" in policy for policy in texts):
        found[_CWD + WHOLE] = None
    directory = [name.removeprefix(_CWD) for name in found if name.startswith(_CWD)]
    return Loaded(tuple(name for name in found if not name.startswith(_CWD)), tuple(directory))


def _named(policy: str) -> Iterator[str]:
    """The files that one text names; ``WHOLE`` where it may name any."""
    texts: list[str] = []

    def cut(token: re.Match[str]) -> str:
        if token[0].startswith("#"):
            return " "
        texts.append(token[0])
        return f"\0{len(texts) - 1}\0"

    code = _TOKEN.sub(cut, policy.replace("\0", " "))
    imports = [*_IMPORT.finditer(code)]
    yield from (re.sub(r"\s", "", path[1])[1:].replace(".", "/") + ".rego" for path in imports if path[1])
    # What begins with $ is a text with expressions in it, which may read files.
    sure = "$" not in code and not any(path[2] for path in imports)
    for call in _CALL.finditer(code):
        count = _FUNCTIONS[call[1]]
        arguments = _arguments(code, call.end())[-count:]
        named = [found for argument in arguments if (found := _TEXT.fullmatch(argument))]
        sure = sure and len(named) == count
        yield from (name for found in named if (name := _path(texts[int(found[1])])))
    if not sure:
        yield WHOLE


def _arguments(code: str, at: int) -> list[str]:
    """The arguments of a call whose name ends here; none where there is no call."""
    opened = _OPENED.match(code, at)
    depth, begin, arguments = 1, opened.end() if opened else len(code), list[str]()
    for place in range(begin, len(code)):
        char = code[place]
        depth += (char in "([{") - (char in ")]}")
        if not depth or (depth == 1 and char == ","):
            arguments.append(code[begin:place])
            begin = place + 1
        if not depth:
            return arguments
    return []


def _path(literal: str) -> str:
    """The file that a text of a policy names, "" for one outside of its folder, which buildx refuses, and for what can
    be no name."""
    try:
        name = literal[1:-1] if literal.startswith("`") else str(json.loads(literal))
        name.encode()
    except ValueError:
        return ""
    folder = _CWD if name.startswith(_CWD) else ""
    path = clean(name.removeprefix(folder))
    return "" if path in (".", "..") or "\0" in path or path.startswith(("/", "../")) else folder + path
