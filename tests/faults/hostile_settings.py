"""Configs, cards, tokenizers and templates that are malformed or hostile."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_folders import N_ROWS, Case, Good, edit_json, write_sparse

from touchstone.errors import ModelFolderError, TokenizerError, Unsupported

Spoil = Callable[[Path, Good], None]

CONFIG, GENERATION, CARD, TOKENIZER = "config.json", "generation_config.json", "touchstone.json", "tokenizer.json"


def put(name: str, /, **entries: Any) -> Spoil:
    """Set keys of a JSON file; a key that a family has a word for stands for that word."""
    return lambda folder, good: edit_json(folder / name, lambda data: data.update({good.words.get(k, k): v for k, v in entries.items()}))


def take(name: str, key: str) -> Spoil:
    return lambda folder, good: edit_json(folder / name, lambda data: data.pop(good.words.get(key, key)))


def text(name: str, content: bytes) -> Spoil:
    """Give a file another content."""
    return lambda folder, _: (folder / name).write_bytes(content) and None


def recoded(name: str, encoding: str) -> Spoil:
    return lambda folder, _: (folder / name).write_bytes((folder / name).read_text().encode(encoding)) and None


def spliced(name: str, entry: str) -> Spoil:
    """Add an entry as it is written, where json.dumps would not write it so."""

    def spoil(folder: Path, good: Good) -> None:
        raw = (folder / name).read_text().rstrip().removesuffix("}").rstrip()
        (folder / name).write_text(f"{raw}, {entry.replace('WIDTH', good.words['width'])}}}")

    return spoil


def written(name: str, key: str, raw: str) -> Spoil:
    """Set a key to what is written, where json.dumps would not write it so."""

    def spoil(folder: Path, _: Good) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**data, key: "HERE"}).replace('"HERE"', raw))

    return spoil


def many_keys(name: str, n: int = 90_000) -> Spoil:
    return lambda folder, _: edit_json(folder / name, lambda data: data.update({f"hiden_size{i}": i for i in range(n)}))


def sparse(name: str, n_bytes: int) -> Spoil:
    return lambda folder, _: write_sparse(folder / name, n_bytes)


def instead(name: str, make: Callable[[Path], Any]) -> Spoil:
    """Put something else where a file is."""

    def spoil(folder: Path, _: Good) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def older(kind: str, files: dict[str, bytes], fifo: str | None = None) -> Spoil:
    """Files of a tokenizer before tokenizer.json, in its place."""

    def spoil(folder: Path, _: Good) -> None:
        for name in (TOKENIZER, "special_tokens_map.json"):
            (folder / name).unlink()
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if fifo is not None:
            os.mkfifo(folder / fifo)

    return spoil


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return lambda folder, _: edit_json(folder / TOKENIZER, change)


def vocabulary(**entries: Any) -> Spoil:
    return tokenizer(lambda data: data["model"]["vocab"].update(entries))


def added(token_id: Any, content: Any = "<more>") -> dict[str, Any]:
    sides = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **sides, "special": True}


def more_added(*tokens: dict[str, Any]) -> Spoil:
    return tokenizer(lambda data: data["added_tokens"].extend(tokens))


def many_added(folder: Path, good: Good) -> None:
    """A million of them, written by hand because json.dumps would take seconds."""
    rows = ",".join(
        f'{{"id":{N_ROWS + i},"content":"<{i}>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}'
        for i in range(10**6)
    )
    written(TOKENIZER, "added_tokens", f"[{rows}]")(folder, good)


def large_vocabulary(n: int) -> Spoil:
    return tokenizer(lambda data: data["model"].update(vocab={f"t{i}": i for i in range(n)}, merges=[]))


def steps(depth: int) -> str:
    """A pre-tokenizer in a pre-tokenizer, and so on."""
    return '{"type":"Sequence","pretokenizers":[' * depth + "]}" * depth


def pattern(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def deep(depth: int) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


JSON = ("not readable as JSON",)
SCORE = '[{"name": "a", "value": 1e999, "n": 1, "method": "m", "on": "o"}]'
LINK = ("symbolic link",)
REGULAR = ("must be a regular file",)
NO_TOKENIZER = ("not a tokenizer that the `tokenizers` library can read",)
TEXTS = (CONFIG, GENERATION, CARD, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")


def of_texts(what: str, spoil: Callable[[str], Spoil], says: tuple[str, ...], *, opens: bool = True) -> list[Case]:
    """The same done to every JSON file; opens: the file can be opened, so that its own reader refuses it."""
    readers = {name: TokenizerError if "token" in name and opens else ModelFolderError for name in TEXTS}
    return [Case(f"{what}: {name}", spoil(name), (name, *says), error) for name, error in readers.items()]


CASES = [
    # Every JSON file
    *of_texts("100 MB", lambda name: sparse(name, 100 << 20), ("bytes, this one is larger",)),
    *of_texts("lists 100000 deep", lambda name: text(name, b"[" * 100_000 + b"]" * 100_000), JSON),
    *of_texts("lists 400 deep", lambda name: put(name, surprise=deep(400)), ("nested deeper than",)),
    *of_texts("a key twice", lambda name: spliced(name, '"twin": 1, "twin": 2'), ("duplicate key `twin`",)),
    *of_texts("a name of a megabyte twice", lambda name: spliced(name, f'"{"n" * 999_999}": 1, "{"n" * 999_999}": 2'), ("duplicate",)),
    *of_texts("NaN", lambda name: spliced(name, '"twin": NaN'), ("NaN",)),
    *of_texts("Infinity", lambda name: spliced(name, '"twin": -Infinity'), ("-Infinity",)),
    *of_texts("a number of 5000 digits", lambda name: spliced(name, f'"twin": {"9" * 5000}'), JSON),
    *of_texts("UTF-16", lambda name: recoded(name, "utf-16"), (*JSON, "UTF-8")),
    *of_texts("UTF-32", lambda name: recoded(name, "utf-32"), (*JSON, "UTF-8")),
    *of_texts("a list", lambda name: text(name, b"[1]"), ("mapping",)),
    *of_texts("empty", lambda name: text(name, b""), JSON),
    *of_texts("cut off", lambda name: text(name, b'{"a": '), JSON),
    *of_texts("a FIFO", lambda name: instead(name, os.mkfifo), REGULAR, opens=False),
    *of_texts("a folder", lambda name: instead(name, lambda path: path.mkdir()), REGULAR, opens=False),
    *of_texts("a link out", lambda name: instead(name, lambda path: path.symlink_to("/etc/hostname")), LINK, opens=False),
    *of_texts("a link to nothing", lambda name: instead(name, lambda path: path.symlink_to("/etc/nothing")), LINK, opens=False),
    # config.json
    Case("config: none", instead(CONFIG, lambda path: None), ("config.json: no such file",)),
    *(
        Case(f"config: width {str(n)[:20]}", put(CONFIG, width=n), ("`{width}` should be a whole number",))
        for n in (-1, 0, 10**12, 10**4000)
    ),
    *(Case(f"config: width {n!r}", put(CONFIG, width=n), ("`{width}` should be",)) for n in ("768", True, 1e3, [12], {"a": 1})),
    Case("config: width null", put(CONFIG, width=None), ("`{width}` is missing",)),
    Case("config: no width", take(CONFIG, "width"), ("`{width}` is missing",)),
    Case("config: a number of 4000 digits", spliced(CONFIG, '"initializer_range": 1, "rms_norm_eps": ' + "9" * 4000), ("rms_norm_eps",)),
    Case("config: 5 heads of 12", put(CONFIG, divides=5), ("multiple of", "`{divides}`")),
    Case("config: 9999 layers", put(CONFIG, layers=9_999), ("layers, and the files hold",)),
    Case("config: 10^7 rows of 10^5", put(CONFIG, vocab_size=10**7, width=3 * 10**5), ("parameters, and the files hold",)),
    Case("config: a wide feed-forward", put(CONFIG, d_ff=33), ("should be [",)),
    Case("config: 90000 keys", many_keys(CONFIG), ("unknown key `hiden_size0`", "more")),
    Case("config: a misspelt key", put(CONFIG, vocab_sise=3), ("unknown key `vocab_sise`; did you mean `vocab_size`",)),
    Case("config: a key of a megabyte", put(CONFIG, **{"\x1b[2J\ud800\n" + "k" * 999_999: 1}), ("unknown key", "\\x1b")),
    Case("config: all that is wrong", put(CONFIG, width=-1, heads="3", vocab_sise=1), ("`{width}`", "`{heads}`", "`vocab_sise`")),
    Case("config: no type", take(CONFIG, "model_type"), ("`model_type` should be a text",)),
    Case("config: a type of a megabyte", put(CONFIG, model_type="\x1b" * 99_999), ("No model type `\\x1b",)),
    Case("config: a type that is a list", put(CONFIG, model_type=["gpt2"] * 9_999), ("`model_type` should be a text",)),
    Case("config: a type that its own code reads", put(CONFIG, model_type="evil"), ("`evil`", "never executed")),
    Case("config: a misspelt type", put(CONFIG, model_type="lama"), ("Did you mean `llama`",)),
    Case("config: another head", put(CONFIG, architectures=["EvilForCausalLM"]), ("another kind of model",), Unsupported),
    Case("config: 90000 classes", put(CONFIG, architectures=["Evil"] * 90_000), ("another kind of model",), Unsupported),
    Case("config: a class that is a number", put(CONFIG, architectures=[3]), ("`architectures` should be a list",)),
    Case("config: quantised", put(CONFIG, quantization_config={"bits": 4}), ("`quantization_config`",), Unsupported),
    Case(
        "config: a remote config inside", put(CONFIG, nested={"auto_map": {"AutoConfig": "modeling_evil.Evil"}}), ("unknown key `nested`",)
    ),
    # generation_config.json
    Case("generation: an end that is no token", put(GENERATION, eos_token_id=50256), ("`eos_token_id` (50256) is no token",)),
    Case("generation: 400000 ends", put(GENERATION, eos_token_id=[50256] * 400_000), ("`eos_token_id` (50256)", "and 399988 more")),
    Case("generation: an end of 4000 digits", put(GENERATION, eos_token_id=10**4000), ("`eos_token_id` (1000",)),
    Case("generation: an end that is true", put(GENERATION, eos_token_id=True), ("should be a token id",)),
    Case("generation: ends in ends", put(GENERATION, eos_token_id=[[1]]), ("should be a token id",)),
    Case("generation: a temperature of 1e999", spliced(GENERATION, '"temperature": 1e999'), ("`temperature` (inf)",)),
    Case("generation: a temperature of 4000 digits", put(GENERATION, temperature=10**4000), ("`temperature` (1000",)),
    Case("generation: a warm word", put(GENERATION, temperature="hot", top_p=1.5, top_k=-1), ("`temperature`", "`top_p`", "`top_k`")),
    # touchstone.json
    Case("card: a misspelt key", put(CARD, lineag={}), ("unknown key `lineag`; did you mean `lineage`",)),
    Case("card: 90000 keys", many_keys(CARD), ("90000 unknown keys", "`hiden_size0`")),
    Case("card: a later layout", put(CARD, format=2), ("`format` should be 1",)),
    Case("card: a name that is a number", put(CARD, name=7), ("`name` should be",)),
    Case("card: half a character", put(CARD, name="\ud800"), ("touchstone.json",)),
    Case("card: 90000 wrong scores", put(CARD, scores=[{}] * 90_000), ("at most 1024 records", "90000")),
    Case("card: 1000 wrong scores", put(CARD, scores=[{}] * 1000), ("`scores.0.name` is missing", "and 4960 more")),
    Case("card: a score of 1e999", written(CARD, "scores", SCORE), ("`scores.0.value` should be a finite number",)),
    Case("card: another model", put(CARD, spec={"embed": {"vocab_size": 9, "d_model": 8}}), ("spec", "is missing")),
    Case("card: a spec that is a list", put(CARD, spec=[1]), ("`spec`",)),
    # tokenizer.json and its neighbours
    Case("tokenizer: more ids than rows", vocabulary(zz=N_ROWS + 7), (f"{N_ROWS} rows",)),
    Case("tokenizer: the largest id", vocabulary(zz=2**32 - 1), (f"{N_ROWS} rows",)),
    Case("tokenizer: 10^6 added tokens", many_added, ("bytes, this one is larger",), TokenizerError),
    Case("tokenizer: 99000 tokens", large_vocabulary(99_000), (f"{N_ROWS} rows",)),
    Case("tokenizer: an id twice", vocabulary(zz=7), ("gives one id to two tokens",), TokenizerError),
    Case("tokenizer: an added id twice", more_added(added(7)), ("`<more>`",), TokenizerError),
    Case("tokenizer: an id below 0", vocabulary(zz=-1), NO_TOKENIZER, TokenizerError),
    Case("tokenizer: an id of 2^64", vocabulary(zz=2**64), (f"{N_ROWS} rows",)),
    Case("tokenizer: half an id", vocabulary(zz=1.5), NO_TOKENIZER, TokenizerError),
    Case(
        "tokenizer: no tokens",
        tokenizer(lambda d: (d["model"].update(vocab={}, merges=[]), d.update(added_tokens=[]))),
        ("no token",),
        TokenizerError,
    ),
    Case("tokenizer: a vocabulary of texts", tokenizer(lambda d: d["model"].update(vocab=["a"])), NO_TOKENIZER, TokenizerError),
    Case("tokenizer: merges of numbers", tokenizer(lambda d: d["model"].update(merges=[1])), NO_TOKENIZER, TokenizerError),
    Case(
        "tokenizer: merges of what is not there",
        tokenizer(lambda d: d["model"].update(merges=[["x1", "x2"]])),
        NO_TOKENIZER,
        TokenizerError,
    ),
    Case("tokenizer: no model", take(TOKENIZER, "model"), NO_TOKENIZER, TokenizerError),
    Case("tokenizer: a later version", put(TOKENIZER, version="9.0"), NO_TOKENIZER, TokenizerError),
    Case("tokenizer: steps 70 deep", written(TOKENIZER, "pre_tokenizer", steps(70)), ("nested deeper than",), TokenizerError),
    Case(
        "tokenizer: a pattern 50000 deep", put(TOKENIZER, pre_tokenizer=pattern("(" * 50_000 + ")" * 50_000)), NO_TOKENIZER, TokenizerError
    ),
    Case("tokenizer: a pattern that is none", put(TOKENIZER, pre_tokenizer=pattern("(")), NO_TOKENIZER, TokenizerError),
    Case("tokenizer: a decoder that is a number", put(TOKENIZER, decoder=3), NO_TOKENIZER, TokenizerError),
    Case(
        "tokenizer: a table of no characters",
        put(TOKENIZER, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ("tokenizer.json",),
        TokenizerError,
    ),
    # The vocabulary files of older formats
    Case("vocabulary: a FIFO", older("GPT2Tokenizer", {"merges.txt": b""}, fifo="vocab.json"), REGULAR, TokenizerError),
    Case("vocabulary: no mapping", older("GPT2Tokenizer", {"vocab.json": b"[1]", "merges.txt": b""}), ("vocab.json",), TokenizerError),
    Case(
        "vocabulary: an id of 2^40",
        older("GPT2Tokenizer", {"vocab.json": b'{"a": 1099511627776}', "merges.txt": b""}),
        ("vocab.json",),
        TokenizerError,
    ),
    Case("vocabulary: no pieces", older("T5Tokenizer", {"spiece.model": b"\xff" * 1000}), ("spiece.model",), TokenizerError),
    Case(
        "vocabulary: pieces of 10^18 bytes",
        older("T5Tokenizer", {"spiece.model": b"\x0a\xff\xff\xff\xff\xff\xff\xff\x7f"}),
        ("spiece.model",),
        TokenizerError,
    ),
    Case("vocabulary: a pickle", older("T5Tokenizer", {"spiece.model": b"\x80\x04c"}), ("spiece.model",), TokenizerError),
    # chat_template.jinja
    Case("template: 2 MB", text("chat_template.jinja", b"x" * (2 << 20)), ("chat_template.jinja: a chat template is at most",)),
    Case("template: not UTF-8", text("chat_template.jinja", b"\xff"), ("should be UTF-8",)),
    Case("template: a FIFO", instead("chat_template.jinja", os.mkfifo), REGULAR),
    Case("template: a link out", instead("chat_template.jinja", lambda path: path.symlink_to("/etc/hostname")), LINK),
]
