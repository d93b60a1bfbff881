"""An instance of Sigstore on loopback, as small as one can be: who gives identity tokens (as GitHub's Actions do), a
certificate authority with its log of certificates (Fulcio's API), and a transparency log (Rekor's, version 1).

It keeps to what clients check: the authority takes only tokens that the issuer signed for it, and a proof that the key
is the asker's; its certificates live ten minutes, and the log of certificates has signed each; the log gives a promise,
a checkpoint and a proof of inclusion in a tree that grows (RFC 6962). `sigstore` and `cosign` judge it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_DER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x80 | len(long)]) + long) + content


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_public(key)).digest()


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Tree:
    """A Merkle tree of what was logged."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def add(self, entry: bytes) -> int:
        self.leaves.append(hashlib.sha256(b"\0" + entry).digest())
        return len(self.leaves) - 1

    def root(self) -> bytes:
        return self._hash(self.leaves)

    def proof(self, index: int) -> list[bytes]:
        return self._path(index, self.leaves)

    def _hash(self, leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + self._hash(leaves[:half]) + self._hash(leaves[half:])).digest()

    def _path(self, index: int, leaves: list[bytes]) -> list[bytes]:
        if len(leaves) == 1:
            return []
        half = 1 << (len(leaves) - 1).bit_length() - 1
        if index < half:
            return [*self._path(index, leaves[:half]), self._hash(leaves[half:])]
        return [*self._path(index - half, leaves[half:]), self._hash(leaves[:half])]


