"""What loading a folder costs, opens and runs. As a program: load every bad folder and print a line of JSON for each.

python folder_watch.py SCRATCH [FAMILY]

FAMILY: only the bad ones made from its folders.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hostile_settings
import hostile_weights
from hostile_folders import CANARY, GOODS, Case, Good, applies, lay_traps, make_bad, make_sound, worded

from touchstone.errors import TouchstoneError
from touchstone.models import families
from touchstone.models.checkpoint import load_model

SOUND = "sound but for the traps"  # the name of the folder that is to load

MOST_CPU_S = 1.0  # the promise; the slowest, a header of as many tensors as are read, takes a third of it
MOST_MEMORY_BYTES = 96 << 20
MOST_READ_BYTES = 20 << 20  # the largest header, and the small files
MOST_CHARACTERS = 4000

_RUNS = ("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pickle.", "marshal.", "ctypes.")
_RUNS += ("import", "exec", "compile", "code.", "urllib.", "http.", "webbrowser.", "ftplib.", "smtplib.")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.")
_FAMILIES = str(Path(families.__file__).parent)  # looked through for the families there are
_NAMES_A_PLACE = ("open", "os.listdir", "os.scandir", "glob.glob")


@dataclass
class Seen:
    """What happened while a folder was watched."""

    error: str = ""  # name of the class; empty = it loaded
    is_ours: bool = False
    message: str = ""
    cpu_s: float = 0.0
    grown_bytes: int = 0  # of the process's memory at its highest
    read_bytes: int = 0  # through system calls
    outside: list[str] = field(default_factory=list)  # places opened or listed that are not in the folder
    ran: list[str] = field(default_factory=list)  # code, processes, sockets and changes to the disk

    def faults(self) -> list[str]:
        """What no load of any folder may do."""
        found = [f"opened {place}" for place in self.outside] + [f"ran {event}" for event in self.ran]
        if self.error and not self.is_ours:
            found.append(f"raised a plain {self.error}: {self.message}")
        if not all(char.isprintable() or char == "\n" for char in self.message):
            found.append("a message that is not printable")
        limits = {"cpu_s": MOST_CPU_S, "grown_bytes": MOST_MEMORY_BYTES, "read_bytes": MOST_READ_BYTES}
        found += [f"{name} {getattr(self, name)} is over {most}" for name, most in limits.items() if getattr(self, name) > most]
        return found + [f"a message of {len(self.message)} characters"] * (len(self.message) > MOST_CHARACTERS)


def cases(good: Good) -> list[Case]:
    """Those that apply to a folder; what is wrong beside the weights is the same for both layouts."""
    settings = hostile_settings.CASES if good.layout == "one file" else []
    return [case for case in (*hostile_weights.CASES, *settings) if applies(case, good)]


def watch(folder: Path, load: Callable[[Path], Any]) -> Seen:
    """Load a folder, in a process that has loaded a sound one before."""
    seen = Seen()
    inside = os.path.realpath(folder)
    before = _reset_peak()
    read, began = _read_bytes(), time.process_time()
    try:
        with _listening(seen, inside):
            load(folder)
    except BaseException as error:
        seen.error, seen.is_ours, seen.message = type(error).__name__, isinstance(error, TouchstoneError), str(error)
    seen.cpu_s = time.process_time() - began
    seen.grown_bytes, seen.read_bytes = _status("VmHWM") - before, _read_bytes() - read
    return seen


def differences(case: Case, good: Good, seen: Seen) -> list[str]:
    """What is not as the table has it."""
    lacking = [part for part in worded(case, good) if part not in seen.message]
    found = [f"raised {seen.error or 'nothing'}, not {case.error.__name__}"] * (seen.error != case.error.__name__)
    return found + [f"the message lacks {part!r}: {seen.message[:300]}" for part in lacking]


_listeners: list[tuple[Seen, str]] = []  # an audit hook cannot be taken away again
_hooked: list[bool] = []


@contextmanager
def _listening(seen: Seen, inside: str) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    _listeners.append((seen, inside))
    try:
        yield
    finally:
        _listeners.pop()


def _hear(event: str, details: tuple[Any, ...]) -> None:
    for seen, inside in _listeners[-1:]:
        if event in _NAMES_A_PLACE and isinstance(details[0], str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(details[0]))
            if not (place == inside or place.startswith(inside + os.sep) or (event == "os.listdir" and place == _FAMILIES)):
                seen.outside.append(f"{event} {place}")
        elif event.startswith((*_RUNS, *_CHANGES)):
            seen.ran.append(f"{event} {str(details)[:200]}")


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def main(scratch: Path, *chosen: str) -> None:
    """Make every bad folder, watch it being loaded, and take it away again."""
    for place, good in enumerate(good for good in GOODS if not chosen or good.family in chosen):
        sound = make_sound(good, scratch / f"sound {place}")
        load_model(sound)
        home = scratch / f"home {place}"
        for name, make in ((SOUND, None), *((case.name, case) for case in cases(good))):
            home.mkdir()
            if make is None:
                lay_traps(Path(shutil.copytree(sound, home / "model")))
            else:
                make_bad(make, good, sound, home / "model")
            seen = watch(home / "model", load_model)
            if seen.cpu_s > MOST_CPU_S / 2:  # a busy machine makes the same work take longer
                seen.cpu_s = min(seen.cpu_s, watch(home / "model", load_model).cpu_s)
            if (home / CANARY).exists():
                seen.ran.append("a trap")
            print(json.dumps({"case": name, "good": str(good), "has_assertions": __debug__, "seen": asdict(seen)}), flush=True)
            shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
