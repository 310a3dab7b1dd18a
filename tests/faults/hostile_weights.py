"""Weight files and indexes that are damaged, hostile or of another kind."""

import gzip
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_folders import CANARY, INDEX, Case, Good, Trap, edit_json, is_root, read_header, write_raw, write_sparse

from touchstone.files import load_tensors, save_tensors

Spoil = Callable[[Path, Good], None]
Header = dict[str, Any]


def on_file(change: Callable[[Path], Any]) -> Spoil:
    """Spoil the file with the vector."""
    return lambda folder, good: change(good.weights(folder))


def on_header(change: Callable[[Header, str], Any], pad: int = 0) -> Spoil:
    """Change its header, given the vector's name; pad: bytes added to the data."""

    def spoil(folder: Path, good: Good) -> None:
        path = good.weights(folder)
        header, body = read_header(path)
        change(header, good.words["vector"])
        write_raw(path, json.dumps(header).encode(), body + bytes(pad))

    return spoil


def on_entry(**entry: Any) -> Spoil:
    """Change what the header says of the vector."""
    return on_header(lambda header, name: header[name].update(entry))


def on_tensors(change: Callable[[dict[str, torch.Tensor], str, str], Any]) -> Spoil:
    """Change the tensors of the file, given the names of the vector and the matrix."""

    def spoil(folder: Path, good: Good) -> None:
        path = good.weights(folder)
        tensors = load_tensors(path)
        change(tensors, good.words["vector"], good.words["matrix"])
        save_tensors(path, tensors, {"format": "pt"})

    return spoil


def on_index(change: Callable[[dict[str, str], str], Any]) -> Spoil:
    """Change the weight map, given the vector's name."""
    return lambda folder, good: edit_json(folder / INDEX, lambda data: change(data["weight_map"], good.words["vector"]))


def in_place(make: Callable[[Path], Any]) -> Spoil:
    """Put something else where the file is; the file itself goes beside the folder."""

    def spoil(folder: Path, good: Good) -> None:
        path = good.weights(folder)
        (folder.parent / "outside.safetensors").write_bytes(path.read_bytes())
        path.unlink()
        make(path)

    return spoil


def overlap(header: Header, name: str) -> None:
    (begin, end), last = max((entry["data_offsets"], other) for other, entry in header.items() if other != "__metadata__")
    header[last]["data_offsets"] = [0, end - begin]


def hole(header: Header, name: str) -> None:
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    header[last]["data_offsets"] = [place + 4 for place in header[last]["data_offsets"]]


def stretched(header: Header, name: str) -> None:
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    header[last]["data_offsets"][1] += 10**12


def repeated_name(path: Path) -> None:
    header, body = read_header(path)
    first = next(name for name in header if name != "__metadata__")
    write_raw(path, json.dumps(header)[:-1].encode() + f", {json.dumps(first)}: {json.dumps(header[first])}}}".encode(), body)


def many_tensors(path: Path, n: int = 100_001) -> None:
    """As many as fit the largest header, each of no bytes."""
    entries = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(n))
    write_raw(path, b"{" + entries.encode() + b"}")


def many_more_tensors(folder: Path, good: Good) -> None:
    """Tensors of no bytes beside the right ones, almost as many as are read."""
    path = good.weights(folder)
    header, body = read_header(path)
    end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    extra = {f"model.layers.{i}.surprise.weight": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for i in range(32_000)}
    write_raw(path, json.dumps({**header, **extra}, separators=(",", ":")).encode(), body)
    if good.layout == "shards":
        edit_json(folder / INDEX, lambda data: data["weight_map"].update(dict.fromkeys(extra, path.name)))


def name_tricks(header: Header, name: str) -> None:
    header["\x1b[2J\ud800\n" + "n" * 1_000_000] = header.pop(name)


def zip_file(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(path.parent.parent / CANARY)))


