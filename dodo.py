"""Table of contents: every task of this repository, by the question that it answers."""

# ruff: noqa: F401, I001  doit finds the tasks in its names, and the order is the reader's

from doit_images.cli.configuration import doit_config

# what the images are built on, and the images; what would be done about them, and why
from tasks.base_image import task_base_image, task_rebuild_base
from doit_images.cli.build import task_build_base, task_build_image_optimized, task_build_optimized
from doit_images.cli.show import task_plan
from doit_images.cli.tests import task_test_image

# where work is kept and shared
from doit_images.cli.cache import task_cache_export, task_cache_import, task_cache_init
from doit_images.cli.cache import task_cache_prune, task_cache_stats, task_rebuild_optimized, task_registry_prune
from doit_images.cli.cache import task_share_key

# which packages they hold: what is behind, and newer ones; are they what the sources give
from doit_images.cli.deps import (
    task_bases_check,
    task_deps_check,
    task_deps_update,
    task_provenance,
    task_sbom,
    task_verify,
)

# the stack: up, down, how it is, what it says, edited; and a build as a machine wants it that nobody watches
from doit_images.cli.stack import task_ci_build, task_dev_optimized, task_down_optimized, task__env_file
from doit_images.cli.stack import task_logs_optimized, task_ps_optimized, task_up_optimized
from doit_images.cli.stack import task_backup, task_restore, task_shell

# what was built before, how it went, how large it is; is this machine able
from doit_images.cli.show import task_build_report, task_doctor, task_history, task_image_sizes, task_images

# of this repository alone: how the images are made, how much better the
# optimized way is, measured here and now, moving to it; are the files good, does it work
from tasks.bench import task_benchmark_builds, task_compare_performance, task_figures
from tasks.checks import task__dev_environment, task_lint, task_test, task__test_programs, task_test_faults
from tasks.checks import task_test_mutants, task_test_unit
from tasks.lock import task_lock
from doit_images.cli.stack import task_ci_test, task_migrate_to_optimized

DOIT_CONFIG = doit_config()
