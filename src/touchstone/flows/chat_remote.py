"""A model behind an address as one who answers in a chat: OpenAI's chat API over HTTP, streamed as server-sent events.

Nothing that a server says is trusted: lines and bodies are bounded, every field is checked before it is used, redirects are not followed.
Source: OpenAI API reference (chat); WHATWG HTML §9.2 (server-sent events), of which such servers use one line of data an event.
"""

import http.client
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from touchstone.errors import ConfigError, TouchstoneError, printable
from touchstone.flows.chat_voice import Ended, TooLong
from touchstone.text.document import Message

__all__ = ["RemoteVoice", "address_meant", "is_address"]

CONNECT_S = 10.0
SILENCE_S = 600.0  # the longest time between two pieces; the first may wait for a queue and a long prompt
MAX_LINE_BYTES = 1 << 20
_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
_REASONS = {"stop": "stop", "length": "length"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_HOST = re.compile(r"(localhost|\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/.*)?|[A-Za-z0-9._-]+:\d{1,5}(/.*)?")


def is_address(text: str) -> bool:
    """Whether this names a server, not a folder."""
    return text.lower().startswith(("http://", "https://"))


def address_meant(text: str) -> str | None:
    """The address that was probably meant by what is none: `host:port`, or one of another scheme; None where it looks like no address."""
    found = _SCHEME.match(text)
    rest = text[found.end() :] if found else text
    if found and rest.isascii() and rest.isprintable() and " " not in rest:
        return f"http://{rest or 'host:port'}"
    return f"http://{text}" if _HOST.fullmatch(text) else None


class RemoteVoice:
    """Asks a server. sampling: fields of `Sampling`. key: what it is asked with. model: which of its models; None = the only one.

    Raises ConfigError for an address or key that is none, a server that cannot be reached or has no such model, and a model that knows
    no conversations.
    """

    def __init__(self, address: str, sampling: Mapping[str, Any], *, key: str | None = None, model: str | None = None) -> None:
        parts = _checked(address)
        self._secure, self._host = parts.scheme == "https", parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._place = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._sampling = {_NAMES.get(name, name): value for name, value in sampling.items()}
        self._headers = {"Content-Type": "application/json", "User-Agent": "touchstone-chat"} | _authorization(key)
        self.name = self._chosen(model)

    def answer(self, messages: Sequence[Message], *, n_retries: int = 0) -> Iterator[str | Ended]:
        """As `Voice.answer`; Ctrl-C closes the connection, which tells the server to stop."""
        wanted = dict(self._sampling)
        if wanted.get("seed") is not None:
            wanted["seed"] += n_retries
        told = [{"role": message.role, "content": message.content} for message in messages]
        body = {"model": self.name, "messages": told, "stream": True, "stream_options": {"include_usage": True}, **wanted}
        connection = self._connected()
        try:
            response = self._asked(connection, "POST", "/v1/chat/completions", body)
            yield from _told(_events(response), wanted.get("seed"), wanted.get("max_tokens"))
        except (OSError, http.client.HTTPException) as error:
            raise TouchstoneError(f"The connection to {self._place} broke: {_reason(error)}.") from None
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is held between two answers."""

    def _chosen(self, wanted: str | None) -> str:
        connection = self._connected()
        try:
            data = self._asked(connection, "GET", "/v1/models").read(MAX_LINE_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(f"{self._place} does not answer as a server of models does: {_reason(error)}.") from None
        finally:
            connection.close()
        listed = _json(data)
        entries = listed.get("data") if isinstance(listed, dict) else None
        models: dict[str, dict[str, Any]] = {}
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, dict) and isinstance(each.get("id"), str):
                models[each["id"]] = each
        if not models:
            raise ConfigError(f"{self._place} lists no models at {self._path}/v1/models; is it a server of models?")
        named = ", ".join(f"`{printable(name)}`" for name in list(models)[:8])
        if wanted is None and len(models) > 1:
            raise ConfigError(f"The server has several models; say which with `--name`: {named}.")
        name = next(iter(models)) if wanted is None else wanted
        if name not in models:
            raise ConfigError(f"The server has no model `{printable(name)}`; it has {named}.")
        if models[name].get("chat") is False:
            raise ConfigError(
                f"The model `{printable(name)}` has no chat template, so it knows no conversations; ask the server's /v1/completions, or"
                " use `touchstone complete` and `touchstone generate` where its folder is."
            )
        return name

    def _connected(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        try:
            connection = kind(self._host, self._port, timeout=CONNECT_S)
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(f"{printable(self._place)} cannot be reached: {_reason(error)}; is the server running there?") from None
        connection.sock.settimeout(SILENCE_S)
        return connection

    def _asked(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """The answer to a request, its body not read yet; an error of the server as one of ours."""
        data = None if body is None else json.dumps(body).encode("ascii")
        connection.request(method, self._path + path, data, self._headers)
        response = connection.getresponse()
        if response.status == 200:
            return response
        said = _said(_json(response.read(MAX_LINE_BYTES)))
        if response.status == 401:
            raise ConfigError("The server wants an API key; put yours into the environment variable TOUCHSTONE_API_KEY.")
        if response.status == 400 and "context" in said.lower():
            raise TooLong(printable(said, 300))
        raise ConfigError(f"The server refuses ({response.status}): {printable(said or response.reason, 300)}")


def _checked(address: str) -> Any:
    try:
        parts = urlsplit(address)
        is_right = bool(parts.hostname) and parts.port != 0 and address.isprintable() and " " not in address
    except ValueError:
        is_right = False
    if not is_right:
        raise ConfigError(f"`{printable(address)}` is no address; write one as http://host:port.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("An address is http://host:port, with nothing secret in it; an API key goes into TOUCHSTONE_API_KEY.")
    return parts


def _authorization(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError("TOUCHSTONE_API_KEY holds characters that no key has; set it to the key alone.")
    return {"Authorization": f"Bearer {key}"}


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """What the events of a stream say, up to `[DONE]` or the end."""
    while line := response.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise TouchstoneError("The server sent a line that is too long.")
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = _json(data)
        if not isinstance(event, dict):
            raise TouchstoneError("The server sent an event that is no JSON object.")
        if "error" in event:
            raise TouchstoneError(f"The server broke off: {printable(_said(event), 300)}")
        yield event


def _told(events: Iterator[dict[str, Any]], seed: int | None, max_tokens: int | None) -> Iterator[str | Ended]:
    reason: str | None = None
    usage: Mapping[str, Any] = {}
    for event in events:
        choices = event.get("choices")
        first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = first.get("delta")
        text = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(text, str) and text:
            yield text
        if isinstance(first.get("finish_reason"), str):
            reason = first["finish_reason"]
        if isinstance(event.get("usage"), dict):
            usage = event["usage"]
    if reason is None:
        raise TouchstoneError("The connection ended before the answer did.")
    n = _count(usage, "completion_tokens")
    cut_by: Literal["max_new_tokens"] | None = "max_new_tokens" if reason == "length" and n is not None and n == max_tokens else None
    yield Ended(_REASONS.get(reason, "stop"), _count(usage, "prompt_tokens"), n, seed, cut_by=cut_by)


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**53 else None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _said(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)