def pickle_file(protocol: int) -> Spoil:
    return on_file(lambda path: path.write_bytes(pickle.dumps(Trap(path.parent.parent / CANARY), protocol=protocol)))


def only_pickles(folder: Path, good: Good) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.unlink(missing_ok=True)


def misfit(tensors: dict[str, torch.Tensor], vector: str, matrix: str) -> None:
    tensors[vector.replace("weight", "wieght")] = tensors.pop(vector)


def whole_misfit(folder: Path, good: Good) -> None:
    """A name misspelt, a matrix turned, a type that holds no weights: in the one file, so that all is reported together."""
    path = good.weights(folder)
    tensors = load_tensors(path)
    misfit(tensors, good.words["vector"], "")
    matrix = good.words["matrix"]
    tensors[matrix] = tensors[matrix].T.contiguous()
    product = good.words["product"]
    tensors[product] = tensors[product].to(torch.int8)
    save_tensors(path, tensors, {"format": "pt"})


def tied_apart(folder: Path, good: Good) -> None:
    """A second copy of the token table that is not the first."""
    path = good.weights(folder)
    tensors = load_tensors(path)
    matrix = load_tensors(folder / where_is(folder, good, good.words["matrix"]))[good.words["matrix"]]
    tensors[good.words["tied"]] = matrix + 1
    save_tensors(path, tensors, {"format": "pt"})
    if good.layout == "shards":
        edit_json(folder / INDEX, lambda data: data["weight_map"].update({good.words["tied"]: path.name}))


def where_is(folder: Path, good: Good, tensor: str) -> str:
    if good.layout == "one file":
        return "model.safetensors"
    return str(json.loads((folder / INDEX).read_text())["weight_map"][tensor])


def two_places(folder: Path, good: Good) -> None:
    """The same tensor in a second shard, which the index does not know of."""
    other = next(path for path in sorted(folder.glob("*.safetensors")) if path != good.weights(folder))
    tensors = load_tensors(other)
    tensors[good.words["vector"]] = load_tensors(good.weights(folder))[good.words["vector"]]
    save_tensors(other, tensors, {"format": "pt"})


def both_kinds(folder: Path, good: Good) -> None:
    (folder / "model.safetensors").write_bytes(good.weights(folder).read_bytes())


def huge_index(n: int) -> Spoil:
    def spoil(folder: Path, good: Good) -> None:
        name = good.weights(folder).name
        (folder / INDEX).write_text('{"weight_map": {' + ",".join(f'"{i}": "{name}"' for i in range(n)) + "}}")

    return spoil


def many_files(folder: Path, good: Good) -> None:
    (folder / INDEX).write_text('{"weight_map": {' + ",".join(f'"{i}": "{i}.safetensors"' for i in range(90_000)) + "}}")


def unreadable(path: Path) -> None:
    path.chmod(0)


def renamed(name: Any) -> Spoil:
    return on_index(lambda placed, vector: placed.update({vector: name}))


OTHER_NAME = ("should be the name of a .safetensors file in the same folder",)
WHOLE = ("not a whole safetensors file",)
GZIP = gzip.compress(b"{}" * 100)

