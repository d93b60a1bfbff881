"""Where is BuildKit's cache kept besides the builder itself?

Which backend it is, and its arguments ``--cache-from`` and ``--cache-to``.

One reference for each image, because builds that write one reference overwrite each other, and one for each branch,
so that a branch never takes the cache away from the main one; what a branch has not built is read from the main
branch. ``mode=max`` keeps the builder stages too, which are what takes the time. Layers are compressed with zstd: it
unpacks several times faster than gzip at about the same size. ``ignore-error`` because a cache that cannot be written
is no reason to lose a build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.forks import fork
from doit_images.core.base.settings import CacheBackend, Settings
from doit_images.core.buildkit.buildx import one_line

_SECRET_KEYS = ("access_key_id", "secret_access_key", "session_token", "token")
_MAX = ("mode=max", "ignore-error=true")
_ZSTD = "compression=zstd"
# Where build machines keep the branch: they check out a commit, so git does not know it.
_BRANCHES = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BUILDKITE_BRANCH", "BRANCH_NAME")


@dataclass(frozen=True)
class Backend:
    """Where caches go: ``kind`` as ``CACHE_BACKEND``, ``place`` the folder or the registry, ``options`` of s3.

    ``branch`` is written, ``main`` read where the branch has none; without ``write`` nothing is written.
    """

    kind: CacheBackend
    place: str = ""
    branch: str = "main"
    main: str = "main"
    write: bool = True
    options: tuple[str, ...] = ()


def of(
    settings: Settings, env: Mapping[str, str], directory: Path, folder: Callable[[], Path], exports: Callable[[], bool]
) -> Backend:
    """The backend of a project in this directory: ``folder`` gives that of the local cache, ``exports`` asks whether
    the engine can export caches. ``UserError`` where the builder cannot do what is asked for."""
    wanted, registry = settings.cache_backend, settings.cache_registry
    # Only what could be exported makes it worth asking the engine.
    asks = wanted not in (CacheBackend.NONE, CacheBackend.INLINE) and not settings.dedicated_builder
    undecided = wanted == CacheBackend.AUTO and not registry and "ACTIONS_RUNTIME_TOKEN" not in env
    able = settings.dedicated_builder or (asks and not undecided and exports())
    kind = chosen(wanted, exports=able, registry=registry, environ=env)
    place = str(folder()) if kind == CacheBackend.LOCAL else registry
    write = settings.cache_write or kind == CacheBackend.LOCAL
    branch = main = settings.cache_main_branch
    if kind != CacheBackend.NONE:  # else git need not be asked
        branch = branch_of(directory, tuple(env.items()), settings.cache_branch) or main
    return Backend(kind, place, branch, main, write, settings.cache_s3)


@cache
def branch_of(directory: Path, environ: tuple[tuple[str, str], ...], named: str) -> str:
    """The branch that a project's caches are of: the ``named`` one, the build machine's, or git's; "" for none."""
    known = dict(environ)
    branch = named or next((known[name] for name in _BRANCHES if known.get(name)), "")
    if not branch:
        branch = commands.answer(["git", "-C", str(directory), "rev-parse", "--abbrev-ref", "HEAD"])
        branch = "" if branch == "HEAD" else branch
    stranger = fork(known)
    # No branch of git's has a colon in its name.
    return f"{stranger}:{branch}" if stranger else branch


def chosen(wanted: CacheBackend, *, exports: bool, registry: str, environ: Mapping[str, str]) -> CacheBackend:
    """The backend that ``CACHE_BACKEND`` means. ``exports`` is whether the builder can export caches at all.

    ``auto`` is what needs no decision: the registry that is there, GitHub's cache inside its Actions, else none, as
    the builder keeps its cache anyway. ``UserError`` for a backend that the builder cannot do, with what would.
    """
    if wanted == CacheBackend.AUTO:
        if registry:
            return CacheBackend.REGISTRY if exports else CacheBackend.INLINE
        return CacheBackend.GHA if exports and environ.get("ACTIONS_RUNTIME_TOKEN") else CacheBackend.NONE
    if wanted in (CacheBackend.REGISTRY, CacheBackend.INLINE) and not registry:
        raise UserError(f"CACHE_BACKEND={wanted} needs CACHE_REGISTRY")
    if wanted not in (CacheBackend.NONE, CacheBackend.INLINE) and not exports:
        raise UserError(
            f"the engine's classic image store cannot export a {wanted} cache",
            remedy='set "features": {"containerd-snapshotter": true} in the engine\'s daemon.json, use '
            "BUILDER_DRIVER=docker-container, or set CACHE_BACKEND to inline or none",
        )
    return wanted


