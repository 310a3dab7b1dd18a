"""A thousand drawn grammars and patterns, each followed for eighty tokens: none hangs, and none costs more than its budget.

Some grammars kept llguidance busy for ever. What is drawn here is what such grammars are made of: lexemes that overlap, rules that
call themselves, counts, and ends that never come. Takes half a minute of one core.
"""

import random
import time

import pytest
import torch

from touchstone.errors import TouchstoneError
from touchstone.infer.request import Request
from touchstone.prompt.constrain import GRACE_S, Constrainer
from touchstone.prompt.trial import STEP_S
from touchstone.text.tokenizer import Tokenizer

N_GRAMMARS = 1000
N_TOKENS = 80
ONE_STEP_S = 1.0  # a step is made before its cost is known: one more than the budget holds, on a slow machine too

pytestmark = pytest.mark.prove

ATOMS = ["a", "b", "[a-c]", "[a-z ]", ".", "(a|b)", "a?", "ab", r"\w", "[^a]", "(?i:a)", " "]
COUNTS = ["*", "+", "?", "{0,5}", "{3}", "{2,40}", "{0,100}", "{20}", "{0,200}"]


def pattern(draw, depth):
    return "".join(part(draw, depth) for _ in range(draw.randint(1, 3)))


def part(draw, depth):
    kind = draw.random()
    if depth == 0 or kind < 0.35:
        return draw.choice(ATOMS)
    if kind < 0.55:
        return f"({pattern(draw, depth - 1)}){draw.choice(COUNTS)}"
    if kind < 0.7:
        return f"({pattern(draw, depth - 1)}|{pattern(draw, depth - 1)})"
    return draw.choice(ATOMS) + draw.choice(COUNTS)


def lark(draw):
    lexemes = [f"T{n}" for n in range(draw.randint(1, 4))]
    rules = [f"r{n}" for n in range(draw.randint(0, 3))]

    def item():
        return draw.choice([*lexemes, *rules, '"a"', '"b"', '"ab"']) + draw.choice(["", "", "*", "+", "?", "{3}", "{0,9}"])

    def rule():
        return " | ".join(" ".join(item() for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(1, 3)))

    lines = [f"{name}: {rule()}" for name in ("start", *rules)] + [f"{name}: /{pattern(draw, 2)}/" for name in lexemes]
    return "\n".join(lines + draw.choice([[], [], ["%ignore / /"], ["%ignore /a+/"]]))


def followed(rule, draw, n_rows):
    """The processor's time for the text's tokens, each one that the grammar allows, and the longest step."""
    began, longest = time.thread_time(), 0.0
    for _ in range(N_TOKENS):
        step = time.thread_time()
        allowed = torch.isfinite(rule.apply(torch.zeros(n_rows))).nonzero().flatten().tolist()
        longest = max(longest, time.thread_time() - step)
        rule.accept(draw.choice([token_id for token_id in allowed if token_id] or allowed))
        if rule.must_stop:
            break
    return time.thread_time() - began, longest


def test_no_drawn_grammar_hangs_or_costs_more_than_its_budget(capsys):
    tokenizer = Tokenizer.train(["aab abc a b cab ba  cc xyz"] * 9, kind="bpe", vocab_size=265, specials=("<|endoftext|>",))
    constrainer = Constrainer(tokenizer, [0], tokenizer.vocab_size)
    n_refused = n_cut = 0
    costs, longest = [], 0.0
    for seed in range(N_GRAMMARS):
        draw = random.Random(seed)
        try:
            factory = constrainer.grammar(lark(draw)) if draw.random() < 0.7 else constrainer.regex(pattern(draw, 4))
        except TouchstoneError:
            n_refused += 1
            continue
        rule = factory(Request([1]))
        try:
            cost, step = followed(rule, draw, tokenizer.vocab_size)
        except TouchstoneError:
            n_cut += 1
            continue
        costs.append(cost)
        longest = max(longest, step)
    assert len(costs) > N_GRAMMARS // 2
    assert max(costs) < GRACE_S + N_TOKENS * STEP_S + ONE_STEP_S
    with capsys.disabled():
        print(f"\n{N_GRAMMARS} grammars: {n_refused} refused, {n_cut} cut off, the dearest {max(costs):.2f} s, one step {longest:.3f} s")
