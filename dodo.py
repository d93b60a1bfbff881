"""Table of contents: every task of this repository, by the question that it answers."""

# ruff: noqa: I001  the order is the reader's

from tasks.cli.configuration import doit_config

# what the images are built on, and the images; what would be done about them, and why
from tasks.cli.bases import task_base_image, task_rebuild_base
from tasks.cli.build import task_build_base, task_build_image_optimized, task_build_optimized
from tasks.cli.plan import task_plan

# where work is kept and shared
from tasks.cli.cache import task_cache_export, task_cache_import, task_cache_init
from tasks.cli.cache import task_cache_prune, task_cache_stats, task_rebuild_optimized

# the stack: up, down, how it is, what it says; edited, moved to, and tried by machines that nobody watches
from tasks.cli.stack import task_ci_build, task_ci_test, task_dev_optimized, task_down_optimized, task__env_file
from tasks.cli.stack import task_logs_optimized, task_migrate_to_optimized, task_ps_optimized, task_up_optimized

# what was built before, how it went, and how much better it is, measured here and now
from tasks.cli.history import task_build_report, task_history
from tasks.cli.sizes import task_image_sizes
from tasks.cli.bench import task_benchmark_builds, task_compare_performance

# is this machine able, are the files good, does it work
from tasks.cli.checks import task__dev_environment, task_lint, task_test, task__test_programs, task_test_unit
from tasks.cli.doctor import task_doctor
from tasks.cli.lock import task_lock

DOIT_CONFIG = doit_config()
