"""Errors of `serve` and `chat` in Chinese: each English message is one that the code says, and each that these verbs say is there."""

import ast
import re
import string
from pathlib import Path

import pytest

import touchstone
from touchstone.report.chinese_errors import CHINESE_ERRORS
from touchstone.report.chinese_usage import CHINESE_USAGE
from touchstone.report.words import ERRORS, marks, words

SOURCE = Path(touchstone.__file__).parent
WHOLE = (
    "flows/hosting",
    "flows/chatting",
    "flows/chat_remote",
    "flows/chat_local",
    "serve/keys",
    "serve/listen",
    "serve/limits",
    "infer/locate",
    "cli/options",
)
OURS = {"ConfigError", "DataError", "DeviceError", "MissingPackage", "ModelFolderError", "NoTokenizer", "TooLong", "TouchstoneError"}
OURS |= {"Unavailable", "Unsupported", "_Interrupted", "error"}


def gapped(text):
    """A message with a gap for each mark."""
    return "".join(own + ("\0" if name is not None else "") for own, name, _, _ in string.Formatter().parse(text))


def said(node):
    """The text of a plain or filled-in text of the code, a gap for each thing filled in; None for what is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return None


def texts(path):
    return {text for node in ast.walk(ast.parse(path.read_text("utf-8"))) if (text := said(node)) is not None}


def raised(path):
    """The messages that a file raises errors of ours with."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in OURS and call.args:
            text = said(call.args[0])
            if text is not None:
                yield text


@pytest.mark.slow
def test_each_message_of_the_table_stands_in_the_code():
    report = SOURCE / "report"
    in_code = set().union(*(texts(path) for path in SOURCE.rglob("*.py") if path.parent != report))
    # those of files have the error that is raised as a parameter, and `_fail` composes that of the system
    assert [message for message in CHINESE_ERRORS if gapped(message) not in in_code] == []


@pytest.mark.parametrize("name", WHOLE)
def test_each_message_that_these_verbs_raise_is_in_the_table(name):
    known = {gapped(message) for message in CHINESE_ERRORS}
    messages = list(raised(SOURCE / f"{name}.py"))
    assert messages
    assert [message for message in messages if message not in known] == []


def test_both_languages_fill_in_the_same():
    assert [message for message, text in ERRORS["zh"].items() if marks(message) != marks(text)] == []


def test_chinese_messages_are_chinese_and_use_its_punctuation():
    texts = [text for message, text in ERRORS["zh"].items() if re.search("[a-z]{4}", re.sub(r"\{\w+\}|`[^`]*`", "", message))]
    assert [text for text in texts if not re.search("[\u4e00-\u9fff]", text)] == []
    assert [text for text in texts if re.search(r"[\u4e00-\u9fff] ?[,;!?:](\s|$)", text)] == []
    assert [text for message, text in CHINESE_ERRORS.items() if message.endswith(".") and not text.endswith("。")] == []


def test_no_message_is_in_both_tables():
    assert not CHINESE_ERRORS.keys() & CHINESE_USAGE.keys()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            "127.0.0.1:80 cannot be used: Address already in use. Choose another with `--port` (0 = any free one).",
            "127.0.0.1:80 无法使用：地址已被占用。请用 `--port` 换一个端口（0 表示任选空闲端口）。",
        ),
        (
            "Invalid value for '--port': must be at most 9. See `touchstone serve --help`.",
            "--port 的值不对：最大为 9。请看 `touchstone serve --help`。",
        ),
        ("Interrupted; the same command begins anew.", "已中断；再次运行同一命令会重新开始。"),
        (
            (
                "This model has no chat template, so it knows no conversations; give it a plain prompt to continue. `touchstone complete`"
                " and `touchstone generate` do."
            ),
            "这个模型没有对话模板，不会对话；请给它一段普通文本来续写。可以改用 `touchstone complete` 和 `touchstone generate`。",
        ),
        ("The connection to a:1 broke: {x}\n%s.", "与 a:1 的连接中断：{x}\n%s。"),
    ],
)
def test_a_message_is_said_in_chinese_with_what_fills_it(message, text):
    assert words("zh").told(message) == text
    assert words("en").told(message) == message


def test_what_nobody_has_translated_stays_whole():
    for message in ("Something else went wrong", "Something else. Did you mean `touchstone train`?"):
        assert words("zh").told(message) == message


def test_what_a_user_has_named_is_never_translated():
    told = words("zh").told
    for message in ("`--allow-host empty` is no host name; give the name alone, without http://, port or path: `--allow-host hidden`.",):
        assert "`--allow-host hidden`" in told(message)
    assert "`hidden`" in told("The server has no model `hidden`; it has `empty`.")
    assert told("The chat template refuses these messages: empty.").endswith("empty。")


def test_why_a_file_is_not_read_is_said_in_both_languages():
    told = words("zh").told
    assert told("the same file as a/b.txt") == "与 a/b.txt 是同一个文件"
    assert told("suffix `.png` is not known") == "不支持的后缀 `.png`"
    read = ast.parse((SOURCE / "text" / "read.py").read_text("utf-8"))
    why_not = next(node for node in ast.walk(read) if isinstance(node, ast.FunctionDef) and node.name == "_why_not")
    returned = [node.value for node in ast.walk(why_not) if isinstance(node, ast.Return)]
    parts = [said(part) for node in returned for part in ((node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,))]
    reasons = [text for text in parts if text is not None]
    assert len(reasons) >= 6
    assert [text for text in reasons if text not in {gapped(message) for message in CHINESE_ERRORS}] == []
