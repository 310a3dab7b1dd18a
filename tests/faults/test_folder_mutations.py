"""Files of a sound model folder changed at random: what comes of it is a model or one of our errors, never anything else."""

import copy
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from folder_watch import MOST_CHARACTERS
from hostile_folders import GOODS, INDEX, Good, make_sound, read_header, write_raw

import touchstone
from touchstone.errors import TouchstoneError

pytestmark = pytest.mark.slow

N_MUTATIONS = 2000 // len(GOODS)  # of each folder
TEXTS = ("config.json", "generation_config.json", "touchstone.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308),
    *("", "a", "768", "\x00", "\ud800", "…", "gpt2", "a" * 5000, [], {}, [[]], [None], [0] * 50, {"": 0}, {"a": {"b": []}}),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut off, cut out, repeat or overwrite."""
    changed = bytearray(data)
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.choice((1, 4, 40)))
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 8))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[begin:]
    elif kind == 2:
        del changed[begin:end]
    elif kind == 3:
        changed[begin:begin] = changed[begin:end] * rng.choice((1, 100))
    else:
        changed[begin:end] = rng.randbytes(end - begin)
    return bytes(changed)


def mutate_data(data: Any, rng: random.Random) -> Any:
    """Change one place in parsed JSON: another value, another key, nothing, or the value of another place."""
    root = {"root": copy.deepcopy(data)}
    places = list(_places(root))
    holder, key = rng.choice(places)
    other, other_key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1:
        holder[key] = copy.deepcopy(other[other_key])
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, dict) and holder is not root:
        holder[str(key) + "s"] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD))
    return root["root"]


def _places(data: Any) -> Any:
    """Every (holder, key) in parsed JSON; of a long list or mapping, the first few."""
    keys = list(data)[:30] if isinstance(data, dict) else range(min(len(data), 30))
    for key in keys:
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from _places(data[key])


def mutate(folder: Path, good: Good, rng: random.Random) -> str:
    """Change one file at random; which one, and how."""
    weights = rng.choice(sorted(path.name for path in folder.glob("*.safetensors")))
    name = rng.choice((*TEXTS, weights, weights, "chat_template.jinja", *([INDEX] * 2 if good.layout == "shards" else [])))
    path = folder / name
    if name.endswith(".jinja"):
        path.write_bytes(mutate_bytes(b"{% for m in messages %}{{ m.content }}{% endfor %}" * 9, rng))
        return name
    if rng.random() < 0.4:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
        return f"{name}: bytes"
    if name == weights:
        header, body = read_header(path)
        write_raw(path, json.dumps(mutate_data(header, rng)).encode(), body)
        return f"{name}: header"
    path.write_text(json.dumps(mutate_data(json.loads(path.read_text()), rng)))
    return f"{name}: data"


def outcome(load: Callable[[], Any], good: Good) -> str:
    """Empty if it is a model that computes or one of our errors, readable; else what it is."""
    try:
        model = load()
        with torch.inference_mode():
            good.compute(model.net)
        if model.tokenizer is not None:
            model.tokenizer.decode(model.tokenizer.encode("a b"))
    except TouchstoneError as error:
        message = str(error)
        readable = len(message) <= MOST_CHARACTERS and all(char.isprintable() or char == "\n" for char in message)
        return "" if readable else f"a message that nobody reads: {message[:200]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


@pytest.mark.parametrize("good", GOODS, ids=str)
def test_a_file_changed_at_random_is_a_model_or_one_of_our_errors(good: Good, tmp_path: Path) -> None:
    sound = make_sound(good, tmp_path / "sound")
    place = tmp_path / "m"
    failed = []
    for seed in range(N_MUTATIONS):
        rng = random.Random(f"{good} {seed}")
        shutil.copytree(sound, place)
        what = mutate(place, good, rng)
        if problem := outcome(lambda: touchstone.load(place, device="cpu", dtype="float32"), good):
            failed.append(f"seed {seed}, {what}: {problem}")
        shutil.rmtree(place)
    assert failed == []
