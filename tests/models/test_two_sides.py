"""Networks with an encoder: alone, or beside a decoder that looks at it - attention and recurrent ones by the same tests."""

import pytest
import torch

from touchstone.errors import ShapeError, UnknownName, Unsupported
from touchstone.models import (
    ClassifyHead,
    build,
    encoder_decoder_spec,
    encoder_spec,
    recurrent_encoder_decoder_spec,
    recurrent_encoder_spec,
)

B, T, S, V, D = 3, 5, 7, 11, 12
SIZES = {"vocab_size": V, "d_model": D, "n_heads": 3, "n_encoder_layers": 2, "n_decoder_layers": 3, "d_ff": 17}
T5 = {"norm": "rms", "norm_place": "pre", "bias": False, "positions": "relative", "attention_scale": 1.0}
PAIRS = {
    "original transformer": lambda: encoder_decoder_spec(**SIZES, max_seq_len=9),
    "pre-norm, learned": lambda: encoder_decoder_spec(**SIZES, max_seq_len=9, norm_place="pre", positions="learned", input_norm=True),
    "distances": lambda: encoder_decoder_spec(**SIZES, **T5),
    "rotary, inner norm": lambda: encoder_decoder_spec(**SIZES, max_seq_len=9, positions="rotary", norm_place="inner", d_head=6),
    "lstm": lambda: recurrent_encoder_decoder_spec(vocab_size=V, d_model=5, d_hidden=6, n_decoder_layers=2),
    "gru, scaled dot": lambda: recurrent_encoder_decoder_spec(vocab_size=V, d_model=5, d_hidden=8, cell="gru", score="scaled_dot"),
}
SOURCE_MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)


def random_net(spec):
    net = build(spec).double()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.4, generator=rng)
    return net.eval()


def ids(n_rows, n_tokens, seed=1):
    return torch.randint(0, V, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=PAIRS.values(), ids=PAIRS.keys())
def net(request):
    return random_net(request.param())


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_spec_counts_the_parameters_that_are_built(net):
    assert sum(parameter.numel() for parameter in net.parameters()) == net.spec.n_parameters()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "static"])
@torch.no_grad()
def test_cached_steps_equal_one_full_pass_and_read_the_source_once(net, kind):
    target, source = ids(B, T), ids(B, S, 2)
    full = net(target, source_ids=source, source_mask=SOURCE_MASK).logits
    cache = net.new_cache(B, kind=kind, max_seq_len=T)
    steps = [net(target[:, :2], source_ids=source, source_mask=SOURCE_MASK, cache=cache).logits]
    steps += [net(target[:, t : t + 1], cache=cache).logits for t in range(2, T)]
    close(torch.cat(steps, dim=1), full)


@pytest.mark.slow
@torch.no_grad()
def test_padding_of_the_source_changes_nothing(net):
    target, source = ids(B, T), ids(B, S, 2)
    together = net(target, source_ids=source, source_mask=SOURCE_MASK).logits
    for row in range(B):
        alone = net(target[row : row + 1], source_ids=source[row : row + 1, SOURCE_MASK[row]]).logits
        close(together[row : row + 1], alone)


@pytest.mark.slow
@torch.no_grad()
def test_rows_of_a_cache_are_kept_named_twice_and_restored_with_their_sources(net):
    target, source = ids(B, T), ids(B, S, 2)
    cache = net.new_cache(B)
    net(target[:, :3], source_ids=source, source_mask=SOURCE_MASK, cache=cache)
    snapshot = cache.snapshot()
    rows = torch.tensor([2, 0, 2, 1])
    cache.keep(rows)
    expected = net(target[rows][:, :4], source_ids=source[rows], source_mask=SOURCE_MASK[rows]).logits[:, 3:]
    close(net(target[rows][:, 3:4], cache=cache).logits, expected)
    cache.restore(snapshot)
    close(net(target[:, 3:4], cache=cache).logits, net(target[:, :4], source_ids=source, source_mask=SOURCE_MASK).logits[:, 3:])


@torch.no_grad()
def test_memory_stands_in_for_the_source(net):
    target, source = ids(B, T), ids(B, S, 2)
    full = net(target, source_ids=source, source_mask=SOURCE_MASK)
    assert full.encoder is not None
    again = net(target, memory=full.encoder.hidden, source_mask=SOURCE_MASK)
    close(again.logits, full.logits)
    assert again.encoder is None
    close(net.read_source(source, SOURCE_MASK).hidden, full.encoder.hidden)


@torch.no_grad()
def test_cross_attention_is_a_distribution_over_the_source_tokens_that_count(net):
    output = net(ids(B, T), source_ids=ids(B, S, 2), source_mask=SOURCE_MASK, want=["cross_attentions"])
    for weights in output.cross_attentions.values():
        close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
        assert float(weights.masked_fill(SOURCE_MASK[:, None, None], 0.0).abs().max()) == 0.0
    assert sorted(output.cross_attentions) == list(range(3)) if hasattr(net.decoder.spec, "blocks") else [0]


