"""Near-copies are found wherever they stand, the same ones every time."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.text import near_copies
from touchstone.text.corpora import corpus
from touchstone.text.document import Document
from touchstone.text.near_copies import Fingerprints, fingerprints_of, near_duplicate_groups


def words(n, seed):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(n))


def groups(*texts, threshold=0.3):
    return near_duplicate_groups([Document(text, "x") for text in texts], threshold).tolist()


def test_unrelated_texts_stay_alone():
    assert groups(*(words(200, seed) for seed in range(7))) == list(range(7))


def test_copies_join_whatever_case_white_space_and_small_edits():
    text = words(300, 1)
    edited = text.split()
    edited[40] = edited[170] = "changed"
    assert groups(text, words(300, 2), text.upper().replace(" ", "\n  "), " ".join(edited)) == [0, 1, 0, 0]


def test_a_text_inside_a_longer_one_is_a_near_copy():
    inner = words(150, 3)
    assert groups(inner, words(900, 4) + " " + inner + " " + words(900, 5)) == [0, 0]


def test_near_copies_of_near_copies_share_a_group():
    a, b, c = words(100, 6), words(100, 7), words(100, 8)
    assert groups(a, a + " " + b, b + " " + c, c) == [0, 0, 0, 0]


def test_the_threshold_is_the_share_of_the_shorter_text():
    shared = words(100, 9)
    one, other = shared + " " + words(100, 10), words(300, 11) + " " + shared
    assert groups(one, other, threshold=0.4) == [0, 0]
    assert groups(one, other, threshold=0.6) == [0, 1]


def test_short_texts_join_only_when_equal():
    assert groups("hello", "Hello ", "hello!", "", " \n") == [0, 0, 1, 2, 2]


def test_a_licence_on_top_of_many_files_joins_none_of_them():
    licence = words(60, 12)
    assert groups(*(licence + " " + words(150, 100 + number) for number in range(40))) == list(range(40))


def test_a_large_family_of_copies_is_one_group():
    body = words(200, 13)
    assert groups(*(body + " " + words(10, 200 + number) for number in range(40))) == [0] * 40


def test_any_shared_passage_of_47_bytes_leaves_a_common_fingerprint():
    """The guarantee of winnowing: window 32 + 16 neighbours - 1."""
    rng = random.Random(14)
    for _ in range(50):
        shared = "".join(rng.choices("abcdefgh", k=47))
        one = "".join(rng.choices("ijklmnop", k=rng.randint(0, 99))) + shared + "".join(rng.choices("ijklmnop", k=60))
        other = "".join(rng.choices("qrstuvwx", k=rng.randint(0, 99))) + shared + "".join(rng.choices("qrstuvwx", k=60))
        assert np.intersect1d(fingerprints_of(one), fingerprints_of(other)).size


def test_fingerprints_equal_a_plain_winnowing(monkeypatch):
    """Every run of 16 neighbouring windows contributes its smallest hash, computed one window at a time."""
    text = words(80, 15)
    data = text.encode()

    def whole(window):
        value, width = [byte + 1 for byte in window], 1
        power = near_copies._MULTIPLIER
        while len(value) > 1:
            value = [(value[i] * power + value[i + 1]) % 2**64 for i in range(0, len(value), 2)]
            power, width = power * power % 2**64, width * 2
        hashed = value[0]
        for _ in range(2):
            hashed = (hashed ^ (hashed >> 32)) * 0xD6E8FEB86659FD93 % 2**64
        return hashed ^ (hashed >> 32)

    hashes = [whole(data[start : start + 32]) for start in range(len(data) - 31)]
    expected = sorted({min(hashes[start : start + 16]) for start in range(len(hashes) - 15)})
    assert fingerprints_of(text).tolist() == expected
    monkeypatch.setattr(near_copies, "_SLICE_BYTES", 37)
    assert fingerprints_of(text).tolist() == expected


def test_sampling_does_not_depend_on_the_order_of_documents():
    texts = [words(100, seed) for seed in range(30)]
    texts[20] = texts[3] + " more"
    kept = []
    for order in (texts, texts[::-1]):
        gathered = Fingerprints(max_fingerprints=700)
        for text in order:
            gathered.add(text)
        numbers = gathered.groups()
        kept.append(sorted(np.concatenate(gathered._hashes).tolist()))
        assert len(kept[-1]) <= 700
        place = dict(zip(order, numbers.tolist(), strict=True))
        assert place[texts[20]] == place[texts[3]]
        assert len(set(place.values())) == 29
    assert kept[0] == kept[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([words(60, seed) for seed in range(5)]), max_size=12))
def test_groups_are_numbered_in_order_and_equal_texts_share_theirs(texts):
    found = groups(*texts)
    assert found == [list(dict.fromkeys(texts)).index(text) for text in texts]


@pytest.mark.slow
def test_another_process_with_other_hash_seeds_finds_the_same(tmp_path):
    program = (
        "import random; from touchstone.text.near_copies import near_duplicate_groups as g;"
        "from touchstone.text.document import Document as D;"
        "r = random.Random(5); t = [''.join(r.choices('abcdef ', k=400)) for _ in range(9)]; t[6] = t[2][50:];"
        "print(g([D(x, '') for x in t]).tolist())"
    )
    out = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert out == {b"[0, 1, 2, 3, 4, 5, 2, 6, 7]\n"}


@pytest.mark.slow
def test_copied_modules_of_the_python_library_are_found():
    documents = list(corpus("python"))
    found = dict(zip((document.source for document in documents), near_duplicate_groups(documents).tolist(), strict=True))
    for one, other in [("bz2.py", "lzma.py"), ("encodings/utf_16.py", "encodings/utf_32.py"), ("profile.py", "cProfile.py")]:
        assert found[one] == found[other]
    assert found["json/decoder.py"] != found["argparse.py"]
    assert np.bincount(list(found.values())).max() < 0.1 * len(documents)
