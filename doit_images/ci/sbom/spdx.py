"""What does an image hold, as an SPDX document? Pure: the same image gives the same bytes.

SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3), packages named by their package URLs.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from doit_images.ci.sbom.installed import Installed
from doit_images.core.base.timestamps import utc

MEDIA_TYPE = "application/spdx+json"
_NAMESPACE = uuid.UUID("6f1c0c1e-6c7b-5c0e-9d5f-3f0a3d1b5a77")
_NOBODY = "NOASSERTION"


class Subject(NamedTuple):
    """The image that a document is of: its name, its id in the engine (``sha256:…``), its fingerprint, and when it was
    made (seconds since the epoch)."""

    name: str
    id: str
    fingerprint: str
    created: float


def document(subject: Subject, installed: Installed, locked: Mapping[str, str], tool: str) -> bytes:
    """The document, as JSON. ``locked`` are the versions that the project's locks pin, by name: a Python package that
    they do not pin like this is marked so. ``tool`` is what made the document, and its version."""
    image = _package("image", subject.name, subject.id)
    image |= {"primaryPackagePurpose": "CONTAINER", "comment": f"fingerprint of its inputs: {subject.fingerprint}"}
    parts = [*_debian(installed), *_python(installed, locked)]
    digest = hashlib.sha256(json.dumps([subject, parts], sort_keys=True).encode()).hexdigest()
    content = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": uuid.uuid5(_NAMESPACE, digest).urn,
        "creationInfo": {"created": utc(subject.created), "creators": [f"Tool: {tool}"]},
        "packages": [image, *parts],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
            *(_relation("SPDXRef-image", "CONTAINS", part["SPDXID"]) for part in parts),
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _debian(installed: Installed) -> Iterable[dict[str, Any]]:
    vendor = installed.release.get("ID") or "debian"
    distro = installed.release.get("VERSION_CODENAME", "")
    for package in installed.debian:
        qualifiers = {"arch": package.architecture, "distro": distro}
        more = "&".join(f"{name}={quote(value, safe='')}" for name, value in qualifiers.items() if value)
        url = f"pkg:deb/{vendor}/{_quoted(package.name)}@{_quoted(package.version)}{f'?{more}' if more else ''}"
        part = _package(f"deb-{package.name}-{package.architecture}", package.name, package.version, url)
        yield part | {"sourceInfo": f"built from the source package {package.source}"}


def _python(installed: Installed, locked: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for package in installed.python:
        url = f"pkg:pypi/{_quoted(package.name)}@{_quoted(package.version)}"
        place = hashlib.sha256(package.path.encode()).hexdigest()[:8]  # one may be there twice
        part = _package(f"pypi-{package.name}-{place}", package.name, package.version, url)
        known = "is locked" if locked.get(package.name) == package.version else "is in no lock of the project"
        yield part | {"sourceInfo": f"{package.path}; this version {known}"}


def _package(ident: str, name: str, version: str, url: str = "") -> dict[str, Any]:
    urls = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}] if url else []
    return {
        "SPDXID": f"SPDXRef-{re.sub(r'[^A-Za-z0-9.-]', '-', ident)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": _NOBODY,
        "filesAnalyzed": False,
        "licenseConcluded": _NOBODY,
        "licenseDeclared": _NOBODY,
        "copyrightText": _NOBODY,
        "externalRefs": urls,
    }


def _relation(element: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": other}


def _quoted(text: str) -> str:
    return quote(text, safe="~")
