"""Whole models: their specs, networks, folders and the families of other tools."""

from touchstone.models.build import build, initialise
from touchstone.models.describe import describe
from touchstone.models.heads import ClassifyHead, LmHead, MaskedLmHead, PoolHead, SpanHead, TagHead
from touchstone.models.net import LanguageNet, ModelOutput
from touchstone.models.shorthand import (
    decoder_spec,
    encoder_decoder_spec,
    encoder_spec,
    recurrent_encoder_decoder_spec,
    recurrent_encoder_spec,
    recurrent_spec,
)
from touchstone.models.spec import EmbedSpec, ModelSpec, RecurrentStack, Stack

__all__ = [
    "ClassifyHead",
    "EmbedSpec",
    "LanguageNet",
    "LmHead",
    "MaskedLmHead",
    "ModelOutput",
    "ModelSpec",
    "PoolHead",
    "RecurrentStack",
    "SpanHead",
    "Stack",
    "TagHead",
    "build",
    "decoder_spec",
    "describe",
    "encoder_decoder_spec",
    "encoder_spec",
    "initialise",
    "recurrent_encoder_decoder_spec",
    "recurrent_encoder_spec",
    "recurrent_spec",
]
