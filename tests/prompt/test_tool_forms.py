"""Models that think before they call, schemas that refer to their own parts, and numbers that JSON has not."""

import jsonschema
import pytest
from tool_templates import HERMES, TEMPLATES, a_tokenizer

from touchstone.infer import LanguageModel
from touchstone.models import build, decoder_spec
from touchstone.prompt.constrain import Constrainer
from touchstone.prompt.tools import ToolFormat
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message, ToolCall

THINKING = HERMES.replace(
    "\n{{ m.content }}", "\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
"""The last turn of the assistant has a place for thoughts, though there are none."""

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 3}, "near": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]}},
    "required": ["city", "near"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/Place"}},
    "required": ["place"],
    "additionalProperties": False,
    "$defs": {"Place": PLACE},
}


def of(template):
    """The form of a template and a prompt of it."""
    chat = ChatFormat(template, a_tokenizer())
    try:
        return ToolFormat.of(chat), chat.prompt([Message("user", "?")])
    finally:
        chat.close()


@pytest.mark.slow
def test_a_call_of_a_model_that_thinks_is_found_behind_its_thoughts():
    form, _ = of(THINKING)
    plain, _ = of(HERMES)
    assert form.begin == plain.begin
    assert (form.sign, form.tail) == ("<tool_call>", "</tool_call>")
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert form.parse(f"<think>\nLet me look.\n</think>\n\n{call}") == ("<think>\nLet me look.\n</think>", [ToolCall("clock", {})])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("n_tools", [1, 2])
def test_a_schema_that_refers_to_its_own_parts_is_kept(name, n_tools):
    form, prompt = of(TEMPLATES[name])
    tokenizer = a_tokenizer()
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=1024)
    model = LanguageModel(build(spec, seed=1).eval(), tokenizer=tokenizer)
    tools = [{"type": "function", "function": {"name": f"go{number}", "parameters": NESTED}} for number in range(n_tools)]
    rule = form.rule(Constrainer.of(model), tools, parallel=False)
    found = [done for done in model.generate([prompt] * 4, max_new_tokens=400, seed=2, constraint=rule) if done.finish_reason == "stop"]
    assert found
    for done in found:
        (call,) = form.parse(done.text)[1]
        assert call.name in ("go0", "go1")
        jsonschema.validate(call.arguments, NESTED)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_number_that_json_has_not_makes_no_call(number):
    form, _ = of(HERMES)
    text = f'<tool_call>\n{{"name": "f", "arguments": {{"a": {number}}}}}\n</tool_call>'
    assert form.parse(text) == (text, [])
