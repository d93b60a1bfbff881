"""Every task of this repository: those of the package, under the names of its guide, and its own.

``doit_images/cli/catalogue.py`` names the modules that make the first.
"""

# ruff: noqa: F401, I001  doit finds the tasks in its names, and the order is the reader's

import doit_images
from doit_images.cli import catalogue
from tasks import guide
from tasks.bases import declared

# what the images are built on
from tasks.base_image import task_base_image, task_rebuild_base

# the package's tasks by further names
from tasks.guide import task_build, task_build_image_optimized, task_dev, task_down
from tasks.guide import task_logs, task_ps, task_rebuild, task_up

# the stack, tested from end to end; moving to it; how much better it is, measured here and now
from tasks.stack import task_ci_test, task_migrate_to_optimized
from tasks.bench import task_benchmark_builds, task_compare_performance, task_figures

# are the files good, does it work; what is written from other files
from tasks.checks import task__dev_environment, task__test_programs, task_lint, task_test, task_test_faults
from tasks.checks import task_test_mutants, task_test_unit
from tasks.lock import task_lock
from tasks.pages import task_docs

globals().update(doit_images.tasks(names=guide.NAMES, base=declared.of) | guide.OWN)
catalogue.without_lines(globals())
