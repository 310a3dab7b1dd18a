"""A server in processes of its own, as a user starts it, and tiny models for it."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from touchstone.models import ClassifyHead, build, decoder_spec, encoder_spec, recurrent_spec
from touchstone.models.card import Calibration, Card, SentencePooling
from touchstone.models.checkpoint import save_model
from touchstone.models.quantized import numeric_scheme
from touchstone.models.weights import weights_hash
from touchstone.text.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parents[1] / "prompt"))
from tool_templates import HERMES, a_tokenizer

SPECIALS = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{%- for message in messages %}\n{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
)
TEXT = 'One day a girl met a dog. The dog said hello, and they went to the sea. 天 气 很 好 {"a": [1, 2.5, true]} assistant user system\n'
CONTEXT = 256
START_S = 60


def sharpened(spec, seed, factor=3.0):
    """A network whose matrices are enlarged, so that contexts matter and its text is not always the same."""
    net = build(spec, seed=seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return net.eval()


def write_chat_model(folder):
    """A decoder with a context of 256 tokens, a chat template, and a stored temperature for its next tokens."""
    tokenizer = Tokenizer.train([TEXT] * 9, kind="bpe", vocab_size=330, specials=SPECIALS)
    net = sharpened(decoder_spec(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=2, n_heads=4, max_seq_len=CONTEXT), seed=3)
    card = Card(chat_template=CHATML)
    save_model(folder, net, tokenizer=tokenizer, card=card)
    record = Calibration(
        target="next-token",
        method="temperature",
        params={"temperature": 1.5},
        statistic={"ece_before": 0.1, "ece_after": 0.01, "noise_floor": 0.01},
        weights_hash=weights_hash(net.state_dict()),
        numeric_scheme=numeric_scheme(net),
        n=1000,
        date="2026-11-26",
    )
    save_model(folder, net, tokenizer=tokenizer, card=card.replace(calibration=(record,)))
    return folder


def write_reading_model(folder, confidences=None):
    """An encoder of 24 tokens that tells one of three labels, with a stored temperature for them, and gives vectors: their plain mean.

    confidences: how many of those that the temperature was measured on fell in each bin; None = not kept.
    """
    tokenizer = Tokenizer.train([TEXT] * 9, kind="wordpiece", vocab_size=96)
    head = ClassifyHead(n_labels=3, pooling="first", activation="tanh")
    spec = encoder_spec(vocab_size=tokenizer.vocab_size, d_model=12, n_layers=2, n_heads=3, max_seq_len=24, d_ff=20, head=head)
    net = sharpened(spec, seed=5, factor=30.0)
    labels, pooling = ("bad", "fair", "good"), SentencePooling(mode="mean", normalise=False)
    record = Calibration(
        target="class",
        method="temperature",
        params={"temperature": 2.0, "n": 1000, "nll_before": 1.0, "nll_after": 0.9},
        statistic={"ece_before": 0.1, "ece_after": 0.01, "noise_floor": 0.01},
        weights_hash=weights_hash(net.state_dict()),
        numeric_scheme=numeric_scheme(net),
        n=1000,
        date="2026-11-26",
        confidences=confidences,
    )
    save_model(folder, net, tokenizer=tokenizer, card=Card(labels=labels, pooling=pooling, calibration=(record,)))
    return folder


def write_tools_model(folder):
    """A decoder with a chat template that has a place for tools."""
    tokenizer = a_tokenizer()
    net = build(decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=2048), seed=1)
    save_model(folder, net, tokenizer=tokenizer, card=Card(chat_template=HERMES))
    return folder


def write_id_model(folder):
    """A recurrent model without a tokenizer, and so without a chat template: it decodes in waves and takes token ids alone."""
    save_model(folder, sharpened(recurrent_spec(vocab_size=40, d_model=12, d_hidden=10, n_layers=1), seed=2, factor=8.0))
    return folder


def sdk(server, *, key="none", is_strict=True, kind=None, **settings):
    """A client of OpenAI's library. is_strict: what does not fit its types is an error; else it is handed on."""
    import openai

    settings = {"max_retries": 0, "timeout": 60, **settings}
    return (kind or openai.OpenAI)(base_url=f"{server.address}/v1", api_key=key, _strict_response_validation=is_strict, **settings)


def events_of(data):
    """The objects of a stream of server-sent events, as bytes; its last event is `[DONE]`, and nothing stands between or behind."""
    *lines, last, nothing = data.decode().split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def joined(chunks):
    """The whole completion (of /v1/completions or of chat) that the chunks of a stream add up to, as a client adds them up."""
    first, choices = chunks[0], {}
    assert {chunk["id"] for chunk in chunks} == {first["id"]}
    assert {(chunk["model"], chunk["object"], chunk["created"]) for chunk in chunks} == {
        (first["model"], first["object"], first["created"])
    }
    for told in (choice for chunk in chunks for choice in chunk["choices"]):
        one = choices.setdefault(told["index"], {"index": told["index"], "text": "", "roles": [], "logprobs": None, "finish_reason": None})
        assert one["finish_reason"] is None, "nothing of a choice follows its finish_reason"
        delta = told.get("delta", {"content": told.get("text")})
        one["roles"].append(delta.get("role"))
        one["text"] += delta.get("content") or ""
        one["finish_reason"] = told["finish_reason"]
        for name, values in (told["logprobs"] or {}).items():
            one["logprobs"] = one["logprobs"] or {}
            one["logprobs"].setdefault(name, []).extend(values)
        one |= {"confidence": told["confidence"]} if "confidence" in told else {}
    return [choices[index] for index in sorted(choices)]


def figures(server):
    """Every sample of /metrics, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    status, headers, data = server.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = [sample for family in text_string_to_metric_families(data.decode()) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


class Server:
    """`touchstone serve FOLDER --port 0 …` until it is closed. address, host, port: where it listens. log: what it wrote to stderr.

    script: the path of a Python file to run instead; it takes the folder and the options.
    """

    def __init__(self, folder, *options, environment=None, script=None):
        program = ["-m", "touchstone.cli.main", "serve", str(folder), "--port", "0"] if script is None else [str(script), str(folder)]
        command = [sys.executable, *program, *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        self.log = []
        self._ready = threading.Event()
        self.address = None
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self):
        """Until the model is open."""
        deadline = time.monotonic() + START_S
        while not self._ready.wait(0.05):
            assert self.process.poll() is None, "".join(self.log)
            assert time.monotonic() < deadline, "".join(self.log)
        return self

    def wait_for_address(self):
        """Until it listens; the model may still be loading."""
        deadline = time.monotonic() + START_S
        while self.address is None:
            assert self.process.poll() is None, "".join(self.log)
            assert time.monotonic() < deadline, "".join(self.log)
            time.sleep(0.01)
        return self

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, bytes) of one request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            kind = {"content-type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**kind, **(headers or {})})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def post(self, path, body, **options):
        """(status, what was answered) of a POST."""
        status, _, data = self.ask("POST", path, body, **options)
        return status, json.loads(data)

    def engine_pid(self):
        """The process that holds the model."""
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True)
        return next(int(line.split()[0]) for line in listed.stdout.splitlines() if "engine_process" in line)

    def end(self, sig=signal.SIGTERM, seconds=30):
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(seconds)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            told = json.loads(line) if line.startswith("{") else {}
            self.address = told.get("address", self.address)
            if told.get("event") == "ready":
                self._ready.set()
