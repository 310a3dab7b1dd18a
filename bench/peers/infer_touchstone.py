"""Touchstone, through its public calls alone."""

from infer_protocol import Unavailable, serve

import touchstone
from touchstone.errors import Unsupported

FORMS = {"float32": None, "int8": "int8"}


class Touchstone:
    def __init__(self, folder, kind, form, n_threads):
        try:
            self.model = touchstone.load(f"{folder}/hf", device="cpu", weights=FORMS[form])
        except Unsupported as reason:
            raise Unavailable(str(reason)) from None
        decided = self.model.runtime.n_threads
        assert decided == n_threads, f"touchstone took {decided} threads by itself, the others have {n_threads}"

    def generate(self, prompts, n_new, num_beams):
        from touchstone.infer import Request, Sampling

        requests = [Request(prompt, Sampling(max_new_tokens=n)) for prompt, n in zip(prompts, n_new, strict=True)]
        done = self.model.generate(requests, temperature=0, ignore_eos=True, num_beams=num_beams)
        return [list(completion.token_ids) for completion in done]

    def encode(self, rows, per_call):
        """Texts whose tokens are the given ones: reading them is part of the time."""
        texts = [" ".join(f"w{token}" for token in row) for row in rows]
        size = per_call or len(texts)
        return [vector.tolist() for start in range(0, len(texts), size) for vector in self.model.encode(texts[start : start + size])]


serve(Touchstone, touchstone.__version__)
