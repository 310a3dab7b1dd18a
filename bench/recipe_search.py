"""What the quickstart's recipe was chosen by: variants of it, trained alike and scored on validation files.

    python bench/recipe_search.py --list
    python bench/recipe_search.py --only recipe "muon 0.01" --steps 800

Every variant is a recipe with a few settings changed - most of them the one the search began with - trained by the package's own
Trainer on the prepared corpus and scored with overlapping windows. Test files are never looked at. Runs of one length compare what a
step teaches; `minutes` is what so many steps take at the run's own quiet pace (of a hundred steps, the twentieth fastest), which a
busy machine disturbs least.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from touchstone.runtime import set_threads

set_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from touchstone.config import apply_overrides, parse  # noqa: E402
from touchstone.evaluate.language import encode_documents, sample_documents, score_language  # noqa: E402
from touchstone.files import cache_folder  # noqa: E402
from touchstone.models import build  # noqa: E402
from touchstone.nn.products import choose_product  # noqa: E402
from touchstone.runtime import environment  # noqa: E402
from touchstone.text.batch import PackedWindows  # noqa: E402
from touchstone.text.prepare import prepare  # noqa: E402
from touchstone.train import Trainer  # noqa: E402
from touchstone.train.recipes import recipe  # noqa: E402
from touchstone.train.run_config import RunConfig  # noqa: E402

OPTIM, MODEL, SCHEDULE = "train.optim", "model", "train.schedule"

START = {
    f"{MODEL}.tied": True,
    f"{MODEL}.qk_norm": True,
    f"{MODEL}.norm_eps": 1e-6,
    f"{OPTIM}.learning_rate": 3e-3,
    f"{OPTIM}.embedding_learning_rate": None,
    f"{OPTIM}.muon_learning_rate": 0.02,
    "train.batch_size": 8,
}
"""What turns the recipe into the one that the search began with."""

SECOND = START | {f"{OPTIM}.learning_rate": 1e-2}
"""Where the second round began: the best rate of the first."""

THIRD = SECOND | {"train.batch_size": 16}
"""Where the third round began: compared over so many steps as take the same time."""

LSTM_UNTIED = {f"{MODEL}.tied": False, f"{MODEL}.d_model": 224, f"{MODEL}.d_hidden": 224}
"""Of the untied decoder's size."""

LSTM_START = {
    f"{MODEL}.tied": True,
    f"{MODEL}.d_model": 256,
    f"{MODEL}.d_hidden": 256,
    f"{OPTIM}.kind": "adamw",
    f"{OPTIM}.learning_rate": 4e-3,
    f"{OPTIM}.embedding_learning_rate": None,
}
"""The same for the LSTM."""


@dataclass(frozen=True)
class Variant:
    """Settings changed, by dotted key, on top of others; of which recipe; and how the first weights are drawn."""

    changes: dict = field(default_factory=dict)
    on: dict = field(default_factory=dict)
    of: str = "quickstart"
    table_std: float | None = None  # of the first token vectors; None = as built
    bigrams: bool = False  # begin the table and the untied head with the pairs of neighbouring tokens


def shape(d_model, n_layers, n_heads):
    """The sizes of a decoder."""
    return {f"{MODEL}.d_model": d_model, f"{MODEL}.n_layers": n_layers, f"{MODEL}.n_heads": n_heads}


def rates(muon=None, adamw=None, table=None):
    """Peak rates of the hidden matrices, of the rest, and of the token table."""
    named = {"muon_learning_rate": muon, "learning_rate": adamw, "embedding_learning_rate": table}
    return {f"{OPTIM}.{name}": rate for name, rate in named.items() if rate is not None}


def first(changes=None, **more):
    """A variant of what the search began with."""
    return Variant(changes or {}, START, **more)


def second(changes=None, **more):
    """A variant of where the second round began."""
    return Variant(changes or {}, SECOND, **more)


def third(changes=None, **more):
    """A variant of where the third round began."""
    return Variant(changes or {}, THIRD, **more)


def lstm(changes=None):
    """A variant of the LSTM that the search began with."""
    return Variant(changes or {}, LSTM_START, "lstm-lm")


UNTIED = {f"{MODEL}.tied": False}

