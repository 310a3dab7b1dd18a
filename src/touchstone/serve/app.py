"""The routes. What a body may hold is said in protocol.py, and what is answered in told.py.

A route reads its request, asks the engine process, and never blocks: whatever takes long is awaited.
"""

import base64
import functools
import struct
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from touchstone.serve.api_error import ApiError
from touchstone.serve.chat_request import ChatRequest
from touchstone.serve.gauges import CONTENT_TYPE
from touchstone.serve.limits import Visit
from touchstone.serve.openapi import DescribedApi
from touchstone.serve.protocol import (
    ClassifyRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Generating,
    ScoreRequest,
    TokenizeRequest,
    read_request,
)
from touchstone.serve.replies import Reply, StreamedReply, refusal
from touchstone.serve.service import Service
from touchstone.serve.told import ChatAnswer, CompletionAnswer

__all__ = ["build_app"]

_PAGE = {
    "/": ("index.html", "text/html"),
    "/words.js": ("words.js", "text/javascript"),
    "/tokens.js": ("tokens.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

A = TypeVar("A", bound=Any)


def build_app(service: Service) -> FastAPI:
    """The application; `limits.Guard` must stand before it: it reads the bodies and lets nobody else in."""
    posts: dict[str, tuple[Any, type[BaseModel]]] = {
        "/v1/completions": (completions, CompletionRequest),
        "/v1/chat/completions": (chat_completions, ChatRequest),
        "/v1/embeddings": (embeddings, EmbeddingRequest),
        "/v1/score": (score, ScoreRequest),
        "/v1/classify": (classify, ClassifyRequest),
        "/tokenize": (tokenize, TokenizeRequest),
        "/detokenize": (detokenize, DetokenizeRequest),
    }
    app = DescribedApi({path: kind for path, (_, kind) in posts.items()})
    app.state.service = service
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _refused)
    for path in _PAGE:
        app.add_api_route(path, _page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"])
    for prefix in ("/v1", ""):
        app.add_api_route(f"{prefix}/models", models, methods=["GET"], include_in_schema=bool(prefix))
    app.add_api_route("/v1/models/{name:path}", one_model, methods=["GET"])
    for path, (route, _) in posts.items():
        app.add_api_route(path, _counted(route), methods=["POST"])
    return app


async def health(request: Request) -> Response:
    """Whether requests are answered."""
    state = _service(request).state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503, headers={} if state == "ok" else {"retry-after": "2"})


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    service = _service(request)
    engine = None
    if service.supervisor.state == "ready":
        try:
            engine = (await service.supervisor.ask({"do": "stats"}))["facts"]
        except ApiError:  # it died meanwhile: the figure that says so is there
            engine = None
    return Response(service.gauges.text(engine, service.supervisor.n_starts), media_type=CONTENT_TYPE)


async def models(request: Request) -> Response:
    """The model that is served."""
    return JSONResponse({"object": "list", "data": [_card(_service(request))]})


async def one_model(request: Request, name: str) -> Response:
    """One model by its name."""
    service = _service(request)
    service.check_model(name)
    return JSONResponse(_card(service))


async def completions(request: Request) -> Response:
    """Go on from prompts."""
    service, visit = _service(request), _visit(request)
    asked = _asked(service, request, CompletionRequest)
    message = _generation(asked, visit) | {"prompts": asked.prompt, "echo": bool(asked.echo)}
    message["sampling"] |= {"max_new_tokens": asked.n_tokens} | ({} if asked.logprobs is None else {"top_logprobs": asked.logprobs})
    tells_ids = bool(asked.return_token_ids) or not service.supervisor.facts.get("has_tokenizer", True)
    answer = CompletionAnswer(service.name, len(asked.prompt), asked.n or 1, asked.logprobs, tells_ids=tells_ids)
    return _written(service, visit, "completions", asked, message, answer)


async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    service, visit = _service(request), _visit(request)
    asked = _asked(service, request, ChatRequest)
    longest = service.supervisor.facts.get("max_seq_len")
    n_tokens = asked.n_tokens if asked.n_tokens is not None else longest
    if n_tokens is not None and (asked.min_tokens or 0) > n_tokens:
        raise ApiError(400, f"`min_tokens` ({asked.min_tokens}) must be at most the context's {n_tokens} tokens.", param="min_tokens")
    n_top = (asked.top_logprobs or 0) if asked.logprobs else None
    message = _generation(asked, visit) | {"messages": [each.plain() for each in asked.messages]} | asked.tool_use()
    message["sampling"] |= {"max_new_tokens": n_tokens} if n_tokens is not None else {}
    message["sampling"] |= {} if n_top is None else {"top_logprobs": n_top}
    answer = ChatAnswer(service.name, 1, asked.n or 1, n_top)
    return _written(service, visit, "chat", asked, message, answer)


async def embeddings(request: Request) -> Response:
    """Vectors of texts, each of length one."""
    service = _service(request)
    asked = _asked(service, request, EmbeddingRequest)
    service.check_can("encode")

    def told(received: list[dict[str, Any]]) -> dict[str, Any]:
        vectors = [_base64(vector) if asked.encoding_format == "base64" else vector for vector in _all(received, "vectors")]
        entries = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return {"object": "list", "data": entries, "model": service.name, "usage": _usage(received)}

    return _read(service, "embeddings", {"do": "embed", "texts": asked.input}, told)


async def score(request: Request) -> Response:
    """How likely given continuations are."""
    service = _service(request)
    asked = _asked(service, request, ScoreRequest)
    service.check_can("loglikelihood")

    def told(received: list[dict[str, Any]]) -> dict[str, Any]:
        entries = [{"index": index, **entry} for index, entry in enumerate(_all(received, "scores"))]
        facts: dict[str, Any] = next((message["facts"] for message in received if "facts" in message), {})
        return {"object": "list", "data": entries, "model": service.name, **facts}

    return _read(service, "score", {"do": "score", **asked.model_dump(exclude={"model"})}, told)


async def classify(request: Request) -> Response:
    """The label of each text, by the model's head."""
    service = _service(request)
    asked = _asked(service, request, ClassifyRequest)
    service.check_can("classify")

    def told(received: list[dict[str, Any]]) -> dict[str, Any]:
        entries = [{"index": index, **answer} for index, answer in enumerate(_all(received, "answers"))]
        return {"object": "list", "data": entries, "model": service.name, "usage": _usage(received)}

    return _read(service, "classify", {"do": "classify", "texts": asked.input}, told)


async def tokenize(request: Request) -> Response:
    """A text as token ids."""
    service = _service(request)
    asked = _asked(service, request, TokenizeRequest)

    def told(received: list[dict[str, Any]]) -> dict[str, Any]:
        ids, pieces = received[0]["ids"], received[0]["pieces"]
        tokens = ids if pieces is None else [{"id": piece["id"], "piece": piece["token"]} for piece in pieces]
        return {"tokens": tokens, "count": len(ids), "max_model_len": service.supervisor.facts.get("max_seq_len")}

    message = {"do": "tokenize", "text": asked.text, "add_special": asked.adds_special, "with_pieces": asked.with_pieces}
    return _read(service, "tokenize", message, told)


async def detokenize(request: Request) -> Response:
    """Token ids as a text."""
    service = _service(request)
    asked = _asked(service, request, DetokenizeRequest)

    def told(received: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content": received[0]["text"], "prompt": received[0]["text"]}

    return _read(service, "detokenize", {"do": "detokenize", "ids": asked.tokens}, told)


def _counted(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route whose refusals are counted; what it takes is counted as it ends."""

    @functools.wraps(route)
    async def counted(request: Request) -> Response:
        try:
            return await route(request)
        except ApiError as error:
            _service(request).gauges.refused(request.scope["path"], error.status)
            raise

    return counted


def _read(service: Service, endpoint: str, message: dict[str, Any], told: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Response:
    """The answer to what the engine only reads; told: puts all that it sent for the client."""

    async def make() -> dict[str, Any]:
        return told(await service.read(message))

    return Reply(make, service.limits.request_s, service.admit(endpoint))


def _all(received: list[dict[str, Any]], name: str) -> list[Any]:
    """The entries of this name in all messages, in order."""
    return [entry for message in received for entry in message.get(name, ())]


def _usage(received: list[dict[str, Any]]) -> dict[str, int]:
    n_tokens = sum(message.get("n_tokens", 0) for message in received)
    return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}


def _generation(asked: Generating, visit: Visit) -> dict[str, Any]:
    return {"do": "generate", "sampling": asked.sampling(), "constraint": asked.constraint, "salt": visit.tenant}


def _written(
    service: Service, visit: Visit, endpoint: str, asked: Generating, message: dict[str, Any], answer: CompletionAnswer | ChatAnswer
) -> Response:
    service.check_can("generate")
    ended = service.admit(endpoint)
    if not asked.stream:
        return Reply(lambda: service.generated(message, answer, visit), service.limits.request_s, ended)
    includes_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return StreamedReply(service.streamed(message, answer, visit, includes_usage=includes_usage), service.limits.request_s, ended)


def _asked(service: Service, request: Request, kind: type[A]) -> A:
    """The request's body, read and checked, for the model that is here."""
    asked = read_request(kind, _visit(request).body)
    service.check_model(asked.model)
    return asked


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _visit(request: Request) -> Visit:
    found: Visit = request.scope["state"]["visit"]
    return found


def _card(service: Service) -> dict[str, Any]:
    facts = service.supervisor.facts
    told = {"can": facts.get("can", []), "max_model_len": facts.get("max_seq_len")}
    told |= {name: facts.get(name, False) for name in ("chat", "tools", "calibrated", "invariant")}
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "touchstone", **told}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


async def _page(request: Request) -> Response:
    """The page for people, which holds nothing of the model: it asks as any client does."""
    name, kind = _PAGE[request.scope["path"]]
    data = files("touchstone.serve").joinpath("page", name).read_bytes()
    headers = {"content-security-policy": _PAGE_POLICY, "referrer-policy": "no-referrer", "x-frame-options": "DENY"}
    return Response(data, media_type=kind, headers=headers)


async def _refused(request: Request, error: Exception) -> Response:
    """Any error in OpenAI's form; of one that nobody foresaw no word of what is inside."""
    if isinstance(error, ApiError):
        return refusal(error)
    if not isinstance(error, HTTPException):
        return refusal(ApiError(500, "The server failed on this request; others go on."))
    told = {404: "There is nothing at this path.", 405: "This path does not take that method."}.get(error.status_code, "It cannot be done.")
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return refusal(ApiError(error.status_code, told, code=kind, headers=error.headers))
