import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ModelFolderError
from touchstone.files import TensorEntry
from touchstone.models.weights import (
    AsRow,
    Fuse,
    Row,
    Same,
    Stacked,
    StateReport,
    TiedAlias,
    Transpose,
    expand,
    match,
    same_bits,
    save_state,
    weights_hash,
)

ROWS = (
    Row("embed.weight", "base.wte"),
    Row(("layers.{i}.q", "layers.{i}.k", "layers.{i}.v"), "base.h.{i}.qkv", Fuse(transposed=True)),
    Row("layers.{i}.o", "base.h.{i}.out", Transpose()),
    Row("layers.{i}.bias", "base.h.{i}.bias"),
    Row("lm_head.weight", "head"),
    Row("embed.weight", "head", TiedAlias()),
)


def network(n_layers: int = 2, *, tied: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """D=4, three heads of width 2 over one key-value head, V=7: no two shapes agree by chance."""
    rng = torch.Generator().manual_seed(seed)
    state = {"embed.weight": torch.randn(7, 4, generator=rng)}
    for i in range(n_layers):
        state |= {
            f"layers.{i}.q": torch.randn(6, 4, generator=rng),
            f"layers.{i}.k": torch.randn(2, 4, generator=rng),
            f"layers.{i}.v": torch.randn(3, 4, generator=rng),
            f"layers.{i}.o": torch.randn(4, 6, generator=rng),
        }
    return state if tied else state | {"lm_head.weight": torch.randn(7, 4, generator=rng)}


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def header(theirs: dict[str, torch.Tensor], dtype: str = "F32") -> dict[str, TensorEntry]:
    return {name: TensorEntry(dtype, tuple(tensor.shape)) for name, tensor in theirs.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_loading_what_was_saved_gives_the_same_bits(tied: bool) -> None:
    ours = network(tied=tied)
    theirs = save_state(ROWS, ours)
    loaded = match(ROWS, shapes(ours), header(theirs), prefix="base.").load(theirs)
    assert set(loaded) == set(ours)
    assert all(same_bits(loaded[name], ours[name]) for name in ours)


def test_their_tensors_are_laid_out_as_the_table_says() -> None:
    ours = network()
    theirs = save_state(ROWS, ours)
    assert set(theirs) == {"base.wte", "base.h.0.qkv", "base.h.0.out", "base.h.1.qkv", "base.h.1.out"}
    fused = theirs["base.h.1.qkv"]
    assert fused.shape == (4, 11)
    assert torch.equal(fused[:, 6:8], ours["layers.1.k"].T)
    assert torch.equal(theirs["base.h.0.out"], ours["layers.0.o"].T)


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    rest=st.integers(1, 3),
    axis=st.integers(0, 1),
    transposed=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_fusing_and_splitting_undo_each_other_bit_for_bit(
    sizes: list[int], rest: int, axis: int, transposed: bool, dtype: torch.dtype
) -> None:
    parts = [torch.randn((size, rest) if axis == 0 else (rest, size)).to(dtype) for size in sizes]
    transform = Fuse(axis=axis, transposed=transposed)
    fused = transform.to_theirs(parts)
    assert tuple(fused.shape) == transform.their_shape([tuple(part.shape) for part in parts])
    back = transform.to_ours(fused, [tuple(part.shape) for part in parts])
    assert all(same_bits(a, b) for a, b in zip(parts, back, strict=True))


def test_tensors_of_different_types_are_not_fused() -> None:
    with pytest.raises(ModelFolderError, match="one type"):
        Fuse().to_theirs([torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)])


def test_layers_and_experts_are_filled_in_on_both_sides() -> None:
    row = Row("layers.{i}.experts.{e}.up", "model.{i}.moe.{e}.w1")
    found = expand([row], ["layers.0.experts.11.up", "layers.3.experts.2.up", "layers.3.gate"])
    assert {(row.our_names, row.theirs) for row in found} == {
        (("layers.0.experts.11.up",), "model.0.moe.11.w1"),
        (("layers.3.experts.2.up",), "model.3.moe.2.w1"),
    }


def test_every_problem_is_reported_at_once_with_the_nearest_name() -> None:
    ours = network()
    theirs = save_state(ROWS, ours)
    theirs["base.h.0.oyt"] = theirs.pop("base.h.0.out")
    theirs["base.wte"] = torch.zeros(8, 4)
    theirs["base.h.2.qkv"] = torch.zeros(4, 11)
    wrong = header(theirs) | {"base.h.1.out": TensorEntry("F8_E4M3", (6, 4))}
    report = match(ROWS, shapes(ours), wrong, prefix="base.").report
    assert set(report.missing) == {"base.h.0.out"}
    assert set(report.unknown) == {"base.h.0.oyt", "base.h.2.qkv"}
    assert set(report.misshapen) == {"base.wte"}
    assert set(report.mistyped) == {"base.h.1.out"}
    with pytest.raises(ModelFolderError) as error:
        report.check("folder")
    message = str(error.value)
    for part in ("1 missing: `base.h.0.out`", "did you mean `base.h.0.out`?", "[8, 4] should be [7, 4]", "F8_E4M3", "2 unknown"):
        assert part in message


def test_many_problems_are_counted_not_listed_whole() -> None:
    report = StateReport(missing={f"tensor.{i}": "" for i in range(500)})
    (sentence,) = report.problems()
    assert sentence.startswith("500 missing")
    assert sentence.endswith("and 488 more.")


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    ours = network()
    theirs = save_state(ROWS, ours) | {"base.h.0.mask": torch.zeros(1)}
    ignored = {r"base\.h\.\d+\.mask": "holds nothing trained"}
    report = match(ROWS, shapes(ours), header(theirs), prefix="base.", ignored=ignored).report
    assert report.problems() == []
    assert report.ignored == {"base.h.0.mask": "holds nothing trained"}


def test_a_file_of_the_base_model_has_names_without_the_prefix() -> None:
    ours = network()
    theirs = {name.removeprefix("base."): tensor for name, tensor in save_state(ROWS, ours).items()} | {"h.1.mask": torch.zeros(1)}
    plan = match(ROWS, shapes(ours), header(theirs), prefix="base.", ignored={r"base\.h\.\d+\.mask": "why"})
    assert plan.report.problems() == []
    assert plan.report.ignored == {"h.1.mask": "why"}
    assert same_bits(plan.load(theirs)["layers.1.v"], ours["layers.1.v"])


def test_names_with_and_without_the_prefix_do_not_mix() -> None:
    ours = network()
    theirs = save_state(ROWS, ours)
    theirs["wte"] = theirs.pop("base.wte")
    report = match(ROWS, shapes(ours), header(theirs), prefix="base.").report
    assert (set(report.missing), set(report.unknown)) == ({"base.wte"}, {"wte"})


def test_a_tied_tensor_may_be_repeated_if_it_is_equal() -> None:
    ours = network()
    theirs = save_state(ROWS, ours) | {"head": ours["embed.weight"].clone()}
    plan = match(ROWS, shapes(ours), header(theirs))
    assert plan.report.problems() == []
    assert set(plan.load(theirs)) == set(ours)
    theirs["head"][0, 0] += 1
    with pytest.raises(ModelFolderError, match="tie_word_embeddings"):
        plan.load(theirs)


def test_a_tied_tensor_may_stand_under_its_second_name_alone() -> None:
    ours = network()
    theirs = save_state(ROWS, ours)
    theirs["head"] = theirs.pop("base.wte")
    plan = match(ROWS, shapes(ours), header(theirs))
    assert plan.report.problems() == []
    assert same_bits(plan.load(theirs)["embed.weight"], ours["embed.weight"])


def test_a_state_with_a_tensor_that_no_row_stores_is_not_saved() -> None:
    with pytest.raises(ModelFolderError, match=r"layers\.0\.surprise"):
        save_state(ROWS, network() | {"layers.0.surprise": torch.zeros(1)})


def test_the_storage_type_is_kept() -> None:
    ours = {name: tensor.to(torch.bfloat16) for name, tensor in network().items()}
    theirs = save_state(ROWS, ours)
    assert {tensor.dtype for tensor in theirs.values()} == {torch.bfloat16}
    loaded = match(ROWS, shapes(ours), header(theirs, "BF16")).load(theirs)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.bfloat16}


