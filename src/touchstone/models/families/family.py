"""What a family is, and a reader of Hugging Face configs that remembers every key it was asked for.

A key is read, ignored with a reason, or an error with the nearest right name; all problems of a file are reported together.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from touchstone.config import closest
from touchstone.errors import ConfigError, ModelFolderError, Unsupported, printable
from touchstone.models.spec import ModelSpec
from touchstone.models.weights import Row, TiedAlias, expand, save_state
from touchstone.nn.mlp import ActivationName

__all__ = ["ACTIVATIONS", "ACTIVATION_WORDS", "GENERATION_KEYS", "Family", "HfConfig"]

T = TypeVar("T")

MAX_SIZE = 1 << 24
"""Largest width or vocabulary accepted; published models stay below 2^19."""

MAX_LENGTH = 1 << 32
"""Longest context accepted; nothing is allocated by it."""

MAX_LAYERS = 10_000
"""Most layers accepted; published models have up to about 130."""

ACTIVATIONS: dict[str, ActivationName] = {
    **{"gelu": "gelu", "gelu_python": "gelu", "relu": "relu", "relu2": "relu2", "silu": "silu", "swish": "silu", "tanh": "tanh"},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh"},
    **{"gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh"},  # the same formula, its constant rounded at the tenth digit
}
"""Hugging Face's words for the activations there are here."""