class Instance:
    """All of it, at one address."""

    def __init__(self) -> None:
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
        self.tokens, self._ca, self._certificates, self._log = keys
        self._tree = Tree()
        self._lock = threading.Lock()
        self.requests: list[str] = []
        self.silent = False
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        now = datetime.now(UTC)
        self._began = now - timedelta(days=1)
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        self._root = (
            x509.CertificateBuilder(name, name, self._ca.public_key(), x509.random_serial_number())
            .not_valid_before(self._began).not_valid_after(now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._ca.public_key()), critical=False)
            .sign(self._ca, hashes.SHA256())
        )  # fmt: skip
        self._usage = {**usage, "digital_signature": True}
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                instance.requests.append(f"{self.command} {self.path.partition('?')[0]}")
                if instance.silent:
                    time.sleep(5)
                    return
                try:
                    status, answer = instance.answer(self.path, self.headers, self.rfile.read(size))
                except Exception as error:  # what is not as it must be is refused, whatever it is
                    status, answer = 400, {"message": str(error)}
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = _answer  # noqa: N815  names of the library

            def log_message(self, *words: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, identity: str, **other: Any) -> str:
        """A token for a job whose identity (workflow at a reference) is this."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": "sigstore", "sub": "repo:us/it", "iat": now, "nbf": now, "exp": now + 300}
        return jwt.encode({**claims, "job_workflow_ref": identity, **other}, self.tokens, algorithm="ES256")

    def job(self, identity: str) -> dict[str, str]:
        """The environment of a job with this identity that may ask for a token, as GitHub's Actions make it."""
        place = f"{self.url}/token?identity={base64.urlsafe_b64encode(identity.encode()).decode()}"
        token = {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-this-job", "ACTIONS_ID_TOKEN_REQUEST_URL": place}
        return {"GITHUB_ACTIONS": "true", **token}

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        """What it says to a request."""
        if path.startswith("/token?"):
            assert headers["Authorization"].lower() == "bearer of-this-job"
            asked = dict(part.split("=", 1) for part in path.partition("?")[2].split("&"))
            identity = base64.urlsafe_b64decode(asked["identity"].replace("%3D", "=") + "==").decode()
            return 200, {"value": self.token(identity, aud=asked["audience"])}
        if path == "/api/v2/signingCert":
            chain = self._certified(headers["Authorization"].partition(" ")[2], json.loads(body))
            pem = [each.public_bytes(serialization.Encoding.PEM).decode() for each in chain]
            return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}}
        if path == "/api/v1/log/entries":
            with self._lock:
                return 201, self._logged(json.loads(body))
        return 404, {}

    def _certified(self, token: str, asked: Mapping[str, str]) -> list[x509.Certificate]:
        claims = jwt.decode(token, self.tokens.public_key(), algorithms=["ES256"], audience="sigstore", issuer=self.url)
        request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
        assert request.is_signature_valid
        now = datetime.now(UTC).replace(microsecond=0)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca.public_key())
        key: Any = request.public_key()
        issuer = str(claims["iss"]).encode()
        builder = (
            x509.CertificateBuilder(self._root.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(now).not_valid_after(now + timedelta(minutes=10))
            .add_extension(x509.KeyUsage(**self._usage, key_cert_sign=False, crl_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"https://github.com/{claims['job_workflow_ref']}")]
                ), critical=True,
            )
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_DER, _der(0x0C, issuer)), critical=False)
        )  # fmt: skip
        before = builder.sign(self._ca, hashes.SHA256())
        stamped = x509.UnrecognizedExtension(_TIMESTAMPS, self._timestamps(before.tbs_certificate_bytes))
        return [builder.add_extension(stamped, critical=False).sign(self._ca, hashes.SHA256()), self._root]

    def _timestamps(self, certificate: bytes) -> bytes:
        """The log of certificates promises to keep one (RFC 6962, 3.2)."""
        now = int(time.time() * 1000)
        entry = _id(self._ca) + len(certificate).to_bytes(3, "big") + certificate
        signed = self._certificates.sign(struct.pack("!BBQH", 0, 0, now, 1) + entry + b"\0\0", _ALGORITHM)
        stamp = struct.pack("!B32sQH", 0, _id(self._certificates), now, 0)
        stamp += struct.pack("!BBH", 4, 3, len(signed)) + signed  # SHA-256, ECDSA
        listed = struct.pack("!H", len(stamp)) + stamp
        return _der(0x04, struct.pack("!H", len(listed)) + listed)

    def _logged(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """An entry for an envelope of DSSE, which is looked at first, as Rekor does."""
        content = proposed["spec"]["proposedContent"]
        envelope, [verifier] = json.loads(content["envelope"]), content["verifiers"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(verifier))
        payload, [signature] = base64.b64decode(envelope["payload"]), envelope["signatures"]
        kind = envelope["payloadType"].encode()
        key: Any = certificate.public_key()
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        key.verify(base64.b64decode(signature["sig"]), signed, _ALGORITHM)
        hashed: dict[str, Any] = {
            name: {"algorithm": "sha256", "value": hashlib.sha256(value).hexdigest()}
            for name, value in (("envelopeHash", content["envelope"].encode()), ("payloadHash", payload))
        }
        spec = {**hashed, "signatures": [{"signature": signature["sig"], "verifier": verifier}]}
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        index, name = self._tree.add(body), _id(self._log)
        entry: dict[str, Any] = {
            "body": _text(body), "integratedTime": int(time.time()), "logID": name.hex(), "logIndex": index,
        }  # fmt: skip
        root, size = self._tree.root(), len(self._tree.leaves)
        note = f"a-test.log - 1\n{size}\n{_text(root)}\n"
        mark = _text(name[:4] + self._log.sign(note.encode(), _ALGORITHM))
        proof = {
            "logIndex": index, "rootHash": root.hex(), "treeSize": size,
            "hashes": [each.hex() for each in self._tree.proof(index)],
            "checkpoint": f"{note}\n— a-test.log {mark}\n",
        }  # fmt: skip
        promise = _text(self._log.sign(rfc8785.dumps(entry), _ALGORITHM))
        entry["verification"] = {"signedEntryTimestamp": promise, "inclusionProof": proof}
        return {"0" * 63 + str(index % 10): entry}

    def trust(self) -> dict[str, Any]:
        """What clients are told to trust it by, and where it is."""
        since = {"start": self._began.strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": _text(_public(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            return {
                "baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public,
                "logId": {"keyId": _text(_id(key))},
            }  # fmt: skip

        service = {"url": self.url, "majorApiVersion": 1, "validFor": since, "operator": "a test"}
        chain = {"certificates": [{"rawBytes": _text(self._root.public_bytes(serialization.Encoding.DER))}]}
        authority = {
            "subject": {"organization": "a test", "commonName": "a test's authority"}, "uri": self.url,
            "certChain": chain, "validFor": since,
        }  # fmt: skip
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)], "certificateAuthorities": [authority], "ctlogs": [log(self._certificates)],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": [service],
                "oidcUrls": [service], "rekorTlogUrls": [service], "tsaUrls": [],
                "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"},
            },
        }  # fmt: skip


@contextlib.contextmanager
def running() -> Iterator[Instance]:
    """An instance for the block."""
    instance = Instance()
    try:
        yield instance
    finally:
        instance.close()
