import itertools
import math

import pytest
import torch

from touchstone.errors import ConfigError, UnknownName
from touchstone.nn.attention import Attention, AttentionSpec, additive, build_kernel, reference, sdpa
from touchstone.nn.dropout import Dropout, Noise
from touchstone.nn.mask import AttentionMask, attention_mask, token_order
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import AlibiPositions, RotaryAngles, RotaryPositions, angles_key
from touchstone.nn.shared import Shared

B, T, D, H, G, K = 3, 5, 12, 4, 2, 3
CAUSAL = AttentionMask(None, is_causal=True)
PADDING = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 1, 1, 0]], dtype=torch.bool)
NONE = Dropout(0.0)


def padded(window=None):
    order = token_order(PADDING)
    return attention_mask(order, order, causal=True, window=window)


def heads(n, n_tokens=T, requires_grad=False):
    return torch.randn(B, n, n_tokens, K, dtype=torch.float64, requires_grad=requires_grad)


def written_out(q, k, v, allowed, score, bias=None):
    """The definition, one query of one head at a time: sum_j softmax_j(score(q, k_j) + bias_j) v_j over the keys it may see."""
    q, k, v = q.detach(), k.detach(), v.detach()
    out = torch.zeros(q.shape[0], q.shape[1], q.shape[2], v.shape[3], dtype=q.dtype)
    share = q.shape[1] // k.shape[1]
    for row, head, query in itertools.product(*map(range, q.shape[:3])):
        keys = [key for key in range(k.shape[2]) if allowed[row][query][key]]
        own = head // share
        scores = [
            score(q[row, head, query], k[row, own, key], head) + (bias[row, head, query, key] if bias is not None else 0) for key in keys
        ]
        weights = [math.exp(s) for s in scores]
        for key, weight in zip(keys, weights, strict=True):
            out[row, head, query] += weight / sum(weights) * v[row, own, key]
    return out


def rows_of(mask, n_queries=T, n_keys=T):
    return mask.dense(n_queries, n_keys, torch.device("cpu"))[:, 0].expand(B, -1, -1).tolist()


@pytest.mark.parametrize("kernel", [reference, sdpa])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", [CAUSAL, padded(), padded(window=2), AttentionMask(None)], ids=["causal", "padded", "window", "all"])
def test_a_kernel_is_the_softmax_of_scaled_dot_products(kernel, n_kv_heads, mask):
    q, k, v = heads(H), heads(n_kv_heads), heads(n_kv_heads)
    expected = written_out(q, k, v, rows_of(mask), lambda a, b, _: float(a @ b) * 0.7)
    torch.testing.assert_close(kernel(q, k, v, mask, None, 0.7, NONE, None).values, expected)


@pytest.mark.parametrize("kernel", [reference, sdpa])
def test_a_bias_is_added_to_the_scores(kernel):
    q, k, v, mask = heads(H), heads(G), heads(G), padded()
    bias = torch.randn(B, H, T, T, dtype=torch.float64)
    expected = written_out(q, k, v, rows_of(mask), lambda a, b, _: float(a @ b) * 0.7, bias)
    bias = bias.masked_fill(~mask.dense(T, T, q.device), -torch.inf)
    torch.testing.assert_close(kernel(q, k, v, mask, bias, 0.7, NONE, None).values, expected)


def test_the_additive_score_is_a_vector_times_tanh_of_the_sum():
    q, k, v, mask = heads(H), heads(G), heads(G), padded()
    vector = torch.randn(H, K, dtype=torch.float64)
    expected = written_out(q, k, v, rows_of(mask), lambda a, b, head: float(vector[head] @ torch.tanh(a + b)))
    torch.testing.assert_close(additive(vector)(q, k, v, mask, None, 0.7, NONE, None).values, expected)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("mask", [CAUSAL, padded(window=3)], ids=["causal", "padded"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_fused_kernel_has_the_references_gradients(n_kv_heads, mask, with_bias):
    q, k, v = heads(H, requires_grad=True), heads(n_kv_heads, requires_grad=True), heads(n_kv_heads, requires_grad=True)
    bias = torch.randn(1, H, T, T, dtype=torch.float64).masked_fill(~mask.dense(T, T, q.device), -torch.inf) if with_bias else None
    given = torch.randn(B, H, T, K, dtype=torch.float64)
    gradients = [torch.autograd.grad(f(q, k, v, mask, bias, 0.7, NONE, None).values, (q, k, v), given) for f in (reference, sdpa)]
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


def test_dropout_keyed_by_example_is_the_same_in_both_kernels():
    q, k, v, noise, drop = heads(H), heads(G), heads(G), Noise(torch.arange(B)), Dropout(0.4)
    expected = reference(q, k, v, CAUSAL, None, 0.7, drop, noise)
    assert torch.equal(sdpa(q, k, v, CAUSAL, None, 0.7, drop, noise).values, expected.values)
    kept = drop.kept(expected.weights.shape, noise)
    torch.testing.assert_close(expected.values, (expected.weights * kept / 0.6) @ v.repeat_interleave(2, dim=1))


def test_dropout_falls_on_the_weights_in_training_only():
    q, k, v, drop = heads(H), heads(H), heads(H), Dropout(0.4)
    plain = reference(q, k, v, CAUSAL, None, 0.7, NONE, None).values
    for kernel in (reference, sdpa):
        assert not torch.allclose(kernel(q, k, v, CAUSAL, None, 0.7, drop.train(), None).values, plain)
        torch.testing.assert_close(kernel(q, k, v, CAUSAL, None, 0.7, drop.eval(), None).values, plain)


def test_weights_are_a_distribution_over_the_keys_allowed():
    mask = padded(window=2)
    weights = reference(heads(H), heads(G), heads(G), mask, None, 0.7, NONE, None).weights
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T, dtype=torch.float64))
    assert bool((weights[~mask.dense(T, T, weights.device).expand_as(weights)] == 0).all())


