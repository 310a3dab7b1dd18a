"""The page at `/` in a real browser: what people click, what they see, and that what a model writes is only ever text."""

import math
import re
import shutil
import threading
import time

import pytest
from scripted import ABORT, FILES, PAGE, POLICY, Scripted

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_S = 30
HOSTILE = (
    "<img src=x onerror=\"document.title='harmed'\">",
    "</script><script>document.title='harmed'</script>",
    "<svg onload=document.title='harmed'>",
    "[click](javascript:document.title='harmed') **bold**\n# heading\n",
    "\x1b[31mred\x1b[0m \u202eturned\u202c \u2066\u200b\x00",
)
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


class Tab:
    """A page that is open in Chromium."""

    def __init__(self, driver):
        self.driver = driver

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def go(self, address, width, height, lang):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        agent = {"userAgent": self.run("return navigator.userAgent"), "acceptLanguage": lang}
        self.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", agent)
        self.driver.get_log("browser")
        self.driver.get(address)
        until(lambda: self.run("return ['pane', 'note', 'key'].some((id) => !document.getElementById(id).hidden)") or self.all(".bad"))

    def press(self, *keys):
        """Keys for whatever has the focus; names of selenium's `Keys`, or text."""
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def point(self, element):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def send(self, text):
        """Type a text and Enter, when the page is ready for it."""
        until(lambda: self.one("#send").is_enabled())
        self.one("#prompt").clear()
        self.one("#prompt").click()
        self.press(text, "ENTER")

    def ask(self, text):
        """The same, until all is answered; the answer's text."""
        self.send(text)
        until(lambda: self.one("#stop").get_attribute("disabled") and self.all(".facts"))
        return self.shown()

    def shown(self):
        """The last answer's text."""
        return self.run("return [...document.querySelectorAll('.text')].at(-1).textContent")

    def tip(self):
        return until(lambda: self.one("#tip").text if self.one("#tip").is_displayed() else None)

    def focused(self):
        return self.driver.switch_to.active_element

    def complaints(self):
        """What the console holds, but for refusals: those are the tests' own."""
        return [
            entry["message"] for entry in self.driver.get_log("browser") if "the server responded with a status" not in entry["message"]
        ]


def until(met, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.03)
    return found


@pytest.fixture(scope="module")
def browser(chromium):
    """Headless Chromium."""
    chromedriver = shutil.which("chromedriver")
    if chromedriver is None:
        pytest.skip("needs Chromium's driver (Debian, Ubuntu: apt-get install chromium-driver): no page was clicked through")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser, scripted):
    """`open_page(address, width, height, lang)`: the page, whose console must stay empty as long as its server is there."""
    tab = Tab(browser)

    def start(address, width=1100, height=900, lang="en"):
        tab.go(address, width, height, lang)
        return tab

    yield start
    assert tab.complaints() == []
    browser.get("about:blank")


@pytest.fixture
def scripted():
    server = Scripted()
    yield server
    server.close()


def test_a_conversation_shows_how_likely_each_token_was(open_page, scripted):
    levels = (0.005, 0.03, 0.1, 0.3, 0.7, 0.95)
    scripted.pieces = [(f"w{number} ", [(f"w{number} ", math.log(p))]) for number, p in enumerate(levels)]
    tab = open_page(scripted.address)
    assert tab.one("#tab-chat").get_attribute("aria-selected") == "true"
    tab.one("#system-box summary").click()
    tab.one("#system").send_keys("Be brief.")
    assert tab.ask("Hello") == "w0 w1 w2 w3 w4 w5 "
    assert [token.get_attribute("class").split()[1] for token in tab.all(".token")] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    grounds = {token.value_of_css_property("background-color") for token in tab.all(".token")}
    assert len(grounds) == 6
    tab.point(tab.all(".token")[2])
    assert tab.tip().split("\n") == ["Probability", "10.0 %", "Calibrated", "50.0 %", "Likeliest here", "w2␣", "10.0 %", "other", "8.2 %"]
    tab.one("#coloured").click()
    assert {token.value_of_css_property("background-color") for token in tab.all(".token")} == {"rgba(0, 0, 0, 0)"}
    tab.ask("And then?")
    assert len(tab.all(".turn")) == 4
    path, body = scripted.asked[-1]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "w0 w1 w2 w3 w4 w5 "},
        {"role": "user", "content": "And then?"},
    ]
    tab.one("#retry").click()
    until(lambda: len(scripted.asked) == 3 and len(tab.all(".facts")) == 2)
    assert scripted.asked[-1] == scripted.asked[-2]
    tab.one("#clear").click()
    assert tab.all(".turn") == []


