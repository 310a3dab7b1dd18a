"""Text: read it, split it without leakage, turn it into tokens, and serve it in batches. No model and no torch in here.

document.py   the nouns
read.py       files and folders to documents (stream.py bytes to text, rows.py, markup.py, wiki.py the formats)
corpora.py    named corpora that need no download
split.py      near_copies.py groups, then sides by group; cuts.py says where to cut long text; weighted mixtures
tokenizer.py  encode and decode (vocabulary.py learns)
batch.py      windows and rows (shards.py stores tokens, permute.py orders examples)
prepare.py    all of it, once for the same input
"""

from touchstone.text.batch import PackedWindows, PaddedRows, Plan, TokenBatch, TokenShards, group_by_token_budget, open_shards, write_shards
from touchstone.text.corpora import CORPORA, corpus
from touchstone.text.document import Conversation, Document, Example, Message
from touchstone.text.near_copies import near_duplicate_groups
from touchstone.text.prepare import DataConfig, Prepared, PreparedReport, TokenizerConfig, prepare
from touchstone.text.read import ReadReport, read_documents
from touchstone.text.split import Mixture, Splits, cut_blocks, split_documents
from touchstone.text.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "CORPORA",
    "Conversation",
    "DataConfig",
    "Document",
    "Example",
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
    "TokenShards",
    "Tokenizer",
    "TokenizerConfig",
    "corpus",
    "cut_blocks",
    "group_by_token_budget",
    "near_duplicate_groups",
    "open_shards",
    "prepare",
    "read_documents",
    "split_documents",
    "write_shards",
]
