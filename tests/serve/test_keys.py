"""Who may ask: keys, host names, and every path, method and trick with both; without a key nothing that is the model's is told."""

import itertools
import os
from urllib.parse import unquote

import pytest
from attacks import PATIENCE_S, connected, head, read_answer, sent, until_closed

from touchstone.errors import ConfigError
from touchstone.serve.keys import Keys, read_keys
from touchstone.serve.limits import Hosts

FIRST, SECOND = "key-of-the-first-client", "key-of-the-second-client"

OPEN = ("/", "/health", "/page.js", "/page.css", "/words.js", "/tokens.js")
CLOSED = (
    "/metrics",
    "/models",
    "/v1/models",
    "/v1/models/tiny-chat",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/score",
    "/v1/classify",
    "/tokenize",
    "/detokenize",
    "/openapi.json",
)
WITH_HEAD = {*OPEN, "/openapi.json"} - {"/health"}
NOWHERE = ("/docs", "/redoc", "/nothing", "/.git/config", "/v1", "/health/x", "/page.js/..", "/index.html")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "FOO", "TRACE", "CONNECT")
RIGHT = {
    "right": [f"authorization: Bearer {FIRST}"],
    "the second": [f"Authorization: Bearer {SECOND}"],
    "in lower case": [f"authorization: bearer {FIRST}"],
    "with spaces": [f"authorization:  Bearer   {FIRST}  "],
}
WRONG = {
    "none": [],
    "empty": ["authorization:"],
    "no scheme": [f"authorization: {FIRST}"],
    "another scheme": [f"authorization: Basic {FIRST}"],
    "wrong": [f"authorization: Bearer {FIRST}x"],
    "its beginning": [f"authorization: Bearer {FIRST[:-1]}"],
    "in capitals": [f"authorization: Bearer {FIRST.upper()}"],
    "two in one": [f"authorization: Bearer {FIRST},{SECOND}"],
    "not ASCII": ["authorization: Bearer schl\xfcssel"],
    "two headers": [f"authorization: Bearer {FIRST}", f"authorization: Bearer {FIRST}"],
    "right and wrong": [f"authorization: Bearer {FIRST}", "authorization: Bearer x"],
    "another header": [f"x-api-key: {FIRST}", f"cookie: key={FIRST}"],
    "a proxy's": [f"proxy-authorization: Bearer {FIRST}", "x-forwarded-for: 127.0.0.1", "x-real-ip: 127.0.0.1"],
}
GOOD_HOSTS = (("127.0.0.1",), ("localhost:1",), ("[::1]:80",), ("192.168.7.7",), ("LOCALHOST",))
BAD_HOSTS = (
    ("evil.example",),
    ("evil/?",),
    ("a/?x=",),
    ("127.0.0.1/?",),
    ("127.0.0.1#",),
    ("u@127.0.0.1",),
    ("127.0.0.1:80:80",),
    ("localhost.evil.example",),
    ("",),
    (),
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1", "evil.example"),
    ("[::1",),
    ("0x7f.1",),
)
TRICKS = (
    "//v1/models",
    "/v1//models",
    "/v1/../v1/models",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/page.js/../v1/models",
    "/v1%2fmodels",
    "/%76%31/models",
    "/v1/models/%2e%2e",
    "/%2e/v1/models",
    "/v1/models;/health",
    "/v1/models?/health",
    "/v1/models#/health",
    "/health?x=/v1/models",
    "/health%00",
    "/health/",
    "/%68ealth",
    "/v1/models/",
    "/v1/completions/",
    "/V1/MODELS",
    "/v1/models%0d%0aset-cookie:x",
    "/v1/models/..%5c..%5c",
    "/%ff%fe",
    "/%c0%ae%c0%ae/v1/models",
    "http://127.0.0.1/v1/models",
    "http://evil.example/health",
    "http://evil.example/v1/models",
    "evil.example:443",
    "*",
    "?",
    "models",
)
SECRETS = (b"max_model_len", b"touchstone:", b"tiny-chat", b"openapi", b'"choices"', b'"tokens"')


def refused_or_open(answer, method, target):
    """What a stranger may be told: an error without data, or one of the open paths."""
    assert answer.status < 500
    if method in ("GET", "HEAD") and target.partition("?")[0] in OPEN:
        return
    assert answer.status in (400, 401, 405), (method, target, answer)
    assert answer.status != 405 or target.partition("?")[0] in OPEN, "what there is is told to those alone who have a key"
    assert not any(secret in answer.body for secret in SECRETS)
    assert not {"location", "set-cookie", "access-control-allow-origin"} & set(answer.headers)
    if method != "HEAD":
        answer.error()


