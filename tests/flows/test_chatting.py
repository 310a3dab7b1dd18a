"""Talking: what is sent, what is kept, what is shown, and what becomes of a stop, a full context and a server that fails."""

import http.server
import json
import signal
import subprocess
import sys
import threading

import pytest

from touchstone.errors import ConfigError, DataError, TouchstoneError
from touchstone.flows.chat_local import LocalVoice
from touchstone.flows.chat_remote import RemoteVoice
from touchstone.flows.chat_voice import Ended, TooLong
from touchstone.flows.chatting import COMMANDS, ask_once, converse, find_voice
from touchstone.flows.opening import Opening
from touchstone.infer import LanguageModel
from touchstone.models import build, decoder_spec
from touchstone.models.card import Card
from touchstone.text.document import Message
from touchstone.text.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Scripted:
    """A voice that says what it is told to: lists of texts, errors to raise among them, KeyboardInterrupt included.

    longest: of how many messages a conversation may have.
    """

    name = "scripted"

    def __init__(self, *answers, longest=99):
        self.answers, self.longest = list(answers), longest
        self.asked, self.n_retries = [], []

    def answer(self, messages, *, n_retries=0):
        if len(messages) > self.longest:
            raise TooLong("too long")
        self.asked.append([(message.role, message.content) for message in messages])
        self.n_retries.append(n_retries)
        for piece in self.answers.pop(0):
            if isinstance(piece, BaseException):
                raise piece
            yield piece
        yield Ended("stop", 3, 2, 7)

    def close(self):
        pass


def typed(*lines):
    """What a user types, line by line; then the input ends. An exception among the lines is raised."""
    left = list(lines)

    def ask_line(prompt):
        if not left:
            raise EOFError
        line = left.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    return ask_line


def test_each_message_is_sent_with_what_was_said_before(shown):
    voice = Scripted(["one ", "two"], ["three"])
    told = converse(voice, shown[0], typed("a", "  ", "b"), system="be brief")
    assert voice.asked == [
        [("system", "be brief"), ("user", "a")],
        [("system", "be brief"), ("user", "a"), ("assistant", "one two"), ("user", "b")],
    ]
    assert told == {"status": "ok", "model": "scripted", "n_exchanges": 2}
    assert "one two\n" in shown[1]()


def test_commands_change_the_history(shown):
    voice = Scripted(["1"], ["2"], ["3"], ["4"], ["5"])
    converse(voice, shown[0], typed("a", "/retry", "/system short", "b", "/undo", "c", "/clear", "//d", "/quit", "never"))
    assert [asked[-1] for asked in voice.asked] == [("user", "a"), ("user", "a"), ("user", "b"), ("user", "c"), ("user", "/d")]
    assert voice.n_retries == [0, 1, 0, 0, 0]
    assert voice.asked[1] == [("user", "a")]
    assert voice.asked[2] == [("system", "short"), ("user", "a"), ("assistant", "2"), ("user", "b")]
    assert voice.asked[3] == [("system", "short"), ("user", "a"), ("assistant", "2"), ("user", "c")]
    assert voice.asked[4] == [("system", "short"), ("user", "/d")]


def test_commands_with_nothing_to_do_say_so(shown):
    terminal, text = shown
    converse(Scripted(), terminal, typed("/undo", "/retry", "/nonsense", "/save", "/help", "/system"))
    assert text().count(terminal.words("chat.nothing_yet")) == 2
    for key in ("chat.no_file", "chat.system_none", "chat.help_retry"):
        assert terminal.words(key) in text()
    assert "/nonsense" in text()
    assert all(command in text() for command in COMMANDS)


def test_a_saved_conversation_is_json_and_replaces_no_file(shown, tmp_path):
    path = tmp_path / "talk.json"
    converse(Scripted(["yes \ud800"]), shown[0], typed("a", f"/save {path}", f"/save {path}", f"/save {tmp_path}/no/x"), system="s")
    assert json.loads(path.read_text()) == {
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "yes \ud800"},
        ],
    }
    assert shown[0].words("chat.exists", path=path) in shown[1]()
    assert "cannot be written" in shown[1]()


def test_a_stopped_answer_is_kept_as_far_as_it_came_and_the_session_goes_on(shown):
    terminal, text = shown
    voice = Scripted(["half", KeyboardInterrupt()], [KeyboardInterrupt()], ["whole"])
    told = converse(voice, terminal, typed("a", "b", KeyboardInterrupt(), "c"))
    assert voice.asked[2] == [("user", "a"), ("assistant", "half"), ("user", "c")]
    assert told["n_exchanges"] == 2
    assert text().count(terminal.words("chat.stopped")) == 2
    assert terminal.words("chat.still_here") in text()


