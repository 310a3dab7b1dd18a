"""Device, type, threads and seeds; what the kernel says is played by files of our own."""

import json
import mmap
import os
import platform
import random
import subprocess
import sys

import numpy
import pytest
import torch

from touchstone import runtime
from touchstone.errors import DeviceError


@pytest.fixture
def cgroup(tmp_path):
    """Write a file below a cgroup root; returns the quota that is then found for a membership."""

    def put(files, membership):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        (tmp_path / "membership").write_text(membership)
        return runtime._quota_cores(tmp_path / "cgroup", tmp_path / "membership")

    return put


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"cpu.max": "150000 100000"}, "0::/\n", 2),  # one and a half cores, rounded up
        ({"cpu.max": "20000 100000"}, "0::/\n", 1),
        ({"cpu.max": "800000 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 3),  # the parent's limit
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n0::/\n", None),
        ({"cpu,cpuacct/d/cpu.cfs_quota_us": "250000", "cpu,cpuacct/d/cpu.cfs_period_us": "50000"}, "4:cpu,cpuacct:/d\n", 5),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/seen/from/outside\n", 4),
        ({"cpuset/cpu.max": "100000 100000"}, "2:cpuset:/\n", None),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({}, "", None),
    ],
)
def test_the_quota_of_the_container_is_read_in_both_versions(cgroup, files, membership, cores):
    assert cgroup(files, membership) == cores


@pytest.mark.parametrize(("affinity", "quota", "cores"), [(8, None, 8), (8, 3, 3), (2, 5, 2), (0, None, 1)])
def test_cores_are_the_lesser_of_affinity_and_quota_and_at_least_one(monkeypatch, affinity, quota, cores):
    monkeypatch.setattr(runtime, "_affinity_cores", lambda: affinity)
    monkeypatch.setattr(runtime, "_quota_cores", lambda: quota)
    assert runtime.available_cores() == cores


def test_threads_follow_the_argument_then_the_environment_then_the_cores(monkeypatch, threads):
    monkeypatch.setattr(runtime, "available_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert runtime.set_threads(5) == torch.get_num_threads() == 5
    assert runtime.set_threads() == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert runtime.set_threads() == torch.get_num_threads() == 3
    with pytest.raises(DeviceError, match="at least 1, not 0"):
        runtime.set_threads(0)


@pytest.mark.slow
def test_the_module_leaves_torch_alone_until_the_threads_are_settled():
    code = (
        "import os, sys, touchstone.runtime as r; r.available_cores(); r.memory_bytes(); assert 'torch' not in sys.modules\n"
        "assert r.before_torch() and os.environ['GOMP_SPINCOUNT'] == '20000'\n"
        "os.environ['GOMP_SPINCOUNT'] = '7'; assert r.before_torch() and os.environ['GOMP_SPINCOUNT'] == '7'\n"
        "r.set_threads(1); assert 'torch' in sys.modules and not r.before_torch()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_cpu_computes_in_float32_and_says_why(threads):
    chosen = runtime.choose_runtime("cpu", n_threads=1)
    assert (chosen.device, chosen.dtype, chosen.n_threads) == (torch.device("cpu"), torch.float32, 1)
    assert chosen.reasons.keys() == {"device", "dtype", "threads"}
    assert "bfloat16" in chosen.reasons["dtype"]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", runtime.DTYPES)
def test_a_type_that_was_asked_for_is_taken(threads, name):
    assert runtime.choose_runtime("cpu", name, n_threads=1).dtype == getattr(torch, name)


@pytest.mark.parametrize(("device", "dtype", "says"), [("tpu", "auto", "no device `tpu`"), ("cpu", "float16", "No numeric type `float16`")])
def test_what_is_not_there_is_refused_with_what_is(threads, device, dtype, says):
    with pytest.raises(DeviceError, match=f"{says}.*(cpu|float32)"):
        runtime.choose_runtime(device, dtype, n_threads=1)


@pytest.mark.parametrize(
    ("capability", "asked", "expected"),
    [
        ((9, 0), "auto", torch.bfloat16),
        ((7, 5), "auto", torch.float32),
        ((7, 5), "bfloat16", DeviceError),
        ((8, 0), "float64", torch.float64),
    ],
)
def test_a_gpu_computes_in_bfloat16_only_if_it_has_the_units(monkeypatch, threads, capability, asked, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU of the test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if expected is DeviceError:
        with pytest.raises(DeviceError, match="cannot compute in bfloat16"):
            runtime.choose_runtime("auto", asked, n_threads=1)
    else:
        chosen = runtime.choose_runtime("auto", asked, n_threads=1)
        assert (chosen.device.type, chosen.dtype) == ("cuda", expected)
        assert "a GPU of the test" in chosen.reasons["device"]
    with pytest.raises(DeviceError, match="no device `cuda:1`; it has cpu, cuda:0"):
        runtime.choose_runtime("cuda:1", n_threads=1)


def test_one_seed_settles_all_three_generators():
    def draw():
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    runtime.seed_everything(11)
    first = draw()
    runtime.seed_everything(12)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    runtime.seed_everything(11)
    assert draw() == first
    runtime.seed_everything(11 + (1 << 32))  # numpy takes 32 bits only


def test_the_environment_is_plain_data_that_names_versions_and_machine(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX2,STRICT")
    found = runtime.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == torch.__version__
    assert found["n_threads"] == torch.get_num_threads()
    assert found["settings"]["MKL_CBWR"] == "AVX2,STRICT"
    assert found["cpu"]


def test_memory_held_grows_with_an_array_and_the_peak_stays():
    before = runtime.resident_bytes()
    pages = mmap.mmap(-1, 64 << 20)  # memory of its own: an array may stand in what an earlier test gave back
    numpy.frombuffer(pages, dtype=numpy.uint8)[:] = 1
    assert runtime.resident_bytes() - before > 48 << 20
    peak = runtime.peak_resident_bytes()
    assert peak >= before + (48 << 20)
    pages.close()
    assert runtime.peak_resident_bytes() > peak - (4 << 20)  # the kernel counts pages in batches
    assert runtime.memory_bytes() >= peak


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such settings")
@pytest.mark.parametrize(
    ("users", "kept"),
    [
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
    ],
)
def test_large_buffers_are_kept_for_the_next_ones_and_go_back_afterwards(users, kept):
    code = (
        "import ctypes, resource, numpy, touchstone.runtime as r\n"
        "ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size\n"
        "n_pages = (100 << 20) // resource.getpagesize()\n"
        "def faulted():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    numpy.empty(100 << 20, dtype=numpy.uint8)[:: resource.getpagesize()] = 1\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before >= n_pages // 2\n"
        "with r.large_buffers_kept():\n"
        "    faulted()\n"
        "    again = faulted()\n"
        "    with r.large_buffers_kept():\n"
        "        faulted()\n"
        "    r.before_torch()  # who sets it anew meanwhile takes nothing away\n"
        "    faulted()\n"
        "    once_more, held = faulted(), r.resident_bytes()\n"
        "print(again, once_more, held - r.resident_bytes() > 90 << 20, faulted())\n"
    )
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=unset | users, capture_output=True, text=True)
    expected = ["False", "False", "True", "True"] if kept else ["True", "True", "False", "True"]
    assert done.stdout.split() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_the_gpu(threads):
    assert runtime.choose_runtime(n_threads=1).device.type == "cuda"
