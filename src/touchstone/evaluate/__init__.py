"""What is measured: figures of held-out text, and the baselines and mixtures that say what they are worth."""

from touchstone.evaluate.compressors import CompressorReport, CompressorScore, score_compressors
from touchstone.evaluate.metrics import bits_per_byte, bits_per_byte_difference, document_nats, perplexity
from touchstone.evaluate.mixture import ModelMixture

__all__ = [
    "CompressorReport",
    "CompressorScore",
    "ModelMixture",
    "bits_per_byte",
    "bits_per_byte_difference",
    "document_nats",
    "perplexity",
    "score_compressors",
]
