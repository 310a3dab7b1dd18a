"""The first steps of a training twice: by our trainer, and by a plain loop over the Hugging Face model of the same weights and batches."""

import random

import torch
from torch import nn

from touchstone.config import parse
from touchstone.models import build
from touchstone.models.checkpoint import save_model
from touchstone.text.answers import Fit, pair_rows
from touchstone.text.batch import Plan
from touchstone.text.corrupted import MaskedWindows, restored_by_spans
from touchstone.text.document import Document
from touchstone.text.frame import Frame
from touchstone.text.labelled import TextPair
from touchstone.text.shards import write_shards
from touchstone.text.token_kinds import TokenKinds
from touchstone.text.tokenizer import Tokenizer
from touchstone.train import OptimConfig, ScheduleConfig, TrainConfig, Trainer
from touchstone.train.model_settings import EncoderDecoderSettings, EncoderSettings
from touchstone.train.sequence_objectives import MaskedLm, Seq2Seq
from touchstone.train.step import noise_keys

CONTEXT, N_STEPS, BATCH, SEED = 24, 20, 7, 3
CONFIG = TrainConfig(
    n_steps=N_STEPS,
    batch_size=BATCH,
    seed=SEED,
    clip_norm=1.0,
    optim=OptimConfig(learning_rate=3e-3, weight_decay=0.1),
    schedule=ScheduleConfig(kind="constant"),
)
WORDS = ["cat", "dog", "child", "man", "woman", "river", "house", "garden", "sees", "likes", "finds", "paints", "old", "small", "green"]
T5 = {"norm": "rms", "norm_eps": 1e-6, "norm_place": "pre", "bias": False, "positions": "relative", "attention_scale": 1.0}


def texts(n, seed):
    """Sentences of four to eleven words."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 11))) for _ in range(n)]


def masked_lm(folder):
    """BERT's shape over windows of text."""
    tokenizer = Tokenizer.train(texts(99, 1), kind="wordpiece", vocab_size=70, specials=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    shards = write_shards(folder, [Document(one, "x") for one in texts(61, 2)], tokenizer)
    marks = {"kinds": TokenKinds.of(tokenizer), "frame": Frame.of(tokenizer), "pad_id": tokenizer.pad_id}
    source = MaskedWindows(shards, CONTEXT, mask_id=tokenizer.mask_id, **marks)
    return tokenizer, EncoderSettings(d_model=24, n_layers=2, n_heads=3, d_ff=40), MaskedLm(), source, "AutoModelForMaskedLM"


def span_corruption(folder):
    """The first T5's shape over windows of text."""
    sentinels = [f"<extra_id_{n}>" for n in range(6)]
    tokenizer = Tokenizer.train([], kind="bytes", specials=("<pad>", "</s>", *sentinels))
    shards = write_shards(folder, [Document(one, "x") for one in texts(31, 2)], tokenizer)
    ids = torch.tensor([tokenizer.encode(one, allow_special=True)[0] for one in sentinels]).numpy()
    marks = {"kinds": TokenKinds.of(tokenizer), "frame": Frame.of(tokenizer), "pad_id": tokenizer.pad_id}
    source = restored_by_spans(shards, CONTEXT, sentinel_ids=ids, start_id=tokenizer.pad_id, **marks)
    sizes = {"d_model": 24, "n_heads": 3, "n_encoder_layers": 2, "n_decoder_layers": 1, "d_ff": 40, "head_scale": 24**-0.5}
    return tokenizer, parse(EncoderDecoderSettings, {**T5, **sizes}), Seq2Seq(), source, "AutoModelForSeq2SeqLM"


def seq2seq(folder):
    """T5 1.1's shape over pairs."""
    tokenizer = Tokenizer.train([], kind="bytes", specials=("<pad>", "</s>"))
    pairs = [TextPair(one, " ".join(reversed(one.split())), f"x:{n}") for n, one in enumerate(texts(40, 2))]
    marks = {"frame": Frame.of(tokenizer), "start_id": tokenizer.pad_id, "pad_id": tokenizer.pad_id}
    source = pair_rows(pairs, tokenizer, context=CONTEXT, fit=Fit(), **marks)
    sizes = {"d_model": 24, "n_heads": 3, "n_encoder_layers": 1, "n_decoder_layers": 2, "d_ff": 40, "tied": False}
    settings = parse(EncoderDecoderSettings, {**T5, **sizes, "gated": True, "activation": "gelu_tanh"})
    return tokenizer, settings, Seq2Seq(), source, "AutoModelForSeq2SeqLM"


def losses_of_both(make, folder):
    """The class that Hugging Face gives the model, and the losses of both trainings, step by step."""
    import transformers

    (folder / "shards").mkdir()
    tokenizer, settings, objective, source, loader = make(folder / "shards")
    net = build(settings.to_spec(tokenizer.vocab_size, CONTEXT), seed=5)
    save_model(folder / "model", net, tokenizer=tokenizer)
    theirs = getattr(transformers, loader).from_pretrained(folder / "model").train()
    ours = []
    Trainer(net, objective, source, CONFIG, folder / "run", on_step=lambda report: ours.append(report.loss)).run()
    return type(theirs).__name__, ours, plain_losses(theirs, source)


def plain_losses(model, source):
    """Twenty steps of AdamW over a Hugging Face model, written out."""
    tables = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    decays = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in tables]
    optim = CONFIG.optim
    groups = [{"params": decays, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=optim.learning_rate, betas=optim.betas, eps=optim.eps)
    plan, losses = Plan(source.n_examples, BATCH, SEED), []
    for step in range(N_STEPS):
        ids = plan.example_ids(step)
        batch = source.batch(ids, noise_keys(SEED, step, BATCH)) if getattr(source, "corrupts", False) else source.batch(ids)
        labels = torch.from_numpy(batch.targets).masked_fill(~torch.from_numpy(batch.counts), -100)
        logits = model(**given(batch)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def given(batch):
    """A batch in Hugging Face's words."""
    mask = torch.ones(batch.token_ids.shape) if batch.mask is None else torch.from_numpy(batch.mask)
    token_ids = torch.from_numpy(batch.token_ids)
    if batch.source_ids is None:
        return {"input_ids": token_ids, "attention_mask": mask.long()}
    return {
        "input_ids": torch.from_numpy(batch.source_ids),
        "attention_mask": torch.from_numpy(batch.source_mask).long(),
        "decoder_input_ids": token_ids,
        "decoder_attention_mask": mask.long(),
    }
