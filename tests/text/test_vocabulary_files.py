"""Tokenizers from the files of older formats: ids, offsets, text and what goes around a text equal Hugging Face's; damage is one error."""

import json
import resource
import time
import unicodedata

import pytest
from model_files import (
    BPE,
    CONTROL,
    HARD_TEXTS,
    NORMAL,
    UNKNOWN,
    byte_pieces,
    real_lines,
    spm_bytes,
    vectors,
    write_folder,
)

from touchstone.errors import TokenizerError
from touchstone.text.sentencepiece import parse_sentencepiece
from touchstone.text.tokenizer import Tokenizer
from touchstone.text.tokenizer_classes import ROLES
from touchstone.text.vocabulary import byte_characters
from touchstone.text.vocabulary_files import why_unreadable

CASES = ("gpt2", "qwen2", "roberta", "bert", "bert-cased", "bert-chinese", "llama", "t5", "mt5", "xlm-roberta")
COMPOSED = ("t5", "mt5", "xlm-roberta")  # accents are joined with their letters before the table of characters is looked up


@pytest.fixture(scope="module")
def folders(test_data, tmp_path_factory):
    """A folder for each class, its vocabulary a published one, in the order of ids that the class has."""
    root, data = tmp_path_factory.mktemp("folders"), test_data / "tokenizers"
    vocab = json.loads((data / "gpt2/encoder.json").read_text(encoding="utf-8"))
    merges = (data / "gpt2/vocab.bpe").read_bytes()
    words = (data / "bert-base-uncased/vocab.txt").read_bytes()
    unigram = parse_sentencepiece(data / "sentencepiece/test_model.model")
    pieces = [(piece.text, piece.score, NORMAL) for piece in unigram.pieces[3:]]
    t5 = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), *pieces]
    spiece = spm_bytes(t5, charsmap=unigram.charsmap)
    fairseq = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), *pieces]
    roberta = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{token: number + 4 for token, number in vocab.items()}, "<mask>": 50261}
    bert = {"tokenizer_class": "BertTokenizer"}
    contents = {
        "gpt2": ({"vocab.json": vocab, "merges.txt": merges}, None, "gpt2"),
        "qwen2": ({"vocab.json": vocab, "merges.txt": merges}, {"tokenizer_class": "Qwen2Tokenizer"}, None),
        "roberta": ({"vocab.json": roberta, "merges.txt": merges}, None, "roberta"),
        "bert": ({"vocab.txt": words}, bert, None),
        "bert-cased": ({"vocab.txt": words}, {**bert, "do_lower_case": False, "strip_accents": False}, None),
        "bert-chinese": (
            {"vocab.txt": (data / "bert-base-chinese/vocab.txt").read_bytes()},
            {**bert, "tokenize_chinese_chars": False, "strip_accents": True},
            None,
        ),
        "llama": ({"tokenizer.model": (data / "llama2/tokenizer.model").read_bytes()}, {"legacy": False}, "llama"),
        "t5": ({"spiece.model": spiece}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}, "t5"),
        "mt5": ({"spiece.model": spiece}, {"tokenizer_class": "T5Tokenizer"}, "mt5"),
        "xlm-roberta": ({"sentencepiece.bpe.model": spm_bytes(fairseq, charsmap=unigram.charsmap)}, None, "xlm-roberta"),
    }
    for name, (files, config, model_type) in contents.items():
        write_folder(root / name, files, config, model_type)
    return root


