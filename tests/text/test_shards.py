"""Token ids on disk."""

import numpy as np
import pytest

from touchstone.errors import ConfigError, DataError, TokenizerError
from touchstone.text.document import Document
from touchstone.text.shards import open_shards, write_shards
from touchstone.text.tokenizer import Tokenizer

TEXTS = ["first é text", "", "second <|endoftext|> one\n" * 7, "中文"]
DOCUMENTS = [Document(text, f"{place}") for place, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], kind="bytes")


def expected(tokenizer):
    return [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS]


@pytest.mark.slow
@pytest.mark.parametrize("shard_tokens", [1, 5, 7, 64, 10_000])
def test_documents_come_back_whatever_the_size_of_a_file(tmp_path, tokenizer, shard_tokens):
    shards = write_shards(tmp_path, DOCUMENTS, tokenizer, shard_tokens=shard_tokens)
    documents = expected(tokenizer)
    stream = [token for document in documents for token in document]
    assert shards.n_documents == 4
    assert len(shards) == shards.n_tokens == len(stream)
    assert [shards.document(number).tolist() for number in range(4)] == documents
    for start in range(len(stream) + 1):
        for stop in (start, start + 1, start + 9, len(stream), len(stream) + 5):
            assert shards.read(start, stop).tolist() == stream[start:stop]
    n_files = len(list(tmp_path.glob("tokens-*.bin")))
    assert n_files == -(-len(stream) // shard_tokens)


def test_bytes_of_text_are_counted_exactly_for_each_document(tmp_path, tokenizer):
    shards = write_shards(tmp_path, DOCUMENTS, tokenizer)
    assert shards.document_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert shards.n_bytes == sum(len(text.encode()) for text in TEXTS)


def test_every_token_knows_its_document(tmp_path, tokenizer):
    shards = write_shards(tmp_path, DOCUMENTS, tokenizer)
    owners = [number for number, document in enumerate(expected(tokenizer)) for _ in document]
    assert shards.documents_at(np.arange(shards.n_tokens)).tolist() == owners


def test_a_special_token_spelled_in_a_text_does_not_end_it(tmp_path, tokenizer):
    shards = write_shards(tmp_path, DOCUMENTS, tokenizer)
    assert (shards.read(0, shards.n_tokens) == tokenizer.eos_id).sum() == 4


def test_fingerprints_tell_contents_apart_and_not_the_sizes_of_files(tmp_path, tokenizer):
    cases = {
        "same": (DOCUMENTS, 9),
        "again": (DOCUMENTS, 1000),
        "order": (DOCUMENTS[::-1], 9),
        "borders": ([Document(TEXTS[0] + TEXTS[1], "x"), *DOCUMENTS[2:]], 9),
    }
    found = {}
    for name, (documents, shard_tokens) in cases.items():
        (tmp_path / name).mkdir()
        found[name] = write_shards(tmp_path / name, documents, tokenizer, shard_tokens=shard_tokens).fingerprint
    assert found["same"] == found["again"]
    assert len(set(found.values())) == 3


def test_ids_are_stored_in_two_bytes_while_they_fit(tmp_path, tokenizer):
    shards = write_shards(tmp_path, DOCUMENTS, tokenizer)
    assert shards.read(0, 5).dtype == np.dtype("<u2")
    assert (tmp_path / "tokens-00000.bin").stat().st_size == 2 * shards.n_tokens


def test_a_corpus_without_documents_is_empty(tmp_path, tokenizer):
    shards = write_shards(tmp_path, [], tokenizer)
    assert (shards.n_tokens, shards.n_documents, shards.n_bytes) == (0, 0, 0)
    assert shards.read(0, 10).tolist() == []


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="a token that ends a text"):
        write_shards(tmp_path, DOCUMENTS, Tokenizer.train([], kind="bytes", specials=("<|pad|>",)))


def test_shards_of_no_tokens_are_refused(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="shard_tokens"):
        write_shards(tmp_path, DOCUMENTS, tokenizer, shard_tokens=0)


@pytest.mark.parametrize("name", ["tokens-00001.bin", "document_starts.bin", "document_bytes.bin", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damage_is_named(tmp_path, tokenizer, name, damage):
    write_shards(tmp_path, DOCUMENTS, tokenizer, shard_tokens=50)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=name.split(".")[0]):
        open_shards(tmp_path)


def test_another_version_is_refused(tmp_path, tokenizer):
    write_shards(tmp_path, DOCUMENTS, tokenizer)
    index = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(index.replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="version 1 are read"):
        open_shards(tmp_path)
