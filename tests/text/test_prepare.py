"""From files to token shards, once for the same input."""

import errno
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from touchstone.errors import ConfigError, DataError, RunFolderError, TokenizerError
from touchstone.text.near_copies import near_duplicate_groups
from touchstone.text.prepare import DataConfig, TokenizerConfig, prepare
from touchstone.text.tokenizer import Tokenizer

BYTES = TokenizerConfig(kind="bytes")


def words(n, seed):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghijklm", k=rng.randint(2, 8))) for _ in range(n))


@pytest.fixture
def folder(tmp_path):
    """30 files, of which 5 are near-copies of others; one has a byte order mark, one CRLF, one is of an unknown kind."""
    place = tmp_path / "texts"
    place.mkdir()
    for number in range(25):
        (place / f"{number:02d}.txt").write_text(words(100 + number, number) + "\n")
    for number in range(5):
        (place / f"copy{number}.txt").write_text(words(100 + number, number) + " changed\n")
    (place / "03.txt").write_bytes(b"\xef\xbb\xbf" + (place / "03.txt").read_bytes())
    (place / "04.txt").write_bytes((place / "04.txt").read_bytes().replace(b" ", b"\r\n"))
    (place / "picture.png").write_bytes(b"x")
    return place


@pytest.fixture
def data(folder):
    return DataConfig(sources=(str(folder),), valid_fraction=0.1, test_fraction=0.15)


def texts_of(prepared):
    return {
        "train": [document.text for document in prepared.train_documents()],
        "valid": [document.text for document in prepared.valid_documents],
        "test": [document.text for document in prepared.test_documents],
    }


def test_every_document_is_on_one_side_and_its_tokens_are_its_text(data, tmp_path):
    prepared = prepare(data, BYTES, tmp_path / "cache")
    texts = texts_of(prepared)
    assert len([text for side in texts.values() for text in side]) == 30
    for side, shards in (("train", prepared.train), ("valid", prepared.valid), ("test", prepared.test)):
        decoded = [prepared.tokenizer.decode(shards.document(number)[:-1].tolist()) for number in range(shards.n_documents)]
        assert decoded == texts[side]
        assert shards.n_bytes == sum(len(text.encode()) for text in texts[side])
    total = sum(len(text) for side in texts.values() for text in side)
    assert sum(map(len, texts["test"])) / total == pytest.approx(0.15, abs=0.03)


def test_near_copies_are_never_on_two_sides(data, tmp_path):
    prepared = prepare(data, BYTES, tmp_path / "cache")
    documents = [*prepared.train_documents(), *prepared.valid_documents, *prepared.test_documents]
    groups = near_duplicate_groups(documents)
    n_train, n_valid = prepared.report.n_documents["train"], prepared.report.n_documents["valid"]
    sides = [set(part.tolist()) for part in np.split(groups, [n_train, n_train + n_valid])]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 25
    assert (prepared.report.n_groups, prepared.report.n_near_copies) == (25, 5)


def test_the_report_says_what_was_read(data, folder, tmp_path):
    report = prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "cache").report
    assert (report.n_files, report.n_bom, report.n_crlf, report.n_empty, report.n_cut) == (30, 1, 1, 0, 0)
    assert report.skipped == ((str(folder / "picture.png"), "suffix `.png` is not known"),)
    assert report.tokenizer_bytes_used == report.tokenizer_bytes_seen == report.n_bytes["train"]


@pytest.mark.slow
def test_the_vocabulary_is_learned_from_the_training_side_only(data, tmp_path):
    prepared = prepare(data, TokenizerConfig(vocab_size=330), tmp_path / "cache")
    alone = Tokenizer.train((document.text for document in prepared.train_documents()), vocab_size=330)
    assert prepared.tokenizer.fingerprint == alone.fingerprint


def test_a_ready_tokenizer_is_used_as_it_is(data, tmp_path):
    ready = Tokenizer.train([words(300, 1)], vocab_size=270)
    prepared = prepare(data, ready, tmp_path / "cache")
    assert prepared.tokenizer.fingerprint == ready.fingerprint == prepared.train.tokenizer_fingerprint
    assert prepared.report.tokenizer_bytes_used is None


def test_the_same_input_is_prepared_once(data, tmp_path, monkeypatch):
    first = prepare(data, BYTES, tmp_path / "cache")
    monkeypatch.setattr(sys.modules[DataConfig.__module__], "_fill", lambda *_: pytest.fail("prepared again"))
    second = prepare(data, BYTES, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.report == first.report
    assert texts_of(second) == texts_of(first)
    assert np.array_equal(second.train.read(0, 10**6), first.train.read(0, 10**6))


@pytest.mark.slow
def test_whatever_changes_the_result_changes_the_folder(data, folder, tmp_path):
    cache = tmp_path / "cache"
    base = prepare(data, BYTES, cache)
    found = {base.fingerprint}
    for changed in (data.replace(seed=1), data.replace(test_fraction=0.2), data.replace(near_copy_share=0.5)):
        found.add(prepare(changed, BYTES, cache).fingerprint)
    found.add(prepare(data, TokenizerConfig(vocab_size=300), cache).fingerprint)
    found.add(prepare(data, TokenizerConfig(vocab_size=301), cache).fingerprint)
    (folder / "07.txt").write_text(words(80, 99))  # same name, another content
    found.add(prepare(data, BYTES, cache).fingerprint)
    assert len(found) == 7
    os.utime(folder / "07.txt", (1, 1))  # another time, same content
    assert prepare(data, BYTES, cache).fingerprint in found


def test_one_long_text_is_cut_and_nothing_of_it_is_lost(tmp_path):
    text = "\n\n".join(words(12, seed) for seed in range(400))
    (tmp_path / "book.txt").write_text(text)
    data = DataConfig(sources=(str(tmp_path / "book.txt"),), valid_fraction=0.1, test_fraction=0.1)
    prepared = prepare(data, BYTES, tmp_path / "cache")
    assert prepared.report.n_cut == 1
    assert prepared.report.n_documents["train"] > 20
    blocks = [*prepared.train_documents(), *prepared.valid_documents, *prepared.test_documents]
    assert "".join(block.text for block in sorted(blocks, key=lambda block: block.line)) == text
    assert prepared.report.n_bytes["test"] / len(text) == pytest.approx(0.1, abs=0.02)


def test_without_held_out_sides_all_text_is_for_training(data, tmp_path):
    prepared = prepare(data.replace(valid_fraction=0, test_fraction=0), BYTES, tmp_path / "cache")
    assert prepared.report.n_documents == {"train": 30, "valid": 0, "test": 0}
    assert (prepared.valid.n_tokens, prepared.test_documents) == (0, [])


def test_all_steps_tell_their_progress(data, tmp_path):
    told = []
    prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "cache", lambda *state: told.append(state))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
        "reading",
        "comparing documents",
        "learning the vocabulary",
        "encoding train",
        "encoding valid",
        "encoding test",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reading", "comparing documents", "learning the vocabulary", "encoding test"])
