"""Why did a build fail, said to people?

``explain`` makes the block that is read when an image could not be built: the step, its line in the Dockerfile
with the neighbours, the exit status, what the step printed last, a hint where the cause is known, and where
the whole log is. Pure: it reads what BuildKit said and looks nowhere else.
"""

from __future__ import annotations

import re
from pathlib import Path

from doit_images.core.base.errors import nearest
from doit_images.core.base.formatting import clean, cut, seconds_text
from doit_images.core.buildkit.progress import Progress, Vertex
from doit_images.core.compose.image import Image

LAST_LINES = 15
"""How many of its last lines are shown of the step that failed."""

_NEIGHBOURS = 2
_EVIDENCE_LINES = 60
_LONGEST = 40  # of a statement over many lines, only so many are shown
_LINE = 1000  # characters of a line in which a cause is looked for: some patterns take the square of its length

_EXCERPT = re.compile(r"^(?P<file>\S.*):(?P<line>\d+)\n-{5,}\n(?P<body>(?:.*\n)*?)-{5,}$", re.MULTILINE)
_MARKED = re.compile(r"^\s*(\d+) \| >>>", re.MULTILINE)
_PARSE_ERROR = re.compile(r"parse error on line (\d+)")
_EXIT = re.compile(r"exit code: (\d+)")
_ERROR = re.compile(r"^(?:ERROR|error): (.*)$", re.MULTILINE)

_MISSING_IMAGE = re.compile(r"(?<!\S)([\w.-]+): failed to resolve source metadata")
_STAGE = re.compile(r"^\s*FROM\s.*\sAS\s+(\S+)", re.MULTILINE | re.IGNORECASE)

_DENIED = re.compile(r"(?:granting|unknown) entitlement (\S+)")

_SIGNALS = {137: "killed, signal 9", 139: "crashed, signal 11", 143: "stopped, signal 15"}

