"""The pool of cache blocks: nothing is lost, nothing is shared by mistake, and what is found holds the same tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from touchstone.errors import ConfigError
from touchstone.infer.blocks import BlockPool


def test_a_text_that_begins_alike_takes_the_full_blocks_but_leaves_one_token_to_compute():
    pool = BlockPool(8, block_size=4)
    first = pool.open(range(12))
    assert pool.grow(first, 12)
    pool.publish(first, range(12), 12)
    assert pool.open(range(12)).n_shared == 2
    assert pool.open(range(13)).n_shared == 3
    assert pool.open([*range(8), 99, 100, 101, 102, 103]).n_shared == 2
    assert pool.open([99, *range(1, 12)]).n_shared == 0


def test_tenants_share_nothing():
    pool = BlockPool(8, block_size=4)
    first = pool.open(range(9), salt="a")
    pool.grow(first, 9)
    pool.publish(first, range(9), 9)
    assert pool.open(range(9), salt="b").n_shared == 0
    assert pool.open(range(9), salt="a").n_shared == 2


def test_only_computed_tokens_are_offered():
    pool = BlockPool(8, block_size=4)
    first = pool.open(range(12))
    pool.grow(first, 12)
    pool.publish(first, range(12), 7)
    assert pool.open(range(12)).n_shared == 1


def test_the_end_of_a_finished_text_is_forgotten_before_its_beginning():
    pool = BlockPool(4, block_size=4)
    first = pool.open(range(16))
    pool.grow(first, 16)
    pool.publish(first, range(16), 16)
    pool.close(first)
    other = pool.open([50])
    assert pool.grow(other, 8)
    assert pool.open([*range(16), 1]).n_shared == 2


def test_a_wrong_text_is_not_found_again():
    pool = BlockPool(4, block_size=2)
    first = pool.open(range(6))
    pool.grow(first, 6)
    pool.publish(first, range(6), 6)
    pool.close(first, forget=True)
    assert pool.open(range(6)).n_shared == 0
    assert pool.n_available == 4


def test_growth_that_does_not_fit_takes_nothing():
    pool = BlockPool(4, block_size=2)
    table = pool.open([1])
    assert not pool.grow(table, 9)
    assert (table.blocks, pool.n_available) == ([], 4)


def test_texts_that_grow_in_turn_lie_each_in_one_run():
    pool = BlockPool(64, block_size=1)
    tables = [pool.open([n]) for n in range(4)]
    for n_tokens in range(1, 9):
        for table in tables:
            assert pool.grow(table, n_tokens)
    assert all(table.blocks == list(range(table.blocks[0], table.blocks[0] + 8)) for table in tables)


def test_a_pool_needs_a_block():
    with pytest.raises(ConfigError, match="at least one block"):
        BlockPool(0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 4))
def test_what_is_found_is_the_longest_beginning_in_whole_blocks(texts, block_size):
    pool, seen = BlockPool(200, block_size), []
    for text in texts:
        expected = max((common(text[:-1], other) for other in seen), default=0) // block_size
        table = pool.open(text)
        assert table.n_shared == expected
        pool.grow(table, len(text))
        pool.publish(table, text, len(text))
        seen.append(text)


def common(a, b):
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class PoolMachine(RuleBasedStateMachine):
    """Texts come, grow, are computed and end in any order; a shadow keeps what each block must hold."""

    @initialize(n_blocks=st.integers(1, 12), block_size=st.integers(1, 3))
    def begin(self, n_blocks, block_size):
        self.pool = BlockPool(n_blocks, block_size)
        self.texts = []  # [table, tokens, n_computed]
        self.held = {}  # block -> what was written into it: (salt, all tokens up to its end)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=10), salt=st.sampled_from([None, "a"]))
    def open(self, tokens, salt):
        table = self.pool.open(tokens, salt)
        for number, block in enumerate(table.blocks):
            assert self.held[block] == (salt, tuple(tokens[: (number + 1) * self.pool.block_size]))
        self.texts.append([table, list(tokens), len(table.blocks) * self.pool.block_size])

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def compute(self, data):
        text = data.draw(st.sampled_from(self.texts))
        table, tokens, n_computed = text
        end = data.draw(st.integers(n_computed, len(tokens)))
        before = self.pool.n_available
        if not self.pool.grow(table, end):
            assert self.pool.n_missing(table, end) > before == self.pool.n_available
            return
        for number in range(n_computed // self.pool.block_size, self.pool.n_needed(end)):
            assert number >= table.n_shared, "a shared block is written to"
            stop = min(end, (number + 1) * self.pool.block_size)
            self.held[table.blocks[number]] = (table.salt, tuple(tokens[:stop]))
        self.pool.publish(table, tokens, end)
        text[2] = end

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), token=st.integers(0, 1))
    def write(self, data, token):
        data.draw(st.sampled_from(self.texts))[1].append(token)

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), forget=st.booleans())
    def close(self, data, forget):
        text = data.draw(st.sampled_from(self.texts))
        self.texts.remove(text)
        self.pool.close(text[0], forget=forget)

    @invariant()
    def nothing_is_lost_or_owned_twice(self):
        if not hasattr(self, "pool"):
            return
        owned = [block for table, _, _ in self.texts for block in table.blocks]
        private = [block for table, _, _ in self.texts for block in table.blocks[table.n_shared :] if block not in self.pool._published]
        assert len(private) == len(set(private))
        assert all(owned.count(block) == n for block, n in enumerate(self.pool._n_users))
        assert len(set(owned)) + self.pool.n_available == self.pool.n_blocks
        assert self.pool._n_free == self.pool._state.count(0)

    @invariant()
    def the_computed_part_of_every_text_is_intact(self):
        for table, tokens, n_computed in getattr(self, "texts", ()):
            for number in range(n_computed // self.pool.block_size):
                end = (number + 1) * self.pool.block_size
                assert self.held[table.blocks[number]] == (table.salt, tuple(tokens[:end]))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
