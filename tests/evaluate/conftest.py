"""Files that the tests of this folder write."""

import json

import pytest


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows, name="rows.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row + "\n" for row in rows))
        return tmp_path / name

    return write
