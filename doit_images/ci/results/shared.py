"""Which tests passed on other machines? A result lies in the shared registry beside the image that was tested.

It is an artifact of its own, ``<repository>:test-<fingerprint>``, signed by a statement of its own kind (in-toto's of
test results): for this fingerprint, for the platform that it ran on. What is not signed as it must be counts as not
being there, and a registry that fails is said once and not asked again in that run.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from doit_images.ci.results.result import Result, result_of
from doit_images.core.base import oci
from doit_images.core.base.references import TESTED, digest_of, numbered
from doit_images.core.base.timestamps import utc
from doit_images.core.run import Run
from doit_images.share import connection, referrers, signatures
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.share import Share
from doit_images.share.signing import TESTS, NotSigned
from doit_images.share.trusted import Claimed

KIND = "application/vnd.doit-images.test.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = f"{KIND}+zlib"
_LARGEST = 20_000_000  # bytes of a result when it is unpacked
_AT_ONCE = 16


@dataclass(frozen=True)
class SharedResults:
    """The results in a shared registry: ``platform`` asks for that of the engine, ``say`` hears what went wrong."""

    share: Share
    platform: Callable[[], str]
    say: Callable[[str], None]

    def look(self, wanted: Mapping[str, str]) -> dict[str, Result]:
        """What there is for these fingerprints, each with the repository to look in; asked side by side."""
        if not wanted or not self.share.reads or self.share.tests.open:
            return {}
        from concurrent.futures import ThreadPoolExecutor  # most runs have no registry

        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
            answers = pool.map(lambda pair: self._ask(*pair), wanted.items())
            return {result.fingerprint: result for result in answers if result}

    def put(self, path: str, result: Result, content: Mapping[str, object] | None) -> None:
        """Let other machines have what is kept of a result, where this one may push; None takes the place of one that
        counts no more, for registries need not let anybody delete."""
        share, tag = self.share, tag_of(result.fingerprint)
        if share.tests.open or not share.writes_of(TESTS):
            return
        registry = share.registry
        config = {"created": utc(result.finished)}  # by which `registry_prune` goes
        title = f"tests that {'passed' if content else 'turned out to be flaky'}: {result.name}"
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": KIND,
            "annotations": {"org.opencontainers.image.title": title},
        }
        try:
            manifest["config"] = referrers.give_blob(registry, path, _CONFIG, json.dumps(config).encode())
            packed = zlib.compress(json.dumps(content, sort_keys=True).encode())
            manifest["layers"] = [referrers.give_blob(registry, path, _LAYER, packed)]
            text = json.dumps(manifest, sort_keys=True).encode()
            registry.give_manifest(path, tag, oci.MANIFEST, text)
            if share.trust.need:
                claimed = Claimed(digest_of(text), result.fingerprint, self.platform(), TESTS)
                said: dict[str, object] = {"result": "PASSED" if content else "FAILED", "configuration": []}
                bundle = share.trust.sign_claimed(claimed, said)
                signatures.give(registry, path, claimed.digest, bundle, TESTS)
        except NotSigned as error:
            self.say(f"that {result.name} passed could not be signed: {error}")
        except (Unavailable, NoImage) as error:
            self._complain(f"{error}: what passed here is not shared")

    def _ask(self, fingerprint: str, path: str) -> Result | None:
        registry, tag = self.share.registry, tag_of(fingerprint)
        try:
            text = registry.raw_manifest(path, tag)
            if doubt := self._doubt(fingerprint, path, text):
                self.say(f"`{path}:{tag}` of {registry.address} is not taken: {doubt}")
                return None
            packed = registry.small_blob(path, str(json.loads(text)["layers"][0]["digest"]))
            return result_of(_unpacked(packed), fingerprint)
        except NoImage:  # nobody's tests passed on it
            return None
        except Unavailable as error:
            self._complain(f"{error}: tests are run here instead")
            return None
        except (ValueError, KeyError, TypeError, IndexError, zlib.error, RecursionError):
            return None  # it is nobody's result

    def _doubt(self, fingerprint: str, path: str, text: bytes) -> str:
        """Why this manifest does not count as a result, "" if it does."""
        trust = self.share.trust
        if not trust.need:
            return ""
        digest = digest_of(text)
        attached = signatures.bundles(self.share.registry, path, digest)
        return trust.judge(Claimed(digest, fingerprint, self.platform(), TESTS), attached)[0]

    def _complain(self, what: str) -> None:
        if self.share.tests.bad(at_once=True):
            self.say(f"the shared registry {self.share.address} {what}")


def of(run: Run) -> SharedResults:
    """Those of a run."""
    return SharedResults(connection.of(run).share, lambda: run.local_images.snapshot().platform, run.events.say)


def tag_of(fingerprint: str) -> str:
    """Under which tag a result lies."""
    return numbered(TESTED, fingerprint)


def _unpacked(packed: bytes) -> object:
    unpack = zlib.decompressobj()
    text = unpack.decompress(packed, _LARGEST)
    if unpack.unconsumed_tail:
        raise ValueError("too large")
    return json.loads(text)
