"""Run a task on a model: in bounded memory, longest first, and so that a killed run goes on where it was.

Examples are read twice. The first time nothing is asked of the model: rows are counted, bad ones reported, data and prompts hashed, and
with a `limit` the examples chosen whose hashed ids come first - never the first of a file that may be sorted, and a larger limit keeps
what a smaller one did. The second time a bounded number of examples is held, sorted by size and cut into batches; a batch's scores are on
the disk before the next begins. Batches do not depend on what is done already, so a run that was killed and goes on asks the model for the
same batches that it would have been asked for: the same result, with an invariant model to the last bit whatever the batches are.

What is done with bad rows is said by `policy`:
- "count": they are left out, counted by kind and shown; so is a text over the model's context.
- "cut": the same, but a text over the context loses its oldest tokens, as in lm-evaluation-harness; how many did is counted.
- "strict": the first ends the run with a DataError.
"""

import hashlib
import heapq
import importlib.metadata
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from touchstone.errors import ConfigError, DataError, TouchstoneError, Unsupported
from touchstone.evaluate.ask import Request, Size, answer_requests, plain, size_of, told
from touchstone.evaluate.ledger import Ledger, LedgerRow
from touchstone.evaluate.task import BadRow, EvalExample, EvalTask
from touchstone.evaluate.task_result import RESULT, BadRows, Identity, ScoreTable, TaskResult, figures_of
from touchstone.files import lock_folder, sha256_bytes, write_json
from touchstone.infer.language_model import LanguageModel
from touchstone.models.ngram import NgramModel
from touchstone.models.quantized import numeric_scheme
from touchstone.models.weights import weights_hash

__all__ = ["Policy", "run_task"]

Policy = Literal["count", "cut", "strict"]

BATCH_TOKENS = 8192
"""Tokens of one batch: what the scoring of given text holds at once anyway (infer/logits.py)."""

BUFFER = 256
"""Examples that are held and sorted: enough for batches of like sizes, few enough to hold."""

MAX_BATCH = 64
"""Examples of one batch: no more are lost with a killed process."""

N_SHOWN = 20
"""Bad rows that a result shows; all are counted."""


