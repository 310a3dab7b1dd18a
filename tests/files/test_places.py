"""The cache folder, permission and room."""

import os
from pathlib import Path

import pytest

from touchstone import files
from touchstone.errors import RunFolderError


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TOUCHSTONE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == tmp_path / "home" / ".cache" / "touchstone"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "touchstone"
    monkeypatch.setenv("TOUCHSTONE_CACHE", str(tmp_path / "own"))
    assert files.cache_folder() == tmp_path / "own"
    assert (tmp_path / "own").is_dir()


def test_a_cache_that_cannot_be_written_falls_back_to_a_private_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TOUCHSTONE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = files.cache_folder()
    assert found == tmp_path / f"touchstone-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)  # as another user could have made it
    with pytest.raises(RunFolderError, match="only this user can write"):
        files.cache_folder()


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"cannot be written.*choose another folder"):
        files.check_writable(tmp_path / "file" / "run")
    made = files.check_writable(tmp_path / "new" / "run")
    assert made.is_dir()
    assert list(made.iterdir()) == []


def test_free_room_is_that_of_the_disk_even_for_a_path_not_made_yet(tmp_path, monkeypatch):
    class Usage:
        free = 12345

    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda place: asked.append(Path(place)) or Usage)
    assert files.free_bytes(tmp_path / "not" / "yet") == 12345
    assert asked == [tmp_path]
