"""The decoder, in every combination that its specs allow: cached, padded, packed and trimmed runs against one full pass."""

import itertools

import pytest
import torch

from touchstone.errors import ShapeError, UnknownName, Unsupported
from touchstone.models import Stack, build, decoder_spec
from touchstone.models.net import Inputs, check_rows
from touchstone.nn.cache import AttentionState
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.mask import NO_ORDER

B, T, V = 3, 7, 11
POSITIONS = ("rotary", "learned", "sinusoidal", "alibi", "none")
ACTIVATIONS = ("relu", "relu2", "gelu", "gelu_tanh", "silu")
KINDS = ("growing", "static")


def combinations():
    """Positions × kernel × window × key-value heads in full; the other choices take their turns, each value with each of these."""
    turns = zip(
        itertools.cycle(("pre", "post", "inner")),
        itertools.cycle((True, False)),
        itertools.cycle(ACTIVATIONS),
        itertools.cycle((False, False, True)),
        itertools.cycle((True, False, False, True)),
        itertools.cycle(("rms", "layer")),
        strict=False,
    )
    full = itertools.product(POSITIONS, ("reference", "sdpa"), (None, 3), (4, 2))
    for number, ((positions, kernel, window, n_kv_heads), turn) in enumerate(zip(full, turns, strict=False)):
        norm_place, gated, activation, qk_norm, tied, norm = turn
        settings = {
            "positions": positions,
            "window": window,
            "n_kv_heads": n_kv_heads,
            "norm_place": norm_place,
            "gated": gated,
            "activation": activation,
            "qk_norm": qk_norm,
            "tied": tied,
            "norm": norm,
            "bias": norm == "layer",
        }
        name = f"{positions} {kernel} {norm_place} {norm} window={window} kv={n_kv_heads} {activation}{' gated' if gated else ''}"
        name += (" qk_norm" if qk_norm else "") + (" tied" if tied else "")
        yield pytest.param(kernel, settings, id=name, marks=pytest.mark.slow if number % 7 else ())  # every value is among the quick


EVERY = pytest.mark.parametrize(("kernel", "settings"), list(combinations()))
EVERY_POSITION = pytest.mark.parametrize("positions", POSITIONS)
EVERY_POSITION_IN_TIME = pytest.mark.parametrize(  # the two that a cache can get wrong are quick
    "positions", ["rotary", "alibi", *(pytest.param(name, marks=pytest.mark.slow) for name in ("learned", "sinusoidal", "none"))]
)


def decoder(kernel="sdpa", train=False, **settings):
    sizes = {"vocab_size": V, "d_model": 8, "n_layers": 2, "n_heads": 4, "max_seq_len": 16, "d_ff": 10}
    net = build(decoder_spec(**(sizes | settings)), kernel=kernel, seed=1)
    with torch.no_grad():
        for parameter in net.parameters():  # large enough that every part shows in the logits
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.3)
    return net.train(train)


def ids(n_rows=B, n_tokens=T):
    return torch.randint(0, V, (n_rows, n_tokens), generator=torch.Generator().manual_seed(4))


def cache_of(net, kind, n_rows=B):
    return net.new_cache(n_rows, kind=kind, max_seq_len=16)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_steps_equal_one_full_pass(kernel, settings, kind):
    net, token_ids = decoder(kernel, **settings), ids()
    full = net(token_ids).logits
    cache = cache_of(net, kind)
    steps = torch.cat([net(token_ids[:, t : t + 1], cache=cache).logits for t in range(T)], dim=1)
    close(steps, full)
    assert cache.lengths.tolist() == [T] * B
    assert full.std() > 0.1  # a network that says nothing would agree with itself too


