"""The process that holds the model: `python -m touchstone.serve.engine_process DESCRIPTOR`, started by the supervisor.

The descriptor is its end of a socket pair, which has no name and no address: nobody else can connect. When the other end is closed, by
the end of the server in whatever way, this process ends.
"""

import contextlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

from touchstone.errors import TouchstoneError
from touchstone.runtime import before_torch
from touchstone.serve.frames import Channel

__all__ = ["main"]

_PREPARING_THREADS = 2  # one long text does not hold up the others' prompts
_GRAMMAR_THREADS = 8  # grammars, which can take seconds, hold up neither; those that are known pass by up to seven that are tried


def main(descriptor: int) -> int:
    """Serve until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server says when to end
    channel = Channel(socket.socket(fileno=descriptor))
    settings = channel.receive()
    if settings is None:
        return 1
    before_torch()
    from touchstone.serve.driver import Driver
    from touchstone.serve.jobs import Jobs

    try:
        model = _loaded(settings)
        jobs = Jobs(model)
    except TouchstoneError as error:
        channel.send({"event": "failed", "kind": type(error).__name__, "message": str(error)})
        return 1
    driver = Driver(model.engine if "generate" in model.can else None, channel.send, _report)
    channel.send({"event": "ready", "facts": jobs.facts()})
    Thread(target=_listen, args=(channel, driver, jobs), daemon=True).start()
    try:
        driver.run()
    except OSError:  # the other end has gone
        pass
    finally:
        jobs.close()
    return 0


def _loaded(settings: dict[str, Any]) -> Any:
    from touchstone.infer import load

    return load(
        settings["model"],
        device=settings["device"],
        dtype=settings["dtype"],
        weights=settings["weights"],
        invariant=settings["invariant"],
        draft=settings["draft"],
    )


def _listen(channel: Channel, driver: Any, jobs: Any) -> None:
    """Take messages in until the other end is closed."""
    from touchstone.serve.driver import Beat

    preparing: dict[int, bool] = {}  # by job: whether it was cancelled meanwhile
    plain, constrained = ThreadPoolExecutor(_PREPARING_THREADS), ThreadPoolExecutor(_GRAMMAR_THREADS)
    with contextlib.suppress(OSError):  # the other end has gone while it was told something
        while (message := channel.receive()) is not None:
            if message["do"] == "stats":
                channel.send({"id": message["id"], "facts": {**driver.facts(), "drift": jobs.drift()}, "end": True})
            elif message["do"] == "beat":
                driver.add(Beat(message["id"]))
            elif message["do"] == "cancel":
                if message["job"] in preparing:
                    preparing[message["job"]] = True
                driver.cancel(message["job"])
            else:
                preparing[message["id"]] = False
                pool = constrained if _has_grammar(message) else plain
                pool.submit(_prepare, message, channel, driver, jobs, preparing)
    driver.stop()


def _has_grammar(message: dict[str, Any]) -> bool:
    return message.get("constraint") is not None or message.get("tool_choice", {}).get("mode") in ("named", "required")


def _prepare(message: dict[str, Any], channel: Channel, driver: Any, jobs: Any, preparing: dict[int, bool]) -> None:
    from touchstone.serve.driver import failure_of

    job_id = message["id"]
    try:
        made = None if preparing[job_id] else jobs.made(message)
        if isinstance(made, dict):
            channel.send({"id": job_id, **made, "end": True})
        elif made is not None:
            driver.add(made)
            if preparing[job_id]:  # while it was prepared
                driver.cancel(job_id)
    except Exception as error:
        channel.send({"id": job_id, "error": failure_of(error, _report)})
    finally:
        del preparing[job_id]


def _report(text: str) -> None:
    os.write(sys.stderr.fileno(), text.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(code)  # a long text or grammar that is still being prepared is for nobody
