"""Noise that is drawn anew for every step is still the same noise after a resume and in micro-batches."""

import os
import signal

import numpy as np
import pytest
import torch
from tiny_run import make_config, make_trainer, read_lines

from touchstone.models import build, decoder_spec
from touchstone.text.corrupted import MaskedWindows, restored_by_denoising
from touchstone.text.document import Document
from touchstone.text.frame import Frame
from touchstone.text.shards import write_shards
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer
from touchstone.train import Causal, OptimConfig

N_STEPS, BATCH = 10, 5


@pytest.fixture(scope="module")
def make_source(tmp_path_factory):
    """Sources over the same 23 windows of a tiny corpus, each keeping what it was asked for."""
    tokenizer = Tokenizer.train([], kind="bytes", specials=("<pad>", "</s>", "<mask>"))
    pad, end, mask = 256, 257, 258
    texts = ["".join(chr(97 + int(code)) for code in np.random.default_rng(n).integers(0, 26, 29 + n)) for n in range(5)]
    shards = write_shards(tmp_path_factory.mktemp("shards"), [Document(text, "x") for text in texts], tokenizer)
    kinds = TokenKinds.of(tokenizer)

    def make(kind):
        common = {"kinds": kinds, "frame": Frame(after=(end,)), "pad_id": pad, "mask_id": mask}
        source = MaskedWindows(shards, 8, **common) if kind == "masked" else restored_by_denoising(shards, 9, start_id=pad, **common)
        source.seen, plain = [], source.batch

        def watched(example_ids, keys):
            batch = plain(example_ids, keys)
            source.seen += [(int(i), row.tobytes()) for i, row in zip(example_ids, batch.token_ids, strict=True)]
            return batch

        source.batch = watched
        return source

    return make


def make_net(seed=1):
    spec = decoder_spec(vocab_size=259, d_model=12, n_layers=1, n_heads=4, n_kv_heads=2, d_head=4, max_seq_len=9, dropout=0.1)
    return build(spec, seed=seed).double()


def run(folder, source, *, micro_batch_size=None, on_step=None):
    config = make_config(n_steps=N_STEPS, batch_size=BATCH, micro_batch_size=micro_batch_size, optim=OptimConfig())
    trainer = make_trainer(
        folder, net=make_net(), source=source, config=config, objective=Causal(), evaluate=None, sample=None, on_step=on_step
    )
    return trainer.run(), trainer.net


def stop_after(step):
    return lambda report: os.kill(os.getpid(), signal.SIGTERM) if report.step == step else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked", "denoised"])
def test_ten_steps_equal_five_and_a_resume_and_five(make_source, tmp_path, kind):
    whole, _ = run(tmp_path / "whole", make_source(kind))
    first, _ = run(tmp_path / "parts", make_source(kind), on_step=stop_after(5))
    assert (first.status, first.step) == ("interrupted", 5)
    second, _ = run(tmp_path / "parts", make_source(kind))
    assert second.resumed_from == 5
    assert second.weights_sha256 == whole.weights_sha256
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulation_equals_the_big_batch(make_source, tmp_path, micro_batch_size):
    big_source, small_source = make_source("masked"), make_source("masked")
    _, big = run(tmp_path / "big", big_source)
    _, small = run(tmp_path / "small", small_source, micro_batch_size=micro_batch_size)
    assert [number for number, _ in big_source.seen] == [number for number, _ in small_source.seen]
    for (name, parameter), other in zip(big.named_parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, rtol=0, atol=1e-13, msg=name)


@pytest.mark.slow
def test_every_epoch_hides_other_tokens(make_source, tmp_path):
    source = make_source("masked")
    run(tmp_path, source)
    n = source.n_examples
    assert len(source.seen) == N_STEPS * BATCH > 2 * n
    epochs = [dict(source.seen[place : place + n]) for place in (0, n)]
    assert set(epochs[0]) == set(epochs[1]) == set(range(n))
    assert sum(epochs[0][number] != epochs[1][number] for number in range(n)) > n // 2
