"""A secret that is to count makes another image where it has another value, for us and for BuildKit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import Lab, docker, printed

FILES = {
    "compose.yml": """
        services:
          web: {image: PREFIX/web, build: {context: web, secrets: [token, file]}}
          other: {image: PREFIX/other, build: {context: other, secrets: [token]}}
        secrets: {token: {environment: PASS_HERE}, file: {file: secret.txt}}
        x-counted-secrets: [token, file]
        """,
    "web/Dockerfile": """
        FROM tst-busybox:1 AS first
        ARG SECRET_DIGEST_token
        RUN --mount=type=secret,id=token md5sum /run/secrets/token > /token
        FROM tst-busybox:1
        ARG SECRET_DIGEST_file
        RUN --mount=type=secret,id=file md5sum /run/secrets/file > /file
        COPY --from=first /token /
        """,
    "other/Dockerfile": "FROM tst-busybox:1\nRUN echo PREFIX\n",
    "secret.txt": "in a file",
}
ONE, TWO = "hunter-one", "hunter-two"


@pytest.fixture
def project(lab: Lab, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab.write(FILES)
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(f"the key of {lab.prefix}\n")
    lab.environ |= {"SECRETS_KEY": str(key), "PASS_HERE": ONE}
    lab.build()
    return lab


def seen(lab: Lab, name: str) -> str:
    return printed(lab.ref("web"), "cat", f"/{name}").split()[0]


def digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.mark.engine
def test_another_value_is_another_image_and_the_former_one_comes_back(project: Lab) -> None:
    assert seen(project, "token") == digest(ONE)
    assert set(project.actions().values()) == {"fresh"}
    project.environ["PASS_HERE"] = TWO
    plan = project.plan()
    assert {name: one["action"] for name, one in plan.items()} == {"web": "build", "other": "fresh"}
    assert plan["web"]["reasons"] == ["arg `SECRET_DIGEST_token` changed"]
    assert project.build() == {"web": "built"}
    assert seen(project, "token") == digest(TWO), "BuildKit ran the step again"
    (project.folder / "secret.txt").write_text("another")
    assert project.build() == {"web": "built"}
    assert (seen(project, "file"), seen(project, "token")) == (digest("another"), digest(TWO))
    project.environ["PASS_HERE"] = ONE
    (project.folder / "secret.txt").write_text("in a file")
    assert project.build() == {"web": "retagged"}
    assert seen(project, "token") == digest(ONE)
    Path(project.environ["SECRETS_KEY"]).write_text("another key, which is long enough\n")
    assert project.actions()["web"] == "build"


@pytest.mark.engine
def test_its_value_is_nowhere(project: Lab) -> None:
    said = docker("history", "--no-trunc", project.ref("web")).stdout + docker("inspect", project.ref("web")).stdout
    kept = [path for path in (project.folder / ".doit-images").rglob("*") if path.is_file()]
    assert ONE not in said
    assert not [path for path in kept if ONE.encode() in path.read_bytes()]
    assert hashlib.sha256(ONE.encode()).hexdigest() not in said, "nobody can try out passwords without the key"


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "the secret token counts, and there is no key by which (SECRETS_KEY names a file of at least 16"),
        ("short", "the key by which secrets count is too short (SECRETS_KEY names"),
        (None, "the key by which secrets count cannot be read: No such file or directory"),
    ],
)
@pytest.mark.engine
def test_without_a_key_none_counts(lab: Lab, tmp_path: Path, key: str | None, sentence: str) -> None:
    lab.write(FILES)
    if key:
        (tmp_path / "key").write_text(key)
    done = lab.doit("plan", SECRETS_KEY=str(tmp_path / "key") if key != "" else "", PASS_HERE=ONE)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.engine
def test_a_step_that_would_come_from_the_cache_is_refused(project: Lab) -> None:
    text = (project.folder / "web/Dockerfile").read_text()
    for edited in (text.replace("ARG SECRET_DIGEST_file\n", ""), f"ARG SECRET_DIGEST_file\n{text}".replace(
        "1\nARG SECRET_DIGEST_file\n", "1\n"
    )):  # fmt: skip
        (project.folder / "web/Dockerfile").write_text(edited)
        (why,) = project.plan()["web"]["reasons"]
        assert "the secret file counts, and BuildKit would take this step from its cache all the same" in why
        assert "(ARG SECRET_DIGEST_file above it, in this stage)" in why
