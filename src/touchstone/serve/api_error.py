"""Errors as clients are told them, in OpenAI's form."""

from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError", "ending"]


class ApiError(Exception):
    """An error that a client is told, in OpenAI's form."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def ending() -> ApiError:
    """For what comes while the server is about to end."""
    return ApiError(503, "The server is ending; ask another, or again later.", code="draining", headers={"retry-after": "5"})
