"""Vocabularies learned from text, checked against a plain implementation and published merges."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from touchstone.errors import TokenizerError, UnknownName
from touchstone.text.tokenizer import Tokenizer
from touchstone.text.vocabulary import byte_characters

pytestmark = pytest.mark.slow

GPT2 = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")  # as in Radford et al. 2019, ASCII digits


def plain_bpe(text, n_merges, best):
    """Byte-pair encoding as Sennrich et al. 2016 define it; `best` chooses among the pairs that are most frequent."""
    words = Counter(tuple(bytes([byte]) for byte in piece.encode()) for piece in GPT2.findall(text))
    merges = []
    for _ in range(n_merges):
        pairs = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        most = max(pairs.values())
        pair = best([pair for pair, count in pairs.items() if count == most], merges)
        merges.append(pair)
        words = Counter({merged(word, pair): count for word, count in words.items()})
    return merges


def merged(word, pair):
    out, place = [], 0
    while place < len(word):
        if word[place : place + 2] == pair:
            out.append(word[place] + word[place + 1])
            place += 2
        else:
            out.append(word[place])
            place += 1
    return tuple(out)


def greatest(pairs, merges):
    """The rule of the published reference: the pair that is last in order of its bytes."""
    return max(pairs)


def earliest(pairs, merges):
    """The rule of the `tokenizers` library: the pair with the smallest token ids (characters in order of their code, then merges)."""
    chars = byte_characters()
    ids = {bytes([byte]): (0, chars[byte]) for byte in range(256)} | {a + b: (1, number) for number, (a, b) in enumerate(merges)}
    return min(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


@pytest.fixture(scope="module")
def reference(test_data):
    folder = test_data / "tokenizers/bpe_train_reference"
    lines = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    bytes_of = {char: bytes([byte]) for byte, char in enumerate(byte_characters())}
    merges = [tuple(b"".join(bytes_of[char] for char in part) for part in line.split(" ")) for line in lines]
    return (folder / "corpus.en").read_text(encoding="utf-8"), merges


def merges_of(tokenizer):
    bytes_of = {char: bytes([byte]) for byte, char in enumerate(byte_characters())}
    merges = json.loads(tokenizer._json)["model"]["merges"]
    return [tuple(b"".join(bytes_of[char] for char in part) for part in (m.split(" ") if isinstance(m, str) else m)) for m in merges]


@pytest.mark.slow
def test_the_plain_implementation_gives_the_published_merges(reference):
    corpus, published = reference
    assert len(published) == 243  # vocabulary 500: 256 bytes and one special
    assert plain_bpe(corpus, 243, greatest) == published


@pytest.mark.slow
def test_learned_merges_are_those_of_the_plain_implementation(reference):
    """Up to the choice among equally frequent pairs, where the library has its own rule, these are the published merges."""
    corpus, published = reference
    learned = merges_of(Tokenizer.train([corpus], kind="bpe", vocab_size=500, specials=("<|endoftext|>",), pattern="gpt2"))
    assert learned == plain_bpe(corpus, 243, earliest)
    assert len({a + b for a, b in learned} & {a + b for a, b in published}) > 235


def test_a_small_corpus_gives_the_merges_of_the_plain_implementation():
    text = "low low low lower lower newest newest newest newest widest widest they're here 2024 2024 !!"
    learned = merges_of(Tokenizer.train([text], vocab_size=270, specials=("<|endoftext|>",)))
    assert learned == plain_bpe(text, 13, earliest)


SAMPLE = Path(textwrap.__file__).read_text(encoding="utf-8").split("\n\n")


@pytest.mark.parametrize(("kind", "pattern", "size"), [("bpe", "code", 320), ("unigram", "gpt2", 290), ("wordpiece", None, 90)])
def test_the_same_text_gives_the_same_bytes_in_every_process(kind, pattern, size):
    program = (
        "from touchstone.text.tokenizer import Tokenizer;"
        "import textwrap, pathlib;"
        "sample = pathlib.Path(textwrap.__file__).read_text(encoding='utf-8').split('\\n\\n');"
        f"print(Tokenizer.train(sample, kind={kind!r}, pattern={pattern!r}, vocab_size={size}).fingerprint)"
    )
    here = Tokenizer.train(SAMPLE, kind=kind, pattern=pattern, vocab_size=size).fingerprint
    for threads in ("1", "2"):
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        out = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, text=True).stdout
        assert out.strip() == here


@pytest.mark.parametrize(("kind", "size"), [("bpe", 5000), ("unigram", 5000), ("wordpiece", 5000)])
def test_a_vocabulary_larger_than_the_text_supports_names_the_largest(kind, size):
    with pytest.raises(
        TokenizerError, match=r"`vocab_size` \(5000\) is larger than this text supports; the largest possible is (\d+)"
    ) as caught:
        Tokenizer.train(SAMPLE, kind=kind, vocab_size=size)
    largest = int(re.search(r"possible is (\d+)", str(caught.value)).group(1))
    assert Tokenizer.train(SAMPLE, kind=kind, vocab_size=largest).vocab_size == largest


def test_text_beyond_the_bound_is_sampled_whatever_its_order():
    texts = [f"sentence number {n} says {n * n} things about {n % 13}.\n" * 50 for n in range(60)]
    n_bytes = sum(map(len, texts))
    some = Tokenizer.train(texts, vocab_size=280, max_bytes=n_bytes // 3)
    assert some.sample.n_bytes_seen == n_bytes
    assert 0 < some.sample.n_bytes_used <= n_bytes // 3
    assert Tokenizer.train(texts[::-1], vocab_size=280, max_bytes=n_bytes // 3).fingerprint == some.fingerprint
    whole = Tokenizer.train(texts, vocab_size=280)
    assert whole.sample.n_bytes_used == whole.sample.n_bytes_seen == n_bytes


def test_one_endless_text_is_sampled_too():
    text = " ".join(f"w{n * n % 9973}" for n in range(200_000))
    sample = Tokenizer.train([text], vocab_size=300, max_bytes=200_000).sample
    assert sample.n_bytes_seen == len(text)
    assert 0 < sample.n_bytes_used <= 200_000


def test_progress_is_told():
    told = []
    Tokenizer.train(SAMPLE, vocab_size=270, progress=lambda *state: told.append(state))
    assert told[0][:2] == ("reading", len(SAMPLE[0].encode()))
    assert told[-1][0] == "learning the vocabulary"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "bpee"}, UnknownName, "No tokenizer kind `bpee`"),
        ({"pattern": "cod"}, UnknownName, "No pattern `cod`. Did you mean `code`"),
        ({"kind": "bytes", "vocab_size": 300}, TokenizerError, "has 256 bytes and 2 specials"),
        ({"kind": "bytes", "pattern": "code"}, TokenizerError, "has no meaning for kind `bytes`"),
        ({"kind": "wordpiece", "pattern": "gpt2"}, TokenizerError, "has no meaning for kind `wordpiece`"),
        ({"vocab_size": 257}, TokenizerError, "must be at least 258"),
        ({"specials": ("<a>", "<a>")}, TokenizerError, "must be different"),
        ({"max_bytes": 0}, TokenizerError, "`max_bytes` (0) must be at least 1"),
        ({"texts": []}, TokenizerError, "no text to learn"),
        ({"texts": ["", ""]}, TokenizerError, "no text to learn"),
        ({"texts": ["a\ud800"]}, TokenizerError, "half of a surrogate pair at character 1"),
    ],
)
def test_what_makes_no_vocabulary_is_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Tokenizer.train(**{"texts": SAMPLE, **arguments})
