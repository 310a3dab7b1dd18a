"""A tiny model folder, a tiny text, and a terminal whose output can be read."""

import io
import random

import pytest
from rich.console import Console

from touchstone.bench.machine import MachineSpeed
from touchstone.flows.quickstart import QuickstartRequest, run_quickstart
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import save_model
from touchstone.nn.products import ProductChoice
from touchstone.report.terminal import Terminal
from touchstone.text.tokenizer import Tokenizer

LINES = [f"def add_{name}(left, right):\n    return left + {name} * right\n" for name in ("one", "two", "three", "four")]


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(LINES * 5, kind="bpe", vocab_size=280, pattern="code")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """A decoder of 32 tokens context with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=32)
    save_model(folder, build(spec, seed=3), tokenizer=tokenizer)
    return folder


@pytest.fixture
def shown():
    """(terminal, text): a terminal, and what it has shown so far."""
    return _speaking("en")


@pytest.fixture
def shown_in_chinese():
    """The same in Chinese."""
    return _speaking("zh")


def _speaking(lang):
    buffer = io.StringIO()
    console = Console(file=buffer, width=200, highlight=False, markup=False, emoji=False)
    return Terminal(lang, out=console, err=console), buffer.getvalue


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder of forty small files of simple sentences."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(5)
    words = {
        "who": ["The cat", "A dog", "My friend", "Every child", "The old man"],
        "does": ["sees", "likes", "finds", "paints", "hears"],
        "what": ["the river", "a house", "the garden", "some bread", "a letter"],
    }
    for number in range(40):
        lines = [" ".join(rng.choice(choices) for choices in words.values()) + f" number {rng.randint(1, 999)}." for _ in range(30)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Prepared text goes to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOUCHSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _measure_nothing(patch):
    speed = MachineSpeed(1e9, 1e9, "float32", "cpu", 1)
    patch.setattr("touchstone.flows.choices.choose_product", lambda: ProductChoice("torch", 1.0, "by hand"))
    patch.setattr("touchstone.flows.choices.measure_pace", lambda *_, **__: 0.01)
    patch.setattr("touchstone.flows.choices.measure_matmul", lambda *_, **__: 1e9)
    patch.setattr("touchstone.flows.journey.measure_matmul", lambda *_, **__: 1e9)
    patch.setattr("touchstone.flows.quickstart.measure_machine", lambda *_, **__: speed)


@pytest.fixture
def quick_choices(monkeypatch):
    """Nothing is measured: the product is torch's and a step takes a hundredth of a second."""
    _measure_nothing(monkeypatch)


@pytest.fixture(scope="module")
def finished_quickstart(texts, tmp_path_factory):
    """(request, document, what was shown) of a whole quickstart on the tiny text."""
    tiny = ("tokenizer.vocab_size=300", "model.d_model=16", "context=24")
    asked = QuickstartRequest(
        tmp_path_factory.mktemp("finished") / "q",
        minutes=0.02,
        data=(texts,),
        changes=(*tiny, "model.n_layers=2", "model.n_heads=2"),
        lstm_changes=(*tiny, "model.d_hidden=16"),
        prompts=("The cat", "A dog"),
    )
    terminal, text = _speaking("en")
    with pytest.MonkeyPatch.context() as patch:
        _measure_nothing(patch)
        document = run_quickstart(asked, terminal)
    return asked, document, text()
