"""How the inference benchmark talks to an engine in a process of its own: one JSON line in, one JSON line out.

The first line says {"folder", "kind", "form", "n_threads"}; the engine loads the model and answers {"ready": true, "version"}, or
{"unavailable": reason} where it has no such form. Every further line asks for one piece of work, {"work": "generate", "prompts", "n_new",
"num_beams"} or {"work": "encode", "rows", "per_call"}, and gets {"seconds", "outputs", "peak_bytes"}, or {"failed": reason}. What is timed
is the engine's own call, with what it needs to take and give lists.
"""

import resource
import time
import traceback
from pathlib import Path

from protocol import receive, send

USUAL_BATCH = 16  # sentences of one call where the job leaves it open and the engine would pad any number to the longest


class Unavailable(Exception):
    """The engine does not have what was asked for; the message says why."""


def serve(load, version):
    """Answer until stdin ends. load: from the fields of the first line to an object with the methods `generate` or `encode`."""
    try:
        engine = load(**receive())
    except Unavailable as reason:
        send(unavailable=str(reason))
        return
    send(ready=True, version=version)
    while True:
        request = receive()
        work = getattr(engine, request.pop("work"))
        try:
            start = time.perf_counter()
            outputs = work(**request)
            seconds = time.perf_counter() - start
        except Exception as error:
            traceback.print_exc()
            send(failed=f"{type(error).__name__}: {error}")
        else:
            send(seconds=seconds, outputs=outputs, peak_bytes=peak_bytes())


def peak_bytes():
    """The most memory this process ever held. On Linux `getrusage` would begin at what the process that started this one held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # macOS, where it is in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def padded(rows, fill=0, *, left=False):
    """Rows of one length, and which of their tokens count."""
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    if left:
        return [[fill] * gap + row for row, gap in zip(rows, gaps, strict=True)], [[0] * gap + [1] * (longest - gap) for gap in gaps]
    return [row + [fill] * gap for row, gap in zip(rows, gaps, strict=True)], [[1] * (longest - gap) + [0] * gap for gap in gaps]


def in_calls(rows, per_call):
    """The rows of each call, in the order given."""
    size = per_call or USUAL_BATCH
    return [rows[start : start + size] for start in range(0, len(rows), size)]
