"""Which lines does a project get, and how do they go again?

Pure: texts of files, to which lines are added and from which they are taken. What is taken from a text to which it was
added leaves that as it was, to the byte; also when the project changed the version in it, or added lines of its own.
"""

from __future__ import annotations

import re
import tomllib

NAME = "doit-images"
_BEGIN = f"# >>> {NAME}: `python -m doit_images remove` takes these lines away"
_END = f"# <<< {NAME}"
_DODO = '"""The Docker images of this project: `doit list` shows its tasks."""\n\nimport doit_images\n\n'
_CALL = "globals().update({package}.tasks({arguments}))\n"
_DODOS = re.compile(re.escape(_DODO) + r"globals\(\)\.update\(doit_images\.tasks\(.*\)\)\n")
_NAMED = re.compile(r"(?i)\bdoit[-_.]images\b")
_REQUIRED = re.compile(rf"(?im)^{NAME}(?![\w-]).*$")
_IGNORED = f"# {NAME}"


def has(text: str) -> bool:
    """Whether a text names the package."""
    return _NAMED.search(text) is not None


def dodo(text: str | None, prefix: str) -> str:
    """The text of a dodo file with our tasks: a new one, or with lines at its end that no linter's usual rules mind:
    for an ``import`` it is too late there."""
    quote = "'" if text and text.count("'") > text.count('"') else '"'
    given = f"prefix={quote}{prefix}{quote}" if prefix else ""
    if text is None:
        return _DODO + _CALL.format(package="doit_images", arguments=given)
    arguments = ", ".join(filter(None, (given, "beside=globals()")))
    call = _CALL.format(package="_images", arguments=arguments)
    return f"{text}\n\n{_BEGIN}\n_images = __import__({quote}doit_images{quote})\n{call}{_END}\n"


def without_dodo(text: str) -> str:
    """A dodo file without our tasks."""
    begin, end = text.find(f"\n\n{_BEGIN}\n"), text.find(f"{_END}\n")
    if 0 <= begin < end:
        return text[:begin] + text[end + len(_END) + 1 :]
    return _DODOS.sub("", text, count=1)


def required(text: str, requirement: str) -> str:
    """The text of a file of pip's with this requirement at its end."""
    return f"{text}{requirement}\n" if not text or text.endswith("\n") else f"{text}\n{requirement}"


def without_required(text: str) -> str:
    """Such a text without the requirement of the package."""
    return _without(_REQUIRED.search(text), text)


def grouped(text: str, requirement: str) -> str:
    """The text of a ``pyproject.toml`` with this requirement first in the group ``dev`` (PEP 735); the same text where
    the group is written in a way that is not known here."""
    table = re.search(r"(?m)^\[dependency-groups\][^\n]*\n", text)
    group = table and re.compile(r"(?m)^dev\s*=\s*\[").search(text, table.end())
    if not table:
        added = f'{text}\n[dependency-groups]\ndev = [\n    "{requirement}",\n]\n'
    elif not group or re.search(r"(?m)^\[", text[table.end() : group.start()]):
        added = f'{text[: table.end()]}dev = [\n    "{requirement}",\n]\n{text[table.end() :]}'
    else:
        rest = text[group.end() :]
        indent = re.match(r"\n([ \t]+)\S", rest)
        line = f'\n{indent[1]}"{requirement}",' if indent else f'"{requirement}"{"" if rest.startswith("]") else ", "}'
        added = text[: group.end()] + line + rest
    return added if _is_only_more(text, added, requirement) else text


def without_grouped(text: str) -> str:
    """Such a text without the requirement of the package."""
    one = rf'"(?P<requirement>{NAME}(?![\w-])[^"\n]*)"'
    group = rf"dev = \[\n    {one},\n\]\n"
    for form in (rf"\n\[dependency-groups\]\n{group}\Z", rf"(?m)^{group}", rf"\n[ \t]+{one},(?=\n)", rf"{one}(, )?"):
        for found in re.finditer(form, text):
            without = text[: found.start()] + text[found.end() :]
            if _is_only_more(without, text, found["requirement"]):
                return without
    return text


def ignored(text: str, line: str) -> str:
    """The text of an ignore file with one line more."""
    return f"{text}\n{_IGNORED}\n{line}" if text and not text.endswith("\n") else f"{text}{_IGNORED}\n{line}\n"


def without_ignored(text: str) -> str:
    """Such a text without our lines."""
    return _without(re.search(rf"(?m)^{_IGNORED}\n.*$", text), text)


def _without(found: re.Match[str] | None, text: str) -> str:
    """The text without whole lines that were found in it: with the line end behind them, or with that before the last
    ones."""
    if not found:
        return text
    before, after = text[: found.start()], text[found.end() :]
    return before + after[1:] if after else before[:-1]


def _is_only_more(before: str, after: str, requirement: str) -> bool:
    """Whether two texts of TOML say the same, but for this requirement in the group ``dev``."""
    try:
        old, new = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    groups = old.setdefault("dependency-groups", {})
    groups["dev"] = [requirement, *groups.get("dev", [])]
    for each in (groups, new.get("dependency-groups", {})):
        each["dev"] = sorted(map(str, each.get("dev", ())))  # a group may include another, in a table
    return old == new
