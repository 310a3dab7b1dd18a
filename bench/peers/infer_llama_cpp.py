"""Peer: llama.cpp, through the functions of its own API that its server uses: every request is a sequence of one batch, until it ends.

Each number of sequences has a context of its own, so that a single request pays nothing for the room of sixteen.
"""

import llama_cpp
import numpy as np
from infer_protocol import serve

MAX_LENGTH = 640  # tokens of one sequence; the longest here are 512 and what follows
MAX_BATCH = 2048  # tokens of one call: sixteen prompts of up to 128


class LlamaCpp:
    def __init__(self, folder, kind, form, n_threads):
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(f"{folder}/gguf-{form}/model.gguf".encode(), settings)
        assert self.model, "the model could not be loaded"
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.n_threads = n_threads
        self.batch = llama_cpp.llama_batch_init(MAX_BATCH, 0, 1)
        self.contexts = {}

    def generate(self, prompts, n_new, num_beams):
        assert num_beams == 1, "llama.cpp has no beam search"
        context = self._context(len(prompts))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        self.written = [[] for _ in prompts]
        self._read(context, [(row, prompt, 0) for row, prompt in enumerate(prompts)])
        while going := [row for row, n in enumerate(n_new) if len(self.written[row]) < n]:
            self._read(context, [(row, self.written[row][-1:], len(prompts[row]) + len(self.written[row]) - 1) for row in going])
        return self.written

    def _context(self, n_rows):
        if n_rows not in self.contexts:
            settings = llama_cpp.llama_context_default_params()
            settings.n_ctx, settings.n_seq_max, settings.n_batch = MAX_LENGTH * n_rows, n_rows, MAX_BATCH
            settings.n_threads = settings.n_threads_batch = self.n_threads
            self.contexts[n_rows] = llama_cpp.llama_init_from_model(self.model, settings)
            assert self.contexts[n_rows], f"no context for {n_rows} sequences could be made"
        return self.contexts[n_rows]

    def _read(self, context, pieces):
        """Read (row, tokens, first position) of every sequence in one call, and write each one's likeliest next token."""
        batch, ends = self.batch, []
        batch.n_tokens = 0
        for row, tokens, first in pieces:
            for place, token in enumerate(tokens):
                at = batch.n_tokens
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, first + place, 1
                batch.seq_id[at][0], batch.logits[at] = row, place == len(tokens) - 1
                batch.n_tokens += 1
            ends.append((row, batch.n_tokens - 1))
        failed = llama_cpp.llama_decode(context, batch)
        assert not failed, f"llama_decode returned {failed}"
        for row, at in ends:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, at), (self.vocab_size,))
            self.written[row].append(int(logits.argmax()))


serve(LlamaCpp, llama_cpp.__version__)
