"""The verb `serve`: a model behind an address, until it is told to end. No torch is imported here: the engine process holds the model."""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from touchstone.errors import ConfigError, MissingPackage
from touchstone.flows.opening import Opening
from touchstone.report.terminal import Terminal

__all__ = ["Publishing", "publish"]

MAX_NAME = 256  # characters of a model's name


@dataclass(frozen=True)
class Publishing:
    """Where and for whom. name: None = the folder's. key_file: API keys. hosts: more names for this server."""

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    key_file: Path | None = None
    hosts: tuple[str, ...] = ()
    max_requests: int = 256
    max_body_bytes: int = 1 << 20
    request_s: float = 600.0
    step_s: float = 300.0
    drain_s: float = 30.0


def publish(
    folder: Path | str, asked: Publishing, opening: Opening, terminal: Terminal, *, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Serve until a signal comes; the document says what was served.

    Raises ConfigError, ModelFolderError or MissingPackage before anybody could have asked.
    """
    try:
        from touchstone.serve.keys import read_keys
        from touchstone.serve.limits import ServeLimits
        from touchstone.serve.listen import ServeSettings, serve
        from touchstone.serve.logs import LOG, log
        from touchstone.serve.supervisor import EngineSettings
    except ModuleNotFoundError as error:
        raise MissingPackage(f'`serve` needs {error.name}: pip install "touchstone-lm[serve]".') from None
    name = _name_of(Path(folder)) if asked.name is None else asked.name
    _check_name(name)
    limits = ServeLimits(
        max_body_bytes=asked.max_body_bytes,
        max_requests=asked.max_requests,
        request_s=asked.request_s,
        step_s=asked.step_s,
        drain_s=asked.drain_s,
    )
    settings = ServeSettings(name, asked.host, asked.port, read_keys(asked.key_file, environment), asked.hosts, limits)
    engine = EngineSettings(str(folder), opening.device, opening.dtype, opening.weights, opening.invariant, opening.draft)
    _log_to_stderr(LOG)
    told: list[str] = []

    def announce(event: str, address: str) -> None:
        told.append(event)
        if event == "listening":
            terminal.say(terminal.words("serve.opening", model=folder))
        else:
            terminal.say(terminal.words("serve.ready", name=name, address=address), style="good")
        log(event=event, address=address)

    serve(engine, settings, announce)
    terminal.say(terminal.words("serve.ended" if "ready" in told else "serve.ended_early"))
    return {"model": name, "folder": str(folder), "status": "ended"}


def _name_of(folder: Path) -> str:
    """`runs/mine/model` and `runs/mine` are both called `mine`."""
    resolved = folder.resolve() if folder.exists() else folder
    return (resolved.parent.name if resolved.name == "model" else resolved.name) or "model"


def _check_name(name: str) -> None:
    if not name.isprintable() or not name.strip() or len(name) > MAX_NAME:
        raise ConfigError(f"A model's name has from 1 to {MAX_NAME} printable characters; give one with `--name`.")


class _OnceUp(logging.StreamHandler[TextIO]):
    """Writes what is logged once the server is up: its model is open, or somebody asked it while it was not.

    Until then lines are kept, so that a model that cannot be opened is told by its error alone.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._kept: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        if self._kept is not None and _is_of_opening(record.getMessage()):
            self._kept.append(record)
            return
        kept, self._kept = self._kept or (), None
        for each in (*kept, record):
            super().emit(each)


def _is_of_opening(line: str) -> bool:
    try:
        said = json.loads(line)
    except ValueError:  # what the library of the server says of a fault
        return False
    return isinstance(said, dict) and said.get("event") in ("listening", "engine_ended")


def _log_to_stderr(log: logging.Logger) -> None:
    """The log, one line of JSON a request and one an event of the engine, and what goes wrong inside."""
    handler = _OnceUp(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    inside = logging.getLogger("uvicorn.error")
    inside.addHandler(handler)
    inside.setLevel(logging.ERROR)