CASES = [
    # Headers
    Case("header of 2^63 bytes", on_file(lambda p: p.write_bytes((2**63).to_bytes(8, "little") + p.read_bytes()[8:])), WHOLE),
    Case("header of 100 MB", on_file(lambda p: write_sparse(p, (100 << 20) + 64, (100 << 20).to_bytes(8, "little"))), ("its header is",)),
    Case("header of 16 MB of zeros", on_file(lambda p: write_sparse(p, 17 << 20, (16 << 20).to_bytes(8, "little"))), ("JSON",)),
    Case("header of 30000 lists in each other", on_file(lambda p: write_raw(p, b"[" * 30_000)), ("not readable as JSON",)),
    Case("header of 16 MB of lists", on_file(lambda p: write_raw(p, b'{"a":[' + b"[]," * 5_000_000 + b"[]]}")), ("lists more than 32768",)),
    Case(
        "header of 16 MB of mappings", on_file(lambda p: write_raw(p, b'{"a":[' + b"{}," * 5_000_000 + b"{}]}")), ("lists more than 32768",)
    ),
    Case("header of 16 MB of texts", on_file(lambda p: write_raw(p, b'{"a":[' + b'"",' * 5_000_000 + b'""]}')), ("lists more than 32768",)),
    Case("header that is a list", on_file(lambda p: write_raw(p, b"[1]")), ("a safetensors header is a mapping",)),
    Case("header that is not UTF-8", on_file(lambda p: write_raw(p, b'{"\xff": 1}')), ("not readable as JSON",)),
    Case("header with NaN", on_entry(shape=[float("nan")]), ("NaN",)),
    Case("header with a name twice", on_file(repeated_name), ("duplicate key",)),
    Case("metadata that is no mapping", on_header(lambda h, _: h.update(__metadata__=[1])), ("`__metadata__`",)),
    Case("metadata of numbers", on_header(lambda h, _: h.update(__metadata__={"step": 1})), ("`__metadata__`",)),
    # Where the bytes are
    Case("overlapping tensors", on_header(overlap), ("begins at byte",)),
    Case("a hole between tensors", on_header(hole, pad=4), ("begins at byte",)),
    Case("offsets behind the end", on_header(stretched), ("does not fill bytes",)),
    Case("a tensor of no bytes in place of some", on_entry(shape=[12, 0]), ("does not fill bytes",)),
    Case("offsets below 0", on_entry(data_offsets=[-48, 0]), ("must have two data_offsets from 0",)),
    Case("offsets that are not whole", on_entry(data_offsets=[0.0, 48.0]), ("must have two data_offsets from 0",)),
    Case("a shape whose product overflows", on_entry(shape=[2**32, 2**32]), ("does not fill bytes",)),
    Case("a shape that overflows to the right size", on_entry(shape=[2**62, 4, 12]), ("does not fill bytes",)),
    Case("a shape below 0", on_entry(shape=[-3, -4]), ("must have a shape",)),
    Case("a shape of truths", on_entry(shape=[True, 12]), ("must have a shape",)),
    Case("a shape of 10000 axes", on_entry(shape=[1] * 10_000 + [12]), ("at most 16",)),
    Case("a type nobody knows", on_entry(dtype="F33"), ("has type `F33`",)),
    Case("a type that is a list", on_entry(dtype=["F32"]), ("`{vector}`", "has type")),
    Case("no type", on_header(lambda h, name: h[name].pop("dtype")), ("must have dtype, shape and data_offsets",)),
    Case("the tail cut off", on_file(lambda p: p.write_bytes(p.read_bytes()[:-5])), ("bytes of data, the file has",)),
    Case("bytes behind the tail", on_file(lambda p: p.write_bytes(p.read_bytes() + b"#!/bin/sh")), ("bytes of data, the file has",)),
    # Tensors
    Case("100001 tensors", on_file(many_tensors), ("lists more than 32768",)),
    Case("32769 tensors", on_file(lambda p: many_tensors(p, 32_769)), ("holds 32769 tensors; at most 32768",)),
    Case("32000 tensors too many", many_more_tensors, ("surprise", "32000 unknown", "more")),
    Case("a name of a million letters and control codes", on_header(name_tricks), ("\\x1b",)),
    Case("a misspelt tensor", on_tensors(misfit), ("did you mean `{vector}`", "`{vector}`"), only="one file"),
    Case("misspelt, misshapen and mistyped", whole_misfit, ("`{vector}`", "`{matrix}` ([12, 263]", "`{product}` (I8"), only="one file"),
    Case("quantised weights", on_tensors(lambda t, v, _: t.update({v: t[v].to(torch.int8)})), ("`{vector}` (I8",)),
    Case("weights that are not a number", on_tensors(lambda t, v, _: t[v].fill_(float("nan"))), ("`{vector}`", "not finite")),
    Case("infinite weights", on_tensors(lambda t, v, _: t[v][3].fill_(float("inf"))), ("`{vector}`", "not finite")),
    Case("tied tensors that differ", tied_apart, ("`{tied}`", "`tie_word_embeddings`")),
    # Files of another kind
    *(Case(f"a pickle of protocol {n} renamed", pickle_file(n), ("is a pickle", "from_pretrained")) for n in (2, 5)),
    Case("a pickle of protocol 0 renamed", pickle_file(0), WHOLE),  # text, which nothing tells from other text
    Case("a zip renamed", on_file(zip_file), ("is a pickle", "from_pretrained")),
    Case("pickles only", only_pickles, ("`pytorch_model.bin` is a pickle", "from transformers import")),
    Case("an empty file", on_file(lambda p: p.write_bytes(b"")), WHOLE),
    Case("seven bytes", on_file(lambda p: p.write_bytes(b"1234567")), WHOLE),
    Case("a web page", on_file(lambda p: p.write_bytes(b"<!DOCTYPE html><html>Not found</html>")), WHOLE),
    Case("a gzip", on_file(lambda p: p.write_bytes(GZIP)), WHOLE),
    Case(
        "a pointer of Git LFS",
        on_file(lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")),
        ("Git LFS", "git lfs pull"),
    ),
    # What stands in a file's place
    Case("a FIFO", in_place(os.mkfifo), ("must be a regular file",)),
    Case("a folder", in_place(lambda p: p.mkdir()), ("must be a regular file",)),
    Case("a link out", in_place(lambda p: p.symlink_to("../outside.safetensors")), ("symbolic link",)),
    Case("a link to a device", in_place(lambda p: p.symlink_to("/dev/zero")), ("symbolic link",)),
    Case("a link to itself", in_place(lambda p: p.symlink_to(p.name)), ("symbolic link",)),
    Case("nothing in a shard's place", in_place(lambda p: None), ("no such file",), only="shards"),
    *([] if is_root() else [Case("a file nobody may read", on_file(unreadable), ("cannot be opened", "Permission"))]),
    # The index
    *(
        Case(f"an index that names {name[:20]!r}", renamed(name), OTHER_NAME, only="shards")
        for name in ("../../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "..", "", ".x.safetensors", "x.bin")
    ),
    Case("an index that names a zero byte", renamed("a\0.safetensors"), OTHER_NAME, only="shards"),
    Case("an index that names a file of 5000 letters", renamed("a" * 5000 + ".safetensors"), ("File name too long",), only="shards"),
    Case("an index that names itself", renamed(INDEX), OTHER_NAME, only="shards"),
    Case("an index that names a number", renamed(1), ("`weight_map` should map",), only="shards"),
    Case("an index that is a list", lambda f, _: (f / INDEX).write_text("[]") and None, ("`weight_map` should map",), only="shards"),
    Case("an empty index", on_index(lambda placed, _: placed.clear()), ("`weight_map` should map",), only="shards"),
    Case("an index of 10^6 tensors", huge_index(10**6), ("at most 16777216 bytes",), only="shards"),
    Case("an index of 200000 tensors", huge_index(200_000), ("names 200000 tensors",), only="shards"),
    Case("an index of 90000 files", many_files, ("no such file",), only="shards"),
    Case("an index without a tensor", on_index(lambda placed, v: placed.pop(v)), ("does not agree", "`{vector}`"), only="shards"),
    Case("an index with a tensor too many", on_index(lambda p, v: p.update(zz=p[v])), ("does not agree", "`zz`"), only="shards"),
    Case("a tensor in two shards", two_places, ("does not agree", "`{vector}`"), only="shards"),
    Case("one file beside the shards", both_kinds, ("has both",), only="shards"),
]
