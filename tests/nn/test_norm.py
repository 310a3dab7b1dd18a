import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.nn.norm import LayerNorm, NormSpec, RMSNorm, build_norm

B, T, D = 3, 5, 12


def filled(spec):
    norm = build_norm(spec, D).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.5)
    return norm


def test_layer_norm_is_its_formula():
    norm, x = filled(NormSpec(kind="layer", norm_eps=1e-3)), torch.randn(B, T, D, dtype=torch.float64)
    centred = x - x.sum(-1, keepdim=True) / D
    variance = (centred**2).sum(-1, keepdim=True) / D
    torch.testing.assert_close(norm(x), centred / (variance + 1e-3) ** 0.5 * norm.weight + norm.bias)


def test_rms_norm_is_its_formula():
    norm, x = filled(NormSpec(kind="rms", norm_eps=1e-3)), torch.randn(B, T, D, dtype=torch.float64)
    mean_square = (x**2).sum(-1, keepdim=True) / D
    torch.testing.assert_close(norm(x), x / (mean_square + 1e-3) ** 0.5 * norm.weight)


@pytest.mark.slow
def test_rms_norm_of_half_precision_takes_the_mean_square_in_fp32_as_hugging_face_does():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    ours, theirs = RMSNorm(D, NormSpec(norm_eps=1e-6)).bfloat16(), LlamaRMSNorm(D, eps=1e-6).bfloat16()
    torch.nn.init.normal_(ours.weight, 1.0, 0.5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(B, T, D).bfloat16() * 100
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("spec", "kind", "n_parameters"),
    [
        (NormSpec(kind="rms"), RMSNorm, D),
        (NormSpec(kind="layer"), LayerNorm, 2 * D),
        (NormSpec(kind="layer", bias=False), LayerNorm, D),
    ],
)
def test_the_spec_counts_the_parameters_that_are_built(spec, kind, n_parameters):
    norm = build_norm(spec, D)
    assert isinstance(norm, kind)
    assert sum(p.numel() for p in norm.parameters()) == spec.n_parameters(D) == n_parameters


def test_a_negative_eps_is_refused():
    with pytest.raises(ConfigError, match="norm_eps"):
        NormSpec(norm_eps=-1e-5)