@pytest.fixture(scope="module")
def marian(test_data, tmp_path_factory):
    """Two models with common ids in an order of their own, each with pieces that the other has not; `j` and `2` are the target's."""
    data = test_data / "tokenizers/sentencepiece/test_model.model"
    model = parse_sentencepiece(data)
    special = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces = [(piece.text, piece.score, NORMAL) for piece in model.pieces[3:]]
    pieces += [("jj", -9.0, NORMAL), ("2j", -9.5, NORMAL), ("22", -9.7, NORMAL)]
    source = [*special, *(piece for number, piece in enumerate(pieces) if number % 7 and not set("j2") & set(piece[0]))]
    target = [*special, *(piece for number, piece in enumerate(pieces) if number % 5 or len(piece[0]) == 1)]
    source += [piece for piece in pieces if len(piece[0]) == 1 and piece[0] not in "j2" and piece not in source]
    names = [name for name, _, _ in reversed(pieces)]
    ids = ["</s>", "<unk>", ">>fr<<", *names, "<pad>"]
    files = {
        "source.spm": spm_bytes(source, charsmap=model.charsmap),
        "target.spm": spm_bytes(target, charsmap=model.charsmap),
        "vocab.json": {name: number for number, name in enumerate(ids)},
    }
    return write_folder(tmp_path_factory.mktemp("marian"), files, None, "marian")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def hugging_face(transformers, folder, ours):
    """The class of transformers for a folder, built from its files, or, where that needs protobuf, from the pieces in them."""
    name = folder.name
    classes = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "roberta": "RobertaTokenizer"}
    if name in classes or name.startswith("bert"):
        return getattr(transformers, classes.get(name, "BertTokenizer")).from_pretrained(folder)
    model = json.loads(ours._json)["model"]
    if name == "llama":
        return transformers.LlamaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], add_bos_token=True)
    vocab = [(piece, score) for piece, score in model["vocab"]]
    charsmap = parse_sentencepiece(next(folder.glob("*.model"))).charsmap
    if name == "xlm-roberta":
        return transformers.XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    n_extra = 7 if name == "t5" else 0
    extra = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(n_extra))]
    return transformers.T5Tokenizer(vocab=vocab + extra, _spm_precompiled_charsmap=charsmap, extra_ids=n_extra)


