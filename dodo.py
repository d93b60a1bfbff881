"""Every task of this repository: those of the package, under the names of its guide, and its own.

``doit_images/cli/catalogue.py`` is the table of contents of the first.
"""

# ruff: noqa: F401  doit finds the tasks in its names

import doit_images
from tasks import guide

# what the images are built on
from tasks.base_image import task_base_image, task_bases_check, task_rebuild_base
from tasks.bases import declared

# how much better the optimized way is, measured here and now
from tasks.bench import task_benchmark_builds, task_compare_performance, task_figures

# are the files good, does it work
from tasks.checks import (
    task__dev_environment,
    task__test_programs,
    task_lint,
    task_test,
    task_test_faults,
    task_test_mutants,
    task_test_unit,
)

# the package's tasks by further names
from tasks.guide import (
    task_build,
    task_build_image_optimized,
    task_dev,
    task_down,
    task_logs,
    task_ps,
    task_rebuild,
    task_up,
)
from tasks.lock import task_lock
from tasks.pages import task_docs

# the stack, tested from end to end; moving to it
from tasks.stack import task_ci_test, task_migrate_to_optimized

globals().update(doit_images.tasks(names=guide.NAMES, base=declared.of))