def test_work_that_was_cut_short_leaves_nothing_behind(data, tmp_path, stage):
    class Stop(Exception):
        pass

    def stop(now, *_):
        if now == stage:
            raise Stop

    with pytest.raises(Stop):
        prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "cache", stop)
    assert list((tmp_path / "cache/prepared").iterdir()) == []
    assert prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "cache").train.n_documents > 0


@pytest.mark.slow
def test_a_death_at_any_write_is_followed_by_a_whole_result(data, tmp_path, dies_at):
    """Every fifth effect on the disk; the publication itself is tested exhaustively with the files."""
    whole = prepare(data, BYTES, tmp_path / "whole")
    k = 0
    while dies_at(k, lambda: prepare(data, BYTES, tmp_path / "cache")):
        assert prepare(data, BYTES, tmp_path / "cache").train.fingerprint == whole.train.fingerprint
        k += 5
        for leftover in (tmp_path / "cache/prepared").iterdir():
            assert leftover.name == whole.fingerprint
        shutil.rmtree(tmp_path / "cache")
    assert k > 20


def test_text_that_changes_while_it_is_read_is_noticed(data, folder, tmp_path):
    def meddle(stage, *_):
        if stage == "comparing documents":
            (folder / "new.txt").write_text("late")

    with pytest.raises(DataError, match="the text changed while it was read"):
        prepare(data, BYTES, tmp_path / "cache", meddle)


def test_a_vocabulary_the_training_side_does_not_support_is_refused(data, tmp_path):
    with pytest.raises(TokenizerError, match="larger than this text supports"):
        prepare(data, TokenizerConfig(vocab_size=100_000), tmp_path / "cache")
    assert list((tmp_path / "cache/prepared").iterdir()) == []


def test_a_full_disk_is_named_with_the_folder(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunFolderError, match=r"cache/prepared: cannot be written: No space left on device; make room"):
        prepare(data, BYTES, tmp_path / "cache")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either `sources`"),
        ({"sources": ["a"], "corpus": "python"}, "give either `sources`"),
        ({"sources": ["a"], "valid_fraction": 0.6, "test_fraction": 0.4}, "together must be below 1"),
        ({"sources": ["a"], "valid_fraction": -0.1}, "valid_fraction"),
        ({"source": ["a"]}, "did you mean `sources`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


@pytest.mark.slow
def test_a_large_text_of_one_endless_line_needs_bounded_memory(tmp_path):
    """64 MB, twice what fills the fingerprints; an interpreter with numpy and tokenizers takes 70 MB by itself."""
    rng = random.Random(1)
    with (tmp_path / "line.txt").open("w") as file:
        for _ in range(64 * 16):
            file.write(rng.randbytes(1 << 15).hex())
    program = (
        "import sys; from touchstone.runtime import peak_resident_bytes; from touchstone.text import *;"
        "d = DataConfig(sources=(sys.argv[1],), valid_fraction=0.05, test_fraction=0.05);"
        "p = prepare(d, TokenizerConfig(kind='bytes'), sys.argv[2]);"
        "assert p.report.n_bytes['train'] > 50 << 20;"
        "print(peak_resident_bytes())"  # the kernel's ru_maxrss would count the process that started this one
    )
    command = [sys.executable, "-c", program, str(tmp_path / "line.txt"), str(tmp_path / "cache")]
    peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert peak < 350 << 20


@pytest.mark.slow
def test_the_python_library_is_prepared_without_leakage(tmp_path):
    prepared = prepare(DataConfig(corpus="python"), TokenizerConfig(pattern="code"), tmp_path / "cache")
    documents = [*prepared.train_documents(), *prepared.valid_documents, *prepared.test_documents]
    sides = ["train"] * prepared.train.n_documents + ["valid"] * prepared.valid.n_documents + ["test"] * prepared.test.n_documents
    side_of_group = {}
    for group, side in zip(near_duplicate_groups(documents).tolist(), sides, strict=True):
        assert side_of_group.setdefault(group, side) == side
    total = sum(prepared.report.n_bytes.values())
    assert prepared.report.n_bytes["valid"] / total == pytest.approx(0.05, abs=0.005)
    assert prepared.report.n_bytes["test"] / total == pytest.approx(0.05, abs=0.005)
    assert prepared.tokenizer.vocab_size == 4096
    assert prepared.report.n_bytes["train"] / prepared.report.n_tokens["train"] > 3
