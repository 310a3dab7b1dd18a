"""What a tokenizer puts around a text, and how a text too long is cut, against Hugging Face's BERT and GPT-2 classes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import write_folder

from touchstone.errors import ConfigError, UnknownName
from touchstone.text.tokenizer import Encoded, Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "fox", "##es", "run", "far", "."]
TEXT = st.lists(st.sampled_from(["the", "red", "foxes", "run", "far.", "é", "."]), max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A small BERT vocabulary in our class and in Hugging Face's."""
    transformers = pytest.importorskip("transformers")
    folder = write_folder(tmp_path_factory.mktemp("bert"), {"vocab.txt": "\n".join(WORDS)}, {"tokenizer_class": "BertTokenizer"})
    return Tokenizer.load(folder), transformers.BertTokenizer.from_pretrained(folder)


def test_a_pair_says_which_token_is_of_which_text(both):
    ours, _ = both
    assert ours.encode_special("Red foxes", "run") == Encoded(
        token_ids=(2, 6, 7, 8, 3, 9, 3),
        token_types=(0, 0, 0, 0, 0, 1, 1),
        special_mask=(True, False, False, False, True, False, True),
        sides=(None, 0, 0, 0, None, 1, None),
        offsets=((0, 0), (0, 3), (4, 7), (7, 9), (0, 0), (0, 3), (0, 0)),
    )
    assert ours.encode_special("").token_ids == (2, 3)
    assert ours.encode_special("", "").token_ids == (2, 3, 3)


def test_nothing_is_put_around_a_text_where_the_tokenizer_has_nothing_to_put():
    tokenizer = Tokenizer.train([], kind="bytes")
    encoded = tokenizer.encode_special("é", "a")
    assert (encoded.token_ids, encoded.sides, encoded.offsets) == ((0xC3, 0xA9, 97), (0, 0, 1), ((0, 1), (0, 1), (0, 1)))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((), ())


def test_a_text_that_spells_a_special_token_becomes_it_only_where_allowed(both):
    ours, _ = both
    assert 4 not in ours.encode_special("the [MASK]", "[MASK]").token_ids
    allowed = ours.encode_special("the [MASK]", "[MASK]", allow_special=True)
    assert allowed.token_ids == (2, 5, 4, 3, 4, 3)
    assert allowed.special_mask == (True, False, False, True, False, True)  # it is of the text


@pytest.mark.slow
@given(text=TEXT, pair=TEXT.filter(bool), length=st.integers(3, 20), cut=st.sampled_from(["longest", "first", "second"]))
def test_a_pair_too_long_is_cut_as_hugging_face_cuts_it(both, text, pair, length, cut):
    ours, theirs = both
    lengths = {"first": len(ours.encode(text)), "second": len(ours.encode(pair))}
    excess = sum(lengths.values()) + 3 - length
    if cut != "longest" and lengths[cut] < excess:
        with pytest.raises(ConfigError, match=f"the {cut} text has {lengths[cut]} tokens and should lose {excess}"):
            ours.encode_special(text, pair, max_length=length, cut=cut)
        return
    found = ours.encode_special(text, pair, max_length=length, cut=cut)
    assert found.n_cut == max(0, excess)
    if cut != "longest" and lengths[cut] == excess:
        return  # Hugging Face refuses to take a text away whole
    strategy = {"longest": "longest_first", "first": "only_first", "second": "only_second"}[cut]
    expected = theirs(text, pair, truncation=strategy, max_length=length, return_offsets_mapping=True)
    assert list(found.token_ids) == expected["input_ids"]
    assert list(found.token_types) == expected["token_type_ids"]
    assert list(found.offsets) == expected["offset_mapping"]


@pytest.mark.slow
@given(text=TEXT, length=st.integers(2, 20))
def test_one_text_too_long_loses_its_end(both, text, length):
    ours, theirs = both
    found = ours.encode_special(text, max_length=length)
    assert list(found.token_ids) == theirs(text, truncation=True, max_length=length)["input_ids"]
    assert len(found.token_ids) + found.n_cut == len(ours.encode_special(text).token_ids)


@pytest.mark.slow
@given(text=TEXT, pair=TEXT.filter(bool), room=st.integers(1, 9), stride=st.integers(0, 8))
def test_windows_are_those_of_hugging_face(both, text, pair, room, stride):
    ours, theirs = both
    length = len(ours.encode(text)) + 3 + room
    if stride >= room:
        with pytest.raises(ConfigError, match=rf"`stride` \({stride}\) must be at least 0 and below the {room} tokens"):
            ours.encode_windows(text, pair, max_length=length, stride=stride)
        return
    found = ours.encode_windows(text, pair, max_length=length, stride=stride)
    expected = theirs(
        text, pair, truncation="only_second", max_length=length, stride=stride, return_overflowing_tokens=True, return_offsets_mapping=True
    )
    assert [list(window.token_ids) for window in found] == expected["input_ids"]
    assert [list(window.offsets) for window in found] == expected["offset_mapping"]
    assert [list(window.sides) for window in found] == [expected.sequence_ids(number) for number in range(len(found))]


def test_windows_of_one_text_cover_it(both):
    ours, _ = both
    found = ours.encode_windows("the red fox run far", max_length=5, stride=1)
    assert [window.token_ids for window in found] == [(2, 5, 6, 7, 3), (2, 7, 9, 10, 3)]
    assert [window.offsets[1:-1] for window in found] == [((0, 3), (4, 7), (8, 11)), ((8, 11), (12, 15), (16, 19))]
    assert [window.n_cut for window in found] == [2, 2]


def test_a_length_that_leaves_no_room_is_refused(both):
    ours, _ = both
    with pytest.raises(ConfigError, match=r"`max_length` \(2\) must be at least 3"):
        ours.encode_special("the", "fox", max_length=2)
    with pytest.raises(UnknownName, match="second"):
        ours.encode_special("the", "fox", cut="seccond")
