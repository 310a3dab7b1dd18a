"""What goes around a text is what its tokenizer puts there."""

import numpy as np
import pytest

from touchstone.text.frame import Frame
from touchstone.text.tokenizer import Tokenizer

KINDS = {
    "bert": (("[PAD]", "[UNK]", "[CLS]", "[SEP]"), ("[CLS]",), ("[SEP]",), ("[SEP]",), 1),
    "roberta": (("<s>", "<pad>", "</s>"), ("<s>",), ("</s>", "</s>"), ("</s>",), 0),
    "t5": (("<pad>", "</s>"), (), ("</s>",), ("</s>",), 0),
    "gpt": (("<|endoftext|>", "<|pad|>"), (), (), (), 0),
}


@pytest.fixture(scope="module", params=KINDS)
def framed(request):
    specials, before, between, after, second_type = KINDS[request.param]
    kind, size = ("wordpiece", 34) if request.param == "bert" else ("bytes", None)
    tokenizer = Tokenizer.train(["the cat sat on a mat and a dog sat on the cat"] * 9, kind=kind, vocab_size=size, specials=specials)
    ids = {name: tokenizer.encode(name, allow_special=True)[0] for name in specials}
    expected = Frame(*(tuple(ids[name] for name in names) for names in (before, between, after)), second_type)
    return tokenizer, expected


def test_a_tokenizer_that_was_trained_puts_the_marks_of_its_special_tokens(framed):
    tokenizer, expected = framed
    assert Frame.of(tokenizer) == expected


def test_a_framed_text_is_what_the_tokenizer_makes_of_it(framed):
    tokenizer, _ = framed
    frame = Frame.of(tokenizer)
    first, second = (np.array(tokenizer.encode(text)) for text in ("the cat", "a dog sat"))
    one, two = tokenizer.encode_special("the cat"), tokenizer.encode_special("the cat", "a dog sat")
    assert frame.around(first).tolist() == list(one.token_ids)
    assert frame.around(first, second).tolist() == list(two.token_ids)
    assert frame.types(len(first)).tolist() == list(one.token_types)
    assert frame.types(len(first), len(second)).tolist() == list(two.token_types)
    assert (frame.n_single, frame.n_pair) == (len(one.token_ids) - len(first), len(two.token_ids) - len(first) - len(second))
