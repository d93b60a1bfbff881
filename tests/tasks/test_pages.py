"""Pages are as the code is, and every link of a page leads somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import parse

import doit_images
from doit_images.core.base.settings import Settings, load
from tasks import ROOT, pages

_FENCE = re.compile(r"^( *)(```|~~~).*?^ *\2", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HERE = re.compile(r"\[(yes|part|no)\]\([\w-]+\.md[^)]*\)((?: \[test\]\(\.\./tests/[\w/]+/test_\w+\.py\))*)")
_PEER = re.compile(r"–|\[(?:yes|part|no)\]\(https://[^)\s]+\)")


def markdown() -> list[str]:
    """The pages that git knows of, from the root on."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, check=True
    )
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def anchors(page: Path) -> set[str]:
    """Where a link may lead within a page, as GitHub calls it: by headings, and by names that are given."""
    text = _FENCE.sub("", page.read_text())
    found = re.findall(r'<a (?:id|name)="([^"]+)"', text)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return {*found}


def lost(page: Path) -> list[str]:
    """The links of a page that lead to no file or to no heading."""
    found = []
    for target, anchor in _LINK.findall(_FENCE.sub("", page.read_text())):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            found.append(f"{target}#{anchor}" if anchor else target)
    return found


@pytest.mark.parametrize("name", pages.pages())
def test_a_page_is_as_the_code_is(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == pages.pages()[name], "`doit docs` writes it anew"


def test_the_example_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert load(tmp_path, {}) == Settings()


def test_the_changelog_tells_of_the_version() -> None:
    told = re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert doit_images.__version__ == told[0] or (
        told[0] == "Unreleased" and parse(doit_images.__version__) > parse(told[1])
    )


def test_a_file_that_is_named_is_there() -> None:
    for page in markdown():
        for path in re.findall(r"`((?:doit_images|tests|benchmarks)/[\w./-]+)`", (ROOT / page).read_text()):
            assert (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize("name", markdown())
def test_every_link_leads_somewhere(name: str) -> None:
    assert lost(ROOT / name) == []


def compared() -> list[list[str]]:
    """The rows of docs/compared.md: the feature, what is here, and what each of ten peers has."""
    lines = (ROOT / "docs/compared.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \w", line)]


@pytest.mark.parametrize("row", compared(), ids=lambda row: row[0])
def test_what_is_compared_names_its_evidence(row: list[str]) -> None:
    here = _HERE.fullmatch(row[1])
    assert here
    assert (here[1] == "no") == (not here[2]), "what is claimed here names a test"
    assert [cell for cell in row[2:] if not _PEER.fullmatch(cell)] == []
    assert len(row) == 12


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# What `x` is: a *thing*\n```sh\n# no heading\n[no](link.md)\n```\n")
    page = tmp_path / "a.md"
    links = "[1](b.md#what-x-is-a-thing) [2](#here) [3](https://x.org/#y)", "[4](b.md#no-heading) [5](c.md) [6](#there)"
    page.write_text("\n".join(["# Here", *links]))
    assert lost(page) == ["b.md#no-heading", "c.md", "#there"]
