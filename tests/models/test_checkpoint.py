import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from touchstone.errors import ConfigError, ModelFolderError
from touchstone.files import TensorEntry, load_tensors, tensor_header, tensor_metadata, verify_folder
from touchstone.models import LanguageNet, build, decoder_spec, recurrent_spec
from touchstone.models.card import Calibration, Card, Lineage
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.spec import ModelSpec
from touchstone.text.tokenizer import Tokenizer

SIZES: dict[str, Any] = {"vocab_size": 300, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 9}


def small(**settings: Any) -> LanguageNet:
    return build(decoder_spec(**(SIZES | settings)), seed=1)


def same_state(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return set(ours) == set(theirs) and all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["one text of a few words"], kind="bytes")


SPECS: dict[str, Callable[[], ModelSpec]] = {
    "gpt2": lambda: decoder_spec(**SIZES, positions="learned", norm="layer", bias=True, gated=False, activation="gelu_tanh", dropout=0.1),
    "llama": lambda: decoder_spec(**SIZES, tied=False),
    "touchstone-decoder": lambda: decoder_spec(**SIZES, positions="sinusoidal", norm_place="post", dropout=0.2),
    "touchstone-recurrent": lambda: recurrent_spec(vocab_size=300, d_model=5, d_hidden=7, n_layers=2, dropout=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_model_loads_with_the_same_bits_and_spec(model_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    net = build(SPECS[model_type](), seed=2).to(dtype)
    saved = save_model(tmp_path / "m", net)
    loaded = load_model(tmp_path / "m")
    assert (saved.model_type, loaded.model_type) == (model_type, model_type)
    assert loaded.spec == net.spec
    assert same_state(loaded.net, net)
    assert saved.n_bytes == sum(p.numel() * p.element_size() for p in net.parameters())
    ids = torch.randint(0, 300, (3, 7))
    assert torch.equal(loaded.net.to(dtype).eval()(ids).logits, net.eval()(ids).logits)


def test_loading_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    before = torch.get_rng_state()
    load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_network_trains(tmp_path: Path) -> None:
    save_model(tmp_path / "m", build(recurrent_spec(vocab_size=11, d_model=5, d_hidden=7), seed=0))
    net = load_model(tmp_path / "m").net
    net(torch.zeros(2, 3, dtype=torch.long)).logits.sum().backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in net.parameters())


@pytest.mark.slow
def test_the_kernel_is_the_one_asked_for(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    kernels = {load_model(tmp_path / "m", kernel=name).net.decoder.layers[0].attn.kernel.__name__ for name in ("reference", "sdpa")}
    assert kernels == {"reference", "sdpa"}


@pytest.mark.slow
def test_a_tied_tensor_is_stored_once_and_an_untied_one_twice(tmp_path: Path) -> None:
    save_model(tmp_path / "tied", small())
    save_model(tmp_path / "untied", small(tied=False))
    assert "lm_head.weight" not in tensor_header(tmp_path / "tied" / "model.safetensors")
    assert tensor_header(tmp_path / "untied" / "model.safetensors")["lm_head.weight"] == TensorEntry("F32", (300, 12))


@pytest.mark.slow
def test_weights_may_be_stored_in_another_type(tmp_path: Path) -> None:
    net = small()
    save_model(tmp_path / "m", net, dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "m")
    assert loaded.extra.stored_types == {"BF16": net.spec.n_parameters()}
    assert torch.equal(loaded.net.embed.weight, net.embed.weight.to(torch.bfloat16))
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    assert tensor_metadata(tmp_path / "m" / "model.safetensors") == {"format": "pt"}
    with pytest.raises(ConfigError, match="dtype"):
        save_model(tmp_path / "m", net, dtype=torch.int8)


@pytest.mark.slow
def test_large_models_are_sharded_and_every_shard_stays_below_the_limit(tmp_path: Path) -> None:
    net = small()
    save_model(tmp_path / "m", net, max_shard_bytes=4000)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert index["metadata"]["total_size"] == 4 * net.spec.n_parameters()
    sizes = {name: list(tensor_header(tmp_path / "m" / name).values()) for name in files}
    for entries in sizes.values():
        assert len(entries) == 1 or sum(4 * torch.Size(entry.shape).numel() for entry in entries) <= 4000
    assert same_state(load_model(tmp_path / "m").net, net)


def test_an_ngram_model_keeps_its_scores(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 11, 400)
    net = NgramModel.fit(NgramSpec(vocab_size=11, order=3), tokens)
    saved = save_model(tmp_path / "m", net)
    loaded = load_model(tmp_path / "m")
    assert (saved.model_type, saved.opens_in_transformers, loaded.spec) == ("touchstone-ngram", False, net.spec)
    assert np.array_equal(loaded.net.token_log_probs(tokens), net.token_log_probs(tokens))


def test_the_folder_has_every_file_and_a_mark_with_their_hashes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m", small(), tokenizer=tokenizer, card=Card(name="mine"))
    names = {path.name for path in (tmp_path / "m").iterdir()}
    expected = {"config.json", "generation_config.json", "model.safetensors", "touchstone.json", "README.md", "COMPLETE.json"}
    assert names >= expected | {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    verify_folder(tmp_path / "m")
    front = (tmp_path / "m" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["library_name"] == "transformers"


def test_a_model_of_our_own_type_says_so(tmp_path: Path) -> None:
    saved = save_model(tmp_path / "m", small(positions="alibi"))
    assert not saved.opens_in_transformers
    assert "opens in Touchstone only" in (tmp_path / "m" / "README.md").read_text()
    assert json.loads((tmp_path / "m" / "config.json").read_text())["model_type"] == "touchstone-decoder"


def test_the_tokenizer_and_its_ids_come_along(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m", small(), tokenizer=tokenizer)
    loaded = load_model(tmp_path / "m")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert loaded.generation_config["eos_token_id"] == tokenizer.eos_id
    assert loaded.generation_config["pad_token_id"] == tokenizer.pad_id
    assert loaded.extra.n_spare_rows == 300 - tokenizer.vocab_size


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    net = build(decoder_spec(**(SIZES | {"vocab_size": tokenizer.vocab_size - 1})))
    with pytest.raises(ModelFolderError, match="the tokenizer has ids up to"):
        save_model(tmp_path / "m", net, tokenizer=tokenizer)
    save_model(tmp_path / "m", net)
    tokenizer.save(tmp_path / "m")
    with pytest.raises(ModelFolderError, match="the tokenizer has ids up to"):
        load_model(tmp_path / "m")


def test_a_folder_without_a_tokenizer_loads_without_one(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    (tmp_path / "m" / "vocab.txt").write_bytes(b"\n")
    loaded = load_model(tmp_path / "m")
    assert loaded.tokenizer is None
    assert "is no tokenizer that can be read" in loaded.extra.ignored_files["vocab.txt"]


@pytest.mark.slow
def test_a_tokenizer_of_an_older_format_comes_along_and_is_saved_as_the_new(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    (tmp_path / "m" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    loaded = load_model(tmp_path / "m")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode_special("a").token_ids == (2, 5, 3)
    save_model(tmp_path / "n", loaded.net, tokenizer=loaded.tokenizer)
    again = load_model(tmp_path / "n").tokenizer
    assert again is not None
    assert again.fingerprint == loaded.tokenizer.fingerprint


def test_the_card_and_the_settings_come_back_as_they_were_given(tmp_path: Path) -> None:
    record = Calibration(
        target="next-token", method="temperature", params={"temperature": 1.5}, statistic={}, weights_hash="a", numeric_scheme="float32",
        n=3, date="2026-11-22",
    )  # fmt: skip
    card = Card(name="mine", lineage=Lineage(data_hash="d", config={"a": [1, 2.5, None]}), calibration=(record,), labels=("x",))
    settings = {"eos_token_id": [1, 2], "temperature": 0.5, "my_key": {"deep": 1}}
    save_model(tmp_path / "m", small(), card=card, generation_config=settings)
    loaded = load_model(tmp_path / "m")
    assert loaded.generation_config == settings
    assert loaded.card.replace(hf_config=None) == card
    assert "my_key" in loaded.extra.ignored_keys


@pytest.mark.slow
def test_dropout_that_a_class_has_no_words_for_is_kept_by_the_card(tmp_path: Path) -> None:
    net = small(dropout=0.25)
    saved = save_model(tmp_path / "m", net)
    assert saved.model_type == "llama"
    assert load_model(tmp_path / "m").spec == net.spec
    card = json.loads((tmp_path / "m" / "touchstone.json").read_text())
    (tmp_path / "m" / "touchstone.json").unlink()
    assert load_model(tmp_path / "m").spec.stack.blocks[0].dropout == 0.0
    card["spec"]["embed"]["scale"] = 2.0
    (tmp_path / "m" / "touchstone.json").write_text(json.dumps(card))
    with pytest.raises(ModelFolderError, match="describe different models"):
        load_model(tmp_path / "m")


@pytest.mark.slow
def test_what_a_config_said_beside_the_spec_is_written_back(tmp_path: Path) -> None:
    save_model(tmp_path / "one", small())
    path = tmp_path / "one" / "config.json"
    config = json.loads(path.read_text()) | {"initializer_range": 0.1, "task_specific_params": {"a": 1}, "torch_dtype": "float32"}
    del config["rope_scaling"], config["dtype"]
    path.write_text(json.dumps(config))
    loaded = load_model(tmp_path / "one")
    save_model(tmp_path / "two", loaded.net, card=loaded.card)
    assert json.loads((tmp_path / "two" / "config.json").read_text()) == config
    changed = build(loaded.spec.replace(embed=loaded.spec.embed.replace(vocab_size=301)))
    save_model(tmp_path / "three", changed, card=loaded.card)
    third = json.loads((tmp_path / "three" / "config.json").read_text())
    assert (third["vocab_size"], third["initializer_range"], third["task_specific_params"]) == (301, 0.1, {"a": 1})


@pytest.mark.slow
def test_a_config_survives_a_stay_in_our_own_type(tmp_path: Path) -> None:
    save_model(tmp_path / "one", small())
    loaded = load_model(tmp_path / "one")
    save_model(tmp_path / "two", small(positions="alibi"), card=loaded.card)
    between = load_model(tmp_path / "two")
    assert between.card.hf_config == loaded.card.hf_config
    save_model(tmp_path / "three", loaded.net, card=between.card)
    assert (tmp_path / "three" / "config.json").read_text() == (tmp_path / "one" / "config.json").read_text()


def test_weights_that_begin_at_an_odd_byte_are_moved_to_an_even_one(tmp_path: Path) -> None:
    net = small()
    save_model(tmp_path / "m", net)
    path = tmp_path / "m" / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    path.write_bytes((size + 1).to_bytes(8, "little") + data[8 : 8 + size] + b" " + data[8 + size :])
    loaded = load_model(tmp_path / "m").net
    assert same_state(loaded, net)
    assert all(parameter.data_ptr() % 4 == 0 for parameter in loaded.parameters())


def test_changing_loaded_weights_in_place_leaves_the_file_alone(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    with torch.no_grad():
        for parameter in load_model(tmp_path / "m").net.parameters():
            parameter.add_(1)
    verify_folder(tmp_path / "m")


@pytest.mark.slow
def test_a_chat_template_is_carried_as_text(tmp_path: Path) -> None:
    template = "{% for message in messages %}\r\n{{ message }}é{% endfor %}"
    save_model(tmp_path / "one", small())
    (tmp_path / "one" / "chat_template.jinja").write_bytes(template.encode())
    loaded = load_model(tmp_path / "one")
    save_model(tmp_path / "two", loaded.net, card=loaded.card)
    assert (tmp_path / "two" / "chat_template.jinja").read_bytes() == template.encode()
    assert "chat_template" not in json.loads((tmp_path / "two" / "touchstone.json").read_text())


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    net = small()
    with torch.no_grad():
        net.embed.weight[3, 4] = float("inf")
    with pytest.raises(ModelFolderError, match=r"`embed\.weight` holds values that are not finite"):
        save_model(tmp_path / "m", net)
    assert list(tmp_path.iterdir()) == []


def test_an_end_that_is_no_token_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="is no token of a vocabulary of 300"):
        save_model(tmp_path / "m", small(), generation_config={"eos_token_id": 300})
    assert list(tmp_path.iterdir()) == []


def test_files_that_read_back_differently_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(path: Path) -> dict[str, torch.Tensor]:
        tensors = load_tensors(path)
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
        return tensors

    save_model(tmp_path / "m", small())
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    monkeypatch.setattr("touchstone.models.checkpoint.load_tensors", flipped)
    with pytest.raises(ModelFolderError, match="reads back differently"):
        save_model(tmp_path / "m", small(tied=False))
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.slow
def test_saving_over_the_folder_that_was_loaded_from_keeps_the_weights(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    loaded = load_model(tmp_path / "m")
    expected = {name: tensor.clone() for name, tensor in loaded.net.state_dict().items()}
    save_model(tmp_path / "m", loaded.net, card=loaded.card)
    again = load_model(tmp_path / "m").net.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_a_crash_at_any_effect_of_a_save_leaves_the_old_model_or_the_new(tmp_path: Path, every_crash: Any) -> None:
    old, new = small(), build(decoder_spec(**SIZES), seed=9)
    folder = tmp_path / "m"
    seen = set()
    for _k, crashed in every_crash(lambda k: (save_model(folder, old) if not folder.exists() else None, save_model(folder, new))):
        if folder.exists() or list(tmp_path.glob(".m.old*")):
            net = load_model(folder).net
            assert same_state(net, old) or same_state(net, new)
            seen.add("old" if same_state(net, old) else "new")
        if not crashed:
            assert same_state(load_model(folder).net, new)
    assert seen == {"old", "new"}


def test_a_model_that_a_kill_left_aside_is_brought_back(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small())
    (tmp_path / "m").rename(tmp_path / ".m.old")  # what stands between the two renames of a replacement
    assert same_state(load_model(tmp_path / "m").net, small())


def test_a_model_needs_no_home_of_its_own(tmp_path: Path) -> None:
    save_model(tmp_path / "elsewhere" / "deeper" / "m", small())
    (tmp_path / "elsewhere" / "deeper").rename(tmp_path / "moved")
    assert same_state(load_model(str(tmp_path / "moved" / "m")).net, small())


def test_only_networks_and_ngram_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Linear"):
        save_model(tmp_path / "m", torch.nn.Linear(2, 3))  # type: ignore[arg-type]
