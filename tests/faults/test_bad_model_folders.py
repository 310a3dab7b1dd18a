"""Model folders that are malformed, hostile or of another kind: one clear error each, at once, with nothing executed."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import folder_watch
from folder_watch import Seen
from hostile_folders import CANARY, GOODS, N_ROWS, Good, edit_json, lay_traps, make_sound
from hostile_settings import added

import touchstone
from touchstone.errors import ModelFolderError, TokenizerError
from touchstone.files import load_tensors, save_tensors
from touchstone.infer.locate import locate_model
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import load_model, save_model

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 9}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder of the first family, to be spoilt."""
    return make_sound(GOODS[0], tmp_path / "m")


def refused(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as error:
        load_model(folder)
    return str(error.value)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
@pytest.mark.parametrize(
    ("flags", "goods"),
    [([], GOODS), (["-O"], [good for good in GOODS if good.family == GOODS[0].family])],
    ids=["with assertions", "one family without"],
)
def test_every_bad_folder_is_refused_by_one_clear_error_that_costs_little_and_runs_nothing(
    flags: list[str], goods: Sequence[Good], tmp_path: Path
) -> None:
    chosen = [] if goods == GOODS else [goods[0].family]
    command = [sys.executable, *flags, folder_watch.__file__, str(tmp_path), *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["has_assertions"] for row in rows} == {not flags}
    wanted = {(str(good), case.name): (case, good) for good in goods for case in folder_watch.cases(good)}
    assert len({name for _, name in wanted}) >= 60
    assert len(rows) == len(wanted) + len(goods)
    faults = []
    for row in rows:
        seen = Seen(**row["seen"])
        found = seen.faults()
        if row["case"] == folder_watch.SOUND:
            found += [seen.message] * bool(seen.error)
        else:
            found += folder_watch.differences(*wanted[row["good"], row["case"]], seen)
        faults += [f"{row['good']}, {row['case']}: {fault}" for fault in found]
    assert faults == []


def test_the_watch_sees_a_trap_that_goes_off(folder: Path, tmp_path: Path) -> None:
    lay_traps(folder)

    def careless(folder: Path) -> None:
        pickle.loads((folder / "training_args.bin").read_bytes())
        subprocess.run(["true"], check=True)
        raise ValueError("\x1b" + "a" * 5000)

    faults = folder_watch.watch(folder, careless).faults()
    for sign in (f"opened open {tmp_path / CANARY}", "ran pickle.find_class", "ran subprocess.Popen", "plain ValueError", "not printable"):
        assert any(sign in fault for fault in faults), sign
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("good", GOODS, ids=str)
def test_what_asks_to_be_run_is_listed_with_the_reason_and_left_alone(good: Good, tmp_path: Path) -> None:
    folder = make_sound(good, tmp_path / "m")
    lay_traps(folder)
    loaded = touchstone.load(folder)
    assert loaded.notes is not None
    assert "nothing in a model folder is executed" in loaded.notes.ignored_keys["auto_map"]
    assert "never opened" in loaded.notes.ignored_files["training_args.bin"]
    good.compute(loaded.net)
    assert not (tmp_path / CANARY).exists()


def test_a_folder_that_is_not_there_or_empty_says_so(tmp_path: Path) -> None:
    assert "no such model folder" in refused(tmp_path / "nothing")
    assert "config.json: no such file" in refused(tmp_path)


def test_a_mark_of_byte_order_is_no_fault(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "touchstone.json", "tokenizer_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert load_model(folder).spec.d_model == 12


@pytest.mark.parametrize(("value", "n"), [(float("nan"), 1), (float("inf"), 5), (-float("inf"), 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_weights_that_are_not_finite_are_counted_and_refused(folder: Path, value: float, n: int, dtype: torch.dtype) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_tensors(path).items()}
    tensors["transformer.ln_f.weight"][:n] = value
    save_tensors(path, tensors, {"format": "pt"})
    assert f"`transformer.ln_f.weight` in model.safetensors ({n} of 12 numbers)" in refused(folder)


def test_numbers_that_are_not_finite_in_what_is_left_out_do_no_harm(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_tensors(path), "transformer.h.1.attn.masked_bias": torch.tensor([-float("inf")])}
    save_tensors(path, tensors, {"format": "pt"})
    assert list(load_model(folder).extra.ignored_tensors) == ["transformer.h.1.attn.masked_bias"]


def test_a_pattern_that_runs_away_stops_at_the_first_text_and_not_at_loading(folder: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
    edit_json(folder / "tokenizer.json", lambda data: data.update(pre_tokenizer=pattern))
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    with pytest.raises(TokenizerError, match="its pattern may run for ever"):
        tokenizer.encode("a" * 64)


def test_as_many_ids_as_rows_are_no_fault(folder: Path) -> None:
    rest = [added(token_id, f"<{token_id}>") for token_id in range(258, N_ROWS)]
    edit_json(folder / "tokenizer.json", lambda data: data["added_tokens"].extend(rest))
    assert load_model(folder).extra.n_spare_rows == 0


# The cache of Hugging Face


def cache_entry(cache: Path, name: str, sound: Path) -> Path:
    """A model as `hf download` leaves it: blobs named by hash, a ref, and a snapshot of links; the snapshot's place."""
    entry = cache / f"models--{name.replace('/', '--')}"
    snapshot = entry / "snapshots" / COMMIT
    for place in (entry / "blobs", entry / "refs", snapshot):
        place.mkdir(parents=True)
    (entry / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(sound.iterdir())):
        blob = f"{number:040x}"
        (entry / "blobs" / blob).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob))
    return snapshot


@pytest.mark.parametrize("good", GOODS, ids=str)
def test_a_model_in_the_cache_opens_by_its_name(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cache_entry(tmp_path / "hub", "org/tiny", make_sound(good, tmp_path / "sound"))
    assert locate_model("org/tiny") == snapshot
    model, sound = touchstone.load("org/tiny"), touchstone.load(tmp_path / "sound")
    assert torch.equal(good.compute(model.net), good.compute(sound.net))


def relink(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "touchstone.json"])
@pytest.mark.parametrize("kind", ["another entry", "a file outside", "a blob that leads out", "blobs that lead out", "up and down"])
def test_a_link_of_the_cache_that_leads_elsewhere_does_not_open(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    snapshot = cache_entry(tmp_path / "hub", "org/tiny", folder)
    other = cache_entry(tmp_path / "hub", "org/other", folder)
    blobs = snapshot.parents[1] / "blobs"
    if kind == "another entry":
        relink(snapshot / name, (other / name).resolve())
    elif kind == "a file outside":
        relink(snapshot / name, folder / name)
    elif kind == "a blob that leads out":
        relink((snapshot / name).resolve(), folder / name)
    elif kind == "up and down":
        relink(snapshot / name, Path("..", "..", "blobs", "..", "..", "models--org--other", "blobs", (other / name).resolve().name))
    else:
        outside = blobs.rename(tmp_path / "outside")
        blobs.symlink_to(outside)
    assert "symbolic link" in refused(snapshot)


# Folders of our own types


@pytest.mark.parametrize(
    "spoil",
    [
        {"decoder": {"kind": "attention", "causal": True, "blocks": [{"repeat": 10**9, "block": {}}]}},
        {"decoder": {"kind": "recurrent", "cell": {"n_layers": 10**15, "d_hidden": 3}}},
        {"decoder": {"kind": "recurrent", "cell": {"d_hidden": 10**15}}},
        {"embed": {"vocab_size": 10**15, "d_model": 12}},
        {"surprise": 1},
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_spec_of_ours_is_no_more_trusted_than_any_other(tmp_path: Path, spoil: dict[str, Any]) -> None:
    save_model(tmp_path / "m", build(decoder_spec(**SIZES, positions="sinusoidal")))
    path = tmp_path / "m" / "config.json"
    edit_json(path, lambda config: config["spec"].update(spoil))
    if spoil.get("decoder", {}).get("kind") == "recurrent":
        edit_json(path, lambda config: (config.pop("architectures"), config.update(model_type="touchstone-recurrent")))
    refused(tmp_path / "m")


def test_an_absurd_table_of_ours_is_not_made(tmp_path: Path) -> None:
    save_model(tmp_path / "m", build(decoder_spec(**SIZES, positions="sinusoidal")))
    edit_json(tmp_path / "m" / "config.json", lambda config: config["spec"]["decoder"]["position"].update(max_seq_len=10**12))
    assert "larger than a gigabyte" in refused(tmp_path / "m")


def test_an_ngram_folder_with_other_tensors_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "touchstone-ngram", "spec": {"vocab_size": N_ROWS, "order": 2}}))
    assert "n-gram counts are stored as I32" in refused(folder)
    edit_json(path, lambda config: config.update(spec={"vocab_size": N_ROWS, "ordr": 2}))
    assert "did you mean `order`" in refused(folder)
