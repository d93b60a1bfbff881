"""What is measured inside the image of ``memory``, with its own code and model: ``memory_recall.py`` and
``memory_cutoff.py`` run it there. Figures go to standard output, as JSON."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import json
import random
import re
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "de", "es", "ru", "tr", "ro", "el", "ar", "hi", "th", "vi", "zh")
CUTS = (0.05, 0.10, 0.15, 0.20, 0.25)
BATCH = 1000
MORE = 500
"""So many are brought into the index as it is done when nobody measures."""
INDEX = "SELECT indexdef FROM pg_indexes WHERE indexname = 'memories_by_meaning'"

PROGRESS = "SELECT tuples_done FROM pg_stat_progress_create_index"

PEOPLE = ("Anna", "my brother", "the neighbour", "Doctor Weber", "our teacher", "Tom", "the landlord", "my boss")
VERBS = ("likes", "lost", "bought", "sold", "repaired", "forgot", "is allergic to", "wrote about", "paid for", "hates")
ADJECTIVES = ("old", "green", "expensive", "tiny", "broken", "Italian", "wooden", "second", "quiet", "borrowed")
THINGS = ("bicycle", "peanuts", "guitar", "printer", "passport", "key", "recipe", "garden", "train ticket", "server",
          "novel", "coat", "camera", "tax form", "boat", "kitchen", "cat", "invoice", "lamp", "telescope")  # fmt: skip
PLACES = ("in Oslo", "at the station", "on the third floor", "near the lake", "at work", "in the cellar")
TIMES = ("on Monday", "last winter", "before the meeting", "in 2019", "after lunch", "every week", "at nine",
         "on the way home", "during the holidays", "in the morning", "a month ago")  # fmt: skip


def texts(count: int) -> list[str]:
    """So many sentences, each another one, always the same ones."""
    made = [" ".join(words) + "." for words in itertools.product(PEOPLE, VERBS, ADJECTIVES, THINGS, PLACES, TIMES)]
    return random.Random(1).sample(made, count)


def questions(count: int) -> list[str]:
    """So many questions about them."""
    made = [f"What has {who} to do with the {how} {what} {where}?"
            for who, how, what, where in itertools.product(PEOPLE, ADJECTIVES, THINGS, PLACES)]  # fmt: skip
    return random.Random(2).sample(made, count)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of times in seconds, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(cuts[49] * 1000, 2), "p90": round(cuts[89] * 1000, 2), "p99": round(cuts[98] * 1000, 2)}


async def recall(count: int, asked: int) -> dict[str, Any]:
    """Keep ``count`` memories of one user, and ask for the nearest five of ``asked`` questions, from all of them and
    from the index: how long each takes, and how many of the five the index finds."""
    semantic, embedding = importlib.import_module("memory.semantic"), importlib.import_module("memory.embedding")
    told = importlib.import_module("memory.settings")
    settings = told.MemorySettings()
    tables, postgres = importlib.import_module("memory.tables"), importlib.import_module("common.postgres")
    sql = importlib.import_module("sqlalchemy")
    migrate = importlib.import_module("common.migrate")
    await migrate.migrate(settings, {one: uuid.uuid4().hex for one in migrate.SCHEMAS})
    postgres.new_engine.__defaults__ = (3600,)  # a figure is wanted: on a busy machine the index alone takes long
    database = postgres.Database(settings, "memory", tables.Table.metadata)
    await database.prepare()
    memories = semantic.Memories(database, told.Quota(count, 1 << 40))
    model, user = embedding.load(), uuid.uuid4()
    known = texts(count + MORE)

    # A connection of its own, as COPY wants vectors in another form than SQLAlchemy sends them.
    copying = await importlib.import_module("asyncpg").connect(
        host=settings.postgres_host, port=settings.postgres_port, user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(), database=settings.postgres_db,
    )  # fmt: skip
    await importlib.import_module("pgvector.asyncpg").register_vector(copying)

    async def keep(some: list[str], *, indexed: bool) -> None:
        rows = [(uuid.uuid4(), user, one, "{}", model.of(one), indexed) for one in some]
        columns = ["id", "user_id", "text", "metadata", "embedding", "indexed"]
        await copying.copy_records_to_table("memories", schema_name="memory", columns=columns, records=rows)

    async def tell() -> None:
        while True:
            print(f"making the index: {await copying.fetchval(PROGRESS) or 0} of {count}", file=sys.stderr)
            await asyncio.sleep(5)

    async def do(*statements: str) -> None:
        async with database.connect() as connection:
            for statement in statements:
                await connection.execute(sql.text(statement))

    # The index is made at the end, all at once, which is many times faster than one by one.
    async with database.connect() as connection:
        index = (await connection.execute(sql.text(INDEX))).scalar_one()
        await connection.execute(sql.insert(tables.Usage).values(user_id=user, memories=count, bytes=0))
    await do("DROP INDEX memory.memories_by_meaning")
    for begin in range(0, count, BATCH):
        await keep(known[begin : begin + BATCH], indexed=True)
        print(f"kept {begin + BATCH} of {count}", file=sys.stderr)
    vectors = [model.of(one) for one in questions(asked)]

    async def answers() -> tuple[list[set[uuid.UUID]], list[float]]:
        found, times = [], []
        for vector in vectors:
            began = time.perf_counter()
            results = await memories.search(user, vector, 5, {}, {})
            times.append(time.perf_counter() - began)
            found.append({one.id for one in results})
        return found, times

    await do("VACUUM ANALYZE memory.memories")
    exact, exact_times = await answers()
    began = time.monotonic()
    telling = asyncio.create_task(tell())
    await do("SET maintenance_work_mem = '512MB'", index, "VACUUM ANALYZE memory.memories")
    telling.cancel()
    making = time.monotonic() - began
    await memories.index_large()  # which looks who has very many
    await answers()  # warm
    near, near_times = await answers()
    await keep(known[count:], indexed=False)
    began = time.monotonic()
    await memories.index_large()
    bringing = time.monotonic() - began
    hits = sum(len(one & other) for one, other in zip(exact, near, strict=True))
    await copying.close()
    await database.engine.dispose()
    return {
        "memories": count, "questions": asked, "recall_at_5": round(hits / sum(map(len, exact)), 4),
        "exact": percentiles(exact_times), "index": percentiles(near_times), "making_seconds": round(making, 1),
        "brought_in_a_second": round(MORE / bringing),
    }  # fmt: skip


def sentences(paragraph: str) -> Iterator[tuple[int, int]]:
    """Where sentences begin and end."""
    begin = 0
    for end in [found.end() for found in re.finditer(r"[.!?।。؟](\s+|$)", paragraph)] + [len(paragraph)]:
        if end - begin > 15:
            yield begin, end
            begin = end


def read(path: Path, of: Any) -> dict[str, Any]:
    """A file of XQuAD: questions, sentences, which sentence answers which question, and each one's article."""
    numpy = importlib.import_module("numpy")
    data: dict[str, list[Any]] = {"asked": [], "answer": [], "asked_in": [], "said": [], "said_in": []}
    for article, content in enumerate(json.loads(path.read_text())["data"]):
        for paragraph in content["paragraphs"]:
            base, places = len(data["said"]), list(sentences(paragraph["context"]))
            data["said"] += [of(paragraph["context"][begin:end]) for begin, end in places]
            data["said_in"] += [article] * len(places)
            for one in paragraph["qas"]:
                start = one["answers"][0]["answer_start"]
                holds = [number for number, (begin, end) in enumerate(places) if begin <= start < end]
                if holds and (vector := of(one["question"])) is not None:
                    data["asked"].append(vector)
                    data["answer"].append(base + holds[0])
                    data["asked_in"].append(article)
    none = numpy.zeros(256, numpy.float32)
    data["said"] = [none if one is None else one for one in data["said"]]
    return {name: numpy.array(values) for name, values in data.items()}


