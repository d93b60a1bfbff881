"""How is a build told what no command line can hold?

Linux takes no word of more than 128 KiB, in arguments and environments alike, so an argument or a label of that size
reaches ``docker buildx build`` by no way. ``docker buildx bake`` reads its definition from standard input, and builds
the same from it. What older ones pass over in silence (``bake.untold``) is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import bake, buildx

_LONGEST = 32 * 4096 - 1  # MAX_ARG_STRLEN, with the NUL at its end
_LONGEST_LINE = 1 << 20  # of 2 MiB that the environment is in too
_TARGET = "built"
_TEXTS = {"--file": "dockerfile", "--target": "target", "--network": "network", "--shm-size": "shm-size"}
_LISTS = {
    "--tag": "tags", "--secret": "secret", "--ssh": "ssh", "--ulimit": "ulimits", "--allow": "entitlements",
    "--no-cache-filter": "no-cache-filter", "--cache-from": "cache-from", "--cache-to": "cache-to",
    "--output": "output", "--platform": "platforms", "--add-host": "extra-hosts",
}  # fmt: skip
_PAIRS = {"--build-arg": "args", "--build-context": "contexts", "--label": "labels"}


def fitting(
    argv: Sequence[str], stdin: bytes | None, environ: Mapping[str, str], folder: Path
) -> tuple[list[str], bytes | IO[bytes] | None]:
    """The command line of ``docker buildx build`` and its standard input, as they are where the system takes that
    line, else those of a ``docker buildx bake``, to be run in ``folder``, that builds the same; the file of the id then
    holds what ``digests`` reads. ``UserError`` where the buildx that is here cannot."""
    sizes = [len(os.fsencode(word)) for word in argv]
    if max(sizes) <= _LONGEST and sum(sizes) <= _LONGEST_LINE:
        return list(argv), stdin
    target, options = _read(argv, environ)
    if target.get("dockerfile") == "-":
        del target["dockerfile"]
        target["dockerfile-inline"] = (stdin or b"").decode(errors="surrogateescape")
    content = {"target": {_TARGET: {key: bake.plain(value) for key, value in target.items()}}}
    version = buildx.version()
    if lost := bake.unknown(target, version):
        raise UserError(f"buildx is too old to be told {', '.join(lost)} and an argument of that size")
    allowed = bake.allowances(content, folder) if buildx.is_at_least(version, bake.ASKS_SINCE) else []
    # Without a name: it may hold secrets, and is written into no log of commands.
    definition = tempfile.TemporaryFile()  # noqa: SIM115  closed with the last reference, the command has its own
    definition.write(json.dumps(content).encode(errors="surrogateescape"))
    definition.seek(0)
    return ["docker", "buildx", "bake", "--file", "-", *allowed, *options, _TARGET], definition


def digests(text: str) -> dict[str, str]:
    """What buildx says of a result, as JSON, by names such as ``containerimage.digest``."""
    content = json.loads(text)
    return dict(content.get(_TARGET, content))


def image_id(text: str) -> str:
    """What the file of the id says: buildx takes the configuration's digest for the id, where there is one."""
    if not text.startswith("{"):
        return text.strip()
    found = digests(text)
    return found.get("containerimage.config.digest") or found["containerimage.digest"]


def _read(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The target that ``buildx.build_argv`` describes, and the options that bake has too."""
    target: dict[str, Any] = {"context": argv[-1]}
    options: dict[str, str] = {}
    words = iter(argv[3:-1])
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--no-cache":
            target["no-cache"] = True
            continue
        value = value if equals else next(words)
        if name in _PAIRS:
            pairs = target.setdefault(_PAIRS[name], {})
            key, given, text = value.partition("=")
            if given or key in environ:
                pairs[key] = text if given else environ[key]
        elif name in _TEXTS:
            target[_TEXTS[name]] = value
        elif name in _LISTS:
            target.setdefault(_LISTS[name], []).append(value)
        elif name in ("--provenance", "--sbom"):
            target.setdefault("attest", []).append(bake.attestation(name[2:], value))
        else:
            options["--metadata-file" if name == "--iidfile" else name] = value
    if "extra-hosts" in target:
        target["extra-hosts"] = bake.hosts(target["extra-hosts"])
    if "platforms" in target:
        target["platforms"] = [platform for each in target["platforms"] for platform in each.split(",")]
    return target, [f"{name}={value}" for name, value in options.items()]
