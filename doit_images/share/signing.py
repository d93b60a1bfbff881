"""What does a signature of a result say, and is it genuine?

Signed is what a result is for (fingerprint, platform), what it is (the digest of its manifest), who says so, and when.
The form is Sigstore's: a bundle (v0.3) with a DSSE envelope around an in-toto statement, as ``cosign sign`` makes them,
whose annotations hold what is claimed: ``cosign verify --key … -a doit-images.fingerprint=…`` reads it. The keys are
Ed25519; ``keyless`` is about signatures without one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from doit_images.core.base.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IMAGES, TESTS = "images", "tests"
"""What a statement is about: an image that was built, tests that passed, or else a document about an image, by its
predicate's type. None is taken for another."""
PREDICATES = {
    IMAGES: "https://sigstore.dev/cosign/sign/v1",
    TESTS: "https://in-toto.io/attestation/test-result/v0.1",
}
_STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
_SAID = ("fingerprint", "platform", "builder", "signed")  # in annotations
_CLAIMED, _FORMERLY = "doit-images.", "vllm-swarm."  # and until 0.2


class Claim(NamedTuple):
    """What is signed: the ``digest`` of the manifest that is the result of ``fingerprint`` for ``platform``, the name
    of the builder, when (seconds since the epoch), what it is ``about``, and what it says of that."""

    digest: str
    fingerprint: str
    platform: str
    builder: str
    signed: int
    about: str = IMAGES
    predicate: Mapping[str, object] = {}


class Forged(ValueError):
    """A bundle that is no signature of anything by the key that it should be by."""


class NotSigned(Exception):
    """Nobody gave a signature; the sentence says why."""


class Key:
    """The private key of a builder, in a file of its own. ``UserError`` where there is none that could be used."""

    def __init__(self, file: Path) -> None:
        self._private = _private(file)
        self.public = text_of(self._private.public_key())
        """The public half, as ``trusted-builders.toml`` holds it."""

    def sign(self, claim: Claim) -> bytes:
        """A Sigstore bundle in which this key says ``claim``."""
        payload = statement_of(claim)
        signature = self._private.sign(_to_sign(payload))
        bundle = {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint_of(self.public)}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        }
        return json.dumps(bundle, sort_keys=True).encode()


def statement_of(claim: Claim) -> bytes:
    """The in-toto statement that says ``claim``: what is signed."""
    said = {f"{_CLAIMED}{name}": str(getattr(claim, name)) for name in _SAID}
    subject = {"name": "", "digest": {"sha256": claim.digest.removeprefix("sha256:")}, "annotations": said}
    kind = PREDICATES.get(claim.about, claim.about)
    statement = {"_type": _STATEMENT, "subject": [subject], "predicateType": kind, "predicate": claim.predicate}
    return json.dumps(statement, sort_keys=True).encode()


def make_key(file: Path) -> str:
    """Write a new private key, for its owner alone; returns the public half. ``UserError`` where that file is already
    there, or cannot be written."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UserError("there is a key already", where=str(file), remedy="name another file") from None
    except OSError as error:
        raise UserError(f"no key can be written: {error.strerror}", where=str(file)) from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(text)
    return text_of(private.public_key())


def text_of(public: Ed25519PublicKey) -> str:
    """A public key as one line: the body of its PEM form."""
    from cryptography.hazmat.primitives import serialization

    encoded = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(encoded).decode()


def hint_of(public: str) -> str:
    """How a bundle names the key that it is by; only a hint: the signature is checked with the key itself."""
    return base64.b64encode(hashlib.sha256(base64.b64decode(public)).digest()).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """A public key from its one line; ``ValueError`` if it is not one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_der_public_key(base64.b64decode(text, validate=True))
    except UnsupportedAlgorithm:
        raise ValueError("another kind of key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("another kind of key")
    return key


def hinted(bundle: str) -> str:
    """Who a bundle says that it is by, which nobody has checked yet: the hint of a key, or the identity in a
    certificate. Raises ``Forged``."""
    from cryptography import x509

    try:
        material = json.loads(bundle)["verificationMaterial"]
        if "publicKey" in material:
            return str(material["publicKey"]["hint"])
        certificate = x509.load_der_x509_certificate(base64.b64decode(material["certificate"]["rawBytes"]))
        [name] = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return str(name.value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, x509.ExtensionNotFound):
        raise Forged("no bundle that says who signed it") from None


def claim_of(bundle: str, public: str) -> Claim:
    """What the holder of a key says in a bundle. Raises ``Forged`` if it is not a signature by that key, or not of a
    statement about one result."""
    from cryptography.exceptions import InvalidSignature

    try:
        envelope = json.loads(bundle)["dsseEnvelope"]
        [signature] = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        public_key(public).verify(base64.b64decode(signature["sig"], validate=True), _to_sign(payload))
        if envelope["payloadType"] != PAYLOAD:
            raise Forged("another kind of envelope")
        return claim_in(payload)
    except InvalidSignature:
        raise Forged("not signed by that key") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise Forged("no bundle with a signature") from None


def claim_in(payload: bytes) -> Claim:
    """What a statement says whose signature was checked. Raises ``Forged`` if that is nothing about one result."""
    try:
        statement = json.loads(payload)
        kind = str(statement["predicateType"])
        if statement["_type"] != _STATEMENT or kind in PREDICATES:
            raise ValueError
        about = next((about for about, other in PREDICATES.items() if other == kind), kind)
        [subject] = statement["subject"]
        notes = subject["annotations"]
        claimed = _CLAIMED if f"{_CLAIMED}fingerprint" in notes else _FORMERLY
        said = {name: notes[f"{claimed}{name}"] for name in _SAID}
        digest, signed = f"sha256:{subject['digest']['sha256']}", int(said["signed"])
        return Claim(**{**said, "digest": digest, "signed": signed}, about=about, predicate=statement["predicate"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Forged("another kind of statement") from None


def _to_sign(payload: bytes) -> bytes:
    """The encoding of DSSE: type and content cannot be taken for one another."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _private(file: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    remedy = "doit share_key NAME FILE makes one"
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
        open_to_others = file.stat().st_mode & 0o077
    except OSError as error:
        raise UserError(f"SHARE_KEY cannot be read: {error.strerror}", where=str(file), remedy=remedy) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError("SHARE_KEY is not an Ed25519 key without a passphrase", where=str(file), remedy=remedy)
    if open_to_others:
        raise UserError("others may read SHARE_KEY", where=str(file), remedy=f"chmod 600 {file}")
    return key