def test_sampling_is_asked_as_set_and_within_bounds(open_page, scripted):
    tab = open_page(scripted.address)
    tab.one("#tab-completion").click()
    tab.one("#controls summary").click()
    asked = {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "max_tokens": "7", "seed": "11", "stop_text": "END\n\\n\\n"}
    for name, value in asked.items():
        tab.one(f"#{name}").clear()
        tab.one(f"#{name}").send_keys(value)
    assert tab.ask("Once") == "Oncea"
    _, body = scripted.asked[-1]
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "max_tokens": 7, "seed": 11, "stop": ["END", "\n\n"]}
    assert body == {"model": "scripted", "prompt": "Once", "stream": True, "logprobs": 5, **wanted}
    tab.one("#temperature").clear()
    tab.one("#temperature").send_keys("900")
    tab.send("Twice")
    assert tab.focused().get_attribute("id") == "temperature"
    assert len(scripted.asked) == 1


def test_a_completion_goes_on_from_another_choice(open_page, scripted):
    scripted.pieces = ["one ", "two ", "three"]
    tab = open_page(scripted.address)
    tab.one("#tab-completion").click()
    assert tab.ask("zero ") == "zero one two three"
    tab.all(".token")[1].click()
    tab.one("#tip button").click()
    until(lambda: len(scripted.asked) == 2 and tab.all(".facts"))
    assert scripted.asked[-1][1]["prompt"] == "zero one other"
    assert tab.shown() == "zero one otherone two three"


def test_a_text_of_several_tokens_is_one_place_and_tells_each(open_page, scripted):
    half = [("bytes:\\xe4\\xbd", math.log(0.5)), ("bytes:\\xa0", math.log(0.9))]
    scripted.pieces = ["So ", ("", half[:1]), ("你", half[1:]), (" ok", [("?", math.log(0.2))])]
    tab = open_page(scripted.address)
    assert tab.ask("go") == "So 你 ok"
    assert [token.text for token in tab.all(".token")] == ["So ", "你", " ok"]
    tab.point(tab.all(".token")[1])
    told = tab.tip().split("\n")
    assert told[:2] == ["Probability", "45.0 %"]
    assert told[-4:] == ["bytes:\\xe4\\xbd", "50.0 %", "bytes:\\xa0", "90.0 %"]


def test_what_a_model_writes_is_only_ever_text(open_page, scripted):
    scripted.pieces = list(HOSTILE)
    tab = open_page(scripted.address)
    for name in ("chat", "completion"):
        tab.one(f"#tab-{name}").click()
        assert tab.ask("go").removeprefix("go") == "".join(HOSTILE)  # what is copied is what was written
        assert tab.all(".text img, .text script, .text svg, .text a, .text b, .text h1") == []
        marks = tab.run("return [...document.querySelectorAll('.odd')].map((odd) => odd.dataset.code)")
        assert marks == ["U+001B", "U+001B", "U+202E", "U+202C", "U+2066 U+200B U+0000"]
        for token in tab.all(".token"):
            tab.point(token)
            assert tab.all("#tip img, #tip script, #tip svg, #tip a") == []
    assert tab.driver.title == "scripted · Touchstone"