def test_same_gives_the_tensor_itself() -> None:
    tensor = torch.zeros(2)
    assert Same().to_theirs([tensor]) is tensor
    assert Same().to_ours(tensor, [(2,)]) == [tensor]


def test_equal_bits_are_equal_numbers_and_not_numbers_alike() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not same_bits(torch.zeros(2), torch.zeros(1, 2))


def test_the_weights_hash_is_of_names_shapes_and_values() -> None:
    tensor = torch.tensor([[1.0, -2.0]])
    expected = hashlib.sha256(b"a [1, 2]\n" + tensor.numpy().tobytes()).hexdigest()
    assert weights_hash({"a": tensor}) == expected
    assert weights_hash({"a": tensor.to(torch.bfloat16)}) == expected
    assert len({weights_hash(state) for state in ({"a": tensor}, {"b": tensor}, {"a": tensor.T}, {"a": tensor + 1})}) == 4


def test_a_vector_is_stored_as_a_matrix_of_one_row() -> None:
    rows = (Row("bias", "their_bias", AsRow()),)
    ours = {"bias": torch.arange(5.0)}
    theirs = save_state(rows, ours)
    assert theirs["their_bias"].shape == (1, 5)
    assert torch.equal(match(rows, shapes(ours), header(theirs)).load(theirs)["bias"], ours["bias"])


