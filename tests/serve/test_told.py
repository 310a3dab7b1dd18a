"""Answers made of the engine's messages: what is streamed and what is told at the end are the same answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.serve.api_error import ApiError
from touchstone.serve.tokens import told
from touchstone.serve.told import ChatAnswer, CompletionAnswer


def token(data, logprob=-0.5, tops=(), **more):
    """A token as the engine process tells it."""
    text = data.decode() if data.isascii() else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    top = [{"id": 0, "token": text, "bytes": list(text.encode()), "logprob": value} for text, value in tops]
    return {"id": 1, "token": text, "bytes": list(data), "logprob": logprob, "top": top, **more}


def event(text, data=None, *, i=0, j=0, end=None, n=0, n_prompt=3, **more):
    message = {"i": i, "j": j, "t": text, **more}
    if data is not None:
        message |= {"k": 1, "token": token(data)}
    return message if end is None else {**message, "f": end, "n": n, "n_prompt": n_prompt}


def told_by(answer, messages):
    """(the chunks, the whole) of an answer."""
    chunks = [piece for message in messages for piece in answer.pieces(message)]
    return chunks, answer.whole()


def joined(chunks, n_choices):
    """The whole answer's choices, put together from a stream's chunks as a client does it."""
    found = [{"text": "", "logprobs": None, "finish_reason": None} for _ in range(n_choices)]
    for told_choice in (choice for chunk in chunks for choice in chunk["choices"]):
        one = found[told_choice["index"]]
        one["text"] += told_choice["text"]
        assert one["finish_reason"] is None, "nothing follows a finish_reason"
        one["finish_reason"] = told_choice["finish_reason"]
        for name, values in (told_choice["logprobs"] or {}).items():
            one["logprobs"] = one["logprobs"] or {}
            one["logprobs"].setdefault(name, []).extend(values)
    return found


def test_a_chat_stream_begins_with_the_role_and_ends_with_one_reason():
    messages = [{"events": [event("He", b"He"), event("He", b"He", j=1)]}, {"events": [event("y", b"y", end="stop", n=2)]}]
    messages.append({"events": [event("", j=1, end="length", n=1)]})
    chunks, whole = told_by(ChatAnswer("m", 1, 2, None), messages)
    for index in range(2):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert not any("role" in choice["delta"] for choice in own[1:])
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + [("stop", "length")[index]]
        assert "".join(choice["delta"].get("content", "") for choice in own) == whole["choices"][index]["message"]["content"]
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    assert whole["object"] == "chat.completion"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_usage_counts_a_prompt_once_for_all_its_choices():
    answer = CompletionAnswer("m", 2, 3, None)
    ends = [event("x", i=i, j=j, end="length", n=5 + j, n_prompt=10 + i) for i in range(2) for j in range(3)]
    told_by(answer, [{"events": ends}])
    assert answer.usage() == {"prompt_tokens": 21, "completion_tokens": 36, "total_tokens": 57}
    assert answer.usage_piece()["choices"] == []


def test_an_offset_is_where_a_tokens_first_character_is_complete():
    data = "a天b".encode()
    parts = [data[:1], data[1:2], data[2:4], data[4:]]  # a character of three bytes over two tokens
    texts = ["a", "", "天", "b"]
    ends = [None, None, None, "length"]
    messages = [{"events": [event(text, part, end=end, n=4)]} for text, part, end in zip(texts, parts, ends, strict=True)]
    chunks, whole = told_by(CompletionAnswer("m", 1, 1, 0), messages)
    told_choice = whole["choices"][0]
    assert told_choice["text"] == "a天b"
    assert told_choice["logprobs"]["text_offset"] == [0, 1, 1, 2]
    assert told_choice["logprobs"]["tokens"] == ["a", "bytes:\\xe5", "bytes:\\xa4\\xa9", "b"]
    assert joined(chunks, 1)[0] == {name: told_choice[name] for name in ("text", "logprobs", "finish_reason")}


def test_half_a_character_counts_as_one_once_another_begins():
    data = [b"\xe5", b"a", b"\xe5\xa4", "é".encode(), b"b"]
    texts = ["", "\ufffda", "", "\ufffdé", "b"]
    events = [event(text, part, end="length" if part == b"b" else None, n=5) for text, part in zip(texts, data, strict=True)]
    _, whole = told_by(CompletionAnswer("m", 1, 1, 0), [{"events": events}])
    assert whole["choices"][0]["text"] == "\ufffda\ufffdéb"
    assert whole["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]


def test_a_token_without_text_takes_no_room_in_the_offsets():
    hidden = {**event(""), "k": 0, "token": token(b"<|endoftext|>", is_silent=True)}
    chunks, whole = told_by(CompletionAnswer("m", 1, 1, 0), [{"events": [hidden, event("ab", b"ab"), event("c", b"c", end="length", n=3)]}])
    assert whole["choices"][0]["logprobs"]["text_offset"] == [0, 0, 2]
    assert joined(chunks, 1)[0]["logprobs"] == whole["choices"][0]["logprobs"]


def test_offsets_behind_an_echo_count_the_prompt_as_the_client_wrote_it():
    """Some tokenizers set a space before a text, which is in the first token and not in the text."""
    echo = {"echo": {"i": 0, "text": "Tom", "tokens": [token(b" Tom")]}}
    chunks, whole = told_by(CompletionAnswer("m", 1, 1, 0), [echo, {"events": [event(" ran", b" ran", end="length", n=1)]}])
    told_choice = whole["choices"][0]
    assert told_choice["text"] == "Tom ran"
    assert told_choice["logprobs"]["text_offset"] == [0, 3]
    assert joined(chunks, 1)[0]["logprobs"] == told_choice["logprobs"]


def test_an_echo_comes_before_each_choice_of_its_prompt():
    messages = [{"echo": {"i": 1, "text": "Q"}}, {"echo": {"i": 0, "text": "P"}}]
    messages.append({"events": [event(f"{i}{j}", i=i, j=j, end="length", n=1) for i in (0, 1) for j in (0, 1)]})
    chunks, whole = told_by(CompletionAnswer("m", 2, 2, None), messages)
    assert [choice["text"] for choice in whole["choices"]] == ["P00", "P01", "Q10", "Q11"]
    assert [each["text"] for each in joined(chunks, 4)] == ["P00", "P01", "Q10", "Q11"]


def test_of_two_likely_tokens_that_look_alike_the_likelier_is_told():
    entry = token(b"a", tops=[("a", -0.1), ("a", -3.0), ("b", -4.0)])
    _, whole = told_by(CompletionAnswer("m", 1, 1, 3), [{"events": [{**event("a", end="length", n=1), "k": 1, "token": entry}]}])
    assert whole["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.1, "b": -4.0}]


@pytest.mark.parametrize("n_top", [0, 1, 2])
def test_chat_tells_exactly_as_many_likely_tokens_as_were_asked_for(n_top):
    entry = token(b"z", tops=[("a", -0.1), ("b", -3.0), ("z", -4.0)][: n_top + 1])  # the engine adds the sampled one
    _, whole = told_by(ChatAnswer("m", 1, 1, n_top), [{"events": [{**event("z", end="length", n=1), "k": 1, "token": entry}]}])
    content = whole["choices"][0]["logprobs"]["content"]
    assert [len(each["top_logprobs"]) for each in content] == [n_top]
    assert set(content[0]) == {"token", "logprob", "bytes", "top_logprobs"}


def test_a_choice_that_failed_fails_the_answer_with_its_reason():
    answer = CompletionAnswer("m", 1, 1, None)
    with pytest.raises(ApiError, match="a step's budget") as caught:
        told_by(answer, [{"events": [event("", end="error", problem="The grammar used up a step's budget.")]}])
    assert caught.value.status == 500


@pytest.mark.slow
@given(
    words=st.lists(st.lists(st.sampled_from(["a", "é", "天", "🙂 ", " b"]), min_size=1, max_size=5), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 3), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_any_interleaving_of_choices_and_any_cut_of_characters_gives_the_whole_answer(words, cuts, order):
    queues = []
    for j, pieces in enumerate(words):
        data, texts, place = "".join(pieces).encode(), [], 0
        for size in [*cuts, len("".join(pieces).encode())]:
            if place < len(data):
                texts.append(data[place : place + size])
                place += size
        before, own = b"", []
        for number, part in enumerate(texts):
            text = (before + part).decode("utf-8", "ignore").removeprefix(before.decode("utf-8", "ignore"))
            before += part
            own.append(event(text, part, j=j, end="length" if number == len(texts) - 1 else None, n=len(texts)))
        queues.append(own)
    messages = []
    while any(queues):
        messages.append({"events": [order.choice([queue for queue in queues if queue]).pop(0)]})
    chunks, whole = told_by(CompletionAnswer("m", 1, len(words), 0), messages)
    assert [choice["text"] for choice in whole["choices"]] == ["".join(pieces) for pieces in words]
    assert joined(chunks, len(words)) == [
        {name: choice[name] for name in ("text", "logprobs", "finish_reason")} for choice in whole["choices"]
    ]
    for choice in whole["choices"]:
        offsets = choice["logprobs"]["text_offset"]
        assert offsets == sorted(offsets)
        for start, text in zip(offsets, choice["logprobs"]["tokens"], strict=True):
            assert text.startswith("bytes:") or choice["text"].startswith(text, start)


class Bytes:
    """A tokenizer of one token a byte, and one id that has no token."""

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < 256 else b""


def test_a_token_is_told_by_its_text_its_bytes_and_its_likelihood():
    assert told(Bytes(), 65, -1.5) == {"id": 65, "token": "A", "bytes": [65], "logprob": -1.5}
    assert told(Bytes(), 0xE5, None) == {"id": 0xE5, "token": "bytes:\\xe5", "bytes": [0xE5]}
    assert told(Bytes(), 65, float("-inf"))["logprob"] == -9999.0


@pytest.mark.parametrize(("tokenizer", "token_id"), [(None, 7), (Bytes(), 300)])
def test_a_token_without_text_is_told_by_its_id(tokenizer, token_id):
    assert told(tokenizer, token_id, -1.0) == {"id": token_id, "token": f"token_id:{token_id}", "bytes": [], "logprob": -1.0}
