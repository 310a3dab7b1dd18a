"""From a spec to a network: built on a device, then given its first weights from a seed.

First weights: normal with deviation 0.02, the products that write to the residual stream divided by sqrt(2 n_layers), biases zero,
norms one (Radford et al. 2019 §2.3); LSTM and GRU weights uniform in ±1/sqrt(d_hidden), the LSTM's forget bias one (Jozefowicz et
al. 2015).
"""

import math

import torch
from torch import nn

from touchstone.models.heads import TiedHead
from touchstone.models.net import LanguageNet
from touchstone.models.rnn import RecurrentDecoder
from touchstone.models.spec import ModelSpec
from touchstone.models.transformer import Decoder, KernelName
from touchstone.nn.attention import Attention
from touchstone.nn.dropout import number_dropouts
from touchstone.nn.mlp import Mlp
from touchstone.nn.norm import RMSNorm
from touchstone.nn.products import ProductName, use_product
from touchstone.nn.recurrent import RecurrentLayer

__all__ = ["build", "initialise"]

STD = 0.02


def build(spec: ModelSpec, *, kernel: KernelName = "sdpa", product: ProductName = "torch", seed: int | None = 0) -> LanguageNet:
    """The network of a spec in fp32 on the CPU; seed None leaves the weights to a loader that fills every one."""
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that are overwritten: its generator stays where it was
        net: LanguageNet = RecurrentDecoder(spec) if spec.kind == "recurrent" else Decoder(spec, kernel)
    number_dropouts(net)
    use_product(net, product)
    if seed is not None:
        initialise(net, seed)
    return net


@torch.no_grad()
def initialise(net: LanguageNet, seed: int, std: float = STD) -> None:
    """Draw the first weights; the same seed and spec give the same weights."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0.0, std, generator=rng)
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm, TiedHead)) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, (nn.LayerNorm, RMSNorm)):
            module.weight.fill_(1.0)
        if isinstance(module, RecurrentLayer):
            _initialise_recurrent(module, rng)
    shrink = 1.0 / math.sqrt(2 * net.spec.n_layers)
    for module in net.modules():
        if isinstance(module, Attention):
            module.o_proj.weight.mul_(shrink)
        if isinstance(module, Mlp):
            module.down_proj.weight.mul_(shrink)


def _initialise_recurrent(layer: RecurrentLayer, rng: torch.Generator) -> None:
    d_hidden = layer.cell.hidden_size
    for parameter in layer.cell.parameters():
        parameter.uniform_(-1 / math.sqrt(d_hidden), 1 / math.sqrt(d_hidden), generator=rng)
    if isinstance(layer.cell, nn.LSTM):
        biases = dict(layer.cell.named_parameters())
        biases["bias_ih_l0"][d_hidden : 2 * d_hidden] = 1.0  # gates lie as input, forget, cell, output
        biases["bias_hh_l0"][d_hidden : 2 * d_hidden] = 0.0
