"""What this process runs on: device, numeric type, threads, seeds. Decided once, here, and every choice says why.

Importing this module imports no torch, so that `before_torch` can still set what torch reads only when it starts.
Sources: cgroup v1 and v2 CPU quotas, https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import math
import os
import platform
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchstone.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "Runtime",
    "available_cores",
    "before_torch",
    "choose_runtime",
    "environment",
    "large_buffers_kept",
    "make_deterministic",
    "memory_bytes",
    "peak_resident_bytes",
    "resident_bytes",
    "seed_everything",
    "set_threads",
]

DTYPES = ("float32", "bfloat16", "float64")
"""Numeric types a model can be computed in; float16 is left out, its range needs loss scaling."""

_SETTINGS = (
    "OMP_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "OMP_WAIT_POLICY",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
)  # they change speed or bits


_SPINS = "20000"  # some tens of microseconds: the gap between two products of one step

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # <malloc.h>
_MALLOC_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")
_keepers: list[object] = []  # one for each `large_buffers_kept` that lasts
_keepers_lock = threading.Lock()


@dataclass(frozen=True)
class Runtime:
    """What was decided; `reasons` holds one sentence for each of device, dtype and threads."""

    device: torch.device
    dtype: torch.dtype
    n_threads: int
    reasons: dict[str, str]


def choose_runtime(device: str = "auto", dtype: str = "auto", *, n_threads: int | None = None) -> Runtime:
    """Resolve device and numeric type and set the threads of this process.

    device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N" or "mps". dtype: "auto" or one of DTYPES; auto is
    float32 except on a CUDA device with bfloat16 units. Raises DeviceError for what this machine does not have.
    """
    n_threads, why_threads = _threads(n_threads)
    set_threads(n_threads)
    chosen, why_device = _device(device)
    number, why_dtype = _dtype(dtype, chosen)
    return Runtime(chosen, number, n_threads, {"device": why_device, "dtype": why_dtype, "threads": why_threads})


def available_cores() -> int:
    """Cores this process may keep busy: the affinity mask or the container's CPU quota, whichever is less; at least 1."""
    return max(1, min(_affinity_cores(), _quota_cores() or sys.maxsize))


def before_torch() -> bool:
    """Set what torch's thread pool reads only when it starts; False if torch is imported already and it is too late.

    A waiting thread spins for a moment and then sleeps. With a busy neighbour, threads that spin for long fell to a third of one
    thread's speed; without any spinning, waking between the small products of a small model cost a quarter of two threads' speed.
    A value the user set stays. Freed memory is kept, too, which works at any time.
    """
    _keep_freed_memory()
    if "torch" in sys.modules:
        return False
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    return True


@contextlib.contextmanager
def large_buffers_kept() -> Iterator[None]:
    """While it lasts, freed buffers are kept for the next ones of their size; afterwards they go back to the kernel.

    For loops that take the same large buffers again and again: in a training step of 124 million parameters the logits, their gradient
    and those of the weights took 260,000 page faults, a sixth of the step. Buffers of the main thread only; other threads' are mapped
    anew from 64 MiB on.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    with _keepers_lock:
        _keepers.append(mallopt)
        _keep_freed_memory()
    try:
        yield
    finally:
        with _keepers_lock:
            _keepers.remove(mallopt)
            _keep_freed_memory()
        if not _keepers:
            ctypes.CDLL(None).malloc_trim(0)


def set_threads(n: int | None = None) -> int:
    """Set torch's threads for one operation and return the number; None = OMP_NUM_THREADS if set, else `available_cores`.

    Calls `before_torch`, which has an effect only if torch was not imported before.
    """
    n, _ = _threads(n)
    before_torch()
    import torch

    torch.set_num_threads(n)
    return n


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (every device)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def make_deterministic() -> None:
    """Ask torch for kernels that give the same bits on every run; an operation that has none warns and goes on.

    Only a CUDA device needs it: there some backward passes add in any order.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def environment() -> dict[str, Any]:
    """What a run should record of where it ran, as plain data for `environment.json`."""
    import torch

    packages = ("touchstone-lm", "torch", "numpy", "tokenizers", "safetensors", "pydantic")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "available_cores": available_cores(),
        "n_threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "settings": {key: os.environ[key] for key in _SETTINGS if key in os.environ},
    }


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_cgroup_numbers("memory", "memory.max", "memory.limit_in_bytes")])


