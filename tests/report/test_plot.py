"""Plots: deterministic, free of styles and foreign colours, true to their data, readable on light and dark."""

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from touchstone.report import plot
from touchstone.report.plot import Reliability
from touchstone.report.words import words
from touchstone.stats import Interval

SVG = "{http://www.w3.org/2000/svg}"


def interval(value, half=0.05):
    return Interval(value, value - half, value + half, 0.95, 32, "m")


def a_loss_curve(lang="en"):
    losses = [5 / step for step in range(1, 90)]
    losses[40] = math.nan
    return plot.loss_curve(range(1, 90), losses, words(lang), valid_steps=[30, 60], valid_losses=[0.4, 0.3])


def some_bars(lang="en"):
    return plot.bars(
        ["Decoder & <b>", "5-gram", "xz"], [interval(1.4), interval(1.5), Interval(1.9, math.nan, math.nan, 0.95, 1, "m")], words(lang)
    )


def a_reliability(lang="en"):
    curve = Reliability([0.1, 0.5, 0.9], [0.2, 0.5, 0.8], [30, 0, 70])
    return plot.reliability({"as trained": curve, "temperature 1.1": curve}, words(lang))


def a_risk_coverage(lang="en"):
    return plot.risk_coverage({"decoder": ([0.2, 0.6, 1.0], [0.0, 0.1, 0.3])}, words(lang), max_risk=0.05)


PLOTS = [a_loss_curve, some_bars, a_reliability, a_risk_coverage]


@pytest.mark.slow
@pytest.mark.parametrize("make", PLOTS)
def test_the_same_data_give_the_same_bytes(make):
    assert make() == make()


@pytest.mark.slow
@pytest.mark.parametrize("make", PLOTS)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_plot_takes_the_text_colour_of_its_page_and_brings_no_style(make, lang):
    svg = make(lang)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("viewBox")
    assert "width" not in root.attrib
    assert not re.search(r"<(style|metadata|script|image)|style=|font-family|<!|<\?", svg)
    colours = {value for element in root.iter() for name in ("fill", "stroke") if (value := element.get(name))}
    assert colours <= {"none", "currentColor", *plot.SERIES}


@pytest.mark.slow
@pytest.mark.parametrize("make", PLOTS)
def test_every_reference_in_a_plot_is_to_a_name_of_its_own(make):
    svg = make()
    names = re.findall(r' id="([^"]+)"', svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used == set(names)
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_two_plots_in_one_page_share_no_name():
    first, second = (set(re.findall(r' id="([^"]+)"', make())) for make in (a_loss_curve, a_reliability))
    assert first
    assert not first & second


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.slow
def test_bars_show_their_labels_and_figures_as_text():
    shown = texts(some_bars())
    assert {"Decoder & <b>", "5-gram", "xz", "1.400", "1.500", "1.900"} <= set(shown)
    assert "lower is better; lines show 95 % intervals" in shown
    assert "越低越好；横线为 95% 区间" in texts(some_bars("zh"))


def test_the_lengths_of_bars_are_in_the_ratio_of_their_values():
    root = ElementTree.fromstring(plot.bars(["a", "b"], [interval(1.0), interval(3.0)], words("en"), highlight=["b"]))
    widths = {}
    for element in root.iter(f"{SVG}path"):
        if element.get("fill") in (plot.SERIES[0], plot.SERIES[4]) and element.get("opacity"):
            x = [float(pair.split()[0]) for pair in re.findall(r"[-\d.]+ [-\d.]+", element.get("d"))]
            widths[element.get("fill")] = max(x) - min(x)
    assert widths[plot.SERIES[0]] == pytest.approx(3 * widths[plot.SERIES[4]], rel=1e-4)


def test_a_curve_keeps_its_spikes_when_it_is_thinned():
    y = np.random.default_rng(0).normal(size=50_000)
    y[31_415], y[100] = 99.0, math.nan
    x, kept = plot._thinned(np.arange(50_000), y)
    assert len(x) <= 1600
    assert kept.max() == 99.0
    assert (np.diff(x) > 0).all()
    assert np.array_equal(kept, y[x])


def test_the_running_mean_is_that_of_the_finite_values_around():
    y = np.arange(300.0)
    y[150] = math.inf
    found = plot._running_mean(y)  # three to each side
    assert found[100] == 100
    assert found[151] == pytest.approx(np.mean([148, 149, 151, 152, 153, 154]))
    assert found[0] == np.mean([0, 1, 2, 3])
    assert math.isnan(plot._running_mean(np.array([math.nan]))[0])


@pytest.mark.slow
def test_validation_far_above_the_training_is_seen():
    """Overfitting: many training losses near zero, a few validation losses far above them."""
    losses = [2 / step for step in range(1, 3001)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = plot.loss_curve(
            range(1, 3001), losses, words("en"), valid_steps=range(500, 3001, 500), valid_losses=[1.0, 1.1, 1.2, 1.3, math.inf, 1.4]
        )
    root = ElementTree.fromstring(svg)
    height = float(root.attrib["viewBox"].split()[3])
    inside = [float(mark.attrib["y"]) for mark in root.iter(f"{SVG}use") if "y" in mark.attrib and "x" in mark.attrib]
    assert len(inside) >= 5
    assert all(0 < y < height for y in inside)


@pytest.mark.slow
def test_nothing_to_show_is_an_empty_plot_and_no_error():
    assert "<svg" in plot.loss_curve([], [], words("en"))
    assert "<svg" in plot.loss_curve([1, 2], [math.nan, math.nan], words("en"))
    assert "<svg" in plot.reliability({"empty": Reliability([0.5], [0.0], [0])}, words("en"))


@pytest.mark.slow
def test_a_plot_can_be_a_picture():
    data = some_bars().png_bytes(dots_per_inch=50)
    assert data.startswith(b"\x89PNG")
    assert data == some_bars().png_bytes(dots_per_inch=50)


def luminance(colour):
    """WCAG 2.1, relative luminance of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", plot.SERIES)
@pytest.mark.parametrize("ground", ["#fdfdfb", "#141619"])
def test_every_series_stands_out_on_light_and_on_dark(colour, ground):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast(colour, ground) >= 3
