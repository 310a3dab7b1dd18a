"""The objectives learn: step for step as a plain loop over Hugging Face's models, text far below its unigram entropy, and to translate.

Writes docs/results/learning.md. Takes about three quarters of an hour on two cores, most of it training two translators; the minutes of
each are TOUCHSTONE_PROVE_MINUTES (15). The machine should have nothing else to do.
"""

import datetime
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import plain_loop
import pytest
import torch
from dictionary import Dictionary

from touchstone import load
from touchstone.cli.session import open_terminal
from touchstone.config import load as load_settings
from touchstone.evaluate.answering import score_answers
from touchstone.files import cache_folder
from touchstone.flows.lessons import make_lesson
from touchstone.text.prepare import prepare
from touchstone.text.token_kinds import TokenKinds
from touchstone.train.run_config import RunConfig

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "learning.md"
MINUTES = float(os.environ.get("TOUCHSTONE_PROVE_MINUTES", "15"))
TEXT_MINUTES = MINUTES / 3
LEAST_GAIN = 0.5  # nats below the unigram entropy: more than a model gains that only knows which words are frequent
LEAST_BLEU = 8.0
LOSS_TOLERANCE = 1e-4  # of the twentieth loss: fp32 rounds each product to 6e-8, and the steps carry it on

SMALL = ("model.d_model=128", "context=64", "tokenizer.vocab_size=2148")
MUON = ("train.optim.kind=muon", "train.optim.learning_rate=0.005", "train.optim.muon_learning_rate=0.02", "train.optim.weight_decay=0")
TEXTS = {
    "bert-small": (*SMALL, *MUON, "model.n_layers=3"),
    "t5-small": (*SMALL, *MUON, "model.n_encoder_layers=2", "model.n_decoder_layers=2", f"model.head_scale={128**-0.5}"),
}
TRANSLATORS = {
    # a seventh of the base size: two cores show the whole one too few pairs in a quarter of an hour
    "transformer-base": ("model.d_model=256", "model.n_heads=4", "model.n_encoder_layers=3", "model.n_decoder_layers=3"),
    "lstm-attention": (),
}
PAIRS = ("tokenizer.vocab_size=4096", "data.test_fraction=0")  # half the recipes' vocabulary: the captions are few and alike

pytestmark = pytest.mark.prove


@pytest.fixture(scope="module")
def page():
    """The sections of the results, written when all of them are there."""
    sections, began = {}, time.time()
    yield sections
    if len(sections) == 3:
        write_results(sections, time.time() - began)


def test_the_first_losses_are_those_of_a_plain_loop_over_the_hugging_face_model(tmp_path, page):
    rows = []
    for make in (plain_loop.masked_lm, plain_loop.span_corruption, plain_loop.seq2seq):
        folder = tmp_path / make.__name__
        folder.mkdir()
        name, ours, theirs = plain_loop.losses_of_both(make, folder)
        apart = [abs(mine - other) / other for mine, other in zip(ours, theirs, strict=True)]
        assert len(apart) == plain_loop.N_STEPS
        assert max(apart) < LOSS_TOLERANCE
        rows.append((make.__name__, name, f"{ours[0]:.4f}", f"{ours[-1]:.4f}", f"{max(apart):.1e}"))
    page["steps"] = table(("objective", "Hugging Face's class", "first loss", "twentieth", "largest relative difference"), rows)


def test_hidden_text_is_restored_far_below_its_unigram_entropy(tmp_path, page, test_data):
    data, rows = test_data / "lm_text" / "tinystories" / "train.txt.gz", []
    for name, changes in TEXTS.items():
        run = train(tmp_path / name, name, [data], changes, TEXT_MINUTES)
        nats, unigram, n = restored(tmp_path / name)
        rows.append((name, f"{run['parameters']:,}", f"{run['seconds'] / 60:.1f}", f"{run['step']:,}", f"{unigram:.2f}", f"{nats:.2f}", n))
        assert nats <= unigram - LEAST_GAIN
    page["text"] = table(("recipe", "parameters", "minutes", "steps", "unigram", "nats a token", "tokens"), rows)


