import pytest
import torch

from touchstone.infer.calibration import Calibrated, NotCalibrated, next_token_calibration
from touchstone.models.card import Calibration

FITTED = Calibration(
    target="next-token",
    method="temperature",
    params={"temperature": 1.6},
    statistic={"ece_before": 0.05, "ece_after": 0.01},
    weights_hash="right",
    numeric_scheme="float32",
    n=1000,
    date="2025-01-01",
)


def settle(*records, weights="right", scheme="float32"):
    return next_token_calibration(records, lambda: weights, scheme)


@pytest.mark.slow
def test_a_record_that_fits_scales_the_logits_before_the_softmax():
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    token_ids = torch.tensor([2, 0, 6])
    found = settle(FITTED)
    assert isinstance(found, Calibrated)
    assert (found.method, found.target) == ("temperature", "next-token")
    expected = (logits / 1.6).exp() / (logits / 1.6).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(found.probability(logits, token_ids), expected[range(3), token_ids])


@pytest.mark.parametrize(
    ("record", "arguments", "reason"),
    [
        (FITTED, {"weights": "other"}, "other weights"),
        (FITTED, {"scheme": "bfloat16"}, "fitted in float32 and the model runs in bfloat16"),
        (FITTED.replace(method="isotonic"), {}, "`isotonic`"),
        (FITTED.replace(params={}), {}, "no usable `temperature`"),
        (FITTED.replace(params={"temperature": 0}), {}, "no usable `temperature`"),
        (FITTED.replace(params={"temperature": "1"}), {}, "no usable `temperature`"),
        (FITTED.replace(target="class"), {}, "No next-token calibration"),
    ],
)
def test_a_record_that_does_not_fit_gives_the_reason(record, arguments, reason):
    found = settle(record, **arguments)
    assert isinstance(found, NotCalibrated)
    assert reason in found.reason


def test_without_a_record_the_weights_are_not_hashed():
    def never():
        raise AssertionError

    assert isinstance(next_token_calibration([], never, "float32"), NotCalibrated)


def test_the_newest_record_that_fits_is_taken():
    newer, stale = FITTED.replace(params={"temperature": 2.0}), FITTED.replace(weights_hash="old")
    logits, token = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    found = settle(FITTED, newer, stale)
    assert isinstance(found, Calibrated)
    torch.testing.assert_close(found.probability(logits, token), torch.sigmoid(torch.tensor([0.5])))
