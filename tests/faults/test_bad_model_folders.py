"""Model folders that are malformed, hostile or of another kind: one clear error each, fast, with nothing executed."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from touchstone.errors import ModelFolderError, TouchstoneError, Unsupported
from touchstone.files import load_tensors, save_tensors
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import load_model, save_model

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 9}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "m"
    save_model(folder, build(decoder_spec(**SIZES)), max_shard_bytes=10**9)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A sound folder of its own, to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "m"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_model(tmp_path / "s", build(decoder_spec(**SIZES)), max_shard_bytes=1000)
    return tmp_path / "s"


def edit(path: Path, **changes: Any) -> None:
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def refused(folder: Path, kind: type[TouchstoneError] = ModelFolderError) -> str:
    with pytest.raises(kind) as error:
        load_model(folder)
    return str(error.value)


class Canary:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (self.path, "w"))


def test_a_folder_that_is_not_there_or_empty_says_so(tmp_path: Path) -> None:
    assert "no such model folder" in refused(tmp_path / "nothing")
    assert "config.json: no such file" in refused(tmp_path)


# Weight files


def test_a_folder_of_pickles_is_refused_with_the_lines_that_convert_it(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    canary = tmp_path / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    message = refused(folder)
    assert "from transformers import AutoModelForCausalLM" in message
    assert message.count("\n") == 3
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_under_a_safe_name_is_recognised_and_not_opened(folder: Path, tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Canary(canary), protocol=protocol))
    assert "is a pickle" in refused(folder)
    assert not canary.exists()


def test_a_zip_under_a_safe_name_is_recognised(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "is a pickle" in refused(folder)


def test_pickles_beside_the_weights_are_listed_and_left_alone(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "training_args.bin").write_bytes(pickle.dumps(Canary(canary)))
    assert "never opened" in load_model(folder).extra.ignored_files["training_args.bin"]
    assert not canary.exists()


@pytest.mark.slow
def test_nothing_is_executed_with_assertions_switched_off(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Canary(canary)))
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, trust_remote_code=True)
    code = "import sys; from touchstone.models.checkpoint import load_model; load_model(sys.argv[1])"
    done = subprocess.run([sys.executable, "-O", "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert "ModelFolderError" in done.stderr
    assert "is a pickle" in done.stderr
    assert not canary.exists()


def test_code_named_by_a_config_is_not_executed(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, trust_remote_code=True)
    loaded = load_model(folder)
    assert "nothing in a model folder is executed" in loaded.extra.ignored_keys["auto_map"]
    edit(folder / "config.json", nested={"auto_map": {"AutoConfig": "modeling_evil.Evil"}, "trust_remote_code": True})
    assert "unknown key `nested`" in refused(folder)
    assert not canary.exists()


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_raw(path: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def spoil_length(path: Path) -> None:
    path.write_bytes((2**63).to_bytes(8, "little") + path.read_bytes()[8:])


def spoil_header_size(path: Path) -> None:
    with path.open("wb") as file:
        file.write((100 << 20).to_bytes(8, "little"))
        file.truncate((100 << 20) + 64)


def spoil_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def spoil_overlap(path: Path) -> None:
    header, body = header_of(path)
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second] = {**header[first]}
    write_raw(path, header, body)


def spoil_zero_size(path: Path) -> None:
    header, body = header_of(path)
    header["extra"] = {"dtype": "F32", "shape": [4, 0], "data_offsets": [40, 44]}
    write_raw(path, header, body)


def spoil_shape(path: Path) -> None:
    header, body = header_of(path)
    header["model.norm.weight"]["shape"] = [2**32, 2**32]
    write_raw(path, header, body)


@pytest.mark.parametrize("spoil", [spoil_length, spoil_header_size, spoil_tail, spoil_overlap, spoil_zero_size, spoil_shape])
def test_a_damaged_weight_file_is_named(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder / "model.safetensors")
    assert "model.safetensors" in refused(folder)


def test_missing_extra_and_misshapen_tensors_are_reported_together(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    tensors["model.norm.wieght"] = tensors.pop("model.norm.weight").clone()
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].T.contiguous()
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].to(torch.int8)
    save_tensors(path, tensors, {"format": "pt"})
    message = refused(folder)
    for part in ("`model.norm.weight`", "did you mean `model.norm.weight`", "[12, 11] should be [11, 12]", "I8"):
        assert part in message


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".hidden.safetensors", "x.bin", "a\0.safetensors"]
)
def test_an_index_names_files_of_its_own_folder_only(sharded: Path, name: str) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    assert "should be the name of a .safetensors file" in refused(sharded)


def replace_shard(folder: Path, make: Callable[[Path], None]) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    (folder.parent / "outside.safetensors").write_bytes(content)
    shard.unlink()
    make(shard)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: os.mkfifo(path), "must be a regular file"),
        (lambda path: path.mkdir(), "must be a regular file"),
        (lambda path: path.symlink_to(path.parent.parent / "outside.safetensors"), "symbolic link"),
        (lambda path: path.symlink_to("/dev/zero"), "symbolic link"),
        (lambda path: None, "no such file"),
    ],
    ids=["fifo", "folder", "link out", "link to a device", "absent"],
)
def test_a_shard_is_a_regular_file(sharded: Path, make: Callable[[Path], None], says: str) -> None:
    replace_shard(sharded, make)
    assert says in refused(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "touchstone.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ],
)
def test_no_file_of_a_folder_may_hang_or_lead_out(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "must be a regular file" in refused(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/etc/hostname")
    assert "symbolic link" in refused(folder)


def test_an_index_of_a_million_tensors_is_refused(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    for n, says in ((1_000_000, "at most 16777216 bytes"), (200_000, "names 200000 tensors")):
        path.write_text('{"weight_map": {' + ",".join(f'"{i}": "model-00001-of-00002.safetensors"' for i in range(n)) + "}}")
        assert says in refused(sharded)


def test_an_index_that_disagrees_with_its_files_is_refused(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    other = next(file for file in index["weight_map"].values() if file != index["weight_map"]["model.norm.weight"])
    index["weight_map"]["model.norm.weight"] = other
    path.write_text(json.dumps(index))
    assert "does not agree with the files: `model.norm.weight` is not in" in refused(sharded)
    path.write_text(json.dumps({"weight_map": ["a"]}))
    assert "`weight_map` should map" in refused(sharded)


def test_two_sets_of_weights_are_refused(sharded: Path, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", sharded)
    assert "has both" in refused(sharded)


def test_a_hugging_face_cache_entry_loads_and_a_link_to_another_does_not(folder: Path, tmp_path: Path) -> None:
    def entry(name: str) -> tuple[Path, Path]:
        blobs, snapshot = tmp_path / name / "blobs", tmp_path / name / "snapshots" / "abc123"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        return blobs, snapshot

    blobs, snapshot = entry("models--one--m")
    other, _ = entry("models--other--m")
    for path in folder.iterdir():
        shutil.copy(path, blobs / f"hash-{path.name}")
        shutil.copy(path, other / f"hash-{path.name}")
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"hash-{path.name}"))
    assert load_model(snapshot).spec.d_model == 12
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "hash-model.safetensors")
    assert "symbolic link" in refused(snapshot)


# config.json and its neighbours


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": -1}, "`hidden_size`"),
        ({"hidden_size": 0}, "`hidden_size`"),
        ({"hidden_size": "768"}, "`hidden_size`"),
        ({"hidden_size": 10**12}, "`hidden_size`"),
        ({"vocab_size": 10**7, "hidden_size": 3 * 10**5}, "parameters, and the files hold"),
        ({"num_hidden_layers": 9_999}, "9999 layers, and the files hold"),
        ({"num_attention_heads": 5}, "multiple of"),
        ({"num_key_value_heads": 2}, "multiple of"),
        ({"intermediate_size": 33}, "should be [33, 12]"),
        ({"hiden_size": 12}, "did you mean `hidden_size`"),
        ({"model_type": "lama"}, "Did you mean `llama`"),
        ({"model_type": ["llama"]}, "`model_type` should be a text"),
        ({"model_type": ...}, "`model_type` should be a text"),
        ({"architectures": [3]}, "`architectures` should be a list"),
    ],
    ids=str,
)
def test_sizes_and_types_are_checked_before_anything_is_allocated(folder: Path, changes: dict[str, Any], says: str) -> None:
    edit(folder / "config.json", **changes)
    assert says in refused(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama", "model_type": "gpt2"}', "duplicate key `model_type`"),
        ("[" * 100_000, "not readable as JSON"),
        ("[1]", "should hold a mapping"),
        ("{", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
    ],
    ids=["duplicate", "deep", "list", "cut", "not utf-8"],
)
def test_a_config_that_is_no_mapping_is_refused(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert says in refused(folder)


def test_a_class_with_another_head_is_unsupported(folder: Path) -> None:
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    assert "another kind of model" in refused(folder, Unsupported)


@pytest.mark.parametrize(
    "spoil",
    [
        {"decoder": {"kind": "attention", "causal": True, "blocks": [{"repeat": 10**9, "block": {}}]}},
        {"decoder": {"kind": "recurrent", "cell": {"n_layers": 10**15, "d_hidden": 3}}},
        {"decoder": {"kind": "recurrent", "cell": {"d_hidden": 10**15}}},
        {"embed": {"vocab_size": 10**15, "d_model": 12}},
        {"surprise": 1},
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_spec_of_ours_is_no_more_trusted_than_any_other(tmp_path: Path, spoil: dict[str, Any]) -> None:
    save_model(tmp_path / "m", build(decoder_spec(**SIZES, positions="sinusoidal")))
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    recurrent = spoil.get("decoder", {}).get("kind") == "recurrent"
    edit(path, spec={**config["spec"], **spoil}, **({"model_type": "touchstone-recurrent", "architectures": None} if recurrent else {}))
    refused(tmp_path / "m")


def test_an_absurd_table_of_ours_is_not_made(tmp_path: Path) -> None:
    save_model(tmp_path / "m", build(decoder_spec(**SIZES, positions="sinusoidal")))
    path = tmp_path / "m" / "config.json"
    spec = json.loads(path.read_text())["spec"]
    spec["decoder"]["position"]["max_seq_len"] = 10**12
    edit(path, spec=spec)
    assert "larger than a gigabyte" in refused(tmp_path / "m")


def test_a_card_that_is_wrong_is_refused(folder: Path) -> None:
    edit(folder / "touchstone.json", surprise=1)
    assert "unknown key `surprise`" in refused(folder)


def test_an_end_that_is_no_token_is_refused(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=50256)
    assert "`eos_token_id` (50256) is no token of a vocabulary of 11" in refused(folder)


def test_an_ngram_folder_with_other_tensors_is_refused(tmp_path: Path, folder: Path) -> None:
    edit(folder / "config.json", **dict.fromkeys(json.loads((folder / "config.json").read_text()), ...))
    edit(folder / "config.json", model_type="touchstone-ngram", spec={"vocab_size": 11, "order": 2})
    assert "n-gram counts are stored as I32" in refused(folder)
    edit(folder / "config.json", spec={"vocab_size": 11, "ordr": 2})
    assert "did you mean `order`" in refused(folder)
