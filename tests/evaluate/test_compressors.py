import lzma
import random
import sys
import zlib

import pytest

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.evaluate import compressors
from touchstone.evaluate.compressors import score_compressors


def prose(seed, n_words):
    """Text with the statistics of few words: compressible, and different for each seed."""
    words = ["def", "return", "self", "naïve", "value", "index", "for", "in", "range", "    ", "\n", "x = 3", "print"]
    rng = random.Random(seed)
    return " ".join(rng.choice(words) + str(rng.randrange(40)) for _ in range(n_words))


DOCUMENTS = [prose(1, 90), prose(2, 30), prose(3, 250)]
TRAINING = [prose(4, 3000), prose(5, 2000)]


def scores(report):
    return {(score.name, score.given_bytes > 0): score for score in report.scores}


def xz_bytes(data, dict_size):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dict_size}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


def test_xz_given_the_training_text_adds_what_its_definition_says():
    """One encoder copied for each document equals compressing training and document together, each time anew."""
    found = scores(score_compressors(DOCUMENTS, TRAINING))[("xz", True)]
    given = "".join(TRAINING).encode()
    reach = len(given) + max(len(document.encode()) for document in DOCUMENTS)
    alone = xz_bytes(given, reach)
    assert list(found.compressed_bytes) == [xz_bytes(given + document.encode(), reach) - alone for document in DOCUMENTS]
    assert found.given_bytes == len(given)


@pytest.mark.slow
def test_xz_reads_a_training_text_far_longer_than_its_buffers_once_and_whole():
    # Random bytes as hex do not compress below half, so a copy of the very first of them shows how far back xz looks.
    far = random.Random(6).randbytes(150_000).hex()
    documents = [far[:8000], prose(7, 100)]
    found = scores(score_compressors(documents, [far]))[("xz", True)]
    reach = len(far) + 8000
    alone = xz_bytes(far.encode(), reach)
    assert list(found.compressed_bytes) == [xz_bytes((far + document).encode(), reach) - alone for document in documents]
    assert found.compressed_bytes[0] < 200


@pytest.mark.slow
def test_documents_do_not_see_each_other():
    forwards = scores(score_compressors(DOCUMENTS, TRAINING))
    backwards = scores(score_compressors(DOCUMENTS[::-1], TRAINING))
    for key, score in forwards.items():
        assert score.compressed_bytes == backwards[key].compressed_bytes[::-1]


def test_a_document_that_was_in_the_training_text_costs_almost_nothing():
    pytest.importorskip("zstandard")
    found = scores(score_compressors([TRAINING[1]], TRAINING))
    for name in ("xz", "zstd"):
        assert found[(name, True)].compressed_bytes[0] < found[(name, False)].compressed_bytes[0] / 20


def test_given_nothing_each_figure_is_the_plain_compressed_size():
    found = scores(score_compressors(DOCUMENTS))
    texts = [document.encode() for document in DOCUMENTS]
    # A zlib stream is the deflate one with 2 bytes before and 4 after.
    assert list(found[("zlib", False)].compressed_bytes) == [len(zlib.compress(text, 9)) - 6 for text in texts]
    assert list(found[("xz", False)].compressed_bytes) == [xz_bytes(text, max(4096, len(text))) for text in texts]
    assert found[("bz2", False)].n_bytes == tuple(len(text) for text in texts)
    assert not any(given for _, given in found)


def test_bits_per_byte_is_all_bits_over_all_bytes():
    found = scores(score_compressors(DOCUMENTS))[("bz2", False)]
    interval = found.bits_per_byte()
    assert interval.value == pytest.approx(8 * sum(found.compressed_bytes) / sum(found.n_bytes))
    assert interval.n == 3


def test_too_much_training_text_is_cut_to_its_end_and_says_so():
    found = scores(score_compressors(DOCUMENTS, TRAINING, max_training_bytes=1000))
    expected = scores(score_compressors(DOCUMENTS, ["".join(TRAINING).encode()[-1000:].decode()]))
    assert found[("xz", True)] == expected[("xz", True)]
    assert found[("xz", True)].given_bytes == 1000


def test_a_compressor_that_is_not_there_is_listed_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "bz2", None)
    report = score_compressors(DOCUMENTS)
    assert [score.name for score in report.scores] == ["xz", "zlib"]
    assert report.missing["zstd"] == "pip install zstandard"
    assert "bz2" in report.missing["bz2"]


def test_a_failure_of_the_process_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(compressors, "_AT_ONCE", "two")
    with pytest.raises(Unsupported, match="max_training_bytes"):
        score_compressors(DOCUMENTS, TRAINING)


def test_nothing_to_score_is_refused():
    for documents in ([], ["text", ""]):
        with pytest.raises(DataError, match="empty"):
            score_compressors(documents)
    with pytest.raises(ConfigError, match="max_training_bytes"):
        score_compressors(DOCUMENTS, TRAINING, max_training_bytes=0)
