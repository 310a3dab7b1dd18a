import pytest
import torch
from transformers.generation.logits_process import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from touchstone.infer.rules import (
    BannedRuns,
    BannedTokens,
    ForcedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatedRuns,
    RepetitionPenalty,
)

pytestmark = pytest.mark.slow  # transformers takes seconds to import

V = 11
CPU = torch.device("cpu")
PROMPT, NEW = [3, 7, 3], [7, 1, 1, 4]


@pytest.fixture
def logits():
    return torch.randn(V, generator=torch.Generator().manual_seed(5)) * 3


@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
def test_repetition_penalty_equals_hugging_face_over_prompt_and_completion(logits, penalty):
    rule = RepetitionPenalty(penalty, PROMPT, V, CPU)
    for token in NEW:
        rule.accept(token)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([PROMPT + NEW]), logits[None].clone())[0]
    torch.testing.assert_close(rule.apply(logits), theirs, rtol=0, atol=0)


def test_logit_bias_equals_hugging_face(logits):
    bias = {2: -100.0, 9: 1.5}
    theirs = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})(torch.tensor([PROMPT]), logits[None].clone())[
        0
    ]
    torch.testing.assert_close(LogitBias(bias, CPU).apply(logits), theirs, rtol=0, atol=0)


def test_minimum_length_equals_hugging_face_at_every_step(logits):
    rule = MinNewTokens(2, {0, 5}, CPU)
    theirs = MinNewTokensLengthLogitsProcessor(len(PROMPT), 2, [0, 5])
    for n in range(4):
        expected = theirs(torch.tensor([PROMPT + NEW[:n]]), logits[None].clone())[0]
        torch.testing.assert_close(rule.apply(logits), expected, rtol=0, atol=0)
        rule.accept(NEW[n])


STEPS = {
    "runs of 1": (lambda: NoRepeatedRuns(1, PROMPT), NoRepeatNGramLogitsProcessor(1)),
    "runs of 2": (lambda: NoRepeatedRuns(2, PROMPT), NoRepeatNGramLogitsProcessor(2)),
    "runs of 3": (lambda: NoRepeatedRuns(3, PROMPT), NoRepeatNGramLogitsProcessor(3)),
    "longer than the text": (lambda: NoRepeatedRuns(9, PROMPT), NoRepeatNGramLogitsProcessor(9)),
    "banned runs": (
        lambda: BannedRuns([(5,), (3, 7), (3, 7, 1), (1, 1), (9, 9, 9, 9, 9, 9, 9, 9)], PROMPT),
        NoBadWordsLogitsProcessor([[5], [3, 7], [3, 7, 1], [1, 1], [9] * 8]),
    ),
    "banned": (lambda: BannedTokens([2, 9], CPU), SuppressTokensLogitsProcessor([2, 9])),
    "banned first": (lambda: BannedTokens([2, 9], CPU, at=0), SuppressTokensAtBeginLogitsProcessor([2, 9], len(PROMPT))),
    "banned second": (lambda: BannedTokens([2, 9], CPU, at=1), SuppressTokensAtBeginLogitsProcessor([2, 9], len(PROMPT) + 1)),
    "forced last": (lambda: ForcedTokens([4, 6], 3, CPU), ForcedEOSTokenLogitsProcessor(len(PROMPT) + 4, [4, 6])),
}


@pytest.mark.parametrize(("make", "theirs"), STEPS.values(), ids=STEPS)
def test_bans_and_forced_tokens_equal_hugging_face_at_every_step(make, theirs, logits):
    rule = make()
    for n in range(len(NEW) + 1):
        expected = theirs(torch.tensor([PROMPT + NEW[:n]]), logits[None].clone())[0]
        torch.testing.assert_close(rule.apply(logits), expected, rtol=0, atol=0)
        rule.accept([*NEW, 0][n])


def test_a_forced_first_token_equals_hugging_face_after_a_start_token(logits):
    rule, theirs = ForcedTokens([6], 0, CPU), ForcedBOSTokenLogitsProcessor(6)
    for n in range(3):
        expected = theirs(torch.tensor([[3, *NEW[:n]]]), logits[None].clone())[0]
        torch.testing.assert_close(rule.apply(logits), expected, rtol=0, atol=0)
        rule.accept(NEW[n])


def test_frequency_and_presence_follow_the_openai_formula_over_the_completion_only():
    rule = FrequencyPenalty(0.5, 0.25, V, CPU)
    for token in NEW:
        rule.accept(token)
    # mu[j] - c[j] * frequency - (c[j] > 0) * presence, with c = {1: 2, 4: 1, 7: 1}; token 3 stands in the prompt alone
    expected = torch.zeros(V)
    expected[1], expected[4], expected[7] = -1.25, -0.75, -0.75
    torch.testing.assert_close(rule.apply(torch.zeros(V)), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepetitionPenalty(1.7, PROMPT, V, CPU),
        lambda: FrequencyPenalty(0.5, 0.25, V, CPU),
        lambda: MinNewTokens(2, {0, 5}, CPU),
        lambda: LogitBias({2: 1.5}, CPU),
        *(make for make, _ in STEPS.values()),
        lambda: ForcedTokens([6], 1, CPU),
    ],
)
def test_rolled_back_tokens_leave_no_trace(make, logits):
    taken_back, straight = make(), make()
    for token in (1, 1, 8, 3):
        taken_back.accept(token)
    taken_back.rollback(3)
    straight.accept(1)
    torch.testing.assert_close(taken_back.apply(logits), straight.apply(logits), rtol=0, atol=0)
    for rule in (taken_back, straight):
        rule.accept(6)
    torch.testing.assert_close(taken_back.apply(logits), straight.apply(logits), rtol=0, atol=0)


def test_rules_leave_their_argument_as_it_was(logits):
    before = logits.clone()
    for rule in (
        RepetitionPenalty(2.0, PROMPT, V, CPU),
        FrequencyPenalty(1.0, 1.0, V, CPU),
        MinNewTokens(1, {0}, CPU),
        LogitBias({1: 2.0}, CPU),
        NoRepeatedRuns(1, PROMPT),
        BannedRuns([(5,)], PROMPT),
        BannedTokens([2], CPU),
        ForcedTokens([2], 1, CPU),
    ):
        rule.accept(1)
        rule.apply(logits)
        MinNewTokens(1, {0}, CPU).apply(logits)
        torch.testing.assert_close(logits, before, rtol=0, atol=0)
