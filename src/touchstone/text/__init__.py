"""Text: read it, split it without leakage, turn it into tokens, and serve it in batches. No model and no torch in here.

document.py   the nouns
read.py       files and folders to documents (stream.py bytes to text, rows.py, markup.py, wiki.py the formats)
corpora.py    named corpora that need no download
split.py      near_copies.py groups, then sides by group; cuts.py says where to cut long text; weighted mixtures
tokenizer.py  encode and decode (vocabulary.py learns; encoded.py puts texts together; vocabulary_files.py and sentencepiece.py read older
              formats, segmentation.py rebuilds, tokenizer_classes.py and tokenizer_config.py say what is special)
batch.py      windows and rows (shards.py stores tokens, permute.py orders examples)
prepare.py    all of it, once for the same input
corrupt.py    hidden tokens and spans (denoise.py BART's noises, corrupted.py the windows, token_kinds.py words and sentences)
labelled.py   rows with answers (conll.py tags, squad.py answers in a text); answers.py, tagged_rows.py, span_windows.py their tokens
"""

from touchstone.text.batch import PackedWindows, PaddedRows, Plan, TokenBatch, TokenShards, group_by_token_budget, open_shards, write_shards
from touchstone.text.conll import read_conll
from touchstone.text.corpora import CORPORA, corpus
from touchstone.text.corrupted import MaskedWindows, restored_by_denoising, restored_by_spans
from touchstone.text.document import Conversation, Document, Example, Message
from touchstone.text.frame import Frame
from touchstone.text.labelled import read_labelled, read_pairs
from touchstone.text.near_copies import near_duplicate_groups
from touchstone.text.prepare import DataConfig, Prepared, PreparedReport, TokenizerConfig, prepare
from touchstone.text.read import ReadReport, read_documents
from touchstone.text.split import Mixture, Splits, cut_blocks, split_documents
from touchstone.text.squad import read_squad
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Encoded, StreamDecoder, Tokenizer

__all__ = [
    "CORPORA",
    "Conversation",
    "DataConfig",
    "Document",
    "Encoded",
    "Example",
    "Frame",
    "MaskedWindows",
    "Message",
    "Mixture",
    "PackedWindows",
    "PaddedRows",
    "Plan",
    "Prepared",
    "PreparedReport",
    "ReadReport",
    "Splits",
    "StreamDecoder",
    "TokenBatch",
    "TokenKinds",
    "TokenShards",
    "Tokenizer",
    "TokenizerConfig",
    "corpus",
    "cut_blocks",
    "group_by_token_budget",
    "near_duplicate_groups",
    "open_shards",
    "prepare",
    "read_conll",
    "read_documents",
    "read_labelled",
    "read_pairs",
    "read_squad",
    "restored_by_denoising",
    "restored_by_spans",
    "split_documents",
    "write_shards",
]
