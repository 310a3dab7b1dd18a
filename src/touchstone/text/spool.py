"""Documents in one file, to be read again in the same order without holding them: a line of JSON, then the text as it is."""

import json
from collections.abc import Iterator
from pathlib import Path

from touchstone.errors import DataError
from touchstone.text.document import Document

__all__ = ["DocumentWriter", "read_spool"]


class DocumentWriter:
    """Writes documents to a new file; used in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, document: Document) -> None:
        """Add a document; fields that JSON cannot hold (dates, decimals) are kept as text."""
        data = document.text.encode("utf-8")
        fields = None if document.fields is None else dict(document.fields)
        head = json.dumps([len(data), document.source, document.line, fields], default=str)
        self._file.write(head.encode("ascii") + b"\n" + data)


def read_spool(path: Path) -> Iterator[Document]:
    """The documents of a file, one at a time; DataError where it was cut short."""
    with path.open("rb") as file:
        while head := file.readline():
            try:
                n_bytes, source, line, fields = json.loads(head)
                data = file.read(n_bytes)
                if len(data) != n_bytes:
                    raise ValueError("cut short")
                document = Document(data.decode("utf-8"), source, line, fields)
            except (ValueError, TypeError):
                raise DataError(f"{path}: damaged; remove its folder and prepare the data again.") from None
            yield document