def run_task(
    model: LanguageModel,
    task: EvalTask,
    *,
    folder: Path | str | None = None,
    limit: int | None = None,
    policy: Policy = "count",
    batch_tokens: int = BATCH_TOKENS,
    level: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Score the model on the task's examples, or on `limit` of them.

    folder: keeps `FOLDER/TASK/`: identity.json, examples.jsonl (a line an example), result.json; a run that was cut off goes on there.
        None = nothing is kept. progress: is told (done, of how many).
    Raises Unsupported if the model cannot do what is asked, RunFolderError if the folder holds results of another model, task, data or
    version, DataError if no example can be used, and TouchstoneError where the model's answers are no numbers.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"`limit` must be at least 1, not {limit}; leave it out for all examples.")
    if batch_tokens < 1:
        raise ConfigError(f"`batch_tokens` must be at least 1, not {batch_tokens}.")
    if policy not in ("count", "cut", "strict"):
        raise ConfigError(f"`policy` must be count, cut or strict, not {policy!r}.")
    survey = _Survey.of(task, limit)
    _check_rows(survey, task, policy)
    model.need_tokenizer()
    for ability in sorted(survey.abilities):
        model.check_can(ability)
    run = _Run(model, task, survey, _identity(model, task, survey, policy), limit, policy, batch_tokens, level, progress)
    if folder is not None:
        return run.result(Path(folder) / task.name)
    with tempfile.TemporaryDirectory(prefix="touchstone-") as place:
        return run.result(Path(place))


@dataclass
class _Survey:
    """What is known of a task's examples before anything is asked."""

    n: int = 0  # that can be used and are chosen
    n_rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    abilities: set[str] = field(default_factory=set)
    sample: tuple[dict[str, Any], ...] = ()
    data_sha256: str = ""
    prompts_sha256: str = ""
    chosen: frozenset[str] | None = None

    @classmethod
    def of(cls, task: EvalTask, limit: int | None) -> "_Survey":
        found, seen = cls(), set()
        data, prompts = hashlib.sha256(), hashlib.sha256()
        first: list[tuple[int, str]] = []  # a heap of the largest hashes kept, negated
        for row in task.examples:
            found.n_rows += 1
            if isinstance(row, BadRow):
                found.note(row)
                continue
            if row.id in seen:
                raise DataError(f"{row.where}: the id `{row.id}` is there twice in `{task.name}`; ids tell examples apart.")
            seen.add(row.id)
            requests = _requests(task, row)
            asked = [plain(request) for request in requests]
            found.abilities |= {request.ability for request in requests}
            found.sample = found.sample or tuple(asked)
            data.update(_line([row.id, row.source, dict(row.fields)]))
            prompts.update(_line(asked))
            if limit is not None:
                heapq.heappush(first, (-int(sha256_bytes(row.id.encode())[:15], 16), row.id))
                if len(first) > limit:
                    heapq.heappop(first)
        found.chosen = None if limit is None else frozenset(id for _, id in first)
        found.n = len(seen) if found.chosen is None else len(found.chosen)
        found.data_sha256, found.prompts_sha256 = data.hexdigest(), prompts.hexdigest()
        return found

    def note(self, row: BadRow) -> None:
        self.bad[row.kind] += 1
        if len(self.shown) < N_SHOWN:
            self.shown.append(str(row))


@dataclass(frozen=True)
class _Item:
    """An example with what is asked about it. n_tokens: of all requests. long: why some of them do not fit, and whether all can be cut."""

    example: EvalExample
    requests: Sequence[Request]
    n_tokens: int
    long: tuple[Size, ...]

    @classmethod
    def of(cls, model: LanguageModel, task: EvalTask, example: EvalExample) -> "_Item":
        requests = _requests(task, example)
        sizes = [size_of(model, request) for request in requests]
        return cls(example, requests, sum(size.n_tokens for size in sizes), tuple(size for size in sizes if size.too_long is not None))

    @property
    def is_long(self) -> bool:
        return bool(self.long)

    def why_left_out(self, lets_cut: bool) -> str | None:
        """Why the example cannot be asked about; None if it can."""
        if not self.long or (lets_cut and all(size.can_cut for size in self.long)):
            return None
        return self.long[0].too_long


@dataclass
class _Run:
    model: LanguageModel
    task: EvalTask
    survey: _Survey
    identity: Identity
    limit: int | None
    policy: Policy
    batch_tokens: int
    level: float
    progress: Callable[[int, int], None] | None

    def result(self, folder: Path) -> TaskResult:
        with lock_folder(folder):
            ledger = Ledger.open(folder, self.identity)
            self._tell(ledger)
            for batch in self._batches():
                todo = [item for item in batch if item.example.id not in ledger.done]
                if todo:
                    ledger.append(self._rows(todo))
                    self._tell(ledger)
            result = self._result(ledger)
            write_json(folder / RESULT, result.model_dump(mode="json"))
            return result

    def _tell(self, ledger: Ledger) -> None:
        if self.progress is not None:
            done = ledger.done if self.survey.chosen is None else ledger.done & self.survey.chosen
            self.progress(len(done), self.survey.n)

    def _batches(self) -> Iterator[list["_Item"]]:
        """All examples in batches: a buffer at a time, longest first."""
        held: list[_Item] = []
        for example in self.task.examples:
            if isinstance(example, BadRow) or (self.survey.chosen is not None and example.id not in self.survey.chosen):
                continue
            held.append(_Item.of(self.model, self.task, example))
            if len(held) == BUFFER:
                yield from _cut(held, self.batch_tokens)
                held = []
        yield from _cut(held, self.batch_tokens)

    def _rows(self, batch: Sequence["_Item"]) -> list[LedgerRow]:
        """What the ledger holds of each example of a batch, which is asked for together."""
        lets_cut = self.policy == "cut"
        outputs = iter(self._outputs([item for item in batch if item.why_left_out(lets_cut) is None]))
        rows = []
        for item in batch:
            reason = item.why_left_out(lets_cut)
            found = BadRow(item.example.where, "over the context", reason) if reason is not None else next(outputs)
            rows.append(self._bad(item.example, found) if isinstance(found, BadRow) else self._scored(item, found))
        return rows

    def _outputs(self, batch: Sequence["_Item"]) -> list[list[Any] | BadRow]:
        """The outputs of each example; where the model refuses the batch, each is asked alone, and who is refused then is a bad row."""
        flat = [request for item in batch for request in item.requests]
        try:
            outputs = iter(answer_requests(self.model, flat, cut=self.policy == "cut"))
            return [[next(outputs) for _ in item.requests] for item in batch]
        except ConfigError as error:
            if len(batch) == 1:
                return [BadRow(batch[0].example.where, "refused", str(error))]
        return [found for item in batch for found in self._outputs([item])]

    def _scored(self, item: "_Item", outputs: Sequence[Any]) -> LedgerRow:
        example = item.example
        scores = self.task.scored(example, outputs)
        wrong = {name: value for name, value in scores.items() if not math.isfinite(value)}
        if wrong:
            raise TouchstoneError(f"{example.where}: the model's answers give {wrong}, which are no finite numbers; it cannot be judged.")
        baselines = {baseline.name: self.task.baseline_scores(baseline, example) for baseline in self.task.baselines}
        row = {"id": example.id, "source": example.source, "where": example.where, "scores": scores, "baselines": baselines}
        return {**row, **({"cut": True} if item.is_long else {}), "outputs": [told(output) for output in outputs]}

    def _bad(self, example: EvalExample, found: BadRow) -> LedgerRow:
        if self.policy == "strict":
            raise DataError(f"{found} (`policy` is strict)")
        return {"id": example.id, "where": example.where, "bad": {"kind": found.kind, "reason": found.reason}}

    def _result(self, ledger: Ledger) -> TaskResult:
        task, survey, bad = self.task, self.survey, Counter(self.survey.bad)
        shown, n_cut = list(survey.shown), 0
        for row in self._chosen(ledger):
            n_cut += bool(row.get("cut"))
            if "bad" in row:
                bad[row["bad"]["kind"]] += 1
                if len(shown) < N_SHOWN:
                    shown.append(f"{row['where']}: {row['bad']['kind']}: {row['bad']['reason']}")
        rows = BadRows(n=dict(sorted(bad.items())), shown=tuple(shown))
        if rows.total and self.policy == "strict":  # they were counted by a run before this one
            raise DataError(f"{rows.shown[0]} (`policy` is strict)")
        table = ScoreTable.of(self._chosen(ledger))
        if not table.ids:
            remedy = " With `policy` cut, texts over the context lose their oldest tokens." if "over the context" in bad else ""
            raise DataError(f"`{task.name}`: no example was left to score: {'; '.join(rows.shown[:3])}.{remedy}")
        baselines = {
            baseline.name: (
                ScoreTable.of(self._chosen(ledger), baseline.name),
                [metric.name for metric in task.metrics if baseline.serves(metric)],
            )
            for baseline in task.baselines
        }
        return TaskResult(
            description=task.description,
            language=task.language,
            source=task.source,
            template=task.template,
            sample=survey.sample,
            files=tuple(path.name for path in task.data),
            identity=self.identity,
            limit=self.limit,
            n_examples=len(table.ids),
            n_clusters=len(table.ids) if table.clusters is None else len(set(table.clusters)),
            n_cut=n_cut,
            figures=figures_of(task.metrics, table, baselines, level=self.level),
            bad_rows=rows,
        )

    def _chosen(self, ledger: Ledger) -> Iterator[LedgerRow]:
        return (row for row in ledger.rows() if self.survey.chosen is None or row["id"] in self.survey.chosen)


def _cut(held: Sequence[_Item], batch_tokens: int) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    n_tokens = 0
    for item in sorted(held, key=lambda item: -item.n_tokens):
        if batch and (n_tokens + item.n_tokens > batch_tokens or len(batch) == MAX_BATCH):
            yield batch
            batch, n_tokens = [], 0
        batch.append(item)
        n_tokens += item.n_tokens
    if batch:
        yield batch


def _identity(model: LanguageModel, task: EvalTask, survey: _Survey, policy: Policy) -> Identity:
    net = model.net
    if isinstance(net, NgramModel):
        state, scheme = {name: torch.from_numpy(values) for name, values in net.to_arrays().items()}, "float64"
    else:
        state, scheme = net.state_dict(), numeric_scheme(net)
    return Identity(
        task=task.name,
        task_version=task.version,
        settings=json.loads(_line(dict(task.settings))),
        data_sha256=survey.data_sha256,
        prompts_sha256=survey.prompts_sha256,
        weights_sha256=weights_hash(state),
        tokenizer_sha256=model.need_tokenizer().fingerprint,
        numeric_scheme=scheme,
        invariant=model.invariant,
        over_context="cut" if policy == "cut" else "left out",
        versions={name: _version(name) for name in ("touchstone-lm", "torch", "numpy")},
    )


def _check_rows(survey: _Survey, task: EvalTask, policy: Policy) -> None:
    counted = ", ".join(f"{n} {kind}" for kind, n in sorted(survey.bad.items()))
    if not survey.n:
        raise DataError(f"`{task.name}`: no example to ask about in {survey.n_rows} rows ({counted or 'there are none'}). {_first(survey)}")
    if survey.bad and policy == "strict":
        raise DataError(f"`{task.name}`: {counted} (`policy` is strict). {_first(survey)}")


def _first(survey: _Survey) -> str:
    return "; ".join(survey.shown[:5])


def _requests(task: EvalTask, example: EvalExample) -> Sequence[Request]:
    requests = task.requests(example)
    if not requests:
        raise Unsupported(f"{example.where}: the task `{task.name}` asks nothing about this example.")
    return requests


def _line(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
