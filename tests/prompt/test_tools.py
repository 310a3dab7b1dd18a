"""Tools: prompts are Hugging Face's, forced calls fit their schemas, calls are found in what a model wrote, and no name is a way in."""

import json
import random

import jsonschema
import pytest
from tool_templates import CLOCK, SPECIALS, TEMPLATES, WEATHER, a_tokenizer

from touchstone.errors import ConfigError, Unsupported
from touchstone.infer import LanguageModel
from touchstone.models import build, decoder_spec
from touchstone.prompt.constrain import Constrainer
from touchstone.prompt.tools import ToolFormat
from touchstone.text.conversation import ChatFormat
from touchstone.text.document import Message, ToolCall

TOOLS = [WEATHER, CLOCK]
CALL = ToolCall("weather", {"city": "Oslo", "days": 2}, "abcdefghi")
SAID = (
    Message("user", "What is it like?"),
    Message("assistant", "", (CALL,)),
    Message("tool", "fine", name="weather", tool_call_id="abcdefghi"),
)
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
    "llama3": '{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}',
    "mistral": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}, "id": "abcdefghi"}]',
}


@pytest.fixture(scope="module")
def tokenizer():
    return a_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=2048)
    return LanguageModel(build(spec, seed=1).eval(), tokenizer=tokenizer)


@pytest.fixture(scope="module", params=TEMPLATES)
def named(request, tokenizer):
    """The name of a form and a chat that has it."""
    chat = ChatFormat(TEMPLATES[request.param], tokenizer)
    yield request.param, chat
    chat.close()


@pytest.mark.slow
def test_prompts_with_tools_are_those_of_hugging_face(named, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    name, chat = named
    tokenizer.save(tmp_path)
    said = [
        {"role": "user", "content": "What is it like?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": CALL.id, "function": {"name": CALL.name, "arguments": CALL.arguments}}],
        },
        {"role": "tool", "content": "fine", "name": "weather", "tool_call_id": CALL.id},
    ]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(said, chat_template=TEMPLATES[name], tools=TOOLS, add_generation_prompt=True, tokenize=True)
    assert list(chat.prompt(SAID, TOOLS)) == list(getattr(expected, "input_ids", expected))


def test_the_form_of_a_call_is_found_in_the_template(named):
    name, chat = named
    form = ToolFormat.of(chat)
    assert form.parse(WRITTEN[name]) == ("", [CALL if name == "mistral" else ToolCall(CALL.name, CALL.arguments)])
    assert (form.arguments_key, form.is_list, form.needs_id) == {
        "hermes": ("arguments", False, False),
        "llama3": ("parameters", False, False),
        "mistral": ("arguments", True, True),
    }[name]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["weather", "clock", None])
def test_a_forced_call_fits_the_schema_whatever_the_model(named, model, wanted):
    form, chat = ToolFormat.of(named[1]), named[1]
    rule = form.rule(Constrainer.of(model), TOOLS, name=wanted, parallel=False)
    prompt = chat.prompt(SAID[:1], TOOLS)
    n_whole = 0
    for done in model.generate([prompt] * 3, max_new_tokens=300, temperature=1.0, seed=5, constraint=rule):
        if done.finish_reason != "stop":
            continue
        n_whole += 1
        said, calls = form.parse(done.text)
        assert said == ""
        (call,) = calls
        assert call.name in ([wanted] if wanted else ["weather", "clock"])
        if call.name == "weather":
            jsonschema.validate(call.arguments, WEATHER["function"]["parameters"])
        else:
            assert call.arguments == {}
    assert n_whole


def test_several_calls_are_read_and_what_is_said_before_them(tokenizer):
    chat = ChatFormat(TEMPLATES["hermes"], tokenizer)
    form = ToolFormat.of(chat)
    chat.close()
    two = WRITTEN["hermes"] + '\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert form.parse("Let me see.\n" + two) == ("Let me see.", [ToolCall("weather", CALL.arguments), ToolCall("clock", {})])


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        "<tool_call>",
        "<tool_call>\n{",
        '<tool_call>\n{"name": 3}\n</tool_call>',
        "a < b <tool",
        '{"a": 1}',
        "[1, 2]",
        "[" * 5000,
        "{}",
    ],
)
def test_what_is_no_call_is_all_said(named, text):
    form = ToolFormat.of(named[1])
    assert form.parse(text) == (text, [])
    reader = form.reader()
    told = "".join(reader.push(char) for char in text)
    assert told + reader.finish()[0] == text


NAMES = ["weather", "clock"]


def told(form, text, **settings):
    """What is told of a text that was cut off, and the calls in it."""
    reader = form.reader(NAMES, **settings)
    said = "".join(reader.push(char) for char in text)
    rest, calls = reader.finish(is_cut=True)
    return said + rest, [call.name for call in calls]