VARIANTS = {
    "recipe": Variant(),
    "lstm recipe": Variant(of="lstm-lm"),
    "start": first(),
    "muon 0.04": first(rates(muon=0.04)),
    "adamw 6e-3": first(rates(adamw=6e-3)),
    "adamw 1e-2": first(rates(adamw=1e-2)),
    "relu2": first({f"{MODEL}.activation": "relu2", f"{MODEL}.gated": False}),
    "batch 16, muon 0.03, adamw 6e-3": first({"train.batch_size": 16} | rates(0.03, 6e-3)),
    "muon 0.01": second(rates(muon=0.01)),
    "adamw 2e-2": second(rates(adamw=2e-2)),
    "batch 4": second({"train.batch_size": 4}),
    "batch 16": third(),
    "192 x 4": second(shape(192, 4, 3)),
    "256 x 2": second(shape(256, 2, 4)),
    "2 heads": second({f"{MODEL}.n_heads": 2}),
    "no qk norm": second({f"{MODEL}.qk_norm": False}),
    "context 256": second({"context": 256, "train.batch_size": 4}),
    "vocabulary 2048": second({"tokenizer.vocab_size": 2048}),
    "vocabulary 8192": second({"tokenizer.vocab_size": 8192}),
    "theta 1000": second({f"{MODEL}.rope_theta": 1000.0}),
    "wsd": second({f"{SCHEDULE}.kind": "wsd", f"{SCHEDULE}.decay_fraction": 0.5}),
    "warm-up 100": second({f"{SCHEDULE}.warmup_steps": 100}),
    "decay 0.1": second({f"{OPTIM}.weight_decay": 0.1, f"{OPTIM}.muon_weight_decay": 0.1}),
    "4 iterations": second({f"{OPTIM}.newton_schulz_steps": 4}),
    "table drawn at 0.1": second(table_std=0.1),
    "adamw alone": second({f"{OPTIM}.kind": "adamw"}),
    "untied": second(UNTIED),
    "untied, table 3e-2": second(UNTIED | rates(table=3e-2)),
    "untied, table 1e-1": second(UNTIED | rates(table=1e-1)),
    "untied, from bigrams": second(UNTIED, bigrams=True),
    "untied, table 3e-2, muon 0.01": second(UNTIED | rates(0.01, table=3e-2)),
    "untied, table 3e-2, muon 0.005": second(UNTIED | rates(0.005, table=3e-2)),
    "batch 16, muon 0.03": third(rates(muon=0.03)),
    "batch 16, muon 0.012": third(rates(muon=0.012)),
    "batch 16, muon 0.008": third(rates(muon=0.008)),
    "batch 16, muon 0.012, untied, table 3e-2": third(UNTIED | rates(0.012, table=3e-2)),
    "batch 32, muon 0.03": third({"train.batch_size": 32} | rates(0.03)),
    "lstm, batch 16": Variant({"train.batch_size": 16}, of="lstm-lm"),
    "lstm 4e-3": lstm(),
    "lstm 8e-3": lstm(rates(adamw=8e-3)),
    "lstm 1.6e-2": lstm(rates(adamw=1.6e-2)),
    "lstm 3e-2": lstm(rates(adamw=3e-2)),
    "lstm untied, 1.6e-2, table 3e-2": lstm(LSTM_UNTIED | rates(adamw=1.6e-2, table=3e-2)),
    "lstm untied, 3e-2, table 3e-2": lstm(LSTM_UNTIED | rates(adamw=3e-2, table=3e-2)),
    "lstm untied, muon 0.02, 1e-2, table 3e-2": lstm(LSTM_UNTIED | {f"{OPTIM}.kind": "muon"} | rates(0.02, 1e-2, 3e-2)),
    "lstm untied, muon 0.04, 1e-2, table 3e-2": lstm(LSTM_UNTIED | {f"{OPTIM}.kind": "muon"} | rates(0.04, 1e-2, 3e-2)),
    "lstm untied, muon 0.01, 1e-2, table 3e-2": lstm(LSTM_UNTIED | {f"{OPTIM}.kind": "muon"} | rates(0.01, 1e-2, 3e-2)),
}


def configuration(variant, n_steps, seed, more=()):
    """The whole configuration of a variant at a length; more: overrides that come last."""
    plain = recipe(variant.of).config.model_dump(mode="json")
    every = {"n_steps": n_steps, "seed": seed, "eval_every": None, "sample_every": None, "save_every": n_steps}
    changes = {f"train.{name}": value for name, value in every.items()} | variant.on | variant.changes
    return parse(RunConfig, apply_overrides(plain, [*(f"{key}={json.dumps(value)}" for key, value in changes.items()), *more]))


