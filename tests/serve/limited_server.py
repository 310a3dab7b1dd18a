"""A server with limits that no option sets: limited_server.py FOLDER LIMITS, the limits as a JSON object."""

import json
import logging
import sys

from touchstone.serve.keys import read_keys
from touchstone.serve.limits import ServeLimits
from touchstone.serve.listen import ServeSettings, serve
from touchstone.serve.logs import LOG, log
from touchstone.serve.supervisor import EngineSettings


def announce(event, address):
    log(event=event, address=address)


if __name__ == "__main__":
    LOG.addHandler(logging.StreamHandler(sys.stderr))
    LOG.setLevel(logging.INFO)
    folder, limits = sys.argv[1:]
    serve(
        EngineSettings(folder), ServeSettings("tiny-chat", port=0, keys=read_keys(None), limits=ServeLimits(**json.loads(limits))), announce
    )
