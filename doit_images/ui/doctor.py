"""Is this machine able to build, and how well? ``doit doctor``."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from doit_images.core.around import LocalBase
from doit_images.core.base import checked_json, commands, lock, platforms
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.confirm import confirm
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.references import stand_in
from doit_images.core.base.settings import Settings
from doit_images.core.base.task_names import TaskNames
from doit_images.core.engine.client import Engine
from doit_images.core.inputs.copied import copied
from doit_images.core.local_images import LocalImages
from doit_images.core.planning.shared_image import SharedRef
from doit_images.core.run import Run
from doit_images.pruning import repairs
from doit_images.pruning.repairs import Repair
from doit_images.share import trusted
from doit_images.share.lease import BuildCoordinator
from doit_images.share.share import Share
from doit_images.ui import surroundings
from doit_images.ui.surroundings import Finding, Severity

_LEAST_COMPOSE = (2, 26)
_SHOWN = 3  # of what is wrong in one respect


def examine(run: Run, *, as_json: bool = False, fix: bool = False, yes: bool = False) -> None:
    """Print every finding, as a table or as JSON; ``UserError`` if one is bad. With ``fix``, first repair damage and
    remove leftovers that nobody needs, and say so on standard error. The user is asked before anything is removed,
    unless ``yes``."""
    findings = _named(run.parts.names, look(run))
    if fix and (found := [repair for finding in findings for repair in finding.repairs]):
        _repair(found, yes=yes)
        findings = _named(run.parts.names, look(run.anew()))
    if as_json:
        print(json.dumps([_as_data(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    bad = [finding.subject for finding in findings if finding.verdict == Severity.FAIL]
    if bad:
        raise UserError(f"this machine cannot build yet: {', '.join(bad)}")


def _named(names: TaskNames, findings: Iterable[Finding]) -> list[Finding]:
    """With the tasks called as they are here."""
    return [replace(finding, remedy=names.in_text(finding.remedy)) for finding in findings]


def _repair(found: Sequence[Repair], *, yes: bool) -> None:
    for repair in found:
        print(repair.what, file=sys.stderr)
    if not yes and any(repair.removes for repair in found):
        confirm()
    for repair in found:
        try:
            repair.do()
        except (UserError, OSError) as error:
            why = os_reason(error) if isinstance(error, OSError) else str(error)
            print(f"not done: {repair.what}: {why}", file=sys.stderr)


def _as_data(finding: Finding) -> dict[str, object]:
    names = ("subject", "verdict", "detail", "remedy")
    return {**{name: getattr(finding, name) for name in names}, "fixes": [repair.what for repair in finding.repairs]}


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        remedy = f" — {finding.remedy}" if finding.remedy else ""
        print(f"{finding.verdict:5}{finding.subject:{width}}  {finding.detail}{remedy}")


def look(run: Run) -> Iterator[Finding]:
    """Look at the tools, the engine, the disk, the settings and the project, at what runs keep and left, and at what
    machines share, in this order."""
    from doit_images.core.buildkit import buildx

    yield Finding("python", Severity.OK, sys.version.split()[0])
    yield _tool("buildx", buildx.LEAST, "install docker-buildx")
    yield _tool("compose", _LEAST_COMPOSE, "install docker-compose (v2)")
    yield from _engine(run)
    yield from surroundings.look(run)
    yield _settings(run)
    yield _project(run)
    yield from _ignored(run)
    yield from _platforms(run)
    yield from _kept(run)
    yield from _shared(run.settings)


def _kept(run: Run) -> Iterator[Finding]:
    """What runs remember, and what killed ones left."""
    common = run.common
    if whose := repairs.unusable(common):
        remedy = checked_json.remedy(common, PermissionError(errno.EACCES, whose))
        yield Finding(OWN_FOLDER, Severity.WARN, whose, remedy)
    else:
        yield Finding(OWN_FOLDER, Severity.OK, f"{common} may be written")
    yield _repairs("what runs remember", "undamaged", repairs.damaged(common))
    yield _repairs("killed runs", "left nothing", repairs.left_over(common))
    try:
        names = [*repairs.names(run.engine, run.local_images.snapshot().by_name)]
    except UserError:  # told already
        names = []
    yield _repairs("temporary names", "none is left over", names)
    yield _repairs("locks", "none is left over", repairs.locks(lock.for_everybody()))


def _repairs(subject: str, sound: str, found: Iterable[Repair]) -> Finding:
    """What is wrong in one respect, with its repairs."""
    repairs = tuple(found)
    if not repairs:
        return Finding(subject, Severity.OK, sound)
    wrong = [repair.wrong for repair in repairs[:_SHOWN]]
    if len(repairs) > _SHOWN:
        wrong.append(f"and {len(repairs) - _SHOWN} more")
    return Finding(subject, Severity.WARN, "; ".join(wrong), "doit doctor --fix", repairs)


def _shared(settings: Settings) -> Iterator[Finding]:
    """Whether the registry and the Redis answer that machines share their work through."""
    said = list[str]()
    if settings.cache_registry:
        asked = SharedRef("doctor", "0" * 64, "linux/amd64")  # whether it is there is all the same
        Share(settings.cache_registry, write=False, say=said.append).look({"": asked})
        yield from _trust(settings)
        yield _reached("shared registry", settings.cache_registry, said, "see CACHE_REGISTRY and `docker login`")
    if settings.redis_url:
        said = []
        BuildCoordinator(settings.redis_url, said.append).index.lookup(["0"])
        yield _reached("redis", "the one of REDIS_URL", said, "see REDIS_URL")


def _trust(settings: Settings) -> Iterator[Finding]:
    """Whose shared results are taken, whether this machine's are, and whose soon are no more."""
    try:
        trust = trusted.of(settings)
        unsigned = settings.cache_write and trust.cannot_sign
    except UserError as error:
        yield Finding("trust", Severity.FAIL, error.sentence, error.remedy)
        return
    if trust is trusted.NOBODY:
        yield Finding("trust", Severity.WARN, *trusted.undecided(settings.cache_registry))
    elif not trust.need:
        yield Finding("trust", Severity.WARN, trusted.anybody(settings.cache_registry), "doit share_key NAME")
    elif unsigned:
        yield Finding("trust", Severity.WARN, f"this machine shares nothing: {unsigned}", "doit share_key NAME")
    else:
        yield Finding("trust", Severity.OK, f"results count if {trust.need} of the listed builders signed them")
    for sentence in trust.ending():
        yield Finding("trust", Severity.WARN, sentence)


