"""What a pass of the decoder costs: its operations, what it leaves out, and that a training step compiles."""

import shutil
import subprocess
import sys

import pytest
import torch
from test_transformer import EVERY_POSITION, B, T, decoder, ids
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from touchstone.models import stack


class Operations(TorchDispatchMode):
    """Names of the operations run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@EVERY_POSITION
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_plain_training_pass_reads_nothing_back_and_makes_no_mask(positions, dropout, monkeypatch):
    monkeypatch.setattr(stack, "attention_mask", None)
    net, token_ids = decoder(train=True, positions=positions, dropout=dropout), ids()
    with Operations() as operations:
        net(token_ids).logits.sum().backward()
    assert "addmm" in operations.names or "mm" in operations.names
    assert not {"_local_scalar_dense", "nonzero", "is_nonzero"} & set(operations.names)


@EVERY_POSITION
@pytest.mark.parametrize("gated", [False, True])
def test_flops_are_those_torch_counts_over_the_whole_square(positions, gated):
    net = decoder("reference", positions=positions, gated=gated, n_kv_heads=2)
    with FlopCounterMode(display=False) as counter:
        net(ids())
    assert counter.get_total_flops() == B * T * net.spec.flops_per_token(T)


def test_training_takes_three_times_the_operations():
    net = decoder("reference", train=True, n_kv_heads=2, tied=False)
    with FlopCounterMode(display=False) as counter:
        net(None, embeddings=torch.randn(B, T, 8, requires_grad=True)).logits.sum().backward()
    assert counter.get_total_flops() == 3 * B * T * net.spec.flops_per_token(T)


COMPILED = """
import sys, torch
from touchstone.models import build, decoder_spec

def check(backend, **settings):
    net = build(decoder_spec(vocab_size=11, d_model=8, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=16, qk_norm=True, **settings))
    net, token_ids, results = net.train(), torch.arange(15).view(3, 5) % 11, []
    for run in (net, torch.compile(net, backend=backend, fullgraph=True)):
        logits = run(token_ids).logits
        results.append((logits, *torch.autograd.grad(logits.square().mean(), list(net.parameters()))))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch._dynamo.reset()

for positions in ("rotary", "learned", "sinusoidal", "alibi", "none"):
    check("aot_eager", positions=positions)
check(sys.argv[1], window=3)
"""


@pytest.mark.slow
def test_a_training_step_compiles_to_one_graph_and_equals_the_plain_one():
    """In a process without the shape checks, which a compiler cannot follow; to machine code where there is a C++ compiler."""
    backend = "inductor" if any(map(shutil.which, ("g++", "clang++", "c++"))) else "aot_eager"
    run = subprocess.run([sys.executable, "-c", COMPILED, backend], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
