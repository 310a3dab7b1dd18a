"""A tiny model and a task of closed questions; run as a program, an evaluation that waits to be told to go on, so that it can be killed.

    python tiny_evaluation.py FOLDER LOG

After every batch it says how many examples are done and waits for a line; LOG gets the id of each example that is scored.
"""

import sys
from pathlib import Path

from touchstone.evaluate.ask import ChoiceRequest
from touchstone.evaluate.figures import Metric
from touchstone.evaluate.run import run_task
from touchstone.evaluate.task import Baseline, EvalExample, EvalTask, Examples
from touchstone.infer import LanguageModel
from touchstone.models import build, decoder_spec
from touchstone.text.tokenizer import Tokenizer

N = 40
WORDS = ("red", "green", "blue", "yellow")


def make_model(seed=3, max_seq_len=64):
    tokenizer = Tokenizer.train(["the colour of the sky is red, green, blue or yellow\n"] * 9, kind="bpe", vocab_size=280)
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=4, max_seq_len=max_seq_len)
    return LanguageModel(build(spec, seed=seed).eval(), tokenizer=tokenizer)


def make_examples(n=N):
    for number in range(n):
        context = "the colour " * (1 + number * 7 % 5) + "is"
        yield EvalExample(f"q{number}", f"q{number}", {"context": context, "right": number % 4}, f"colours.jsonl:{number + 1}")


def ask(example):
    return [ChoiceRequest(example.fields["context"], tuple(f" {word}" for word in WORDS))]


def score(example, outputs):
    return {"accuracy": float(outputs[0].best == example.fields["right"]), "share": outputs[0].shares[example.fields["right"]]}


def make_task(examples=None, **changes):
    settings = {
        "name": "colours",
        "description": "Which colour it is.",
        "language": "en",
        "examples": examples if examples is not None else Examples(make_examples),
        "requests": ask,
        "score": score,
        "metrics": (Metric(name="accuracy", kind="share", columns=("accuracy",)), Metric(name="share", kind="mean", columns=("share",))),
        "baselines": (Baseline("random", lambda example: {"accuracy": 0.25, "share": -1.3862943611198906}),),
        "template": "{context}",
    }
    return EvalTask(**{**settings, **changes})


def main(folder, log):
    def scored(example, outputs):
        with Path(log).open("a") as file:
            file.write(example.id + "\n")
        return score(example, outputs)

    def wait(done, total):
        print(done, flush=True)
        sys.stdin.readline()

    run_task(make_model(), make_task(score=scored), folder=folder, batch_tokens=150, progress=wait)


if __name__ == "__main__":
    main(*sys.argv[1:])