def differs(name, text):
    """Texts that Hugging Face's class cuts otherwise than sentencepiece does, which is the reference in test_sentencepiece.py."""
    if name == "llama":
        return text.startswith((" ", "▁"))
    return name in COMPOSED and any(part in text for part in ("\n", "\r", "\t", "▁", "Vi"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_text_is_encoded_and_decoded_as_hugging_face_does(transformers, folders, test_data, name):
    ours = Tokenizer.load(folders / name)
    theirs = hugging_face(transformers, folders / name, ours)
    texts = [text for text in real_lines(test_data, 60) + HARD_TEXTS if not differs(name, text)]
    texts = [text for text in texts if not any(token in text for token in theirs.all_special_tokens)]
    for text, pair in zip(texts, texts[7:] + ["x"] * 7, strict=True):
        found = ours.encode_special(text)
        expected = theirs(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert list(found.token_ids) == expected["input_ids"], text
        if name not in COMPOSED or unicodedata.is_normalized("NFC", text):
            assert list(found.offsets) == expected["offset_mapping"], text
        assert [int(mark) for mark in found.special_mask] == expected["special_tokens_mask"]
        assert ours.decode(found.token_ids) == theirs.decode(found.token_ids, skip_special_tokens=True)
        if pair:
            found, expected = ours.encode_special(text, pair), theirs(text, pair, return_token_type_ids=True)
            assert list(found.token_ids) == expected["input_ids"]
            assert list(found.token_types) == expected["token_type_ids"] or name in COMPOSED  # which have no types
            assert list(found.sides) == expected.sequence_ids(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_saved_folder_opens_in_hugging_face_with_equal_ids(transformers, folders, test_data, tmp_path, name):
    ours = Tokenizer.load(folders / name)
    ours.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    assert again.fingerprint == ours.fingerprint
    assert len(theirs) == ours.vocab_size == again.vocab_size
    assert ("token_type_ids" in theirs("x")) == name.startswith("bert")
    for role in ROLES:
        assert getattr(ours, f"{role}_id") == getattr(again, f"{role}_id") == getattr(theirs, f"{role}_token_id"), role
    for text in real_lines(test_data, 20) + HARD_TEXTS:
        if not any(token in text for token in theirs.all_special_tokens):
            assert theirs(text)["input_ids"] == list(again.encode_special(text).token_ids) == list(ours.encode_special(text).token_ids)
    if ours.mask_id is not None:
        text = f"a {theirs.mask_token} b"
        assert theirs(text)["input_ids"] == list(again.encode_special(text, allow_special=True).token_ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_text_spells_a_special_token_unless_allowed(folders, name):
    tokenizer = Tokenizer.load(folders / name)
    names = [tokenizer.token_text(number) for number in tokenizer.special_ids]
    for text in [*names, "".join(names), " ".join(names), "x" + "y".join(names)]:
        assert not (tokenizer.special_ids - {tokenizer.unk_id}) & set(tokenizer.encode(text))
    for token, number in zip(names, tokenizer.special_ids, strict=True):
        assert number in tokenizer.encode(f"a{token}", allow_special=True)


@pytest.mark.slow
@pytest.mark.parametrize(("vector", "name"), [("gpt-2", "gpt2"), ("llama-spm", "llama"), ("bert-bge", "bert")])
def test_ids_equal_published_ones(folders, test_data, vector, name):
    """Vectors of llama.cpp; bge's vocabulary is bert-base-uncased's."""
    texts, expected = vectors(test_data, vector)
    assert Tokenizer.load(folders / name).encode_batch(texts) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "roles", "prefix", "suffix"),
    [
        ("gpt2", {"bos": 50256, "eos": 50256, "unk": 50256}, (), ()),
        ("qwen2", {"eos": 50256, "pad": 50256, "unk": 50256}, (), ()),
        ("roberta", {"bos": 0, "eos": 2, "unk": 3, "sep": 2, "pad": 1, "cls": 0, "mask": 50261}, (0,), (2,)),
        ("bert", {"unk": 100, "sep": 102, "pad": 0, "cls": 101, "mask": 103}, (101,), (102,)),
        ("llama", {"bos": 1, "eos": 2, "unk": 0}, (1,), ()),
        ("t5", {"pad": 0, "eos": 1, "unk": 2}, (), (1,)),
        ("xlm-roberta", {"bos": 0, "eos": 2, "unk": 3, "sep": 2, "pad": 1, "cls": 0, "mask": 1001}, (0,), (2,)),
    ],
)
def test_tokens_have_the_roles_and_the_places_of_their_class(folders, name, roles, prefix, suffix):
    tokenizer = Tokenizer.load(folders / name)
    assert {role: getattr(tokenizer, f"{role}_id") for role in ROLES} == dict.fromkeys(ROLES) | roles
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == (prefix, suffix)


@pytest.mark.slow
def test_the_extra_tokens_of_t5_count_down_from_the_last_id(folders):
    tokenizer = Tokenizer.load(folders / "t5")
    assert [tokenizer.token_text(number) for number in (1000, 1006)] == ["<extra_id_6>", "<extra_id_0>"]
    assert tokenizer.vocab_size == 1007
    assert Tokenizer.load(folders / "mt5").vocab_size == 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_marian_maps_the_pieces_of_each_side_to_common_ids(transformers, marian, test_data, tmp_path):
    source = Tokenizer.load(marian)
    theirs = transformers.MarianTokenizer.from_pretrained(marian)
    for text in [text for text in real_lines(test_data, 60) + HARD_TEXTS if "</s>" not in text]:
        assert list(source.encode_special(text).token_ids) == theirs(text)["input_ids"], text
        expected = theirs(text_target=text)["input_ids"]
        assert list(source.target.encode_special(text).token_ids) == expected
        if theirs.unk_token_id not in expected and "▁" not in text:
            assert source.decode(expected) == source.target.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
    for text in ("a j b", "j", "jj", "2j2", "22 jj", "jjjj", "中j", "j中", "中国 j2 2j", "aja", "jajj", "\ufdd0", "\ufdd1j"):
        assert list(source.encode_special(text).token_ids) == theirs(text)["input_ids"], text
    assert list(source.encode_special(">>fr<< a house").token_ids) == theirs(">>fr<< a house")["input_ids"]
    assert any(source.encode(text) != source.target.encode(text) for text in real_lines(test_data, 60))
    assert (source.prefix_ids, source.suffix_ids, source.target.pad_id) == ((), (0,), 1003)
    source.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.target.fingerprint == source.target.fingerprint != again.fingerprint == source.fingerprint
    assert again.target.target is None
    assert list(transformers.AutoTokenizer.from_pretrained(tmp_path)("a house").input_ids) == list(
        source.encode_special("a house").token_ids
    )


def bpe_folder(folder, config=None, model_type="gpt2", *, vocab=None, merges="#version: 0.2\na b\n", **files):
    characters = byte_characters()
    vocab = vocab or {**{char: number for number, char in enumerate(characters)}, "ab": 256, "<|endoftext|>": 257}
    return write_folder(folder, {"vocab.json": vocab, "merges.txt": merges, **files}, config, model_type)


def test_a_token_added_later_keeps_its_id(tmp_path):
    added = {"<tool>": 258, "[PAD]": 259}
    folder = bpe_folder(tmp_path, {"pad_token": "[PAD]", "additional_special_tokens": ["<tool>"]}, **{"added_tokens.json": added})
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.pad_id, tokenizer.vocab_size, tokenizer.special_ids) == (259, 260, {257, 258, 259})
    assert tokenizer.encode("ab<tool>", allow_special=True) == [256, 258]
    decoder = {"258": {"content": "<tool>", "special": False, "normalized": False}}
    tokenizer = Tokenizer.load(bpe_folder(tmp_path / "b", {"added_tokens_decoder": decoder, "bos_token": None, "pad_token": "new"}))
    assert tokenizer.encode("ab<tool>") == [256, 258]  # no special token: a name that is one token
    assert (tokenizer.bos_id, tokenizer.pad_id) == (None, 259)  # a role whose token has no id gets the next, as in Hugging Face


def test_bos_and_eos_go_around_a_text_where_the_file_says_so(tmp_path):
    config = {"add_bos_token": True, "bos_token": "ab"}
    tokenizer = Tokenizer.load(bpe_folder(tmp_path / "a", config))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((256,), ())
    model = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), *byte_pieces(), ("▁", -1.0, NORMAL)]
    files = {"tokenizer.model": spm_bytes(model, algorithm=BPE, byte_fallback=True, collapses_spaces=False)}
    tokenizer = Tokenizer.load(write_folder(tmp_path / "b", files, {"add_bos_token": False, "add_eos_token": True}, "mistral"))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((), (2,))
    assert tokenizer.encode_special("a", "b").token_ids == (259, 3 + 97, 2, 259, 3 + 98, 2)
    assert [tokenizer.token_bytes(number) for number in (259, 3 + 97)] == [b" ", b"a"]


