"""Admission, chunks and preemption: the budgets hold, nobody starves, and every text is computed token by token in order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError
from touchstone.infer.blocks import BlockPool
from touchstone.infer.scheduler import Limits, Scheduler, Text


def test_a_long_prompt_is_read_in_chunks_while_others_write():
    scheduler = Scheduler(BlockPool(100, 4), Limits(max_texts=4, max_step_tokens=8, max_chunk=8))
    short, long = Text([1, 2], 20), Text(list(range(30)), 40)
    scheduler.add(short)
    run_step(scheduler)
    scheduler.add(long)
    n_written = len(short.token_ids)
    steps = 0
    while long.n_left > 1 or not long.is_read:
        run_step(scheduler)
        steps += 1
    assert len(short.token_ids) - n_written == steps == 5  # 7 of 30 tokens a step beside the one that writes


def test_the_last_to_come_gives_way_and_returns():
    scheduler = Scheduler(BlockPool(4, 4), Limits(max_texts=4))
    first, second = Text([1] * 7, 14), Text([2] * 7, 14)
    scheduler.add(first)
    scheduler.add(second)
    written = drain(scheduler, [first, second])
    assert written == [first, second]
    assert (first.n_preempted, second.n_preempted > 0) == (0, True)
    assert len(second.token_ids) == 14


def test_a_choice_waits_until_its_prompt_was_read_for_the_first():
    scheduler = Scheduler(BlockPool(20, 4))
    first = Text(list(range(9)), 12)
    second = Text(list(range(9)), 12, after=first)
    scheduler.add(first)
    scheduler.add(second)
    assert [part.text for part in run_step(scheduler)] == [first]
    parts = run_step(scheduler)
    assert [part.text for part in parts] == [first, second]
    assert (parts[1].start, parts[1].end) == (8, 9)


def test_a_choice_does_not_wait_for_a_first_one_that_is_gone():
    scheduler = Scheduler(BlockPool(20, 4))
    first = Text([1, 2, 3], 6)
    second = Text([1, 2, 3], 6, after=first)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.remove(first)
    assert [part.text for part in scheduler.plan()] == [second]


def test_a_text_that_never_fits_is_refused_with_both_numbers():
    scheduler = Scheduler(BlockPool(3, 4))
    with pytest.raises(ConfigError, match=r"13 tokens, and the cache holds 12"):
        scheduler.add(Text([1], 13))


def test_removal_frees_the_room_at_once():
    scheduler = Scheduler(BlockPool(4, 4))
    text = Text([1, 2, 3, 4, 5], 10)
    scheduler.add(text)
    run_step(scheduler)
    scheduler.remove(text)
    assert scheduler.pool.n_available == 4
    assert not scheduler.plan()


def test_drafts_take_part_only_where_there_is_room():
    scheduler = Scheduler(BlockPool(2, 4))
    text = Text([1, 2, 3], 8)
    scheduler.add(text)
    run_step(scheduler)
    text.drafts = [7, 7, 7, 7, 7, 7]
    (part,) = scheduler.plan()
    assert part.n_drafts == 4  # the text may have 8 tokens and has 4
    scheduler.computed(part)
    scheduler.checked(part, 2)
    assert (text.n_computed, text.drafts) == (6, [])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=8),
    spare=st.integers(0, 10),
    block_size=st.integers(1, 5),
    limits=st.builds(Limits, max_texts=st.integers(1, 5), max_step_tokens=st.integers(1, 16), max_chunk=st.integers(1, 8)),
    cancelled=st.sets(st.integers(0, 7)),
    arrivals=st.integers(1, 3),
)
def test_every_text_ends_and_the_budgets_hold(lengths, spare, block_size, limits, cancelled, arrivals):
    longest = max(prompt + new for prompt, new in lengths)
    pool = BlockPool(-(-longest // block_size) + spare, block_size)
    scheduler = Scheduler(pool, limits)
    texts = [Text([number] * prompt, prompt + new) for number, (prompt, new) in enumerate(lengths)]
    queue, alive = list(texts), []
    for step in range(2000):
        if step % arrivals == 0 and queue:
            text = queue.pop(0)
            scheduler.add(text)
            alive.append(text)
        if step == 5:
            for number in cancelled:
                if number < len(texts) and texts[number] in alive:
                    scheduler.remove(texts[number])
                    alive.remove(texts[number])
        n_preempted = alive[0].n_preempted if alive else 0
        parts = scheduler.plan()
        assert bool(parts) == bool(alive)
        assert sum(part.n_tokens for part in parts) <= limits.max_step_tokens
        assert len(scheduler.running) <= limits.max_texts
        assert len({id(part.text) for part in parts}) == len(parts)
        if alive:
            assert alive[0].n_preempted == n_preempted, "the first to come was sent back"
        for part in parts:
            assert part.start == part.text.n_computed < part.end <= len(part.text.token_ids)
            assert part.end - part.start <= max(1, limits.max_chunk)
            assert len(part.text.table.blocks) * block_size >= part.end
        finish(scheduler, parts, alive)
        if not queue and not alive:
            break
    assert not queue
    assert not alive
    assert pool.n_used == 0


def run_step(scheduler):
    """A step that writes a 0 wherever a text can go on."""
    parts = scheduler.plan()
    finish(scheduler, parts, [part.text for part in parts])
    return parts


def finish(scheduler, parts, alive):
    for part in parts:
        scheduler.computed(part)
        if part.is_last:
            part.text.token_ids.append(0)
            if len(part.text.token_ids) >= part.text.max_length:
                scheduler.remove(part.text)
                alive.remove(part.text)


def drain(scheduler, texts):
    """Run until all are over; in which order they ended."""
    ended, alive = [], list(texts)
    for _ in range(200):
        before = list(alive)
        finish(scheduler, scheduler.plan(), alive)
        ended += [text for text in before if text not in alive]
        if not alive:
            return ended
    raise AssertionError("the texts do not end")
