"""safetensors files: equal to the library's both ways, and hostile headers refused before the library sees them."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from touchstone import files
from touchstone.errors import ModelFolderError
from touchstone.files import tensors as module

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def some_tensors():
    made = {}
    for place, dtype in enumerate(DTYPES):
        raw = torch.arange(3 * 5 * dtype.itemsize * (1 + place), dtype=torch.int64).remainder(2 if dtype == torch.bool else 119)
        made[f"layer.{place}"] = raw.to(torch.uint8).view(dtype).reshape(3, 5, 1 + place)
    return {**made, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 7), "turned": torch.arange(12.0).reshape(3, 4).T}


def same_bits(found, expected):
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and torch.equal(found.contiguous().reshape(-1).view(torch.uint8), expected.contiguous().reshape(-1).view(torch.uint8))
    )


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_tensors_of_every_type_come_back_bit_for_bit(tmp_path):
    expected = some_tensors()
    files.save_tensors(tmp_path / "a.safetensors", expected)
    found = files.load_tensors(tmp_path / "a.safetensors")
    assert found.keys() == expected.keys()
    assert all(same_bits(found[name], expected[name]) for name in expected)


def test_the_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    expected = {name: tensor.contiguous() for name, tensor in some_tensors().items()}
    files.save_tensors(tmp_path / "ours", expected, {"format": "pt"})
    theirs = load_file(tmp_path / "ours")
    assert all(same_bits(theirs[name], expected[name]) for name in expected)
    with safe_open(tmp_path / "ours", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    save_file(expected, tmp_path / "theirs", {"format": "pt"})
    ours = files.load_tensors(tmp_path / "theirs")
    assert all(same_bits(ours[name], expected[name]) for name in expected)


def test_the_same_tensors_in_another_order_give_the_same_bytes(tmp_path):
    made = some_tensors()
    files.save_tensors(tmp_path / "a", made, {"x": "1", "y": "2"})
    files.save_tensors(tmp_path / "b", dict(reversed(made.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_tensor_begins_at_a_multiple_of_its_item_size(tmp_path):
    files.save_tensors(tmp_path / "a", some_tensors())
    data = (tmp_path / "a").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    items = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
    assert all(fields["data_offsets"][0] % items.get(fields["dtype"], 1) == 0 for fields in header.values())


def test_the_header_says_types_and_shapes_without_reading_tensors(tmp_path):
    files.save_tensors(tmp_path / "a", {"w": torch.zeros(3, 5, dtype=torch.bfloat16), "n": torch.zeros((), dtype=torch.int64)}, {"k": "v"})
    assert files.tensor_header(tmp_path / "a") == {"n": ("I64", ()), "w": ("BF16", (3, 5))}
    assert files.tensor_metadata(tmp_path / "a") == {"k": "v"}
    files.save_tensors(tmp_path / "b", {})
    assert files.tensor_header(tmp_path / "b") == files.tensor_metadata(tmp_path / "b") == {}


def test_a_type_that_the_format_has_not_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match=r"tensor `z` is torch\.complex128"):
        files.save_tensors(tmp_path / "a", {"z": torch.zeros(2, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []


def test_a_crash_at_any_effect_of_saving_tensors_leaves_the_old_file_or_the_new(tmp_path, every_crash):
    old, new = {"w": torch.arange(5.0)}, {"w": torch.arange(7.0), "b": torch.ones(3)}

    def save(k):
        files.save_tensors(tmp_path / f"{k}", old)
        files.save_tensors(tmp_path / f"{k}", new)

    for k in range(12):
        files.save_tensors(tmp_path / f"{k}", old)
    for k, crashed in every_crash(save, torn=True):
        found = files.load_tensors(tmp_path / f"{k}")
        assert found["w"].numel() in (5, 7)
        assert crashed or found.keys() == new.keys()


HOSTILE = {
    "no header at all": (b"", "not a whole safetensors file"),
    "a length of 2^63": (struct.pack("<Q", 1 << 63), "not a whole safetensors file"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "not a whole safetensors file"),
    "a header that is no JSON": (b"{]", "not readable as JSON"),
    "a header that is a list": (b"[]", "is a mapping"),
    "a header nested too deep": (b'{"a":' + b"[" * 30_000, "not readable as JSON"),
    "a header of more lists than tensors have": (b'{"a":[' + b"[]," * 100_000 + b"[]]}", "lists more than 32768 tensors"),
    "a repeated tensor": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}', "duplicate key `a`"),
    "an entry that is a number": ({"a": 1}, "must have dtype, shape and data_offsets"),
    "an entry with an unknown field": ({"a": {**entry(0, 0), "x": 1}}, "must have dtype, shape and data_offsets"),
    "an unknown type": ({"a": entry(0, 0, "F33")}, "has type `F33`"),
    "a type that is a list": ({"a": entry(0, 0, [1])}, "has type"),
    "a negative size": ({"a": entry(0, 4, "U8", [-4])}, "whole numbers from 0"),
    "a size that is a fraction": ({"a": entry(0, 4, "U8", [4.0])}, "whole numbers from 0"),
    "a size that is a truth value": ({"a": entry(0, 1, "U8", [True])}, "whole numbers from 0"),
    "too many axes": ({"a": entry(0, 1, "U8", [1] * 17)}, "at most 16"),
    "a product that overflows 64 bits": ({"a": entry(0, 0, "U8", [1 << 33, 1 << 31])}, "does not fill"),
    "a product that wraps to the right size": ({"a": entry(0, 4, "U8", [(1 << 62) + 1, 4])}, "does not fill"),
    "offsets backwards": ({"a": entry(4, 0, "U8", [4])}, "does not fill"),
    "one offset": ({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0]}}, "two data_offsets"),
    "a hole between tensors": ({"a": entry(0, 4), "b": entry(8, 12)}, "begins at byte 8"),
    "a hole before the first": ({"a": entry(4, 8)}, "begins at byte 4"),
    "tensors that overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, "begins at byte 4"),
    "an empty tensor inside another": ({"a": entry(0, 8), "b": entry(4, 4)}, "begins at byte"),
    "a missing tail": ({"a": entry(0, 64)}, "describes 64 bytes of data, the file has 12"),
    "bytes that no tensor holds": ({"a": entry(0, 8)}, "describes 8 bytes of data, the file has 12"),
    "a size beyond the file": ({"a": entry(0, 1 << 50)}, "the file has 12"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_one_error_that_names_the_file(tmp_path, monkeypatch, case):
    header, says = HOSTILE[case]
    path = tmp_path / "bad.safetensors"
    if isinstance(header, bytes) and header[:1] not in (b"{", b"["):
        path.write_bytes(header)
    else:
        raw_file(path, header, b"\0" * 12)
    monkeypatch.setattr("safetensors.safe_open", None)  # refused before the library sees the file
    with pytest.raises(ModelFolderError, match=rf"bad\.safetensors.*({says})"):
        files.load_tensors(path)


def test_our_limits_on_the_header_hold_where_the_library_would_go_on(tmp_path, monkeypatch):
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:  # a sparse file: 16 MiB and a little of header
        file.write(struct.pack("<Q", files.MAX_HEADER_BYTES + 1))
        file.truncate(8 + files.MAX_HEADER_BYTES + 1)
    with pytest.raises(ModelFolderError, match=f"at most {files.MAX_HEADER_BYTES} are read"):
        files.tensor_header(path)
    monkeypatch.setattr(module, "MAX_TENSORS", 2)
    raw_file(path, {name: entry(0, 0) for name in "abc"})
    with pytest.raises(ModelFolderError, match="holds 3 tensors; at most 2"):
        files.tensor_header(path)


def test_metadata_that_is_not_texts_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="__metadata__"):
        files.tensor_metadata(raw_file(tmp_path / "a", {"__metadata__": {"k": 1}}))


def test_what_the_library_refuses_is_our_error(tmp_path):
    path = raw_file(tmp_path / "a", b'\xef\xbb\xbf{"w":{"dtype":"U8","shape":[12],"data_offsets":[0,12]}}', b"\0" * 12)  # a BOM
    with pytest.raises(ModelFolderError, match="not readable as safetensors"):
        files.load_tensors(path)


def test_a_file_can_be_saved_over_while_its_tensors_are_in_use(tmp_path):
    files.save_tensors(tmp_path / "a", {"w": torch.arange(5.0)})
    held = files.load_tensors(tmp_path / "a")["w"]
    files.save_tensors(tmp_path / "a", {"w": held + 1})
    assert held.tolist() == [0, 1, 2, 3, 4]
    assert files.load_tensors(tmp_path / "a")["w"].tolist() == [1, 2, 3, 4, 5]
