"""How is a document beside an image in the registry, and is what lies there from a builder who is trusted?

A machine that signs attaches an in-toto statement about the image in a Sigstore bundle, signed as its results are, and
nothing else: one that is not signed could say anything. Where nobody signs, the document itself is attached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.planning.wanted import Wanted
from doit_images.share import referrers, signatures
from doit_images.share.share import Share
from doit_images.share.signing import BUNDLE, NotSigned
from doit_images.share.trusted import Claimed

_PREDICATE = "in-toto.io/predicate-type"


class Kind(NamedTuple):
    """A kind of document: what it is called, the ending of its files, its media type, and in-toto's type of what is
    said in it."""

    title: str
    ending: str
    media_type: str
    predicate: str


SPDX = Kind("SBOM in SPDX 2.3", ".spdx.json", "application/spdx+json", "https://spdx.dev/Document/v2.3")
SPDX_3 = Kind("SBOM in SPDX 3.0.1", ".spdx3.json", "application/ld+json", "https://spdx.dev/Document/v3.0.1")
CYCLONEDX = Kind("SBOM in CycloneDX", ".cdx.json", "application/vnd.cyclonedx+json", "https://cyclonedx.org/bom")
PROVENANCE = Kind("provenance", ".json", "application/vnd.in-toto+json", "https://slsa.dev/provenance/v1")
KINDS = (SPDX, SPDX_3, CYCLONEDX, PROVENANCE)


def attach(share: Share, wanted: Wanted, digest: str, kind: Kind, document: Mapping[str, Any]) -> str:
    """Attach a document to the image with this digest; the digest of what was attached. ``UserError`` where nobody
    would take it from this machine. Raises ``Unavailable`` and ``NoImage``."""
    if share.trust.need:
        if why := share.trust.cannot_sign:
            raise UserError(f"nobody would take what this machine attaches: {why}", remedy="doit share_key NAME")
        claimed = Claimed(digest, wanted.fingerprint, wanted.platform, kind.predicate)
        try:
            bundle = share.trust.sign_claimed(claimed, document.get("predicate", document))
        except NotSigned as error:
            raise UserError(f"the {kind.title} could not be signed: {error}") from None
        return signatures.give(share.registry, wanted.path, digest, bundle, kind.predicate)
    content = json.dumps(document, indent=1, sort_keys=True).encode()
    attachment = referrers.Attachment(kind.media_type, content, {_PREDICATE: kind.predicate})
    return referrers.attach(share.registry, wanted.path, digest, attachment)


def judged(share: Share, wanted: Wanted, digest: str) -> tuple[list[str], list[str]]:
    """What is attached to the image with this digest, as far as trusted builders signed it: which documents count, each
    with who signed it, and sentences about those that do not. Raises ``Unavailable`` and ``NoImage``."""
    if not share.trust.need:
        return [], []
    good, bad = list[str](), list[str]()
    there = referrers.attached(share.registry, wanted.path, digest)
    for kind in KINDS:
        of_kind = [each for each in there if signatures.kind_of(each) == kind.predicate]
        bundles = [each for each in of_kind if each.get("artifactType") == BUNDLE]
        claimed = Claimed(digest, wanted.fingerprint, wanted.platform, kind.predicate)
        doubt, by = share.trust.judge(claimed, signatures.contents(share.registry, wanted.path, bundles))
        if not doubt:
            good.append(f"{kind.title} by {', '.join(sorted(by))}")
        elif bundles or any(each.get("artifactType") == kind.media_type for each in there):
            bad.append(f"the attached {kind.title} is not taken: {doubt}")
    return good, bad
