"""Windows that are corrupted anew each time: a pure function of window and key."""

import numpy as np
import pytest

from touchstone.errors import ConfigError
from touchstone.text.corrupted import MaskedWindows, Masking, restored_by_denoising, restored_by_spans
from touchstone.text.denoise import Noises
from touchstone.text.document import Document
from touchstone.text.frame import Frame
from touchstone.text.shards import write_shards
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer

SPECIALS = ("<pad>", "</s>", "<s>", "<mask>", *(f"<extra_id_{n}>" for n in range(9)))
PAD, END, START, MASK = range(256, 260)  # a vocabulary of bytes has its special tokens behind them
SENTINELS = np.arange(260, 269)
FRAME = Frame(before=(START,), after=(END,))
LENGTHS = (19, 1, 30, 12)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], kind="bytes", specials=SPECIALS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tokenizer):
    rng = np.random.default_rng(3)
    texts = ["".join(chr(97 + int(code)) for code in rng.integers(0, 26, n)) for n in LENGTHS]
    return write_shards(tmp_path_factory.mktemp("shards"), [Document(text, "x") for text in texts], tokenizer)


@pytest.fixture(scope="module")
def kinds(tokenizer):
    return TokenKinds.of(tokenizer)


@pytest.fixture
def masked(shards, kinds):
    def make(context=10, **settings):
        return MaskedWindows(shards, context, kinds=kinds, frame=FRAME, mask_id=MASK, pad_id=PAD, **settings)

    return make


@pytest.fixture
def restored(shards, kinds):
    def make(kind, context=14, **settings):
        common = {"kinds": kinds, "frame": FRAME, "start_id": PAD, "pad_id": PAD}
        if kind == "spans":
            return restored_by_spans(shards, context, sentinel_ids=SENTINELS, **common, **settings)
        return restored_by_denoising(shards, context, mask_id=MASK, **common, **settings)

    return make


@pytest.fixture(params=["masked", "spans", "denoising"])
def source(request, masked, restored):
    if request.param == "masked":
        return masked()
    return restored("spans", context=24, mean_span=1.0) if request.param == "spans" else restored("denoising", context=24)


def fields(batch):
    return {name: getattr(batch, name) for name in ("token_ids", "targets", "counts", "mask", "source_ids", "source_mask")}


def test_masked_windows_show_the_whole_text_between_the_marks(masked, shards):
    windows = masked()
    batch = windows.batch(np.arange(windows.n_examples), np.arange(windows.n_examples))
    assert windows.n_examples == -(-shards.n_tokens // 8)
    there = batch.mask if batch.mask is not None else np.ones_like(batch.token_ids, dtype=bool)
    rows = [row[is_there] for row, is_there in zip(batch.targets, there, strict=True)]
    assert all((row[0], row[-1]) == (START, END) for row in rows)
    assert np.concatenate([row[1:-1] for row in rows]).tolist() == shards.read(0, shards.n_tokens).tolist()
    assert not batch.counts[~there].any()
    assert not np.isin(batch.targets[batch.counts], [PAD, START, END, MASK]).any()
    assert np.array_equal(batch.token_ids[~batch.counts], batch.targets[~batch.counts])
    assert batch.counts.any(axis=1).all()


def test_segments_follow_the_documents_and_the_marks_their_neighbours(masked, shards):
    windows = masked(isolate_documents=True)
    batch = windows.batch(np.arange(windows.n_examples), np.zeros(windows.n_examples, dtype=np.int64))
    for row in range(windows.n_examples):
        text = np.arange(row * 8, min(row * 8 + 8, shards.n_tokens))
        documents = shards.documents_at(text).tolist()
        assert batch.segments[row, : len(text) + 2].tolist() == [documents[0], *documents, documents[-1]]


def test_span_corruption_restores_the_text_of_its_window(restored, shards, kinds):
    source = restored("spans")
    batch = source.batch(np.arange(source.n_examples), np.arange(source.n_examples) - 2)
    whole = []
    for row in range(source.n_examples):
        read = batch.source_ids[row][batch.source_mask[row]].tolist()
        target = batch.targets[row][batch.counts[row]].tolist()
        assert (read[0], read[-1], target[0], target[-1]) == (START, END, START, END)
        spans, here = {}, None
        for token in target[1:-1]:
            here = token if token in SENTINELS else here
            spans.setdefault(here, []).extend([] if token in SENTINELS else [token])
        whole += [part for token in read[1:-1] for part in (spans[token] if token in SENTINELS else [token])]
    stream = shards.read(0, shards.n_tokens)
    assert whole == stream[~kinds.is_special[stream]].tolist()
    assert batch.source_ids.shape[1] <= 14


def test_denoising_has_the_text_as_target(restored, shards, kinds):
    source = restored("denoising", noises=Noises(rotate_share=0.5))
    batch = source.batch(np.arange(source.n_examples), np.arange(source.n_examples))
    targets = np.concatenate([row[counts][1:-1] for row, counts in zip(batch.targets, batch.counts, strict=True)])
    stream = shards.read(0, shards.n_tokens)
    assert targets.tolist() == stream[~kinds.is_special[stream]].tolist()
    assert (batch.source_ids == MASK).any()
    assert max(batch.source_ids.shape[1], batch.token_ids.shape[1]) <= 14


def test_a_decoder_reads_the_target_one_place_later_behind_the_start(restored):
    batch = restored("spans").batch([1, 0], [5, 6])
    for row in range(2):
        n = int(batch.counts[row].sum())
        assert batch.token_ids[row, :n].tolist() == [PAD, *batch.targets[row, : n - 1].tolist()]


def test_an_example_is_a_function_of_its_number_and_key_whatever_the_batch(source):
    whole = source.batch([2, 0, 1], [7, 8, 9])
    for place, (number, key) in enumerate(zip([2, 0, 1], [7, 8, 9], strict=True)):
        alone = fields(source.batch([number], [key]))
        for name, array in fields(whole).items():
            if array is not None and alone[name] is not None:
                n = alone[name].shape[1]
                assert np.array_equal(array[place, :n], alone[name][0]), name


def test_another_key_is_other_noise(source):
    made = {tuple(array.tobytes() for array in fields(source.batch([1], [key])).values() if array is not None) for key in range(20)}
    assert len(made) > 5


def test_windows_know_what_they_depend_on(masked, restored):
    prints = {
        masked().fingerprint,
        masked(context=11).fingerprint,
        masked(masking=Masking(share=0.2)).fingerprint,
        masked(isolate_documents=True).fingerprint,
        restored("spans").fingerprint,
        restored("spans", density=0.3).fingerprint,
        restored("denoising").fingerprint,
        restored("denoising", noises=Noises(drop_share=0.1)).fingerprint,
    }
    assert len(prints) == 8
    assert masked().fingerprint in prints


def test_one_key_an_example_is_needed(source):
    with pytest.raises(ConfigError, match="1 keys for 2 examples"):
        source.batch([0, 1], [3])


def test_a_context_without_room_for_text_is_refused(masked):
    with pytest.raises(ConfigError, match=r"`context` \(2\)"):
        masked(context=2)


def test_too_few_sentinels_for_the_length_are_refused_before_training(restored):
    with pytest.raises(ConfigError, match=r"have \d+ hidden spans, the vocabulary has 9 sentinels"):
        restored("spans", context=400)
