"""Which files of an image are gone because packages are, and may all of these packages be gone?

A package may be gone if a rule names it, or if it came only as what another one needs (apt's mark "automatic") and
nothing that stays depends on it or recommends it; the base was what it is without it. All others stay what they are, so
their files are compared as any.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from email.parser import HeaderParser
from typing import NamedTuple

from doit_images.ci.verifying.content import LayerEntry

KEPT = re.compile(r"var/lib/dpkg/(status|info/[^/]+\.list)|var/lib/apt/extended_states")
"""The files of which the content is asked for."""
_STATUS, _STATES, _INFO = "var/lib/dpkg/status", "var/lib/apt/extended_states", "var/lib/dpkg/info/"
_NOTES = re.compile(
    r"var/lib/dpkg/(status(-old)?|triggers/.*|alternatives(/.*)?)|var/lib/apt/extended_states|var/cache/debconf/.*"
    r"|etc/ld\.so\.cache|var/cache/ldconfig/aux-cache|var/log/(dpkg|alternatives)\.log|var/log/apt/.*"
)
"""What is written about packages, whichever they are."""
_PERL = re.compile(r"usr/local/(share|lib/[^/]+)/perl(/[\d.]+)?")
_NAMES = re.compile(r"\s*([a-z0-9][a-z0-9+.-]+)")
_REASON = "of the package {}, which only the build needed"
Tree = Mapping[str, LayerEntry]


class Held(NamedTuple):
    """The files of an image, and by their digests the text of those that are ``KEPT``."""

    files: Tree
    texts: Mapping[str, object]

    def text(self, path: str) -> str:
        """What a file says; nothing where there is none."""
        return str(self.texts.get(self.files[path].digest, "")) if path in self.files else ""


def gone(before: Held, after: Held, base: Held, named: Collection[str]) -> dict[str, str]:
    """The paths that may be gone (or, of what is written about packages, changed) after these ``named`` packages and
    what only they needed are; each with the reason. Both images stand on the ``base``."""
    one, other = (_stanzas(each.text(_STATUS)) for each in (before, after))
    if not named or any(other[name] != one.get(name) for name in other):
        return {}
    automatic = {name for name, said in _stanzas(before.text(_STATES)).items() if said.get("Auto-Installed") == "1"}
    there = _stanzas(base.text(_STATUS))
    missed = _missed(one, other, [name for name in other if there.get(name) != other[name]])
    fine = {name for name in one.keys() - other.keys() if (name in named or name in automatic) and name not in missed}
    if not fine:
        return {}
    found: dict[str, str] = {path: "what is written about packages" for path in before.files if _NOTES.fullmatch(path)}
    found |= {path: found.get(path, "what is written about packages") for path in after.files if _NOTES.fullmatch(path)}
    for path in before.files:
        name = path.removeprefix(_INFO).rpartition(".")[0].partition(":")[0]
        if not path.startswith(_INFO) or name not in fine:
            continue
        found[path] = why = _REASON.format(name)
        if path.endswith(".list"):
            found |= {_real(line[1:], before.files): why for line in before.text(path).splitlines() if line != "/."}
    for path in before.files:  # bytecode of what is gone, and folders that perl makes as it is installed
        source = re.sub(r"__pycache__/([^/]*)\.[^./]+\.pyc$", r"\1.py", path)
        if source != path and source in found:
            found |= {path: found[source], posixpath.dirname(path): found[source]}
        if "perl" in fine and _PERL.fullmatch(path):
            found[path] = _REASON.format("perl")
    for _ in range(3):  # links to what is gone, and links to these
        for path, entry in before.files.items():
            if entry.kind == "link" and path not in found:
                target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), entry.target))[1:]
                if why := found.get(_real(target, before.files), ""):
                    found[path] = why
    return found


def _stanzas(text: str) -> dict[str, dict[str, str]]:
    parsed = (dict(HeaderParser().parsestr(each)) for each in text.split("\n\n") if each.strip())
    return {said["Package"]: said for said in parsed if "installed" in said.get("Status", "installed").split()}


def _missed(
    one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]], asking: Collection[str]
) -> set[str]:
    """The packages that are gone though one of those ``asking`` depends on them or recommends them, and nothing that
    stays is as good."""
    found: set[str] = set()
    provided = {name for said in other.values() for name in _names(said.get("Provides", ""))} | other.keys()
    for said in (other[name] for name in asking):
        for field in ("Depends", "Pre-Depends", "Recommends"):
            for group in said.get(field, "").split(","):
                names = _names(group.replace("|", ","))
                found |= set() if provided & {*names} else one.keys() & {*names}
    return found


def _names(text: str) -> Sequence[str]:
    return [match[1] for each in text.split(",") if (match := _NAMES.match(each))]


def _real(path: str, files: Tree) -> str:
    """A path as it is where ``/lib`` is a link to ``/usr/lib``."""
    top, _, rest = path.partition("/")
    return f"{files[top].target.lstrip('/')}/{rest}" if rest and top in files and files[top].kind == "link" else path
