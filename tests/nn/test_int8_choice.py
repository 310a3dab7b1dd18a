"""Which int8 operators are chosen: exact ones only, and the fastest of them by the number of rows."""

import math
from types import SimpleNamespace

import pytest

from touchstone.nn import int8_choice
from touchstone.nn.int8_choice import choose_int8_product, is_exact
from touchstone.nn.int8_products import INT8_PRODUCTS


def saturating(codes, by):  # as 16-bit sums do
    return (codes.float() @ by.columns.float()).clamp(-32768, 32767) * by.scale


def absent(codes, by):  # what torch raises where an operator has no kernel
    raise NotImplementedError


def measured(monkeypatch, exact, **milliseconds):
    """The choice where so many operators are exact and take so long with one row, 16 and 256."""
    seconds = {n: {name: took[place] / 1e3 for name, took in milliseconds.items()} for place, n in enumerate((1, 16, 256))}
    monkeypatch.setattr(int8_choice, "is_exact", lambda product: product in [INT8_PRODUCTS[name] for name in exact])
    monkeypatch.setattr(int8_choice, "_measured", lambda names: seconds)
    return choose_int8_product().operators


@pytest.mark.slow
def test_the_choice_is_measured_and_exact():
    choice = choose_int8_product()
    assert all(is_exact(INT8_PRODUCTS[name]) for name in choice.operators)
    assert choice.reason.startswith(
        f"int8 by {choice.one_row} for one row, {choice.more_rows} for more, {choice.many_rows} from 128 on: milliseconds by rows 1: "
    )


def test_what_is_exact_whatever_the_processor():
    assert all(is_exact(INT8_PRODUCTS[name]) for name in ("int_mm", "floats", "reference"))
    assert not is_exact(saturating)
    assert not is_exact(absent)


@pytest.mark.slow
def test_without_an_exact_operator_products_are_in_float64(monkeypatch):
    for name in ("fbgemm", "qlinear", "halves"):
        monkeypatch.setitem(INT8_PRODUCTS, name, absent)
    assert set(choose_int8_product().operators) <= {"int_mm", "floats"}
    for name in ("int_mm", "floats"):
        monkeypatch.setitem(INT8_PRODUCTS, name, saturating)
    choice = choose_int8_product()
    assert choice.operators == ("reference",) * 3
    assert "float64" in choice.reason


def test_the_fastest_is_taken_for_each_number_of_rows_and_one_at_most_keeps_a_copy(monkeypatch):
    plain = {"int_mm": (24, 245, math.inf), "floats": (10, 25, 130)}
    assert measured(monkeypatch, plain, **plain) == ("floats", "floats", "floats")
    all_of_them = plain | {"halves": (5, 11, 170), "qlinear": (8, 14, 100)}
    assert measured(monkeypatch, plain, **all_of_them) == ("floats", "floats", "floats")
    assert measured(monkeypatch, all_of_them, **all_of_them) == ("halves", "halves", "floats")
    slight = plain | {"fbgemm": (9.5, 20, 125)}  # less than a tenth faster at 1 and 256
    assert measured(monkeypatch, slight, **slight) == ("floats", "fbgemm", "floats")


def test_an_operator_with_a_copy_may_be_the_only_one(monkeypatch):
    assert measured(monkeypatch, ["fbgemm"], fbgemm=(3, 6, 80)) == ("fbgemm", "fbgemm", "fbgemm")


@pytest.fixture
def played(monkeypatch):
    """Make an operator take so many seconds by a clock of the test: its first call with a layer, and any other; returns its calls' rows."""
    now, rows = [0.0], []
    monkeypatch.setattr(int8_choice, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(int8_choice, "_REPEATED", 1)

    def play(name, seconds, first=None):
        seen = []

        def product(codes, by):
            rows.append((name, len(codes)))
            is_new = all(by is not other for other in seen)
            seen.append(by)
            now[0] += first if is_new and first is not None else seconds
            return codes

        monkeypatch.setitem(INT8_PRODUCTS, name, product)

    return play, rows


def test_an_operator_far_behind_is_not_measured_with_more_rows(played):
    play, rows = played
    play("floats", 0.001)
    play("halves", 0.005)
    found = int8_choice._measured(["floats", "halves"])
    assert {n for name, n in rows if name == "halves"} == {1}
    assert {n for name, n in rows if name == "floats"} == {1, 16, 256}
    assert found[1] == pytest.approx({"floats": 0.003, "halves": 0.015})  # three shapes
    assert found[16]["halves"] == found[256]["halves"] == math.inf


def test_the_first_call_which_lays_weights_out_is_not_what_is_measured(played):
    play, _ = played
    play("halves", 0.001, first=1.0)
    assert [took["halves"] for took in int8_choice._measured(["halves"]).values()] == pytest.approx([0.003] * 3)
