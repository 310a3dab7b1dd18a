"""The page at `/` in a real browser: what people click, what they see, and that what a model writes is only ever text."""

import http.server
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "src" / "touchstone" / "serve" / "page"
PATIENCE_S = 20
HOSTILE = (
    "<img src=x onerror=\"document.title='harmed'\">",
    "</script><script>document.title='harmed'</script>",
    "<svg onload=document.title='harmed'>",
    "[click](javascript:document.title='harmed')",
    "\x1b[31mred\x1b[0m \u202eturned\u202c",
)


@pytest.fixture(scope="module")
def open_page():
    """A page in headless Chromium: `open_page(address, width, height, lang)`; is_open: whether it can be used at once."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian, Ubuntu: apt-get install chromium chromium-driver): no page was clicked through")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = []

    def start(address, width=1100, height=900, lang="en", is_open=True):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for option in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ):
            options.add_argument(option)
        options.add_experimental_option("prefs", {"intl.accept_languages": lang})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(driver))
        found.append(browser)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        until(lambda: element(browser, "#send").is_enabled() is is_open)
        return browser

    yield start
    for browser in found:
        browser.quit()


def until(met, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
    return found


def element(browser, selector):
    return browser.find_element("css selector", selector)


def elements(browser, selector):
    return browser.find_elements("css selector", selector)


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "401" not in entry["message"]]


def shown(browser):
    """The last answer's text."""
    return browser.execute_script("return [...document.querySelectorAll('.text')].at(-1).textContent")