def test_a_million_characters_in_one_token_are_shown(open_page, scripted):
    scripted.pieces = ["x" * 1_000_000, "\u202e" * 100_000, "\u202e-" * 5000]
    tab = open_page(scripted.address, 360, 740)
    tab.send("go")
    until(lambda: tab.all(".facts"), 90)
    assert tab.run("return [...document.querySelectorAll('.token')].map((token) => token.textContent.length)") == [
        1_000_000,
        100_000,
        10_000,
    ]
    assert len(tab.all(".odd")) == 2
    assert tab.run("return document.documentElement.scrollWidth") <= 360


def test_stop_ends_the_work_of_the_server(open_page, scripted):
    scripted.pieces, scripted.delay_s = ["word "] * 4000, 0.02
    tab = open_page(scripted.address)
    for number, stop in enumerate((lambda: tab.one("#stop").click(), lambda: tab.press("ESCAPE")), 1):
        tab.send("go")
        until(lambda: len(tab.all(".token")) > 3)
        stop()
        until(lambda number=number: scripted.n_left == number)
        until(lambda: tab.one("#send").is_enabled())
        assert "stopped" in tab.one(".facts").text
        tab.one("#clear").click()


def test_an_error_amid_a_stream_is_told_and_what_came_stays(open_page, scripted):
    scripted.pieces = ["so far", {"error": {"message": "The engine stopped."}}]
    tab = open_page(scripted.address)
    assert tab.ask("go") == "so far"
    assert tab.one("#problem").text == "The engine stopped."
    assert "broken off" in tab.one(".facts").text
    scripted.pieces = ["cut", ABORT]
    tab.ask("go")
    assert tab.one("#problem").text == "The answer broke off: the server closed the connection."


def test_a_refusal_is_told_in_the_server_s_words_and_can_be_retried(open_page, scripted):
    scripted.refusal = (503, "The engine is being started again; ask again.")
    tab = open_page(scripted.address)
    tab.send("go")
    until(lambda: tab.one("#problem").is_displayed())
    assert tab.one("#problem").text == "The engine is being started again; ask again."
    scripted.refusal = None
    until(lambda: tab.one("#retry").is_enabled())
    tab.one("#retry").click()
    until(lambda: tab.all(".facts"))
    assert not tab.one("#problem").is_displayed()
    assert scripted.asked[-1][1]["messages"] == [{"role": "user", "content": "go"}]


def test_the_state_of_the_server_is_told(open_page, scripted):
    scripted.health = "loading"
    tab = open_page(scripted.address)
    for health, told in (("loading", "the model is being loaded"), ("dead", "started again"), ("draining", "takes no more requests")):
        scripted.health = health
        until(lambda told=told: told in tab.one("#state").text)
        assert not tab.one("#send").is_enabled()
    scripted.health = "ok"
    until(lambda: tab.one("#send").is_enabled())
    assert tab.one("#state").text == "ready"