# The first that matches is the hint, so the particular comes before the general; {0} is what the pattern caught.
_HINTS = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (r"no space left on device|disk quota exceeded",
         "the disk is full: `doit cache_stats` shows what the caches hold, `doit cache_prune` frees it"),
        (r"cannot connect to the docker daemon|error during connect|is the docker daemon running",
         "the engine does not answer: `doit doctor` says why"),
        (r"permission denied while trying to connect to the docker daemon",
         "this user may not use the engine: join the group `docker`, or set DOCKER_HOST to an engine you may use"),
        (r"\"https?://([^/\"]+)/v2/[^\n]*x509: ",
         "the builder does not trust the certificate of this registry (`{0}`): put its authority into "
         "/etc/docker/certs.d/<registry>/ca.crt, or into the buildkitd.toml of a dedicated builder"),
        (r"certificate verify failed|x509: certificate|certificate_verify_failed|self[- ]signed certificate"
         r"|unable to get (?:local )?issuer cert|SSL certificate problem|SELF_SIGNED_CERT",
         "this step does not trust a certificate: set BUILD_CA_CERT to the bundle that your proxy needs, give it to "
         "this image as a secret (`file: $BUILD_CA_CERT` in the Compose file), and mount it there "
         "(`RUN --mount=type=secret,id=…`): without that it changes nothing"),
        (r"string field contains invalid UTF-8",
         "a name in the build context is not UTF-8, which this BuildKit refuses: rename it, or hide it in the ignore "
         "file (`find . | LC_ALL=C.UTF-8 grep -avx '.*'` lists such names)"),
        (r"unsupported source scheme: oci-layout",
         "buildx cannot ask a build policy about images that a dedicated builder gets as folders: set "
         "BUILDER_DRIVER=docker"),
        (r"(?:not allowed|denied) by policy|failed to evaluate policy",
         "a policy refuses this: `<Dockerfile>.rego` beside the Dockerfile, or EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"),
        (r"toomanyrequests|429 Too Many Requests",
         "the registry limits how much you may pull: `docker login`, or use a mirror"),
        # where nothing listens: see building.parents
        (r"localhost:0/v2/",
         "the engine holds this parent, but does not give it to the build: is it of the platform that is wanted, "
         "and whole? `doit rebuild` builds it again"),
        (r"(?<!\S)(\S+): failed to resolve source metadata.*(?:no such host|dial tcp|timeout|connection refused)",
         "`{0}` is not in this engine, and its registry cannot be reached: check the network or proxy, or load "
         "the image by hand (`docker load`, `docker import`)"),
        (r"pull access denied for ([^,\s]+)"
         r"|(?:^|\s)(\S+): failed to resolve source metadata.*(?:not found|pull access denied)",
         "there is no image `{0}` that you may pull: check its name and tag, or `docker login`"),
        (r"no match for platform|exec format error|does not match the specified platform",
         "the program is made for another processor: check `platforms:` and the base's platform, or install "
         "emulation (`apt-get install qemu-user-static`, or `docker run --privileged tonistiigi/binfmt --install all`; "
         "Docker Desktop has it)"),
        (r'failed to (?:calculate checksum|compute cache key).*?"/?([^"]+)": not found',
         "`{0}` is not in the build context: is the path right, seen from `context:`, and does no .dockerignore "
         "exclude it?"),
        (r"unable to start container process: waiting for init",
         "the step did not begin, for the engine could not start it: run the same command again"),
        (r"no such host|Temporary failure|Could not resolve|Name or service not known|Network is unreachable"
         r"|i/o timeout|Connection (?:refused|timed out|reset)|proxyconnect|EAI_AGAIN|ReadTimeoutError"
         r"|Unable to connect to|client error \(Connect\)",
         "the network or the name service does not answer inside the build: check proxy, DNS and VPN"),
        (r"failed to read dockerfile|could not find .*dockerfile",
         "the Dockerfile is not there: check `dockerfile:` and `context:` in the Compose file"),
        (r"target stage [\"']?([^\"'\s]+)[\"']? could not be found|no build stage named (\S+)",
         "the Dockerfile has no stage `{0}`: check `target:` in the Compose file"),
        (r"dockerfile parse error", "BuildKit cannot read this Dockerfile: `doit lint` tells all that is wrong in it"),
        (r"secret ([\w.-]+)[^\n]*not found|failed to stat [^\n]*secret",
         "a secret that a step mounts has no source: check `secrets:` in the Compose file and the environment"),
        (r"insufficient_scope|unauthorized|authentication required|denied: requested access",
         "the registry refuses: `docker login` to it"),
        (r"DO NOT MATCH THE HASHES|Hashes are required in --require-hashes",
         "a package is not the one that was locked: lock again, and look why it changed before you trust it"),
        (r"No matching distribution found for ([^\s(]+)|Could not find a version that satisfies[^\n]* ([^\s(]+) \(",
         "the index has no `{0}` for this Python and platform: check the pin, the index and the network"),
        (r"404\s+Not Found|Failed to fetch http",
         "the package lists are older than the mirror: `apt-get update` belongs into the same RUN as the install; "
         "`doit rebuild` builds without the old layer"),
        (r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate",
         "Debian has no package `{0}` in this release, or `apt-get update` is missing before the install"),
        (r"Release file for [^\n]* is (?:not valid yet|expired)",
         "the clock of this machine is wrong, or the mirror is stale"),
        (r"exit code: 137|signal: killed|Cannot allocate memory|out of memory|MemoryError|JavaScript heap",
         "memory ran out: say what large builds need (`x-build-needs`), build fewer at once, or give the engine more"),
        (r"entitlement \S+ is not allowed|network\.host is not allowed|security\.insecure is not allowed",
         "the builder does not allow this entitlement: `entitlements:` needs a builder that was made with it"),
        (r"(?<![\w./+-])([\w./+-]+): (?:command )?not found|exit code: 127",
         "a program is missing in this stage (`{0}`): install it here, or copy it from another stage"),
        (r"permission denied|EACCES|Operation not permitted|exit code: 126",
         "the step's user may not do that: look at USER, at --chown/--chmod of COPY, and at the file's mode"),
        (r"no such job|failed to get edge|rpc error: code = Unavailable|frontend grpc server closed",
         "BuildKit itself stumbled: run the same command again, what was built stays built"),
    )
)  # fmt: skip


