"""The card of the quickstart's model: where it comes from, what it scored beside what, and the temperature fitted for its weights."""

from typing import Any

from touchstone.flows.findings import Findings
from touchstone.flows.net_training import TrainedNet, new_card, today
from touchstone.models.card import Calibration, Card, Score
from touchstone.models.weights import weights_hash
from touchstone.text.prepare import Prepared

__all__ = ["net_facts", "quickstart_card"]


def net_facts(trained: TrainedNet) -> dict[str, Any]:
    """What a comparison should say of a trained network: its size and what its training took."""
    assert trained.config.train is not None
    return {
        "parameters": trained.spec.n_parameters(),
        "n_tokens": trained.outcome.n_tokens,
        "training_flops": 3 * trained.spec.flops_per_token(trained.config.context) * trained.outcome.n_tokens,
        "seconds": trained.outcome.seconds,
        "learning_rate": trained.config.train.optim.learning_rate,
    }


def quickstart_card(decoder: TrainedNet, findings: Findings, prepared: Prepared) -> Card:
    """Lineage, the test score with its baselines, and the calibration, valid for exactly these weights and this number type."""
    card = new_card(decoder.config, prepared, name="touchstone quickstart", about="A small decoder trained by `touchstone quickstart`.")
    return card.replace(scores=[_score(findings, prepared)], calibration=[_calibration(decoder, findings)])


def _score(findings: Findings, prepared: Prepared) -> Score:
    comparison = findings.comparison
    found = comparison.interval("decoder")
    return Score(
        name="bits per byte",
        value=found.value,
        interval=(found.low, found.high) if found.n > 1 else None,
        level=found.level,
        n=len(comparison.sources),
        method=f"{findings.score.method}; {found.method}",
        on="held-out files of the training text, without near-copies in it",
        on_hash=prepared.test.fingerprint,
        baselines={entry.key: comparison.interval(entry.key).value for entry in comparison.entries if entry.key != "decoder"},
        date=today(),
    )


def _calibration(decoder: TrainedNet, findings: Findings) -> Calibration:
    return Calibration(
        target="next-token",
        method="temperature",
        params={"temperature": findings.temperature.temperature},
        statistic={
            "ece_before": findings.ece_before.value,
            "ece_after": findings.ece_after.value,
            "nll_before": findings.temperature.nll_before,
            "nll_after": findings.temperature.nll_after,
        },
        weights_hash=weights_hash(decoder.net.state_dict()),
        numeric_scheme=str(decoder.net.embed.weight.dtype).removeprefix("torch."),
        n=findings.temperature.n,
        date=today(),
    )