def test_an_unknown_kernel_is_refused_with_those_there_are():
    with pytest.raises(UnknownName, match=r"`sdp`.*Did you mean `sdpa`.*All: reference, sdpa"):
        build_kernel("sdp")


def spec_of(**settings):
    return AttentionSpec(**{"n_heads": H, "n_kv_heads": G, "d_head": K} | settings)


def filled(spec, kernel="reference"):
    torch.manual_seed(3)
    attn = Attention(spec, D, kernel).double()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    return attn


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_a_layer_projects_mixes_and_projects_back(kernel, qkv_bias, scale):
    attn, x = filled(spec_of(qkv_bias=qkv_bias, o_bias=not qkv_bias, scale=scale), kernel), torch.randn(B, T, D, dtype=torch.float64)
    q, k, v = (linear(x).view(B, T, -1, K).permute(0, 2, 1, 3) for linear in (attn.q_proj, attn.k_proj, attn.v_proj))
    mixed = written_out(q, k, v, rows_of(CAUSAL), lambda a, b, _: float(a @ b) * (scale or 1 / math.sqrt(K)))
    expected = attn.o_proj(mixed.permute(0, 2, 1, 3).reshape(B, T, H * K))
    torch.testing.assert_close(attn(x, Shared(masks={None: CAUSAL}))[0], expected)


def test_queries_and_keys_are_normed_by_head_before_they_are_turned():
    rotary = RotaryPositions(max_seq_len=9)
    spec = AttentionSpec(n_heads=H, n_kv_heads=G, d_head=4, position=rotary, qk_norm=NormSpec(norm_eps=1e-3))
    attn, x = filled(spec), torch.randn(B, T, D, dtype=torch.float64)
    positions = torch.arange(T)[None]
    cos, sin = RotaryAngles(rotary, 4)(positions, torch.float64)

    def prepared(linear, norm):
        y = linear(x).view(B, T, -1, 4).transpose(1, 2)
        y = y / (y.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
        return y * cos + torch.cat([y[..., 2:], y[..., :2]], dim=-1) * sin

    q, k = prepared(attn.q_proj, attn.q_norm), prepared(attn.k_proj, attn.k_norm)
    v = attn.v_proj(x).view(B, T, G, 4).transpose(1, 2)
    mixed = written_out(q, k, v, rows_of(CAUSAL), lambda a, b, _: float(a @ b) / 2)
    shared = Shared(masks={None: CAUSAL}, angles={angles_key(rotary, 4): (cos, sin)})
    torch.testing.assert_close(attn(x, shared)[0], attn.o_proj(mixed.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qkv_bias": True},
        {"o_bias": True},
        {"qk_norm": NormSpec()},
        {"qk_norm": NormSpec(kind="layer")},
        {"score": "additive"},
        {"n_kv_heads": 1, "qkv_bias": True, "o_bias": True, "score": "additive"},
    ],
)
def test_the_spec_counts_the_parameters_that_are_built(settings):
    spec = spec_of(**settings)
    assert sum(p.numel() for p in Attention(spec, D).parameters()) == spec.n_parameters(D)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_kv_heads": 3}, r"`n_heads` \(4\) must be a multiple of `n_kv_heads` \(3\); nearest: 2"),
        ({"n_kv_heads": 8}, r"`n_heads` \(4\) must be a multiple of `n_kv_heads` \(8\); nearest: 4"),
        ({"position": RotaryPositions(max_seq_len=9)}, r"`d_rotary` \(3\) must be even and at most `d_head` \(3\)"),
        ({"position": RotaryPositions(max_seq_len=9, d_rotary=4)}, r"`d_rotary` \(4\) must be even and at most `d_head` \(3\)"),
        ({"score": "additive", "scale": 0.5}, "additive score takes no `scale`"),
        ({"score": "additive", "position": AlibiPositions(max_seq_len=9)}, "no distances"),
        ({"window": 0}, "window"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_an_impossible_layer_is_refused_with_the_rule(settings, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(**settings)


def test_training_in_bfloat16_attends_in_single_precision():
    """Its result is the fp32 one rounded once, and its gradients are fp32's to the rounding of bfloat16."""
    q, k, v = (torch.randn(B, heads, T, K).bfloat16().requires_grad_() for heads in (H, G, G))
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    out = sdpa(q, k, v, padded(), None, 0.5, NONE, None).values
    expected = sdpa(*wide, padded(), None, 0.5, NONE, None).values
    assert torch.equal(out, expected.bfloat16())
    (out.float() ** 2).sum().backward()
    (expected**2).sum().backward()
    for narrow, full in zip((q, k, v), wide, strict=True):
        torch.testing.assert_close(narrow.grad.float(), full.grad, rtol=0.02, atol=0.02)
