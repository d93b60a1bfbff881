"""Another processor's images, for real: their steps run under emulation, and their containers become healthy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.core.engine.client import host_platform
from tests.conftest import Lab, docker
from tests.waiting import until

FILES = {
    "compose.yml": "services: {app: {image: PREFIX/app, build: .}}\n",
    "Dockerfile": """
    FROM scratch
    COPY busybox /bin/
    RUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /machine"]
    HEALTHCHECK --interval=1s CMD ["/bin/busybox", "test", "-s", "/machine"]
    CMD ["/bin/busybox", "sleep", "60"]
    """,
}


# The kernel's list of what runs other processors' programs, and what Debian's package would have in it.
KERNEL = Path("/proc/sys/fs/binfmt_misc")
REGISTRATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


@pytest.fixture
def emulation() -> Iterator[None]:
    """Programs for arm64 run here. Where no systemd registered the installed emulator, as docs/images.md says it."""
    if host_platform() != "linux/amd64":
        pytest.skip("arm64 is asked for as another processor than amd64")
    if (KERNEL / "qemu-aarch64").exists():
        yield
        return
    if not REGISTRATION.exists() or os.geteuid() != 0:
        pytest.skip("no program for arm64 is emulated here: apt-get install qemu-user-static")
    if not (KERNEL / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(KERNEL)], check=True)
    (KERNEL / "register").write_bytes(REGISTRATION.read_bytes())
    yield
    (KERNEL / "qemu-aarch64").write_text("-1")


@pytest.fixture
def arm64_busybox(emulation: None, tmp_path: Path) -> Path:
    """Debian's busybox for arm64."""
    if not shutil.which("mmdebstrap") or not shutil.which("arch-test"):
        pytest.skip("there is no mmdebstrap: apt-get install mmdebstrap arch-test")
    tar = tmp_path / "busybox.tar"
    argv = ["mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract", "--include=busybox-static"]
    done = subprocess.run([*argv, "trixie", str(tar)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tar) as archive:
        archive.extract("./usr/bin/busybox", tmp_path, filter="data")
    return tmp_path / "usr/bin/busybox"


@pytest.mark.engine
@pytest.mark.all
def test_an_image_for_another_processor_is_built_and_runs(lab: Lab, arm64_busybox: Path) -> None:
    lab.write(FILES)
    shutil.copy(arm64_busybox, lab.folder / "busybox")
    lab.environ["PLATFORMS"] = "linux/arm64"
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"app": "fresh"}
    started = docker("run", "--detach", "--rm", "--platform", "linux/arm64", lab.ref("app"))
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        assert docker("exec", container, "/bin/busybox", "cat", "/machine").stdout == "aarch64\n"
        health = ("inspect", "--format", "{{.State.Health.Status}}", container)
        until(lambda: docker(*health).stdout == "healthy\n")
    finally:
        docker("rm", "--force", "--volumes", container)
