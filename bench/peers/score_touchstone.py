"""Touchstone: log-likelihoods of given token ids, through its public calls alone."""

from infer_protocol import serve

import touchstone


class Touchstone:
    def __init__(self, folder, kind, form, n_threads):
        self.model = touchstone.load(f"{folder}/hf", device="cpu", weights="int8" if form == "int8" else None)

    def score(self, pairs):
        return [[found.logprob, found.is_greedy] for found in self.model.loglikelihood([tuple(pair) for pair in pairs])]


serve(Touchstone, touchstone.__version__)
