"""Table of contents: every task of this repository, by the question that it answers."""

# what the images are built on
from tasks.base import task_base_image

# how much better is it, measured here and now
from tasks.bench import task_benchmark_builds, task_compare_performance, task_image_sizes

# the images
from tasks.build import task_build_base, task_build_image_optimized, task_build_optimized

# builders and caches, here and shared
from tasks.cache import (
    task_cache_export,
    task_cache_import,
    task_cache_init,
    task_cache_prune,
    task_cache_stats,
    task_rebuild_optimized,
)

# are the files good, does it work
from tasks.checks import task_dev_environment, task_lint, task_test, task_test_programs

# the same for machines that nobody watches
from tasks.ci import task_ci_build, task_ci_test
from tasks.configuration import doit_config

# do edits reach the running stack
from tasks.dev import task_dev_optimized

# is this machine able
from tasks.doctor import task_doctor

# what was built before, and how it went
from tasks.history_view import task_history

# what the stack's services wrote
from tasks.logs import task_logs_optimized

# from the standard deployment to this one
from tasks.migrate import task_migrate_to_optimized

# what would run, and why
from tasks.plan_view import task_plan
from tasks.report import task_build_report

# the stack: up, down, how it is
from tasks.stack import task_down_optimized, task_env_file, task_ps_optimized, task_up_optimized

DOIT_CONFIG = doit_config()
