"""lm-evaluation-harness with its own Hugging Face model: log-likelihoods of given token ids."""

import os
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import tokenizers
import torch
import transformers
from infer_protocol import serve
from lm_eval.models.huggingface import HFLM

BATCH_SIZE = 16  # the fastest of 1, 4, 16 and 64 for both jobs, as a user would find it


class Harness:
    def __init__(self, folder, kind, form, n_threads):
        torch.set_num_threads(n_threads)
        net = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/hf", dtype=torch.float32).eval()
        names = {f"w{n}": n for n in range(net.config.vocab_size)}
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="w0"))
        words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1", bos_token="w1")
        self.lm = HFLM(pretrained=net, tokenizer=tokenizer, device="cpu", batch_size=BATCH_SIZE, max_length=net.config.n_positions)

    def score(self, pairs):
        requests = [((str(number), ""), context, continuation) for number, (context, continuation) in enumerate(pairs)]
        found = self.lm._loglikelihood_tokens(requests, disable_tqdm=True)  # what its `loglikelihood` calls once it has encoded
        return [[float(logprob), bool(greedy)] for logprob, greedy in found]


serve(Harness, version("lm_eval"))
