"""Whole models: their specs, networks, folders and the families of other tools."""

from touchstone.models.build import build, initialise
from touchstone.models.describe import describe
from touchstone.models.net import LanguageNet, ModelOutput
from touchstone.models.spec import EmbedSpec, LmHead, ModelSpec, RecurrentStack, Stack, decoder_spec, recurrent_spec

__all__ = [
    "EmbedSpec",
    "LanguageNet",
    "LmHead",
    "ModelOutput",
    "ModelSpec",
    "RecurrentStack",
    "Stack",
    "build",
    "decoder_spec",
    "describe",
    "initialise",
    "recurrent_spec",
]
