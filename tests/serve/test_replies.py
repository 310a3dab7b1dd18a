"""Answers on their way: no character ends an event's line early, and a client that reads nothing does not keep its place."""

import asyncio
import json

import pytest

from touchstone.serve import replies
from touchstone.serve.replies import StreamedReply


async def told(pieces, send, seconds=1.0):
    """Stream these pieces to a client that stays; the statuses that were reported at the end."""

    async def stays():
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def made():
        for piece in pieces:
            yield piece

    statuses = []
    await StreamedReply(made(), seconds, statuses.append)({}, stays, send)
    return statuses


def test_an_event_is_one_line_for_every_reader():
    sent = []

    async def send(message):
        sent.append(message.get("body", b""))

    piece = {"text": "a\u2028b\u2029c\x85d\n\r\x0b\x1c天"}
    assert asyncio.run(told([piece], send)) == [200]
    lines = b"".join(sent).decode().splitlines()
    assert lines[2:] == ["data: [DONE]", ""]
    assert json.loads(lines[0].removeprefix("data: ")) == piece


@pytest.mark.parametrize("n_taken", [0, 2])
def test_who_takes_nothing_any_more_is_given_up(monkeypatch, n_taken):
    monkeypatch.setattr(replies, "_LAST_WORDS_S", 0.05)
    taken = []

    async def send(message):
        if len(taken) > n_taken:
            await asyncio.sleep(60)
        taken.append(message)

    assert asyncio.run(asyncio.wait_for(told([{"n": n} for n in range(9)], send, seconds=0.05), 10)) == [504]