def test_spaces_go_where_the_file_says(tmp_path):
    assert Tokenizer.load(bpe_folder(tmp_path / "a", {"add_prefix_space": True})).encode("ab") == [byte_characters().index("Ġ"), 256]
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("▁", -1.0, NORMAL), ("a", -1.0, NORMAL)]
    data = spm_bytes(pieces, algorithm=BPE, collapses_spaces=False)
    for config, expected in [({}, [3, 4, 2, 3, 4]), ({"legacy": False}, [3, 4, 2, 4]), ({"add_prefix_space": False}, [4, 2, 4])]:
        folder = write_folder(tmp_path / str(len(expected)), {"tokenizer.model": data}, {"tokenizer_class": "LlamaTokenizerFast", **config})
        assert Tokenizer.load(folder).encode("a</s>a", allow_special=True) == expected


def test_a_class_that_is_not_known_or_lacks_files_says_why(tmp_path):
    for config, model_type, reason in [
        (None, None, r"`model_type` \(None\) does not say"),
        ({"tokenizer_class": "WhisperTokenizer"}, "gpt2", r"`tokenizer_class` \(WhisperTokenizer\) does not say"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "bloom", r"`model_type` \(bloom\) does not say"),
        ({"tokenizer_class": "BertTokenizer"}, "gpt2", r"needs vocab\.txt"),
    ]:
        folder = bpe_folder(tmp_path / str(reason).strip("`\\").replace("/", "_")[:20], config, model_type)
        with pytest.raises(TokenizerError, match=reason):
            Tokenizer.load(folder)
        assert why_unreadable(folder) is not None
    assert why_unreadable(bpe_folder(tmp_path / "good")) is None