@pytest.mark.parametrize("positions", ["rotary", "alibi", "none"])
@torch.no_grad()
def test_attention_weights_are_those_of_the_papers(positions):
    """Of a first layer, with a padded row: rotary turns pairs as complex numbers, ALiBi takes 2^-2h per step off head h = 1 to 4."""
    net = decoder("reference", positions=positions, d_head=6, n_layers=1)
    token_ids, mask = ids(2), torch.tensor([[1] * T, PLACES["middle"]], dtype=torch.bool)
    attn, x = net.decoder.layers[0].attn, net.decoder.layers[0].norm1(net.embed(token_ids))
    q, k = (linear(x).view(2, T, 4, 6).double() for linear in (attn.q_proj, attn.k_proj))
    weights = net(token_ids, mask=mask, want=["attentions"]).attentions[0]
    turn = 10_000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)

    def score(row, head, query, key):
        first, second = (torch.complex(t[:3], t[3:]) for t in (q[row, query, head], k[row, key, head]))
        distance = int(mask[row, :query].sum()) - int(mask[row, :key].sum())
        if positions == "rotary":
            first = first * torch.polar(torch.ones_like(turn), turn * distance)
        penalty = 2.0 ** (-2 * (head + 1)) * distance if positions == "alibi" else 0.0
        return float((first * second.conj()).real.sum()) / 6**0.5 - penalty

    for row, head, query in itertools.product(range(2), range(4), range(T)):
        if mask[row, query]:
            keys = [key for key in range(query + 1) if mask[row, key]]
            expected = torch.tensor([score(row, head, query, key) for key in keys]).softmax(0)
            close(weights[row, head, query, keys], expected)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@torch.no_grad()
def test_a_table_is_added_to_the_embeddings_at_the_place_of_each_token(positions):
    net, token_ids = decoder(positions=positions), ids(1)
    mask = torch.tensor([PLACES["middle"]], dtype=torch.bool)
    entering = net(token_ids, mask=mask, want=["hiddens.0"]).hiddens[0]
    for column, place in zip((0, 2, 3, 6), range(4), strict=True):
        close(entering[0, column], net.embed.weight[token_ids[0, column]] + net.decoder.positions.weight[place])


@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(3, 5), (1, 6), (4,)])
@torch.no_grad()
def test_chunks_equal_one_full_pass(positions, kind, cuts):
    net, token_ids = decoder(positions=positions, window=4), ids()
    cache = cache_of(net, kind)
    chunks = [net(chunk, cache=cache).logits for chunk in token_ids.tensor_split(cuts, dim=1)]
    close(torch.cat(chunks, dim=1), net(token_ids).logits)


PLACES = {  # where the 4 counting tokens of a row stand among 7
    "right": [1, 1, 1, 1, 0, 0, 0],
    "left": [0, 0, 0, 1, 1, 1, 1],
    "middle": [1, 0, 1, 1, 0, 0, 1],
}


@EVERY
@torch.no_grad()
def test_padding_anywhere_equals_the_row_alone(kernel, settings):
    net, token_ids = decoder(kernel, **settings), ids(4)
    mask = torch.tensor([*PLACES.values(), [1] * T], dtype=torch.bool)
    padded = net(token_ids, mask=mask).logits
    for row in range(4):
        close(padded[row, mask[row]], net(token_ids[row : row + 1, mask[row]]).logits[0])
    assert bool(padded.isfinite().all())


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_steps_after_padded_prompts_equal_each_row_alone(kernel, settings, kind):
    """A ragged prompt, then one token a row, then a chunk in which one row rests."""
    net, token_ids = decoder(kernel, **settings), ids(4, 12)
    mask = torch.tensor([[*place, 1, *tail] for place, tail in zip([*PLACES.values(), [1] * T], RESTS, strict=True)], dtype=torch.bool)
    cache = cache_of(net, kind, 4)
    slices = [slice(0, 7), slice(7, 8), slice(8, 10), slice(10, 12)]
    logits = torch.cat([net(token_ids[:, s], mask=mask[:, s], cache=cache).logits for s in slices], dim=1)
    for row in range(4):
        close(logits[row, mask[row]], net(token_ids[row : row + 1, mask[row]]).logits[0])
    assert cache.lengths.tolist() == mask.sum(1).tolist()


