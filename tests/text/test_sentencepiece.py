"""SentencePiece files: read as its own library reads them, rebuilt to the same ids and text, refused where they are damaged.

The oracle is the `sentencepiece` package, on published models and on small ones that it trains here.
"""

import io
import random
import resource
import time

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import (
    BPE,
    BYTE,
    CONTROL,
    HARD_TEXTS,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER,
    byte_pieces,
    field,
    piece,
    real_lines,
    spm_bytes,
    varint,
    vectors,
    write_folder,
)

from touchstone.errors import TokenizerError
from touchstone.text.segmentation import rebuild, shown, unreachable
from touchstone.text.sentencepiece import _fields, parse_sentencepiece
from touchstone.text.tokenizer import Tokenizer

FILES = {"llama2/tokenizer.model": "bpe", "sentencepiece/test_model.model": "unigram"}
PLAIN = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("▁", -2.0, NORMAL),
    ("a", -1.0, NORMAL),
    ("▁a", -1.5, NORMAL),
]

TRAINED = {  # settings of the trainer, each with something that the published models have not
    "bpe with bytes": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
    "bpe that collapses spaces": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
    "unigram that folds case": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
    "unigram across words": {"model_type": "unigram", "split_by_whitespace": False, "normalization_rule_name": "identity"},
    "unigram that keeps spaces": {"model_type": "unigram", "remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
    "unigram without a space before": {"model_type": "unigram", "add_dummy_prefix": False, "normalization_rule_name": "nfkc"},
}


@pytest.fixture(scope="module", params=FILES)
def published(request, test_data):
    """A published model in both libraries."""
    path = test_data / "tokenizers" / request.param
    return _both(path)


@pytest.fixture(scope="module", params=TRAINED)
def trained(request, test_data, tmp_path_factory):
    """A model that sentencepiece trains on a few hundred lines, in both libraries."""
    lines = real_lines(test_data, 120)
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=stream,
        vocab_size=1600,
        character_coverage=0.98,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **TRAINED[request.param],
    )
    path = tmp_path_factory.mktemp("trained") / "m.model"
    path.write_bytes(stream.getvalue())
    return _both(path)


def _both(path):
    model = parse_sentencepiece(path)
    backend = rebuild(model, model.pieces, "always" if model.adds_space else "never")
    backend.encode_special_tokens = True
    return model, backend, sentencepiece.SentencePieceProcessor(model_file=str(path))


def _spans(theirs, text):
    """sentencepiece's spans in characters; its message counts UTF-8 bytes."""
    places, n_bytes = {0: 0}, 0
    for number, char in enumerate(text, start=1):
        n_bytes += len(char.encode())
        places[n_bytes] = number
    pieces = [
        {number: value for number, _, value in _fields(data)}
        for number, _, data in _fields(memoryview(theirs.encode(text, return_type="serialized_proto")))
        if number == 2
    ]
    return [(places[entry.get(4, 0)], places[entry.get(5, 0)]) for entry in pieces]


@pytest.mark.slow
def test_a_file_says_what_its_own_library_reads_in_it(published):
    model, _, theirs = published
    assert len(model.pieces) == theirs.get_piece_size()
    for number, entry in enumerate(model.pieces):
        assert entry.text == theirs.id_to_piece(number)
        assert entry.score == theirs.get_score(number)
        is_kind = {"unknown": theirs.is_unknown, "control": theirs.is_control, "byte": theirs.is_byte}.get(entry.kind, lambda _: True)
        assert is_kind(number)


@pytest.mark.slow
def test_ids_and_text_equal_those_of_the_published_model(published, test_data):
    _check(published, real_lines(test_data) + HARD_TEXTS)


@pytest.mark.slow
def test_ids_and_text_equal_those_of_a_trained_model(trained, test_data):
    _check(trained, real_lines(test_data)[100:250] + HARD_TEXTS)


def _check(models, texts):
    _, backend, theirs = models
    for text in texts:
        expected = theirs.encode(text)
        assert backend.encode(text, add_special_tokens=False).ids == expected, text
        if not any(map(theirs.is_unknown, expected)):  # theirs writes ⁇ for the unknown
            assert backend.decode(expected, skip_special_tokens=True) == theirs.decode(expected), text


@pytest.mark.slow
def test_runs_of_one_character_are_cut_as_theirs(test_data):
    """Equal scores are the hard case: which of two overlapping pairs joins first."""
    _, backend, theirs = _both(test_data / "tokenizers/llama2/tokenizer.model")
    rng = random.Random(1)
    for text in [char * n for char in " -=a*._\n0" for n in range(1, 70)] + ["".join(rng.choices("  aab-=\n", k=20)) for _ in range(500)]:
        assert backend.encode(text, add_special_tokens=False).ids == theirs.encode(text), text


