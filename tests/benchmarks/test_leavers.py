"""benchmarks/leavers.py: the model knows when its work has ended, and work without an end is a goal missed."""

from __future__ import annotations

import asyncio
import math

from benchmarks import attack, leavers


def test_the_model_knows_who_left_and_answers_who_stayed() -> None:
    model = leavers.Model()
    chats = [leavers.Chat(one) for one in ("stays 1 as a whole", "leaves 2 as a stream", "stays 3 as a stream")]

    async def all_of_them() -> None:
        async with await asyncio.start_server(model.serve, "127.0.0.1") as server:
            at = attack.Door("127.0.0.1", server.sockets[0].getsockname()[1], tls=False)
            await asyncio.gather(*(leavers.ask(chat, at, "Bearer x") for chat in chats))
            while math.inf in model.ended.values():
                await asyncio.sleep(0.01)

    asyncio.run(all_of_them())
    assert [chat.left is not None for chat in chats] == [False, True, False]
    assert leavers.figures(chats, model)["at work"] == 1


def test_work_that_never_ends_is_shown_as_missed() -> None:
    model = leavers.Model()
    model.ended |= {"leaves 1": 10.5, "leaves 2": math.inf}
    chats = [leavers.Chat("stays 0"), *(leavers.Chat(f"leaves {number}", 10.0) for number in (1, 2, 3))]
    found = leavers.figures(chats, model)
    assert (found["answered"], found["waiting"], found["at work"], found["longest"]) == (1, 1, 2, math.inf)
    assert "missed" in leavers.markdown(found)
    model.ended["leaves 2"] = 11.0
    assert "missed" not in leavers.markdown(leavers.figures(chats, model))
