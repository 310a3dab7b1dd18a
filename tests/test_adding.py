"""docs/adding.md adds a family: here its file and its rows are taken from the page and go through every check of the parity test."""

import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NAME = "stablelm"


def block(language):
    """The code of the page's first block of this language."""
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    return re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]


def parity():
    """The parity test of the decoders as a module."""
    sys.path.insert(0, str(ROOT / "tests" / "parity"))
    try:
        return importlib.import_module("test_decoder_families")
    finally:
        sys.path.pop(0)


def rows():
    names = {"Case": CHECKS.Case}
    exec(block("py"), names)
    return names["ROWS"]


def runs(case):
    """Every check that takes a model of this kind, with every set of its other arguments."""
    for name, check in vars(CHECKS).items():
        takes = inspect.signature(check).parameters if name.startswith("test_") else {}
        if "pair" in takes or ("decoder" in takes and case.head == "lm"):
            marks = [mark.args for mark in getattr(check, "pytestmark", []) if mark.name == "parametrize"]
            for values in itertools.product(*(told for _, told in marks)):
                given = dict(zip((argument for argument, _ in marks), values, strict=True))
                yield pytest.param(case, check, given, id=" ".join(map(str, [case, name.removeprefix("test_"), *values])))


CHECKS = parity()
RUNS = [run for case in rows() for run in runs(case)]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """The page's file, where the package looks for its families."""
    from touchstone.models import families

    folder, module = tmp_path_factory.mktemp("families"), f"{families.__name__}.{NAME}"
    (folder / f"{NAME}.py").write_text(block("python"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "__path__", [*families.__path__, str(folder)])
        yield importlib.import_module(module).FAMILY
    del sys.modules[module]
    delattr(families, NAME)


@pytest.fixture(scope="module")
def pair_of(family, tmp_path_factory):
    """Both sides of a row, made once."""
    made = {}

    def pair(case):
        if case.name not in made:
            made[case.name] = CHECKS.make_pair(case, tmp_path_factory.mktemp("hf") / "model")
        return made[case.name]

    return pair


@pytest.mark.parametrize(("case", "check", "given"), RUNS)
def test_a_row_of_the_page_passes_a_check_of_the_parity_test(case, check, given, pair_of, tmp_path):
    token_ids = torch.randint(3, CHECKS.VOCAB, (3, CHECKS.LENGTH), generator=torch.Generator().manual_seed(3))
    at_hand = {"pair": pair_of(case), "decoder": pair_of(case), "token_ids": token_ids, "tmp_path": tmp_path, **given}
    check(**{name: at_hand[name] for name in inspect.signature(check).parameters})


def test_the_checks_are_all_there():
    names = {run.values[1].__name__ for run in RUNS}
    assert len(names) >= 12
    assert "test_training_without_dropout_has_the_same_gradients" in names


def test_a_model_of_the_new_family_is_chosen_for_what_only_it_can_say(family, pair_of):
    from touchstone.models.families import choose_family

    spec = pair_of(rows()[0]).loaded.spec
    assert spec.stack.blocks[0].attn.position.d_rotary == 2  # a quarter of 8
    assert choose_family(spec).family is family


@pytest.mark.parametrize("switch", ["use_parallel_residual", "qk_layernorm", "hidden_dropout"])
def test_what_the_page_refuses_is_refused_by_name(family, switch):
    from touchstone.errors import Unsupported

    sizes = {"vocab_size": 11, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = {"model_type": NAME, **sizes, "max_position_embeddings": 64}
    assert family.read(config).d_model == 24
    with pytest.raises(Unsupported, match=switch):
        family.read({**config, switch: 0.1 if switch == "hidden_dropout" else True})