def cutoff(folder: Path, write: Path | None = None) -> list[dict[str, Any]]:
    """How many answers, and how many texts of other articles, are at least so near to a question: measured on every
    other article, with the middles of the languages found on those between. ``write``: keep the middles of all."""
    numpy = importlib.import_module("numpy")
    of = importlib.import_module("memory.embedding").load().of
    known = {language: read(folder / f"xquad.{language}.json", of) for language in LANGUAGES}
    half = numpy.stack([one["said"][one["said_in"] % 2 == 0].mean(0) for one in known.values()])
    if write:
        numpy.save(write, numpy.stack([one["said"].mean(0) for one in known.values()]).astype(numpy.float16))
    rows = []
    for language, one in known.items():
        tried = one["asked_in"] % 2 == 1
        asked, articles = one["asked"][tried], one["asked_in"][tried]
        near = asked @ one["said"].T
        answers = near[numpy.arange(len(asked)), one["answer"][tried]]
        others = (articles[:, None] != one["said_in"][None, :]) & (one["said_in"] % 2 == 1)[None, :]
        own = (asked @ half.T).max(1)
        row: dict[str, Any] = {"language": language, "questions": len(asked)}
        row["plain 0.2"] = [_percent(answers >= 0.2), _percent(near[others] >= 0.2)]
        for cut in CUTS:
            least = own + cut * (1 - own)
            row[f"{cut:g}"] = [_percent(answers >= least), _percent((near >= least[:, None])[others])]
        rows.append(row)
    return rows


def _percent(these: Any) -> float:
    return round(100 * float(these.mean()), 1)


def main() -> None:
    """Measure what is asked for: ``recall MEMORIES QUESTIONS`` or ``cutoff`` with its folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["recall", "cutoff"])
    parser.add_argument("words", nargs="+")
    given = parser.parse_args()
    if given.what == "recall":
        print(json.dumps(asyncio.run(recall(*map(int, given.words)))))
    else:
        print(json.dumps(cutoff(*map(Path, given.words))))


if __name__ == "__main__":
    main()
