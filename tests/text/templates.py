"""Chat templates in the forms that published models use, written for the tests, each with the special tokens of its form.

A form is what a model's folder holds: a template and the special tokens of the tokenizer.
"""

from dataclasses import dataclass

from touchstone.text.tokenizer import Tokenizer

TEXT = (
    "user assistant system tool ipython name description parameters arguments type object string properties required function weather city"
    " What is the weather in Paris? It is 21 degrees. Call a tool, or answer. one two three"
    " {'a': [1, 2]} <b>1 < 2</b> | \u4e2d\u6587 \u00e9 x y z"
)


@dataclass(frozen=True)
class Form:
    """One way to write conversations."""

    template: str
    specials: tuple[str, ...]
    takes_tools: bool = False

    def tokenizer(self) -> Tokenizer:
        """A small tokenizer with the special tokens of the form."""
        return Tokenizer.train([TEXT] * 3, kind="bpe", vocab_size=320, specials=self.specials)


CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA_2 = """\
{%- set told = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set told.system = '<<SYS>>\\n' + message['content'] | trim + '\\n<</SYS>>\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '<s>[INST] ' + told.system + message['content'].strip() + ' [/INST]' -}}
{%- set told.system = '' -%}
{%- else -%}
{{- ' ' + message['content'] | trim + ' </s>' -}}
{%- endif -%}
{%- endfor -%}"""

QWEN = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}
{{- messages[0].content + '\\n\\n' }}
{%- endif %}
{{- '# Tools\\n\\nThese functions can be called:\\n<tools>' }}
{%- for tool in tools %}
{{- '\\n' + tool | tojson }}
{%- endfor %}
{{- '\\n</tools>\\n\\nWrite each call as JSON in its marks:\\n<tool_call>\\n' }}
{{- '{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}
{{- '\\n' + message.content }}
{%- endif %}
{%- for call in message.tool_calls %}
{%- set call = call.function %}
{{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
{{- '<|im_start|>user' }}
{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

THINKING = QWEN.replace(
    """\
{{- '<|im_start|>assistant' }}
{%- if message.content %}
{{- '\\n' + message.content }}
{%- endif %}""",
    """\
{%- set thought, said = '', message.content %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant' }}
{%- if loop.last %}
{{- '\\n<think>\\n' + thought + '\\n</think>\\n' }}
{%- endif %}
{%- if said %}
{{- '\\n' + said }}
{%- endif %}""",
)
"""As Qwen, of a model that thinks aloud: earlier thoughts are left out, the last turn has a place for them even where it is empty."""

LLAMA_3 = """\
{{- '<|begin_of_text|>' }}
{%- if messages[0]['role'] == 'system' %}
{%- set told = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}
{%- else %}
{%- set told = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
{{- 'Answer with a call in the form {"name": function name, "parameters": its arguments}.\\n\\n' }}
{%- for tool in tools %}
{{- tool | tojson(indent=4) + '\\n\\n' }}
{%- endfor %}
{%- endif %}
{{- told + '<|eot_id|>' }}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}
{{- raise_exception('One call at a time.') }}
{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content | tojson + '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

MISTRAL = """\
{{- '<s>' }}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for message in messages %}
{%- if message.role in ('user', 'system') %}
{%- if tools is not none and asked and message == asked[-1] %}
{{- '[AVAILABLE_TOOLS] [' }}
{%- for tool in tools %}
{{- '{"type": "function", "function": {' }}
{%- for key, value in tool.function.items() %}
{%- if value is string %}
{{- '"' + key + '": "' + value + '"' }}
{%- else %}
{{- '"' + key + '": ' + value | tojson }}
{%- endif %}
{{- ', ' if not loop.last else '}}' }}
{%- endfor %}
{{- ', ' if not loop.last else ']' }}
{%- endfor %}
{{- '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST] ' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- set text = call.function | tojson %}
{{- text[:-1] }}
{%- if call.id is not defined or call.id | length != 9 %}
{{- raise_exception('The id of a call has nine characters.') }}
{%- endif %}
{{- ', "id": "' + call.id + '"}' }}
{{- ', ' if not loop.last else ']</s>' }}
{%- endfor %}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + (message.tool_call_id or '') + '"}[/TOOL_RESULTS]' }}
{%- else %}
{{- ' ' + message.content | trim + '</s>' }}
{%- endif %}
{%- endfor %}"""

JOINED = "{% for m in messages %}{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA_3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
_MISTRAL_TOOLS = ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", *_MISTRAL_TOOLS)

FORMS = {
    "chatml": Form(CHATML, _IM),
    "llama-2": Form(LLAMA_2, ("<s>", "</s>")),
    "qwen": Form(QWEN, (*_IM, "<tool_call>", "</tool_call>"), takes_tools=True),
    "qwen-thinking": Form(THINKING, _IM, takes_tools=True),
    "llama-3": Form(LLAMA_3, _LLAMA_3, takes_tools=True),
    "mistral": Form(MISTRAL, _MISTRAL, takes_tools=True),
    "joined": Form(JOINED, _IM),
}
"""`joined` is no published form: in it pieces of different messages meet.
In `qwen` the marks of a call are special tokens, in `qwen-thinking` they are text: published models have both."""
