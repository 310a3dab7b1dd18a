"""Folders of sentence-transformers: what their files mean, and the files written; `make conformance` opens them with the tool itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from touchstone.config import parse
from touchstone.errors import ConfigError, ModelFolderError, Unsupported
from touchstone.models import build, encoder_spec
from touchstone.models.card import Card, SentencePooling
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.heads import PoolHead
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.sentence_folders import find_sentence_folder, sentence_files

pytestmark = pytest.mark.slow

SPEC = encoder_spec(vocab_size=11, d_model=12, n_layers=2, n_heads=3, max_seq_len=16, head=PoolHead())
MEAN = SentencePooling(mode="mean", normalise=True, max_seq_len=9)

# What version 2.0 wrote for all-MiniLM-L6-v2, and version 6.2 for the same model (modules.json names other classes then).
OLD_POOLING = {
    "word_embedding_dimension": 12,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
NEW_POOLING = {"embedding_dimension": 12, "pooling_mode": "mean", "include_prompt": True}
NEW_READER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
NEW_OVERALL = {
    "model_type": "SentenceTransformer",
    "__version__": {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"},
    "prompts": {"query": "", "document": "passage: "},
    "default_prompt_name": "document",
    "similarity_fn_name": "cosine",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", build(SPEC), card=Card(pooling=MEAN))
    return tmp_path / "model"


def change(path: Path, data: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("mode", ["first", "last", "mean", "max"])
@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_written_is_read_back(mode: Any, normalise: bool, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    pooling = SentencePooling(mode=mode, normalise=normalise, prompts=prompts, default_prompt="query", similarity="dot")
    save_model(tmp_path / "model", build(SPEC), card=Card(pooling=pooling))
    assert load_model(tmp_path / "model").card.pooling == pooling
    assert "pooling" not in json.loads((tmp_path / "model" / "touchstone.json").read_text())


def test_the_files_of_a_mean_are_those_of_version_2() -> None:
    assert sentence_files(MEAN, 12) == {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 9, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": None},
        "1_Pooling/config.json": OLD_POOLING,
        "2_Normalize/config.json": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
    }


def test_the_files_of_version_6_mean_the_same(folder: Path) -> None:
    names = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling", "base.modules.normalize.Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"idx": n, "name": str(n), "path": paths[n], "type": f"sentence_transformers.{names[n]}"} for n in range(3)]
    change(folder / "modules.json", modules)
    change(folder / "1_Pooling" / "config.json", NEW_POOLING)
    change(folder / "sentence_bert_config.json", NEW_READER)
    change(folder / "config_sentence_transformers.json", NEW_OVERALL)
    change(folder / "tokenizer_config.json", {"model_max_length": 9})  # where that version keeps the length
    expected = MEAN.replace(prompts=NEW_OVERALL["prompts"], default_prompt="document", similarity="cosine")
    found = find_sentence_folder(folder)
    assert found is not None
    assert (found.pooling, found.d_model, found.model) == (expected, 12, folder)


def test_a_model_in_a_folder_of_its_own_is_found(folder: Path) -> None:
    inside = folder / "0_Transformer"
    inside.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json", "sentence_bert_config.json"):
        (folder / name).rename(inside / name)
    (folder / "COMPLETE.json").unlink()
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    change(folder / "modules.json", modules)
    loaded = load_model(folder)
    assert (loaded.spec, loaded.card.pooling) == (SPEC, MEAN)
    again = save_model(folder.parent / "again", loaded.net, card=loaded.card)
    assert (again.folder / "model.safetensors").read_bytes() == (inside / "model.safetensors").read_bytes()


def test_a_folder_of_the_first_versions_has_no_prompts(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").unlink()
    assert load_model(folder).card.pooling == MEAN


def test_no_switch_at_all_means_the_mean(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 12})
    assert load_model(folder).card.pooling == MEAN


@pytest.mark.parametrize(("bound", "expected"), [(7, 7), (int(1e30), None)])
def test_a_reader_that_names_no_length_has_the_tokenizers(folder: Path, bound: int, expected: int | None) -> None:
    change(folder / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": False})
    change(folder / "tokenizer_config.json", {"model_max_length": bound})
    found = find_sentence_folder(folder)
    assert found is not None
    assert found.pooling.max_seq_len == expected


def test_a_reader_may_be_named_after_its_model(folder: Path) -> None:
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    assert load_model(folder).card.pooling == MEAN


def test_a_folder_without_modules_says_nothing_of_vectors(folder: Path) -> None:
    (folder / "modules.json").unlink()
    assert load_model(folder).card.pooling is None


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("1_Pooling/config.json", OLD_POOLING | {"pooling_mode_cls_token": True}, "pooling by cls, mean is not built.*remove modules.json"),
        ("1_Pooling/config.json", NEW_POOLING | {"pooling_mode": "weightedmean"}, "pooling by weightedmean is not built"),
        ("sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True}, r"`do_lower_case` \(True\) is not built"),
        ("sentence_bert_config.json", NEW_READER | {"query_length": 32}, r"`query_length` \(32\) is not built"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "a CrossEncoder is another kind of model"),
        ("config_sentence_transformers.json", {"truncate_dim": 4}, "`truncate_dim`"),
    ],
)
def test_what_is_not_built_is_refused_with_the_way_around_it(folder: Path, name: str, data: Any, message: str) -> None:
    change(folder / name, data)
    with pytest.raises(Unsupported, match=message):
        load_model(folder)


def test_a_prompt_that_should_not_count_is_refused_only_where_there_is_one(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", NEW_POOLING | {"include_prompt": False})
    assert load_model(folder).card.pooling == MEAN
    change(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}})
    with pytest.raises(Unsupported, match="include_prompt"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["Dense", "WeightedLayerPooling"])
def test_other_modules_are_refused_by_name(folder: Path, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": f"2_{kind}", "type": f"sentence_transformers.models.{kind}"})
    change(folder / "modules.json", modules)
    with pytest.raises(Unsupported, match=f"Transformer, Pooling, {kind}, Normalize are not built"):
        load_model(folder)


def test_a_class_of_the_folders_own_is_never_imported(folder: Path) -> None:
    (folder / "custom_st.py").write_text("raise SystemExit('executed')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    change(folder / "modules.json", modules)
    with pytest.raises(Unsupported, match=r"`custom_st\.Transformer` is code of the folder's own, which is never executed"):
        load_model(folder)


@pytest.mark.parametrize("path", ["../other", "/etc", "a/b", ".", "..", ".hidden"])
def test_a_module_lies_in_the_folder(folder: Path, path: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = path
    change(folder / "modules.json", modules)
    with pytest.raises(ModelFolderError, match="should be a folder's name, without slashes"):
        load_model(folder)


def test_a_modules_folder_is_no_link(folder: Path) -> None:
    (folder / "1_Pooling").rename(folder.parent / "elsewhere")
    (folder / "1_Pooling").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(ModelFolderError, match="a symbolic link here leads out of the folder"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("modules.json", {}, "should list the modules"),
        ("modules.json", [], "should list the modules"),
        ("modules.json", [{"idx": 0, "name": "0", "path": ""}], "module 0.*`type`"),
        ("1_Pooling/config.json", [], "should hold a mapping"),
        ("1_Pooling/config.json", OLD_POOLING | {"word_embedding_dimension": 13}, "for hidden states of 13, and the model has.*12"),
        ("1_Pooling/config.json", OLD_POOLING | {"word_embedding_dimension": "12"}, "should be a whole number from 1"),
        ("1_Pooling/config.json", {"pooling_mode_cls_tokens": True}, "unknown key.*did you mean `pooling_mode_cls_token`"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "should name one of cls, lasttoken, mean, max"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "should be a whole number from 1, not 0"),
        ("sentence_bert_config.json", {"max_seq_len": 9}, "unknown key.*did you mean `max_seq_length`"),
        ("config_sentence_transformers.json", {"prompts": [1]}, "`prompts`"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, r"`default_prompt` \(query\) must be one of `prompts`"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "hamming"}, "`similarity`"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(folder: Path, name: str, data: Any, message: str) -> None:
    change(folder / name, data)
    with pytest.raises(ModelFolderError, match=message):
        load_model(folder)


def test_an_ngram_model_makes_no_vectors(tmp_path: Path) -> None:
    model = NgramModel.fit(NgramSpec(vocab_size=5, order=2), np.array([1, 2, 3, 2, 1]), np.array([0, 2, 5]))
    with pytest.raises(ConfigError, match="an n-gram model has none"):
        save_model(tmp_path / "model", model, card=Card(pooling=MEAN))


def test_the_readme_names_the_library_and_its_class(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert 'model = SentenceTransformer("path/to/this/folder")' in text


def test_a_default_prompt_is_one_of_the_prompts() -> None:
    with pytest.raises(ConfigError, match="there are none"):
        parse(SentencePooling, {"mode": "mean", "default_prompt": "query"})
