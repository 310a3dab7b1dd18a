"""A script of its own process: render chat templates in a sandbox, so that one that never ends or never stops growing can be killed.

A job that uses up its processor time ends the process by SIGPROF, which tells the parent that it was the job's doing.
Run by `chat_template.py` as `python -I template_worker.py`; jobs and answers are JSON, each behind its length in four bytes. Only the
standard library and jinja2 are imported. The environment is the one that `transformers` renders with: blocks trimmed, `tojson` without
escapes for HTML, `raise_exception`, `strftime_now`, loop controls, and `{% generation %}`, which marks what the assistant says.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY_BYTES = 512 << 20


class Refused(Exception):
    """What a template says through `raise_exception`."""


class Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: its text comes between the two marks that the job names."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        marks: Any = self.environment.globals["_marks"]
        low, high = marks
        return f"{low}{caller()}{high}"


def main() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS does not take it
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    read, write = sys.stdin.buffer, sys.stdout.buffer
    compiled: dict[str, jinja2.Template] = {}  # the one template that this process is for
    for number in (signal.SIGPROF, signal.SIGALRM):  # each ends this process, whatever it was started from
        signal.signal(number, signal.SIG_DFL)
    _write(write, b"")
    while (head := read.read(4)) and len(head) == 4:
        job = json.loads(read.read(int.from_bytes(head, "big")))
        signal.alarm(job["alarm_s"])  # should the parent die before it can kill this process
        signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])  # processor time, which a busy machine does not use up
        answer = json.dumps(_answer(job, compiled)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        _write(write, answer)


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def _answer(job: dict[str, Any], compiled: dict[str, jinja2.Template]) -> dict[str, Any]:
    try:
        return _examined(job["template"]) if job["do"] == "examine" else {"text": _rendered(job, compiled)}
    except Refused as error:
        return {"error": "refused", "message": str(error)[:500]}
    except MemoryError:
        return {"error": "memory", "message": "it needs too much memory"}
    except RecursionError:
        return {"error": "failed", "message": "it is nested too deep"}
    except Exception as error:  # a template can raise anything
        return {"error": "failed", "message": f"{type(error).__name__}: {error}"[:500]}


def _rendered(job: dict[str, Any], compiled: dict[str, jinja2.Template]) -> str:
    source = job["template"]
    if source not in compiled:
        compiled.clear()
        compiled[source] = _environment(job["marks"]).from_string(source)
    template = compiled[source]
    template.environment.globals["_marks"] = job["marks"]
    parts: list[str] = []
    n_chars = 0
    for part in template.generate(**job["variables"]):
        n_chars += len(part)
        if n_chars > job["max_chars"]:
            raise ValueError(f"it writes more than {job['max_chars']} characters")
        parts.append(part)
    return "".join(parts)


def _examined(source: str) -> dict[str, Any]:
    """The texts that a template holds, and the variables that it reads."""
    tree = _environment(["", ""]).parse(source)
    marked = any(isinstance(call.call.node, nodes.ExtensionAttribute) for call in tree.find_all(nodes.CallBlock))
    return {"texts": sorted(set(_texts(tree))), "variables": sorted(meta.find_undeclared_variables(tree)), "marks": marked}


def _texts(tree: nodes.Template) -> Iterator[str]:
    for data in tree.find_all(nodes.TemplateData):
        yield data.data
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and constant.value:
            yield constant.value


def _environment(marks: list[str]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form), _marks=marks)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise Refused(message)


if __name__ == "__main__":
    main()