def _reached(subject: str, place: str, said: Sequence[str], remedy: str) -> Finding:
    if said:
        return Finding(subject, Severity.WARN, said[0], remedy)
    return Finding(subject, Severity.OK, f"{place} answers")


def _engine(run: Run) -> Iterator[Finding]:
    try:
        snapshot = run.local_images.snapshot()
        containerd = run.engine.uses_containerd_store()
    except UserError as error:
        yield Finding("engine", Severity.FAIL, error.sentence, error.remedy)
        return
    yield Finding("engine", Severity.OK, f"answers at {run.engine.address}, {snapshot.platform}")
    if containerd:
        yield Finding("image store", Severity.OK, "containerd's: every kind of cache can be exported")
    else:
        remedy = 'set {"features": {"containerd-snapshotter": true}} in daemon.json for the others'
        yield Finding("image store", Severity.WARN, "the classic one: caches can be exported inline only", remedy)
    if run.own_base:
        yield _base(run.settings, run.engine, run.local_images, run.own_base)


def _base(settings: Settings, engine: Engine, local_images: LocalImages, base: LocalBase) -> Finding:
    """Whether the base is here, and by its name only if it is what has that name elsewhere."""
    ref, found = settings.base_image, base.held()
    if found is None or not base.counts(found[1]):
        return Finding("base image", Severity.OK, f"{ref} will be pulled, or made from Debian's packages")
    name, local_image = found
    if not base.made_here(local_image):
        return Finding("base image", Severity.OK, f"{ref} is in the engine")
    if name != ref:
        return Finding("base image", Severity.OK, f"{name}, made from Debian's packages, stands in for {ref}")
    own = stand_in(ref, local_images.snapshot().platform)

    def rename() -> None:
        engine.tag(local_image.id, own)
        engine.untag(ref)

    wrong = f"{ref} was made from Debian's packages, and all other projects on this engine build on it"
    repair = Repair(wrong, f"{ref} is called {own}", rename, removes=False)
    return Finding("base image", Severity.WARN, wrong, "doit doctor --fix", (repair,))


