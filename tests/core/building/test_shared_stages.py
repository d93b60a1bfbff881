"""Images that share a stage, on a base that the builder reads for the first time."""

from __future__ import annotations

import pytest

from tests.conftest import Lab, docker


@pytest.mark.engine
def test_images_that_share_a_stage_make_it_once_beside_a_build_on_the_same_base(lab: Lab, busybox: str) -> None:
    """BuildKit that reads a base for the first time in several builds at once makes it twice (moby/buildkit#6954)."""
    # A base that this engine never read: the stages on it cannot be in its cache.
    (lab.folder / "new").mkdir()
    new = f"{lab.prefix}/new:1"
    (lab.folder / "new/Dockerfile").write_text(f"FROM {busybox}\nRUN echo {lab.prefix} > /new\n")
    docker("build", "--quiet", "--tag", new, str(lab.folder / "new"))
    shared = f"FROM {new} AS shared\nRUN sleep 1; head -c 9 /dev/urandom > /shared\n"
    copied = "COPY --from=shared /shared /shared\n"
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  long: {image: PREFIX/long, build: {context: long}}
                  base: {image: PREFIX/base, build: {context: base}}
                  app: {image: PREFIX/app, build: {context: app, additional_contexts: {base: "service:base"}}}
                """,
            "long/Dockerfile": f"FROM {new}\nRUN sleep 6\n",
            "base/Dockerfile": f"{shared}FROM tst-busybox:1\n{copied}",
            "app/Dockerfile": f"{shared}FROM base\nCOPY --from=shared /shared /again\n",
        }
    )
    lab.environ["BUILD_JOBS"] = "2"
    assert lab.build() == {"long": "built", "base": "built", "app": "built"}
    assert docker("run", "--rm", lab.ref("app"), "cmp", "/shared", "/again").returncode == 0