class Scripted:
    """A server that speaks the API and answers what a test tells it to."""

    def __init__(self):
        self.pieces = ["a"]
        self.key = None
        self.delay_s = 0.0
        self.facts = {"can": ["generate", "classify"], "chat": True, "calibrated": True}
        self.asked = []
        self.n_left = 0
        scripted = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                pages = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
                if self.path in pages:
                    data = (PAGE / pages[self.path]).read_bytes()
                    kind = {"l": "text/html; charset=utf-8", "s": "text/css"}[pages[self.path][-1]]
                    self.reply(200, data, "text/javascript" if self.path.endswith("js") else kind)
                elif self.path == "/health":
                    self.reply(200, b'{"status": "ok"}')
                elif self.let_in():
                    self.reply(200, json.dumps({"data": [{"id": "scripted", **scripted.facts}]}).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not self.let_in():
                    return
                scripted.asked.append((self.path, body))
                if self.path == "/v1/classify":
                    found = {"label": "good", "labels": ["bad", "good"], "probabilities": [0.25, 0.75]}
                    self.reply(200, json.dumps({"data": [found]}).encode())
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                try:
                    for number, piece in enumerate(scripted.pieces):
                        is_last = number == len(scripted.pieces) - 1
                        self.wfile.write(b"data: " + json.dumps(scripted.chunk(self.path, piece, is_last)).encode() + b"\n\n")
                        self.wfile.flush()
                        time.sleep(scripted.delay_s)
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    scripted.n_left += 1

            def let_in(self):
                if scripted.key is None or self.headers.get("authorization") == f"Bearer {scripted.key}":
                    return True
                self.reply(401, b'{"error": {"message": "An API key is needed."}}')
                return False

            def reply(self, status, data, kind="application/json"):
                self.send_response(status)
                self.send_header("content-type", kind)
                policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
                self.send_header("content-security-policy", policy)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                """No word: the tests ask `asked`."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def chunk(self, path, piece, is_last):
        if isinstance(piece, dict):
            return piece
        tops = [[piece, -0.1], ["other", -2.5]]
        end = {"finish_reason": "stop" if is_last else None}
        if is_last:
            end["confidence"] = {"value": [0.5] * len(self.pieces), "method": "temperature", "target": "next-token"}
        if path == "/v1/completions":
            logprobs = {"tokens": [piece], "token_logprobs": [-0.1], "top_logprobs": [dict(tops)], "text_offset": [0]}
            return {"choices": [{"index": 0, "text": piece, "logprobs": logprobs, **end}]}
        entry = {"token": piece, "logprob": -0.1, "top_logprobs": [{"token": name, "logprob": value} for name, value in tops]}
        return {"choices": [{"index": 0, "delta": {"content": piece}, "logprobs": {"content": [entry]}, **end}]}

    def close(self):
        self._server.shutdown()


@pytest.fixture
def scripted():
    server = Scripted()
    yield server
    server.close()


def write(browser, text):
    from selenium.webdriver.common.keys import Keys

    element(browser, "#prompt").clear()
    element(browser, "#prompt").send_keys(text, Keys.ENTER)


def test_a_model_is_asked_and_its_tokens_tell_how_likely_they_were(open_page, server):
    browser = open_page(server.address)
    element(browser, "#tab-completion").click()
    browser.execute_script("document.getElementById('max_tokens').value = 12; document.getElementById('temperature').value = 0")
    write(browser, "One day a girl")
    until(lambda: elements(browser, ".facts"))
    told = server.post("/v1/completions", {"prompt": "One day a girl", "max_tokens": 12, "temperature": 0})[1]["choices"][0]["text"]
    assert shown(browser) == "One day a girl" + told
    tokens = elements(browser, ".token")
    assert tokens
    assert all(any(f"p{level}" in token.get_attribute("class") for level in range(6)) for token in tokens)
    browser.execute_script("arguments[0].focus()", tokens[1])
    tip = until(lambda: element(browser, "#tip") if element(browser, "#tip").is_displayed() else None)
    assert "calibrated" in tip.text
    assert len(elements(browser, "#tip li")) >= 5
    assert complaints(browser) == []


def test_a_conversation_goes_on(open_page, server):
    browser = open_page(server.address)
    assert element(browser, "#tab-chat").get_attribute("aria-selected") == "true"
    browser.execute_script("document.getElementById('max_tokens').value = 6; document.getElementById('seed').value = 4")
    for n_turns, said in ((2, "Hello"), (4, "And then?")):
        write(browser, said)
        until(lambda n=n_turns: len(elements(browser, ".turn .facts")) == n // 2)
        assert len(elements(browser, ".turn")) == n_turns
    element(browser, "#retry").click()
    until(lambda: len(elements(browser, ".turn")) == 4 and len(elements(browser, ".turn .facts")) == 2)
    assert complaints(browser) == []


def test_what_a_model_writes_is_only_ever_text(open_page, scripted):
    scripted.pieces = list(HOSTILE)
    browser = open_page(scripted.address)
    for tab in ("chat", "completion"):
        element(browser, f"#tab-{tab}").click()
        write(browser, "go")
        until(lambda: elements(browser, ".facts"))
        text = shown(browser)
        assert all(part in text for part in HOSTILE[:4])
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert elements(browser, ".text img, .text script, .text svg, .text a") == []
    assert browser.title == "scripted · Touchstone"
    assert complaints(browser) == []


def test_stop_ends_the_work_of_the_server(open_page, scripted):
    scripted.pieces, scripted.delay_s = ["word "] * 400, 0.05
    browser = open_page(scripted.address)
    write(browser, "go")
    until(lambda: len(elements(browser, ".token")) > 3)
    element(browser, "#stop").click()
    until(lambda: scripted.n_left == 1)
    until(lambda: element(browser, "#send").is_enabled())
    assert "stopped" in element(browser, ".facts").text


def test_an_error_amid_a_stream_is_told_and_what_came_stays(open_page, scripted):
    scripted.pieces = ["so far", {"error": {"message": "The engine stopped."}}]
    browser = open_page(scripted.address)
    write(browser, "go")
    until(lambda: element(browser, "#problem").is_displayed())
    assert element(browser, "#problem").text == "The engine stopped."
    assert "so far" in shown(browser)


def test_a_key_is_asked_for_and_kept_in_memory_only(open_page, scripted):
    scripted.key = "a-key-of-enough-characters"
    browser = open_page(scripted.address, is_open=False)
    until(lambda: element(browser, "#key").is_displayed())
    for given in ("a-wrong-one-of-the-kind", scripted.key):
        assert not element(browser, "#send").is_enabled()
        element(browser, "#key-field").send_keys(given)
        element(browser, "#key button").click()
        until(lambda: not element(browser, "#key-field").get_attribute("value"))
    until(lambda: element(browser, "#send").is_enabled())
    assert not element(browser, "#key").is_displayed()
    write(browser, "go")
    until(lambda: elements(browser, ".facts"))
    assert browser.execute_script("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_languages_themes_and_a_phone(open_page, scripted):
    scripted.pieces = ["long" * 30] * 5
    browser = open_page(scripted.address, 360, 740, "zh-CN")
    assert element(browser, "#send").text == "发送"
    element(browser, "#language").click()
    assert element(browser, "#send").text == "Send"
    grounds = set()
    for _ in range(3):
        element(browser, "#theme").click()
        grounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    write(browser, "x" * 300)
    until(lambda: elements(browser, ".facts"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert complaints(browser) == []


def test_texts_are_classified(open_page, scripted):
    scripted.facts = {"can": ["classify"], "chat": False, "calibrated": False}
    browser = open_page(scripted.address)
    write(browser, "a fine film")
    until(lambda: elements(browser, ".bars"))
    assert [each.text for each in elements(browser, ".bars code")] == ["good", "bad"]
    assert [each.text for each in elements(browser, ".bars span")] == ["75.0 %", "25.0 %"]


def test_three_thousand_tokens_are_one_node_each(open_page, scripted):
    scripted.pieces = [f"w{number} " for number in range(3000)]
    browser = open_page(scripted.address)
    write(browser, "go")
    until(lambda: elements(browser, ".facts"), 60)
    assert browser.execute_script("return document.querySelectorAll('.token').length") == 3000
    assert shown(browser) == "".join(scripted.pieces)