@pytest.mark.slow
def test_offsets_are_the_characters_a_piece_spells(published, test_data):
    """Theirs, but for two things: part of a character counts as all of it, and a word does not include the space before it where
    spaces are collapsed."""
    model, backend, theirs = published
    for text in [*real_lines(test_data)[::3], " x  y", "中文 a", "naïve"]:
        offsets = backend.encode(text, add_special_tokens=False).offsets
        for (start, end), (first, last) in zip(offsets, _spans(theirs, text), strict=True):
            if first == last:
                assert start <= first
                assert end == start + 1
            else:
                skipped = len(text[first:last]) - len(text[first:last].lstrip(" ")) if model.collapses_spaces else 0
                assert (start, end) == (min(first + skipped, last), last) or not text[first:last].strip()


@pytest.mark.slow
def test_llama_ids_equal_published_ones(test_data):
    """Vectors of llama.cpp."""
    _, backend, _ = _both(test_data / "tokenizers/llama2/tokenizer.model")
    texts, expected = vectors(test_data, "llama-spm")
    assert [backend.encode(text, add_special_tokens=False).ids for text in texts] == expected


def test_a_space_goes_before_the_first_text_only_where_that_is_asked(tmp_path):
    model = _parsed(tmp_path, spm_bytes(PLAIN, algorithm=BPE, collapses_spaces=False))
    for prefix, expected in {"always": ["▁a", "</s>", "▁a"], "first": ["▁a", "</s>", "a"], "never": ["a", "</s>", "a"]}.items():
        backend = rebuild(model, model.pieces, prefix)
        backend.add_special_tokens(["</s>"])
        assert backend.encode("a</s>a").tokens == expected
    assert rebuild(model, model.pieces, "first").encode(" a").tokens == ["▁", "▁a"]
    assert rebuild(model, model.pieces, "first").encode("").tokens == []


@pytest.mark.parametrize("algorithm", [UNIGRAM, BPE])
def test_no_text_spells_a_special_piece(tmp_path, algorithm):
    pieces = [
        *PLAIN,
        *byte_pieces(),
        ("/", -3.0, NORMAL),
        ("s", -3.0, NORMAL),
        (">", -3.0, NORMAL),
        ("<", -3.0, NORMAL),
        ("</", -1.0, NORMAL),
    ]
    model = _parsed(tmp_path, spm_bytes(pieces, algorithm=algorithm, byte_fallback=True))
    backend = rebuild(model, model.pieces, "always")
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    backend.encode_special_tokens = True
    theirs = sentencepiece.SentencePieceProcessor(model_proto=spm_bytes(pieces, algorithm=algorithm, byte_fallback=True))
    for text in ("</s>", "a<s>a", "<unk>", "<0x41>", "<s></s> </s>", "<<s>>"):
        ids = backend.encode(text).ids
        assert not {0, 1, 2, 6 + 0x41} & set(ids) - {6 + byte for byte in text.encode()}
        if algorithm == BPE:
            assert ids == theirs.encode(text)
        assert backend.decode(ids) == text


def test_an_unreachable_piece_has_an_id_and_a_text_and_is_never_found(tmp_path):
    model = _parsed(tmp_path, spm_bytes(PLAIN))
    backend = rebuild(model, [*model.pieces, unreachable("▁aa"), unreachable("b")], "always")
    assert backend.encode("aa b \ufdd0b").tokens == ["▁a", "a", "▁", "b", "▁", "\ufdd1b"]
    assert backend.encode("b").ids == [3, 0]
    assert backend.decode([5, 6, 7]) == "a aab"
    assert shown(backend.id_to_token(6)) == "▁aa"


