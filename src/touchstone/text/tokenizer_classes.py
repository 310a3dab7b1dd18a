"""What each Hugging Face tokenizer class makes of its vocabulary files: which files, which tokens have a role, what goes around a text.

A folder names its class in tokenizer_config.json, or its model type in config.json. A class that is not here is not guessed: two
classes read the same files and cut text differently.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from touchstone.errors import TokenizerError

__all__ = ["ROLES", "TokenizerClass", "tokenizer_class"]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""The roles a token may have, as in the keys `bos_token` … of tokenizer_config.json; new tokens get their ids in this order."""

_GPT2_ROLES = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_ROBERTA_ROLES = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_BERT_ROLES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """One way to read vocabulary files.

    files: those it needs, each by one of its names. roles: the default token of a role.
    single, pair: what stands around a text and a pair, in roles, A and B, each with its token type; None adds nothing.
    adds_bos: whether bos goes before each text where tokenizer_config.json does not say `add_bos_token`; None: that key has no meaning.
    n_extra: how many `<extra_id_…>` tokens follow the vocabulary where `extra_ids` does not say.
    """

    kind: Literal["byte_bpe", "wordpiece", "sentencepiece", "marian"]
    roles: Mapping[str, str]
    single: str | None = None
    pair: str | None = None
    adds_bos: bool | None = None
    n_extra: int = 0
    is_fairseq: bool = False  # ids as fairseq numbered them: four special tokens, then the pieces behind the first three
    is_qwen: bool = False  # cuts words by Qwen's pattern instead of GPT-2's
    has_types: bool = False  # the model reads token types
    files: tuple[tuple[str, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", _FILES[self.kind])


_FILES = {
    "byte_bpe": (("vocab.json",), ("merges.txt",)),
    "wordpiece": (("vocab.txt",),),
    "sentencepiece": (("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),),
    "marian": (("source.spm",), ("target.spm",), ("vocab.json",)),
}
_GPT2 = TokenizerClass("byte_bpe", _GPT2_ROLES, adds_bos=False)
_QWEN2 = TokenizerClass("byte_bpe", {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "unk": "<|endoftext|>"}, is_qwen=True)
_ROBERTA = TokenizerClass("byte_bpe", _ROBERTA_ROLES, single="cls:0 A:0 sep:0", pair="cls:0 A:0 sep:0 sep:0 B:0 sep:0")
_BERT = TokenizerClass("wordpiece", _BERT_ROLES, single="cls:0 A:0 sep:0", pair="cls:0 A:0 sep:0 B:1 sep:1", has_types=True)
_LLAMA = TokenizerClass("sentencepiece", {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, adds_bos=True)
_T5_ROLES = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_T5 = TokenizerClass("sentencepiece", _T5_ROLES, single="A:0 eos:0", pair="A:0 eos:0 B:0 eos:0", n_extra=100)
_MT5 = TokenizerClass("sentencepiece", _T5_ROLES, single="A:0 eos:0", pair="A:0 eos:0 B:0 eos:0")
_XLM_R = TokenizerClass("sentencepiece", _ROBERTA_ROLES, single="bos:0 A:0 eos:0", pair="bos:0 A:0 eos:0 eos:0 B:0 eos:0", is_fairseq=True)
_MARIAN = TokenizerClass("marian", _T5_ROLES, single="A:0 eos:0", pair="A:0 B:0 eos:0")

_CLASSES = {
    "GPT2Tokenizer": _GPT2,
    "Qwen2Tokenizer": _QWEN2,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "LlamaTokenizer": _LLAMA,
    "T5Tokenizer": _T5,
    "MT5Tokenizer": _MT5,
    "XLMRobertaTokenizer": _XLM_R,
    "MarianTokenizer": _MARIAN,
}
_MODEL_TYPES = {
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "mixtral": "LlamaTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "MT5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "marian": "MarianTokenizer",
}
_NO_CLASS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # names of the library's wrapper, which say nothing about the files


def tokenizer_class(config: Mapping[str, Any], model_type: Any) -> TokenizerClass:
    """The class that a folder's tokenizer_config.json names, else the one of its model type; TokenizerError where neither is known.

    MT5 files name T5's class, which then has no extra tokens.
    """
    named = config.get("tokenizer_class")
    name = named.removesuffix("Fast") if isinstance(named, str) and named not in _NO_CLASS else None
    if name is None and isinstance(model_type, str):
        name = _MODEL_TYPES.get(model_type)
    if name == "T5Tokenizer" and model_type == "mt5":
        name = "MT5Tokenizer"
    if name not in _CLASSES:
        told = f"`tokenizer_class` ({named})" if name is not None else f"`model_type` ({model_type})"
        raise TokenizerError(
            f"{told} does not say how to read its vocabulary files; read: {', '.join(_CLASSES)}."
            " Name one in tokenizer_config.json, or save tokenizer.json with the tool that the files are from."
        )
    return _CLASSES[name]
