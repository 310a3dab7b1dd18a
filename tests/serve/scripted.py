"""A server that speaks the API and answers what a test tells it to, for the page: no model, and every fault to order."""

import http.server
import json
import threading
from pathlib import Path

PAGE = Path(__file__).parents[2] / "src" / "touchstone" / "serve" / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/tokens.js": ("tokens.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ABORT = object()
"""A piece that ends the connection amid the answer."""


class Scripted:
    """Answers with `pieces` until it is closed, one chunk each, `delay_s` apart.

    A piece is a text, which is then one token of probability `probability`; (text, [(token, logprob), …]) where its tokens are not it;
    a dict, which is sent as it is; or ABORT. refusal: (status, message) to answer every request with. key: what a client must bring.
    health: what /health says. confidence: of each token, None = none is told. asked: (path, body) of every request; n_left: streams
    whose client went away; gate: an event that a stream waits for after its first piece, None = none.
    """

    def __init__(self):
        self.pieces, self.delay_s, self.gate = ["a"], 0.0, None
        self.key = self.refusal = None
        self.health, self.confidence = "ok", 0.5
        self.facts = {"can": ["classify", "encode", "generate", "loglikelihood", "rolling"], "chat": True, "calibrated": True}
        self.asked, self.n_left = [], 0
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"scripted": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._closing.set()
        if self.gate is not None:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def wait(self):
        """The time between two pieces."""
        self._closing.wait(self.delay_s)

    def chunk(self, path, piece, is_last):
        """A piece as the API sends it."""
        if isinstance(piece, dict):
            return piece
        text, tokens = piece if isinstance(piece, tuple) else (piece, [(piece, -0.1)])
        end = {"finish_reason": "stop" if is_last else None}
        if is_last and self.confidence is not None:
            n = sum(len(each[1]) if isinstance(each, tuple) else 1 for each in self.pieces)
            end["confidence"] = {"value": [self.confidence] * n, "method": "temperature", "target": "next-token"}
        tops = [[*token, "other", -2.5] for token in tokens]
        if path == "/v1/completions":
            logprobs = {
                "tokens": [name for name, _ in tokens],
                "token_logprobs": [logprob for _, logprob in tokens],
                "top_logprobs": [{name: logprob, other: least} for name, logprob, other, least in tops],
                "text_offset": [0] * len(tokens),
            }
            return {"choices": [{"index": 0, "text": text, "logprobs": logprobs, **end}]}
        entries = [
            {"token": name, "logprob": logprob, "top_logprobs": [{"token": name, "logprob": logprob}, {"token": other, "logprob": least}]}
            for name, logprob, other, least in tops
        ]
        return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": entries}, **end}]}


class _Handler(http.server.BaseHTTPRequestHandler):
    scripted: Scripted

    def do_GET(self):
        if self.path in FILES:
            name, kind = FILES[self.path]
            self.reply(200, (PAGE / name).read_bytes(), kind)
        elif self.path == "/health":
            self.reply(200 if self.scripted.health == "ok" else 503, json.dumps({"status": self.scripted.health}).encode())
        elif self.path == "/v1/models" and self.is_let_in():
            self.reply(200, json.dumps({"data": [{"id": "scripted", "max_model_len": 2048, **self.scripted.facts}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.is_let_in():
            return
        self.scripted.asked.append((self.path, body))
        if self.scripted.refusal is not None:
            self.refuse(*self.scripted.refusal)
        elif self.path == "/v1/classify":
            found = {"label": "good", "labels": ["bad", "good"], "probabilities": [0.25, 0.75]}
            self.reply(200, json.dumps({"data": [found]}).encode())
        else:
            self.stream()

    def stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for number, piece in enumerate(self.scripted.pieces):
                if piece is ABORT:
                    return
                chunk = self.scripted.chunk(self.path, piece, number == len(self.scripted.pieces) - 1)
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                self.wfile.flush()
                if number == 0 and self.scripted.gate is not None:
                    self.scripted.gate.wait()
                self.scripted.wait()
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.scripted.n_left += 1

    def is_let_in(self):
        if self.scripted.key is None or self.headers.get("authorization") == f"Bearer {self.scripted.key}":
            return True
        self.refuse(401, "An API key is needed.")
        return False

    def refuse(self, status, message):
        self.reply(status, json.dumps({"error": {"message": message, "type": "error", "param": None, "code": None}}).encode())

    def reply(self, status, data, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-security-policy", POLICY)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        """No word: tests read `asked`."""