class Asker:
    """Requests one after another, over one connection as long as the server keeps it."""

    def __init__(self, port):
        self._port = port

    def __call__(self, method, target, *, hosts=("127.0.0.1",), headers=()):
        body = [b"{}", "content-type: application/json", "content-length: 2"] if method == "POST" else [b""]
        data = head(method, target, hosts=hosts, headers=[*headers, *body[1:]]) + body[0]
        with connected(self._port, PATIENCE_S) as connection:
            connection.sendall(data)
            return read_answer(until_closed(connection), method)


@pytest.fixture(scope="module")
def ask(guarded):
    return Asker(guarded.port)


@pytest.mark.slow
def test_without_a_right_key_nothing_but_the_open_paths_answers(ask):
    for target, method in itertools.product((*OPEN, *CLOSED, *NOWHERE), METHODS):
        refused_or_open(ask(method, target), method, target)
    for (name, headers), target in itertools.product(WRONG.items(), (*OPEN, *CLOSED)):
        for method in ("GET", "POST"):
            answer = ask(method, target, headers=headers)
            refused_or_open(answer, method, target)
            if target in CLOSED:
                assert answer.status == 401, name
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.error()["code"] == "invalid_api_key"


def status_with_a_key(method, target):
    """What `{}`, which is no request, is answered."""
    posts = {path for path in CLOSED if path in ("/tokenize", "/detokenize") or (path.startswith("/v1/") and "models" not in path)}
    methods = {"POST"} if target in posts else {"GET", "HEAD"} if target in WITH_HEAD else {"GET"}
    return 404 if target in NOWHERE else 405 if method not in methods else 400 if method == "POST" else 200


@pytest.mark.prove
def test_of_every_route_method_key_and_host_together_none_goes_round_another(ask):
    """The whole product; the tests beside this one take its pairs."""
    n = 0
    for target, method, hosts in itertools.product((*OPEN, *CLOSED, *NOWHERE), METHODS, (*GOOD_HOSTS, *BAD_HOSTS)):
        for name, headers in (*RIGHT.items(), *WRONG.items()):
            answer, n = ask(method, target, hosts=hosts, headers=headers), n + 1
            if hosts in BAD_HOSTS:
                assert answer.status == 400, (method, target, hosts, name)
                assert not any(secret in answer.body for secret in SECRETS)
            elif name in RIGHT:
                assert answer.status == status_with_a_key(method, target), (method, target, hosts, name)
            else:
                refused_or_open(answer, method, target)
    assert n == 26 * 9 * 19 * 17


@pytest.mark.slow
def test_a_right_key_opens_every_route_by_its_own_method_and_no_other(ask):
    for target, method in itertools.product((*OPEN, *CLOSED, *NOWHERE), METHODS):
        answer = ask(method, target, headers=RIGHT["right"])
        assert answer.status == status_with_a_key(method, target), (method, target)
        if answer.status >= 400 and method != "HEAD":
            answer.error()
    for headers in RIGHT.values():
        assert ask("GET", "/v1/models", headers=headers).status == 200


@pytest.mark.slow
def test_a_foreign_host_name_is_refused_whatever_the_key(ask):
    """A page of a stranger can lead a browser here under a name of its own (DNS rebinding)."""
    for hosts, target, headers in itertools.product(BAD_HOSTS, (*OPEN, "/v1/models", "/tokenize"), (RIGHT["right"], [])):
        for method in ("GET", "POST"):
            answer = ask(method, target, hosts=hosts, headers=headers)
            assert answer.status == 400, (hosts, target)
            answer.error()
    for hosts in GOOD_HOSTS:
        assert ask("GET", "/health", hosts=hosts).status == 200
        assert ask("GET", "/v1/models", hosts=hosts, headers=RIGHT["right"]).status == 200
        assert ask("GET", "/v1/models", hosts=hosts).status == 401


@pytest.mark.slow
def test_no_spelling_of_a_path_goes_round_the_key(ask):
    for target, method in itertools.product(TRICKS, METHODS):
        for headers in (WRONG["none"], WRONG["wrong"]):
            refused_or_open(ask(method, target, headers=headers), method, target)
        for hosts in (("evil/?",), ("a/?x=",)):
            assert ask(method, target, hosts=hosts).status == 400
        answer = ask(method, target, headers=RIGHT["right"])
        assert 200 <= answer.status < 500, (method, target)
        assert answer.status not in range(300, 400), "no redirect: its address would hold what the client wrote"
        if answer.status == 200:
            assert unquote(target).partition("?")[0] in ("/v1/models", "/health"), (method, target)


