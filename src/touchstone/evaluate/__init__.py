"""What is measured: tasks with their baselines, figures of held-out text, and the mixtures that say what they are worth."""

from touchstone.evaluate.compressors import CompressorReport, CompressorScore, score_compressors
from touchstone.evaluate.figures import Metric, PairedFigure
from touchstone.evaluate.metrics import bits_per_byte, bits_per_byte_difference, document_nats, perplexity
from touchstone.evaluate.mixture import ModelMixture
from touchstone.evaluate.run import run_task
from touchstone.evaluate.task import BadRow, Baseline, EvalExample, EvalTask, Examples
from touchstone.evaluate.task_result import TaskResult, compare_results, read_result

__all__ = [
    "BadRow",
    "Baseline",
    "CompressorReport",
    "CompressorScore",
    "EvalExample",
    "EvalTask",
    "Examples",
    "Metric",
    "ModelMixture",
    "PairedFigure",
    "TaskResult",
    "bits_per_byte",
    "bits_per_byte_difference",
    "compare_results",
    "document_nats",
    "perplexity",
    "read_result",
    "run_task",
    "score_compressors",
]
