"""Twelve small text classifiers for test_classifiers.py: four data sets, three recipes, trained by `touchstone train` as a user would.

The dev file of a data set is never trained on nor chosen by: a tenth of the train file is, by a fixed seed. Trained folders are kept in
the folder that TOUCHSTONE_PROVE_CLASSIFIERS names, so that the measuring can be repeated without the training.
"""

import csv
import gzip
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np

from touchstone.infer.loading import load

KINDS = ("bow", "lstm", "transformer")
SEED = 11
VALID_SHARE = 0.1


@dataclass(frozen=True)
class DataSet:
    """Rows of one data set. settings: changes to the recipes, with which texts are read whole or nearly so."""

    name: str
    title: str
    settings: tuple[str, ...]


DATA_SETS = (
    DataSet("sst2", "SST-2", ("context=64",)),
    DataSet("trec", "TREC (6 classes)", ("context=48",)),
    DataSet("ag_news", "AG News", ("context=80",)),
    DataSet("zh_chnsenticorp", "ChnSentiCorp", ("context=128",)),
)


@dataclass(frozen=True)
class Answers:
    """What one classifier says of the dev file. scores: logits (N, K); labels: (N,); n_cut: texts longer than what is read."""

    scores: np.ndarray
    labels: np.ndarray
    n_cut: int
    majority: float  # accuracy on the dev file of the commonest class of the train file
    trained: dict


def rows_of(folder, name, side):
    """(text, label) of a side; labels are names."""
    place = folder / "classification" / name
    if name == "sst2":
        lines = (place / f"{side}.tsv").read_text(encoding="utf-8").splitlines()
        return [(text, {"0": "negative", "1": "positive"}[label]) for text, _, label in (line.rpartition("\t") for line in lines)]
    if name == "trec":
        lines = (place / f"{side}.txt").read_text(encoding="utf-8").splitlines()
        return [(text, label.partition(":")[0]) for label, _, text in (line.partition(" ") for line in lines)]
    if name == "ag_news":
        classes = (place / "classes.txt").read_text(encoding="utf-8").split("\n")
        with gzip.open(place / f"{side}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            return [(f"{title} {text}", classes[int(number) - 1]) for number, title, text in csv.reader(file)]
    with gzip.open(place / f"{side}.tsv.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]
    return [(text, {"0": "差评", "1": "好评"}[label]) for label, _, text in (line.partition("\t") for line in lines if line.strip())]


def trained(folder, data_set, kind, keep):
    """The run folder of a classifier, trained now unless it is kept, and what its training came to."""
    out = keep / f"{data_set.name}-{kind}"
    note = out / "proof.json"
    if note.exists():
        return out, json.loads(note.read_text(encoding="utf-8"))
    rows = rows_of(folder, data_set.name, "train")
    order = np.random.default_rng(SEED).permutation(len(rows))
    n_valid = int(len(rows) * VALID_SHARE)
    files = {}
    for side, numbers in (("valid", order[:n_valid]), ("train", order[n_valid:])):
        files[side] = keep / f"{data_set.name}-{side}.jsonl"
        texts = [json.dumps({"text": rows[n][0], "label": rows[n][1]}, ensure_ascii=False) for n in numbers]
        if not files[side].exists():
            files[side].write_text("\n".join(texts) + "\n", encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "touchstone.cli.main", "train", f"classify-{kind}", "--data", str(files["train"])]
    command += ["--valid", str(files["valid"]), "--out", str(out), "--device", "cpu", "data.test_fraction=0", *data_set.settings]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"cpu_seconds": seconds, "n_train": len(rows) - n_valid, "n_valid": n_valid}
    note.write_text(json.dumps(found), encoding="utf-8")
    return out, found


def answers_of(folder, data_set, kind, keep):
    """The answers of a classifier, trained or kept, to the dev file."""
    out, note = trained(folder, data_set, kind, keep)
    model = load(out / "model")
    names = tuple(model.labels)
    rows = rows_of(folder, data_set.name, "dev")
    told = model.classify([text for text, _ in rows], truncate=True)
    learned = Counter(label for _, label in rows_of(folder, data_set.name, "train"))
    commonest = learned.most_common(1)[0][0]
    return Answers(
        scores=np.array([each.logits for each in told]),
        labels=np.array([names.index(label) for _, label in rows]),
        n_cut=sum(each.n_cut > 0 for each in told),
        majority=float(np.mean([label == commonest for _, label in rows])),
        trained=note,
    )