@pytest.mark.slow
def test_a_key_is_neither_logged_nor_told(guarded):
    for headers in (*RIGHT.values(), *WRONG.values()):
        answer = sent(guarded.port, head("GET", "/v1/models", headers=headers))
        assert b"key-of" not in answer.body
    assert not any("key-of" in line.lower() for line in guarded.log)


def test_keys_are_told_apart_and_each_has_a_tenant_of_its_own():
    keys = Keys([FIRST, SECOND])
    first, second = (keys.tenant(f"Bearer {key}".encode()) for key in (FIRST, SECOND))
    assert first is not None
    assert second is not None
    assert first != second
    assert keys.tenant(f"bEaReR {FIRST}".encode()) == first
    assert not {FIRST, SECOND} & {first, second}
    for header in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        FIRST.encode(),
        b"Bearer \xff",
        f"Basic {FIRST}".encode(),
        f"Bearer {FIRST} x".encode(),
    ):
        assert keys.tenant(header) is None
    assert not Keys()
    assert Keys().tenant(b"Bearer x") is None


def key_file(folder, text, mode=0o600):
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_keys_come_from_a_file_and_from_the_environment(tmp_path):
    path = key_file(tmp_path, f"\ufeff# ours\n\n  {FIRST}  \r\n{SECOND}\n")
    for keys in (read_keys(path, {}), read_keys(None, {"TOUCHSTONE_API_KEY": f" {FIRST} ,{SECOND},"})):
        assert keys.tenant(f"Bearer {FIRST}".encode())
        assert keys.tenant(f"Bearer {SECOND}".encode())
        assert not keys.tenant(b"Bearer # ours")
    both = read_keys(key_file(tmp_path, SECOND), {"TOUCHSTONE_API_KEY": FIRST})
    assert both.tenant(f"Bearer {FIRST}".encode())
    assert both.tenant(f"Bearer {SECOND}".encode())
    (tmp_path / "link").symlink_to(path)
    assert read_keys(tmp_path / "link", {})
    assert not read_keys(None, {"TOUCHSTONE_API_KEY": " , "})


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("", 0o600, "no key"),
        ("# only a remark\n", 0o600, "no key"),
        ("short\n", 0o600, "at least 16"),
        ("a key with some spaces\n", 0o600, "no space"),
        ("schl\xfcssel-of-the-client\n", 0o600, "ASCII"),
        (f"{FIRST}\n", 0o640, "chmod 600"),
        (f"{FIRST}\n", 0o604, "chmod 600"),
        (f"{FIRST}\n" * 50_000, 0o600, "larger than"),
    ],
)
def test_a_key_file_that_is_none_is_told_with_its_name(tmp_path, text, mode, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read_keys(key_file(tmp_path, text, mode), {})
    assert str(tmp_path / "keys") in str(caught.value)
    assert FIRST not in str(caught.value)


def test_what_is_no_file_is_no_key_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "fifo", tmp_path / "loop"):
        with pytest.raises(ConfigError):
            read_keys(path, {})
    with pytest.raises(ConfigError, match="TOUCHSTONE_API_KEY"):
        read_keys(None, {"TOUCHSTONE_API_KEY": "short"})


@pytest.mark.parametrize("hosts", [*GOOD_HOSTS, ("models.example.org",), ("Models.Example.ORG:443",)])
def test_a_server_answers_for_its_names_and_for_addresses(hosts):
    assert Hosts(["models.example.org"]).allow(hosts[0].encode())


@pytest.mark.parametrize("hosts", [*(hosts for hosts in BAD_HOSTS if len(hosts) == 1), ("127.0.0.1\n",), ("example.org",), ("\xe9",)])
def test_a_server_answers_for_no_other_name(hosts):
    assert not Hosts(["models.example.org"]).allow(hosts[0].encode("latin-1"))


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.7.7"])
def test_strangers_cannot_reach_a_server_without_keys(started, chat_folder, host):
    server = started(chat_folder, "--host", host, environment={"TOUCHSTONE_API_KEY": ""})
    assert server.process.wait(PATIENCE_S) == 2
    assert server.address is None