def test_a_key_is_asked_for_and_kept_in_memory_only(open_page, scripted):
    scripted.key = "a-key-of-enough-characters"
    tab = open_page(scripted.address)
    until(lambda: tab.one("#key").is_displayed())
    assert tab.one("#problem").text == "An API key is needed."
    for given in ("a-wrong-one-of-the-kind", scripted.key):
        assert not tab.one("#send").is_enabled()
        tab.one("#key-field").send_keys(given)
        tab.press("ENTER")
        until(lambda: not tab.one("#key-field").get_attribute("value"))
    until(lambda: tab.one("#send").is_enabled())
    assert not tab.one("#key").is_displayed()
    assert tab.ask("go") == "a"
    assert tab.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_the_keyboard_alone_is_enough(open_page, scripted):
    scripted.pieces = ["one ", "two ", "three"]
    tab = open_page(scripted.address)
    until(lambda: tab.focused().get_attribute("id") == "prompt")
    tab.run("document.getElementById('tab-chat').focus()")
    tab.press("ARROW_RIGHT")
    assert tab.focused().get_attribute("id") == "tab-completion"
    tab.press("TAB")
    assert tab.focused().get_attribute("id") == "prompt"
    from selenium.webdriver import ActionChains, Keys

    tab.press("first")
    ActionChains(tab.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    tab.press("second", "ENTER")
    until(lambda: tab.all(".facts"))
    assert scripted.asked[-1][1]["prompt"] == "first\nsecond"
    ActionChains(tab.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert tab.focused().text == "one "  # one stop an answer, and arrows within it
    tab.press("ARROW_RIGHT")
    assert tab.focused().text == "two "
    assert tab.focused().value_of_css_property("outline-style") == "solid"
    assert "two␣" in tab.tip()
    tab.press("ENTER")
    assert tab.focused().text.startswith("other")
    tab.press("ESCAPE")
    assert tab.focused().text == "two "
    assert not tab.one("#tip").is_displayed()
    tab.press("ENTER", "ENTER")
    until(lambda: len(scripted.asked) == 2)
    assert scripted.asked[-1][1]["prompt"] == "first\nsecondone other"
    until(lambda: tab.one("#stop").get_attribute("disabled"))


def test_every_control_has_a_name(open_page, scripted):
    tab = open_page(scripted.address)
    until(lambda: tab.one("#send").is_enabled())
    script = """return [...document.querySelectorAll('button, input, textarea')].filter(
        (node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.[0]?.textContent.trim())).map((node) => node.id)"""
    assert tab.run(script) == []
    assert tab.one("#log").get_attribute("aria-live") == "polite"


def test_both_languages_say_the_same_things(open_page, scripted):
    tab = open_page(scripted.address)
    english, chinese = (tab.run(f"return Object.entries(SAY.{lang})") for lang in ("en", "zh"))
    assert [key for key, _ in english] == [key for key, _ in chinese]
    alike = {key for (key, one), (_, other) in zip(english, chinese, strict=True) if one == other}
    assert alike == {"topP"}


def test_languages_themes_and_a_phone(open_page, scripted):
    scripted.pieces = ["long" * 30] * 5
    tab = open_page(scripted.address, 360, 740, "zh-CN")
    until(lambda: tab.one("#send").is_enabled())
    assert tab.one("#send").text == "发送"
    assert tab.one("html").get_attribute("lang") == "zh-Hans"
    tab.ask("x" * 300)
    assert "个词元" in tab.one(".facts").text
    assert tab.run("return document.documentElement.scrollWidth") <= 360
    tab.all(".token")[0].click()
    assert "概率" in tab.tip()
    assert tab.run("return document.documentElement.scrollWidth") <= 360
    tab.one("#language").click()
    assert tab.one("#send").text == "Send"
    assert "tokens" in tab.one(".facts").text
    grounds = {}
    for name in ("Light", "Dark", "Auto"):
        tab.one("#theme").click()
        assert tab.one("#theme").text == name
        grounds[name] = tab.run("return getComputedStyle(document.body).backgroundColor")
    assert grounds == {"Light": "rgb(253, 253, 251)", "Dark": "rgb(20, 22, 25)", "Auto": "rgb(253, 253, 251)"}


def test_a_model_without_a_template_has_no_chat_and_tells_that_it_is_not_calibrated(open_page, scripted):
    scripted.facts = {"can": ["generate"], "chat": False, "calibrated": False}
    scripted.confidence = None
    tab = open_page(scripted.address)
    tab.ask("go")
    assert [each.text for each in tab.all("[role=tab]") if each.is_displayed()] == ["Completion"]
    assert tab.one("#calibration").text.startswith("Not calibrated")
    tab.point(tab.all(".token")[0])
    assert tab.tip().split("\n")[2:4] == ["Calibrated", "not calibrated"]


def test_texts_are_classified(open_page, scripted):
    scripted.facts = {"can": ["classify"], "chat": False, "calibrated": False}
    tab = open_page(scripted.address)
    tab.ask("a fine film")
    assert "does not write text" in tab.one("#note").text
    assert [each.text for each in tab.all(".bars code")] == ["good", "bad"]
    assert [each.text for each in tab.all(".bars span")] == ["75.0 %", "25.0 %"]
    widths = [each.size["width"] for each in tab.all(".bars i")]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.02)


def test_a_model_that_only_reads_says_so(open_page, scripted):
    scripted.facts = {"can": ["encode", "loglikelihood"], "chat": False, "calibrated": False}
    tab = open_page(scripted.address)
    until(lambda: tab.one("#note").is_displayed())
    assert tab.one("#note").text.endswith("It can: turn texts into vectors, score texts.")
    assert not tab.one("#prompt").is_displayed()


def test_what_was_said_before_an_answer_was_stopped_and_cleared_is_forgotten(open_page, scripted):
    scripted.pieces, scripted.gate = ["old", "er"], threading.Event()
    tab = open_page(scripted.address)
    tab.send("first")
    until(lambda: tab.all(".token"))
    tab.one("#clear").click()
    scripted.gate.set()
    tab.ask("second")
    assert scripted.asked[-1][1]["messages"] == [{"role": "user", "content": "second"}]


def test_three_thousand_tokens_are_one_node_each_and_none_is_made_twice(open_page, scripted):
    scripted.pieces, scripted.gate = [f"w{number} " for number in range(3000)], threading.Event()
    tab = open_page(scripted.address)
    tab.send("go")
    until(lambda: tab.all(".token"))
    watch = """const seen = window.seen = { added: 0, removed: 0 };
        new MutationObserver((records) => records.forEach((record) => {
            seen.added += record.addedNodes.length; seen.removed += record.removedNodes.length; })
        ).observe(document.querySelector('.assistant .text'), { childList: true, subtree: true });"""
    tab.run(watch)
    scripted.gate.set()
    until(lambda: tab.all(".facts"), 90)
    assert tab.run("return window.seen") == {"added": 2999, "removed": 0}
    assert tab.run("return document.querySelectorAll('.token').length") == 3000
    assert tab.shown() == "".join(scripted.pieces)
    left = "const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight"
    until(lambda: tab.run(left) < 80)


def test_a_real_model_writes_what_the_api_answers(open_page, server):
    tab = open_page(server.address)
    until(lambda: tab.one("#send").is_enabled())
    tab.run("document.getElementById('max_tokens').value = 12; document.getElementById('temperature').value = 0")
    tab.ask("Hello")
    assert len(tab.all(".turn")) == 2
    tab.one("#tab-completion").click()
    shown = tab.ask("One day a girl")
    body = {"prompt": "One day a girl", "max_tokens": 12, "temperature": 0, "logprobs": 5}
    told = server.post("/v1/completions", body)[1]["choices"][0]
    assert shown == "One day a girl" + told["text"]
    listed = (
        "return [...document.querySelectorAll('.token')].flatMap((span) => span.told.tokens.map((t) => [t.name, t.logprob, t.confidence]))"
    )
    names, logprobs, confidences = zip(*tab.run(listed), strict=True)
    assert list(names) == told["logprobs"]["tokens"][: len(names)]
    assert logprobs == pytest.approx(told["logprobs"]["token_logprobs"][: len(names)], abs=1e-3)
    assert confidences == pytest.approx(told["confidence"]["value"][: len(names)], abs=1e-3)
    tab.run("arguments[0].focus()", tab.all(".token")[0])
    assert "Probability" in tab.tip()


def test_every_file_of_the_page_is_open_without_a_key_and_only_to_be_read(guarded):
    named = re.findall(r'(?:src|href)="(\w+\.\w+)"', (PAGE / "index.html").read_text("utf-8"))
    assert {"/", *(f"/{name}" for name in named)} == set(FILES)
    for path, (name, kind) in FILES.items():
        status, headers, data = guarded.ask("GET", path)
        assert (status, headers["content-type"], data) == (200, kind, (PAGE / name).read_bytes())
        assert headers["content-security-policy"] == POLICY
        assert guarded.ask("POST", path, {})[0] in (401, 405)
