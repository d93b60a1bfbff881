"""How is what an image holds written as a bill of materials? In three forms: SPDX 2.3, SPDX 3.0.1, which is JSON-LD
(https://spdx.github.io/spdx-spec), and CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json).

Pure: the same image gives the same bytes. Packages are named by their URLs (https://github.com/package-url/purl-spec).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from doit_images.ci.sbom.installed import Installed, Package
from doit_images.core.base.timestamps import utc

_NAMESPACE = uuid.UUID("6f1c0c1e-6c7b-5c0e-9d5f-3f0a3d1b5a77")
_CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_NOBODY = "NOASSERTION"
# Kinds of packages that distributions have, and whose they are where os-release does not say.
_DISTRIBUTIONS = {"deb": "debian", "apk": "alpine", "rpm": "redhat"}
_SHOWN = 3  # of the files that say that a package is there


class Bom(NamedTuple):
    """A bill: the image's name, its id in the engine (``sha256:…``), its fingerprint, and when it was made (seconds
    since the epoch); its parts (``parts_of``); signs of packages that could not be read; and the ``tool`` behind it."""

    name: str
    id: str
    fingerprint: str
    created: float
    parts: tuple[tuple[str, str, str, str], ...]
    unknown: tuple[str, ...]
    tool: str

    @property
    def urn(self) -> str:
        """A name that no other bill has."""
        return uuid.uuid5(_NAMESPACE, hashlib.sha256(json.dumps(self).encode()).hexdigest()).urn

    @property
    def words(self) -> str:
        """What is to be said of the image as a whole."""
        missing = f"; not understood: {', '.join(self.unknown)}" if self.unknown else ""
        return f"fingerprint of its inputs: {self.fingerprint}{missing}"


def parts_of(installed: Installed, locked: Mapping[str, str]) -> tuple[tuple[str, str, str, str], ...]:
    """Of each package its name, version and URL, and the files that list it. ``locked`` are the versions that the
    project's locks pin, by name: a Python package that they do not pin like this is marked so."""
    return tuple(
        (each.name, each.version, url(each, installed.release), _note(each, places, locked))
        for each, places in installed.packages.items()
    )


def url(package: Package, release: Mapping[str, str]) -> str:
    """The URL of a package in an image with this os-release."""
    name, qualifiers = package.name, dict[str, str]()
    if package.kind in _DISTRIBUTIONS:
        owner = release.get("ID") or _DISTRIBUTIONS[package.kind]
        number = release.get("VERSION_ID")
        distro = release.get("VERSION_CODENAME") or (f"{owner}-{number}" if number else "")
        name, qualifiers = f"{owner}/{name}", {"arch": package.architecture, "distro": distro, "epoch": package.epoch}
    more = "&".join(f"{key}={quote(value, safe='')}" for key, value in qualifiers.items() if value)
    version = f"@{quote(package.version, safe='~')}" if package.version else ""
    return f"pkg:{package.kind}/{quote(name, safe='/~')}{version}{f'?{more}' if more else ''}"


def _note(package: Package, places: tuple[str, ...], locked: Mapping[str, str]) -> str:
    words = [f"{', '.join(places[:_SHOWN])}{f' and {len(places) - _SHOWN} more' if places[_SHOWN:] else ''}"]
    words += [f"built from the source package {package.source}"] if package.source else []
    if package.kind == "pypi":
        known = "is locked" if locked.get(package.name) == package.version else "is in no lock of the project"
        words.append(f"this version {known}")
    return "; ".join(words)


def spdx(bom: Bom) -> dict[str, Any]:
    """The bill in SPDX 2.3."""
    common = {"downloadLocation": _NOBODY, "filesAnalyzed": False}
    image = common | {"SPDXID": "SPDXRef-image", "name": bom.name, "versionInfo": bom.id}
    packages = [image | {"primaryPackagePurpose": "CONTAINER", "comment": bom.words}]
    for number, (name, version, purl, note) in enumerate(bom.parts):
        ref = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        one = common | {"SPDXID": f"SPDXRef-part-{number}", "name": name, "versionInfo": version}
        packages.append(one | {"sourceInfo": note, "externalRefs": [ref]})
    contained = [str(each["SPDXID"]) for each in packages[1:]] + [_NOBODY] * bool(bom.unknown)
    related = [
        ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"),
        *(("SPDXRef-image", "CONTAINS", each) for each in contained),
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bom.name,
        "documentNamespace": bom.urn,
        "creationInfo": {"created": utc(bom.created), "creators": [f"Tool: {bom.tool}"]},
        "packages": packages,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in related
        ],
    }


def spdx_3(bom: Bom) -> dict[str, Any]:
    """The bill in SPDX 3.0.1."""

    def element(ident: str, kind: str, **more: object) -> dict[str, Any]:
        return {"spdxId": f"{bom.urn}#{ident}", "type": kind, "creationInfo": "_:made"} | more

    image = element("image", "software_Package", name=bom.name, software_packageVersion=bom.id)
    image |= {"software_primaryPurpose": "container", "comment": bom.words}
    parts = [
        element(f"part-{number}", "software_Package", name=name, software_packageUrl=purl, software_sourceInfo=note)
        | ({"software_packageVersion": version} if version else {})
        for number, (name, version, purl, note) in enumerate(bom.parts)
    ]
    tool = element("tool", "SoftwareAgent", name=bom.tool)
    made = {"created": utc(bom.created), "createdBy": [tool["spdxId"]], "specVersion": "3.0.1"}
    bill = element("bom", "software_Sbom", software_sbomType=["analyzed"], rootElement=[image["spdxId"]])
    whole = element("document", "SpdxDocument", name=bom.name, rootElement=[bill["spdxId"]])
    whole["profileConformance"] = ["core", "software"]
    graph = [{"type": "CreationInfo", "@id": "_:made", **made}, tool, whole, bill, image, *parts]
    if parts:
        ends = {"from": image["spdxId"], "to": [part["spdxId"] for part in parts], "relationshipType": "contains"}
        ends["completeness"] = "incomplete" if bom.unknown else "noAssertion"
        graph.append(element("contains", "Relationship", **ends))
    return {"@context": _CONTEXT, "@graph": graph}


def cyclonedx(bom: Bom) -> dict[str, Any]:
    """The bill in CycloneDX 1.6."""
    image = {"type": "container", "bom-ref": "image", "name": bom.name, "version": bom.id}
    tool = {"type": "application", "name": bom.tool}
    parts = [
        {"type": "library", "bom-ref": f"part-{number}", "name": name, "purl": purl, "description": note}
        | ({"version": version} if version else {})
        for number, (name, version, purl, note) in enumerate(bom.parts)
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": bom.urn,
        "version": 1,
        "metadata": {
            "timestamp": utc(bom.created),
            "tools": {"components": [tool]},
            "component": image | {"description": bom.words},
        },
        "components": parts,
        "compositions": [{"aggregate": "incomplete" if bom.unknown else "unknown", "assemblies": ["image"]}],
    }
