"""The rule that puts each heavy package in a layer of its own, what it leaves alone, and the proof of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from doit_images.advise import heavy_packages, installed, proof
from doit_images.advise.rules import Rule
from doit_images.advise.steps import steps_of
from doit_images.ci.verifying.content import content_of
from doit_images.core.building import aside
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.run import Run
from tests.advise import examples
from tests.conftest import Lab

SIZES = {"torch": 300 << 20, "sci-kit": 20 << 20, "small": 9 << 20}
RULE = Rule(heavy_packages.NAME, partial(heavy_packages.patches, sizes=lambda: SIZES))
LOCK = """\
--extra-index-url https://wheels.example
small==1
torch==2 \\
    --hash=sha256:0 \\
    --hash=sha256:1
    # via something
sci_kit==3 ; python_version > "3"
"""
FILES = {
    "r.txt": LOCK,
    "more.txt": f"-r r.txt\n{LOCK}",
    "free.txt": LOCK.replace("torch==2", "torch>=2"),
    "loose.txt": LOCK.replace("small==1", "small>=1"),
    "two/r.txt": "other==1\n",
    "with.sh": "x\n",
}
JOINED = r"sed -e :a -e '/\\$/N; s/\\\n//; ta'"
ONE = (
    "WORKDIR /app\nCOPY with.sh ./\n\n# the lock\nCOPY r.txt ./\n"
    "RUN --mount=type=secret,id=a \\\n    sh with.sh pip install \\\n        -q -r r.txt\nCOPY . .\n"
)
ONE_APART = f"""\
WORKDIR /app
COPY with.sh ./

# The lines of the heavy packages: while they stay, so do their layers.
FROM heavy-base AS heavy-lock
COPY r.txt ./
RUN {JOINED} r.txt | grep -E '^(--|torch==|sci_kit==)' > /heavy.txt

# Each in a folder of its own and without times: the same layer for the same wheel.
FROM heavy-base AS heavy
COPY --from=heavy-lock /heavy.txt /
RUN --mount=type=secret,id=a \\
    for name in torch sci_kit; do \\
        grep -E "^(--|$name==)" /heavy.txt \\
        | SOURCE_DATE_EPOCH=0 sh with.sh pip install -q --no-deps --root=/heavy/$name -r /dev/stdin || exit 1; \\
    done \\
 && find /heavy -exec touch -hd @0 {{}} +

FROM heavy-base
COPY --link --from=heavy /heavy/torch/ /
COPY --link --from=heavy /heavy/sci_kit/ /
# the lock
COPY r.txt ./
RUN --mount=type=secret,id=a \\
    sh with.sh pip install \\
        -q -r r.txt
COPY . .
"""
TWO = "RUN --mount=source=r.txt,target=/r.txt uv pip install -r /r.txt\nFROM slim\n# all\nCOPY --from=builder /v /v\n"
UV_ROOT = "--prefix=\"/heavy/$name$(python3 -c 'import sys; print(sys.prefix)')\""
TWO_APART = f"""\
# The lines of the heavy packages: while they stay, so do their layers.
FROM heavy-base AS heavy-lock
RUN --mount=source=r.txt,target=/r.txt {JOINED} /r.txt | grep -E '^(--|torch==|sci_kit==)' > /heavy.txt \\
 && {JOINED} /r.txt | grep -vE '^(torch==|sci_kit==)' > /rest.txt

# Each in a folder of its own and without times: the same layer for the same wheel.
FROM heavy-base AS heavy
COPY --from=heavy-lock /heavy.txt /
RUN for name in torch sci_kit; do \\
        grep -E "^(--|$name==)" /heavy.txt \\
        | SOURCE_DATE_EPOCH=0 uv pip install --no-deps {UV_ROOT} -r /dev/stdin || exit 1; \\
    done \\
 && find /heavy -exec touch -hd @0 {{}} +

FROM heavy-base AS builder
RUN --mount=type=bind,from=heavy-lock,source=/rest.txt,target=/rest.txt \\
    uv pip install --no-deps -r /rest.txt