def test_a_source_is_asked_for_and_given_once(net):
    target, source = ids(B, T), ids(B, S, 2)
    with pytest.raises(ShapeError, match="needs a source"):
        net(target)
    cache = net.new_cache(B)
    net(target, source_ids=source, cache=cache)
    with pytest.raises(ShapeError, match="holds its source already"):
        net(target, source_ids=source, cache=cache)


@torch.no_grad()
def test_what_the_encoder_did_is_had_under_its_name():
    net = random_net(PAIRS["distances"]())
    output = net(ids(B, T), source_ids=ids(B, S, 2), want=["encoder.attentions.1", "encoder.hiddens", "hiddens.3"])
    assert sorted(output.encoder.attentions) == [1]
    assert sorted(output.encoder.hiddens) == [0, 1, 2]
    assert sorted(output.hiddens) == [3]
    with pytest.raises(UnknownName, match="hidens"):
        net(ids(B, T), source_ids=ids(B, S, 2), want=["encoder.hidens"])


def test_every_parameter_has_a_gradient(net):
    net.train()
    net(ids(B, T), source_ids=ids(B, S, 2)).logits.square().sum().backward()
    missing = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not missing


@torch.no_grad()
def test_a_recurrent_decoder_answers_by_its_equations():
    """One step written out: h from the cell, scores v . tanh(q + k), h' = tanh(W h + o(mixed)); the first state from both ends."""
    net = random_net(recurrent_encoder_decoder_spec(vocab_size=V, d_model=5, d_hidden=6, cell="gru"))
    source, token = ids(1, S, 2), ids(1, 1)
    memory = net.read_source(source, None).hidden[0]  # (S, 6): three of each way
    state = torch.tanh(net.bridge.weight @ torch.cat([memory[-1, :3], memory[0, 3:]]) + net.bridge.bias)
    cell, x = net.decoder.layers[0].cell, net.embed.weight[token[0, 0]]
    gates = (cell.weight_ih_l0 @ x + cell.bias_ih_l0).chunk(3), (cell.weight_hh_l0 @ state + cell.bias_hh_l0).chunk(3)
    reset, update = torch.sigmoid(gates[0][0] + gates[1][0]), torch.sigmoid(gates[0][1] + gates[1][1])
    h = (1 - update) * torch.tanh(gates[0][2] + reset * gates[1][2]) + update * state
    attn = net.decoder.cross_attn
    scores = torch.stack([attn.score_vector[0] @ torch.tanh(attn.q_proj.weight @ h + attn.k_proj.weight @ m) for m in memory])
    mixed = attn.o_proj.weight @ sum(w * (attn.v_proj.weight @ m) for w, m in zip(scores.softmax(0), memory, strict=True))
    close(net(token, source_ids=source).hidden[0, 0], torch.tanh(net.decoder.hidden_proj.weight @ h + mixed))


ENCODERS = {
    "bert": lambda: encoder_spec(vocab_size=V, d_model=D, n_layers=2, n_heads=3, max_seq_len=9),
    "bag of words": lambda: encoder_spec(
        vocab_size=V, d_model=5, n_layers=0, n_heads=1, max_seq_len=9, positions="none", n_token_types=0, head=_labels("mean")
    ),
    "both ways": lambda: recurrent_encoder_spec(vocab_size=V, d_model=5, d_hidden=4, n_layers=2, head=_labels("max")),
    "first": lambda: encoder_spec(vocab_size=V, d_model=D, n_layers=1, n_heads=2, max_seq_len=9, head=_labels("first", "tanh")),
    "last": lambda: encoder_spec(vocab_size=V, d_model=D, n_layers=1, n_heads=2, max_seq_len=9, norm_place="pre", head=_labels("last")),
}


def _labels(pooling, activation=None):
    return ClassifyHead(n_labels=4, pooling=pooling, activation=activation)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_an_encoder_reads_a_padded_row_as_it_reads_it_alone(name):
    net, token_ids = random_net(ENCODERS[name]()), ids(B, S)
    assert sum(parameter.numel() for parameter in net.parameters()) == net.spec.n_parameters()
    together = net(token_ids, mask=SOURCE_MASK).logits
    for row in range(B):
        alone = net(token_ids[row : row + 1, SOURCE_MASK[row]]).logits[0]
        close(together[row] if together.ndim == 2 else together[row, SOURCE_MASK[row]], alone)


def test_an_encoder_has_no_cache_and_takes_no_source():
    net = random_net(ENCODERS["bert"]())
    with pytest.raises(Unsupported, match="reads a text whole"):
        net.new_cache(B)
    with pytest.raises(ShapeError, match="one side"):
        net(ids(B, S), source_ids=ids(B, S))


@torch.no_grad()
def test_token_types_add_their_vectors_and_none_means_the_first():
    net, token_ids = random_net(ENCODERS["bert"]()), ids(B, S)
    types = (torch.arange(S) > 3).long().expand(B, S)
    close(net(token_ids, token_types=torch.zeros_like(types)).logits, net(token_ids).logits)
    given = net.embed.weight[token_ids] + net.embed.token_types[types] - net.embed.token_types[0]
    close(net(None, embeddings=given).logits, net(token_ids, token_types=types).logits)
    with pytest.raises(ShapeError, match="from 0 to 1"):
        net(token_ids, token_types=types + 1)
