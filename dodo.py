"""Table of contents: every task of this repository, by the question that it answers."""

from tasks.base import task_base_image
from tasks.build import task_build_base, task_build_image_optimized, task_build_optimized
from tasks.configuration import doit_config
from tasks.plan_view import task_plan

DOIT_CONFIG = doit_config()

__all__ = [
    "DOIT_CONFIG",
    "task_base_image",
    "task_build_base",
    "task_build_image_optimized",
    "task_build_optimized",
    "task_plan",
]
