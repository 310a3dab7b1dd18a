"""Peer: Hugging Face's Trainer on its own GPT-2, on the same shapes and data."""

import os
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from protocol import receive, send
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments


class Turns(TrainerCallback):
    """Waits for its turn after the first step, and again after every so many."""

    def __init__(self, parameters):
        self.parameters, self.left, self.start = parameters, None, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if self.left is None:
            send(ready=True, parameters=self.parameters)
        else:
            self.left -= 1
            if self.left:
                return
            send(seconds=time.perf_counter() - self.start)
        self.left = receive()["units"]
        self.start = time.perf_counter()


class Rows(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        row = self.data[index % len(self.data)]
        return {"input_ids": row, "labels": row}


def main():
    job = receive()
    torch.set_num_threads(job["n_threads"])
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=job["vocab_size"],
        n_embd=job["d_model"],
        n_layer=job["n_layers"],
        n_head=job["n_heads"],
        n_positions=job["context"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    net = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=job["batch_size"],
            max_steps=1_000_000,
            learning_rate=3e-4,
            adam_beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        turns = Turns(net.num_parameters())
        data = torch.randint(0, job["vocab_size"], (64, job["context"]))
        Trainer(model=net, args=arguments, train_dataset=Rows(data), callbacks=[turns]).train()


main()