FROM slim
# all
COPY --link --from=heavy /heavy/torch/ /
COPY --link --from=heavy /heavy/sci_kit/ /
COPY --from=builder /v /v
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"# syntax\nFROM base\n{ONE}", f"# syntax\nFROM base AS heavy-base\n{ONE_APART}"),
        (f"FROM base AS builder\n{TWO}", f"FROM base AS heavy-base\n\n{TWO_APART}"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_heavy_package_gets_a_layer_of_its_own(tmp_path: Path, before: str, after: str, end: str) -> None:
    before, after = before.replace("\n", end), after.replace("\n", end)
    assert examples.better(tmp_path, RULE, before, FILES) == after


def test_two_lists_are_looked_at_together(tmp_path: Path) -> None:
    text = "FROM base AS web\nCOPY two two\nCOPY r.txt ./\nRUN python3 -m pip install -r two/r.txt -r r.txt -q\n"
    (patch,) = examples.proposed(tmp_path, RULE, text, FILES)
    assert (patch.line, patch.why) == (4, "320 MB of 2 packages are new whenever a small one is")
    assert f"heavy-lock\nCOPY two two\nCOPY r.txt ./\nRUN {JOINED} two/r.txt r.txt | grep" in patch.text
    assert "python3 -m pip install --no-deps --root=/heavy/$name -r /dev/stdin -q || exit" in patch.text
    assert "\nFROM heavy-base AS web\nCOPY --link" in patch.text
    assert "COPY two two\nCOPY r.txt ./\nRUN python3 -m pip install -r two/r.txt -r r.txt -q\n" in patch.text


@pytest.mark.parametrize(
    "text",
    [
        "COPY free.txt ./\nRUN pip install -r free.txt\n",
        "COPY more.txt r.txt ./\nRUN pip install -r more.txt\n",
        "COPY two/r.txt ./\nRUN pip install -r r.txt\n",
        "RUN pip install -r r.txt\n",
        "COPY r.txt ./\nRUN pip install -r r.txt -r $MORE/r.txt\n",
        "COPY r.txt ./\nRUN pip install -r r.txt && make\n",
        "COPY r.txt ./\nRUN cd x; pip install -r r.txt\n",
        "COPY r.txt ./\nRUN pip install --target x -r r.txt\n",
        "COPY r.txt ./\nRUN pip install -I -r r.txt\n",
        "COPY r.txt ./\nRUN pip install -r r.txt more\n",
        "COPY r.txt ./\nRUN pip install -r r.txt --root=/x\n",
        "COPY r.txt ./\nRUN pip install -c r.txt -r r.txt\n",
        "COPY r.txt ./\nRUN pip install --force-reinstall -r r.txt\n",
        "COPY r.txt ./\nRUN pip install \\\n    # all\n    -r r.txt\n",
        "COPY r.txt ./\nRUN pip download -r r.txt\n",
        "COPY r.txt ./\nUSER 5\nCOPY r.txt ./\nRUN pip install -r r.txt\n",
        'SHELL ["sh", "-c"]\nCOPY r.txt ./\nRUN pip install -r r.txt\n',
        "FROM base AS heavy\nCOPY r.txt ./\nRUN pip install -r r.txt\n",
        "FROM base AS more\nCOPY r.txt ./\nRUN pip install -r r.txt\nFROM slim\nCOPY --from=1 /v /v\n",
        "FROM base AS more\nCOPY r.txt ./\nRUN pip install -r r.txt\nFROM slim\nRUN --mount=from=more,target=/v ls\n",
        "FROM base AS more\nCOPY loose.txt ./\nRUN pip install -r loose.txt\nFROM slim\nCOPY --from=more /v /v\n",
    ],
)
def test_what_it_cannot_read_or_could_change_stays(tmp_path: Path, text: str) -> None:
    assert not examples.proposed(tmp_path, RULE, f"FROM base\n{text}", FILES)


@pytest.mark.parametrize("sizes", [{}, {"torch": 200 << 20}, {"small": 200 << 20, "sci-kit": 30 << 20}])
def test_where_nothing_is_heavy_nothing_is_proposed(tmp_path: Path, sizes: dict[str, int]) -> None:
    rule = RULE._replace(patches=partial(heavy_packages.patches, sizes=lambda: sizes))
    assert not examples.proposed(tmp_path, rule, f"FROM base\n{ONE}", FILES)
    assert not examples.proposed(tmp_path, rule._replace(patches=heavy_packages.patches), f"FROM base\n{ONE}", FILES)


PIP = """\
#!/bin/sh
while [ $# != 0 ]; do case $1 in --root=*) root=${1#*=};; -r) list=$2;; --no-deps) alone=1;; esac; shift; done
grep == "$list" | while read -r line; do
    name=${line%%=*} && folder=$root/site/$name && [ ! -e $folder ] || continue
    mkdir -p $folder $folder-1.dist-info
    echo "$line" | cut -d' ' -f1 > $folder/code
    printf '%s/code,sha256=x,%s\\n%s-1.dist-info/RECORD,,\\n' $name ${#name}000 $name > $folder-1.dist-info/RECORD
    [ $name != torch ] || [ -z "$WRONG" ] || ls / > $folder/wrong
done
"""
DOCKERFILE = "FROM tst-busybox:1\nCOPY --chmod=755 pip /bin/\nWORKDIR /app\nCOPY r.txt ./\nRUN pip install -r r.txt\n"
BUILDER = DOCKERFILE.replace("1\n", "1 AS builder\n") + "FROM tst-busybox:1\nCOPY --from=builder /site /site\n"


def image(lab: Lab, dockerfile: str) -> Run:
    compose = {"compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n"}
    lab.write({**compose, "web/Dockerfile": dockerfile, "web/pip": PIP, "web/r.txt": LOCK})
    return Run((lab.folder / "compose.yml",), lab.env())


@pytest.mark.engine
@pytest.mark.parametrize("text", [DOCKERFILE, BUILDER])
def test_it_is_proved_and_a_small_package_then_moves_alone(lab: Lab, busybox: str, text: str) -> None:
    run = image(lab, text)
    inputs = run.planner.declared()["web"]
    before = proof.before(run, inputs)
    (patch,) = RULE.patches(text, steps_of(inputs))
    better = replace(inputs, dockerfile_text=patch.text)
    assert proof.prove(run, better, before, [patch]) == proof.Proof(proof.Verdict.SAME)
    wrong = replace(inputs, dockerfile_text=patch.text.replace("SOURCE_DATE_EPOCH=0", "WRONG=1"))
    assert proof.prove(run, wrong, before, [patch])[:2] == (proof.Verdict.DIFFERS, ("site/torch/wrong",))
    first = layers(run, better)
    run = image(lab, text.replace("COPY --chmod", "RUN touch /other\nCOPY --chmod"))
    lab.write({"web/r.txt": LOCK.replace("small==1", "small==2")})
    inputs = run.planner.declared()["web"]
    (patch,) = RULE.patches(inputs.dockerfile_text, steps_of(inputs))
    second = layers(run, replace(inputs, dockerfile_text=patch.text))
    shared = {path for digest in {*first} & {*second} for path in first[digest]}
    assert {"site/torch/code", "site/sci_kit/code"} <= shared, "the same bytes in another image, built at another time"
    assert "site/small/code" not in shared


def layers(run: Run, inputs: ImageInputs) -> dict[str, set[str]]:
    with aside.image(run, inputs, inputs.dockerfile_text, ["--no-cache"], called="advise") as ref:
        content = content_of(ref, leading_to(run.engine.address))
    return {layer.digest: {*layer.entries} for layer in content.layers}


@pytest.mark.engine
def test_an_image_that_is_here_says_what_its_packages_weigh(lab: Lab, busybox: str) -> None:
    run = image(lab, DOCKERFILE)
    assert installed.sizes(run, "web", 0) == {}, "it was never built"
    lab.build()
    run.local_images.changed()
    assert installed.sizes(run, "web", 0) == {"torch": 5000, "small": 5000, "sci-kit": 7000}
    assert installed.sizes(run, "web", 1 << 40) == {}
    assert '"heavy-packages"' not in lab.doit("advise", "heavy-packages", "--patch", "--json").stdout
