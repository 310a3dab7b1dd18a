"""The front door: a model folder opened where it will run, and written again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.locate import locate_model
from touchstone.infer.runner import LanguageCore
from touchstone.models.checkpoint import SavedModel, load_model, save_model
from touchstone.models.net import LanguageNet
from touchstone.models.ngram import NgramModel
from touchstone.models.quantized import is_int8, quantize
from touchstone.nn.int8 import use_int8_product
from touchstone.nn.int8_choice import choose_int8_product
from touchstone.nn.prepacked import prepack, prepacking_works
from touchstone.nn.products import choose_product, use_product
from touchstone.runtime import Runtime, choose_runtime, memory_bytes

__all__ = ["load", "save"]

_LAYOUT_SHARE = 1 / 8  # of the memory: weights that take more are not laid out a second time


def load(
    folder: str | os.PathLike[str],
    device: str = "auto",
    dtype: str = "auto",
    weights: Literal["int8"] | None = None,
    invariant: bool = False,
    draft: str | os.PathLike[str] | None = None,
) -> LanguageModel:
    """Open a model: a Hugging Face folder, a run folder or its `model/`, or a name in the local Hugging Face cache.

    Nothing is downloaded and nothing in the folder is executed. The model's `runtime` says which device and number type were chosen
    and why.
    weights: "int8" = 8-bit products and tables, the rest in float32, on a CPU (`touchstone.models.quantized`); None = as stored.
    invariant: tokens and log-probabilities are the same to the last bit whatever runs beside a request; in float32 on a CPU. On a machine
        or for a model where that cannot be promised, Unsupported is raised.
    draft: "prompt-lookup", or the folder of a smaller model of the same tokens, to guess ahead; no token is changed by it.
    """
    if weights not in (None, "int8"):
        raise ConfigError(f"`weights` must be None (as stored) or 'int8', not {weights!r}.")
    loaded = load_model(locate_model(folder))
    drafting = draft if draft is None or draft == "prompt-lookup" else load(draft, device, dtype)
    if invariant:
        device, dtype = (asked if asked != "auto" else steady for asked, steady in ((device, "cpu"), (dtype, "float32")))
    scores = loaded.card.scores if weights is None or is_int8(loaded.net) else ()  # they were measured in another number type
    return LanguageModel(
        loaded.net,
        tokenizer=loaded.tokenizer,
        card=loaded.card.replace(scores=scores),
        generation_config=loaded.generation_config,
        runtime=_place(loaded.net, device, dtype, weights),
        notes=loaded.extra,
        invariant=invariant,
        draft=drafting,
    )


def save(model: LanguageModel, folder: str | os.PathLike[str]) -> SavedModel:
    """Write a model folder that Hugging Face opens wherever it has a class for the model, and read it back to be sure."""
    return save_model(
        Path(folder), model.net, tokenizer=model.tokenizer, card=model.card, generation_config=model.generation_config or None
    )


def _place(net: LanguageCore, device: str, dtype: str, weights: Literal["int8"] | None) -> Runtime:
    """Move a network where it will run. An n-gram model is counts in numpy: it stays on the CPU and scores in fp64."""
    if isinstance(net, NgramModel):
        if weights is not None:
            raise Unsupported("An n-gram model has counts and no products to compute in int8; leave `weights` out.")
        if device not in ("auto", "cpu") or dtype not in ("auto", "float64"):
            raise Unsupported(f"An n-gram model runs on the cpu in float64 only, not on {device} in {dtype}; leave both at auto.")
        return choose_runtime("cpu", "float64")
    if weights == "int8" or is_int8(net):
        return _place_int8(net, device, dtype)
    runtime = choose_runtime(device, dtype)
    net.to(device=runtime.device, dtype=runtime.dtype).eval()
    if runtime.device.type != "cpu" or runtime.dtype != torch.float32:
        return runtime
    product = choose_product(net)
    use_product(net, product.name)
    told = f"{product.name}: {product.reason}"
    if product.name == "onednn" and _has_room_for_layouts(net) and prepacking_works():
        prepack(net)
        told += "; weights are laid out for it once, which takes their size in memory again"
    return replace(runtime, reasons={**runtime.reasons, "product": f"{told}."})


def _has_room_for_layouts(net: nn.Module) -> bool:
    return sum(weight.numel() * weight.element_size() for weight in net.parameters()) <= memory_bytes() * _LAYOUT_SHARE


def _place_int8(net: LanguageNet, device: str, dtype: str) -> Runtime:
    if device not in ("auto", "cpu") or dtype not in ("auto", "float32"):
        raise Unsupported(f"A model in int8 runs on the cpu, the rest of it in float32, not on {device} in {dtype}; leave both at auto.")
    runtime = choose_runtime("cpu", "float32")
    choice = choose_int8_product()
    use_int8_product(net if is_int8(net) else quantize(net), *choice.operators)
    net.eval()
    return replace(runtime, reasons={**runtime.reasons, "weights": f"{choice.reason}."})