def test_a_failed_answer_leaves_no_trace_in_the_history(shown):
    voice = Scripted(["half", TouchstoneError("it broke")], ["b"], [TouchstoneError("again")], ["d"])
    converse(voice, shown[0], typed("a", "b", "/retry", "c"))
    assert voice.asked[1] == [("user", "b")]
    assert voice.asked[3] == [("user", "b"), ("assistant", "b"), ("user", "c")]
    assert "it broke" in shown[1]()


def test_what_no_longer_fits_is_left_out_oldest_first_and_said(shown):
    terminal, text = shown
    voice = Scripted(["1"], ["2"], ["3"], longest=4)
    converse(voice, terminal, typed("a", "b", "c"), system="s")
    assert voice.asked[1] == [("system", "s"), ("user", "a"), ("assistant", "1"), ("user", "b")]
    assert voice.asked[2] == [("system", "s"), ("user", "b"), ("assistant", "2"), ("user", "c")]
    assert terminal.words("chat.left_out", n=1) in text()
    converse(Scripted(longest=0), terminal, typed("a"))
    assert "too long" in text()


def test_nothing_that_is_said_steers_the_terminal(shown):
    said = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp\x08[bold]x[/bold]"
    converse(Scripted([said[:3], said[3:]]), shown[0], typed("a"))
    assert not set(shown[1]()) & set("\x1b\x07\r\x9b\u202e\x08")
    assert "[bold]x[/bold]" in shown[1]()
    assert "\\x1b" in shown[1]()


def test_chinese_is_spoken_where_it_is_asked_for(shown_in_chinese):
    terminal, text = shown_in_chinese
    converse(Scripted(["好"]), terminal, typed("你好", "/help"))
    assert "正在与 scripted 对话" in text()
    assert "撤回" in text()


def test_one_message_gives_one_document(shown):
    told = ask_once(Scripted(["4", "2"]), "what?", shown[0], system="s")
    assert told == {
        **{"status": "ok", "model": "scripted", "answer": "42", "finish_reason": "stop"},
        **{"n_prompt_tokens": 3, "n_tokens": 2, "seed": 7, "mean_probability": None, "cut_by": None},
    }
    assert ask_once(Scripted(["4", KeyboardInterrupt()]), "what?", shown[0])["status"] == "interrupted"
    with pytest.raises(DataError, match="no message"):
        ask_once(Scripted(), " \n", shown[0])


# --- a model of this machine


class Cut:
    """A voice whose answers are cut: it says `ended`."""

    name = "cut"

    def __init__(self, ended):
        self.ended = ended

    def answer(self, messages, *, n_retries=0):
        yield "half"
        yield self.ended

    def close(self):
        pass


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Ended("length", 3, 12, cut_by="max_new_tokens"), "The answer was cut at 12 tokens; `--max-new-tokens` allows more."),
        (Ended("length", 3, 12, cut_by="context"), "The answer was cut at 12 tokens, because the context is full."),
        (Ended("length", 3, 12), "The answer was cut at a limit of the server; `--max-new-tokens` may allow more."),
        (Ended("length"), "The answer was cut at a limit of the server; `--max-new-tokens` may allow more."),
    ],
)
def test_an_answer_that_is_cut_says_by_what(ended, told, shown):
    ask_once(Cut(ended), "what?", shown[0])
    assert told in shown[1]().replace("\n", " ")


@pytest.mark.slow
def test_a_local_answer_that_is_cut_knows_by_what(model, voices):
    never_ends = dict.fromkeys(model.tokenizer.special_ids, -100.0)
    asked = spoken(voices(model, "m", {"max_new_tokens": 3, "logit_bias": never_ends}), "one")[1]
    assert (asked.finish_reason, asked.n_tokens, asked.cut_by) == ("length", 3, "max_new_tokens")
    unasked = spoken(voices(model, "m", {"logit_bias": never_ends}), "one")[1]
    assert (unasked.finish_reason, unasked.n_prompt_tokens + unasked.n_tokens, unasked.cut_by) == ("length", 48, "context")


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.train(
        ["user assistant system one two three\n"] * 9, kind="bpe", vocab_size=280, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    )
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=48)
    return LanguageModel(build(spec, seed=2).eval(), tokenizer=tokenizer, card=Card(chat_template=CHATML))


@pytest.fixture
def voices():
    """Make voices that are closed after the test."""
    made = []

    def make(*arguments, **named):
        made.append(LocalVoice(*arguments, **named))
        return made[-1]

    yield make
    for voice in made:
        voice.close()


