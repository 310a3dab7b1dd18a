import pytest
import torch

from touchstone.models import LmHead, build, decoder_spec
from touchstone.models.heads import TiedHead, UntiedHead, build_head
from touchstone.nn.norm import NormSpec

D, V = 5, 11


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize(("tied", "kind"), [(True, TiedHead), (False, UntiedHead)])
def test_a_head_is_scaled_products_with_its_weight_plus_its_bias(bias, scale, tied, kind):
    head, table, hidden = build_head(LmHead(tied=tied, bias=bias, scale=scale), D, V), torch.randn(V, D), torch.randn(3, 2, D)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    assert type(head) is kind
    expected = scale * hidden @ (table if tied else head.weight).T + (head.bias if bias else 0.0)
    torch.testing.assert_close(head(hidden, table), expected)


@torch.no_grad()
def test_the_scale_and_norm_of_the_embeddings_come_before_the_first_layer():
    spec = decoder_spec(vocab_size=V, d_model=12, n_layers=1, n_heads=4, max_seq_len=9, positions="learned")
    norm = NormSpec(kind="layer", norm_eps=1e-3)
    net = build(spec.replace(embed=spec.embed.replace(scale=3.0), decoder=spec.stack.replace(input_norm=norm)), seed=1)
    token_ids = torch.tensor([[4, 0, 10]])
    sums = 3.0 * net.embed.weight[token_ids] + net.decoder.positions.weight[:3]
    expected = torch.nn.functional.layer_norm(sums, (12,), eps=1e-3)
    torch.testing.assert_close(net(token_ids, want=["hiddens.0"]).hiddens[0], expected)