def resident_bytes() -> int:
    """Memory this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return int(shown.stdout) * 1024


def peak_resident_bytes() -> int:
    """The most memory this process ever held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _keep_freed_memory() -> None:
    """Let glibc keep freed buffers in place of giving their pages back to the kernel and faulting them in again.

    Those of up to 32 MiB always: a training step of a small model took 12,000 page faults, a third of its time. All of them while
    `large_buffers_kept` lasts.
    """
    if (mallopt := _mallopt()) is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(_M_MMAP_MAX, 0 if _keepers else 1 << 16)  # 65536 is glibc's own
        mallopt(_M_TRIM_THRESHOLD, -1 if _keepers else 256 << 20)  # -1: never


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's call; None where the user's settings are to stay, and with other systems' allocators, which have none."""
    is_set = any(name in os.environ for name in _MALLOC_SETTINGS) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or is_set:
        return None
    try:
        mallopt: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return None
    return mallopt


def _threads(n: int | None) -> tuple[int, str]:
    if n is not None:
        if n < 1:
            raise DeviceError(f"`n_threads` must be at least 1, not {n}.")
        return n, f"{n}: as asked."
    wanted, cores = os.environ.get("OMP_NUM_THREADS", ""), available_cores()
    if wanted.isdecimal() and int(wanted) >= 1:
        return int(wanted), f"{wanted}: OMP_NUM_THREADS says so."
    return cores, f"{cores}: the cores this process may use, of {os.cpu_count()}."


def _device(name: str) -> tuple[torch.device, str]:
    import torch

    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    here = ["cpu", *(f"cuda:{i}" for i in range(n_cuda)), *(["mps"] if has_mps else [])]
    if name == "auto":
        if n_cuda:
            return torch.device("cuda"), f"cuda: {torch.cuda.get_device_name(0)}."
        return (torch.device("mps"), "mps: Apple GPU.") if has_mps else (torch.device("cpu"), "cpu: torch finds no GPU here.")
    if name not in here and not (name == "cuda" and n_cuda):
        raise DeviceError(f"This machine has no device `{name}`; it has {', '.join(here)}. Leave `device` at auto to take the fastest.")
    return torch.device(name), f"{name}: as asked."


def _dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    import torch

    has_bf16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        if device.type == "cuda" and has_bf16:
            return torch.bfloat16, "bfloat16: this GPU computes it at full speed."
        if device.type == "cuda":
            return torch.float32, "float32: this GPU has no bfloat16 units."
        return torch.float32, f"float32: bfloat16 is a gain on some {device.type} machines only; it was not measured here."
    if name not in DTYPES:
        raise DeviceError(f"No numeric type `{name}`; known: auto, {', '.join(DTYPES)}.")
    if (name == "bfloat16" and not has_bf16) or (name == "float64" and device.type == "mps"):
        raise DeviceError(f"{device} cannot compute in {name}; use float32.")
    return getattr(torch, name), f"{name}: as asked."


def _affinity_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """The container's CPU quota in cores, rounded up; None where there is none."""
    found = []
    for folder in _cgroup_folders("cpu", root, membership):
        with_period = _read(folder / "cpu.max").split() or [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
        if len(with_period) == 2 and all(text.isdecimal() for text in with_period) and int(with_period[1]) > 0:
            found.append(math.ceil(int(with_period[0]) / int(with_period[1])))
    return min(found, default=None)


def _cgroup_numbers(controller: str, *names: str) -> list[int]:
    folders = _cgroup_folders(controller, Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return [int(text) for folder in folders for name in names if (text := _read(folder / name)).isdecimal()]


def _cgroup_folders(controller: str, root: Path, membership: Path) -> list[Path]:
    """Every folder whose limit holds for this process: its own and all above, of version 2 and of the version 1 controller."""
    folders: dict[Path, None] = {}
    for line in _read(membership).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            tops = [root, root / "unified"]
        elif controller in controllers.split(","):
            tops = [root / controllers, root / controller]
        else:
            continue
        parts = [part for part in place.split("/") if part and part != ".."]
        for top in tops:
            folders |= {top.joinpath(*parts[:depth]): None for depth in range(len(parts), -1, -1)}
    return list(folders)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        shown = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return shown.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
