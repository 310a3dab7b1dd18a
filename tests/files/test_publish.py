"""Published folders: complete or not at all, whatever instant a crash picks; and the lock on a folder."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from touchstone import files
from touchstone.errors import RunFolderError

pytestmark = pytest.mark.slow


def fill_with(text):
    """Writes two files, one of them below a folder, both large enough to be torn."""

    def fill(folder):
        (folder / "sub").mkdir()
        files.write_text(folder / "weights.bin", text * 11)
        files.write_json(folder / "sub" / "state.json", {"text": text})

    return fill


def holds(folder, text):
    """True if the folder is whole and holds what `fill_with(text)` wrote; raises where it is damaged."""
    files.verify_folder(folder)
    return (folder / "weights.bin").read_text() == text * 11 and files.read_json(folder / "sub" / "state.json") == {"text": text}


def leftovers(parent, *expected):
    return sorted(path.name for path in parent.iterdir() if path.name not in expected)


def test_a_published_folder_is_marked_with_sizes_and_hashes_and_leaves_nothing_beside_it(tmp_path):
    files.publish_folder(tmp_path / "runs" / "step-1", fill_with("new"))
    mark = json.loads((tmp_path / "runs" / "step-1" / "COMPLETE.json").read_text())
    assert mark == {
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
            for name in ("sub/state.json", "weights.bin")
            for path in [tmp_path / "runs" / "step-1" / name]
        }
    }
    assert files.is_complete(tmp_path / "runs" / "step-1")
    assert holds(tmp_path / "runs" / "step-1", "new")
    assert leftovers(tmp_path / "runs", "step-1") == []


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_crash_at_any_effect_of_a_new_folder_keeps_the_one_before(tmp_path, every_crash, torn, error):
    def save(k):
        files.publish_folder(tmp_path / str(k) / "step-2", fill_with("new"))

    for k in range(40):
        (tmp_path / str(k)).mkdir()
        files.publish_folder(tmp_path / str(k) / "step-1", fill_with("old"))
    last = 0
    for k, crashed in every_crash(save, torn=torn, error=error):
        assert holds(tmp_path / str(k) / "step-1", "old")
        complete = files.is_complete(tmp_path / str(k) / "step-2")
        assert complete == (not crashed) or holds(tmp_path / str(k) / "step-2", "new")
        files.publish_folder(tmp_path / str(k) / "step-2", fill_with("again"))
        assert holds(tmp_path / str(k) / "step-2", "again")
        assert leftovers(tmp_path / str(k), "step-1", "step-2") == []
        last = k
    assert last >= 15  # two files written, synced and listed, the mark, the rename, the folders


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_crash_at_any_effect_of_a_replacement_keeps_the_old_folder_or_has_the_new(tmp_path, every_crash, torn, error):
    def save(k):
        files.publish_folder(tmp_path / str(k) / "model", fill_with("new"))

    for k in range(40):
        files.publish_folder(tmp_path / str(k) / "model", fill_with("old"))
    seen = []
    for k, crashed in every_crash(save, torn=torn, error=error):
        final = tmp_path / str(k) / "model"
        seen.append("new" if files.is_complete(final) and holds(final, "new") else "old" if holds(final, "old") else "neither")
        assert crashed or seen[-1] == "new"
        files.publish_folder(final, fill_with("again"))
        assert holds(final, "again")
        assert leftovers(final.parent, "model") == []
    assert seen == sorted(seen, reverse=True)  # old up to some instant, new from then on
    assert set(seen) == {"old", "new"}


def test_a_process_that_ends_at_any_effect_keeps_the_old_folder_or_has_the_new(tmp_path, dies_at):
    final, k, seen = tmp_path / "model", 0, []
    files.publish_folder(final, fill_with("old"))
    while dies_at(k, lambda: files.publish_folder(final, fill_with("new"))):
        seen.append("new" if holds(final, "new") else "old" if holds(final, "old") else "neither")
        files.publish_folder(final, fill_with("old"))
        assert leftovers(tmp_path, "model") == []  # what the dead process left is cleared away
        k += 1
    assert holds(final, "new")
    assert seen == ["old"] * seen.count("old") + ["new"] * seen.count("new")
    assert seen.count("old") >= 12


def changed_to(text):
    def change(folder):
        files.write_json(folder / "sub" / "state.json", {"text": text})
        files.write_text(folder / "weights.bin", text * 11)

    return change


def test_a_published_folder_that_is_changed_is_complete_again_and_what_was_not_changed_is_not_copied(tmp_path):
    final = tmp_path / "model"
    files.publish_folder(final, fill_with("old"))
    inode = (final / "weights.bin").stat().st_ino
    files.change_folder(final, lambda folder: files.write_json(folder / "sub" / "state.json", {"text": "a longer one"}))
    files.verify_folder(final)
    assert files.is_complete(final)
    assert files.read_json(final / "sub" / "state.json") == {"text": "a longer one"}
    assert (final / "weights.bin").stat().st_ino == inode
    assert leftovers(tmp_path, "model") == []


def test_a_folder_of_others_is_changed_as_it_is(tmp_path, monkeypatch):
    fill_with("old")(tmp_path)
    monkeypatch.chdir(tmp_path)
    files.change_folder(".", changed_to("new"))
    assert (tmp_path / "weights.bin").read_text() == "new" * 11
    assert leftovers(tmp_path, "weights.bin", "sub") == []


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_at_any_effect_of_a_change_keeps_the_old_folder_or_has_the_new(tmp_path, every_crash, torn):
    def save(k):
        files.change_folder(tmp_path / str(k) / "model", changed_to("new"))

    for k in range(40):
        files.publish_folder(tmp_path / str(k) / "model", fill_with("old"))
    seen = []
    for k, crashed in every_crash(save, torn=torn):
        final = tmp_path / str(k) / "model"
        assert files.is_complete(final)
        seen.append("new" if holds(final, "new") else "old" if holds(final, "old") else "mixed")
        assert crashed or seen[-1] == "new"
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}


def test_changes_at_the_same_time_are_all_there(tmp_path, quick_disk):
    final = tmp_path / "model"
    files.publish_folder(final, lambda folder: files.write_json(folder / "state.json", []))

    def add(number):
        def change(folder):
            files.write_json(folder / "state.json", [*files.read_json(folder / "state.json"), number])

        files.change_folder(final, change)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert sorted(files.read_json(final / "state.json")) == list(range(24))
    files.verify_folder(final)
    assert leftovers(tmp_path, "model") == []


def test_a_process_that_ends_while_filling_leaves_no_folder_at_the_final_place(tmp_path, dies_at):
    k = 0
    while dies_at(k, lambda: files.publish_folder(tmp_path / "first", fill_with("new"))):
        if files.is_complete(tmp_path / "first"):
            assert holds(tmp_path / "first", "new")
        else:
            with pytest.raises(RunFolderError):
                files.verify_folder(tmp_path / "first")
        files.publish_folder(tmp_path / "first", fill_with("again"))
        assert holds(tmp_path / "first", "again")
        for path in (tmp_path / "first" / "sub", tmp_path / "first"):
            for file in path.iterdir():
                if file.is_file():
                    file.unlink()
            path.rmdir()
        k += 1
    assert k >= 15


def test_what_fill_raises_is_passed_on_and_its_folder_is_removed(tmp_path):
    def full(folder):
        (folder / "half").write_text("written so far")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.publish_folder(tmp_path / "step-3", full)
    assert list(tmp_path.iterdir()) == []


def test_an_unmarked_leftover_is_replaced(tmp_path):
    files.publish_folder(tmp_path / "step-4", fill_with("old"))
    (tmp_path / "step-4" / "COMPLETE.json").rename(tmp_path / "step-4" / "PENDING.json")  # as a crash before the mark leaves it
    assert not files.is_complete(tmp_path / "step-4")
    files.publish_folder(tmp_path / "step-4", fill_with("new"))
    assert holds(tmp_path / "step-4", "new")
    assert leftovers(tmp_path, "step-4") == []


def test_a_folder_that_we_did_not_write_is_moved_aside_and_not_lost(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    files.publish_folder(tmp_path / "mine", fill_with("new"))
    assert holds(tmp_path / "mine", "new")
    (aside,) = tmp_path.glob(".mine.replaced-*")
    assert (aside / "thesis.tex").read_text() == "years of work"


def test_a_file_or_a_link_at_the_final_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(RunFolderError, match=f"{name}: must be a folder or not there"):
            files.publish_folder(tmp_path / name, fill_with("new"))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_among_the_files_to_publish_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="regular files only"):
        files.publish_folder(tmp_path / "out", lambda folder: (folder / "link").symlink_to("/etc/hostname"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_file_is_named(tmp_path, damage):
    files.publish_folder(tmp_path / "step-5", fill_with("good"))
    path = tmp_path / "step-5" / "sub" / "state.json"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else bytes([data[0] ^ 1]) + data[1:])
    assert files.is_complete(tmp_path / "step-5") == (damage == "flipped")  # only sizes are read there
    with pytest.raises(RunFolderError, match=r"sub/state.json: damaged"):
        files.verify_folder(tmp_path / "step-5")


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "[]",
        "{}",
        '{"files": {"a": 1}}',
        '{"files": {"../a": {"bytes": 1, "sha256": "0"}}}',
        '{"files": {"/a": {"bytes": 1, "sha256": "0"}}}',
    ],
)
def test_a_damaged_mark_counts_as_none(tmp_path, mark):
    (tmp_path / "COMPLETE.json").write_text(mark)
    (tmp_path.parent / "a").write_text("x")
    assert not files.is_complete(tmp_path)
    with pytest.raises(RunFolderError, match=r"COMPLETE.json"):
        files.verify_folder(tmp_path)


def test_a_temporary_folder_that_a_living_process_fills_is_left_alone(tmp_path):
    code = (
        "import sys, touchstone.files as f\n"
        "def fill(folder): (folder / 'a').write_text('theirs'); print('filling', flush=True); sys.stdin.read()\n"
        "f.publish_folder(sys.argv[1], fill)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "filling\n"
        files.publish_folder(tmp_path / "cache", fill_with("ours"))
        assert (tmp_path / f".cache.tmp-{other.pid}" / "a").read_text() == "theirs"
        assert holds(tmp_path / "cache", "ours")
        other.stdin.close()
        assert other.wait() == 0
    files.verify_folder(tmp_path / "cache")
    assert (tmp_path / "cache" / "a").read_text() == "theirs"  # the later one stays
    assert leftovers(tmp_path, "cache") == []


def test_a_name_with_pattern_characters_clears_only_its_own_leftovers(tmp_path):
    (tmp_path / ".ab.tmp-1").mkdir()
    (tmp_path / ".[a]b.tmp-1").mkdir()
    files.publish_folder(tmp_path / "[a]b", fill_with("new"))
    assert leftovers(tmp_path) == [".ab.tmp-1", "[a]b"]


def test_a_second_holder_of_a_folder_is_refused_and_told_which_process_has_it(tmp_path):
    code = "import sys, touchstone.files as f\nwith f.lock_folder(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"in use by process {other.pid};"), files.lock_folder(tmp_path):
            pass
        other.kill()  # kill -9: the system lets go
        other.wait()
    with files.lock_folder(tmp_path), pytest.raises(RunFolderError, match=f"process {os.getpid()};"), files.lock_folder(tmp_path):
        pass
    with files.lock_folder(tmp_path):
        pass