def test_a_row_can_ask_for_another_tensor_beside_its_own_or_for_its_absence() -> None:
    rows = (
        Row("layers.{i}.gate", "h.{i}.wi_0"),
        Row("layers.{i}.up", "h.{i}.wi_1", beside="layers.{i}.gate"),
        Row("layers.{i}.up", "h.{i}.wi", without="layers.{i}.gate"),
    )
    names = ["layers.0.gate", "layers.0.up", "layers.1.up"]
    assert {row.theirs: row.our_names for row in expand(rows, names)} == {
        "h.0.wi_0": ("layers.0.gate",),
        "h.0.wi_1": ("layers.0.up",),
        "h.1.wi": ("layers.1.up",),
    }


def test_the_experts_of_a_layer_are_stacked_in_the_order_of_their_numbers() -> None:
    parts = ("layers.{i}.experts.{e}.gate", "layers.{i}.experts.{e}.up")
    rows = (Row(parts, "h.{i}.gate_up", Stacked(2)), Row("layers.{i}.experts.{e}.down", "h.{i}.down", Stacked()))
    sizes = {"gate": (2, 5), "up": (3, 5), "down": (5, 3)}
    ours = {f"layers.{i}.experts.{e}.{part}": torch.randn(size) for i in range(2) for e in range(11) for part, size in sizes.items()}
    theirs = save_state(rows, ours)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {
        **{f"h.{i}.gate_up": (11, 5, 5) for i in range(2)},
        **{f"h.{i}.down": (11, 5, 3) for i in range(2)},
    }
    expected = torch.cat([ours["layers.1.experts.10.gate"], ours["layers.1.experts.10.up"]])
    assert torch.equal(theirs["h.1.gate_up"][10], expected)
    plan = match(rows, shapes(ours), header(theirs))
    plan.report.check("folder")
    assert all(torch.equal(plan.load(theirs)[name], tensor) for name, tensor in ours.items())


def test_stacked_experts_of_the_wrong_number_do_not_fit() -> None:
    rows = (Row("experts.{e}.down", "down", Stacked()),)
    ours = {f"experts.{e}.down": torch.randn(5, 3) for e in range(4)}
    plan = match(rows, shapes(ours), header({"down": torch.randn(3, 5, 3)}))
    assert plan.report.misshapen == {"down": "[3, 5, 3] should be [4, 5, 3]"}


def test_some_classes_call_the_base_model_another_name() -> None:
    rows = (Row("embed", "model.embed"), Row("head", "score"))
    ours = {"embed": torch.randn(3, 2), "head": torch.randn(4, 2)}
    stored = {"transformer.embed": ours["embed"], "score": ours["head"]}
    plan = match(rows, shapes(ours), header(stored), prefix="model.", other_prefixes=["transformer."])
    plan.report.check("folder")
    assert torch.equal(plan.load(stored)["embed"], ours["embed"])
    both = {**stored, "model.embed": ours["embed"]}
    assert list(match(rows, shapes(ours), header(both), prefix="model.", other_prefixes=["transformer."]).report.unknown) != []
