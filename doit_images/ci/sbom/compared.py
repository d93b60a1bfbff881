"""Which packages does one bill of materials list otherwise than another? Both in SPDX 2, whoever wrote them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Name, version before and version now of each package that is not the same; "" for none."""
    old, new = _versions(before), _versions(now)
    return [
        (key[1], ", ".join(sorted(old.get(key, ()))), ", ".join(sorted(new.get(key, ()))))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _versions(bill: Mapping[str, object]) -> dict[tuple[str, str], set[str]]:
    """The versions of each package, by its kind (the type in its URL) and its name. An image is none of its own. The
    bill is not trusted to be well formed."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    packages = bill.get("packages")
    for package in packages if isinstance(packages, list) else ():
        if isinstance(package, dict) and package.get("primaryPackagePurpose") != "CONTAINER":
            refs = package.get("externalRefs")
            urls = [str(ref.get("referenceLocator")) for ref in refs or () if isinstance(ref, dict)]
            kind = next((url[4:].partition("/")[0] for url in urls if url.startswith("pkg:")), "")
            found[kind, str(package.get("name"))].add(str(package.get("versionInfo") or "?"))
    return found
