"""What all tests share: shape checks while testing, seeds, the test data, and the ways a save can be cut short."""

import errno
import gzip
import io
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy
import pytest
from jaxtyping import install_import_hook

# One thread: the tests run side by side, their tensors are tiny, and results do not hang on the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any of these is imported: their signatures are then checked at every call of every test. Production does not check.
install_import_hook(["touchstone.nn", "touchstone.models", "touchstone.train.objective"], "beartype.beartype")

# The same examples on every run and machine, and no limit in seconds: a busy machine is no failure.
hypothesis.settings.register_profile("touchstone", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("touchstone")

MARKED_WHOLE = re.compile(r"^pytestmark = .*$", re.MULTILINE)

EFFECTS = ("write", "fsync", "replace", "rename")


def pytest_ignore_collect(collection_path, config):
    """Files whose every test carries a mark that is not wanted (`-m "not slow"`) are not imported, which takes longer than the tests."""
    if not collection_path.name.startswith("test_"):
        return None
    unwanted = set(re.findall(r"not (\w+)", config.option.markexpr))
    marks = re.findall(r"pytest\.mark\.(\w+)", "".join(MARKED_WHOLE.findall(collection_path.read_text(encoding="utf-8"))))
    return True if unwanted & set(marks) else None


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same global generators; torch is seeded where the test has imported it."""
    random.seed(20240)
    numpy.random.seed(20240)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(20240)


@pytest.fixture(scope="session")
def test_data():
    """The folder of test data that is not in the repository; a test that asks for it is skipped where there is none."""
    folder = Path(os.environ.get("TOUCHSTONE_TEST_DATA") or Path(__file__).parent / "data")
    if not folder.is_dir() or not any(folder.iterdir()):
        pytest.skip(f"needs the test data: {folder} is not there (set TOUCHSTONE_TEST_DATA)")
    return folder


@pytest.fixture
def written(tmp_path):
    """Writes a text into a file of a name, packed where that ends in .gz."""

    def write(text, name):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.fixture(scope="session")
def chromium():
    """The path of Chromium; a test that asks for it is skipped where there is none."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs Chromium (Debian, Ubuntu: apt-get install chromium): no page was looked at")
    return found


@pytest.fixture(scope="session")
def look(chromium, tmp_path_factory):
    """A picture of an address in a window of some size, and what the browser's console said."""

    from PIL import Image

    def take(address, width, height, *options):
        folder = tmp_path_factory.mktemp("look")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"]
        command += ["--enable-logging=stderr", "--v=0", f"--window-size={width},{height}", f"--screenshot={folder / 'a.png'}"]
        done = subprocess.run([*command, *options, address], capture_output=True, text=True, timeout=120, check=True)
        picture = Image.open(io.BytesIO((folder / "a.png").read_bytes())).convert("RGB")
        return picture, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return take


@pytest.fixture
def quick_disk(monkeypatch):
    """fsync checks its descriptor and does not wait for the disk: these tests end processes, not the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)


@pytest.fixture
def every_crash(monkeypatch, quick_disk):
    """Run `action(k)` for k = 0, 1, …, its k-th effect on the disk and all after it raising, until one run has no crash.

    Yields (k, crashed) after each run. torn: the failing write puts half of its bytes on the disk first.
    """

    def run(action, *, torn=False, error=OSError):
        real = {name: getattr(os, name) for name in EFFECTS}
        k, crashed = 0, True
        while crashed:
            left = [k]

            def effect(name, *arguments, left=left, k=k, **named):
                if left[0] > 0:
                    left[0] -= 1
                    return real[name](*arguments, **named)
                if torn and name == "write":
                    real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise error(errno.ENOSPC, f"crash at effect {k}: {name}")

            with monkeypatch.context() as patch:
                for name in EFFECTS:
                    patch.setattr(os, name, lambda *a, name=name, effect=effect, **n: effect(name, *a, **n))
                try:
                    action(k)
                    crashed = False
                except error:
                    crashed = True
            yield k, crashed
            k += 1

    return run


@pytest.fixture
def dies_at(quick_disk):
    """Run an action in a process of its own that ends at its k-th effect on the disk, with no clean-up; True if it died there."""

    def run(k, action):
        child = os.fork()
        if child:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, 9), "the action itself failed"
            return status == 9
        try:
            left = [k]

            def deadly(real):
                def effect(*arguments, **named):
                    if left[0] == 0:
                        os._exit(9)
                    left[0] -= 1
                    return real(*arguments, **named)

                return effect

            for name in EFFECTS:
                setattr(os, name, deadly(getattr(os, name)))
            action()
            os._exit(0)
        finally:
            os._exit(1)

    return run
