"""What each user's models have read and written in a day; memories are listed, and each text is kept once."""

from common.migrations.statements import upgrading

revision = "0003"
down_revision = "0002"

upgrade = upgrading("""
CREATE TABLE orchestrator.spent (
    user_id uuid,
    day date,
    tokens bigint NOT NULL,
    PRIMARY KEY (user_id, day)
);
CREATE INDEX memories_by_text ON memory.memories (user_id, md5(text))
""")
