"""Another processor's images, for real: their steps run under emulation, and their containers become healthy."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tasks.engine.client import host_platform
from tests.conftest import Lab, docker

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


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """Debian's busybox for arm64."""
    if host_platform() != "linux/amd64" or not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        pytest.skip("no program for arm64 is emulated here: apt-get install qemu-user-static")
    if not shutil.which("mmdebstrap") or not shutil.which("arch-test"):
        pytest.skip("there is no mmdebstrap: apt-get install mmdebstrap arch-test")
    tar = tmp_path / "busybox.tar"
    argv = ["mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract", "--include=busybox-static"]
    done = subprocess.run([*argv, "trixie", str(tar)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tar) as archive:
        archive.extract("./usr/bin/busybox", tmp_path, filter="data")
    return tmp_path / "usr/bin/busybox"


@pytest.mark.engine
def test_an_image_for_another_processor_is_built_and_runs(lab: Lab, busybox: Path) -> None:
    lab.write(FILES)
    shutil.copy(busybox, lab.folder / "busybox")
    lab.environ["PLATFORMS"] = "linux/arm64"
    assert lab.build() == {"app": "built"}
    assert lab.actions() == {"app": "fresh"}
    started = docker("run", "--detach", "--rm", "--platform", "linux/arm64", lab.ref("app"))
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        assert docker("exec", container, "/bin/busybox", "cat", "/machine").stdout == "aarch64\n"
        until = time.monotonic() + 60
        while (state := docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout) != "healthy\n":
            assert time.monotonic() < until, state
            time.sleep(0.2)
    finally:
        docker("rm", "--force", container)
