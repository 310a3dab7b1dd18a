from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ModelFolderError
from touchstone.files import save_tensors
from touchstone.models.weight_files import find_weights, split_shards


@pytest.mark.slow
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), limit=st.integers(4, 120))
def test_shards_keep_every_tensor_once_and_stay_below_the_limit(sizes: list[int], limit: int) -> None:
    tensors = {f"t{i:02d}": torch.zeros(size) for i, size in enumerate(sizes)}
    shards = split_shards(tensors, limit)
    assert [name for group in shards.files.values() for name in group] == list(tensors)
    for group in shards.files.values():
        assert len(group) == 1 or sum(4 * tensor.numel() for tensor in group.values()) <= limit
    if len(shards.files) == 1:
        assert (list(shards.files), shards.index) == (["model.safetensors"], None)
    else:
        assert shards.index is not None
        assert shards.index["weight_map"] == {name: file for file, group in shards.files.items() for name in group}
        assert shards.index["metadata"]["total_size"] == 4 * sum(sizes)


def test_what_is_stored_is_known_from_the_headers(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16)})
    (tmp_path / "optimizer.pt").write_bytes(b"")
    found = find_weights(tmp_path)
    assert found.types() == {"F32": 6, "BF16": 5}
    assert found.n_numbers() == 11
    assert list(found.ignored) == ["optimizer.pt"]


@pytest.mark.parametrize("length", [0x280, 0x580, 0x4B50], ids=hex)
def test_a_header_is_no_pickle_whatever_its_length(tmp_path: Path, length: int) -> None:
    entry = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = (entry + " " * (length - len(entry) - 1) + "}").encode()
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert find_weights(tmp_path).types() == {"F32": 1}


def test_only_the_tensors_asked_for_are_read_and_they_must_be_finite(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {"a": torch.arange(3.0), "b": torch.tensor([1.0, float("nan"), float("inf")])})
    found = find_weights(tmp_path)
    assert list(found.load(["a"])) == ["a"]
    with pytest.raises(ModelFolderError, match=r"not finite: `b` in model\.safetensors \(2 of 3 numbers\)"):
        found.load()


def test_a_pointer_that_git_left_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelFolderError, match="`git lfs pull`"):
        find_weights(tmp_path)


def test_other_safetensors_files_are_not_taken_for_the_weights(tmp_path: Path) -> None:
    save_tensors(tmp_path / "adapter_model.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(ModelFolderError, match=r"has no model\.safetensors.*adapter_model\.safetensors"):
        find_weights(tmp_path)