def test_of_a_call_that_is_cut_off_nothing_is_said(named):
    name, chat = named
    form = ToolFormat.of(chat)
    written = WRITTEN[name]
    begun = len(form.sign) if form.sign else written.index("weather") + 1
    for end in range(begun, len(written) - len(form.tail)):
        said, calls = told(form, written[:end])
        assert said.strip() == ""
    for end in range(len(written)):
        said, calls = told(form, written[:end], only_calls=True)
        assert said == ""
    said, calls = told(form, f"{written}{'; ' if not form.sign else chr(10)}{written[: begun + 5]}")
    assert (said.strip(), calls) == ("", ["weather"])


def test_a_text_that_is_cut_off_is_said(named):
    form = ToolFormat.of(named[1])
    sign = form.sign or "<tool_call>"
    for text in (
        "plain",
        '{"a": 1',
        "[1, 2",
        "a < b",
        '{"names',
        '{"name": "Anna", "age": 3, "li',
        f"The tag {sign} opens a call, and then",
    ):
        assert told(form, text) == (text, [])
    if form.sign:
        assert told(form, f"Hi {form.sign[:4]}") == ("Hi ", [])


def test_a_call_of_numbers_that_no_float_holds_is_told_as_it_is(named):
    name, chat = named
    form = ToolFormat.of(chat)
    text = WRITTEN[name].replace("2", "1e999")
    reader = form.reader(NAMES, only_calls=True)
    assert reader.push(text) == ""
    assert reader.finish() == (text, [])


def test_a_stream_tells_the_same_as_the_whole_text(named):
    name, chat = named
    form = ToolFormat.of(chat)
    draw = random.Random(3)
    for text in (WRITTEN[name], "Hello < there", *(["So: " + WRITTEN[name]] if name == "hermes" else [])):
        for _ in range(20):
            cuts = sorted(draw.sample(range(len(text) + 1), min(6, len(text))))
            reader = form.reader()
            said = "".join(reader.push(text[low:high]) for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True))
            rest, calls = reader.finish()
            expected = form.parse(text)
            assert (said + rest).strip() == expected[0].strip()
            assert [(call.name, call.arguments) for call in calls] == [(call.name, call.arguments) for call in expected[1]]
            assert all(call.id for call in calls)


def test_no_text_of_a_tool_becomes_a_special_token(named, tokenizer):
    _, chat = named
    plain = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"k": {}}}}}
    genuine = [token for token in chat.prompt(SAID, [plain]) if token in tokenizer.special_ids]
    for payload in SPECIALS:
        function = {
            "name": payload,
            "description": f"a{payload}",
            "parameters": {"type": "object", "properties": {payload: {"enum": [payload]}}},
        }
        call = ToolCall(payload, {payload: [payload]}, CALL.id)
        said = (SAID[0], Message("assistant", "", (call,)), Message("tool", payload, name=payload, tool_call_id=CALL.id))
        attacked = chat.prompt(said, [{"type": "function", "function": function}])
        assert [token for token in attacked if token in tokenizer.special_ids] == genuine


@pytest.mark.slow
def test_a_template_without_a_place_for_tools_says_so(tokenizer):
    chat = ChatFormat("{% for m in messages %}{{ m.content }}{% endfor %}", tokenizer)
    with pytest.raises(Unsupported, match="no place for tools"):
        ToolFormat.of(chat)
    with pytest.raises(Unsupported, match="no place for tools"):
        chat.prompt(SAID[:1], TOOLS)
    with pytest.raises(Unsupported, match="no place for tools"):
        chat.prompt(SAID)
    chat.close()


@pytest.mark.slow
def test_a_form_that_is_no_json_is_refused(tokenizer):
    chat = ChatFormat(
        "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}CALL {{ c.function.name }}{% endfor %}{% endfor %}",
        tokenizer,
    )
    with pytest.raises(Unsupported, match="form that is not known"):
        ToolFormat.of(chat)
    chat.close()


def test_a_tool_that_does_not_exist_cannot_be_forced(named, model):
    with pytest.raises(ConfigError, match="no tool named `other`"):
        ToolFormat.of(named[1]).rule(Constrainer.of(model), TOOLS, name="other")


@pytest.mark.slow
def test_the_schema_of_a_forced_call_is_checked(named, model):
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": 3}}}}}
    with pytest.raises(ConfigError):
        ToolFormat.of(named[1]).rule(Constrainer.of(model), [wrong])


def test_arguments_that_are_a_text_of_json_are_read(named):
    form = ToolFormat.of(named[1])
    entry = {"name": "f", form.arguments_key: json.dumps({"a": 1})}
    text = json.dumps([entry]) if form.is_list else f"{form.sign}{json.dumps(entry)}{form.tail}"
    assert form.parse(text) == ("", [ToolCall("f", {"a": 1})])