BYTES = {char: number for number, char in enumerate(byte_characters())}
BERT = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"
HOSTILE = {
    "vocab.json is a list": (bpe_folder, {"vocab": ["a"]}, r"vocab\.json: should be a mapping"),
    "vocab.json is cut short": (bpe_folder, {"vocab": '{"a": 1,'}, r"vocab\.json: not readable"),
    "vocab.json is empty": (bpe_folder, {"vocab": b" "}, r"vocab\.json: not readable"),
    "vocab.json repeats a token": (bpe_folder, {"vocab": '{"a": 1, "a": 2}'}, "duplicate key `a`"),
    "vocab.json repeats an id": (bpe_folder, {"vocab": {"a": 1, "b": 1}}, "one id to two tokens"),
    "an id is a text": (bpe_folder, {"vocab": {"a": "1"}}, "the id of `a` must be a number"),
    "an id is true": (bpe_folder, {"vocab": {"a": True}}, "the id of `a` must be a number"),
    "an id is below 0": (bpe_folder, {"vocab": {"a": -1}}, "the id of `a` must be a number"),
    "an id is a billion": (bpe_folder, {"vocab": {"a": 10**9}}, "the id of `a` must be a number"),
    "vocab.json nests deep": (bpe_folder, {"vocab": b"[" * 100_000}, r"vocab\.json: not readable"),
    "a merge names no token": (bpe_folder, {"merges": "#version\na b\nb c\n"}, r"merges\.txt:3: `bc` is not in vocab\.json"),
    "a merge of one token": (bpe_folder, {"merges": "ab\n"}, r"merges\.txt:1: should be two tokens"),
    "a merge of three tokens": (bpe_folder, {"merges": "a b c\n"}, r"merges\.txt:1: should be two tokens"),
    "merges are empty": (bpe_folder, {"merges": ""}, r"merges\.txt: is empty"),
    "merges are no UTF-8": (bpe_folder, {"merges": b"a b\n\xff\xfe"}, r"merges\.txt:2: should be UTF-8"),
    "an added token leaves a gap": (bpe_folder, {"added_tokens.json": {"<x>": 300}}, "`<x>` should have id 300, and gets 258"),
    "an added token takes an id": (bpe_folder, {"added_tokens.json": {"<x>": 5}}, "`<x>` should have id 5, and gets 258"),
    "an added id is a text": (bpe_folder, {"added_tokens.json": {"x": "y"}}, "the id of `x` must be a number"),
    "added tokens are a list": (bpe_folder, {"added_tokens.json": [1]}, r"added_tokens\.json: must be a mapping"),
    "a role is a number": (bpe_folder, {"config": {"eos_token": 7}}, "`eos_token` should be a text"),
    "a role is empty": (bpe_folder, {"config": {"eos_token": ""}}, "`eos_token` should be a text"),
    "a flag is a text": (bpe_folder, {"config": {"add_prefix_space": "yes"}}, "`add_prefix_space` should be true or false"),
    "special tokens are a text": (bpe_folder, {"config": {"additional_special_tokens": "x"}}, "should be a list of tokens"),
    "the decoder's keys are words": (bpe_folder, {"config": {"added_tokens_decoder": {"one": "x"}}}, "the id of `x` must be a number"),
    "the config is a list": (bpe_folder, {"config": [1]}, r"tokenizer_config\.json: must be a mapping"),
    "bos is asked for and has no token": (bpe_folder, {"model_type": "roberta"}, "cls_token, sep_token should be in the vocabulary"),
    "vocab.txt is empty": (write_folder, {"files": {"vocab.txt": "\n"}, "model_type": "bert"}, r"vocab\.txt: is empty"),
    "vocab.txt repeats a line": (write_folder, {"files": {"vocab.txt": BERT + "a\n"}, "model_type": "bert"}, r"vocab\.txt:8: `a` is there"),
    "vocab.txt is no UTF-8": (write_folder, {"files": {"vocab.txt": BERT.encode() + b"\xff"}, "model_type": "bert"}, "8: should be UTF-8"),
    "vocab.txt has no unknown": (write_folder, {"files": {"vocab.txt": "a\nb\n"}, "model_type": "bert"}, r"has no `\[UNK\]`"),
    "vocab.txt has no [CLS]": (write_folder, {"files": {"vocab.txt": "[UNK]\n[SEP]\n"}, "model_type": "bert"}, "cls_token should be in"),
    "words are not to be split": (
        write_folder, {"files": {"vocab.txt": BERT}, "config": {"do_basic_tokenize": False}, "model_type": "bert"}, "do_basic_tokenize",
    ),
    "a model is text": (write_folder, {"files": {"tokenizer.model": "IQ== 0\n" * 50}, "model_type": "llama"}, "not a usable"),
    "extra tokens without end": (
        write_folder, {"files": {"spiece.model": spm_bytes([("<unk>", 0.0, UNKNOWN), ("a", -1.0, NORMAL)])}, "config": {"extra_ids": 10**9},
                       "model_type": "t5"}, "`extra_ids` .* must be a number",
    ),
    "fairseq ids over other pieces": (
        write_folder, {"files": {"spiece.model": spm_bytes([("a", -1.0, NORMAL), ("<unk>", 0.0, UNKNOWN)])}, "model_type": "xlm-roberta"},
        "its first pieces should be",
    ),
    "marian's ids leave one out": (
        write_folder, {"files": dict.fromkeys(("source.spm", "target.spm"), spm_bytes([("<unk>", 0.0, UNKNOWN), ("a", -1.0, NORMAL)]))
                       | {"vocab.json": {"<unk>": 0, "</s>": 2}}, "model_type": "marian"}, "some are left out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_folder_is_one_error_at_once(tmp_path, name):
    write, arguments, message = HOSTILE[name]
    arguments = dict(arguments)
    if "files" in arguments:
        files = arguments.pop("files")
        write(tmp_path, files, **arguments)
    else:
        write(tmp_path, **arguments)
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10  # kB


def test_files_that_are_links_out_of_the_folder_are_refused(tmp_path):
    bpe_folder(tmp_path / "outside")
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt", "config.json"):
        (folder / name).symlink_to(tmp_path / "outside" / name)
    with pytest.raises(TokenizerError, match="a symbolic link here"):
        Tokenizer.load(folder)


def test_line_ends_and_a_mark_at_the_front_do_not_matter(tmp_path):
    plain = Tokenizer.load(write_folder(tmp_path / "a", {"vocab.txt": BERT}, model_type="bert"))
    other = b"\xef\xbb\xbf" + BERT.replace("\n", "\r\n").encode()
    assert Tokenizer.load(write_folder(tmp_path / "b", {"vocab.txt": other}, model_type="bert")).fingerprint == plain.fingerprint
    assert plain.encode("ab A") == [5, 6, 5]
