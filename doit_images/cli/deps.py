"""Which tasks are about packages: outdated ones, updates, bills of materials, verification?"""

from __future__ import annotations

from doit_images.cli.action import JSON, Task, option, quiet

_COOLDOWN = option("cooldown", "7d", "how long a release must have been there")
_ATTACH = option("attach", False, "attach each to its image in the shared registry")


def task_deps_check() -> Task:
    """Show what deps_update would change, and which locked packages have a known advisory: [--cooldown 7d] [--json]"""
    return quiet("doit_images.ui.deps_view:check", _COOLDOWN, JSON)


def task_deps_update() -> Task:
    """Lock newer packages, build and test them, undo it if that fails: [PACKAGE …] [--cooldown 7d] [--json]"""
    return quiet("doit_images.ui.deps_view:bring_up_to_date", _COOLDOWN, JSON, words="packages")


def task_bases_check() -> Task:
    """Show which external bases moved in their registries, and which packages have newer versions: [--json]"""
    return quiet("doit_images.ui.bases_check:check", JSON)


def task_sbom() -> Task:
    """Write which packages the images hold, as SPDX and CycloneDX documents: [IMAGE …] [--attach]"""
    return quiet("doit_images.ui.documents:sbom", _ATTACH, words="images")


def task_provenance() -> Task:
    """Write what the images were made of, and how, as SLSA provenance: [IMAGE …] [--attach]"""
    return quiet("doit_images.ui.documents:provenance", _ATTACH, words="images")


def task_verify() -> Task:
    """Say whether images, and what runs, are what the sources give: [SERVICE|IMAGE …] [--rebuild|--plan] [--json]"""
    rebuild = option("rebuild", False, "build each once more without cache, and name the layers and files that differ")
    plan = option(
        "plan", False, "only ask BuildKit whether it would run a step of an image that counts as fresh", name="asked"
    )
    return quiet("doit_images.ui.verify_view:check", rebuild, plan, JSON, words="images")
