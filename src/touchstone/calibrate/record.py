"""What every fitted record of this room shares: frozen fields, and a plain form that a model card keeps."""

from collections.abc import Mapping
from typing import Any, Self

from touchstone.config import Config, parse

__all__ = ["Record"]


class Record(Config):
    """Parameters that were fitted once, and are stored and applied as they are."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal record."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The record whose `to_dict` gave this; ConfigError names what is missing, unknown or wrong."""
        return parse(cls, record, source=f"{cls.__name__} record")
