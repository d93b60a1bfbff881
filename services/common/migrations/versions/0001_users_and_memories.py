"""What the services made for themselves before there were migrations: taken over where it is there already."""

from common.migrations.statements import upgrading

revision = "0001"
down_revision = None

upgrade = upgrading("""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS auth;
CREATE SCHEMA IF NOT EXISTS memory;
CREATE TABLE IF NOT EXISTS auth.users (
    id uuid PRIMARY KEY,
    username varchar NOT NULL UNIQUE,
    password_hash varchar NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS auth.api_keys (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    name varchar NOT NULL,
    hint varchar NOT NULL,
    digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX IF NOT EXISTS ix_auth_api_keys_user_id ON auth.api_keys (user_id);
CREATE TABLE IF NOT EXISTS auth.signing_keys (
    kid varchar PRIMARY KEY,
    private_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS memory.memories (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    text varchar NOT NULL,
    metadata jsonb NOT NULL,
    embedding vector(256) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS memories_of_user ON memory.memories (user_id, created_at);
""")
