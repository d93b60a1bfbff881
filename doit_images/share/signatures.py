"""How does a signature get to an image in a registry, and from there to whoever asks?

It is attached to the image (``referrers``). The list of what is attached holds the bundles themselves, as annotations,
so that one more request for an image is all that a reader needs. Signatures that others attached, as ``cosign sign``
does, have none: a few of these are fetched, those first that say that they are signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING

from doit_images.core.engine.labels import LABEL
from doit_images.share import referrers
from doit_images.share.no_answer import NoImage
from doit_images.share.signing import BUNDLE, IMAGES, PREDICATES

if TYPE_CHECKING:
    from doit_images.core.engine.client import LocalImage
    from doit_images.core.planning.shared_image import SharedImage
    from doit_images.share.registry import Registry

_NOTE, _FORMER_NOTE = "doit-images.bundle", "vllm-swarm.bundle"  # and until 0.2
_KIND = "dev.sigstore.bundle.predicateType"
_FETCHED = 16  # each takes two requests


def give(registry: Registry, path: str, digest: str, bundle: bytes, about: str = IMAGES) -> None:
    """Attach a bundle to the manifest with this digest, of what it is about. Raises ``Unavailable`` and ``NoImage``."""
    notes = {
        "dev.sigstore.bundle.content": "dsse-envelope",  # as cosign finds it
        _KIND: PREDICATES[about],
        _NOTE: bundle.decode(),
    }
    referrers.attach(registry, path, digest, referrers.Attachment(BUNDLE, bundle, notes))


def bundles(registry: Registry, path: str, digest: str) -> Iterator[str]:
    """The bundles that are attached to a manifest, one by one; nobody has checked them. Raises ``Unavailable`` and
    ``NoImage``, also where there are more than are looked at."""
    others: list[tuple[bool, str]] = []
    for each in referrers.attached(registry, path, digest, BUNDLE):
        notes = each.get("annotations")
        note = notes.get(_NOTE, notes.get(_FORMER_NOTE)) if isinstance(notes, dict) else None
        if isinstance(note, str):
            yield note
        elif isinstance(each.get("digest"), str):
            others.append((not isinstance(notes, dict) or notes.get(_KIND) not in PREDICATES.values(), each["digest"]))
    for _, other in sorted(others, key=itemgetter(0))[:_FETCHED]:
        try:
            yield referrers.content_of(registry, path, other).decode(errors="replace")
        except (NoImage, ValueError, KeyError, TypeError, IndexError):  # half written: it counts for nothing
            continue
    if len(others) > _FETCHED:
        raise NoImage(f"has more than {_FETCHED} signatures of others on it, and no more are looked at")


def is_just(held: SharedImage | None, content: str, local_image: LocalImage) -> bool:
    """Whether what a registry holds is this image, labels and all."""
    if held is None or not content or held.content != content:
        return False
    ours, theirs = (
        {key: value for key, value in labels.items() if key.startswith(LABEL)}
        for labels in (local_image.labels, held.labels)
    )
    return ours == theirs
