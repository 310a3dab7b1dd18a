"""What int8 costs in quality: bits per byte, divergence, agreement and calibration beside fp32, and what the factors on inputs are worth.

Writes docs/results/int8.md. Takes a minute or two. stories260K comes from the test data; a run of `touchstone quickstart` is measured too
where TOUCHSTONE_QUICKSTART names its folder.
"""

import copy
import datetime
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from touchstone import config, load
from touchstone.calibrate.measure import ece_equal_width
from touchstone.files import cache_folder
from touchstone.flows.conversion import ConversionRequest, convert_model
from touchstone.infer.language_model import LanguageModel
from touchstone.models import LanguageNet
from touchstone.models.quantized import quantize
from touchstone.report.terminal import Terminal
from touchstone.text.prepare import prepare
from touchstone.text.read import ReadReport, read_documents
from touchstone.train.run_config import RunConfig

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "int8.md"
MOST_BITS = 1.005  # of bits per byte, over those of fp32
MOST_KL = 0.005  # nats a token
N_TOKENS = 20_000
LARGE = 100.0

pytestmark = pytest.mark.prove


@dataclass(frozen=True)
class Subject:
    """A model in fp32, texts to score it on, and tokens of another text to calibrate by."""

    model: LanguageModel
    texts: list[str]
    calibration_ids: torch.Tensor
    about: str


@dataclass(frozen=True)
class Scored:
    """Of every token scored, in fp64: all log-probabilities and the token that came; and the bytes of the text."""

    logprobs: torch.Tensor
    token_ids: torch.Tensor
    n_bytes: int

    @property
    def bits_per_byte(self):
        return -float(self.logprobs.gather(1, self.token_ids[:, None]).sum()) / math.log(2) / self.n_bytes

    @property
    def ece(self):
        best = self.logprobs.max(1)
        return ece_equal_width(best.values.exp().numpy(), (best.indices == self.token_ids).numpy(), 15).value


@pytest.fixture(scope="module")
def page():
    """Rows of the tables by the name of the model, written when the module is done."""
    rows, began = {}, time.time()
    yield rows
    if "stories260K" in rows:
        write_results(rows, time.time() - began)


@pytest.fixture(scope="module")
def stories260k(test_data, tmp_path_factory):
    source, folder = test_data / "weights" / "stories260K", tmp_path_factory.mktemp("stories") / "m"
    asked = ConversionRequest(str(source / "stories260K.bin"), folder, origin="llama2c", tokenizer=source / "tok512.bin")
    convert_model(asked, Terminal("en", json=True))
    data = test_data / "lm_text" / "tinystories" / "train.txt.gz"
    texts = [document.text for document in read_documents([data], text_field="text", report=ReadReport())]
    about = "TinyStories, from the end of the sample in the test data; the model may have been trained on them"
    stories = [story.strip() for story in "".join(texts).split("<|endoftext|>")]
    return subject(folder, [story for story in stories[::-1] if story], about)


@pytest.fixture(scope="module")
def quickstart():
    folder = os.environ.get("TOUCHSTONE_QUICKSTART")
    if not folder:
        pytest.skip("TOUCHSTONE_QUICKSTART names no run of `touchstone quickstart`: int8 is not measured on one")
    run = config.load(RunConfig, Path(folder) / "config.yaml")
    prepared = prepare(run.data, run.tokenizer, cache_folder())
    return subject(folder, [document.text for document in prepared.test_documents], "the files that the run held out")


@pytest.mark.parametrize("name", ["stories260K", "quickstart"])
def test_int8_is_within_half_a_percent_of_fp32(name, request, page, monkeypatch):
    given = request.getfixturevalue(name.lower())
    page[name] = {"about": given.about, "plain": measured(given, given.model.net, monkeypatch)}


@pytest.mark.parametrize("name", ["stories260K", "quickstart"])
def test_large_inputs_cost_no_more_with_factors(name, request, page, monkeypatch):
    given = request.getfixturevalue(name.lower())
    net = with_large_inputs(given.model.net)
    page[name]["large"] = measured(given, net, monkeypatch, least_gain=10.0)


def measured(given, net, monkeypatch, least_gain=0.0):
    """A row for fp32 and each way of int8, the one that `load` takes held to the bounds; least_gain: over int8 without factors, in KL."""
    exact = scored(net, given)
    with monkeypatch.context() as patch:
        patch.setattr("touchstone.models.quantized._choose_smooth", lambda inputs: {})
        bare = scored(quantize(copy.deepcopy(net)), given)
    ours = scored(quantize(copy.deepcopy(net)), given)
    by_text = scored(quantize(copy.deepcopy(net), given.calibration_ids), given)
    assert abs(ours.bits_per_byte / exact.bits_per_byte - 1) <= MOST_BITS - 1
    assert kl(exact, ours) <= MOST_KL
    assert kl(exact, bare) >= least_gain * kl(exact, ours)
    ways = {"fp32": exact, "int8 without factors": bare, "int8": ours, "int8, calibrated on text": by_text}
    return [row(name, way, exact) for name, way in ways.items()]


