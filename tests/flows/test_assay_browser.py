"""The report of an assay in a real browser: on a phone nothing is cut off or spills over, and its policy blocks nothing of its own."""

import pytest

from touchstone.flows.assay_report import write_page
from touchstone.flows.assay_verdict import judge
from touchstone.report.words import words

pytestmark = [pytest.mark.browser, pytest.mark.slow]

GROUND = {"light": (0xFD, 0xFD, 0xFB), "dark": (0x14, 0x16, 0x19)}


def interval(value, half=0.1, n=40):
    return {"value": value, "low": value - half, "high": value + half, "level": 0.95, "n": n, "method": "by hand"}


def a_confidence():
    error = {"value": 0.2, "n": 200, "interval": interval(0.2), "noise_floor": interval(0.05, 0.02)}
    curve = {"confidence": [0.3, 0.6, 0.9], "accuracy": [0.2, 0.5, 0.7], "count": [50, 80, 70]}
    promise = {"max_risk": 0.05, "delta": 0.1, "threshold": 0.93, "n_fitted": 200, "coverage_fitted": 0.3, "n_measured": 200}
    promise |= {"n_answered": 50, "n_wrong": 2, "coverage": 0.25, "risk": interval(0.04, 0.03), "outcome": "held"}
    ranks = {"aurc": {"value": 0.3, "n": 400, "interval": interval(0.3)}, "auroc": {"value": 0.7, "n": 400, "interval": interval(0.7)}}
    points = {"coverage": [0.1, 0.5, 1.0], "risk": [0.0, 0.2, 0.4]}
    fitted = {"n": 400, "method": "platt", "n_fitted": 200, "ece_before": error, "ece_after": error}
    return {**fitted, "curves": {"before": curve, "after": curve}, **ranks, "risk_coverage": points, "promise": promise}


def a_document():
    """Made up, with names as long as they come."""
    long = "a_very_long_name_without_any_place_to_break_it_but_it_must_not_spill.jsonl.gz"
    models = {name: {"bits_per_byte": interval(value)} for name, value in (("model", 1.5), ("xz", 2.0))}
    difference = {"a": "model", "b": "xz", **interval(-0.5), "verdict": "better"}
    domain = {"name": long, "unit": "file", "n_left_out": 3, "best": "xz", "difference": difference, "n_documents": 40}
    domain |= {"n_bytes": 200_000, "models": models, "differences": [difference]}
    calibration = {name: a_confidence()[name] for name in ("n_fitted", "ece_before", "ece_after", "curves")}
    language = {"domains": [domain], "window": 512, "stride": 256, "calibration": {"temperature": 1.2, **calibration}}
    rows = [{"label": label, "n": 100, "n_given": 90, "recall": interval(0.7), "precision": interval(0.8)} for label in (long, "no")]
    classes = {"n": 200, "n_copies": 4, "n_left_out": 0, "n_cut": 2, "accuracy": interval(0.75), "majority": {"label": long, "share": 0.5}}
    classes |= {"classes": rows, "confidence": a_confidence()}
    parts = dict.fromkeys(("identity", "answers", "prompts", "speed", "contamination"))
    parts |= {"language": {**language, "missing_compressors": {"zstd": ""}}, "classes": classes}
    not_read = {"n_empty": 3, "files": {"suffix `.png` is not known": 2}}
    return {"model": f"runs/{long}", "parts": parts, "left_out": {"speed": "no_reading"}, "failed": {}, "not_read": not_read}


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("ground", "options"), [("light", []), ("dark", ["--force-dark-mode"])])
def test_a_phone_sees_no_part_cut_off_or_spilled_over(look, tmp_path, lang, ground, options):
    document = a_document()
    write_page(tmp_path / "assay.html", document, judge(document["parts"]), words(lang))
    frame = f"<body style='margin:0'><iframe src='{(tmp_path / 'assay.html').as_uri()}' width=390 height=6000 style='border:0'></iframe>"
    (tmp_path / "phone.html").write_text(frame)
    picture, said = look((tmp_path / "phone.html").as_uri(), 520, 6000, *options)
    assert said == ""
    margin = picture.crop((375, 0, 390, 6000))
    assert {colour for _, colour in margin.getcolors(1 << 16)} == {GROUND[ground]}
    assert len(picture.crop((20, 0, 370, 6000)).getcolors(1 << 20)) > 20
