"""Sessions and tasks come here from Redis, with quotas; users may be administrators, disabled and deleted."""

from common.migrations.statements import upgrading

revision = "0002"
down_revision = "0001"

upgrade = upgrading("""
CREATE SCHEMA orchestrator;
ALTER TABLE auth.users
    ADD COLUMN is_admin boolean NOT NULL DEFAULT false,
    ADD COLUMN disabled_at timestamptz;
ALTER TABLE auth.api_keys ADD COLUMN scopes varchar NOT NULL DEFAULT 'memory:read memory:write tasks';
CREATE TABLE auth.deleted_users (
    id uuid PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE memory.usage (
    user_id uuid PRIMARY KEY,
    memories integer NOT NULL,
    bytes bigint NOT NULL
);
INSERT INTO memory.usage
    SELECT user_id, count(*), sum(octet_length(text) + octet_length(metadata::text))
    FROM memory.memories GROUP BY user_id;
CREATE TABLE memory.sessions (
    user_id uuid,
    name varchar,
    next_number bigint NOT NULL,
    bytes bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, name)
);
CREATE INDEX sessions_by_end ON memory.sessions (expires_at);
CREATE TABLE memory.messages (
    user_id uuid,
    session varchar,
    number bigint,
    role varchar NOT NULL,
    content varchar NOT NULL,
    PRIMARY KEY (user_id, session, number),
    FOREIGN KEY (user_id, session) REFERENCES memory.sessions (user_id, name) ON DELETE CASCADE
);
CREATE TABLE orchestrator.tasks (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    state varchar NOT NULL,
    prompt varchar NOT NULL,
    model varchar NOT NULL,
    session varchar,
    context jsonb NOT NULL,
    answer varchar,
    error varchar,
    stored boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deadline timestamptz NOT NULL,
    worker uuid,
    lease_until timestamptz,
    username varchar NOT NULL,
    token varchar
);
CREATE INDEX tasks_of_user ON orchestrator.tasks (user_id, created_at);
CREATE INDEX tasks_by_change ON orchestrator.tasks (updated_at);
CREATE INDEX tasks_unfinished ON orchestrator.tasks (created_at) WHERE state IN ('queued', 'running');
""")
