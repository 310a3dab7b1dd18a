"""Plots as SVG text that takes the colour of the page it stands in, so that it is readable in light and in dark.

Text and axes are `currentColor`, the ground is transparent, series have colours with enough contrast on both. No `style` attribute and
no random name is left in the text: the same data give the same bytes, and a page may forbid all styles but its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from touchstone.report.words import Words
from touchstone.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES", "Plot", "Reliability", "bars", "loss_curve", "reliability", "risk_coverage"]

SERIES = ("#2f81d6", "#d2691e", "#2c9a63", "#a86bd1", "#8a8f98")
"""Blue, orange, green, violet, grey: 3 to 1 or more on white and on near-black (WCAG 1.4.11); blue and orange for the colour-blind."""

_INK = "#0a0b0c"  # stands for the text colour while matplotlib draws; `currentColor` in the SVG
_CJK = ("PingFang SC", "Noto Sans CJK SC", "Noto Sans SC", "Microsoft YaHei", "WenQuanYi Zen Hei")


class Plot(str):
    """A plot as the text of an SVG element; `png_bytes` draws the same on white."""

    _figure: Figure

    def png_bytes(self, dots_per_inch: int = 160) -> bytes:
        """The plot as a PNG picture, dark on white, for places that show no SVG."""
        buffer = io.BytesIO()
        with _style():
            self._figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()


@dataclass(frozen=True)
class Reliability:
    """One curve of a reliability diagram: by bin, the mean confidence, the share that was correct, and how many fell in it."""

    confidence: Sequence[float]
    accuracy: Sequence[float]
    count: Sequence[int]


def loss_curve(
    steps: Sequence[int],
    losses: Sequence[float],
    words: Words,
    *,
    valid_steps: Sequence[int] = (),
    valid_losses: Sequence[float] = (),
    y_label: str | None = None,
) -> Plot:
    """Raw training losses, their running mean, and validation points; losses that are not finite leave gaps."""

    def draw(axes: Axes) -> None:
        x, y = np.asarray(steps), np.asarray(losses, dtype=np.float64)
        axes.plot(*_thinned(x, np.where(np.isfinite(y), y, np.nan)), color=SERIES[0], linewidth=0.6, alpha=0.35)
        axes.plot(x, _running_mean(y), color=SERIES[0], linewidth=1.8, label=words("plot.training"))
        if len(valid_steps):
            axes.plot(
                valid_steps,
                valid_losses,
                color=SERIES[1],
                marker="o",
                markersize=4,
                linewidth=1.4,
                clip_on=False,
                label=words("plot.validation"),
            )
            axes.legend(frameon=False, fontsize=10)
        shown, points = (each[np.isfinite(each)] for each in (y[len(y) // 50 :], np.asarray(valid_losses, dtype=np.float64)))
        if len(shown) or len(points):  # the first steps of a training are several times higher and would flatten the rest
            ends = np.concatenate([np.quantile(shown, [0, 0.995]) if len(shown) else shown, points])
            low, high = ends.min(), ends.max()
            axes.set_ylim(low - 0.06 * (high - low + 0.01), high + 0.06 * (high - low + 0.01))
        axes.set_xlim(left=0, right=max(x.max(initial=1), max(valid_steps, default=1)))
        axes.set_xlabel(words("plot.step"))
        axes.set_ylabel(y_label or words("plot.loss"))
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
        axes.set_axisbelow(True)

    return _plot(draw, height=2.9)


def bars(
    labels: Sequence[str], intervals: Sequence[Interval], words: Words, *, highlight: Sequence[str] = (), note: str | None = None
) -> Plot:
    """One bar a row with its error bar and its figure, each label above its bar so that a narrow screen can hold it.

    highlight: labels drawn in the first colour, the rest in grey. note: stands below; None says that lower is better.
    """

    def draw(axes: Axes) -> None:
        ends = [i.high if np.isfinite(i.high) else i.value for i in intervals]
        widest = max([*ends, *(i.value for i in intervals)])
        for row, (label, found) in enumerate(zip(labels, intervals, strict=True)):
            color = SERIES[0] if label in highlight else SERIES[4]
            axes.barh(row, found.value, height=0.36, color=color, alpha=0.85)
            if np.isfinite(found.low):
                axes.plot([found.low, found.high], [row, row], color=_INK, linewidth=1.6, solid_capstyle="butt")
                axes.plot([found.low, found.high], [row, row], color=_INK, linewidth=0, marker="|", markersize=7)
            axes.text(0, row - 0.27, label, ha="left", va="bottom", fontsize=10)
            axes.text(ends[row] + 0.02 * widest, row, str(found).split(" [")[0], ha="left", va="center", fontsize=10)
        axes.set_xlim(0, 1.16 * widest)
        axes.set_ylim(len(labels) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        level = 100 * intervals[0].level if intervals else 95
        axes.set_xlabel(words("plot.lower_better", level=f"{level:g}") if note is None else note)

    return _plot(draw, height=0.75 + 0.52 * len(labels))


def reliability(curves: Mapping[str, Reliability], words: Words) -> Plot:
    """Share correct against mean confidence, a curve a name, over the share of predictions of the first; empty bins are left out."""

    def draw(upper: Axes, lower: Axes) -> None:
        upper.plot([0, 1], [0, 1], color=_INK, alpha=0.5, linewidth=1, linestyle=(0, (4, 3)), label=words("plot.perfect"))
        for (name, curve), color, marker in zip(curves.items(), SERIES, "os^Dv", strict=False):
            x, y, count = np.asarray(curve.confidence, float), np.asarray(curve.accuracy, float), np.asarray(curve.count, float)
            filled = count > 0
            upper.plot(x[filled], y[filled], color=color, marker=marker, markersize=5, linewidth=1.6, label=name)
        first = next(iter(curves.values()), None)
        if first is not None and np.sum(first.count) > 0:
            count = np.asarray(first.count, float)
            filled = count > 0
            lower.bar(
                np.asarray(first.confidence, float)[filled],
                (count / count.sum())[filled],
                width=0.6 / len(count),
                color=SERIES[0],
                alpha=0.85,
            )
        for axes in (upper, lower):
            axes.set_xlim(-0.02, 1.02)
        upper.set_ylim(-0.02, 1.02)
        upper.set_ylabel(words("plot.accuracy"))
        upper.tick_params(labelbottom=False)
        upper.legend(frameon=False, fontsize=10, loc="upper left")
        lower.set_xlabel(words("plot.confidence"))
        lower.set_title(words("plot.share"), loc="left", fontsize=10)

    return _plot(draw, height=4.6, rows=(4.2, 1))


def risk_coverage(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], words: Words, *, max_risk: float | None = None) -> Plot:
    """The share wrong of what is answered against the share answered, (coverage, risk) a name; a dashed line at `max_risk`."""

    def draw(axes: Axes) -> None:
        highest = max([0.01, max_risk or 0.0, *(max(risk) for _, risk in curves.values())])
        for (name, (coverage, risk)), color in zip(curves.items(), SERIES, strict=False):
            axes.plot(coverage, risk, color=color, linewidth=1.8, label=name, drawstyle="steps-post")
        if max_risk is not None:
            label = words("plot.promised", percent=f"{100 * max_risk:g}")
            axes.axhline(max_risk, color=_INK, alpha=0.5, linewidth=1, linestyle=(0, (4, 3)), label=label)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.12 * highest)
        axes.set_xlabel(words("plot.coverage"))
        axes.set_ylabel(words("plot.risk"))
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=10)

    return _plot(draw, height=3.1)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the finite values in a window of a fiftieth of the whole, centred; NaN where there are none."""
    half = max(1, len(values) // 100)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    begin, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    found = counts[end] - counts[begin]
    return np.where(found > 0, (sums[end] - sums[begin]) / np.maximum(found, 1), np.nan)


def _thinned(x: NDArray[Any], y: NDArray[np.float64], most: int = 1600) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Few enough points for a screen: of each stretch the least and the greatest, so that no spike is lost."""
    if len(x) <= most:
        return x, y
    parts = [part for part in np.array_split(np.arange(len(x)), most // 2) if np.isfinite(y[part]).any()]
    kept = np.sort(np.concatenate([part[[np.nanargmin(y[part]), np.nanargmax(y[part])]] for part in parts]))
    return x[kept], y[kept]


def _plot(draw: Callable[..., None], *, height: float, rows: tuple[float, ...] = (1,)) -> Plot:
    """Let `draw` fill the axes of a new figure, one for each of `rows`, and write it as SVG."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.8, height), layout="constrained")
        axes = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
        draw(*axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plot = Plot(_bare(buffer.getvalue()))
    plot._figure = figure
    return plot


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib
    from matplotlib import font_manager

    here = set(font_manager.get_font_names())
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "touchstone",
        "font.family": ["DejaVu Sans", *(name for name in _CJK if name in here)],
        "font.size": 10,
        "axes.linewidth": 0.8,
        **dict.fromkeys(inks, _INK),
    }
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells on stderr which weight of a font it took
    try:
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's browser has the glyph
            yield
    finally:
        log.setLevel(level)


def _bare(svg: bytes) -> str:
    """Matplotlib's SVG without prologue, styles, fonts, sizes and names that are not referred to."""
    space = {"svg": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}
    ElementTree.register_namespace("", space["svg"])
    ElementTree.register_namespace("xlink", space["xlink"])
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{space['svg']}}}metadata", f"{{{space['svg']}}}style"):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "stroke-linejoin": "round", "fill": "currentColor"}
    for element in root.iter():
        for name, value in _declarations(element.attrib.pop("style", "")):
            element.set(name, value)
        for name, value in list(element.attrib.items()):
            if value == _INK:
                element.set(name, "currentColor")
    text = ElementTree.tostring(root, encoding="unicode")
    return _rename(text, hashlib.sha256(text.encode()).hexdigest()[:8])


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """The parts of a style as attributes; fonts are the page's, their size stays."""
    for part in filter(None, (piece.strip() for piece in style.split(";"))):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            yield "font-size", re.findall(r"[\d.]+px", value)[0]
        elif name != "font-family":
            yield name, value


def _rename(text: str, prefix: str) -> str:
    """Names that are referred to get a prefix of their own, so that two plots may stand in one page; others go."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found.group(1)}"' if found.group(1) in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
