"""A task has a worker until it has ended there: that is its place at a model."""

from common.migrations.statements import upgrading

revision = "0005"
down_revision = "0004"

upgrade = upgrading("""
UPDATE orchestrator.tasks SET worker = NULL WHERE state NOT IN ('queued', 'running');
CREATE INDEX tasks_held ON orchestrator.tasks (worker) WHERE worker IS NOT NULL
""")
