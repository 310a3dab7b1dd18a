"""Training that survives: exact accumulation, exact resume, and a log that hides nothing."""

from touchstone.train.label_objectives import Classify, Span, Tag
from touchstone.train.objective import Causal, LossSum, Objective, TensorBatch, token_nll
from touchstone.train.optim import OptimConfig, Optimizer, ParameterGroups, build_optimizer, parameter_groups
from touchstone.train.pace import measure_pace
from touchstone.train.precision import Bf16Gain, autocast, measure_bf16_gain
from touchstone.train.recipes import RECIPES, Recipe, recipe
from touchstone.train.run_config import RunConfig
from touchstone.train.schedule import ScheduleConfig, resolve_steps, schedule_factor
from touchstone.train.sequence_objectives import MaskedLm, Seq2Seq
from touchstone.train.settings import Outcome, StepReport, TrainConfig
from touchstone.train.state import weights_sha256
from touchstone.train.trainer import Trainer

__all__ = [
    "RECIPES",
    "Bf16Gain",
    "Causal",
    "Classify",
    "LossSum",
    "MaskedLm",
    "Objective",
    "OptimConfig",
    "Optimizer",
    "Outcome",
    "ParameterGroups",
    "Recipe",
    "RunConfig",
    "ScheduleConfig",
    "Seq2Seq",
    "Span",
    "StepReport",
    "Tag",
    "TensorBatch",
    "TrainConfig",
    "Trainer",
    "autocast",
    "build_optimizer",
    "measure_bf16_gain",
    "measure_pace",
    "parameter_groups",
    "recipe",
    "resolve_steps",
    "schedule_factor",
    "token_nll",
    "weights_sha256",
]
