"""Settings: strict, readable from three formats, overridden by `key=value`, written so that they read back equal."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_validator

from touchstone import config
from touchstone.config import Config
from touchstone.errors import ConfigError, UnknownName


class Optim(Config):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    kind: str = "adamw"


class Layer(Config):
    width: int = 12
    window: int | None = None

    @field_validator("width")
    @classmethod
    def _even(cls, width: int) -> int:
        if width % 2:
            raise ValueError(f"`width` ({width}) must be even; nearest: {width + 1}.")
        return width


class Run(Config):
    name: str = "run"
    n_steps: int = 100
    optim: Optim = Optim()
    layers: tuple[Layer, ...] = ()
    patience: int | None = None
    compile: bool = False


def file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_config_is_frozen_and_made_only_of_what_it_declares():
    run = Run()
    with pytest.raises(ValueError, match="frozen"):
        run.n_steps = 5
    with pytest.raises(ConfigError, match="unknown key `n_step`; did you mean `n_steps`"):
        Run(n_step=5)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"n_steps": "100"}, "`n_steps` should be a valid integer, not '100'"),
        ({"n_steps": 1.5}, "`n_steps` should be a valid integer"),
        ({"n_steps": True}, "`n_steps` should be a valid integer, not True"),
        ({"compile": "yes"}, "`compile` should be a valid boolean, not 'yes'"),
        ({"optim": {"learning_rate": "fast"}}, r"`optim\.learning_rate` should be a valid number, not 'fast'"),
        ({"optim": {"learning_rat": 1}}, r"unknown key `optim\.learning_rat`; did you mean `learning_rate`"),
        ({"optim": 3}, "`optim` should be"),
        ({"layers": [{}, {"windw": 3}]}, r"unknown key `layers\.1\.windw`; did you mean `window`"),
        ({"layers": [{"width": 13}]}, r"`layers\.0\.width`: `width` \(13\) must be even; nearest: 14"),
        ({"optim": {"betas": [0.9]}}, r"`optim\.betas\.1` is missing"),
        ({"optim": {"learning_rate": float("nan")}}, "should be a finite number"),
        ({"zzz": 1}, "unknown key `zzz`$"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_nearest_right_name(data, says):
    with pytest.raises(ConfigError, match=says):
        config.parse(Run, data)


def test_all_problems_are_reported_together_under_the_name_of_their_source():
    with pytest.raises(ConfigError) as caught:
        config.parse(Run, {"n_steps": "x", "nam": "y", "optim": {"kind": 3}}, source="mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert all(part in message for part in ("`n_steps`", "did you mean `name`", "`optim.kind`"))
    assert "\n" not in message


def test_a_changed_copy_is_validated_as_if_new():
    assert Run().replace(n_steps=7, layers=(Layer(width=4),)) == Run(n_steps=7, layers=(Layer(width=4),))
    with pytest.raises(ConfigError, match="Run: unknown key `steps`"):
        Run().replace(steps=7)
    with pytest.raises(ConfigError, match="must be even"):
        Layer().replace(width=5)


SAME = {
    "a.yaml": "n_steps: 7\noptim:\n  learning_rate: 1e-4\n  betas: [0.5, 0.25]\nlayers:\n- {width: 4}\n",
    "a.yml": "{n_steps: 7, optim: {learning_rate: .1e-3, betas: [0.5, 2.5e-1]}, layers: [{width: 4}]}",
    "a.toml": "n_steps = 7\nlayers = [{width = 4}]\n[optim]\nlearning_rate = 1e-4\nbetas = [0.5, 0.25]\n",
    "a.json": '{"n_steps": 7, "optim": {"learning_rate": 0.0001, "betas": [0.5, 0.25]}, "layers": [{"width": 4}]}',
}


@pytest.mark.parametrize("name", SAME)
def test_three_formats_say_the_same(tmp_path, name):
    expected = Run(n_steps=7, optim=Optim(learning_rate=1e-4, betas=(0.5, 0.25)), layers=(Layer(width=4),))
    assert config.load(Run, file(tmp_path, name, SAME[name])) == expected
    assert config.load(Run, file(tmp_path, name, b"\xef\xbb\xbf" + SAME[name].encode())) == expected  # a byte-order mark


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", "a: 1\na: 2\n", "duplicate key `a`"),
        ("a.yaml", "x: {b: 1, b: 2}", "duplicate key `b`"),
        ("a.json", '{"a": 1, "a": 2}', "duplicate key `a`"),
        ("a.json", '{"x": {"b": 1, "c": 0, "b": 2}}', "duplicate key `b`"),
        ("a.toml", "a = 1\na = 2\n", "not readable as TOML"),
        ("a.yaml", "a: [1\n", "not readable as YAML"),
        ("a.json", "{", "not readable as JSON"),
        ("a.json", "[" * 100_000, "not readable as JSON"),
        ("a.yaml", "[" * 20_000, "not readable as YAML"),
        ("a.yaml", b"a: \xff", "not readable as YAML"),
        ("a.yaml", "", "is a mapping of keys to values, this one is a NoneType"),
        ("a.yaml", "- 1\n- 2\n", "this one is a list"),
        ("a.yaml", "? [1, 2]\n: 3\n", "a key must be a plain text"),
        ("a.yaml", "a: &x [1, 2]\nb: *x\n", r"`\*x`: write the value out"),
        ("a.yaml", "a: &x [*x]\n", r"`\*x`: write the value out"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]\n", "not readable as YAML"),
        ("a.ini", "a = 1", r"read from \.yaml, \.yml, \.toml, \.json files, not `\.ini`"),
        ("noending", "a: 1", "not `no suffix`"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error_that_names_it(tmp_path, name, content, says):
    with pytest.raises(ConfigError, match=says) as caught:
        config.read_settings(file(tmp_path, name, content))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        config.read_settings(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: not readable"):
        config.read_settings(tmp_path / "folder.yaml")


def test_a_toml_date_is_no_setting(tmp_path):
    with pytest.raises(ConfigError, match="not a date"):
        config.load(Run, file(tmp_path, "a.toml", "name = 2024-01-01\n"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("12", 12), ("-3", -3), ("0", 0), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e-3", 1e-3), ("2E5", 2e5), ("-1.5e+2", -150.0)),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1})),
        *(("text", "text"), ("'12'", "12"), ("a b", "a b"), ("试", "试"), ("runs/x=y", "runs/x=y")),
        # values that YAML 1.1 turns into something nobody meant
        *(("no", "no"), ("on", "on"), ("010", "010"), ("1:30", "1:30"), ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10")),
        *((".nan", ".nan"), ("e3", "e3"), ("1e", "1e")),
    ],
)
def test_the_value_of_an_override_is_read_as_yaml_1_2(text, value):
    found = config.apply_overrides({}, [f"a={text}"])
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_overrides_reach_into_groups_and_lists_and_the_last_one_wins():
    data = {"optim": {"kind": "muon"}, "layers": [{"width": 4}, {"width": 6}], "none": None}
    overrides = ["optim.learning_rate=1e-2", "layers.1.width=8", "n_steps=3", "n_steps=5", "none.x.y=1", "layers.0={width: 2}"]
    expected = {
        **{"optim": {"kind": "muon", "learning_rate": 0.01}, "layers": [{"width": 2}, {"width": 8}], "none": {"x": {"y": 1}}},
        "n_steps": 5,
    }
    assert config.apply_overrides(data, overrides) == expected
    assert data == {"optim": {"kind": "muon"}, "layers": [{"width": 4}, {"width": 6}], "none": None}  # untouched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("n_steps", "is no override; write key=value"),
        ("=3", "is no override"),
        ("layers.7.width=2", "`layers` is a list of 1; `7` is no place in it"),
        ("layers.x=2", "`x` is no place in it"),
        ("layers.²=2", "`²` is no place in it"),
        ("n_steps.deep=2", "`n_steps` is a plain value; it has no `deep`"),
        ("a=[1", "the value is not readable"),
        ("a={[1]: 2}", "a key must be a plain text"),
        ("a={x: 1, x: 2}", "duplicate key `x`"),
        ("a=" + "[" * 20_000, "the value is not readable"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(override, says):
    with pytest.raises(ConfigError, match=says):
        config.apply_overrides({"layers": [{"width": 4}], "n_steps": 3}, [override])


def test_a_value_that_json_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="not a bytes"):
        config.parse(Run, config.apply_overrides({}, ["name=!!binary aGVsbG8="]))


def test_a_slip_in_an_override_of_a_file_is_told_with_the_right_name(tmp_path):
    path = file(tmp_path, "mine.yaml", "n_steps: 3\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key `optim\.learning_rte`; did you mean `learning_rate`"):
        config.load(Run, path, ["optim.learning_rte=1"])


TRICKY = [
    "no",
    "1e-3",
    "010",
    "2024-01-01",
    "null",
    "~",
    "",
    " ",
    "true",
    "1:30",
    "12",
    ".5",
    "- x",
    "a: b",
    "#c",
    "'q'",
    '"',
    "line\nline",
    "试",
    "\u2028",
    "*x",
    "&x",
    "!t",
]


@pytest.mark.parametrize("name", TRICKY)
def test_what_is_written_as_yaml_reads_back_equal(tmp_path, name):
    run = Run(name=name, optim=Optim(learning_rate=1e-8, betas=(1e20, 0.1)), layers=(Layer(), Layer(width=2, window=3), Layer()))
    assert config.load(Run, file(tmp_path, "a.yaml", config.to_yaml(run))) == run


@pytest.mark.slow
@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**30), 10**30))
@settings(max_examples=150)
def test_any_value_written_as_yaml_reads_back_equal(name, rate, n_steps):
    run = Run(name=name, n_steps=n_steps, optim=Optim(learning_rate=rate))
    assert config.parse(Run, yaml.load(config.to_yaml(run), Loader=config._Loader)) == run


def test_equal_parts_are_written_out_and_not_as_aliases():
    shared = Layer(width=4)
    text = config.to_yaml(Run(layers=(shared, shared)))
    assert "&" not in text
    assert text.count("width: 4") == 2


def test_differences_name_each_field_with_both_values():
    old = Run(n_steps=5, layers=(Layer(width=2), Layer(width=4)))
    new = Run(n_steps=6, optim=Optim(kind="muon"), layers=(Layer(width=2), Layer(width=6)))
    assert config.differences(old, new) == ["n_steps: 5 -> 6", "optim.kind: adamw -> muon", "layers.1.width: 4 -> 6"]
    assert config.differences(old, old) == []
    assert config.differences(Run(), Run(optim=Optim(betas=(0.9, 0.99)))) == ["optim.betas: [0.9, 0.95] -> [0.9, 0.99]"]


def test_the_closest_names_come_first_and_none_that_are_far():
    assert config.closest("gpt-smal", ["gpt-small", "gpt2-124m", "lstm"])[0] == "gpt-small"
    assert config.closest("zzz", ["gpt-small", "lstm"]) == []


def test_thousands_of_unknown_keys_are_counted_and_not_searched():
    with pytest.raises(ConfigError, match=r"file: 5000 unknown keys, among them `k0`, `k1`, `k2`; there are: ") as error:
        config.parse(Run, {f"k{i}": i for i in range(5000)}, source="file")
    assert len(str(error.value)) < 300


def test_what_is_nested_too_deeply_is_an_error_of_the_settings():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ConfigError, match="file: lists and mappings are nested too deeply"):
        config.parse(Run, {"layers": deep}, source="file")


def test_an_unknown_name_is_answered_with_the_near_and_all():
    error = config.unknown_name("recipe", "gpt-smal", ["lstm", "gpt-small"], hint="See `--list`.")
    assert isinstance(error, UnknownName)
    assert str(error) == "No recipe `gpt-smal`. Did you mean `gpt-small`? All: gpt-small, lstm. See `--list`."
    assert str(config.unknown_name("recipe", "zzz", ["lstm"])) == "No recipe `zzz`. All: lstm."


def test_paths_and_configs_inside_data_are_plain_text_and_groups():
    found = config.parse(Run, {"name": Path("a/b"), "optim": Optim(kind="muon"), "layers": (Layer(width=2),)})
    assert found == Run(name="a/b", optim=Optim(kind="muon"), layers=(Layer(width=2),))
    assert json.loads(found.model_dump_json())["optim"]["kind"] == "muon"
