"""JSON Schemas before they are compiled: read with bounds, refused where a guarantee could not be kept, and places in them found again."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from touchstone.errors import ConfigError, Unsupported

__all__ = ["check_schema", "place_of"]

_OPTIONS = "x-guidance"  # llguidance reads its own options there; a schema must not change ours


def check_schema(schema: str | Mapping[str, Any] | bool, *, max_chars: int, max_nesting: int) -> dict[str, Any]:
    """The schema as a mapping (`true` is the empty one).

    Raises ConfigError for text that is no JSON, a value that is no schema, one that is too large or nested too deep, or one that nothing
    fits; Unsupported for what would be read differently from what the standard says.
    """
    if isinstance(schema, str):
        schema = _parsed(schema, max_chars)
    if schema is False:
        raise ConfigError("The schema `false` accepts nothing.")
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise ConfigError(f"A JSON Schema is an object, not a {type(schema).__name__}.")
    for path, value in _walk(schema, max_nesting):
        if isinstance(value, Mapping):
            _check_object(path, value)
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"The schema holds {error.object[error.start]!r}, which is half of a character or a byte that is no UTF-8."
        ) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The schema is no JSON: {error}.") from None
    if len(text) > max_chars:
        raise ConfigError(f"The schema has {len(text):,} characters; at most {max_chars:,} are read.")
    return dict(schema)


def place_of(message: str, schema: Any) -> str | None:
    """Where a keyword that is named in a message first stands in the schema, as a JSON Pointer."""
    named = re.findall(r'"([^"]+)"', message) or re.findall(r"\b(oneOf|format|pattern|enum|\$ref)\b", message)
    for path, value in _walk(schema, max_nesting=10_000):
        if isinstance(value, Mapping):
            found = next((key for key in named if key in value), None)
            if found is not None:
                return pointer((*path, found))
    return None


def pointer(path: tuple[str | int, ...]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _parsed(text: str, max_chars: int) -> Any:
    if len(text) > max_chars:
        raise ConfigError(f"The schema has {len(text):,} characters; at most {max_chars:,} are read.")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"The schema is no JSON: {error}.") from None
    except RecursionError:
        raise ConfigError("The schema is nested too deep.") from None


def _walk(schema: Any, max_nesting: int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All values with their places, without recursion."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), schema)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > max_nesting:
            raise ConfigError(f"The schema is nested deeper than {max_nesting} levels; at most so many are read.")
        yield path, value
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
        waiting += [((*path, key), part) for key, part in inner]


def _check_object(path: tuple[str | int, ...], value: Mapping[Any, Any]) -> None:
    if any(not isinstance(key, str) for key in value):
        raise ConfigError(f"The schema has a key that is no text, at {pointer(path) or 'its top'}.")
    if _OPTIONS in value:
        raise ConfigError(f"The schema must not hold `{_OPTIONS}` (at {pointer((*path, _OPTIONS))}): options are not set by what is asked.")
    reference = value.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise Unsupported(f"The schema refers to another document (`$ref` {reference[:80]!r} at {pointer((*path, '$ref'))}); write it out.")
