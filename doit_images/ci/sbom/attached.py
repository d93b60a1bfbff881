"""How is a document attached to a shared image, and did a trusted builder sign it?

A machine that signs attaches a Sigstore bundle alone, with an in-toto statement about the image: anybody could replace
a copy that is not signed. Where nothing has to be signed, the document itself is attached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from doit_images.core.base.errors import UserError
from doit_images.core.planning.shared_image import SharedRef
from doit_images.share import referrers, signatures
from doit_images.share.signing import BUNDLE, NotSigned
from doit_images.share.trusted import Claimed

if TYPE_CHECKING:
    from doit_images.share.share import Share

_PREDICATE = "in-toto.io/predicate-type"


class DocumentKind(NamedTuple):
    """A kind of document: its name, the ending of its files, its media type, and its predicate's type in in-toto."""

    title: str
    ending: str
    media_type: str
    predicate: str


SPDX = DocumentKind("SBOM in SPDX 2.3", ".spdx.json", "application/spdx+json", "https://spdx.dev/Document/v2.3")
SPDX_3 = DocumentKind("SBOM in SPDX 3.0.1", ".spdx3.json", "application/ld+json", "https://spdx.dev/Document/v3.0.1")
CYCLONEDX = DocumentKind(
    "SBOM in CycloneDX", ".cdx.json", "application/vnd.cyclonedx+json", "https://cyclonedx.org/bom"
)
PROVENANCE = DocumentKind("provenance", ".json", "application/vnd.in-toto+json", "https://slsa.dev/provenance/v1")
KINDS = (SPDX, SPDX_3, CYCLONEDX, PROVENANCE)


def attach(share: Share, shared_ref: SharedRef, digest: str, kind: DocumentKind, document: Mapping[str, Any]) -> str:
    """Attach a document to the image with this digest; returns the attachment's digest. ``UserError`` where nobody
    would take it from this machine. Raises ``Unavailable`` and ``NoImage``."""
    if share.trust.need:
        if why := share.trust.cannot_sign:
            raise UserError(
                f"other machines would not accept what this machine attaches: {why}", remedy="doit share_key NAME"
            )
        claimed = Claimed(digest, shared_ref.fingerprint, shared_ref.platform, kind.predicate)
        try:
            bundle = share.trust.sign_claimed(claimed, document.get("predicate", document))
        except NotSigned as error:
            raise UserError(f"the {kind.title} could not be signed: {error}") from None
        return signatures.give(share.registry, shared_ref.path, digest, bundle, kind.predicate)
    attachment = referrers.Attachment(kind.media_type, text_of(document), {_PREDICATE: kind.predicate})
    return referrers.attach(share.registry, shared_ref.path, digest, attachment)


def text_of(document: Mapping[str, object]) -> bytes:
    """A document as a file has it."""
    return json.dumps(document, indent=1, sort_keys=True).encode()


def judged(share: Share, shared_ref: SharedRef, digest: str) -> tuple[list[str], list[str]]:
    """The documents attached to the image with this digest: those that count, each with its signers, and a sentence
    about each kind without a valid document. Raises ``Unavailable`` and ``NoImage``."""
    if not share.trust.need:
        return [], []
    good, bad = list[str](), list[str]()
    there = referrers.attached(share.registry, shared_ref.path, digest)
    for kind in KINDS:
        of_kind = [each for each in there if signatures.kind_of(each) == kind.predicate]
        bundles = [each for each in of_kind if each.get("artifactType") == BUNDLE]
        claimed = Claimed(digest, shared_ref.fingerprint, shared_ref.platform, kind.predicate)
        doubt, by = share.trust.judge(claimed, signatures.contents(share.registry, shared_ref.path, bundles))
        if not doubt:
            good.append(f"{kind.title} by {', '.join(sorted(by))}")
        elif bundles or any(each.get("artifactType") == kind.media_type for each in there):
            task = "provenance" if kind is PROVENANCE else "sbom"
            bad.append(f"the attached {kind.title} is not taken: {doubt} (doit {task} --attach adds one)")
    return good, bad
