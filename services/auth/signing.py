"""What is a signing key, and how is it kept? Pure: no store, no clock.

Keys are EC P-256 (ES256). At rest they are encrypted with a key derived from AUTH_SECRET, so a copy of the
database alone cannot make tokens.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import ECAlgorithm

from common.tokens import ALGORITHM


@dataclass(frozen=True)
class Key:
    """A private key and the id under which its public half is known (RFC 7638's thumbprint)."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as ``/jwks`` shows it."""
        return {**_members(self.private), "use": "sig", "alg": ALGORITHM, "kid": self.kid}


def generate() -> Key:
    """A new key."""
    return _key(ec.generate_private_key(ec.SECP256R1()))


class Vault:
    """Seals and opens private keys with ``secret``."""

    def __init__(self, secret: str) -> None:
        derived = HKDF(hashes.SHA256(), length=32, salt=None, info=b"vllm-swarm auth signing keys")
        self._cipher = Fernet(base64.urlsafe_b64encode(derived.derive(secret.encode())))

    def seal(self, key: Key) -> bytes:
        """What to keep of ``key``."""
        return self._cipher.encrypt(
            key.private.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def open(self, sealed: bytes) -> Key | None:
        """The key that was sealed; none when it was sealed with another secret."""
        try:
            private = serialization.load_der_private_key(self._cipher.decrypt(sealed), password=None)
        except InvalidToken:
            return None
        return _key(private) if isinstance(private, ec.EllipticCurvePrivateKey) else None


def _key(private: ec.EllipticCurvePrivateKey) -> Key:
    members = _members(private)
    canonical = '{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}'.format(**members)
    digest = hashlib.sha256(canonical.encode()).digest()
    return Key(private, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


def _members(private: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    members = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {name: members[name] for name in ("kty", "crv", "x", "y")}