def _settings(run: Run) -> Finding:
    try:
        trusted = _authorities(run)
    except UserError as error:
        return Finding("settings", Severity.FAIL, str(error))
    return Finding("settings", Severity.OK, f"{run.settings.build_jobs} builds at once; {trusted}")


def _authorities(run: Run) -> str:
    """Which certificates builds trust. Raises ``UserError`` for a bundle that is not there."""
    bundle = run.environ.get("BUILD_CA_CERT", "")
    with contextlib.suppress(UserError):  # a project that cannot be read is told by itself
        secrets = (secret for image in run.project.images.values() for secret in image.secrets)
        if bundle and any(secret.file == bundle or secret.environment == "BUILD_CA_CERT" for secret in secrets):
            return f"steps that mount it trust {bundle}"
    return "no image gets BUILD_CA_CERT as a secret: builds trust what their bases do"


def _project(run: Run) -> Finding:
    try:
        found = {inputs.name: inputs.problem or inputs.private for inputs in run.planner.declared().values()}
        problems = [f"{name}: {problem}" for name, problem in found.items() if problem]
    except UserError as error:
        return Finding("project", Severity.FAIL, str(error))
    if problems:
        return Finding("project", Severity.FAIL, "; ".join(problems))
    return Finding("project", Severity.OK, f"{run.project.name}: {len(run.project.images)} images")


def _ignored(run: Run) -> Iterator[Finding]:
    """Whether images copy what should be in none."""
    try:
        every = copied(run.planner.declared().values(), trusted.own_files(run.settings))
    except UserError:  # told already
        return
    for one in every:
        yield Finding("ignore files", Severity.WARN, str(one), one.remedy)
    if not every:
        yield Finding("ignore files", Severity.OK, "no image copies .env, the list of trusted builders or the key")


def _platforms(run: Run) -> Iterator[Finding]:
    """Whether the builder runs programs for all the platforms that images are built for, where any are declared."""
    try:
        needed = {platform for inputs in run.planner.declared().values() for platform in inputs.platforms}
        foreign = {
            platform for platform in needed if not platforms.serves(run.local_images.snapshot().platform, platform)
        }
    except UserError:  # told already
        return
    if not foreign:
        return
    from doit_images.core.buildkit import builder

    able = builder.runs(run.settings, run.environ)
    missing = sorted(platform for platform in foreign if not any(platforms.serves(one, platform) for one in able))
    if missing:
        remedy = "apt-get install qemu-user-static, or a node for it in BUILDER_ENDPOINTS"
        detail = f"the builder runs no programs for {', '.join(missing)}: a RUN there will fail"
        yield Finding("platforms", Severity.WARN, detail, remedy)
    else:
        yield Finding("platforms", Severity.OK, f"the builder runs {', '.join(sorted(needed))}")


def _tool(name: str, least: tuple[int, int], remedy: str) -> Finding:
    output = commands.answer(["docker", name, "version"])
    version = re.search(r"v?(\d+)\.(\d+)", output)
    if not version:
        return Finding(name, Severity.FAIL, output or "is not installed", remedy)
    if (int(version[1]), int(version[2])) < least:
        return Finding(name, Severity.FAIL, f"{version[0]} is older than {least[0]}.{least[1]}", remedy)
    return Finding(name, Severity.OK, output.splitlines()[0])
