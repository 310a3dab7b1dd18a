"""A script of its own process: how many bytes xz adds for each document once it has read a training text.

Run by `compressors.py` as `python -I xz_worker.py FILE`, where FILE holds one JSON line {"training": bytes, "documents": [bytes, …],
"at_once": n} and then those bytes; prints the sizes as a JSON list. Only the standard library is imported and no thread is started,
so it may fork: the encoder that has read the training text is copied as it stands, and each copy reads one document and ends. That
gives len(xz(training + document)) - len(xz(training)) exactly, with the training text read once instead of once a document.
"""

import json
import lzma
import os
import sys
from pathlib import Path

PIECE = 1 << 14  # fed at once; `LZMACompressor` leaves larger pieces unread in its buffer, and every copy would read them again


def main(path: str) -> None:
    header, _, data = Path(path).read_bytes().partition(b"\n")
    sizes = json.loads(header)
    training, rest = memoryview(data)[: sizes["training"]], memoryview(data)[sizes["training"] :]
    reach = sizes["training"] + max(sizes["documents"])
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(4096, reach)}]
    encoder = lzma.LZMACompressor(format=lzma.FORMAT_RAW, filters=filters)
    _feed(encoder, training)
    added: list[int] = []
    running = [_start(encoder, memoryview(b""))]
    for size in sizes["documents"]:
        if len(running) >= sizes["at_once"]:
            added.append(_result(*running.pop(0)))
        running.append(_start(encoder, rest[:size]))
        rest = rest[size:]
    added += [_result(*child) for child in running]
    os.write(sys.stdout.fileno(), json.dumps([size - added[0] for size in added[1:]]).encode())


def _feed(encoder: lzma.LZMACompressor, data: memoryview) -> int:
    return sum(len(encoder.compress(data[start : start + PIECE])) for start in range(0, len(data), PIECE))


def _start(encoder: lzma.LZMACompressor, document: memoryview) -> tuple[int, int]:
    """Fork a copy that reads the document; its process id and the pipe that its number of bytes will come through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        n_bytes = _feed(encoder, document) + len(encoder.flush())
        os.write(writer, n_bytes.to_bytes(8, "little"))
    finally:
        os._exit(0)


def _result(child: int, reader: int) -> int:
    answer = os.read(reader, 8)
    os.close(reader)
    os.waitpid(child, 0)
    if len(answer) != 8:
        sys.exit("a copy of the encoder ended without an answer; is there enough memory?")
    return int.from_bytes(answer, "little")


if __name__ == "__main__":
    main(sys.argv[1])
