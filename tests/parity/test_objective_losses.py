"""The loss of every objective is the one Hugging Face's model of that head computes from the same batch and labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from touchstone.text.answers import AnsweredRows, Fit, class_rows, pair_rows
from touchstone.text.conll import TaggedWords
from touchstone.text.corrupt import mask_tokens
from touchstone.text.corrupted import MaskedWindows, restored_by_denoising, restored_by_spans
from touchstone.text.document import Document
from touchstone.text.frame import Frame
from touchstone.text.labelled import LabelledText, TextPair
from touchstone.text.shards import write_shards
from touchstone.text.tagged_rows import tag_rows
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.label_objectives import Classify, Span, Tag
from touchstone.train.objective import TensorBatch
from touchstone.train.sequence_objectives import MaskedLm, Seq2Seq

transformers = pytest.importorskip("transformers")

TEXTS = ["the cat sat on the mat", "a dog", "every unbelievable child sees a river in the old garden", "he likes bread"]
SENTINELS = tuple(f"<extra_id_{n}>" for n in range(6))


class Theirs(nn.Module):
    """A Hugging Face model behind the call that our objectives make."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double().eval()

    def forward(self, token_ids, *, mask=None, segments=None, token_types=None, source_ids=None, source_mask=None, noise=None):
        assert segments is None
        if source_ids is None:
            given = {} if token_types is None else {"token_type_ids": token_types}
            out = self.model(input_ids=token_ids, attention_mask=_ones(token_ids, mask), **given)
        else:
            out = self.model(
                input_ids=source_ids,
                attention_mask=source_mask.long(),
                decoder_input_ids=token_ids,
                decoder_attention_mask=_ones(token_ids, mask),
            )
        logits = torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits
        return SimpleNamespace(logits=logits, hidden=logits, aux={})

    body = forward

    def head(self, hidden):
        return hidden


def _ones(token_ids, mask):
    return torch.ones_like(token_ids) if mask is None else mask.long()


def labels_of(batch):
    return batch.targets.masked_fill(~batch.counts, -100)


@pytest.fixture(scope="module")
def tokenizer():
    """WordPiece with BERT's marks."""
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return Tokenizer.train(TEXTS * 9, kind="wordpiece", vocab_size=70, specials=specials)


@pytest.fixture(scope="module")
def bytewise():
    """Bytes with T5's marks."""
    return Tokenizer.train([], kind="bytes", specials=("<pad>", "</s>", "<mask>", *SENTINELS))


def bert(kind, tokenizer, **settings):
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_id,
        **settings,
    )
    return Theirs(getattr(transformers, kind)(config))


def shards_of(tmp_path, tokenizer):
    return write_shards(tmp_path, [Document(text, "x") for text in TEXTS], tokenizer)


def test_masked_lm_is_berts(tokenizer, tmp_path):
    source = MaskedWindows(
        shards_of(tmp_path, tokenizer),
        9,
        kinds=TokenKinds.of(tokenizer),
        frame=Frame.of(tokenizer),
        mask_id=tokenizer.mask_id,
        pad_id=tokenizer.pad_id,
    )
    batch = TensorBatch.of(source.batch(np.arange(source.n_examples), np.arange(source.n_examples)))
    net = bert("BertForMaskedLM", tokenizer)
    loss = MaskedLm()(net, batch, None)
    theirs = net.model(input_ids=batch.token_ids, attention_mask=_ones(batch.token_ids, batch.mask), labels=labels_of(batch)).loss
    assert (loss.total / loss.count).item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("has_pairs", [False, True])
