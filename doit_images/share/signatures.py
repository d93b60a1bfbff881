"""How does a signature get to an image in a registry, and from there to whoever asks?

It is attached to the image (``referrers``). The list of what is attached holds the bundles themselves, as annotations,
so that one more request for an image is all that a reader needs. Signatures that others attached, as ``cosign sign``
does, have none: a few of these are fetched, those first that say that they are signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def give(registry: Registry, path: str, digest: str, bundle: bytes, about: str = IMAGES) -> str:
    """Attach a bundle to the manifest with this digest, of what it is about; the digest of what was attached. One with
    a document in it is in no list. Raises ``Unavailable`` and ``NoImage``."""
    notes = {"dev.sigstore.bundle.content": "dsse-envelope", _KIND: PREDICATES.get(about, about)}  # as cosign finds it
    notes |= {_NOTE: bundle.decode()} if about in PREDICATES else {}
    return referrers.attach(registry, path, digest, referrers.Attachment(BUNDLE, bundle, notes))


def bundles(registry: Registry, path: str, digest: str) -> Iterator[str]:
    """The bundles that are attached to a manifest, one by one; nobody has checked them. Raises ``Unavailable`` and
    ``NoImage``, also where there are more than are looked at."""
    others: list[dict[str, object]] = []
    for each in referrers.attached(registry, path, digest, BUNDLE):
        notes = each.get("annotations")
        note = notes.get(_NOTE, notes.get(_FORMER_NOTE)) if isinstance(notes, dict) else None
        if isinstance(note, str):
            yield note
        elif isinstance(each.get("digest"), str):
            others.append(each)
    yield from contents(registry, path, sorted(others, key=lambda each: kind_of(each) not in PREDICATES.values()))


def contents(registry: Registry, path: str, listed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The bundles that these descriptors are of, fetched one by one. Raises as ``bundles``."""
    for each in listed[:_FETCHED]:
        try:
            yield referrers.content_of(registry, path, each["digest"]).decode(errors="replace")
        except (NoImage, ValueError, KeyError, TypeError, IndexError):  # half written: it counts for nothing
            continue
    if len(listed) > _FETCHED:
        raise NoImage(f"has more than {_FETCHED} other signatures on it, and no more are checked")


def kind_of(listed: Mapping[str, object]) -> str:
    """The type of what is said in a bundle, by its descriptor; "" where that does not tell."""
    notes = listed.get("annotations")
    return str(notes.get(_KIND, "")) if isinstance(notes, dict) else ""


def is_just(held: SharedImage | None, content: str, local_image: LocalImage) -> bool:
    """Whether what a registry holds is this image, labels and all."""
    if held is None or not content or held.content != content:
        return False
    ours, theirs = (
        {key: value for key, value in labels.items() if key.startswith(LABEL)}
        for labels in (local_image.labels, held.labels)
    )
    return ours == theirs
