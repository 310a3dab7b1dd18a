"""Constraints on real schemas: how many are supported, that everything allowed is valid, and what a step costs.

Writes docs/results/constraints.md. Takes some minutes on two cores.
"""

import datetime
import itertools
import json
import platform
import resource
import tarfile
import time
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from touchstone import load
from touchstone.errors import TouchstoneError
from touchstone.flows.conversion import ConversionRequest, convert_model
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.request import Request, Sampling
from touchstone.models import build, decoder_spec
from touchstone.prompt.constrain import Constrainer
from touchstone.report.terminal import Terminal

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "constraints.md"
N_GENERATIONS = 2000
N_NEW = 160
N_DISTINCT = 10_000
MAX_GROWTH = 150 * 2**20  # bytes, of 10,000 schemas

pytestmark = pytest.mark.prove


@pytest.fixture(scope="module")
def page():
    """The sections of the results, written when all of them are there."""
    sections = {}
    yield sections
    if len(sections) == 4:
        write_results(sections)


@pytest.fixture(scope="module")
def bench(test_data):
    """The schemas of JSONSchemaBench, by their part of it."""
    found = {}
    with tarfile.open(test_data / "benchmarks" / "jsonschemabench_sample.tar.gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith(".json"):
                found[member.name] = json.load(archive.extractfile(member))
    return found


@pytest.fixture(scope="module")
def stories(test_data, tmp_path_factory):
    source, folder = test_data / "weights" / "stories260K", tmp_path_factory.mktemp("stories") / "m"
    asked = ConversionRequest(str(source / "stories260K.bin"), folder, origin="llama2c", tokenizer=source / "tok512.bin")
    convert_model(asked, Terminal("en", json=True))
    return load(folder)


@pytest.fixture(scope="module")
def random_model(stories):
    spec = decoder_spec(vocab_size=stories.spec.vocab_size, d_model=48, n_layers=2, n_heads=4, max_seq_len=512)
    return LanguageModel(build(spec, seed=0).eval(), tokenizer=stories.tokenizer, generation_config=stories.generation_config)


def test_every_instance_of_an_accepted_schema_of_the_standards_own_tests_is_judged_right(test_data, stories, page):
    constrainer = Constrainer(stories.tokenizer, stories.eos_ids, stories.spec.vocab_size)
    n_groups = n_refused = n_invalid = n_valid = n_written = 0
    allowed = []
    with tarfile.open(test_data / "benchmarks" / "json_schema_test_suite_draft2020-12.tar.gz") as archive:
        for member in archive.getmembers():
            if not member.name.endswith(".json") or "remotes" in member.name:
                continue
            for group in json.load(archive.extractfile(member)):
                n_groups += 1
                try:
                    factory = constrainer.json_schema(group["schema"])
                except TouchstoneError:
                    n_refused += 1
                    continue
                for case in group["tests"]:
                    fits = accepts(factory, constrainer, json.dumps(case["data"], separators=(",", ":"), ensure_ascii=False))
                    n_invalid, n_valid = n_invalid + (not case["valid"]), n_valid + case["valid"]
                    n_written += case["valid"] and fits
                    if fits and not case["valid"]:
                        allowed.append((member.name, group["description"], case["description"]))
    assert n_invalid > 400
    assert not allowed
    page["suite"] = f"""{n_groups} schemas of the JSON-Schema-Test-Suite (draft 2020-12, optional ones included): {n_refused} refused, since
a keyword or form of it cannot be kept. Of the others, all {n_invalid} invalid instances are rejected, and {n_written} of {n_valid}
valid ones can be written. What cannot: properties in another order than the schema's, 1.0 where the schema says 1, leap seconds, host
names of other scripts, quoted e-mail names, and text against its `format` (which the standard lets pass as a remark)."""


def accepts(factory, constrainer, text):
    rule = factory(Request([1]))
    token_ids = constrainer.tokens_of(text)
    return rule.n_taken(token_ids) == len(token_ids) and rule.may_stop


def test_real_schemas_are_supported_or_refused_and_what_ends_is_valid(bench, stories, random_model, page):
    constrainer = Constrainer.of(stories)
    factories, refused, seconds = {}, [], []
    for name, schema in bench.items():
        begun = time.perf_counter()
        try:
            factories[name] = constrainer.json_schema(schema)
        except TouchstoneError as error:
            refused.append(str(error))
        seconds.append(time.perf_counter() - begun)
    rows, by_part = [], {name: name.split("/")[-2] if "/" in name else name.split("--")[0] for name in bench}
    for part in sorted(set(by_part.values())):
        names = [name for name in bench if by_part[name] == part]
        rows.append((part, len(names), sum(name in factories for name in names)))
    ended = length = errors = 0
    for model in (random_model, stories):
        names = list(itertools.islice(itertools.cycle(factories), N_GENERATIONS // 2))
        asked = [Request([1], Sampling(seed=n, max_new_tokens=N_NEW, constraint=factories[name])) for n, name in enumerate(names)]
        for name, completion in zip(names, model.generate(asked), strict=True):
            length += completion.finish_reason == "length"
            errors += completion.finish_reason == "error"
            if completion.finish_reason == "stop":
                ended += 1
                validator = jsonschema.validators.validator_for(bench[name], default=jsonschema.Draft202012Validator)
                validator(exact(json.dumps(bench[name]))).validate(exact(completion.text))
    assert ended + length + errors == N_GENERATIONS
    assert ended
    page["bench"] = f"""{table(("part of JSONSchemaBench", "schemas", "supported"), [*rows, ("all", len(bench), len(factories))])}

Compiling one: median {np.median(seconds) * 1e3:.0f} ms, the slowest {max(seconds):.1f} s. Of {N_GENERATIONS:,} generations of at most
{N_NEW} tokens (half by random weights, half by stories260K, vocabulary {stories.spec.vocab_size}), {ended} ended with "stop", every one
valid by `jsonschema`; {length} ended with "length" and {errors} with "error" (a step's budget)."""


def exact(text):
    """JSON with its decimals as they are written: as floats, -500.28 is no multiple of 0.01."""
    return json.loads(text, parse_float=number)


def number(text):
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits, which a grammar allows: too large for decimals, and infinite in floats
        return float(text)


def test_the_time_of_a_mask(bench, stories, page):
    constrainer, seconds = Constrainer.of(stories), []
    logits = torch.zeros(stories.spec.vocab_size)
    rng = np.random.default_rng(0)
    for schema in bench.values():
        try:
            rule = constrainer.json_schema(schema)(Request([1]))
        except TouchstoneError:
            continue
        for _ in range(30):
            begun = time.perf_counter()
            try:
                shaped = rule.apply(logits)
            except TouchstoneError:  # the budget of a step
                break
            finally:
                seconds.append(time.perf_counter() - begun)
            allowed = [token for token in shaped.isfinite().nonzero().flatten().tolist() if token not in stories.eos_ids]
            if rule.must_stop or not allowed:
                break
            rule.accept(int(rng.choice(allowed)))
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    page["time"] = f"""One step of a rule (mask and ban, vocabulary {stories.spec.vocab_size}), {len(seconds):,} steps over all supported
schemas: median {p50:.2f} ms, 99 % below {p99:.1f} ms, the slowest {max(seconds) * 1e3:.0f} ms."""


def test_ten_thousand_schemas_leave_memory_bounded(stories, page):
    constrainer = Constrainer.of(stories)

    def compile_many(first, n):
        for number in range(first, first + n):
            name = f"field_{number}"
            constrainer.json_schema({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]})

    compile_many(0, 500)  # what is kept for later requests is full
    before = resident()
    compile_many(500, N_DISTINCT)
    growth = resident() - before
    page["memory"] = (
        f"{N_DISTINCT:,} different schemas through one constrainer: {growth / 2**20:+.0f} MiB resident (allowed: {MAX_GROWTH / 2**20:.0f})."
    )
    assert growth < MAX_GROWTH


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def table(headers, rows):
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (headers, ["---"] * len(headers), *rows))


def write_results(sections):
    versions = ", ".join(f"{name} {version(name)}" for name in ("llguidance", "jsonschema", "torch"))
    text = f"""# Constraints: what is supported, and what a step costs

Written by `pytest -m prove tests/prove/test_constraints.py`, a part of `make prove`, on {datetime.date.today().isoformat()}: Python
{platform.python_version()}, {versions}, {platform.system()} {platform.machine()}.

## Real schemas

{sections["bench"]}

## The standard's own tests

{sections["suite"]}

## Time and memory

{sections["time"]}
{sections["memory"]}
"""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
