"""`/openapi.json`: the same models that read the requests describe them."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from touchstone.serve.protocol import NO_EFFECT

__all__ = ["DescribedApi"]

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


class DescribedApi(FastAPI):
    """An application whose `/openapi.json` says what the bodies may hold. bodies: what the body of each path's POST is."""

    def __init__(self, bodies: Mapping[str, type[BaseModel]]) -> None:
        super().__init__(title="Touchstone", docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)
        self._bodies = dict(bodies)

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi(), self._bodies)
        return self.openapi_schema


def _completed(document: dict[str, Any], bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(bodies.values()))
    references, definitions = models_json_schema([(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}")
    schemas = dict(definitions["$defs"])
    idle = {name: {"description": f"No effect: {why}."} for name, why in NO_EFFECT.items()}
    for kind in kinds:
        schema = schemas[kind.__name__]
        schemas[kind.__name__] = {**schema, "properties": schema["properties"] | idle}
    security = {"key": {"type": "http", "scheme": "bearer"}}
    document["components"] = {"schemas": {**schemas, "Error": _ERROR}, "securitySchemes": security}
    document["security"] = [{"key": []}, {}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"] = _responses(path, method, operation["responses"]["200"])
            if method == "post":
                schema = references[(bodies[path], "validation")]
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return document


def _responses(path: str, method: str, good: dict[str, Any]) -> dict[str, Any]:
    """What a path may answer, by status. good: FastAPI's own 200."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = _OF_ALL | (_OF_POSTS if method == "post" else {})
    responses = {"200": good} | {status: {"description": about, "content": content} for status, about in told.items()}
    if path == "/health":
        responses["503"] = {"description": "No engine now.", "content": {"application/json": {"schema": {"type": "object"}}}}
    if path == "/metrics":
        responses["200"]["content"] = {"text/plain": {}}
    if path.endswith("/completions"):
        responses["200"]["content"]["text/event-stream"] = {}
    return responses
