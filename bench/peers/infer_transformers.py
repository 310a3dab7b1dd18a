"""Peer: Hugging Face transformers. It is also the reference: `grade` says what its network makes of another engine's tokens."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from infer_protocol import in_calls, padded, serve
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

CLASSES = {"bert": AutoModel, "marian": AutoModelForSeq2SeqLM}


class Transformers:
    def __init__(self, folder, kind, form, n_threads):
        torch.set_num_threads(n_threads)
        self.dtype, _, self.way = form.partition(" ")
        self.net = CLASSES.get(kind, AutoModelForCausalLM).from_pretrained(f"{folder}/hf", dtype=getattr(torch, self.dtype)).eval()
        self.reads_sources = kind == "marian"
        if kind != "bert":
            self.net.generation_config.eos_token_id = None  # goes on after an end token
            self.net.generation_config.pad_token_id = self.net.config.pad_token_id or 0

    def generate(self, prompts, n_new, num_beams):
        return self._generate_continuously(prompts, n_new) if self.way == "continuous" else self._generate(prompts, n_new, num_beams)

    @torch.inference_mode()
    def _generate(self, prompts, n_new, num_beams):
        token_ids, mask = padded(prompts, left=not self.reads_sources)
        written = self.net.generate(
            torch.tensor(token_ids), attention_mask=torch.tensor(mask), max_new_tokens=max(n_new), num_beams=num_beams, do_sample=False
        )
        written = written[:, 1:] if self.reads_sources else written[:, len(token_ids[0]) :]
        return [row[:n].tolist() for row, n in zip(written, n_new, strict=True)]

    @torch.inference_mode()
    def encode(self, rows, per_call):
        return [vector.tolist() for call in in_calls(rows, per_call) for vector in self._encode(call)]

    @torch.inference_mode()
    def grade(self, prompts, outputs):
        """Of every token that was written: how far its logit is below the best one, and that in standard deviations of the step's logits;
        and the log-probability of each output as a whole.
        """
        graded = []
        for prompt, output in zip(prompts, outputs, strict=True):
            logits = self._logits(prompt, output)
            chosen = torch.tensor(output)[:, None]
            gaps = (logits.max(dim=-1).values - logits.gather(1, chosen)[:, 0]) / logits.std(dim=-1)
            graded.append({"gaps": gaps.tolist(), "logprob": float(logits.log_softmax(dim=-1).gather(1, chosen).sum())})
        return graded

    def _logits(self, prompt, output):
        if self.reads_sources:
            start = [self.net.config.decoder_start_token_id]
            return self.net(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start + output[:-1]])).logits[0]
        return self.net(torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]

    def _encode(self, rows):
        token_ids, mask = padded(rows)
        mask = torch.tensor(mask)
        hidden = self.net(input_ids=torch.tensor(token_ids), attention_mask=mask).last_hidden_state
        return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def _generate_continuously(self, prompts, n_new):
        """Its own continuous batching, with a cache of 32 pages of 256 tokens; the pages stay from one call to the next."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        settings = ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=4096, max_requests_per_batch=32)
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max(n_new))
        with self.net.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=settings, persistent_manager=True
        ) as manager:
            ids = [manager.add_request(prompt, max_new_tokens=n) for prompt, n in zip(prompts, n_new, strict=True)]
            done = {}
            while len(done) < len(ids):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    done[result.request_id] = result
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching ended before its requests")
        if failed := [result.error for result in done.values() if result.error is not None]:
            raise RuntimeError(failed[0])
        return [list(done[id].generated_tokens) for id in ids]


serve(Transformers, transformers.__version__)
