"""What every fitted record of this room shares: frozen fields, and a plain form that a model card keeps."""

from collections.abc import Collection, Mapping
from typing import Any, Self

from touchstone.config import Config, parse, unknown_name
from touchstone.errors import ConfigError

__all__ = ["Record", "method_of"]


class Record(Config):
    """Parameters that were fitted once, and are stored and applied as they are."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal record."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The record whose `to_dict` gave this; ConfigError names what is missing, unknown or wrong."""
        return parse(cls, _mapping(record, cls.__name__), source=f"{cls.__name__} record")


def method_of(record: Any, kind: str, methods: Collection[str]) -> str:
    """The `method` that a record names; UnknownName if there is no such method."""
    method = _mapping(record, kind).get("method")
    if not isinstance(method, str) or method not in methods:
        raise unknown_name(kind, str(method), methods)
    return method


def _mapping(record: Any, kind: str) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ConfigError(f"The `record` of a {kind} must be a mapping, as `to_dict` gives it, not a {type(record).__name__}.")
    return record