def begin_with_bigrams(net, token_ids):
    """Make the untrained network's scores those of a smoothed bigram model as far as the width allows.

    The log of P(next | token) / P(next) is factored by its largest singular values; one more axis holds log P(next), and is the
    same for every token. What the body adds at first is small.
    """
    n, d = net.embed.weight.shape
    pairs = np.bincount(token_ids[:-1].astype(np.int64) * n + token_ids[1:], minlength=n * n).reshape(n, n).astype(np.float32)
    unigram = (pairs.sum(0) + 0.5) / (pairs.sum() + 0.5 * n)
    strength = 20.0  # pseudo-counts of the unigram distribution in every row
    ratio = (pairs + strength * unigram) / (pairs.sum(1, keepdims=True) + strength) / unigram
    u, s, v = torch.svd_lowrank(torch.from_numpy(np.log(ratio)), q=d - 1, niter=4)
    table, head = u * s.sqrt(), v * s.sqrt()
    size = table.square().mean(1, keepdim=True).add(1e-6).sqrt()
    constant = size.median() * d**0.5
    table = torch.cat([table, constant.expand(n, 1)], dim=1)
    rms = table.square().mean(1, keepdim=True).sqrt()
    head = torch.cat(
        [head * rms.median(), torch.from_numpy(np.log(unigram) - np.log(unigram).mean())[:, None] * (rms.median() / constant)], dim=1
    )
    with torch.no_grad():
        net.embed.weight.copy_(table)
        net.lm_head.weight.copy_(head)


def run(name, n_steps, seed, valid_bytes, more=()):
    """Train and score one variant; what is known of it as plain data."""
    variant = VARIANTS[name]
    config = configuration(variant, n_steps, seed, more)
    prepared = prepare(config.data, config.tokenizer, cache_folder())
    spec = config.to_spec(prepared.tokenizer.vocab_size)
    product = "torch" if config.train.precision == "bfloat16" else choose_product().name
    net = build(spec, product=product, seed=seed)
    if variant.table_std is not None:
        with torch.no_grad():
            net.embed.weight.normal_(0.0, variant.table_std, generator=torch.Generator().manual_seed(seed))
    if variant.bigrams:
        begin_with_bigrams(net, prepared.train.read(0, prepared.train.n_tokens))
    source = PackedWindows(prepared.train, config.context, isolate_documents=config.isolate_documents)
    with tempfile.TemporaryDirectory() as folder:
        outcome = Trainer(net, config.objective.build(), source, config.train, Path(folder)).run()
        if outcome.status != "finished":
            raise SystemExit(f"{name}: {outcome.status} after {outcome.step} of {outcome.n_steps} steps; no figure.")
        seconds = [json.loads(line)["seconds"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    texts = encode_documents(prepared.tokenizer, sample_documents([d for d in prepared.valid_documents if d.text], valid_bytes))
    score = score_language(net.eval(), texts)
    pace = float(np.percentile(seconds, 20))
    return {
        "variant": " ".join([name, *more]),
        "steps": n_steps,
        "seed": seed,
        "parameters": spec.n_parameters(),
        "tokens": outcome.n_tokens,
        "seconds_per_step": pace,
        "minutes": pace * n_steps / 60,
        "bits_per_byte": score.bits_per_byte().value,
    }


def main():
    """Run the variants asked for, one after the other, and tell each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the variants and their changes, and run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants; all if left out")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--valid-bytes", type=int, default=200_000, help="of validation text that is scored")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="more changes, for all of them")
    parser.add_argument("--out", type=Path, help="a file that gets a JSON line for each run, with the machine")
    asked = parser.parse_args()
    if asked.list:
        for name, variant in VARIANTS.items():
            print(f"{name:42} {variant.of:12} {json.dumps(variant.on | variant.changes)}")
        return
    if unknown := [name for name in asked.only or [] if name not in VARIANTS]:
        parser.error(f"no variant {', '.join(unknown)}; see --list")
    print(f"{'variant':42} {'parameters':>10} {'steps':>6} {'tokens':>9} {'s/step':>7} {'minutes':>7} {'bits per byte':>13}", flush=True)
    for name in asked.only or VARIANTS:
        found = run(name, asked.steps, asked.seed, asked.valid_bytes, asked.set)
        print(
            f"{found['variant']:42} {found['parameters']:10,} {found['steps']:6} {found['tokens']:9,} "
            f"{found['seconds_per_step']:7.4f} {found['minutes']:7.2f} {found['bits_per_byte']:13.4f}",
            flush=True,
        )
        if asked.out:
            with asked.out.open("a") as file:
                file.write(json.dumps({**found, "date": time.strftime("%Y-%m-%d"), "machine": environment()}) + "\n")


if __name__ == "__main__":
    main()
