"""Memories of users who have very many are found by an index of vectors (``memory.semantic``)."""

from common.migrations.statements import upgrading

revision = "0004"
down_revision = "0003"

upgrade = upgrading("""
ALTER TABLE memory.memories ADD COLUMN indexed boolean NOT NULL DEFAULT false;
CREATE INDEX memories_not_indexed ON memory.memories (user_id) WHERE NOT indexed;
CREATE INDEX memories_by_meaning ON memory.memories USING hnsw (embedding vector_cosine_ops) WHERE indexed
""")