RESTS = ([1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1])


@EVERY
@torch.no_grad()
def test_packed_documents_equal_rows_of_their_own(kernel, settings):
    net, token_ids = decoder(kernel, **settings), ids()
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [5, 5, 2, 2, 2, 2, 9], [3] * 7])
    packed = net(token_ids, segments=segments).logits
    for row, document in torch.tensor([(r, d) for r in range(B) for d in set(segments[r].tolist())]):
        own = segments[row] == document
        close(packed[row, own], net(token_ids[row : row + 1, own]).logits[0])


@EVERY_POSITION
@torch.no_grad()
def test_packed_documents_with_padding_anywhere_equal_rows_of_their_own(positions):
    net, token_ids = decoder(positions=positions, window=3), ids()
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(B, -1)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    packed = net(token_ids, mask=mask, segments=segments).logits
    for row, document in itertools.product(range(B), range(2)):
        own = (segments[row] == document) & mask[row]
        close(packed[row, own], net(token_ids[row : row + 1, own]).logits[0])


def ragged_start(net, kind):
    """Three rows of 5, 3 and 4 tokens in a cache, and those tokens."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 1]], dtype=torch.bool)
    token_ids = ids(B, 5)
    cache = cache_of(net, kind)
    net(token_ids, mask=mask, cache=cache)
    return cache, [token_ids[row, mask[row]].tolist() for row in range(B)]


def says(net, cache, texts, column):
    """Append one token to each row; its logits must be those of the whole row read at once."""
    logits = net(torch.tensor(column)[:, None], cache=cache).logits[:, 0]
    texts = [[*text, token] for text, token in zip(texts, column, strict=True)]
    for row, text in enumerate(texts):
        close(logits[row], net(torch.tensor([text])).logits[0, -1])
    return texts


@pytest.mark.slow
@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_kept_reordered_and_named_twice_go_on_as_themselves(positions, kind):
    net = decoder(positions=positions, n_kv_heads=2)
    cache, texts = ragged_start(net, kind)
    for rows, column in (([2, 0, 1], [1, 2, 3]), ([1, 1, 0, 2, 2], [4, 5, 6, 7, 8]), ([4, 3], [9, 10])):
        if len(rows) == len(texts):
            cache.reorder(torch.tensor(rows))
        else:
            cache.keep(torch.tensor(rows))
        texts = says(net, cache, [texts[row] for row in rows], column)


@pytest.mark.slow
@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [(2, 3, 0), (5, 1, 4), (0, 0, 0)])
@torch.no_grad()
def test_trimmed_rows_go_on_from_where_they_were_cut(positions, kind, kept):
    net = decoder(positions=positions, n_kv_heads=2)
    cache, texts = ragged_start(net, kind)
    texts = says(net, cache, texts, [1, 2, 3])
    cache.trim(torch.tensor(kept))
    texts = [text[:length] for text, length in zip(texts, kept, strict=True)]
    for column in ([4, 5, 6], [7, 8, 9]):
        texts = says(net, cache, texts, column)


@pytest.mark.slow
@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_snapshot_is_returned_to_as_often_as_wanted(positions, kind):
    net = decoder(positions=positions, n_kv_heads=2)
    cache, texts = ragged_start(net, kind)
    snapshot = cache.snapshot()
    for column in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        after = says(net, cache, texts, column)
        says(net, cache, after, [0, 0, 0])
        cache.keep(torch.tensor([1]))
        cache.restore(snapshot)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_that_is_all_padding_is_finite_and_keeps_its_state(kind):
    net = decoder()
    cache, texts = ragged_start(net, kind)
    mask = torch.tensor([[1], [0], [1]], dtype=torch.bool)
    out = net(torch.tensor([[1], [2], [3]]), mask=mask, cache=cache)
    assert bool(out.logits.isfinite().all())
    assert cache.lengths.tolist() == [6, 3, 5]
    says(net, cache, [[*texts[0], 1], texts[1], [*texts[2], 3]], [4, 5, 6])


@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
def test_gradients_of_a_batch_with_an_empty_row_are_those_of_the_other_rows(positions, kernel):
    net, token_ids = decoder(kernel, train=True, positions=positions), ids()
    mask = torch.tensor([PLACES["left"], [0] * T, PLACES["right"]], dtype=torch.bool)
    parameters = list(net.parameters())
    batch = torch.autograd.grad(net(token_ids, mask=mask).logits[mask].square().sum(), parameters)
    rows = torch.stack([token_ids[row, mask[row]] for row in (0, 2)])
    alone = torch.autograd.grad(net(rows).logits.square().sum(), parameters)
    for ours, theirs in zip(batch, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@EVERY_POSITION_IN_TIME
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("mask", [None, [PLACES["left"], PLACES["middle"], [1] * T]], ids=["plain", "padded"])
def test_the_kernels_agree_in_training_gradients_included(positions, window, mask):
    mask = None if mask is None else torch.tensor(mask, dtype=torch.bool)
    results = []
    for kernel in ("reference", "sdpa"):
        net = decoder(kernel, train=True, positions=positions, window=window, n_kv_heads=2)
        logits = net(ids(), mask=mask).logits
        counted = logits if mask is None else logits[mask]
        results.append((counted, *torch.autograd.grad(counted.square().mean(), list(net.parameters()))))
    for theirs, ours in zip(*results, strict=True):
        close(ours, theirs)


@EVERY_POSITION_IN_TIME
def test_accumulated_gradients_equal_the_big_batch_with_dropout_on(positions):
    net, token_ids = decoder(train=True, positions=positions, dropout=0.3), ids(5)
    keys, parameters = torch.tensor([9, 2**40, -3, 17, 5]), list(net.parameters())

    def gradients(rows):
        total = net(token_ids[rows], noise=Noise(keys[rows])).logits.square().sum()
        return torch.autograd.grad(total, parameters)

    parts = [gradients(rows) for rows in (slice(0, 1), slice(1, 3), slice(3, 5))]
    for whole, *pieces in zip(gradients(slice(0, 5)), *parts, strict=True):
        torch.testing.assert_close(sum(pieces), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dropout_draws_anew_for_another_key_only():
    net, token_ids = decoder(train=True, dropout=0.3), ids()
    first = net(token_ids, noise=Noise(torch.tensor([1, 2, 3]))).logits
    second = net(token_ids, noise=Noise(torch.tensor([1, 4, 3]))).logits
    assert torch.equal(first[0::2], second[0::2])
    assert not torch.allclose(first[1], second[1])


@torch.no_grad()
def test_every_dropout_of_a_network_has_a_site_of_its_own():
    net = decoder(dropout=0.3)
    sites = [module.site for module in net.modules() if isinstance(module, Dropout)]
    assert sorted(sites) == list(range(len(sites)))
    assert len(sites) == 2 + 2 * 4  # embeddings and last states; weights, attention, inner features and MLP of each layer


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@torch.no_grad()
def test_attention_weights_come_for_the_layers_asked_for(kernel):
    net, token_ids = decoder(kernel, n_layers=3, n_kv_heads=2), ids()
    plain = net(token_ids)
    some = net(token_ids, want=["attentions.0", "attentions.2"])
    assert plain.attentions == {}
    assert sorted(some.attentions) == [0, 2]
    assert sorted(net(token_ids, want=["attentions"]).attentions) == [0, 1, 2]
    close(some.logits, plain.logits)
    for weights in some.attentions.values():
        assert weights.shape == (B, 4, T, T)
        close(weights.sum(-1), torch.ones(B, 4, T))
        assert torch.equal(weights, weights.tril())


@torch.no_grad()
def test_hidden_states_come_for_the_layers_asked_for():
    net, token_ids = decoder(n_layers=2, norm_place="post"), ids()
    out = net(token_ids, want=["hiddens"])
    assert sorted(out.hiddens) == [0, 1, 2]
    close(out.hiddens[0], net.embed(token_ids))
    close(out.hiddens[2], out.hidden)  # post-norm: nothing comes after the last layer
    assert sorted(net(token_ids, want=["hiddens.1"]).hiddens) == [1]


@pytest.mark.parametrize("name", ["attention", "attentions.2", "attentions.-1", "attentions.x", "hiddens.3", "logits"])
def test_an_output_that_is_not_there_is_refused(name):
    with pytest.raises(UnknownName, match=f"No output `{name}`"):
        decoder(n_layers=2)(ids(), want=[name])


@torch.no_grad()
def test_embeddings_take_the_place_of_the_lookup():
    net, token_ids = decoder(), ids()
    close(net(None, embeddings=net.embed(token_ids)).logits, net(token_ids).logits, atol=0)
    with pytest.raises(ShapeError, match="Give `token_ids`, or `embeddings`"):
        net(None)


@torch.no_grad()
def test_the_head_scores_hidden_states_of_any_shape():
    net, token_ids = decoder(), ids()
    out = net(token_ids)
    close(net.head(out.hidden[1, 2]), out.logits[1, 2])
    close(net.head(out.hidden.flatten(0, 1)), out.logits.flatten(0, 1))


@torch.no_grad()
def test_given_positions_are_used():
    positions = torch.tensor([[3, 5, 4, 0, 1, 2, 6]]).expand(B, -1)
    net, token_ids = decoder(positions="learned"), ids()
    own = net.embed(token_ids) + net.decoder.positions.weight[positions]
    elsewhere = decoder(positions="none")
    elsewhere.load_state_dict({k: v for k, v in net.state_dict().items() if k != "decoder.positions.weight"})
    close(net(token_ids, positions=positions).logits, elsewhere(None, embeddings=own).logits)
    assert not torch.allclose(net(token_ids, positions=positions).logits, net(token_ids).logits)


@torch.no_grad()
def test_rotary_logits_do_not_change_when_all_positions_move_on():
    net, token_ids = decoder(positions="rotary"), ids()
    moved = net(token_ids, positions=(torch.arange(T) + 400).expand(B, -1)).logits
    close(moved, net(token_ids).logits, atol=1e-3)


@pytest.mark.parametrize("positions", ["alibi", "none"])
def test_a_model_that_has_no_use_for_positions_refuses_them(positions):
    with pytest.raises(Unsupported, match="takes no `positions`"):
        decoder(positions=positions)(ids(), positions=torch.arange(T).expand(B, -1))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@torch.no_grad()
def test_a_text_longer_than_the_table_is_refused_and_padding_is_not_text(positions):
    net = decoder(positions=positions, max_seq_len=5)
    with pytest.raises(ShapeError, match=r"Position 6 is not in the table of `max_seq_len` \(5\)"):
        net(ids())
    mask = torch.tensor(PLACES["middle"], dtype=torch.bool).expand(B, -1)
    close(net(ids(), mask=mask).logits[:, mask[0]], net(ids()[:, mask[0]]).logits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": torch.ones(B, T + 1, dtype=torch.bool)}, r"\(3, 7\) \(rows, tokens\), but `mask` is \(3, 8\)"),
        ({"positions": torch.zeros(1, T, dtype=torch.long)}, r"`positions` is \(1, 7\)"),
        ({"segments": torch.zeros(T, dtype=torch.long)}, r"`segments` is \(7,\)"),
    ],
)
def test_what_is_said_about_tokens_must_be_for_each_of_them(given, message):
    with pytest.raises(ShapeError, match=message):
        check_rows(torch.zeros(B, T, 8), Inputs(None, **given))


def test_a_cache_of_other_rows_another_kind_or_with_packed_documents_is_refused():
    net = decoder()
    with pytest.raises(ShapeError, match="`cache` has 2 rows"):
        net(ids(), cache=net.new_cache(2))
    with pytest.raises(Unsupported, match="`segments` with a cache"):
        net(ids(), cache=net.new_cache(B), segments=torch.zeros(B, T, dtype=torch.long))
    with pytest.raises(ShapeError, match="`max_seq_len`"):
        decoder(positions="none").new_cache(B, kind="static")


@pytest.mark.slow
@torch.no_grad()
def test_layers_may_differ_in_window_heads_and_positions():
    """Two rotary layers of different base and an ALiBi layer of another head count, in one stack."""
    spec = decoder_spec(vocab_size=V, d_model=8, n_layers=3, n_heads=4, max_seq_len=16, windows=[2, None, 3])
    first, second, third = spec.stack.blocks
    second = second.replace(attn=second.attn.replace(position=second.attn.position.replace(theta=50.0)))
    alibi = decoder_spec(vocab_size=V, d_model=8, n_layers=1, n_heads=2, max_seq_len=16, positions="alibi", window=3).stack.blocks[0]
    net = build(spec.replace(decoder=spec.stack.replace(blocks=(first, second, third, alibi))), seed=1)
    token_ids = ids()
    cache = net.new_cache(B)
    steps = torch.cat([net(token_ids[:, t : t + 1], cache=cache).logits for t in range(T)], dim=1)
    close(steps, net(token_ids).logits)


@torch.no_grad()
def test_a_window_as_wide_as_the_text_is_no_window():
    close(decoder(window=T)(ids()).logits, decoder()(ids()).logits)
    assert not torch.allclose(decoder(window=T - 1)(ids()).logits, decoder()(ids()).logits)


@torch.no_grad()
def test_a_token_beyond_the_window_of_every_layer_is_not_seen():
    """Two layers of window 2 see at most two tokens back."""
    net, token_ids = decoder(window=2), ids()
    changed = token_ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % V
    before, after = net(token_ids).logits, net(changed).logits
    close(before[:, 3:], after[:, 3:], atol=0)
    assert bool((before[:, :3] != after[:, :3]).any(dim=-1).all())


@pytest.mark.slow
@torch.no_grad()
def test_an_additive_decoder_steps_as_it_reads():
    spec = decoder_spec(vocab_size=V, d_model=8, n_layers=2, n_heads=4, max_seq_len=16, positions="learned")
    blocks = [block.replace(attn=block.attn.replace(score="additive")) for block in spec.stack.blocks]
    net, token_ids = build(spec.replace(decoder=spec.stack.replace(blocks=blocks)), seed=1), ids()
    cache = net.new_cache(B, kind="static")
    steps = torch.cat([net(token_ids[:, t : t + 1], cache=cache).logits for t in range(T)], dim=1)
    close(steps, net(token_ids).logits)


@torch.no_grad()
def test_half_precision_stays_near_full_precision():
    net, token_ids = decoder(), ids()
    full = net(token_ids).logits.log_softmax(-1)
    half = net.bfloat16()(token_ids).logits.float().log_softmax(-1)
    assert (half - full).abs().max() < 0.25


def test_a_cache_counts_only_tokens_that_count():
    net = decoder()
    cache = net.new_cache(B)
    assert isinstance(cache, AttentionState)
    place = cache.begin(torch.full((B, 2), NO_ORDER))
    cache.commit(torch.full((B, 2), NO_ORDER), place)
    assert cache.lengths.tolist() == [0] * B


def test_the_decoder_is_a_stack_of_attention():
    assert isinstance(decoder().spec.decoder, Stack)