ACTIVATION_WORDS: dict[ActivationName, str] = {
    **{"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "relu2": "relu2", "silu": "silu", "tanh": "tanh"}
}
"""The word to write for each of ours."""

_BASE = "base"
_ENCODER = "encoder"  # a class that is an encoder-decoder's encoder alone

_MOST_SHOWN = 40  # problems of one file; the rest is counted

_RUN = "says how the model is run, not what it computes"
_TRAIN = "is for starting or running a training"
_ORIGIN = "says where the file came from"
_TOKENS = "belongs to generation_config.json, where it is read"
_LABELS = "belongs to a head that a language model does not have"
_CODE = "names code in the folder, and nothing in a model folder is executed"

# fmt: off
GENERATION_KEYS = frozenset((
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
    "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_config", "cache_implementation",
    "compile_config", "constraints", "continuous_batching_config", "decoder_start_token_id", "disable_compile",
    "diversity_penalty", "do_sample", "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "eos_token_id", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
    "force_words_ids", "forced_bos_token_id", "forced_decoder_ids", "forced_eos_token_id", "guidance_scale", "is_assistant",
    "length_penalty", "low_memory", "max_cache_len", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time",
    "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits",
    "output_scores", "pad_token_id", "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
    "renormalize_logits", "repetition_penalty", "return_dict_in_generate", "sequence_bias", "speculation_type", "stop_strings",
    "suppress_tokens", "target_lookbehind", "temperature", "token_healing", "top_h", "top_k", "top_p", "transformers_version",
    "trust_remote_code", "typical_p", "use_cache", "use_mtp", "watermarking_config",
))
# fmt: on
"""What transformers 5.23 writes into a generation_config.json, and a few older keys."""

_IGNORED = {
    **dict.fromkeys(GENERATION_KEYS, "is a generation setting; generation_config.json has those"),
    **dict.fromkeys(("sep_token_id", "cls_token_id", "mask_token_id", "tokenizer_class", "prefix", "suffix"), _TOKENS),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), _TOKENS),
    **dict.fromkeys(("use_cache", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript"), _RUN),
    **dict.fromkeys(("chunk_size_feed_forward", "is_decoder", "use_bfloat16", "tf_legacy_loss", "tie_last_hidden_states"), _RUN),
    **dict.fromkeys(("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "use_flash_attn"), _RUN),
    **dict.fromkeys(("_flash_attn_2_enabled", "experts_implementation", "pretraining_tp", "base_model_tp_plan", "output_past"), _RUN),
    **dict.fromkeys(("initializer_range", "gradient_checkpointing", "unsloth_fixed", "unsloth_version"), _TRAIN),
    **dict.fromkeys(("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "is_llama_config"), _ORIGIN),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task"), _LABELS),
    **dict.fromkeys(("auto_map", "trust_remote_code", "custom_pipelines"), _CODE),
    **dict.fromkeys(("dtype", "torch_dtype"), "repeats what the tensors say of themselves"),
    **dict.fromkeys(("task_specific_params", "transformers.js_config"), "holds settings of pipelines"),
}

_LABEL_KEYS = ("id2label", "num_labels", "problem_type")  # what a head with labels reads

_ONLY: dict[str, tuple[Any, str]] = {
    "is_encoder_decoder": (False, "this family has no encoder"),
    "add_cross_attention": (False, "cross-attention is not in this family's spec"),
    "cross_attention_hidden_size": (None, "cross-attention is not in this family's spec"),
    "tie_encoder_decoder": (False, "this family has no encoder"),
    "pruned_heads": ({}, "heads cut out of single layers are not in the spec"),
    "per_layer_config": (None, "layers that override single keys are not in the spec"),
    "quantization_config": (None, "quantised weights need their scales; convert the model to float weights first"),
}
"""Keys that would change the result, and the one value that does not."""


class HfConfig:
    """A config.json being read: typed look-ups that note problems instead of raising, and `finish`, which reports them together."""

    def __init__(
        self,
        data: Mapping[str, Any],
        source: str,
        aliases: Mapping[str, str] | None = None,
        *,
        head: str = "lm",
        stored: Collection[str] = (),
    ) -> None:
        """head: the kind of the class that the folder is of; "base" = the base model's. stored: names of the tensors there, where known."""
        self.source, self.head, self.stored = source, head, stored
        self.problems: list[str] = []
        self.unsupported: list[str] = []
        self._data = dict(data)
        self._asked = {"model_type", "architectures"}
        for alias, name in (aliases or {}).items():
            if alias in self._data:
                value = self._data.pop(alias)
                if self._data.setdefault(name, value) != value:
                    self.problems.append(f"`{alias}` ({_shown(value)}) and `{name}` ({_shown(self._data[name])}) are one setting; keep one")

    @property
    def model_type(self) -> str:
        return str(self._data.get("model_type"))

    def has(self, key: str) -> bool:
        """True if the key is there, null included."""
        return key in self._data

    def value(self, key: str, default: Any = None) -> Any:
        """The raw value."""
        self._asked.add(key)
        return self._data.get(key, default)

    def size(self, key: str, default: int | None = None, *, most: int = MAX_SIZE) -> int:
        """A whole number from 1; null or absent gives the default, and is a problem without one."""
        found = self.value(key)
        if found is None:
            if default is None:
                self.problems.append(f"`{key}` is missing")
            return default or 1
        if type(found) is not int or not 1 <= found <= most:
            self.problems.append(f"`{key}` should be a whole number from 1 to {most}, not {_shown(found)}")
            return default or 1
        return found

    def number(self, key: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """A finite number in a range; null or absent gives the default."""
        found = self.value(key)
        if found is None:
            return default
        if not _is_finite(found) or not least <= found <= most:
            bounds = f"from {least:g}" + ("" if math.isinf(most) else f" to {most:g}")
            self.problems.append(f"`{key}` should be a number {bounds}, not {_shown(found)}")
            return default
        return float(found)

    def share(self, key: str, default: float = 0.0) -> float:
        """A dropout probability, below 1."""
        found = self.number(key, default, most=1.0)
        if found == 1.0:
            self.problems.append(f"`{key}` (1.0) would drop everything; it must be below 1")
            return default
        return found

    def flag(self, key: str, default: bool) -> bool:
        """True or false; null or absent gives the default."""
        found = self.value(key)
        if found is not None and type(found) is not bool:
            self.problems.append(f"`{key}` should be true or false, not {_shown(found)}")
        return found if type(found) is bool else default

    def choice(self, key: str, table: Mapping[str, T], default: str) -> T:
        """The entry of a table that the text names; a text without an entry is unsupported."""
        found = self.value(key)
        if found is None:
            found = default
        if not isinstance(found, str) or found not in table:
            near = closest(str(found), table, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            self.unsupported.append(f"`{key}` {_shown(found)} is not built{hint or '.'} There are: {', '.join(sorted(table))}")
            return table[default]
        return table[found]

    def n_labels(self, default: int = 2) -> int:
        """How many labels the head has: entries of `id2label`, else `num_labels`; transformers takes two where neither says."""
        self._asked |= {"id2label", "label2id", "num_labels", "problem_type"}
        names = self.label_names()
        if names is not None:
            return len(names) or default
        return self.size("num_labels", default)

    def label_names(self) -> tuple[str, ...] | None:
        """`id2label` in the order of its numbers; None where the file has none."""
        found = self.value("id2label")
        if found is None:
            return None
        try:
            names = {int(key): name for key, name in found.items()}
        except (AttributeError, TypeError, ValueError):
            names = {}
        if sorted(names) != list(range(len(names))) or not all(isinstance(name, str) for name in names.values()) or not names:
            self.problems.append(f"`id2label` should name the labels 0, 1, 2 …, not {_shown(found)}")
            return ()
        if twice := [name for name, times in Counter(names.values()).items() if times > 1]:
            self.problems.append(f"`id2label` gives the name {_shown(twice[0])} to more labels than one; give each its own")
        return tuple(names[number] for number in range(len(names)))

    def problem(self, n_labels: int) -> Literal["single-label", "multi-label", "regression"]:
        """What the scores of a classifier mean; where `problem_type` is not given, one label is a regression."""
        words: dict[str, Literal["single-label", "multi-label", "regression"]] = {
            "single_label_classification": "single-label",
            "multi_label_classification": "multi-label",
            "regression": "regression",
        }
        problem = self.choice("problem_type", words, "regression" if n_labels == 1 else "single_label_classification")
        if problem == "single-label" and n_labels == 1:
            self.problems.append("`problem_type` single_label_classification needs two labels; one number is a regression")
        return problem

    def finish(self, ignored: Mapping[str, str], only: Mapping[str, tuple[Any, str]] | None = None) -> None:
        """Raise what was wrong: ModelFolderError, or Unsupported if the file is sound and only asks for what is not built.

        only: keys that would change the result, each with the one value that does not and what it is about.
        """
        for key, (single, why) in {**_ONLY, **(only or {})}.items():
            found = self.value(key, single)
            if found is not None and found != single:
                self.unsupported.append(f"`{key}` ({_shown(found)}): {why}")
        known = self._asked | set(_IGNORED) | set(ignored)
        unknown = [key for key in self._data if key not in known]
        for key in unknown[:_MOST_SHOWN]:
            near = closest(key, known, n=1)
            self.problems.append(f"unknown key `{printable(key)}`{f'; did you mean `{near[0]}`?' if near else ''}")
        if len(unknown) > _MOST_SHOWN:
            self.problems.append(f"and {len(unknown) - _MOST_SHOWN} more unknown keys")
        if self.problems:
            raise ModelFolderError(f"{self.source}: " + "; ".join(dict.fromkeys([*self.problems, *self.unsupported])) + ".")
        if self.unsupported:
            raise Unsupported(f"{self.source}: " + "; ".join(dict.fromkeys(self.unsupported)) + ".")  # a key of both sides is read twice


@dataclass(frozen=True)
class Family:
    """One family of model folders: how its config says a spec, and how its tensors are named."""

    name: str
    architectures: Mapping[str, Mapping[str, str]]
    """model_type -> the classes read -> kind of head; "base" = names without the prefix, "encoder" = an encoder-decoder's encoder alone."""
    to_spec: Callable[[HfConfig], ModelSpec]
    to_hf_config: Callable[[ModelSpec, str], dict[str, Any] | None]  # None where the spec is plainly of another kind
    weights: tuple[Row, ...] | None  # None = our own names
    also_read: tuple[Row, ...] | None = None  # another table of the same tensors, which some files follow; never written
    prefix: str = ""  # before the names of the base model, in the files of the whole one
    other_prefixes: Mapping[str, str] = field(default_factory=dict)  # classes that write another one -> theirs
    refused_classes: Mapping[str, str] = field(default_factory=dict)  # with the reason, and what to do
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of config keys
    ignored_keys: Mapping[str, str] = field(default_factory=dict)  # with the reason
    ignored_tensors: Mapping[str, str] = field(default_factory=dict)  # regular expression -> reason

    def read(self, data: Mapping[str, Any], source: str = "config.json", *, stored: Collection[str] = ()) -> ModelSpec:
        """The spec that a config.json describes; raises ModelFolderError or Unsupported with everything that is wrong.

        stored: names of the tensors in the folder, for what a config does not say (whether there is a pooler).
        """
        config = HfConfig(data, source, self.aliases, head=self.head_of(data), stored=stored)
        self._check_architectures(data, config)
        try:
            return self.to_spec(config)
        except ConfigError as error:  # a rule of a spec's own
            raise ModelFolderError(f"{source}: " + "; ".join([*config.problems, str(error)])) from None

    def write(self, spec: ModelSpec, model_type: str) -> dict[str, Any] | None:
        """A config.json of that type for the spec, or None if it plainly has no place there; compare what `read` makes of it."""
        classes = self.architectures[model_type]
        wanted = spec.head.kind if spec.head is not None and spec.head.kind != "pool" else _BASE
        wanted = "pool" if "pool" in classes.values() and spec.head is not None and spec.head.kind == "pool" else wanted
        if wanted == _BASE and spec.decoder is None and _ENCODER in classes.values():
            wanted = _ENCODER
        architecture = next((name for name, head in classes.items() if head == wanted), None)
        written = self.to_hf_config(spec, model_type) if architecture is not None else None
        if written is None:
            return None
        return {"model_type": model_type, "architectures": [architecture], **written}

    def head_of(self, data: Mapping[str, Any]) -> str:
        """The kind of head of the class that a config.json names; that of the type's first class where it names none that is read."""
        classes = self.architectures[str(data.get("model_type"))]
        named = data.get("architectures")
        known = [name for name in named if isinstance(name, str) and name in classes] if isinstance(named, list) else []
        return classes[known[0]] if known else next(iter(classes.values()))

    def left_out(self, data: Mapping[str, Any]) -> dict[str, str]:
        """The keys of a config.json that this family ignores, each with the reason."""
        reasons = {**_IGNORED, **self.ignored_keys}
        if self.head_of(data) in ("classify", "tag"):
            reasons = {key: reason for key, reason in reasons.items() if key not in _LABEL_KEYS} | {"label2id": "repeats `id2label`"}
        return {key: reasons[key] for key in data if key in reasons}

    def rows(self, names: Collection[str], *, stored: Collection[str] = ()) -> tuple[Row, ...]:
        """The table for a network with these tensor names; of two, the one that knows more of the names stored in a file."""
        if self.weights is None:
            return tuple(Row(name, name) for name in names)
        if self.also_read is None:
            return self.weights
        others = ("", *self.other_prefixes.values())
        there = {*stored, *(self.prefix + name.removeprefix(other) for name in stored for other in others)}
        return max(self.weights, self.also_read, key=lambda table: sum(row.theirs in there for row in expand(table, names)))

    def their_names(self, names: Collection[str]) -> frozenset[str]:
        """What a file of the whole model calls the tensors of a network with these names; none for no names."""
        rows = expand(self.rows(names), names)
        return frozenset(row.theirs for row in rows if not isinstance(row.transform, TiedAlias))

    def to_theirs(self, ours: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """The file's tensors from our state; a base class's are named without the prefix."""
        theirs = save_state(self.rows(ours), ours)
        if self.prefix and not self._has_head(architecture):
            return {name.removeprefix(self.prefix): tensor for name, tensor in theirs.items()}
        if (own := self.other_prefixes.get(architecture)) is not None:
            renamed = {name: own + name.removeprefix(self.prefix) if name.startswith(self.prefix) else name for name in theirs}
            return {renamed[name]: theirs[name] for name in sorted(theirs, key=renamed.__getitem__)}
        return theirs

    def holds_state(self, names: Mapping[str, Any], architecture: str) -> bool:
        """True if files of that class keep every one of these tensors (a base class keeps no head of its own)."""
        if not self.prefix or self._has_head(architecture):
            return True
        rows = expand(self.rows(names), names)
        return all(row.theirs.startswith(self.prefix) for row in rows if not isinstance(row.transform, TiedAlias))

    def _has_head(self, architecture: str) -> bool:
        return all(classes.get(architecture) != _BASE for classes in self.architectures.values())

    def _check_architectures(self, data: Mapping[str, Any], config: HfConfig) -> None:
        found = data.get("architectures")
        if found is None:
            return
        known = self.architectures[config.model_type]
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            config.problems.append(f"`architectures` should be a list of class names, not {_shown(found)}")
        elif refused := [name for name in found if name in self.refused_classes]:
            config.unsupported += [f"`architectures` names {name}, which {self.refused_classes[name]}" for name in refused]
        elif unread := [name for name in found if name not in known]:
            config.unsupported.append(f"`architectures` {_shown(unread)} is another kind of model; read here: {', '.join(known)}")


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number of more digits than a float reaches
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "…"
