"""The published stories260K as a folder, and lm-evaluation-harness kept from the network."""

from pathlib import Path
from typing import Any

import pytest

import touchstone
from touchstone.infer import LanguageModel
from touchstone.models import build
from touchstone.models.llama2c import read_llama2c, read_llama2c_tokenizer


@pytest.fixture(scope="session")
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("OPENAI_API_KEY", "none")
        yield


@pytest.fixture(scope="session")
def harness(offline) -> Any:
    return pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: `make conformance`")


@pytest.fixture(scope="session")
def folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = test_data / "weights" / "stories260K"
    stored = read_llama2c(weights / "stories260K.bin")
    net = build(stored.spec, seed=None)
    net.load_state_dict(stored.state, assign=True)
    place = tmp_path_factory.mktemp("models") / "stories"
    touchstone.save(LanguageModel(net, tokenizer=read_llama2c_tokenizer(weights / "tok512.bin", 512)), place)
    return place


@pytest.fixture(scope="session")
def choice_task():
    """The YAML of a multiple-choice task over a local file of queries: `choice_task(name, file)`."""

    def made(name: str, file: Path) -> str:
        return f"""
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {file}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""

    return made
