import pytest
import torch

from touchstone.errors import ShapeError, Unsupported
from touchstone.models import build, recurrent_spec
from touchstone.nn.dropout import Noise

B, T, V = 3, 7, 11
KINDS = pytest.mark.parametrize("cell", ["lstm", "gru"])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1]], dtype=torch.bool)


def net_of(cell, train=False, **settings):
    return build(recurrent_spec(**({"vocab_size": V, "d_model": 6, "d_hidden": 8, "n_layers": 2, "cell": cell} | settings)), seed=1).train(
        train
    )


def ids(n_rows=B, n_tokens=T):
    return torch.randint(0, V, (n_rows, n_tokens), generator=torch.Generator().manual_seed(4))


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@KINDS
@torch.no_grad()
def test_the_net_is_torchs_own_stacked_layers_between_table_and_head(cell):
    net, token_ids = net_of(cell), ids()
    theirs = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(6, 8, num_layers=2, batch_first=True)
    own = {f"{name[:-1]}{n}": p for n, layer in enumerate(net.decoder.layers) for name, p in layer.cell.named_parameters()}
    theirs.load_state_dict(own)
    hidden = theirs(net.embed.weight[token_ids])[0]
    close(net(token_ids).logits, hidden @ net.lm_head.weight.T + net.lm_head.bias)


@KINDS
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_cached_steps_equal_one_full_pass(cell, tied):
    net, token_ids = net_of(cell, d_model=8, tied=tied), ids()
    cache = net.new_cache(B)
    steps = torch.cat([net(token_ids[:, t : t + 1], cache=cache).logits for t in range(T)], dim=1)
    close(steps, net(token_ids).logits)
    assert cache.lengths.tolist() == [T] * B


@KINDS
@torch.no_grad()
def test_padding_anywhere_equals_the_row_alone(cell):
    net, token_ids = net_of(cell), ids()
    padded = net(token_ids, mask=MASK).logits
    for row in range(B):
        close(padded[row, MASK[row]], net(token_ids[row : row + 1, MASK[row]]).logits[0])


def ragged_start(net):
    token_ids, cache = ids(), net.new_cache(B)
    net(token_ids, mask=MASK, cache=cache)
    return cache, [token_ids[row, MASK[row]].tolist() for row in range(B)]


def says(net, cache, texts, column):
    """Append one token to each row; its logits must be those of the whole row read at once."""
    logits = net(torch.tensor(column)[:, None], cache=cache).logits[:, 0]
    texts = [[*text, token] for text, token in zip(texts, column, strict=True)]
    for row, text in enumerate(texts):
        close(logits[row], net(torch.tensor([text])).logits[0, -1])
    return texts


@KINDS
@torch.no_grad()
def test_rows_kept_reordered_and_named_twice_go_on_as_themselves(cell):
    net = net_of(cell)
    cache, texts = ragged_start(net)
    cache.reorder(torch.tensor([2, 0, 1]))
    texts = says(net, cache, [texts[row] for row in (2, 0, 1)], [1, 2, 3])
    cache.keep(torch.tensor([1, 1, 0, 2]))
    texts = says(net, cache, [texts[row] for row in (1, 1, 0, 2)], [4, 5, 6, 7])
    assert cache.lengths.tolist() == [len(text) for text in texts]


@KINDS
@torch.no_grad()
def test_a_snapshot_is_returned_to_as_often_as_wanted(cell):
    net = net_of(cell)
    cache, texts = ragged_start(net)
    snapshot = cache.snapshot()
    for column in ([1, 2, 3], [4, 5, 6]):
        says(net, cache, says(net, cache, texts, column), [0, 0, 0])
        cache.restore(snapshot)


@KINDS
@torch.no_grad()
def test_a_row_that_is_all_padding_is_finite_and_keeps_its_state(cell):
    net = net_of(cell)
    cache, texts = ragged_start(net)
    before = [tensor[:, 1].clone() for tensor in cache.tensors]
    out = net(torch.tensor([[1], [2], [3]]), mask=torch.tensor([[1], [0], [1]], dtype=torch.bool), cache=cache)
    assert bool(out.logits.isfinite().all())
    assert cache.lengths.tolist() == [5, 4, 5]
    for tensor, expected in zip(cache.tensors, before, strict=True):
        assert torch.equal(tensor[:, 1], expected)
    says(net, cache, [[*texts[0], 1], texts[1], [*texts[2], 3]], [4, 5, 6])


@KINDS
def test_accumulated_gradients_equal_the_big_batch_with_dropout_on(cell):
    net, token_ids, keys = net_of(cell, train=True, dropout=0.3), ids(), torch.tensor([9, 2**40, -3])
    parameters = list(net.parameters())

    def gradients(rows):
        out = net(token_ids[rows], mask=MASK[rows], noise=Noise(keys[rows]))
        return torch.autograd.grad(out.logits[MASK[rows]].square().sum(), parameters)

    for whole, *pieces in zip(gradients(slice(0, 3)), gradients(slice(0, 1)), gradients(slice(1, 3)), strict=True):
        torch.testing.assert_close(sum(pieces), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hidden_states_come_for_the_layers_asked_for():
    net, token_ids = net_of("gru"), ids()
    out = net(token_ids, want=["hiddens"])
    assert sorted(out.hiddens) == [0, 1, 2]
    close(out.hiddens[0], net.embed(token_ids))
    close(out.hiddens[2], out.hidden)


@torch.no_grad()
def test_embeddings_take_the_place_of_the_lookup():
    net, token_ids = net_of("lstm"), ids()
    close(net(None, embeddings=net.embed(token_ids)).logits, net(token_ids).logits, atol=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"positions": torch.zeros(B, T, dtype=torch.long)}, Unsupported, "no `positions` and no `segments`"),
        ({"segments": torch.zeros(B, T, dtype=torch.long)}, Unsupported, "no `positions` and no `segments`"),
        ({"want": ["attentions.0"]}, Unsupported, "no attention weights"),
    ],
)
def test_what_a_recurrent_model_cannot_do_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        net_of("lstm")(ids(), **given)


def test_no_tokens_and_a_cache_of_other_rows_are_refused():
    net = net_of("gru")
    with pytest.raises(ShapeError, match="Give `token_ids`, or `embeddings`"):
        net(None)
    with pytest.raises(ShapeError, match="`cache` has 2 rows"):
        net(ids(), cache=net.new_cache(2))
    with pytest.raises(ShapeError, match="at least one token"):
        net(ids(n_tokens=0))


def test_a_state_has_one_size_whatever_the_length():
    cache = net_of("lstm").new_cache(B)
    assert cache.nbytes == 2 * 2 * B * 8 * 4  # hidden and cell, layers, rows, width, fp32
    assert not cache.can_trim