def row(name, way, exact):
    change = way.bits_per_byte / exact.bits_per_byte - 1
    agree = float((way.logprobs.argmax(1) == exact.logprobs.argmax(1)).double().mean())
    return (name, f"{way.bits_per_byte:.4f}", f"{change:+.2%}", f"{kl(exact, way):.5f}", f"{agree:.2%}", f"{way.ece:.4f}")


def kl(exact, way):
    """The mean over tokens of KL(fp32 || way), in nats."""
    return float((exact.logprobs.exp() * (exact.logprobs - way.logprobs)).sum(1).mean())


def subject(folder, texts, about):
    """Enough whole texts to score, and four windows of the texts after them."""
    model = load(folder)
    kept, n = [], 0
    rest = iter(texts)
    while n < N_TOKENS and (text := next(rest, None)) is not None:
        kept.append(text)
        n += len(model.tokenizer.encode(text))
    width = min(128, model.spec.max_seq_len)
    after = [id for text in (*rest, *kept) for id in model.tokenizer.encode(text[:4000])][: 4 * width]
    return Subject(model, kept, torch.tensor(after).view(4, width), about)


@torch.inference_mode()
def scored(net: LanguageNet, given: Subject) -> Scored:
    """Every token once, in disjoint windows that begin with the token before a text."""
    tokenizer, width = given.model.tokenizer, min(256, given.model.spec.max_seq_len)
    logprobs, came = [], []
    for text in given.texts:
        ids = torch.from_numpy(np.array(tokenizer.encode(text), dtype=np.int64))
        for part in ids.split(width - 1):
            row = torch.cat([torch.tensor([given.model.prefix_id]), part])[None]
            logprobs.append(net(row[:, :-1]).logits[0].double().log_softmax(-1))
            came.append(part)
    return Scored(torch.cat(logprobs), torch.cat(came), sum(len(text.encode()) for text in given.texts))


@torch.no_grad()
def with_large_inputs(net):
    """The same function: four channels of every norm's output LARGE times as large, and the weights that read them as much smaller."""
    net, rng = copy.deepcopy(net), torch.Generator().manual_seed(0)
    for block in net.decoder.layers:
        attention = (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj)
        inner = [layer for name, layer in block.mlp.named_children() if name in ("gate_proj", "up_proj")]
        for norm, layers in ((block.norm1, attention), (block.norm2, inner)):
            channels = torch.randperm(len(norm.weight), generator=rng)[:4]
            norm.weight[channels] *= LARGE
            for layer in layers:
                layer.weight[:, channels] /= LARGE
    return net


def write_results(rows, seconds):
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "tokenizers"))
    parts = [
        f"""# int8: what it costs in quality

Written by `pytest -m prove tests/prove/test_int8_quality.py`, a part of `make prove`, on {datetime.date.today().isoformat()}, in
{seconds / 60:.1f} minutes: Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()}.

Weights and activations in 8 bits, one scale an output and a row; where it pays, factors on the inputs of a layer, chosen by its error on
tokens drawn evenly from the vocabulary ("int8", what `load(…, weights="int8")` does) or on text. Allowed of "int8": {MOST_BITS - 1:.1%} of
bits per byte, and a divergence from fp32 of {MOST_KL} nats a token. Whole texts, about {N_TOKENS:,} tokens, in disjoint windows; KL is
KL(fp32 ‖ int8); agreement is how often the likeliest token is the same; ECE is of the likeliest token, 15 bins. With large inputs: the
same function in fp32, four channels of every norm's output {LARGE:g} times as large and the weights that read them as much smaller."""
    ]
    for name in ("stories260K", "quickstart"):
        if name not in rows:
            parts.append(f"## {name}\n\nNot measured: TOUCHSTONE_QUICKSTART named no run.")
            continue
        head = ("", "bits per byte", "change", "KL, nats a token", "agreement", "ECE")
        parts.append(f"## {name}\n\nOn {rows[name]['about']}.\n\n{table(head, rows[name]['plain'])}")
        if "large" in rows[name]:
            parts.append(f"With large inputs:\n\n{table(head, rows[name]['large'])}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(headers, rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (headers, ["---"] * len(headers), *rows))
