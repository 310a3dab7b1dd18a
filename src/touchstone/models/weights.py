"""Weight tables: one row a tensor, both directions derived from it, and a report of everything that does not fit.

A row pairs our names with the file's and says how the numbers move. `{i}` stands for a layer and `{e}` for an expert, on both
sides; a row with one name of theirs for all experts takes them together, in order. The check runs on headers alone, before a
tensor is read, and reports all problems at once.
"""

import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from touchstone.config import closest
from touchstone.errors import ModelFolderError, printable
from touchstone.files import TensorEntry

__all__ = [
    "AsRow",
    "Fuse",
    "Plan",
    "Row",
    "Same",
    "Stacked",
    "StateReport",
    "TiedAlias",
    "Transform",
    "Transpose",
    "expand",
    "match",
    "same_bits",
    "save_state",
    "weights_hash",
]

Shape = tuple[int, ...]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Storage types that hold weights; quantised integers and 8-bit floats need their scales and are refused."""

_MOST_SHOWN = 12  # names of one kind of problem; the rest is counted


@runtime_checkable
class Transform(Protocol):
    """How the tensors of ours become the one of theirs, and back, bit for bit."""

    def their_shape(self, shapes: Sequence[Shape]) -> Shape: ...

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor: ...

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]: ...


@dataclass(frozen=True)
class Same:
    """The tensor as it is."""

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0]

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [theirs]


@dataclass(frozen=True)
class TiedAlias(Same):
    """A second name of a tensor that another row stores: never written, allowed in a file if it is bit-equal."""


@dataclass(frozen=True)
class Transpose:
    """A matrix stored with its axes exchanged."""

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0][::-1]

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].T.contiguous()

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [theirs.T.contiguous()]


@dataclass(frozen=True)
class AsRow:
    """A vector stored as a matrix of one row."""

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (1, *shapes[0])

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0][None]

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [theirs[0]]


@dataclass(frozen=True)
class Fuse:
    """Several of ours behind each other along an axis (of ours) in one of theirs, transposed after that where `transposed`."""

    axis: int = 0
    transposed: bool = False

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        first = shapes[0]
        fused = (*first[: self.axis], sum(shape[self.axis] for shape in shapes), *first[self.axis + 1 :])
        return fused[::-1] if self.transposed else fused

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        kinds = {tensor.dtype for tensor in ours}
        if len(kinds) > 1:
            raise ModelFolderError(
                f"Tensors stored as one must have one type, not {', '.join(map(str, kinds))}; convert the network first."
            )
        fused = torch.cat(list(ours), dim=self.axis)
        return fused.T.contiguous() if self.transposed else fused

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        fused = theirs.T if self.transposed else theirs
        return [part.contiguous() for part in fused.split([shape[self.axis] for shape in shapes], dim=self.axis)]


@dataclass(frozen=True)
class Stacked:
    """The matrices of all experts in one tensor (E, …), the `n_parts` of each behind each other first."""

    n_parts: int = 1

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        one = shapes[: self.n_parts]
        return (len(shapes) // self.n_parts, sum(shape[0] for shape in one), *one[0][1:])

    def to_theirs(self, ours: Sequence[Tensor]) -> Tensor:
        fuse = Fuse()
        return torch.stack([fuse.to_theirs(ours[first : first + self.n_parts]) for first in range(0, len(ours), self.n_parts)])

    def to_ours(self, theirs: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        fuse, parts = Fuse(), shapes[: self.n_parts]
        return [part for expert in theirs for part in fuse.to_ours(expert, parts)]


@dataclass(frozen=True)
class Row:
    """Our names (several for a fused tensor), their name, and what lies between.

    beside, without: our name of another tensor that the network must have, or must lack, for the row to apply; placeholders as in `ours`.
    """

    ours: str | tuple[str, ...]
    theirs: str
    transform: Transform = Same()
    beside: str | None = None
    without: str | None = None

    @property
    def our_names(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class StateReport:
    """Everything that keeps a set of tensors from filling a network, and what is left out with its reason."""

    missing: dict[str, str] = field(default_factory=dict)  # their name -> what it would fill, and the nearest name there is
    unknown: dict[str, str] = field(default_factory=dict)  # their name -> the nearest right name
    misshapen: dict[str, str] = field(default_factory=dict)  # their name -> both shapes
    mistyped: dict[str, str] = field(default_factory=dict)  # their name -> its type
    ignored: dict[str, str] = field(default_factory=dict)  # their name -> the reason

    def problems(self) -> list[str]:
        """One sentence for each kind of problem; empty if the tensors fit."""
        kinds = {
            "missing": self.missing,
            "unknown": self.unknown,
            "of the wrong shape": self.misshapen,
            "of a type not read": self.mistyped,
        }
        return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names]

    def check(self, source: str) -> None:
        """Raise ModelFolderError, listing all problems, unless there are none."""
        if problems := self.problems():
            raise ModelFolderError(f"{source}: the tensors do not fit the model that config.json describes. " + " ".join(problems))


@dataclass(frozen=True)
class Plan:
    """Rows without placeholders for one network and one set of tensors; `names` maps the table's names to those in the file."""

    rows: tuple[Row, ...]
    shapes: Mapping[str, Shape]
    names: Mapping[str, str]
    report: StateReport

    def load(self, theirs: Mapping[str, Tensor], source: str = "weights") -> dict[str, Tensor]:
        """Our state from the file's tensors, each in its stored type; `source` opens the error message."""
        ours: dict[str, Tensor] = {}
        for row in self.rows:
            name = self.names.get(row.theirs)
            if name is None:
                continue  # an alias that the file does not repeat
            parts = row.transform.to_ours(theirs[name], [self.shapes[ours_name] for ours_name in row.our_names])
            for our_name, part in zip(row.our_names, parts, strict=True):
                if our_name in ours and not same_bits(ours[our_name], part):
                    raise ModelFolderError(
                        f"{source}: `{name}` is another tensor than the one config.json ties it to; "
                        "set `tie_word_embeddings` to false, or remove the tensor."
                    )
                ours.setdefault(our_name, part)
        return ours


