import pytest

from touchstone.errors import ModelFolderError
from touchstone.infer.locate import hugging_face_cache, locate_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_at(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    entry = tmp_path / "hf" / "hub" / "models--org--tiny"
    model_at(entry / "snapshots" / COMMIT)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(COMMIT + "\n")
    return entry


def test_a_model_folder_is_itself(tmp_path):
    folder = model_at(tmp_path / "gpt")
    assert locate_model(folder) == folder
    assert locate_model(str(folder)) == folder


def test_a_run_folder_is_its_model(tmp_path):
    model = model_at(tmp_path / "run" / "model")
    assert locate_model(tmp_path / "run") == model


def test_a_name_is_its_cached_snapshot(cache):
    assert locate_model("org/tiny") == cache / "snapshots" / COMMIT


def test_a_folder_goes_before_a_cached_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_at(tmp_path / "org" / "tiny")
    assert locate_model("org/tiny").resolve() == (tmp_path / "org" / "tiny").resolve()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_hugging_faces_tools_keep_it(monkeypatch, settings, expected):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert str(hugging_face_cache()) == expected


def test_what_is_not_there_says_where_was_looked(cache, tmp_path):
    with pytest.raises(ModelFolderError, match=r"org/other.*hf/hub.*Nothing is downloaded"):
        locate_model("org/other")
    with pytest.raises(ModelFolderError, match="no such folder"):
        locate_model(tmp_path / "missing" / "deep")
    with pytest.raises(ModelFolderError, match="no such folder"):
        locate_model("../org/tiny")


def test_a_folder_without_a_model_says_what_is_missing(tmp_path):
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        locate_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelFolderError, match="no `model/` yet"):
        locate_model(tmp_path)


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="this is a file"):
        locate_model(tmp_path / "model.safetensors")


def test_a_damaged_cache_entry_is_refused(cache):
    (cache / "refs" / "main").write_text("../../../etc")
    with pytest.raises(ModelFolderError, match="commit hash"):
        locate_model("org/tiny")
    (cache / "refs" / "main").write_text("f" * 40)
    with pytest.raises(ModelFolderError, match=r"no `config\.json`"):
        locate_model("org/tiny")
    (cache / "refs" / "main").unlink()
    with pytest.raises(ModelFolderError, match="refs/main"):
        locate_model("org/tiny")
