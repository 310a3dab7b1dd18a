"""Talking with a model in the terminal: the verb `chat`, with a model of this machine or one behind an address.

What the model says is shown with its control characters made visible (`report.terminal`), so it can steer nothing. An exchange is kept
only once it is whole or was stopped by the user; one that failed leaves no trace in the history.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from touchstone.errors import ConfigError, DataError, TouchstoneError, printable
from touchstone.files import write_json
from touchstone.flows.chat_remote import RemoteVoice, address_meant, is_address
from touchstone.flows.chat_voice import Ended, TooLong, Voice
from touchstone.flows.opening import Opening
from touchstone.report.terminal import Terminal
from touchstone.text.document import Message

__all__ = ["COMMANDS", "Talk", "ask_once", "converse", "find_voice"]

COMMANDS = {"/retry": "", "/undo": "", "/system": "TEXT", "/clear": "", "/save": "FILE", "/help": "", "/quit": ""}
"""What can be typed instead of a message, each with what follows it."""


def find_voice(
    model: str,
    sampling: Mapping[str, Any],
    *,
    opening: Opening,
    name: str | None = None,
    environment: Mapping[str, str],
) -> Voice:
    """Who answers: `http://host:port`, or a folder. Fields of `sampling` that are None are left to the model.

    name: which of a server's models. The key for a server is the first of TOUCHSTONE_API_KEY.
    Raises ConfigError where nobody can answer, or for a setting that does not belong to this kind of model.
    """
    given = {key: value for key, value in sampling.items() if value is not None}
    if is_address(model):
        if opening != Opening():
            raise ConfigError("`--device`, `--dtype`, `--weights`, `--invariant` and `--draft` are settings of a model on this machine.")
        key = environment.get("TOUCHSTONE_API_KEY", "").split(",")[0].strip()
        return RemoteVoice(model, given, key=key, model=name)
    if name is not None:
        raise ConfigError("`--name` chooses among the models of a server; give its address, such as http://127.0.0.1:8000.")
    if (address := address_meant(model)) is not None and not Path(model).exists():
        raise ConfigError(f"`{printable(model)}` is no folder, and an address begins with http:// or https://, such as {address}.")
    from touchstone.flows.chat_local import LocalVoice  # here: to ask a server needs no torch

    return LocalVoice(opening.load(model), model, given)


def ask_once(voice: Voice, text: str, terminal: Terminal, *, system: str | None = None) -> dict[str, Any]:
    """One message and its answer, which is shown as it comes; the document holds it whole."""
    if not text.strip():
        raise DataError("There is no message; give one as an argument or on stdin.")
    talk = Talk(voice, terminal, system=system)
    ended = talk.ask(text)
    status = "interrupted" if ended.finish_reason == "cancelled" else "ok"
    return {"status": status, "model": voice.name, "answer": talk.last_answer, **asdict(ended)}


def converse(voice: Voice, terminal: Terminal, ask_line: Callable[[str], str], *, system: str | None = None) -> dict[str, Any]:
    """Talk until the input ends or `/quit`.

    ask_line: one line from the user after a prompt; it raises EOFError at the end of the input and KeyboardInterrupt on Ctrl-C.
    """
    talk, words = Talk(voice, terminal, system=system), terminal.words
    terminal.say(words("chat.hello", model=voice.name), style="title")
    while not talk.is_over:
        try:
            line = _readable(ask_line(words("chat.you") + " ")).strip()
        except EOFError:
            terminal.say()
            break
        except KeyboardInterrupt:
            terminal.say()
            terminal.say(words("chat.still_here"), style="dim")
            continue
        try:
            talk.take(line)
        except TouchstoneError as error:
            terminal.error(str(error))
    return {"status": "ok", "model": voice.name, "n_exchanges": talk.n_exchanges}


@dataclass(frozen=True)
class _Exchange:
    asked: str
    answer: str
    n_retries: int = 0


class Talk:
    """A conversation and what can be done with it. Exchanges that no longer fit the context stay in the history and are not sent."""

    def __init__(self, voice: Voice, terminal: Terminal, *, system: str | None = None) -> None:
        self.is_over = False
        self._voice = voice
        self._terminal = terminal
        self._system = system or None
        self._exchanges: list[_Exchange] = []
        self._n_left_out = 0
        self._acts: dict[str, Callable[[str], None]] = {
            "/retry": self._retry,
            "/undo": self._undo,
            "/system": self._set_system,
            "/clear": self._clear,
            "/save": self._save,
            "/help": self._help,
            "/quit": self._quit,
        }

    @property
    def n_exchanges(self) -> int:
        """How many messages were answered."""
        return len(self._exchanges)

    @property
    def last_answer(self) -> str:
        """What was said last."""
        return self._exchanges[-1].answer if self._exchanges else ""

    def take(self, line: str) -> None:
        """One line of the user: a command, or a message; `//` at the start begins a message with `/`."""
        if not line:
            return
        if not line.startswith("/") or line.startswith("//"):
            self.ask(line[1:] if line.startswith("//") else line)
            return
        command, _, rest = line.partition(" ")
        act = self._acts.get(command)
        if act is None:
            self._note("chat.unknown", command=command)
        else:
            act(rest.strip())

    def ask(self, text: str) -> Ended:
        """Send a message and show the answer. Raises TouchstoneError where there is none; the history is then as before."""
        return self._exchange(text, 0)

    def messages(self, n_left_out: int = 0) -> list[Message]:
        """The conversation, without so many of its oldest exchanges."""
        told = [Message("system", self._system)] if self._system else []
        for each in self._exchanges[n_left_out:]:
            told += [Message("user", each.asked), Message("assistant", each.answer)]
        return told

    def _exchange(self, text: str, n_retries: int) -> Ended:
        pieces, n_left_out = self._begun(text, n_retries)
        if n_left_out > self._n_left_out:
            self._note("chat.left_out", n=n_left_out)
        self._n_left_out = n_left_out
        answer, ended = self._shown(pieces)
        if answer or ended.finish_reason != "cancelled":
            self._exchanges.append(_Exchange(text, answer, n_retries))
        self._tell(ended)
        return ended

    def _begun(self, text: str, n_retries: int) -> tuple[Iterator[str | Ended], int]:
        """The answer up to its first piece, and how many exchanges had to be left out for it."""
        n_left_out = min(self._n_left_out, len(self._exchanges))
        while True:
            asked = [*self.messages(n_left_out), Message("user", text)]
            pieces = self._voice.answer(asked, n_retries=n_retries)
            try:
                first = next(pieces, Ended("stop"))
            except KeyboardInterrupt:
                return iter([Ended("cancelled")]), n_left_out
            except TooLong:
                if n_left_out == len(self._exchanges):
                    raise
                n_left_out += 1
                continue
            return chain([first], pieces), n_left_out

    def _shown(self, pieces: Iterator[str | Ended]) -> tuple[str, Ended]:
        said: list[str] = []
        ended = Ended("cancelled")
        try:
            for piece in pieces:
                if isinstance(piece, Ended):
                    ended = piece
                else:
                    said.append(piece)
                    self._terminal.piece(piece)
        except KeyboardInterrupt:
            ended = Ended("cancelled")
        finally:
            self._terminal.say()
        return "".join(said), ended

    def _tell(self, ended: Ended) -> None:
        if ended.finish_reason == "cancelled":
            self._note("chat.stopped")
        elif ended.finish_reason == "length":
            self._tell_cut(ended)
        if ended.n_tokens is not None and ended.mean_probability is not None:
            self._note("chat.told_probability", n=ended.n_tokens, percent=f"{100 * ended.mean_probability:.0f}")
        elif ended.n_tokens is not None:
            self._note("chat.told", n=ended.n_tokens)

    def _tell_cut(self, ended: Ended) -> None:
        if ended.n_tokens is None or ended.cut_by is None:
            self._note("chat.cut_by_server")
        else:
            self._note("chat.cut_by_context" if ended.cut_by == "context" else "chat.cut", n=ended.n_tokens)

    def _note(self, key: str, **filling: object) -> None:
        self._terminal.say(self._terminal.words(key, **filling), style="dim")

    def _retry(self, rest: str) -> None:
        if not self._exchanges:
            self._note("chat.nothing_yet")
            return
        last = self._exchanges.pop()
        n_before = len(self._exchanges)
        try:
            self._exchange(last.asked, last.n_retries + 1)
        finally:
            if len(self._exchanges) == n_before:  # no new answer came: the old one stays
                self._exchanges.append(last)

    def _undo(self, rest: str) -> None:
        if not self._exchanges:
            self._note("chat.nothing_yet")
            return
        self._exchanges.pop()
        self._n_left_out = min(self._n_left_out, len(self._exchanges))
        self._note("chat.undone")

    def _clear(self, rest: str) -> None:
        self._exchanges.clear()
        self._n_left_out = 0
        self._note("chat.cleared")

    def _set_system(self, rest: str) -> None:
        self._system = rest or None
        self._note("chat.system_set" if rest else "chat.system_none")

    def _save(self, rest: str) -> None:
        path = Path(rest).expanduser()
        if not rest:
            self._note("chat.no_file")
        elif path.exists():
            self._note("chat.exists", path=path)
        else:
            told = [{"role": each.role, "content": each.content} for each in self.messages()]
            try:
                write_json(path, {"model": self._voice.name, "messages": told})
            except OSError as error:
                raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from None
            self._note("chat.saved", n=len(told), path=path)

    def _help(self, rest: str) -> None:
        words = self._terminal.words
        rows: Sequence[Sequence[str]] = [
            (f"{command} {taken}".strip(), words(f"chat.help_{command[1:]}")) for command, taken in COMMANDS.items()
        ]
        self._terminal.table([words("chat.command"), words("chat.meaning")], rows)

    def _quit(self, rest: str) -> None:
        self.is_over = True


def _readable(line: str) -> str:
    """What was typed, with what is no character of the terminal's encoding as U+FFFD."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