def test_classify_is_berts(tokenizer, has_pairs):
    rows = [LabelledText(text, "abc"[n % 3], f"x:{n}", TEXTS[n - 1] if has_pairs else None) for n, text in enumerate(TEXTS)]
    source = class_rows(rows, "abc", tokenizer, frame=Frame.of(tokenizer), context=20, pad_id=tokenizer.pad_id, fit=Fit())
    batch = TensorBatch.of(source.batch(np.arange(4)))
    net = bert("BertForSequenceClassification", tokenizer, num_labels=3)
    loss = Classify()(net, batch, None)
    theirs = net.model(
        input_ids=batch.token_ids,
        attention_mask=_ones(batch.token_ids, batch.mask),
        token_type_ids=batch.token_types,
        labels=batch.targets,
    ).loss
    assert (loss.total / loss.count).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_tag_is_berts(tokenizer):
    sentences = [TaggedWords(tuple(text.split()), tuple("OBI"[n % 3] for n, _ in enumerate(text.split())), "x:1") for text in TEXTS]
    source = tag_rows(sentences, "OBI", tokenizer, frame=Frame.of(tokenizer), context=30, pad_id=tokenizer.pad_id, fit=Fit())
    batch = TensorBatch.of(source.batch(np.arange(4)))
    net = bert("BertForTokenClassification", tokenizer, num_labels=3)
    loss = Tag()(net, batch, None)
    theirs = net.model(input_ids=batch.token_ids, attention_mask=_ones(batch.token_ids, batch.mask), labels=labels_of(batch)).loss
    assert (loss.total / loss.count).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_span_is_berts_on_rows_without_padding(tokenizer):
    """Theirs lets padding compete with the tokens of a row; ours does not, so that a row's loss does not depend on its batch."""
    rows = [np.array(tokenizer.encode_special(TEXTS[2]).token_ids[:9]), np.array(tokenizer.encode_special(TEXTS[0]).token_ids[:8])]
    batches = [TensorBatch.of(AnsweredRows(rows, np.array([[2, 5], [0, 0]]), pad_id=0).batch(ids)) for ids in ([0], [1], [0, 1])]
    net = bert("BertForQuestionAnswering", tokenizer)
    alone = []
    for batch in batches[:2]:
        ours = Span()(net, batch, None)
        theirs = net.model(input_ids=batch.token_ids, start_positions=batch.targets[:, 0], end_positions=batch.targets[:, 1]).loss
        assert (ours.total / ours.count).item() == pytest.approx(theirs.item(), rel=1e-6)
        alone.append(ours.total.item())
    assert Span()(net, batches[2], None).total.item() == pytest.approx(sum(alone), rel=1e-6)


def t5(tokenizer):
    torch.manual_seed(5)
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=12,
        d_kv=4,
        num_heads=3,
        d_ff=20,
        num_layers=2,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        decoder_start_token_id=tokenizer.pad_id,
    )
    return Theirs(transformers.T5ForConditionalGeneration(config))


def sources(tokenizer, tmp_path):
    frame, pad = Frame.of(tokenizer), tokenizer.pad_id
    common = {"kinds": TokenKinds.of(tokenizer), "frame": frame, "start_id": pad, "pad_id": pad}
    shards = shards_of(tmp_path, tokenizer)
    sentinels = np.array([tokenizer.encode(name, allow_special=True)[0] for name in SENTINELS])
    pairs = [TextPair(text, text[::-1][: 4 + n], "x:1") for n, text in enumerate(TEXTS)]
    return {
        "spans": restored_by_spans(shards, 20, sentinel_ids=sentinels, **common),
        "denoising": restored_by_denoising(shards, 20, mask_id=tokenizer.mask_id, **common),
        "pairs": pair_rows(pairs, tokenizer, frame=frame, context=30, start_id=pad, pad_id=pad, fit=Fit()),
    }


@pytest.mark.parametrize("kind", ["spans", "denoising", "pairs"])
def test_sequence_to_sequence_is_t5s_its_own_shift_included(bytewise, tmp_path, kind):
    source = sources(bytewise, tmp_path)[kind]
    ids = np.arange(source.n_examples)
    batch = TensorBatch.of(source.batch(ids, ids) if getattr(source, "corrupts", False) else source.batch(ids))
    net = t5(bytewise)
    loss = Seq2Seq()(net, batch, None)
    theirs = net.model(input_ids=batch.source_ids, attention_mask=batch.source_mask.long(), labels=labels_of(batch))
    assert (loss.total / loss.count).item() == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_masks_of_whole_words_are_a_collators_words(tokenizer):
    """The words that Hugging Face's collator would mask whole: a token and the `##` tokens behind it."""
    ids = np.array(tokenizer.encode_special(TEXTS[2]).token_ids)
    tokens = [tokenizer.token_text(i) for i in ids]
    words = [[n] for n, token in enumerate(tokens) if not token.startswith(("##", "["))]
    for word in words:
        while word[-1] + 1 < len(tokens) and tokens[word[-1] + 1].startswith("##"):
            word.append(word[-1] + 1)
    assert any(len(word) > 1 for word in words)
    kinds = TokenKinds.of(tokenizer)
    for key in range(40):
        rng = np.random.default_rng(key)
        chosen = mask_tokens(ids, rng, mask_id=tokenizer.mask_id, kinds=kinds, share=0.4, whole_words=True).is_chosen
        assert chosen.sum() == sum(len(word) for word in words if chosen[word].all())
