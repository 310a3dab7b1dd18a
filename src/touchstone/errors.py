"""Every error a caller may want to catch. Each message says the rule, the value and the remedy.

TouchstoneError                 exit code 2
├── ConfigError                 a setting or argument is wrong
│   └── UnknownName             a name that does not exist; the nearest right ones are listed
├── DataError                   text or rows that cannot be read; says file and line
├── ShapeError                  tensors that do not fit each other
├── TokenizerError              a tokenizer that cannot be trained, read or used
│   └── NoTokenizer             a text call on a model that has none
├── ModelFolderError            a model folder that is malformed, incomplete or unsafe
├── Unsupported                 this model cannot do that, and why
├── RunFolderError              a run folder that is locked, changed, damaged or not writable
├── MissingPackage              an optional package is needed; carries the pip line
├── DeviceError                 a device or numeric type that this machine does not have
├── Unavailable                 the machine could not do it just now; the same may work later
├── TrainingDiverged            exit code 3: loss or gradient stayed non-finite
└── SaveFailed                  exit code 4: the end of the training could not be saved
"""


def printable(value: object, most: int = 80) -> str:
    """A name or value from a file as a message shows it: on one line, what is not printable escaped, cut after `most` characters."""
    text = value[: most + 1] if isinstance(value, str) else repr(value)
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


class TouchstoneError(Exception):
    """The root: everything the toolkit raises on purpose."""

    exit_code = 2


class ConfigError(TouchstoneError):
    """A setting or argument breaks a rule."""


class UnknownName(ConfigError):
    """A recipe, corpus, field or family that does not exist."""


class DataError(TouchstoneError):
    """Text or rows that cannot be read or used; the message starts with the file, and the line where there is one."""


class ShapeError(TouchstoneError):
    """Tensors whose shapes do not fit each other or the specification."""


class TokenizerError(TouchstoneError):
    """A tokenizer that cannot be trained, read, saved or used."""


class NoTokenizer(TokenizerError):
    """A call that needs text on a model that was loaded without a tokenizer."""


class ModelFolderError(TouchstoneError):
    """A model folder that is malformed, incomplete or unsafe."""


class Unsupported(TouchstoneError):
    """The model, device or grammar cannot do what was asked; the message says why."""


class RunFolderError(TouchstoneError):
    """A run folder that is in use, holds another configuration, is damaged or cannot be written."""


class MissingPackage(TouchstoneError):
    """An optional package is needed for this call; the message carries the pip line."""


class DeviceError(TouchstoneError):
    """A device or numeric type that this machine does not have."""


class Unavailable(TouchstoneError):
    """What was asked is in order, and this machine could not do it just now; the same may work when it is tried again."""


class TrainingDiverged(TouchstoneError):
    """Loss or gradient stayed non-finite after the one roll-back."""

    exit_code = 3


class SaveFailed(TouchstoneError):
    """The end of a training run could not be saved; the last complete checkpoint is intact."""

    exit_code = 4
