"""The card of a model folder on disk: read strictly, and given a new calibration without touching anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from touchstone.config import parse
from touchstone.errors import ConfigError, ModelFolderError
from touchstone.files import change_folder, read_json, write_json
from touchstone.models.card import CARD_NAME, Calibration, Card, few_records

__all__ = ["as_folder_error", "plain_card", "read_card", "read_mapping", "store_calibration"]

T = TypeVar("T")

_MAX_CONFIG_BYTES = 4 << 20  # names of 20,000 labels take half of it


def read_card(folder: Path) -> Card:
    """The card of a folder; an empty one where it has none. Raises ModelFolderError."""
    path = folder / CARD_NAME
    if not (path.is_symlink() or path.exists()):
        return Card()
    return as_folder_error(lambda: parse(Card, few_records(read_mapping(path)), source=str(path)))


def plain_card(card: Card) -> dict[str, Any]:
    """The card as it stands in its file; what has a file of its own is left out."""
    return card.model_dump(mode="json", exclude_none=True, exclude={"chat_template", "pooling"})


def store_calibration(folder: Path | str, record: Calibration) -> None:
    """Keep a record in the card of a model folder, in the place of an older one for the same thing."""
    same = ("target", "task", "labels_hash", "prompt_hash", "numeric_scheme")

    def keep(place: Path) -> None:
        card = read_card(place)
        kept = [other for other in card.calibration if any(getattr(other, name) != getattr(record, name) for name in same)]
        write_json(place / CARD_NAME, plain_card(card.replace(calibration=[*kept, record])))

    change_folder(folder, keep)


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping. Raises ModelFolderError."""
    data = read_json(path, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(data, dict):
        raise ModelFolderError(f"{path}: should hold a mapping, not a {type(data).__name__}.")
    return data


def as_folder_error(read: Callable[[], T]) -> T:
    """What `read` gives; its ConfigError becomes a ModelFolderError."""
    try:
        return read()
    except ConfigError as error:
        raise ModelFolderError(str(error)) from None
