import math

import pytest
import torch

from touchstone.errors import ConfigError, ShapeError
from touchstone.nn.position import (
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    RotaryAngles,
    RotaryPositions,
    SinusoidalPositions,
    YarnScaling,
    alibi_slopes,
    angles_key,
    build_table,
    rotate,
    scaled_frequencies,
    sinusoids,
)

B, T, H, K = 3, 5, 4, 8
POSITIONS = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [3, 0, 900, 5, 5]])


@pytest.mark.parametrize("width", [6, 7])
def test_interleaved_sinusoids_alternate_sine_and_cosine(width):
    table = sinusoids(SinusoidalPositions(max_seq_len=9), width)
    for place in range(9):
        for feature in range(width):
            angle = place / 10_000 ** ((feature - feature % 2) / width)
            expected = math.sin(angle) if feature % 2 == 0 else math.cos(angle)
            assert table[place, feature].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("width", [6, 7])
def test_halved_sinusoids_put_all_sines_first(width):
    table = sinusoids(SinusoidalPositions(max_seq_len=9, layout="halves"), width)
    n_sines = (width + 1) // 2
    for place in range(9):
        for feature in range(width):
            pair = feature if feature < n_sines else feature - n_sines
            angle = place / 10_000 ** (2 * pair / width)
            expected = math.sin(angle) if feature < n_sines else math.cos(angle)
            assert table[place, feature].item() == pytest.approx(expected, abs=1e-7)


def test_a_learned_table_looks_up_the_row_beyond_its_offset():
    table = build_table(LearnedPositions(max_seq_len=5, offset=2), 3)
    torch.nn.init.normal_(table.weight)
    positions = torch.tensor([[0, 4], [3, 1]])
    assert table.weight.shape == (7, 3)
    assert torch.equal(table(positions), table.weight[positions + 2])


@pytest.mark.parametrize(("position", "shown"), [(5, "5"), (-1, "-1")])
def test_a_position_outside_the_table_is_refused(position, shown):
    table = build_table(LearnedPositions(max_seq_len=5, offset=2), 3)
    with pytest.raises(ShapeError, match=rf"Position {shown} .*`max_seq_len` \(5\)"):
        table(torch.tensor([[0, position]]))


def test_a_known_bound_that_does_not_suffice_is_checked_all_the_same():
    table = build_table(LearnedPositions(max_seq_len=5), 3)
    with pytest.raises(ShapeError, match="Position 5"):
        table(torch.arange(6)[None], below=6)


def test_a_sinusoidal_table_is_not_trained_and_not_saved():
    table = build_table(SinusoidalPositions(max_seq_len=5), 4)
    assert list(table.parameters()) == []
    assert table.state_dict() == {}


@pytest.mark.slow
def test_rotary_equals_hugging_face_bit_for_bit():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        hidden_size=H * K, num_attention_heads=H, head_dim=K, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    )
    q, k = torch.randn(B, H, T, K), torch.randn(B, 2, T, K)
    cos, sin = LlamaRotaryEmbedding(config)(q, POSITIONS)
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cos, sin)
    angles = RotaryAngles(RotaryPositions(theta=500.0, max_seq_len=1000), K)(POSITIONS, torch.float32)
    assert torch.equal(rotate(q, angles), expected_q)
    assert torch.equal(rotate(k, angles), expected_k)


