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
from touchstone.models.rnn import RecurrentDecoder, RecurrentEncoder, RecurrentEncoderDecoder
from touchstone.models.spec import ModelSpec, Stack
from touchstone.models.transformer import Decoder, Encoder, EncoderDecoder, KernelName
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
        net = _net(spec, kernel)
    number_dropouts(net)
    use_product(net, product)
    if seed is not None:
        initialise(net, seed)
    return net


def _net(spec: ModelSpec, kernel: KernelName) -> LanguageNet:
    attention: dict[str, type[Decoder | Encoder]] = {"decoder": Decoder, "encoder": Encoder, "encoder-decoder": EncoderDecoder}
    if spec.kind in attention:
        return attention[spec.kind](spec, kernel)
    recurrent: dict[str, type[RecurrentDecoder | RecurrentEncoder]] = {
        "recurrent": RecurrentDecoder,
        "recurrent-encoder": RecurrentEncoder,
        "recurrent-encoder-decoder": RecurrentEncoderDecoder,
    }
    return recurrent[spec.kind](spec)


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
    for name, stack in net.spec.stacks.items():
        if isinstance(stack, Stack) and stack.blocks:
            _shrink(net.get_submodule(name), 1.0 / math.sqrt(2 * len(stack.blocks)))


def _shrink(stack: nn.Module, factor: float) -> None:
    """Of what writes to the residual stream."""
    for module in stack.modules():
        if isinstance(module, Attention):
            module.o_proj.weight.mul_(factor)
        if isinstance(module, Mlp):
            module.down_proj.weight.mul_(factor)


def _initialise_recurrent(layer: RecurrentLayer, rng: torch.Generator) -> None:
    d_hidden = layer.cell.hidden_size
    for parameter in layer.cell.parameters():
        parameter.uniform_(-1 / math.sqrt(d_hidden), 1 / math.sqrt(d_hidden), generator=rng)
    if isinstance(layer.cell, nn.LSTM):
        for name, parameter in layer.cell.named_parameters():
            if name.startswith("bias"):  # gates lie as input, forget, cell, output
                parameter[d_hidden : 2 * d_hidden] = 1.0 if name.startswith("bias_ih") else 0.0
