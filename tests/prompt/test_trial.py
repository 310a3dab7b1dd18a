"""Grammars that would end the compiler's process, or keep it for hours, are refused, and the next one is compiled as ever."""

import gc
import signal
import subprocess
import sys

import pytest
import torch

from touchstone.errors import ConfigError, Unavailable
from touchstone.prompt.constrain import Constrainer
from touchstone.prompt.trial import TOO_COSTLY
from touchstone.text.tokenizer import Tokenizer


def chained(n, link):
    return {"$ref": "#/$defs/d0", "$defs": {**{f"d{k}": link({"$ref": f"#/$defs/d{k + 1}"}) for k in range(n)}, f"d{n}": {}}}


def rules(n, rule):
    return "\n".join(["start: r0", *(rule(k) for k in range(n)), f'r{n}: "b"'])


DEEP = {
    "references": lambda c: c.json_schema(chained(4000, lambda next: next)),
    "objects": lambda c: c.json_schema(chained(3000, lambda next: {"type": "object", "properties": {"a": next}})),
    "arrays": lambda c: c.json_schema(chained(4000, lambda next: {"items": next})),
    "rules": lambda c: c.grammar(rules(4000, lambda k: f'r{k}: "a" r{k + 1}')),
    "rules of one rule": lambda c: c.grammar(rules(4000, lambda k: f"r{k}: r{k + 1}")),
    "terminals": lambda c: c.grammar(rules(4000, lambda k: f'R{k}: "a" R{k + 1}').replace("r", "R").replace("staRt", "start")),
}
LONG = {
    "a cubic grammar": lambda c: c.grammar("start: x\nx: " + " | ".join(['"a" x "b"'] * 4000) + ' | "c"'),
    "a pattern": lambda c: c.regex("a?" * 100_000),
    "a pattern of classes": lambda c: c.regex("[a-z]*" * 60_000),
    "a common multiple": lambda c: c.json_schema({"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}),
}


@pytest.fixture(scope="module")
def constrainer():
    tokenizer = Tokenizer.train(["abc 123 true"] * 9, kind="bpe", vocab_size=258, specials=("<|endoftext|>",))
    return Constrainer(tokenizer, [0], tokenizer.vocab_size)


@pytest.mark.parametrize(
    "make", [*DEEP.values(), *(pytest.param(make, marks=pytest.mark.slow) for make in LONG.values())], ids=[*DEEP, *LONG]
)
def test_what_the_compiler_cannot_bear_is_refused_and_the_next_is_compiled(constrainer, make):
    with pytest.raises(ConfigError) as caught:
        make(constrainer)
    assert TOO_COSTLY in str(caught.value)
    rule = constrainer.regex("ab+")(None)
    assert rule.n_taken(constrainer.tokens_of("abb")) == len(constrainer.tokens_of("abb"))


def test_what_fails_at_a_later_token_is_refused_before_the_first(constrainer):
    with pytest.raises(ConfigError, match="too many expressions"):
        constrainer.regex("(a{0,100}b{0,100}){0,100}" * 50)


@pytest.mark.slow
def test_ten_thousand_choices_that_begin_alike_are_told_apart(constrainer):
    rule = constrainer.choice([f"true {n}" for n in range(10_000)])(None)
    for text, fits in (("true 0", True), ("true 9999", True), ("true 10000", False), ("true ", False)):
        token_ids = constrainer.tokens_of(text)
        n = rule.n_taken(token_ids)
        assert (n == len(token_ids) and rule.may_stop) is fits
        rule.rollback(n)


LONG_BUT_CHEAP = {
    "a choice": lambda c: c.choice(["x" * 100_000]),
    "a pattern": lambda c: c.regex("x" * 100_000),
    "a constant": lambda c: c.json_schema({"const": "x" * 100_000}),
    "a rule": lambda c: c.grammar('start: "' + "x" * 100_000 + '"'),
    "very many states": lambda c: c.regex("((x{1000}){1000}){1000}"),
    "a rule that never ends": lambda c: c.grammar("start: A B\nA: /x+/\nB: /x+/"),
    "a rule that never ends, later": lambda c: c.grammar("start: P A B\nP: /[a-w ]{20}!/\nA: /x+/\nB: /x+/"),
    "a list in a list without end": lambda c: c.json_schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1, "maxItems": 1}),
}


@pytest.mark.parametrize("make", LONG_BUT_CHEAP.values(), ids=LONG_BUT_CHEAP)
def test_what_can_go_on_in_one_way_only_is_followed_token_by_token(constrainer, make):
    rule = make(constrainer)(None)
    for _ in range(300):
        allowed = [id for id in torch.isfinite(rule.apply(torch.zeros(258))).nonzero().flatten().tolist() if id]
        rule.accept(allowed[0])


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
def test_a_process_that_is_stopped_from_outside_is_followed_by_another(constrainer, monkeypatch, sign):
    constrainer.regex("stopped?")
    monkeypatch.setattr("touchstone.prompt.trial._WALL_S", 5.0)
    constrainer._trial._apart._process.send_signal(sign)
    constrainer.regex(f"(stopped by {sign.value})+")


@pytest.mark.slow
def test_a_machine_that_lets_no_process_work_is_not_the_grammars_fault(constrainer, monkeypatch):
    def idle(path):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    constrainer.regex("idle?")
    constrainer._trial._apart.close()
    with monkeypatch.context() as patched:
        patched.setattr(constrainer._trial._apart, "_start_s", 0.3)
        patched.setattr("touchstone.apart._started", idle)
        with pytest.raises(Unavailable, match="Try again"):
            constrainer.regex("(idle)+")
    constrainer.regex("(idle)+")


@pytest.mark.slow
def test_who_interrupts_a_trial_gets_the_verdicts_of_the_next_grammars(constrainer, monkeypatch):
    constrainer.regex("interrupted?")
    process = constrainer._trial._apart._process

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("touchstone.apart._read", interrupted)  # while the answer is on its way
        with pytest.raises(KeyboardInterrupt):
            constrainer.regex("(interrupted)+")
    assert process.poll() is not None
    with pytest.raises(ConfigError, match="nosuch"):
        constrainer.grammar("start: nosuch")
    constrainer.grammar('start: "a"')


@pytest.mark.slow
def test_the_process_ends_with_its_constrainer():
    tokenizer = Tokenizer.train(["abc"] * 9, kind="bpe", vocab_size=258, specials=("<|endoftext|>",))
    constrainer = Constrainer(tokenizer, [0], tokenizer.vocab_size)
    constrainer.regex("a")
    process = constrainer._trial._apart._process
    assert process.poll() is None
    del constrainer
    gc.collect()
    assert process.wait(20) is not None