def save_state(rows: Sequence[Row], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors from our state, in sorted order; aliases are left out, as Hugging Face leaves them out."""
    concrete = expand(rows, ours)
    held = {name for row in concrete for name in row.our_names}
    if lost := [name for name in ours if name not in held]:
        raise ModelFolderError(f"No row of the weight table stores {_listed(dict.fromkeys(lost, ''))}")
    written = {
        row.theirs: row.transform.to_theirs([ours[name] for name in row.our_names])
        for row in concrete
        if not isinstance(row.transform, TiedAlias)
    }
    return dict(sorted(written.items()))


def expand(rows: Iterable[Row], names: Iterable[str]) -> tuple[Row, ...]:
    """The rows that apply to a network with these tensor names, `{i}` and `{e}` filled in.

    A row whose tensors the network lacks falls away; an alias gives way to a row that stores a tensor of its own under that name.
    """
    present = set(names)
    found: list[Row] = []
    for row in rows:
        pattern = _pattern(row.our_names[0])
        hits = [hit.groupdict() for name in present if (hit := pattern.fullmatch(name))]
        together: dict[str, tuple[str, ...]] = {}
        for fields in sorted(hits, key=lambda fields: int(fields.get("e", 0))):
            ours, theirs = tuple(_fill(name, fields) for name in row.our_names), _fill(row.theirs, fields)
            if all(name in present for name in ours) and _goes_with(row, fields, present):
                together[theirs] = together.get(theirs, ()) + ours
        found += [Row(ours, theirs, row.transform) for theirs, ours in together.items()]
    stored = {row.theirs for row in found if not isinstance(row.transform, TiedAlias)}
    kept = [row for row in found if not (isinstance(row.transform, TiedAlias) and row.theirs in stored)]
    return tuple(sorted(kept, key=lambda row: (isinstance(row.transform, TiedAlias), row.theirs)))


def match(
    rows: Iterable[Row],
    shapes: Mapping[str, Shape],
    header: Mapping[str, TensorEntry],
    *,
    prefix: str = "",
    other_prefixes: Collection[str] = (),
    ignored: Mapping[str, str] | None = None,
) -> Plan:
    """Compare a file's header with the shapes of our network.

    prefix: what the names of the whole model have before those of its base (`transformer.`); a file that never uses it is read
        as the base's own.
    other_prefixes: what some classes write in its place.
    ignored: regular expressions of tensor names, and why they are left out.
    """
    concrete = expand(rows, shapes)
    assert {name for row in concrete for name in row.our_names} == set(shapes), "the table does not cover the network it was chosen for"
    names, left_out = _names_in_file({row.theirs for row in concrete}, header, prefix, other_prefixes, ignored or {})
    wanted = {row.theirs: row for row in concrete}
    aliases = {row.theirs: row.our_names[0] for row in concrete if isinstance(row.transform, TiedAlias)}
    sources = {row.our_names[0]: row.theirs for row in concrete if row.theirs not in aliases}
    stands_in = {sources[ours] for theirs, ours in aliases.items() if theirs in names}
    missing = [name for name in wanted if name not in names and name not in aliases and name not in stands_in]
    taken = set(names.values())
    unknown = [name for name in header if name not in taken and name not in left_out]
    misshapen, mistyped = {}, {}
    for theirs, name in names.items():
        entry, row = header[name], wanted[theirs]
        expected = row.transform.their_shape([shapes[ours] for ours in row.our_names])
        if entry.shape != expected:
            misshapen[name] = f"{list(entry.shape)} should be {list(expected)}"
        if entry.dtype not in FLOATS:
            mistyped[name] = f"{entry.dtype}; read: {', '.join(FLOATS)}"
    report = StateReport(
        missing=_nearest(missing, unknown, "near it: `{}`"),
        unknown=_nearest(unknown, missing or list(wanted), "did you mean `{}`?"),
        misshapen=misshapen,
        mistyped=mistyped,
        ignored=left_out,
    )
    return Plan(concrete, shapes, names, report)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, type and shape included, so that equal not-a-numbers are equal."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """The sha256 of a network's weights by value: names, shapes and numbers in fp32, so a bf16 file and its fp32 copy agree."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _names_in_file(
    expected: set[str], header: Mapping[str, TensorEntry], prefix: str, others: Collection[str], ignored: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Which name in the file stands for each of the table's, and which are left out, with the reason."""
    bare = bool(prefix) and not any(name.startswith((prefix, *others)) for name in header)
    names: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name in header:
        known = next((prefix + name.removeprefix(other) for other in others if name.startswith(other)), name)
        full = prefix + name if bare and name not in expected else known
        reason = next((why for pattern, why in ignored.items() if re.fullmatch(pattern, full)), None)
        if full in expected:
            names[full] = name
        elif reason is not None:
            left_out[name] = reason
    return names, left_out


def _nearest(names: Sequence[str], others: Sequence[str], phrase: str) -> dict[str, str]:
    """Each name with the nearest of the others; the search is quadratic, so only the names that are shown get it."""
    near = {name: closest(name, others[:2000], n=1) for name in names[:_MOST_SHOWN]}
    return {name: phrase.format(printable(near[name][0])) if near.get(name) else "" for name in names}


def _listed(names: Mapping[str, str]) -> str:
    shown = [f"`{printable(name)}`{f' ({note})' if note else ''}" for name, note in itertools.islice(names.items(), _MOST_SHOWN)]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more." if more else ".")


def _goes_with(row: Row, fields: Mapping[str, str], present: Collection[str]) -> bool:
    """Whether the network has the tensor that the row goes with, and lacks the one that it does not."""
    if row.beside is not None and _fill(row.beside, fields) not in present:
        return False
    return row.without is None or _fill(row.without, fields) not in present


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(name)))


def _fill(name: str, fields: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w)\}", lambda hit: fields[hit[1]], name)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
