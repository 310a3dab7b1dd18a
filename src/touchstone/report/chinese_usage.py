"""Mistyped commands and faults of the system, in Chinese: by what click, the C library and `cli/main.py` say of them in English."""

__all__ = ["CHINESE_USAGE"]

CHINESE_USAGE: dict[str, str] = {
    # cli/main.py and cli/slips.py
    "{told}. Did you mean `{command}`?": "{told}。你是不是想输入 `{command}`？",
    "{told}. See `{command}`.": "{told}。请看 `{command}`。",
    "`touchstone {verb}` has no option `{name}`": "`touchstone {verb}` 没有选项 `{name}`",
    "No verb `{name}`. All: {names}": "没有命令 `{name}`；全部命令：{names}",
    "`{option}`: {told}.": "`{option}`：{told}。",
    "must be {told}, not {value}": "取值须{told}，而不是 {value}",
    "0 (greedy) or from {least} to {most}": "为 0（贪心）或在 {least} 到 {most} 之间",
    "from {least} to {most}": "在 {least} 到 {most} 之间",
    "a number of {n} bits": "一个 {n} 位的二进制数",
    "above 0 and at most 1": "大于 0 且不超过 1",
    "each string must have from {least} to {most} characters; one has {n}": "每个字符串须有 {least} 到 {most} 个字符；有一个是 {n} 个",
    "`{less}` ({a}) must be at most `{more}` ({b}).": "`{less}`（{a}）不能大于 `{more}`（{b}）。",
    "`{option}` names token {token}; the model's tokens are 0 to {most}.": "`{option}` 指定了词元 {token}；模型的词元编号为 0 到 {most}。",
    # typer and click, in the words of cli/slips.py
    "Missing argument '{name}'": "缺少参数 {name}",
    "Option '{name}' requires an argument": "选项 {name} 需要一个值",
    "Got unexpected extra arguments ({names})": "多出了参数：{names}",
    "Option '{name}' does not take a value": "选项 {name} 不带值",
    "Invalid value for '{name}': {fault}": "{name} 的值不对：{fault}",
    "must be at least {least}": "最小为 {least}",
    "must be at most {most}": "最大为 {most}",
    "must be a whole number": "须为整数",
    "must be a number": "须为数字",
    "'{value}' is not one of {values}": "“{value}”不在可选值 {values} 之中",
    "'{value}' is not {values}": "“{value}”不是 {values}",
    # the system
    "Address already in use": "地址已被占用",
    "Cannot assign requested address": "本机没有这个地址",
    "Connection refused": "连接被拒绝",
    "Connection reset by peer": "连接被对方断开",
    "Is a directory": "这是一个文件夹",
    "Name or service not known": "无法解析该主机名",
    "Network is unreachable": "网络不通",
    "No route to host": "无法到达该主机",
    "No such file or directory": "没有这个文件或文件夹",
    "Permission denied": "没有权限",
    "Remote end closed connection without response": "对方没有应答就关闭了连接",
}
"""Messages that are composed, or that others' code says."""