def explain(image: Image, progress: Progress, text: str, log: Path, exit_code: int) -> str:
    """The block that people read when ``image`` could not be built: ``text`` is its Dockerfile's content, ``log`` where
    the whole log is, ``exit_code`` that of buildx."""
    step, tail = progress.failed(), progress.tail
    printed = progress.log_lines(step) if step else []
    evidence = "\n".join([_EXCERPT.sub("", tail), step.error if step else "", *printed[-_EVIDENCE_LINES:]])
    what_to_do = "; ".join(filter(None, (hint(evidence), _stage_meant(evidence, text))))
    parts = [
        [f"failed {image.name}: {_what(step, tail, exit_code)}"],
        _source(place(step, tail, text), image.dockerfile, text),
        _last_lines(printed),
        [*([f"  Hint: {what_to_do}"] if what_to_do else []), f"  Whole log: {log}"],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def denied(progress: Progress) -> str:
    """The entitlement for which the builder, or buildx, refused the whole build; "" if none."""
    found = _DENIED.search(progress.tail) if progress.failed() is None else None
    return found[1] if found else ""


def hint(evidence: str) -> str:
    """What to do about a failure whose cause is known by its words; "" when it is not.

    The command that failed is not looked at: that it mentions a cause does not make it one. Of a very long line only
    its beginning and its end are.
    """
    evidence = "\n".join(map(_shortened, evidence.splitlines()))
    for pattern, text in _HINTS:
        if match := pattern.search(evidence):
            caught = next((group for group in match.groups() if group), "")
            return text.format(caught) if caught else text.replace(" (`{0}`)", "").replace("`{0}`", "it")
    return ""


def _stage_meant(evidence: str, text: str) -> str:
    """Where an image is not there: the stage of the Dockerfile ``text`` that has nearly its name, as a setting in
    ``FROM runtime-${VARIANT}`` may be wrong; "" where there is none."""
    missing = _MISSING_IMAGE.search(evidence)
    near = nearest(missing[1], _STAGE.findall(text)) if missing else ""
    return f"or is the stage `{near}` meant?" if near else ""


def place(step: Vertex | None, tail: str, text: str) -> range:
    """Which lines (from 1) of the Dockerfile ``text`` failed: as BuildKit points at them, else where the step's words
    stand; none where that is not known."""
    lines = text.splitlines()
    if pointed := pointed_at(tail):
        return pointed
    if wrong := _PARSE_ERROR.search(tail):
        return range(int(wrong[1]), int(wrong[1]) + 1)
    words = step.text.split()[:4] if step and step.number else []
    for number, line in enumerate(lines, 1) if words else ():
        seen = line.split()[:4]
        if seen[:1] and seen[0].upper() == words[0].upper() and seen[1:3] == words[1:3]:
            return range(number, _statement_end(lines, number) + 1)
    return range(0)


def pointed_at(tail: str) -> range:
    """Which lines (from 1) of the Dockerfile BuildKit points at; none where it points at none."""
    if excerpt := _EXCERPT.search(tail):
        marked = [int(number) for number in _MARKED.findall(excerpt["body"])] or [int(excerpt["line"])]
        return range(min(marked), max(marked) + 1)
    return range(0)


def _shortened(line: str) -> str:
    begin, command, end = line.partition('process "')
    if command:
        line = begin + end.rpartition('" did not complete successfully')[2]
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 2 :]}"


def _what(step: Vertex | None, tail: str, exit_code: int) -> str:
    if step is None:
        errors = _ERROR.findall(tail)
        error = errors[-1].removeprefix("failed to solve: ") if errors else "buildx said nothing about it"
        return f"{error} (exit status {exit_code})"
    spent = f" after {seconds_text(step.seconds)}" if step.seconds >= 1 else ""
    label = cut(step.label, 90)
    if match := _EXIT.search(step.error):
        status = int(match[1])
        known = f" ({_SIGNALS[status]})" if status in _SIGNALS else ""
        return f"{label}\n  ended with exit status {status}{known}{spent}"
    return f"{label}\n  {cut(step.error, _LINE)}{spent}"


def _source(failed: range, dockerfile: str, text: str) -> list[str]:
    lines = text.splitlines()
    if not failed or failed[0] > len(lines):
        return []
    failed = failed[: _LONGEST + 1]
    width = len(str(min(failed[-1], len(lines)) + _NEIGHBOURS))
    shown = range(max(1, failed[0] - _NEIGHBOURS), min(len(lines), failed[-1] + _NEIGHBOURS) + 1)
    return [
        f"  {dockerfile or 'inline Dockerfile'}:{failed[0]}",
        *(f"  {'>' if n in failed else ' '} {n:{width}} | {clean(lines[n - 1])}".rstrip() for n in shown),
    ]


def _last_lines(printed: list[str]) -> list[str]:
    shown = [line for line in printed if line.strip()][-LAST_LINES:]
    return ["  The last lines of the step:", *(f"    {cut(line, _LINE)}" for line in shown)] if shown else []


def _statement_end(lines: list[str], number: int) -> int:
    while number < len(lines) and lines[number - 1].rstrip().endswith("\\"):
        number += 1
    return number
