"""The tiny run that the tests of training share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tiny_run.py is a program too, so it is no part of a test package
from tiny_run import make_trainer


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Bits of sums depend on the number of threads; and these sizes gain nothing by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(quick_disk):
    """These tests end processes, not the power."""


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The outcome of the tiny run that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return make_trainer(folder).run(), folder
