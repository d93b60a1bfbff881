"""Are images that machines of each kind build published as one, for all of these platforms?"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.temporary_engine import temporary_engine
from doit_images.core.base.settings import Settings
from doit_images.share import signatures, trusted
from doit_images.share.registry import Registry
from doit_images.share.signing import claim_of
from tests import loopback
from tests.ci.test_release import git
from tests.conftest import Lab
from tests.core.building import test_emulated

FILES = {
    "compose.yml": """
        services:
          base: {image: PREFIX/base, scale: 0, build: base}
          web: {image: PREFIX/web, build: {context: web, additional_contexts: {base: "service:base"}}}
        x-test: {web: {command: [/bin/busybox, test, -s, /machine]}}
        """,
    "base/Dockerfile": """
        FROM scratch
        ARG TARGETARCH
        COPY busybox-$TARGETARCH /bin/busybox
        RUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /machine"]
        """,
    "web/Dockerfile": 'FROM base\nCOPY web.txt /\nCMD ["/bin/busybox", "cat", "/machine", "/web.txt"]\n',
    "web/web.txt": "PREFIX\n",
}
PLATFORMS = ("linux/amd64", "linux/arm64")
emulation, arm64_busybox = test_emulated.emulation, test_emulated.arm64_busybox


def job(lab: Lab, one: Mapping[str, str], machine: Mapping[str, str]) -> None:
    """What the workflow runs for a job of the matrix, on a machine of its kind."""
    own = {**machine, "PLATFORMS": one["platform"]}
    for words in ([f"build_optimized:{one['image']}"], *([f"test_image:{test}"] for test in one["tests"].split())):
        done = lab.doit(*words, **own)
        assert done.returncode == 0, done.stderr


@pytest.mark.engine
@pytest.mark.all
def test_each_platform_is_built_by_its_machine_and_the_last_job_joins_them(
    lab: Lab,
    arm64_busybox: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    aside = tmp_path_factory.mktemp("aside")
    lab.write(FILES)
    shutil.copy("/bin/busybox", lab.folder / "base/busybox-amd64")
    shutil.copy(arm64_busybox, lab.folder / "base/busybox-arm64")
    (lab.folder / ".gitignore").write_text("/usr\n*.tar\n")
    for step in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        git(lab.folder, *step)
    with (
        temporary_engine("tst-native-", in_memory=True) as arm,
        loopback.registry(aside / "team") as team,
        loopback.registry(aside / "public") as public,
    ):
        listed = str(aside / "builders.toml")
        lab.environ |= {"CACHE_REGISTRY": team.address, "SHARE_BUILDERS": listed}
        machines: dict[str, dict[str, str]] = {}
        for platform, name in zip(PLATFORMS, ("intel", "arm"), strict=True):
            assert lab.doit("share_key", name, str(aside / name)).returncode == 0
            machines[platform] = {"SHARE_KEY": str(aside / name), "XDG_STATE_HOME": str(aside / f"state-{name}")}
        machines[PLATFORMS[1]] |= {key: arm.environ[key] for key in ("DOCKER_HOST", "DOCKER_CONTEXT")}
        both = {**machines[PLATFORMS[0]], "PLATFORMS": ",".join(PLATFORMS)}
        matrix = json.loads(lab.doit("plan", "--at", "HEAD", "--matrix", **both).stdout)["include"]
        assert [(one["image"], one["platform"]) for one in matrix] == [("web", platform) for platform in PLATFORMS]
        words = ("publish", "--registry", public.address, "--tag", "v1.0.0", "--tag", "@sha", "--json")
        job(lab, matrix[0], machines[PLATFORMS[0]])
        early = lab.doit(*words, **both)
        assert early.returncode == 1
        assert "web has no digest: " in early.stderr
        shutil.rmtree(lab.folder / ".doit-images")  # the next is another machine
        job(lab, matrix[1], machines[PLATFORMS[1]])
        shutil.rmtree(lab.folder / ".doit-images")
        done = lab.doit(*words, **both)
        assert done.returncode == 0, done.stderr
        assert "whether tests passed on linux/arm64 is known on such a machine alone" in done.stderr
        named = {one["name"]: one["digest"] for one in json.loads(done.stdout)}
        sha = git(lab.folder, "rev-parse", "HEAD")[:12]
        path = f"{lab.prefix}/web"
        assert named.keys() == {f"{public.address}/{path}:{tag}" for tag in ("v1.0.0", sha)}
        (digest,) = set(named.values())
        there, shared = Registry(public.address), Registry(team.address)
        index = json.loads(there.raw_manifest(path, "v1.0.0"))
        results = {held.digest for tag in shared.tags(path) if tag.startswith("in-")
                   for one in PLATFORMS if (held := shared.image(path, tag, one))}  # fmt: skip
        assert {one["digest"] for one in index["manifests"]} == results
        assert len(results) == 2
        # Who joined it signed that; who built a part, that.
        trust = trusted.of(Settings(share_builders=listed))
        by_name = {each.name: each for each in trust._builders}
        for name, of in (
            ("intel", digest),
            ("intel", index["manifests"][0]["digest"]),
            ("arm", index["manifests"][1]["digest"]),
        ):
            (bundle,) = signatures.bundles(there, path, of)
            claim = claim_of(bundle, by_name[name].key)
            assert (claim.digest, claim.builder) == (of, name)
        for platform, machine in zip(PLATFORMS, ("x86_64", "aarch64"), strict=True):
            ref = f"{public.address}/{path}:v1.0.0"
            argv = ["docker", "run", "--rm", "--pull=always", "--quiet", "--platform", platform, ref]
            ran = subprocess.run(argv, env=arm.environ, capture_output=True, text=True)
            assert ran.stdout == f"{machine}\n{lab.prefix}\n", ran.stderr
        assert json.loads(lab.doit(*words, **both).stdout) == json.loads(done.stdout), "once more is the same"