def test_rotary_turns_each_pair_by_position_over_theta_to_the_pair():
    angles = RotaryAngles(RotaryPositions(theta=50.0, max_seq_len=1000), K)(POSITIONS, torch.float64)
    x = torch.randn(B, H, T, K, dtype=torch.float64)
    turned = rotate(x, angles)
    for row, step, pair in ((0, 4, 0), (1, 2, 1), (2, 0, 3)):
        angle = POSITIONS[row, step].item() / 50.0 ** (2 * pair / K)
        first, second = x[row, :, step, pair], x[row, :, step, pair + K // 2]
        torch.testing.assert_close(turned[row, :, step, pair], first * math.cos(angle) - second * math.sin(angle), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            turned[row, :, step, pair + K // 2], second * math.cos(angle) + first * math.sin(angle), rtol=0, atol=1e-5
        )


def test_a_rotated_score_depends_on_the_distance_alone():
    rotary, q, k = RotaryAngles(RotaryPositions(max_seq_len=1000), K), torch.randn(1, 1, 1, K), torch.randn(1, 1, 1, K)

    def score(query, key):
        at = [rotary(torch.tensor([[place]]), torch.float32) for place in (query, key)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum()

    torch.testing.assert_close(score(3, 1), score(203, 201), rtol=0, atol=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_features_beyond_the_rotary_width_pass_unchanged():
    angles = RotaryAngles(RotaryPositions(d_rotary=4, max_seq_len=1000), K)(POSITIONS, torch.float32)
    x = torch.randn(B, H, T, K)
    turned = rotate(x, angles)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4], RotaryAngles(RotaryPositions(max_seq_len=9), 4)(POSITIONS, torch.float32)))


SCALINGS = {
    "linear": (LinearScaling(factor=3.0), {"rope_type": "linear", "factor": 3.0}),
    "llama3": (
        Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=64),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "yarn": (
        YarnScaling(factor=4.0, original_max_seq_len=4096),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    ),
    "yarn, every field": (
        YarnScaling(factor=4.0, original_max_seq_len=4096, beta_fast=16.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=0.9, truncate=False),
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.9,
            "truncate": False,
        },
    ),
    "yarn, given factor": (
        YarnScaling(factor=4.0, original_max_seq_len=4096, attention_factor=1.3),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "attention_factor": 1.3},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_a_scaling_equals_hugging_face_bit_for_bit(name, theta):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling, parameters = SCALINGS[name]
    spec = RotaryPositions(theta=theta, max_seq_len=9000, scaling=scaling)
    config = LlamaConfig(
        hidden_size=2 * 64,
        num_attention_heads=2,
        head_dim=64,
        max_position_embeddings=9000,
        rope_parameters={**parameters, "rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    frequencies, ours = scaled_frequencies(spec, 64)
    assert torch.equal(frequencies, expected)
    assert ours == factor
    cos, sin = RotaryAngles(spec, 64)(POSITIONS, torch.float32)
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), POSITIONS)
    assert torch.equal(cos[:, 0], theirs[0])
    assert torch.equal(sin[:, 0, :, 32:], theirs[1][..., 32:])
    assert torch.equal(-sin[:, 0, :, :32], theirs[1][..., :32])


def test_each_llama3_band_is_kept_blended_or_divided():
    spec = RotaryPositions(theta=10_000.0, max_seq_len=256, scaling=SCALINGS["llama3"][0])
    plain, scaled = scaled_frequencies(spec.replace(scaling=None), 64)[0], scaled_frequencies(spec, 64)[0]
    turns = 64 * plain / (2 * math.pi)  # over the original length
    kept, divided = turns > 4.0, turns < 1.0
    between = ~kept & ~divided
    assert min(int(kept.sum()), int(divided.sum()), int(between.sum())) > 0
    assert torch.equal(scaled[kept], plain[kept])
    assert torch.equal(scaled[divided], plain[divided] / 8.0)
    assert bool(((scaled < plain) & (scaled > plain / 8.0))[between].all())


@pytest.mark.parametrize("change", [torch.nn.Module.bfloat16, torch.nn.Module.double, lambda m: m.to("cpu", torch.float16)])
def test_angles_are_computed_in_fp32_whatever_the_network_is_changed_to(change):
    rotary = RotaryAngles(RotaryPositions(max_seq_len=1000), K)
    expected = rotary(POSITIONS, torch.float32)
    changed = change(torch.nn.Sequential(rotary, torch.nn.Linear(2, 3)))[0]
    assert changed.frequencies.dtype == torch.float32
    for ours, theirs in zip(changed(POSITIONS, torch.float32), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_layers_share_angles_only_if_spec_and_head_width_agree():
    spec = RotaryPositions(max_seq_len=9)
    keys = [angles_key(spec, 8), angles_key(spec, 4), angles_key(spec.replace(theta=20_000.0), 8)]
    keys.append(angles_key(spec.replace(scaling=LinearScaling(factor=2.0)), 8))
    assert len(set(keys)) == 4
    assert angles_key(RotaryPositions(max_seq_len=9), 8) == keys[0]


def test_alibi_slopes_of_8_heads_are_the_papers():
    assert alibi_slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


def test_alibi_slopes_of_12_heads_fill_the_8_with_every_other_of_16():
    expected = [2.0**-e for e in (1, 2, 3, 4, 5, 6, 7, 8)] + [2.0**-e for e in (0.5, 1.5, 2.5, 3.5)]
    assert alibi_slopes(12).tolist() == pytest.approx(expected, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("n_heads", [1, 2, 3, 6, 12, 16, 25])
def test_alibi_slopes_equal_blooms(n_heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    per_step = build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(n_heads), per_step)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Llama3Scaling(factor=2.0, low_freq_factor=4.0, high_freq_factor=4.0, original_max_seq_len=9),
            r"`high_freq_factor` \(4.0\) must exceed",
        ),
        (lambda: YarnScaling(factor=2.0, original_max_seq_len=9, beta_fast=1.0), r"`beta_fast` \(1.0\) must exceed"),
        (lambda: RotaryPositions(theta=1.0, max_seq_len=9), "theta"),
        (lambda: LearnedPositions(max_seq_len=0), "max_seq_len"),
    ],
)
def test_impossible_positions_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("d_rotary", [3, 10])
def test_an_odd_or_too_wide_rotation_is_refused(d_rotary):
    with pytest.raises(ShapeError, match=r"`d_rotary` \(\d+\) must be even and at most `d_head` \(8\)"):
        RotaryAngles(RotaryPositions(max_seq_len=9, d_rotary=d_rotary), K)
