import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.infer import runner as runners
from touchstone.infer.runner import NetRunner, bound_of

pytestmark = pytest.mark.slow

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
NEXT = [[8, 9, 7], [9, 3, 2], [3, 8, 4]]


def full_logits(net, token_ids):
    with torch.no_grad():
        return net(torch.tensor([token_ids])).logits[0, -1]


@pytest.mark.parametrize("prefill_tokens", [7, 2048])
def test_every_step_of_a_ragged_batch_equals_the_full_forward_pass_of_its_row(any_net, prefill_tokens):
    rows = NetRunner(any_net, prefill_tokens=prefill_tokens).prefill(PROMPTS, room=10)
    for step in range(4):
        expected = torch.stack([full_logits(any_net, prompt + new[:step]) for prompt, new in zip(PROMPTS, NEXT, strict=True)])
        torch.testing.assert_close(rows.logits.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=1e-5)
        if step < 3:
            rows.step([new[step] for new in NEXT])


def test_rows_leave_and_double_without_touching_the_others(any_net):
    rows = NetRunner(any_net).prefill(PROMPTS, room=10)
    rows.keep([2, 0, 2])
    rows.step([3, 8, 9])
    rows.keep([1, 2])
    expected = torch.stack([full_logits(any_net, [*PROMPTS[0], 8]), full_logits(any_net, [*PROMPTS[2], 9])])
    torch.testing.assert_close(rows.logits.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=1e-5)


def test_a_cache_too_long_to_allocate_ahead_grows_and_gives_the_same(net, monkeypatch):
    ahead = NetRunner(net).prefill(PROMPTS, room=10)
    monkeypatch.setattr(runners, "MAX_STATIC_TOKENS", 0)
    growing = NetRunner(net).prefill(PROMPTS, room=10)
    for rows in (ahead, growing):
        rows.step([1, 2, 3])
        rows.keep([0, 2])
        rows.step([4, 5])
    torch.testing.assert_close(growing.logits, ahead.logits, rtol=0, atol=1e-5)


def test_decoding_leaves_a_training_network_in_training_mode_and_without_dropout():
    from touchstone.models import build, decoder_spec

    net = build(decoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9, dropout=0.5), seed=1).train()
    rows = NetRunner(net).prefill(PROMPTS, room=9)
    rows.step([1, 2, 3])
    assert net.training
    net.eval()
    torch.testing.assert_close(rows.logits[1], full_logits(net, [6, 2]), rtol=0, atol=1e-5)


def test_half_precision_logits_are_widened(net):
    rows = NetRunner(net.to(torch.bfloat16)).prefill(PROMPTS, room=8)
    assert rows.logits.dtype == torch.float32


def test_a_bound_is_the_models_or_a_shorter_one(net):
    assert bound_of(net) == 24
    assert bound_of(net, 9) == 9
    with pytest.raises(ConfigError, match=r"`max_seq_len` \(25\) must be from 1 to the model's 24"):
        bound_of(net, 25)


def test_a_model_that_carries_its_state_has_no_bound_to_shorten():
    from touchstone.models import build, recurrent_spec

    net = build(recurrent_spec(vocab_size=11, d_model=5, d_hidden=7), seed=0)
    assert bound_of(net) is None
    with pytest.raises(ConfigError, match="carries its state"):
        bound_of(net, 9)
