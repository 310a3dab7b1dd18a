import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation.logits_process import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from touchstone.infer.request import Sampling
from touchstone.infer.sampling import SamplingTable, Uniforms, choose, draw, keep_min_p, keep_top_k, keep_top_p, philox, scale

B, V = 3, 101
pytestmark = pytest.mark.slow  # transformers takes seconds to import

IDS = torch.zeros(B, 1, dtype=torch.long)


@pytest.fixture
def logits():
    return torch.randn(B, V, generator=torch.Generator().manual_seed(11)) * 2.5


def rows(*values):
    return torch.tensor(values)


@pytest.mark.parametrize("temperature", [0.3, 1.7])
def test_temperature_equals_hugging_face(logits, temperature):
    theirs = TemperatureLogitsWarper(temperature)(IDS, logits)
    torch.testing.assert_close(scale(logits, torch.full((B,), temperature)), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [1, 7, V, 5 * V])
def test_top_k_equals_hugging_face(logits, k):
    torch.testing.assert_close(keep_top_k(logits, rows(k, k, k), k), TopKLogitsWarper(k)(IDS, logits), rtol=0, atol=0)


def test_top_k_keeps_ties_with_the_last_kept_as_hugging_face_does():
    tied = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    torch.testing.assert_close(keep_top_k(tied, rows(2), 2), TopKLogitsWarper(2)(IDS[:1], tied), rtol=0, atol=0)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.35, 0.9, 0.95, 0.999])
def test_top_p_equals_hugging_face(logits, p):
    ours = keep_top_p(logits, torch.tensor([1 - p] * B))
    torch.testing.assert_close(ours, TopPLogitsWarper(p)(IDS, logits), rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_equals_hugging_face(logits, p):
    torch.testing.assert_close(keep_min_p(logits, torch.full((B,), p)), MinPLogitsWarper(p)(IDS, logits), rtol=0, atol=0)


def test_settings_hold_for_their_own_row_only(logits):
    ours = keep_min_p(keep_top_p(keep_top_k(logits, rows(0, 5, 0), 5), torch.tensor([0.0, 0.0, 1 - 0.6])), rows(0.3, 0.0, 0.0))
    expected = torch.cat(
        [MinPLogitsWarper(0.3)(IDS[:1], logits[:1]), TopKLogitsWarper(5)(IDS[:1], logits[1:2]), TopPLogitsWarper(0.6)(IDS[:1], logits[2:])]
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_transforms_are_applied_in_hugging_faces_order():
    # top-p after top-k sees the renormalised mass: of (0.4, 0.3, 0.2, 0.1) top_k=2 leaves (4/7, 3/7), of which top_p=0.5 keeps one;
    # the other way round top_p=0.5 would keep two, and a draw at 0.99 would find the second.
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    table = SamplingTable.of([Sampling(top_k=2, top_p=0.5)], torch.device("cpu"))
    assert choose(logits, table, torch.tensor([0.99], dtype=torch.float64)).tolist() == [0]
    # temperature before top-p: at temperature 4 the distribution is flat enough for three tokens to be needed for 0.6
    flat = SamplingTable.of([Sampling(temperature=4.0, top_p=0.6)], torch.device("cpu"))
    assert choose(logits, flat, torch.tensor([0.99], dtype=torch.float64)).tolist() == [2]
    sharp = SamplingTable.of([Sampling(top_p=0.6)], torch.device("cpu"))
    assert choose(logits, sharp, torch.tensor([0.99], dtype=torch.float64)).tolist() == [1]


def test_the_whole_chain_equals_hugging_faces(logits):
    settings = Sampling(temperature=0.8, top_k=20, top_p=0.7, min_p=0.05)
    theirs = logits
    for warper in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(20), TopPLogitsWarper(0.7), MinPLogitsWarper(0.05)):
        theirs = warper(IDS, theirs)
    table = SamplingTable.of([settings] * B, torch.device("cpu"))
    points = torch.linspace(0, 1, 400, dtype=torch.float64)[:-1]
    drawn = [{choose(logits, table, point.repeat(B))[row].item() for point in points} for row in range(B)]
    assert drawn == [set(theirs[row].isfinite().nonzero().flatten().tolist()) for row in range(B)]


def test_temperature_zero_takes_the_likeliest_beside_sampled_rows(logits):
    table = SamplingTable.of([Sampling(temperature=0.0), Sampling(), Sampling(temperature=0.0, top_k=3)], torch.device("cpu"))
    chosen = choose(logits, table, torch.tensor([0.9999, 0.0, 0.9999], dtype=torch.float64))
    assert chosen.tolist() == [logits[0].argmax().item(), 0, logits[2].argmax().item()]


def test_a_draw_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_banned_token_is_never_drawn_at_either_end():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]]).repeat(2, 1)
    assert draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


def test_draws_follow_the_distribution():
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(2))
    numbers = Uniforms(seed=17, index=0)
    uniforms = torch.tensor([numbers.at(step) for step in range(20_000)], dtype=torch.float64)
    counts = torch.bincount(draw(logits.repeat(20_000, 1), uniforms), minlength=7)
    expected = logits.double().softmax(-1)[0] * 20_000
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of Random123, kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    assert tuple(philox(np.array([counter], dtype=np.uint32), key)[0].tolist()) == expected


def test_a_uniform_number_depends_on_seed_choice_and_step_only():
    forward = Uniforms(seed=3, index=1)
    series = [forward.at(step) for step in range(300)]
    assert Uniforms(seed=3, index=1).at(257) == series[257]
    assert [forward.at(step) for step in (299, 0, 128)] == [series[299], series[0], series[128]]
    assert len({*series, *(Uniforms(3, 2).at(s) for s in range(300)), *(Uniforms(4, 1).at(s) for s in range(300))}) == 900
    assert Uniforms(seed=3 + 2**32, index=1).at(0) != series[0]


def test_uniform_numbers_are_uniform():
    numbers = Uniforms(seed=5, index=0)
    sample = np.array([numbers.at(step) for step in range(10_000)])
    assert 0 <= sample.min() < sample.max() < 1
    assert stats.kstest(sample, "uniform").pvalue > 1e-3
