"""Models and running servers that the tests of this folder share."""

import json
from pathlib import Path

import pytest
from running import Server, write_chat_model, write_id_model, write_reading_model, write_tools_model

import touchstone


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture(scope="session")
def chat_model(chat_folder):
    """The chat model in this process."""
    return touchstone.load(chat_folder)


@pytest.fixture(scope="session")
def exact_model(chat_folder):
    """The same in the invariant mode."""
    return touchstone.load(chat_folder, invariant=True)


@pytest.fixture(scope="session")
def server(chat_folder):
    """An open server with the chat model; tests that end or harm it start their own."""
    running = Server(chat_folder).wait()
    yield running
    running.close()


@pytest.fixture(scope="session")
def exact(chat_folder):
    """The chat model in the invariant mode."""
    running = Server(chat_folder, "--invariant").wait()
    yield running
    running.close()


@pytest.fixture(scope="session")
def reading_folder(tmp_path_factory):
    return write_reading_model(tmp_path_factory.mktemp("models") / "tiny-reader")


@pytest.fixture(scope="session")
def reader(reading_folder):
    """A classifier that gives vectors too."""
    running = Server(reading_folder).wait()
    yield running
    running.close()


@pytest.fixture(scope="session")
def tools_server(tmp_path_factory):
    """A decoder whose template has a place for tools."""
    running = Server(write_tools_model(tmp_path_factory.mktemp("models") / "tiny-tools")).wait()
    yield running
    running.close()


@pytest.fixture(scope="session")
def id_folder(tmp_path_factory):
    return write_id_model(tmp_path_factory.mktemp("models") / "ids-only")


KEYS = ("key-of-the-first-client", "key-of-the-second-client")


@pytest.fixture(scope="session")
def guarded(chat_folder):
    """The chat model behind keys, with short times, few connections and large bodies."""
    limits = {"header_s": 1.0, "body_s": 1.5, "max_connections": 40, "max_requests": 4, "max_body_bytes": 16 << 20}
    script = Path(__file__).parent / "limited_server.py"
    running = Server(chat_folder, json.dumps(limits), script=script, environment={"TOUCHSTONE_API_KEY": ",".join(KEYS)}).wait()
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
