"""Peer: CTranslate2. Requests of different lengths share one batch, and all are written as long as the longest."""

import ctranslate2
import numpy as np
from infer_protocol import in_calls, serve

CLASSES = {"bert": ctranslate2.Encoder, "marian": ctranslate2.Translator}


class CTranslate2:
    def __init__(self, folder, kind, form, n_threads):
        engine = CLASSES.get(kind, ctranslate2.Generator)
        self.model = engine(f"{folder}/ctranslate2-{form}", compute_type=form, inter_threads=1, intra_threads=n_threads)
        self.kind = kind

    def generate(self, prompts, n_new, num_beams):
        words = [[word(token) for token in prompt] for prompt in prompts]
        longest = max(n_new)
        if self.kind == "marian":
            done = self.model.translate_batch(words, beam_size=num_beams, max_decoding_length=longest, min_decoding_length=longest)
            written = [[number(token) for token in result.hypotheses[0]] for result in done]
        else:
            done = self.model.generate_batch(
                words, beam_size=num_beams, max_length=longest, min_length=longest, include_prompt_in_result=False
            )
            written = [result.sequences_ids[0] for result in done]
        return [row[:n] for row, n in zip(written, n_new, strict=True)]

    def encode(self, rows, per_call):
        return [vector.tolist() for call in in_calls(rows, per_call) for vector in self._encode(call)]

    def _encode(self, rows):
        hidden = np.array(self.model.forward_batch(rows).last_hidden_state)
        return [tokens[: len(row)].mean(axis=0) for tokens, row in zip(hidden, rows, strict=True)]


def word(token):
    return {0: "<unk>", 1: "</s>"}.get(token, f"w{token}")


def number(text):
    return {"<unk>": 0, "</s>": 1}[text] if text.startswith("<") else int(text[1:])


serve(CTranslate2, ctranslate2.__version__)