def options(
    backend: Backend, image: str, repository: str, there: Callable[[str], bool] = lambda folder: True
) -> list[str]:
    """The cache arguments for one image; ``repository`` is its path in a registry, without a tag, and ``there`` tells
    whether a folder of the local cache exists: BuildKit warns of each import that does not."""
    branches = list(dict.fromkeys([backend.branch, backend.main]))
    names = [f"{image}-{cache_tag(branch)}" for branch in branches]
    match backend.kind:
        case CacheBackend.NONE:
            return []
        case CacheBackend.INLINE | CacheBackend.REGISTRY:
            refs = [cache_ref(backend.place, repository, branch) for branch in branches]
            imports = [one_line("type=registry", f"ref={ref}") for ref in refs]
            # An image manifest and OCI types: some registries refuse the index that BuildKit writes otherwise.
            oci = ("oci-mediatypes=true", "image-manifest=true")
            export = one_line("type=registry", f"ref={refs[0]}", *_MAX, _ZSTD, *oci)
            export = "type=inline" if backend.kind == CacheBackend.INLINE else export
        case CacheBackend.LOCAL:
            folders = [local_folder(backend.place, image, branch) for branch in branches]
            imports = [one_line("type=local", f"src={folder}") for folder in folders if there(folder)]
            export = one_line("type=local", f"dest={folders[0]}", *_MAX, _ZSTD)
        case CacheBackend.GHA:
            imports = [one_line("type=gha", f"scope={name}") for name in names]
            export = one_line("type=gha", f"scope={names[0]}", *_MAX)
        case CacheBackend.S3:
            _no_secrets(backend.options)
            imports = [one_line("type=s3", *backend.options, f"name={name}") for name in names]
            export = one_line("type=s3", *backend.options, f"name={names[0]}", *_MAX, _ZSTD)
        case kind:
            raise ValueError(f"no cache backend {kind}")
    return _each("--cache-from", imports) + _each("--cache-to", [export] if backend.write else [])


def declared(cache_from: Sequence[str], cache_to: Sequence[str], *, exports: bool) -> list[str]:
    """What ``build.cache_from`` and ``build.cache_to`` ask for; exports that the builder cannot do are left out."""
    able = [cache for cache in cache_to if exports or "type=inline" in cache]
    return _each("--cache-from", cache_from) + _each("--cache-to", able)


def local_folder(place: str, image: str, branch: str) -> str:
    """The folder of one image and branch in the local cache."""
    return f"{place}/{image}/{cache_tag(branch)}"


def cache_ref(place: str, repository: str, branch: str) -> str:
    """The reference in a registry that holds the cache of one image and branch; with ``inline`` the image itself."""
    return f"{place}/{repository}:{cache_tag(branch)}"


def cache_tag(branch: str) -> str:
    """A branch as a tag: two branches never share one, whatever their names hold.

    >>> cache_tag("main"), cache_tag("feature/x")
    ('cache-main', 'cache-feature-x..217d2b')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", branch)[:80]
    if plain == branch and branch and ".." not in branch:  # git itself allows no two dots in a name
        return f"cache-{branch}"
    return f"cache-{plain}..{hashlib.sha256(branch.encode()).hexdigest()[:6]}"


def _each(option: str, caches: Sequence[str]) -> list[str]:
    return [word for cache in caches for word in (option, cache)]


def _no_secrets(given: Sequence[str]) -> None:
    for option in given:
        key, equals, _ = option.partition("=")
        if key in _SECRET_KEYS:
            raise UserError(f"CACHE_S3 must not hold {key}", remedy="put it into AWS_… variables or ~/.aws")
        if not equals:
            raise UserError(f"CACHE_S3 holds {option!r}", remedy="options look like bucket=NAME")
    if not any(option.startswith("bucket=") for option in given):
        raise UserError("CACHE_BACKEND=s3 needs CACHE_S3", remedy="such as bucket=NAME,region=eu-central-1")