def spoken(voice, *texts, **named):
    roles = ("user", "assistant") * len(texts)
    *said, ended = voice.answer([Message(role, text) for role, text in zip(roles, texts, strict=False)], **named)
    return "".join(said), ended


@pytest.mark.slow
def test_a_local_answer_is_what_the_model_generates_from_the_prompt_of_its_template(model, voices):
    voice = voices(model, "m", {"seed": 5, "max_new_tokens": 6, "logit_bias": {2: -100.0}})
    text, ended = spoken(voice, "one")
    prompt = model.tokenizer.encode("<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n", allow_special=True)
    expected = model.generate([prompt], seed=5, max_new_tokens=6, logit_bias={2: -100.0})[0]
    assert text == expected.text
    assert (ended.n_prompt_tokens, ended.n_tokens, ended.seed, ended.finish_reason) == (len(prompt), 6, 5, expected.finish_reason)
    assert spoken(voice, "one", n_retries=1)[1].seed == 6


def test_the_end_of_a_turn_ends_the_answer_though_the_model_names_another_end(model, voices):
    end = model.tokenizer.encode("<|im_end|>", allow_special=True)[0]
    assert end not in model.eos_ids
    text, ended = spoken(voices(model, "m", {"temperature": 0.0, "logit_bias": {end: 100.0}}), "one")
    assert (text, ended.finish_reason, ended.n_tokens) == ("", "stop", 1)


def test_a_conversation_that_leaves_no_room_is_too_long(model, voices):
    voice = voices(model, "m", {"temperature": 0.0})
    with pytest.raises(TooLong, match="context holds 48"):
        spoken(voice, "one two three " * 9)


def test_ctrl_c_ends_a_local_answer_between_two_tokens(model, voices):
    end_ids = dict.fromkeys(model.tokenizer.special_ids, -100.0)
    pieces, ended, before = [], None, signal.getsignal(signal.SIGINT)
    for piece in voices(model, "m", {"seed": 1, "logit_bias": end_ids}).answer([Message("user", "one")]):
        if isinstance(piece, Ended):
            ended = piece
        else:
            pieces.append(piece)
            if len(pieces) == 1:
                signal.raise_signal(signal.SIGINT)
    assert ended is not None
    assert ended.finish_reason == "cancelled"
    assert 0 < ended.n_tokens < 12
    assert signal.getsignal(signal.SIGINT) is before


def test_a_model_without_a_template_is_told_what_it_can_do_instead(model_folder):
    with pytest.raises(ConfigError, match=r"no chat template.*touchstone complete.*touchstone generate"):
        find_voice(str(model_folder), {}, opening=Opening(), environment={})
    with pytest.raises(ConfigError, match="--name"):
        find_voice(str(model_folder), {}, name="x", opening=Opening(), environment={})


# --- a model behind an address


class Server:
    """Answers what it is told: `models` are listed; `replies` are (status, lines) of the next answers. asked: (headers, body) of each."""

    def __init__(self):
        self.models, self.replies, self.asked = [{"id": "m", "chat": True}], [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers), None))
                self.reply(200, [json.dumps({"object": "list", "data": outer.models})])

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, dict(self.headers), json.loads(body)))
                self.reply(*outer.replies.pop(0))

            def reply(self, status, lines):
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                for line in lines:
                    self.wfile.write(line if isinstance(line, bytes) else line.encode() + b"\n\n")

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def event(content=None, reason=None, **more):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}], **more})


def usage(n_prompt, n):
    return "data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": n_prompt, "completion_tokens": n}})


def test_a_server_is_asked_as_its_api_wants_and_its_stream_is_read(server, shown):
    lines = [": a comment", "event: x", event(""), event("Hel"), event("lo \u4e2d", "length"), usage(9, 2), "data: [DONE]", event("no")]
    server.replies = [(200, lines)]
    sampling = {"max_new_tokens": 5, "min_new_tokens": 1, "seed": 3, "stop": ("x",), "logit_bias": {4: -1.0}, "top_p": None}
    voice = find_voice(server.address + "/v1/", sampling, opening=Opening(), environment={"TOUCHSTONE_API_KEY": "k1,k2"})
    told = ask_once(voice, "hi", shown[0])
    assert told["answer"] == "Hello \u4e2d"
    assert (told["model"], told["finish_reason"], told["n_prompt_tokens"], told["n_tokens"], told["seed"]) == ("m", "length", 9, 2, 3)
    assert told["cut_by"] is None, "five tokens were allowed and two came: it was another limit"
    assert [(path, headers["Authorization"]) for path, headers, _ in server.asked] == [
        ("/v1/models", "Bearer k1"),
        ("/v1/chat/completions", "Bearer k1"),
    ]
    assert server.asked[1][2] == {
        **{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "stream_options": {"include_usage": True}},
        **{"max_tokens": 5, "min_tokens": 1, "seed": 3, "stop": ["x"], "logit_bias": {"4": -1.0}},
    }


