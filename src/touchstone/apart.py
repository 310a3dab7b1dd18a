"""Scripts of the package that run in a process of their own, so that what ends or hangs them ends nothing else.

They get no more of the environment than they need to start, and speak over their standard input and output.
"""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["end_process", "start_script"]

_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ")


def start_script(path: Path) -> "subprocess.Popen[bytes]":
    """Start a script by this interpreter, isolated: no variable and no package folder of the user's is seen."""
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """End it in whatever state, and let go of its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # what it still held could not be written any more
            continue
