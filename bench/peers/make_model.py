"""Make one model of the inference benchmark: random weights of a real shape, in the form that each engine reads.

    python make_model.py FOLDER '{"kind": "gpt2", "seed": 0, "config": {...}}'

FOLDER gets `hf`, and where there is a converter `ctranslate2-float32`, `ctranslate2-int8`, `onnx-float32`, `onnx-int8`, `gguf-f32`,
`gguf-q8_0`. The same arguments give the same weights. Every part of the network changes the answer (matrices keep the variance of what
goes in, embeddings are small), so that engines that compute something else do not agree by chance; the end token has a zero embedding or
a low bias, so that no engine ends early.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import ctranslate2
import gguf
import numpy as np
import onnx
import onnxruntime.quantization
import onnxruntime.transformers.optimizer
import tokenizers
import torch
import transformers

CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bert": "BertModel", "marian": "MarianMTModel"}

NEVER = -1e4  # logit bias of what an engine must not write


def main():
    folder, model = Path(sys.argv[1]), json.loads(sys.argv[2])
    kind = model["kind"]
    net = random_network(kind, model["config"], model["seed"])
    (folder / "hf").mkdir(parents=True)
    net.save_pretrained(folder / "hf")
    tokenizer = words(net.config)
    tokenizer.save_pretrained(folder / "hf")
    if kind == "bert":
        to_onnx(net, folder)
    if kind in ("gpt2", "llama"):
        for form in ("f32", "q8_0"):
            to_gguf(net, kind, form, folder / f"gguf-{form}")
    for form in ("float32", "int8"):
        Converter(str(folder / "hf"), tokenizer).convert(
            str(folder / f"ctranslate2-{form}"), quantization=None if form == "float32" else form
        )


@torch.no_grad()
def random_network(kind, config, seed):
    config = transformers.AutoConfig.for_model(kind, **config)
    net = getattr(transformers, CLASSES[kind])(config).eval()
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1:
            is_scale = "bias" not in name
            parameter.normal_(1.0 if is_scale else 0.0, 0.02, generator=rng)
        elif "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
            parameter.normal_(0.0, 0.02, generator=rng)
        else:
            fan_in = parameter.shape[0] if kind == "gpt2" else parameter.shape[1]
            parameter.normal_(0.0, gain(kind, name) * fan_in**-0.5, generator=rng)
    if kind == "marian":
        net.model.shared.weight[config.pad_token_id] = 0.0
        net.final_logits_bias[0, [config.eos_token_id, config.pad_token_id]] = NEVER
        sinusoids(net)
    elif kind != "bert":
        net.get_output_embeddings().weight[config.eos_token_id] = 0.0
    return net


def gain(kind, name):
    """How much a matrix strengthens what it reads. In Marian the source weighs less, or a target is one token again and again."""
    if kind != "marian":
        return 1.0
    return 0.3 if "encoder_attn" in name else 2.0


def sinusoids(net):
    """The computed positions again, which stand among Marian's parameters."""
    for side in (net.model.encoder, net.model.decoder):
        side.embed_positions.weight.copy_(side.embed_positions.create_weight())


def words(config):
    """A tokenizer whose token i is the word `wi`: the text of any token ids is their words with spaces between."""
    named = {"<unk>": 0, "</s>": 1}  # </s> is the end token of every model here
    if config.model_type == "marian":
        named["<pad>"] = config.pad_token_id  # CTranslate2's converter takes it off by this name
    vocab = named | {f"w{i}": i for i in range(config.vocab_size) if i not in named.values()}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", bos_token="</s>")


class Converter(ctranslate2.converters.TransformersConverter):
    """Takes the tokenizer as an object: the folder of a decoder has none."""

    def __init__(self, folder, tokenizer):
        super().__init__(folder)
        self._tokenizer = tokenizer

    def load_model(self, model_class, folder, **settings):
        net = super().load_model(model_class, folder, **settings)
        net.config.position_embedding_type = "absolute"  # asked of BERT; transformers 5 knows no other
        return net

    def load_tokenizer(self, tokenizer_class, folder, **settings):
        return self._tokenizer


class ByPosition(torch.nn.Module):
    """The network as the exporter calls it: every input by its place."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, token_ids, mask, token_types):
        return self.net(input_ids=token_ids, attention_mask=mask, token_type_ids=token_types).last_hidden_state


def to_onnx(net, folder):
    """The exported graph as onnxruntime's own optimiser fuses it, in fp32 and with dynamic int8 products."""
    plain, fused, int8 = folder / "onnx-plain", folder / "onnx-float32", folder / "onnx-int8"
    for place in (plain, fused, int8):
        place.mkdir()
    net.set_attn_implementation("eager")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        ByPosition(net),
        tuple(torch.ones(2, 8, dtype=torch.long) for _ in names),
        str(plain / "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
        dynamo=False,
    )
    heads, width = net.config.num_attention_heads, net.config.hidden_size
    graph = onnxruntime.transformers.optimizer.optimize_model(
        str(plain / "model.onnx"), model_type="bert", num_heads=heads, hidden_size=width
    )
    graph.save_model_to_file(str(fused / "model.onnx"))
    onnxruntime.quantization.quantize_dynamic(
        str(fused / "model.onnx"),
        str(int8 / "model.onnx"),
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # shapes are not inferred through fused nodes
    )
    shutil.rmtree(plain)


def to_gguf(net, kind, form, folder):
    """As llama.cpp's convert_hf_to_gguf.py does it: `q8_0` for every matrix but the positions."""
    folder.mkdir()
    config, arch = net.config, gguf.MODEL_ARCH[kind.upper()]
    writer = gguf.GGUFWriter(folder / "model.gguf", kind)
    writer.add_vocab_size(config.vocab_size)
    add_words(writer, config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if kind == "llama":
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, parameter in net.named_parameters():
        values = laid_out(parameter.detach().numpy(), name, config)
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        is_q8 = form == "q8_0" and values.ndim == 2 and not to.startswith("position_embd")
        if is_q8:
            kept = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(to, kept, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(to, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_words(writer, config):
    """The vocabulary of `words`, each behind SentencePiece's mark of a space: whoever writes text gets the same."""
    named = {0: "<unk>", 1: "</s>"}
    tokens = [named.get(i, f"\u2581w{i}") for i in range(config.vocab_size)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (config.vocab_size - 2)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


def laid_out(values, name, config):
    """GPT-2 keeps its matrices transposed; llama.cpp turns neighbours of a Llama's query and key, where the folder turns halves."""
    if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        values = values.T
    for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", getattr(config, "num_key_value_heads", None))):
        if part in name:
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values)


main()