def test_translators_beat_a_dictionary(tmp_path, page, test_data):
    folder = test_data / "translation" / "multi30k"
    sides = {side: [folder / f"{side}.{language}.gz" for language in ("en", "de")] for side in ("train", "val")}
    pairs = {side: [lines(path) for path in paths] for side, paths in sides.items()}
    sources, expected = pairs["val"]
    by_word = Dictionary(*pairs["train"])
    words_alone, signature = bleu([by_word.translate(source) for source in sources], expected)
    rows, reached = [("word by word", "-", "-", "-", f"{words_alone:.1f}")], {}
    for name, changes in TRANSLATORS.items():
        run = train(tmp_path / name, name, sides["train"], (*PAIRS, *changes), MINUTES, valid=sides["val"])
        model = load(tmp_path / name)
        for n_beams in (1, 4):
            begun = time.perf_counter()
            reached[name], _ = bleu(written(model, sources, n_beams), expected)
            decoding = f"{'greedy' if n_beams == 1 else f'{n_beams} beams'}, {time.perf_counter() - begun:.0f} s"
            rows.append((name, f"{run['parameters']:,}", f"{run['seconds'] / 60:.1f}", decoding, f"{reached[name]:.1f}"))
    page["translation"] = table(("who", "parameters", "minutes of training", "decoding", "BLEU"), rows) + f"\n\nsacrebleu {signature}."
    assert min(reached.values()) >= LEAST_BLEU
    assert min(reached.values()) > words_alone


def train(out, recipe, data, changes, minutes, valid=()):
    """The command, and the document it prints."""
    paths = [word for option, files in (("--data", data), ("--valid", valid)) for file in files for word in (option, str(file))]
    command = [Path(sys.executable).with_name("touchstone"), "train", recipe, *paths, "--out", out, "--minutes", str(minutes), "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([*map(str, command), *changes], stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def restored(run):
    """Nats a hidden token of the test side, the same by the tokens' frequencies in the training text, and how many; marks left out.

    A sentinel can be told from those before it, so it would flatter a model beside frequencies.
    """
    config = load_settings(RunConfig, run / "config.yaml")
    lesson = make_lesson(config, open_terminal("en", False))
    is_special = TokenKinds.of(lesson.tokenizer).is_special
    score = score_answers(load(run).net, lesson.objective, lesson.test)
    is_text = ~is_special[score.expected]
    shards = prepare(config.data, config.tokenizer, cache_folder()).train
    counts = np.bincount(shards.read(0, shards.n_tokens), minlength=len(is_special)).astype(float) + 1
    counts[is_special] = 0
    unigram = -np.log(counts / counts.sum(), where=counts > 0, out=np.zeros_like(counts))
    return score.nats[is_text].mean(), unigram[score.expected[is_text]].mean(), int(is_text.sum())


def written(model, sources, n_beams):
    """All sources in batches of 64, each until its end."""
    done = []
    for start in range(0, len(sources), 64):
        batch = model.generate(sources[start : start + 64], max_new_tokens=60, temperature=0, num_beams=n_beams)
        done += [completion.text for completion in batch if completion.index == 0]
    return done


def bleu(found, expected):
    sacrebleu = pytest.importorskip("sacrebleu")
    metric = sacrebleu.metrics.BLEU(force=True)
    return metric.corpus_score(found, [expected]).score, metric.get_signature()


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def table(headers, rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (headers, ["---"] * len(headers), *rows))


def write_results(sections, seconds):
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "sacrebleu"))
    text = f"""# Learning: the objectives against Hugging Face, the unigram entropy and a dictionary

Written by `pytest -m prove tests/prove/test_learning.py`, a part of `make prove`, on {datetime.date.today().isoformat()}, in
{seconds / 60:.0f} minutes: Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()},
{torch.get_num_threads()} threads for the tests and all cores ({os.cpu_count()}) for the trainings.

## The first {plain_loop.N_STEPS} losses

Our trainer, and a loop of twenty lines over the Hugging Face model that opens the same folder: AdamW, constant rate, clipping at 1, no
dropout, the same batches and masks. Allowed: {LOSS_TOLERANCE:g}.

{sections["steps"]}

## Hidden text

Stories (lm_text/tinystories of the test data), at smaller settings of two recipes, `--minutes {TEXT_MINUTES:g}`: nats for each hidden
token of held-out stories, marks and sentinels left out, beside those of the tokens' frequencies. Asked for: {LEAST_GAIN} below.

{sections["text"]}

## Translation

Multi30k, English to German: 8,000 captions to learn from, without near-copies of the 1,014 of `val` to judge by; `--minutes
{MINUTES:g}`; the Transformer {" ".join(TRANSLATORS["transformer-base"])}.
Word by word is each word's likeliest partner by IBM's first model. Asked for: above that, and at least {LEAST_BLEU:g}.

{sections["translation"]}
"""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
