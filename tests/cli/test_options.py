"""What several verbs read in the same way."""

import io
import sys

import pytest

from touchstone.cli.options import biases, text_or_stdin
from touchstone.errors import ConfigError, DataError
from touchstone.report.words import words


def test_biases_are_read_and_a_malformed_one_is_named():
    assert biases(["3=-1.5", "7=2"]) == {3: -1.5, 7: 2.0}
    assert biases([]) is None
    with pytest.raises(ConfigError, match="--logit-bias x=1"):
        biases(["x=1"])


@pytest.mark.parametrize("argument", [None, "-"])
def test_text_comes_from_stdin_where_no_argument_gives_it(argument, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("def 试金石".encode())))
    assert text_or_stdin(argument, words("en")) == "def 试金石"
    assert text_or_stdin("given", words("en")) == "given"


def test_stdin_that_is_no_utf8_is_named_with_its_place(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    with pytest.raises(DataError, match="byte 2 is no UTF-8"):
        text_or_stdin(None, words("en"))
