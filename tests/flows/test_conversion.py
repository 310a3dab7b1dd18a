"""Conversion writes a folder that computes the same, says how it knows, and leaves nothing where it fails."""

import json
import math
import struct

import numpy as np
import pytest
import torch

from touchstone.errors import ConfigError, ModelFolderError, TokenizerError
from touchstone.files import load_tensors
from touchstone.flows import conversion
from touchstone.flows.conversion import ConversionRequest, bytes_of, compare_logits, convert_model
from touchstone.infer import load
from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.report.terminal import Terminal

SIZES = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 9}


@pytest.fixture
def converted(shown, tmp_path):
    """Convert a source to `new` and return (document, what was shown)."""
    terminal, text = shown

    def run(source, **settings):
        return convert_model(ConversionRequest(str(source), tmp_path / "new", **settings), terminal), text()

    return run


@pytest.fixture
def no_tokenizer(tmp_path):
    """A Llama folder without a tokenizer."""
    save_model(tmp_path / "old", build(decoder_spec(**SIZES), seed=2))
    return tmp_path / "old"


def left_over(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_folder_is_written_again_with_the_same_bits(converted, model_folder, tmp_path):
    document, shown = converted(model_folder)
    assert document["check"]["bit_equal"]
    assert document["check"]["max_difference"] == document["check"]["max_kl"] == 0.0
    old, new = load_tensors(model_folder / "model.safetensors"), load_tensors(tmp_path / "new" / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert load(model_folder).generate("def add", seed=1) == load(tmp_path / "new").generate("def add", seed=1)
    assert "bit for bit" in shown
    assert left_over(tmp_path) == ["new"]
    json.dumps(document)


@pytest.mark.slow
def test_a_run_folder_and_an_empty_target_are_taken(converted, model_folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model_folder)
    (tmp_path / "new").mkdir()
    assert converted(tmp_path / "run")[0]["check"]["bit_equal"]
    assert (tmp_path / "new" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_type_reports_how_far_the_logits_moved(converted, no_tokenizer, tmp_path, dtype):
    document, shown = converted(no_tokenizer, dtype=dtype)
    assert {str(tensor.dtype) for tensor in load_tensors(tmp_path / "new" / "model.safetensors").values()} == {f"torch.{dtype}"}
    prompts = [[(97 * place + 31 * length) % 11 for place in range(length)][:9] for length in (5, 8, 13)]
    logits = []
    for folder in (no_tokenizer, tmp_path / "new"):
        net = load_model(folder).net.float().eval()
        with torch.no_grad():
            logits.append(torch.cat([net(torch.tensor([prompt])).logits[0] for prompt in prompts]).double())
    check = document["check"]
    assert (check["n_prompts"], check["n_positions"], check["bit_equal"]) == (3, 5 + 8 + 9, False)
    assert check["max_difference"] == float((logits[0] - logits[1]).abs().max()) > 0
    kl = torch.nn.functional.kl_div(logits[1].log_softmax(-1), logits[0].log_softmax(-1), reduction="none", log_target=True).sum(-1)
    assert check["max_kl"] == pytest.approx(float(kl.max()), rel=1e-6)
    assert check["mean_kl"] == pytest.approx(float(kl.mean()), rel=1e-6)
    assert f"up to {check['max_difference']:.3g}" in shown


@pytest.mark.slow
def test_a_wider_type_changes_no_logit(converted, no_tokenizer, tmp_path):
    save_model(tmp_path / "half", load_model(no_tokenizer).net, dtype=torch.bfloat16)
    document, _ = converted(tmp_path / "half", dtype="float32")
    assert document["check"]["bit_equal"]


@pytest.mark.slow
def test_weights_are_divided_among_files_of_the_size_asked_for(converted, no_tokenizer, tmp_path):
    converted(no_tokenizer, max_shard_bytes=bytes_of("2KB"))
    sizes = [sum(t.numel() * 4 for t in load_tensors(path).values()) for path in (tmp_path / "new").glob("model-*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) <= 2000


def test_models_that_transformers_has_no_class_for_say_so(converted, tmp_path):
    save_model(tmp_path / "old", build(recurrent_spec(vocab_size=11, d_model=5, d_hidden=7), seed=1))
    document, shown = converted(tmp_path / "old")
    assert (document["model_type"], document["opens_in_transformers_as"]) == ("touchstone-recurrent", None)
    assert "Opens in Touchstone only" in shown


@pytest.mark.slow
def test_the_class_that_opens_the_folder_is_named(converted, no_tokenizer):
    document, shown = converted(no_tokenizer)
    assert document["opens_in_transformers_as"] == "LlamaForCausalLM"
    assert "LlamaForCausalLM" in shown


def test_an_ngram_model_is_converted_with_equal_probabilities(converted, tmp_path):
    model = NgramModel.fit(NgramSpec(order=3, vocab_size=7), np.array([1, 2, 3, 1, 2, 4, 1, 2, 3]))
    save_model(tmp_path / "old", model)
    assert converted(tmp_path / "old")[0]["check"]["bit_equal"]


def test_what_stands_at_the_target_is_left_alone(converted, no_tokenizer, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="must not exist or be an empty folder"):
        converted(no_tokenizer)
    assert left_over(tmp_path / "new") == ["mine.txt"]
    (tmp_path / "new" / "mine.txt").rename(tmp_path / "file")
    (tmp_path / "new").rmdir()
    (tmp_path / "new").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="must not exist"):
        converted(no_tokenizer)


@pytest.mark.slow
def test_a_folder_that_computes_something_else_is_not_kept(converted, no_tokenizer, tmp_path, monkeypatch):
    def save_another(place, net, **settings):
        return save_model(place, build(net.spec, seed=99))

    monkeypatch.setattr(conversion, "save_model", save_another)
    with pytest.raises(ModelFolderError, match="computes other logits"):
        converted(no_tokenizer)
    assert left_over(tmp_path) == ["old"]


def test_weights_too_large_for_the_type_are_named_and_nothing_is_kept(converted, tmp_path):
    net = build(decoder_spec(**SIZES), seed=2)
    with torch.no_grad():
        net.embed.weight[3, 4] = 70_000.0  # float16 ends at 65504
    save_model(tmp_path / "old", net)
    with pytest.raises(ConfigError, match=r"`embed.weight` holds numbers beyond 65504.*bfloat16"):
        converted(tmp_path / "old", dtype="float16")
    assert left_over(tmp_path) == ["old"]


@pytest.mark.slow
def test_a_crash_at_any_instant_leaves_the_whole_folder_or_none(no_tokenizer, shown, every_crash, tmp_path):
    def action(k):
        convert_model(ConversionRequest(str(no_tokenizer), tmp_path / f"new-{k}"), shown[0])

    for k, crashed in every_crash(action):
        target = tmp_path / f"new-{k}"
        if target.exists():
            assert load_model(target).spec == load_model(no_tokenizer).spec
        assert target.exists() or crashed
    assert k > 10
    assert not list(tmp_path.glob(".*"))


def test_logits_that_are_no_numbers_are_an_error():
    net = build(decoder_spec(**SIZES), seed=2).eval()
    broken = build(decoder_spec(**SIZES), seed=2).eval()
    with torch.no_grad():
        broken.embed.weight[3, 4] = math.nan
    with pytest.raises(ModelFolderError, match="not finite"):
        compare_logits(net, broken, [[3, 1]])


def test_sizes_are_read_as_people_write_them():
    written = {"5GB": 5 * 10**9, "500MB": 5 * 10**8, "2.5 MiB": 2_621_440, "1kb": 1000, "12": 12, "1TiB": 1 << 40}
    assert {text: bytes_of(text) for text in written} == written
    for text in ("", "0", "-1GB", "five", "1XB", "GB", "1e9", "0.1"):
        with pytest.raises(ConfigError, match="500MB"):
            bytes_of(text)


# llama2.c


def tiny_checkpoint(vocab_size=5):
    """A file of version 1 with random numbers."""
    sizes = {"dim": 8, "hidden_dim": 6, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": vocab_size, "seq_len": 7}
    n_numbers = vocab_size * 8 + 3 * 8 + 2 * 8 * 8 + 2 * 4 * 8 + 3 * 6 * 8
    numbers = np.random.default_rng(1).normal(0, 0.2, n_numbers).astype(np.float32)
    return (struct.pack("<Ii7i", 0x616B3432, 1, *sizes.values()) + b"\x01").ljust(256, b"\0") + numbers.tobytes()


def test_the_arguments_of_other_tools_files_are_checked(converted, no_tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="`--tokenizer` goes with `--from llama2c`"):
        converted(no_tokenizer, tokenizer=tmp_path / "tok.bin")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match="`--from llama2c`"):
        converted(tmp_path / "model.bin")


@pytest.mark.slow
def test_a_checkpoint_without_a_tokenizer_becomes_a_folder_for_token_ids(converted, tmp_path):
    (tmp_path / "m.bin").write_bytes(tiny_checkpoint())
    document, _ = converted(tmp_path / "m.bin", origin="llama2c")
    assert document["check"]["bit_equal"]
    model = load(tmp_path / "new")
    assert model.tokenizer is None
    assert model.eos_ids == (1, 2)
    assert model.generate([1], max_new_tokens=3, ignore_eos=True)[0].prompt_token_ids == (1,)


@pytest.mark.slow
def test_text_prompts_of_a_converted_model_begin_with_s_and_token_ids_stay_as_they_are(converted, tmp_path):
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256)), b" ", b"a", b" a"]
    entries = b"".join(struct.pack("<fi", -float(place), len(token)) + token for place, token in enumerate(tokens))
    (tmp_path / "tok.bin").write_bytes(struct.pack("<i", 7) + entries)
    (tmp_path / "m.bin").write_bytes(tiny_checkpoint(len(tokens)))
    document, _ = converted(tmp_path / "m.bin", origin="llama2c", tokenizer=tmp_path / "tok.bin")
    assert document["check"]["n_positions"] == 3 * 7  # texts, cut to the context
    model = load(tmp_path / "new")
    given = [completion.prompt_token_ids for completion in model.generate(["", "a a", [260, 261]], max_new_tokens=1)]
    assert given == [(1,), (1, 261, 261), (260, 261)]


def test_a_tokenizer_file_that_is_not_there_is_named_and_nothing_is_kept(converted, tmp_path):
    (tmp_path / "m.bin").write_bytes(tiny_checkpoint())
    with pytest.raises(TokenizerError, match=r"tok\.bin: no such file"):
        converted(tmp_path / "m.bin", origin="llama2c", tokenizer=tmp_path / "tok.bin")
    assert left_over(tmp_path) == ["m.bin"]


@pytest.fixture(scope="module")
def stories(test_data, tmp_path_factory):
    """(converted folder, document, expected greedy text) of the trained stories260K."""
    source, folder = test_data / "weights" / "stories260K", tmp_path_factory.mktemp("stories") / "m"
    asked = ConversionRequest(str(source / "stories260K.bin"), folder, origin="llama2c", tokenizer=source / "tok512.bin")
    document = convert_model(asked, Terminal("en", json=True))
    return folder, document, (source / "greedy_200_expected.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [[1], ""], ids=["ids", "text"])
def test_the_engine_writes_the_text_that_llama2_c_publishes(stories, prompt):
    folder, document, expected = stories
    completion = load(folder).generate([prompt], max_new_tokens=200, temperature=0.0)[0]
    assert completion.prompt_token_ids == (1,)
    assert completion.text == expected
    assert document["check"]["bit_equal"]


@pytest.mark.slow
def test_a_text_prompt_begins_with_s_as_in_llama2_c(stories):
    folder, _, expected = stories
    model = load(folder)
    completion = model.generate("Once upon", max_new_tokens=60, temperature=0.0)[0]
    assert completion.prompt_token_ids[0] == 1
    assert expected.startswith("Once upon" + completion.text)
    same = model.generate([list(completion.prompt_token_ids)], max_new_tokens=60, temperature=0.0)[0]
    assert (same.prompt_token_ids, same.text) == (completion.prompt_token_ids, completion.text)


@pytest.mark.slow
def test_transformers_writes_that_text_too(stories):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, document, expected = stories
    net, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(net).__name__ == document["opens_in_transformers_as"]
    given = tokenizer("", return_tensors="pt").input_ids
    assert given.tolist() == [[1]]
    found = net.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=200, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(found[0], skip_special_tokens=True) == expected
    assert load(folder).generate("", max_new_tokens=200, temperature=0.0)[0].token_ids == tuple(found[0, 1:].tolist())


@pytest.mark.slow
def test_real_text_has_the_same_ids_and_likelihood_in_transformers(stories, test_data):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _, _ = stories
    net, tokenizer, model = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), load(folder)
    lines = (test_data / "lm_text" / "tinyshakespeare.txt").read_text(encoding="utf-8").split("\n\n")[:20]
    for text in lines:
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids[0].tolist() == [1, *model.tokenizer.encode(text)]
        with torch.no_grad():
            theirs = net(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).sum()
        assert model.rolling([text])[0].logprob == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.slow
def test_completing_begins_with_s_and_keeps_the_space_of_the_first_word(stories):
    from touchstone.flows.writing import alternatives

    folder, _, expected = stories
    found, _ = alternatives(load(folder), "Once upon", n=2, max_new_tokens=8)
    assert found[0].text.startswith(" a time")
    assert expected.startswith("Once upon" + found[0].text)
