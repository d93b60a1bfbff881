"""How does a builder sign without a key of its own, by the identity that its CI gives it?

Sigstore's way: a key that lives for minutes, a certificate for it that names whoever showed an identity token (Fulcio),
and an entry in a log that everybody can read (Rekor). So there is no secret that could be stolen. Who signs tells the
public that log's readers what is public in the token (for GitHub's Actions the repository and the workflow), and the
digest. All of it is the library `sigstore`'s, which is installed by who wants this (``requirements-keyless.txt``).
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sigstore.dsse import Statement
from sigstore.errors import Error
from sigstore.models import Bundle, ClientTrustConfig
from sigstore.oidc import IdentityToken, detect_credential
from sigstore.sign import Signer, SigningContext
from sigstore.verify import Verifier, policy

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.share.signing import PAYLOAD, Claim, Forged, NotSigned, claim_in, statement_of
from doit_images.share.transport import Limits, in_time

_SECONDS = 60.0  # for certificate, signature and log together
_FRESH_SECONDS = 240.0  # tokens and certificates count for five minutes at least


class Sigstore:
    """One instance of Sigstore: the public one, or that of a file (a client's trust configuration, in JSON) that names
    another's addresses and certificates. The public one's certificates are those that came with the library or that
    were found by its own tools since: no network is asked for them. ``UserError`` where there is no such file."""

    def __init__(self, file: Path | None) -> None:
        logging.getLogger("sigstore").setLevel(logging.ERROR)  # that it asks no network is meant
        self._config: ClientTrustConfig = _config(file) if file else ClientTrustConfig.production(offline=True)
        self._verifier: Verifier | None = None
        self._signer: Signer | None = None
        self._until = 0.0
        self._silent = ""
        # Two: what is read waits for no network.
        self._reading, self._signing = threading.Lock(), threading.Lock()

    def claim_of(self, bundle: str, issuer: str, identity: str) -> Claim:
        """What was said in a bundle by whom this issuer gave this identity. Raises ``Forged`` if it is no such
        signature, and if the log does not have it."""
        try:
            with self._reading:
                self._verifier = self._verifier or Verifier(trusted_root=self._config.trusted_root)
            by = policy.Identity(identity=identity, issuer=issuer)
            kind, payload = self._verifier.verify_dsse(Bundle.from_json(bundle), by)
        # What nobody has checked is read by it, and not all that is wrong ends in an error of its own.
        except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Forged("not signed by that identity") from None
        if kind != PAYLOAD:
            raise Forged("another kind of envelope")
        return claim_in(payload)

    def sign(self, claim: Claim) -> bytes:
        """A bundle in which this machine says ``claim``, by the identity that its CI gives it. Raises ``NotSigned``
        where that does not come to a signature, also not in time, and ``Stopped`` when the run is. An instance that
        said nothing in its time is asked nothing more: the next image would wait as long."""

        def signed() -> str:
            with self._signing:
                if self._signer is None or time.monotonic() > self._until:
                    self._signer, self._until = self._new_signer(), time.monotonic() + _FRESH_SECONDS
                return self._signer.sign_dsse(Statement(statement_of(claim))).to_json()

        if self._silent:
            raise NotSigned(self._silent)
        try:
            return in_time(signed, Limits(time.monotonic() + _SECONDS)).encode()
        except (NotSigned, commands.Stopped):
            raise
        except TimeoutError:
            self._silent = f"Sigstore did not answer within {_SECONDS:.0f} s"
            raise NotSigned(self._silent) from None
        except Exception as error:  # of the library, of requests, of what they make of an answer
            # Its text may hold an answer, and so anything.
            raise NotSigned(f"Sigstore did not give a signature ({type(error).__name__})") from None

    def _new_signer(self) -> Signer:
        token = detect_credential()
        if token is None:
            raise NotSigned("this machine has no identity token (in GitHub's Actions: `permissions: id-token: write`)")
        return Signer(IdentityToken(token), SigningContext.from_trust_config(self._config))


def _config(file: Path) -> ClientTrustConfig:
    remedy = "SHARE_SIGSTORE is a client's trust configuration of Sigstore in JSON; without it the public one counts"
    try:
        return ClientTrustConfig.from_json(file.read_text())
    except OSError as error:
        raise UserError(f"SHARE_SIGSTORE cannot be read: {error.strerror}", where=str(file), remedy=remedy) from None
    except (Error, ValueError):
        raise UserError("SHARE_SIGSTORE is not understood", where=str(file), remedy=remedy) from None
