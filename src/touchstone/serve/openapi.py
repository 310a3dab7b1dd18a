"""`/openapi.json`: the same models that read the requests describe them."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from touchstone.serve.protocol import NO_EFFECT

__all__ = ["describe"]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_OF_ALL = {
    "400": "The request is wrong.",
    "401": "An API key is needed.",
    "404": "There is no such model or path.",
    "405": "Another method.",
}
_OF_POSTS = {
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests; see Retry-After.",
    "500": "The model failed on this request.",
    "503": "No engine now; see Retry-After.",
    "504": "The answer took too long.",
}


def describe(app: FastAPI, posts: Mapping[str, type[BaseModel]]) -> None:
    """Let the application describe its routes. posts: what the body of each path's POST is."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(_described(FastAPI.openapi(app), posts))
        return made

    app.openapi = openapi  # type: ignore[method-assign]


def _described(document: dict[str, Any], posts: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(posts.values()))
    references, definitions = models_json_schema([(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}")
    schemas = dict(definitions["$defs"])
    for kind in kinds:
        properties = schemas[kind.__name__]["properties"]
        schemas[kind.__name__] = {
            **schemas[kind.__name__],
            "properties": properties | {name: {"description": f"No effect: {why}."} for name, why in NO_EFFECT.items()},
        }
    document["components"] = {
        "schemas": {**schemas, "Error": _ERROR},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    document["security"] = [{"key": []}, {}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            told = _OF_ALL | (_OF_POSTS if method == "post" else {"503": "No engine now."} if path == "/health" else {})
            error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            responses = {status: {"description": about, "content": error} for status, about in told.items()}
            if path == "/health":
                responses["503"] = {"description": "No engine now.", "content": {"application/json": {"schema": {"type": "object"}}}}
            operation["responses"] = {"200": operation["responses"]["200"], **responses}
            if method == "post":
                schema = references[(posts[path], "validation")]
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
                if "completions" in path:
                    operation["responses"]["200"]["content"]["text/event-stream"] = {}
            if path == "/metrics":
                operation["responses"]["200"]["content"] = {"text/plain": {}}
    return document
