"""Models and running servers that the tests of this folder share."""

import pytest
from running import Server, write_chat_model


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture(scope="session")
def server(chat_folder):
    """An open server with the chat model; tests that end or harm it start their own."""
    running = Server(chat_folder).wait()
    yield running
    running.close()


@pytest.fixture
def started():
    """Servers that a test starts by itself; they are closed after it."""
    found = []

    def start(*arguments, **options):
        found.append(Server(*arguments, **options))
        return found[-1]

    yield start
    for each in found:
        each.close()
