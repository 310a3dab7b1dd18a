"""The whole state of a training run in memory: network, optimiser, guard, random generators, and how far it has come.

What is here goes into a checkpoint and comes back from it; nothing else decides how a run goes on.
"""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from touchstone.errors import RunFolderError
from touchstone.train.guard import StepGuard
from touchstone.train.optim import Optimizer
from touchstone.train.resume import Checkpoint

__all__ = ["Progress", "RandomState", "TrainingState", "load_net", "net_tensors", "weights_sha256"]


@dataclass
class Progress:
    """How far a run has come, as plain numbers."""

    position: int = 0  # steps done = index of the next one in the plan
    n_rollbacks: int = 0
    owes_save: bool = False  # the run went back, which is to be saved at once
    best_loss: float | None = None
    best_step: int | None = None
    n_without_gain: int = 0  # evaluations since the best
    has_stopped_early: bool = False
    seconds: float = 0.0
    n_tokens: int = 0
    looked_at: int = 0  # step and seconds of the last look at the clock (deadline.py)
    looked_seconds: float = 0.0
    shortened_to: int | None = None  # steps of a run that was too slow; None = as configured
    turned_at: int = 0  # the step at which it was shortened, and its place in the schedule
    turned_place: float = 0.0
    unclosed: str | None = None  # JSON of the last step's record while its evaluation, samples and log line are still to come


@dataclass
class TrainingState:
    """Everything that a checkpoint holds and a resumed run continues from."""

    net: nn.Module
    optimizer: Optimizer
    guard: StepGuard
    progress: Progress = field(default_factory=Progress)

    def facts(self) -> dict[str, Any]:
        """The part that is no tensor, as data for JSON."""
        return {"progress": asdict(self.progress), "guard": self.guard.state(), "random": RandomState.capture().to_plain()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: everything, the random generators included."""
        self.restore_tensors(checkpoint)
        self.progress = Progress(**checkpoint.facts["progress"])
        self.guard.load_state(checkpoint.facts["guard"])
        RandomState.from_plain(checkpoint.facts["random"]).restore()

    def restore_tensors(self, checkpoint: Checkpoint) -> None:
        """Take network and optimiser alone back to a checkpoint."""
        load_net(self.net, checkpoint.model)
        self.optimizer.load_state(checkpoint.optimizer)


@dataclass(frozen=True)
class RandomState:
    """The global generators of Python, NumPy and torch (every CUDA device) at one instant."""

    python: tuple[Any, ...]
    numpy: dict[str, Any] | None  # None = was not captured and is left alone
    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]

    @classmethod
    def capture(cls, *, with_numpy: bool = True) -> "RandomState":
        """The state now; NumPy's takes ten times as long to copy as the others together."""
        on_cuda = torch.cuda.is_initialized()  # before that it has drawn nothing
        return cls(
            random.getstate(),
            np.random.get_state(legacy=False) if with_numpy else None,
            torch.get_rng_state(),
            tuple(torch.cuda.get_rng_state_all()) if on_cuda else (),
        )

    def restore(self) -> None:
        """Make all generators go on from here."""
        random.setstate(self.python)
        if self.numpy is not None:
            np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(list(self.torch_cuda))

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        version, numbers, gauss = self.python
        assert self.numpy is not None
        inner = self.numpy["state"]
        return {
            "python": [version, np.asarray(numbers, dtype="<u4").tobytes().hex(), gauss],
            "numpy": {**self.numpy, "state": {"key": inner["key"].astype("<u4").tobytes().hex(), "pos": int(inner["pos"])}},
            "torch_cpu": self.torch_cpu.numpy().tobytes().hex(),
            "torch_cuda": [state.numpy().tobytes().hex() for state in self.torch_cuda],
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "RandomState":
        """The state that `to_plain` described."""

        def tensor(text: str) -> Tensor:
            return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)

        def words(text: str) -> NDArray[np.uint32]:
            return np.frombuffer(bytes.fromhex(text), dtype="<u4")

        version, numbers, gauss = data["python"]
        inner = data["numpy"]["state"]
        return cls(
            (version, tuple(words(numbers).tolist()), gauss),
            {**data["numpy"], "state": {"key": words(inner["key"]), "pos": inner["pos"]}},
            tensor(data["torch_cpu"]),
            tuple(map(tensor, data["torch_cuda"])),
        )


def net_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Every parameter, a tied one once, and every buffer that belongs to the state; live, not copies."""
    own = dict(net.named_parameters())
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return own | {name: tensor for name, tensor in net.state_dict().items() if name not in every}


@torch.no_grad()
def load_net(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into a network; RunFolderError unless names and shapes are exactly its own."""
    own = net_tensors(net)
    wrong = set(own.keys() ^ tensors.keys()) | {name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape}
    if wrong:
        raise RunFolderError(f"The checkpoint's tensors do not fit this network: {', '.join(f'`{name}`' for name in sorted(wrong))}.")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def weights_sha256(net: nn.Module) -> str:
    """One hash over the names, shapes, types and bytes of all of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net_tensors(net).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
