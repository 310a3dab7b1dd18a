"""How the benchmark talks to an engine in a process of its own: one JSON line in, one JSON line out.

An engine gets its job as the first line, answers {"ready": true, ...}, then for every {"units": n} does n units of work and answers
{"seconds": s}. Engines take turns in one run, so a slow spell of the machine meets all of them.
"""

import json
import sys


def receive():
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    return json.loads(line)


def send(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
