"""Rates are operations or bytes over the fastest time seen."""

import pytest
import torch

from touchstone.bench.machine import MachineSpeed, matmul_flops, measure_machine, measure_matmul, measure_reading


def readings(*seconds):
    """A clock that shows these times, one a reading."""
    return iter(seconds).__next__


def test_a_product_counts_a_multiply_and_an_add():
    assert matmul_flops(3, 5, 7) == 210


def test_the_matmul_rate_is_that_of_the_fastest_run():
    clock = readings(0.0, *(1.0, 1.5), *(2.0, 2.25), *(3.0, 4.0))  # start, then begin and end of each run
    assert measure_matmul(dtype=torch.float64, shapes=[(8, 8, 8)], seconds=4.0, clock=clock) == pytest.approx(2 * 8**3 / 0.25)


def test_the_peak_is_that_of_the_fastest_shape_and_shapes_take_turns():
    clock = readings(0.0, *(1.0, 2.0), *(2.0, 2.5), *(3.0, 3.25), *(4.0, 4.5))
    shapes = [(8, 8, 8), (3, 5, 7)]
    assert measure_matmul(dtype=torch.float64, shapes=shapes, seconds=4.0, clock=clock) == pytest.approx(2 * 8**3 / 0.25)


def test_the_peak_is_that_of_the_faster_product(monkeypatch):
    monkeypatch.setattr("touchstone.bench.machine.onednn_works", lambda: True)
    clock = readings(0.0, *(1.0, 1.5), *(2.0, 2.125))
    assert measure_matmul(shapes=[(8, 8, 8)], seconds=2.0, clock=clock) == pytest.approx(2 * 8**3 / 0.125)


def test_the_reading_rate_counts_every_byte():
    assert measure_reading(n_bytes=4 * 6 * 6, seconds=0.5, clock=readings(0.0, 1.0, 1.5)) == pytest.approx(4 * 36 / 0.5)


def test_the_fraction_of_the_peak_is_operations_over_time_over_peak():
    speed = MachineSpeed(matmul_flops_per_s=200.0, read_bytes_per_s=1.0, dtype="float32", device="cpu", n_threads=2)
    assert speed.fraction(flops=300.0, seconds=3.0) == pytest.approx(0.5)


def test_of_two_measured_peaks_the_higher_counts():
    speed = MachineSpeed(matmul_flops_per_s=200.0, read_bytes_per_s=1.0, dtype="float32", device="cpu", n_threads=2)
    assert speed.or_faster(150.0) == speed
    assert speed.or_faster(400.0).fraction(flops=300.0, seconds=3.0) == pytest.approx(0.25)


@pytest.mark.slow
def test_a_measurement_says_what_it_holds_for():
    speed = measure_machine(dtype=torch.float64, seconds=0.0)
    assert (speed.dtype, speed.device, speed.n_threads) == ("float64", "cpu", torch.get_num_threads())
    assert 0 < speed.matmul_flops_per_s < float("inf")
    assert 0 < speed.read_bytes_per_s < float("inf")