HOSTILE = {
    "empty": (b"", "0 pieces"),
    "text": (b"vocabulary of the model\n" * 9, "wire type 6"),
    "ends in a number": (spm_bytes(PLAIN) + b"\x80", "ends inside a number"),
    "a number that never ends": (b"\x0a" + b"\xff" * 1000, "more than ten bytes"),
    "a huge length": (b"\x0a" + varint(1 << 62), "bytes, 0 are left"),
    "a length one too large": (spm_bytes(PLAIN)[:-1], "cut short|ends inside"),
    "a billion of bytes": (field(1, b"\x0a" + varint(10**9)), "should have 1000000000 bytes"),
    "field 0": (b"\x02\x00", "field 0"),
    "a group": (b"\x0b\x0c", "wire type 3"),
    "wire type 7": (b"\x0f", "wire type 7"),
    "pieces as a number": (field(1, 7), "field 1 should be a run of bytes, this is a number"),
    "a score as a number": (field(1, field(1, b"a") + field(2, 7)), "`score` should be 4 bytes, this is a number"),
    "a text as a number": (field(1, field(1, 7)), "`text` should be a run of bytes"),
    "a kind of bytes": (field(1, field(3, b"x")), "`kind` should be a number"),
    "a piece twice": (spm_bytes([*PLAIN, ("a", -9.0, NORMAL)]), "`a` is there twice"),
    "an empty piece": (spm_bytes([*PLAIN, ("", -9.0, NORMAL)]), "piece 6 .* empty"),
    "a million empty pieces": (b"\x0a\x00" * 1_000_000, "piece 0 .* empty"),
    "a piece that is no UTF-8": (spm_bytes(PLAIN) + piece(b"\xff\xfe"), "piece 6 is not UTF-8"),
    "a piece with half a surrogate": (spm_bytes(PLAIN) + piece(b"\xed\xa0\x80"), "piece 6 is not UTF-8"),
    "a score that is no number": (spm_bytes([*PLAIN, ("b", float("nan"), NORMAL)]), "score nan"),
    "an unbounded score": (spm_bytes([*PLAIN, ("b", float("inf"), NORMAL)]), "score inf"),
    "a piece without end": (spm_bytes([*PLAIN, ("a" * 300, 0.0, NORMAL)]), "has 300 characters"),
    "an unused piece": (spm_bytes([*PLAIN, ("b", 0.0, UNUSED)]), "kind 5"),
    "a kind that is none": (spm_bytes([*PLAIN, ("b", 0.0, 99)]), "kind 99"),
    "no unknown": (spm_bytes(PLAIN[1:]), "0 of them for the unknown"),
    "two unknown": (spm_bytes([*PLAIN, ("<u>", 0.0, UNKNOWN)]), "2 of them for the unknown"),
    "only special pieces": (spm_bytes(PLAIN[:3]), "and others not"),
    "words": (spm_bytes(PLAIN, algorithm=3), "neither a unigram nor a BPE"),
    "bytes that are not all there": (spm_bytes([*PLAIN, ("<0x00>", 0.0, BYTE)], byte_fallback=True), "all 256"),
    "bytes without fallback": (spm_bytes([*PLAIN, *byte_pieces()]), "all 256"),
    "spaces behind words": (spm_bytes(PLAIN, trainer=field(24, 1)), "spaces behind words"),
    "a table that decodes": (spm_bytes(PLAIN) + field(5, field(2, b"\0" * 8)), "decoded text"),
    "a noncharacter": (spm_bytes([*PLAIN, ("\ufdd0x", 0.0, NORMAL)]), "U.FDD0"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_refused_at_once_in_little_memory(tmp_path, name):
    data, message = HOSTILE[name]
    (tmp_path / "m.model").write_bytes(data)
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TokenizerError, match=rf"m\.model: not a usable SentencePiece model: .*{message}"):
        parse_sentencepiece(tmp_path / "m.model")
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10  # kB


def test_a_file_too_large_to_be_one_is_not_read(tmp_path):
    with (tmp_path / "m.model").open("wb") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(TokenizerError, match="at most 33554432 bytes"):
        parse_sentencepiece(tmp_path / "m.model")


@pytest.mark.parametrize("table", [b"\0", b"\xff" * 4, b"\x04\0\0\0" + b"\xff" * 40, varint(1 << 30) + b"\0" * 99])
def test_a_damaged_table_of_characters_is_one_error(tmp_path, table):
    write_folder(tmp_path, {"tokenizer.model": spm_bytes(PLAIN, charsmap=table)}, model_type="llama")
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path).encode("e\u0301 a")


SMALL = spm_bytes([*PLAIN, ("é中", -3.0, USER)], charsmap=b"", trainer=field(9, b"x" * 20))


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda data: field(1, data)),
        st.binary(max_size=60).map(lambda data: field(3, data)),
    )
)
def test_any_bytes_are_a_model_or_one_error(tmp_path_factory, data):
    _read_or_refuse(tmp_path_factory, data)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, len(SMALL)))
def test_a_file_with_changed_bytes_is_a_model_or_one_error(tmp_path_factory, changes, length):
    data = bytearray(SMALL)
    for place, byte in changes:
        data[place] = byte
    _read_or_refuse(tmp_path_factory, bytes(data[: max(length, len(data) // 2)]))


def _read_or_refuse(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.model"
    path.write_bytes(data)
    try:
        model = parse_sentencepiece(path)
        backend = rebuild(model, model.pieces, "always")
    except TokenizerError:
        return
    assert backend.get_vocab_size() == len(model.pieces)


def _parsed(tmp_path, data):
    (tmp_path / "m.model").write_bytes(data)
    return parse_sentencepiece(tmp_path / "m.model")