def test_a_full_context_behind_an_address_is_made_smaller_too(server, shown):
    full = (400, [json.dumps({"error": {"message": "The prompt has 99 tokens and the context holds 9."}})])
    fine = (200, [event("yes", "stop"), "data: [DONE]"])
    server.replies = [fine, full, fine]
    converse(RemoteVoice(server.address, {}), shown[0], typed("a", "b"))
    assert [len(body["messages"]) for _, _, body in server.asked[1:]] == [1, 3, 1]
    assert shown[0].words("chat.left_out", n=1) in shown[1]()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, ["{}"]), "TOUCHSTONE_API_KEY"),
        ((302, [""]), r"refuses \(302\)"),
        ((503, [json.dumps({"error": {"message": "loading\x1b[2J"}})]), r"503\): loading\\x1b"),
        ((500, [json.dumps(["?"])]), "refuses"),
        ((200, [event("half")]), "ended before the answer"),
        ((200, ['data: {"error": {"message": "lost"}}', "data: [DONE]"]), "broke off: lost"),
        ((200, ["data: [1]"]), "no JSON object"),
        ((200, ["data: " + "[" * 9999]), "no JSON object"),
        ((200, [b"data: " + b"x" * ((1 << 20) + 1)]), "too long"),
        ((200, ['data: {"choices": 3}', 'data: {"choices": [{"delta": [], "finish_reason": 4}], "usage": 1}']), "ended before"),
    ],
)
def test_a_server_that_fails_or_lies_is_an_error_and_no_answer(server, shown, reply, message):
    server.replies = [reply]
    with pytest.raises(TouchstoneError, match=message):
        ask_once(RemoteVoice(server.address, {}), "hi", shown[0])


def test_which_model_of_a_server_is_meant_must_be_clear(server):
    server.models = [{"id": "a"}, {"id": "b", "chat": False}]
    assert RemoteVoice(server.address, {}, model="a").name == "a"
    for wanted, message in ((None, "--name"), ("c", "no model `c`"), ("b", "no chat template.*touchstone complete")):
        with pytest.raises(ConfigError, match=message):
            RemoteVoice(server.address, {}, model=wanted)
    for models in ([], [{"id": 3}], "x"):
        server.models = models
        with pytest.raises(ConfigError, match="lists no models"):
            RemoteVoice(server.address, {})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://", "no address"),
        ("http://a:99999", "no address"),
        ("http://a b", "no address"),
        ("http://me:hunter2@host", "TOUCHSTONE_API_KEY"),
        ("http://host/?key=hunter2", "TOUCHSTONE_API_KEY"),
        ("http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_an_address_that_is_none_or_leads_nowhere_is_told(address, message):
    with pytest.raises(ConfigError, match=message) as caught:
        RemoteVoice(address, {})
    assert "hunter2" not in str(caught.value)


def test_settings_that_do_not_belong_together_are_refused(server):
    with pytest.raises(ConfigError, match="--device"):
        find_voice(server.address, {}, opening=Opening(device="cpu"), environment={})
    with pytest.raises(ConfigError, match="no key has"):
        find_voice(server.address, {}, opening=Opening(), environment={"TOUCHSTONE_API_KEY": "a\nb"})


@pytest.mark.slow
def test_talking_to_a_server_needs_no_torch():
    code = "import sys, touchstone.flows.chatting, touchstone.cli.talk; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_verb_asks_a_server_and_prints_one_document(server, capsys, monkeypatch):
    from touchstone.cli.main import main

    monkeypatch.setenv("TOUCHSTONE_API_KEY", "k")
    server.replies = [(200, [event("fine", "stop"), "data: [DONE]"])]
    assert main(["chat", server.address, "how are you?", "--system", "s", "--temperature", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["answer"], document["status"]) == ("fine", "ok")
    assert server.asked[1][2]["temperature"] == 0
    assert server.asked[1][2]["messages"][0] == {"role": "system", "content": "s"}


def test_the_verb_talks_where_there_is_a_terminal(server, capsys, monkeypatch):
    from touchstone.cli.main import main

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", typed("hi"))
    server.replies = [(200, [event("fine", "stop"), "data: [DONE]"])]
    assert main(["chat", server.address]) == 0
    assert "fine" in capsys.readouterr().out
