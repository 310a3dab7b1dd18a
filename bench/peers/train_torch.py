"""Peer: a plain PyTorch training loop over a GPT-2 shaped model, written the way one writes it by hand.

Fused q/k/v projection, torch's scaled dot product attention, torch's AdamW, gradient clipping - what nanoGPT's model and loop do.
"""

import math
import time

import torch
from protocol import receive, send
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.n_heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(d, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab_size, d_model, n_layers, n_heads, context):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * n_layers) if "out" in name or "down" in name else 1))

    def forward(self, token_ids, targets):
        x = self.tokens(token_ids) + self.places(torch.arange(token_ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main():
    job = receive()
    torch.set_num_threads(job["n_threads"])
    torch.manual_seed(0)
    net = Gpt(job["vocab_size"], job["d_model"], job["n_layers"], job["n_heads"], job["context"])
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    data = torch.randint(0, job["vocab_size"], (64, job["context"] + 1))
    place = 0

    def step():
        nonlocal place
        rows = data[[(place + row) % len(data) for row in range(job["batch_size"])]]
        place += job["batch_size"]
        loss = net(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    first = step()
    send(ready=True, parameters=sum(p.numel() for p in net.parameters()), first_loss=first)
    while True:
        n_steps = receive()["units"]
        start = time.perf_counter()
        for _ in range(n_steps):
            step()
        send(seconds=time.perf_counter() - start)


main()
