"""The log of the server: one line of JSON a request, and one for what the engine did by itself."""

import json
import logging
import time
from typing import Any

__all__ = ["LOG", "log"]

LOG = logging.getLogger("touchstone.serve")


def log(**entry: Any) -> None:
    """One line with the time first; ASCII alone, so that nothing a client sends can begin another line or steer a terminal."""
    LOG.info(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}, ensure_ascii=True))
