"""Write SentencePiece files and vocabulary folders for tests, and the texts that both kinds are tried on."""

import gzip
import json
import struct
import unicodedata

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

HARD_TEXTS = [
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    " \n x \t y  z ",
    "  leading",
    "trailing  ",
    "two  spaces   three",
    "e\u0301 o\u0302 n\u0303",
    unicodedata.normalize("NFD", "Tiếng Việt phức tạp, naïve café"),
    "か\u3099 が 각",
    "ＡＢＣ ｱｲｳ ½ ㍿ ﷺ",
    "😀👨‍👩‍👧 🇨🇳 ♥️",
    "\u200b zero\u00a0width\u3000spaces",
    "a▁b x ▁",
    "\r\n line\r\nends",
    "def f(x):\n\treturn x  # 中文 1234567",
    "=" * 17 + "-" * 30,
    "</s> <s> <unk> <pad> <0x41> [CLS] [MASK] <|endoftext|>",
    "<s></s></s>",
]


def varint(value):
    """A number as protocol buffers write it."""
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def field(number, value):
    """One field of a message: an int, a float, or bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(int(value))


def piece(text, score=0.0, kind=NORMAL):
    data = text if isinstance(text, bytes) else text.encode()
    return field(1, field(1, data) + field(2, float(score)) + field(3, kind))


def spm_bytes(pieces, *, algorithm=UNIGRAM, byte_fallback=False, charsmap=b"", adds_space=True, collapses_spaces=True, trainer=b""):
    """A model file of (text, score, kind) in the order of their ids; trainer: more fields of its training."""
    unknown = next((number for number, entry in enumerate(pieces) if entry[2] == UNKNOWN), 0)
    names = field(35, byte_fallback) + field(40, unknown) + field(45, pieces[unknown][0].encode()) if pieces else b""
    spaces = field(3, adds_space) + field(4, collapses_spaces) + field(5, True)
    return (
        b"".join(piece(*entry) for entry in pieces)
        + field(2, field(3, algorithm) + names + trainer)
        + field(3, (field(2, charsmap) if charsmap else b"") + spaces)
    )


def byte_pieces():
    return [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]


def write_folder(folder, files, config=None, model_type=None):
    """A folder of files, each given as bytes, text, or data for JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    files = dict(files)
    if config is not None:
        files["tokenizer_config.json"] = config
    if model_type is not None:
        files["config.json"] = {"model_type": model_type}
    for name, value in files.items():
        if not isinstance(value, bytes):
            value = (value if isinstance(value, str) else json.dumps(value)).encode()
        (folder / name).write_bytes(value)
    return folder


def real_lines(test_data, n=150):
    """English and Chinese lines as they are found, and whole web documents."""
    english = (test_data / "lm_text/botchan.txt").read_text(encoding="utf-8-sig").splitlines()
    with gzip.open(test_data / "lm_text/zh/cluecorpussmall.txt.gz", "rt", encoding="utf-8") as file:
        chinese = [line.rstrip("\n")[:400] for line, _ in zip(file, range(n), strict=False)]
    with gzip.open(test_data / "lm_text/c4_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        web = [json.loads(line)["text"][:2000] for line, _ in zip(file, range(n // 4), strict=False)]
    return english[100 : 100 + n] + chinese + web


def vectors(test_data, name):
    """The texts of a llama.cpp vector file and the ids it expects."""
    folder = test_data / "tokenizers/llama_cpp_vectors"
    texts = (folder / f"{name}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")[:-1]  # the last mark ends the file
    expected = [[int(word) for word in line.split()] for line in (folder / f"{name}.out").read_text().splitlines()]
    assert len(texts) == len(expected) > 40
    return texts, expected
