"""Which tests passed on other machines? A result lies in the shared registry beside the image that was tested.

It is an artifact of its own, ``<repository>:test-<fingerprint>``, signed by a statement of its own kind (in-toto's of
test results): for this fingerprint, for the platform that it ran on. What is not signed as it must be counts as not
being there, and a registry that fails is said once and not asked again in that run.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from typing import Any

from doit_images.ci.results.result import Result, result_of
from doit_images.core.base import oci
from doit_images.core.base.references import TESTED, digest_of, numbered
from doit_images.core.base.timestamps import utc
from doit_images.core.run import Run
from doit_images.share import connection, referrers, signatures
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.signing import TESTS, NotSigned
from doit_images.share.trusted import Claimed

KIND = "application/vnd.doit-images.test.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = f"{KIND}+zlib"
_LARGEST = 20_000_000  # bytes of a result when it is unpacked
_AT_ONCE = 16


class _Failed:
    """Whether the registry failed in this run: from then on the lock is taken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def look(run: Run, wanted: Mapping[str, str]) -> dict[str, Result]:
    """What the shared registry has for these fingerprints, each with the repository to look in; asked side by side."""
    if not (wanted and run.settings.cache_registry and connection.of(run).share.reads):
        return {}
    if run.kept(_Failed).lock.locked():
        return {}
    from concurrent.futures import ThreadPoolExecutor  # most runs have no registry

    with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
        answers = pool.map(lambda pair: _ask(run, *pair), wanted.items())
        return {result.fingerprint: result for result in answers if result}


def put(run: Run, path: str, result: Result, content: Mapping[str, object] | None) -> None:
    """Let other machines have what is kept of a result, where there is a registry that this one may push to; None takes
    the place of one that counts no more, for registries need not let anybody delete."""
    if not run.settings.cache_registry or run.kept(_Failed).lock.locked():
        return
    share, tag = connection.of(run).share, tag_of(result.fingerprint)
    if not share.writes_of(TESTS):
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
            claimed = Claimed(digest_of(text), result.fingerprint, run.local_images.snapshot().platform, TESTS)
            said: dict[str, object] = {"result": "PASSED" if content else "FAILED", "configuration": []}
            bundle = share.trust.sign_claimed(claimed, said)
            signatures.give(registry, path, claimed.digest, bundle, TESTS)
    except NotSigned as error:
        run.events.say(f"that {result.name} passed could not be signed: {error}")
    except (Unavailable, NoImage) as error:
        _complain(run, f"{error}: what passed here is not shared")


def tag_of(fingerprint: str) -> str:
    """Under which tag a result lies."""
    return numbered(TESTED, fingerprint)


def _ask(run: Run, fingerprint: str, path: str) -> Result | None:
    registry, tag = connection.of(run).share.registry, tag_of(fingerprint)
    try:
        text = registry.raw_manifest(path, tag)
        if doubt := _doubt(run, fingerprint, path, text):
            run.events.say(f"`{path}:{tag}` of {registry.address} is not taken: {doubt}")
            return None
        packed = registry.small_blob(path, str(json.loads(text)["layers"][0]["digest"]))
        return result_of(_unpacked(packed), fingerprint)
    except NoImage:  # nobody's tests passed on it
        return None
    except Unavailable as error:
        _complain(run, f"{error}: tests are run here instead")
        return None
    except (ValueError, KeyError, TypeError, IndexError, zlib.error, RecursionError):
        return None  # it is nobody's result


def _doubt(run: Run, fingerprint: str, path: str, text: bytes) -> str:
    """Why this manifest does not count as a result, "" if it does."""
    trust = connection.of(run).share.trust
    if not trust.need:
        return ""
    digest = digest_of(text)
    attached = signatures.bundles(connection.of(run).share.registry, path, digest)
    return trust.judge(Claimed(digest, fingerprint, run.local_images.snapshot().platform, TESTS), attached)[0]


def _unpacked(packed: bytes) -> object:
    unpack = zlib.decompressobj()
    text = unpack.decompress(packed, _LARGEST)
    if unpack.unconsumed_tail:
        raise ValueError("too large")
    return json.loads(text)


def _complain(run: Run, what: str) -> None:
    if run.kept(_Failed).lock.acquire(blocking=False):
        run.events.say(f"the shared registry {run.settings.cache_registry} {what}")
