"""What goes wrong in `serve` and `chat`, in Chinese: by the English message as the code has it, `{name}` in place of what it fills in.

A message that is not here is shown in English. What is filled in may be a message too, and is then said in Chinese as well. A test holds
that each English message stands in the code, and that none of the files of these two verbs is left out.
"""

__all__ = ["CHINESE_ERRORS"]

CHINESE_ERRORS: dict[str, str] = {
    # the command itself: flows/hosting.py, flows/chatting.py, cli/main.py, cli/options.py
    '`serve` needs {package}: pip install "touchstone-lm[serve]".': '`serve` 需要 {package}：pip install "touchstone-lm[serve]"。',
    "A model's name has from 1 to {n} printable characters; give one with `--name`.": (
        "模型名称须为 1 到 {n} 个可显示的字符，请用 `--name` 指定。"
    ),
    "`--allow-host {name}` is no host name; give the name alone, without http://, port or path{near}.": (
        "`--allow-host {name}` 不是主机名；请只写主机名，不带 http://、端口和路径{near}。"
    ),
    ": `--allow-host {host}`": "：`--allow-host {host}`",
    ", such as `--allow-host models.example.org`": "，例如 `--allow-host models.example.org`",
    "`--device`, `--dtype`, `--weights`, `--invariant` and `--draft` are settings of a model on this machine.": (
        "`--device`、`--dtype`、`--weights`、`--invariant` 和 `--draft` 只用于本机上的模型。"
    ),
    "`--name` chooses among the models of a server; give its address, such as http://127.0.0.1:8000.": (
        "`--name` 用来选择服务器上的模型；请给出服务器地址，例如 http://127.0.0.1:8000。"
    ),
    "`{model}` is no folder, and an address begins with http:// or https://, such as {address}.": (
        "没有 `{model}` 这个文件夹；如果是服务器地址，请以 http:// 或 https:// 开头，例如 {address}。"
    ),
    "There is no message; give one as an argument or on stdin.": "没有要发送的消息；请作为参数给出，或从标准输入传入。",
    "{path}: cannot be written ({reason}).": "{path}：无法写入（{reason}）。",
    "Interrupted; {kept}.": "已中断；{kept}。",
    "the same command begins anew": "再次运行同一命令会重新开始",
    "what was saved stays, and the same command goes on from there": "已保存的内容都在，再次运行同一命令会从那里继续",
    "`--logit-bias {entry}`: write ID=BIAS with a token's number, such as 42=-5.": (
        "`--logit-bias {entry}`：请写成“词元编号=偏置”，例如 42=-5。"
    ),
    "stdin: byte {place} is no UTF-8; give text in UTF-8.": "标准输入：第 {place} 字节不是 UTF-8；请用 UTF-8 编码的文本。",
    # the server: serve/listen.py, serve/keys.py, serve/supervisor.py
    "`--host {host}` can be reached from other machines; give API keys with `--api-key-file FILE` or `TOUCHSTONE_API_KEY`, or stay at"
    " 127.0.0.1.": (
        "`--host {host}` 可从其他机器访问；请用 `--api-key-file FILE` 或环境变量 `TOUCHSTONE_API_KEY` 设置 API 密钥，或仍用 127.0.0.1。"
    ),
    "This process may open {n} files, too few to serve; allow it more, such as `ulimit -n 1024`.": (
        "本进程最多只能打开 {n} 个文件，不足以提供服务；请放宽限制，例如 `ulimit -n 1024`。"
    ),
    "`--host {host}`: {reason}.": "`--host {host}`：{reason}。",
    "{host}:{port} cannot be used: {reason}. Choose another with `--port` (0 = any free one).": (
        "{host}:{port} 无法使用：{reason}。请用 `--port` 换一个端口（0 表示任选空闲端口）。"
    ),
    "{file}: others may read the keys; allow it to yourself alone (chmod 600).": (
        "{file}：其他用户也能读取这些密钥；请改为只有自己可读（chmod 600）。"
    ),
    "{file}: is larger than {n} bytes, so it is no list of keys.": "{file}：超过 {n} 字节，不可能是密钥列表。",
    "{file}: has no key; write one a line.": "{file}：里面没有密钥；请每行写一个。",
    "{source}: a key has at least {n} characters, all of them ASCII and no space.": (
        "{source}：密钥至少要有 {n} 个字符，只能用 ASCII 字符，且不含空格。"
    ),
    "The engine process ended before it had opened the model; what it said stands above.": ("引擎进程还没打开模型就已退出；其输出见上文。"),
    # finding and opening a model: infer/locate.py, infer/loading.py, infer/language_model.py, models/checkpoint.py, runtime.py
    "{path}: a model is a folder with `config.json` and its weights; this is a file. Give the folder it is in.": (
        "{path}：模型是包含 `config.json` 和权重的文件夹，而这是一个文件；请给出它所在的文件夹。"
    ),
    "{path}: no such folder, and not a name of the form `organisation/model` either.": (
        "{path}：没有这个文件夹，也不是“组织/模型”形式的名称。"
    ),
    "{path}: this run has no `model/` yet; it is written when the training ends. Resume it with the same command.": (
        "{path}：这次训练还没有 `model/`，训练结束时才会写出；请用同一命令继续训练。"
    ),
    "{path}: neither `config.json` (a model folder) nor `model/config.json` (a run folder) is there.": (
        "{path}：其中既没有 `config.json`（模型文件夹），也没有 `model/config.json`（训练文件夹）。"
    ),
    "No folder `{name}`, and no model of that name in the local Hugging Face cache ({cache}). Nothing is downloaded; fetch it with"
    " `hf download {again}` or give a folder.": (
        "没有文件夹 `{name}`，本机的 Hugging Face 缓存（{cache}）里也没有同名模型。这里不会下载任何内容；"
        "请先运行 `hf download {again}`，或给出文件夹。"
    ),
    "{entry}: `refs/main` is missing, so no snapshot is the current one; fetch the model again.": (
        "{entry}：缺少 `refs/main`，无法确定当前快照；请重新下载该模型。"
    ),
    "{file}: a commit hash stands there, not {commit}; fetch the model again.": (
        "{file}：其中应是提交的哈希值，而不是 {commit}；请重新下载该模型。"
    ),
    "{snapshot}: the cached model has no `config.json`; fetch it again.": "{snapshot}：缓存的模型没有 `config.json`；请重新下载。",
    "`weights` must be None (as stored) or 'int8', not {weights}.": "`weights` 只能是 None（按存储的格式）或 'int8'，不能是 {weights}。",
    "An n-gram model has counts and no products to compute in int8; leave `weights` out.": (
        "n 元模型只有计数，没有可用 int8 计算的乘积；请不要设置 `weights`。"
    ),
    "An n-gram model runs on the cpu in float64 only, not on {device} in {dtype}; leave both at auto.": (
        "n 元模型只能在 CPU 上以 float64 运行，不能在 {device} 上以 {dtype} 运行；请两项都保持 auto。"
    ),
    "A model in int8 runs on the cpu, the rest of it in float32, not on {device} in {dtype}; leave both at auto.": (
        "int8 模型在 CPU 上运行，其余部分用 float32，不能在 {device} 上以 {dtype} 运行；请两项都保持 auto。"
    ),
    "This machine has no device `{name}`; it has {here}. Leave `device` at auto to take the fastest.": (
        "本机没有设备 `{name}`，只有 {here}。把 `device` 保持为 auto 即可使用最快的设备。"
    ),
    "No numeric type `{name}`; known: auto, {known}.": "没有数值类型 `{name}`；可用：auto、{known}。",
    "{device} cannot compute in {name}; use float32.": "{device} 不能用 {name} 计算；请用 float32。",
    "This model cannot `{ability}`: {reason}. It can {able}.": "这个模型不能 `{ability}`：{reason}。它可以 {able}。",
    "The draft model must be a decoder: only that guesses token after token.": "草稿模型必须是解码器：只有解码器能逐个词元地猜测。",
    # conversations: flows/chat_local.py, text/conversation.py, text/chat_template.py
    "{told} `touchstone complete` and `touchstone generate` do.": "{told}可以改用 `touchstone complete` 和 `touchstone generate`。",
    "The answer failed: {error}": "回答失败：{error}",
    "The conversation has {n} tokens and the context holds {longest}; too few are left for an answer.": (
        "对话已有 {n} 个词元，而上下文只能容纳 {longest} 个，剩下的不够回答。"
    ),
    "This model has no tokenizer, so conversations cannot be read.": "这个模型没有分词器，无法读取对话。",
    "This model has no chat template, so it knows no conversations; give it a plain prompt to continue.": (
        "这个模型没有对话模板，不会对话；请给它一段普通文本来续写。"
    ),
    "This model's chat template has no place for tools; leave out `tools` and calls of them.": (
        "这个模型的对话模板不支持工具；请不要使用 `tools` 和工具调用。"
    ),
    "The chat template writes message {number} differently once others follow, so what the assistant says cannot be told apart; mark it in"
    " the template with `{{% generation %}}`.": (
        "后面有其他消息时，对话模板会改写第 {number} 条消息，因此无法分辨哪些是助手说的；请在模板中用 `{{% generation %}}` 标出。"
    ),
    "A conversation needs at least one message.": "对话至少要有一条消息。",
    "Message {number} has a role that does not exist; the roles are {roles}.": "第 {number} 条消息的角色不存在；可用的角色有 {roles}。",
    "The messages hold too many different characters of private use.": "消息中含有过多不同的私用区字符。",
    "tokenizer_config.json: `chat_template` should be a text, or a list with one named `default`.": (
        "tokenizer_config.json：`chat_template` 应为一段文本，或其中一项名为 `default` 的列表。"
    ),
    "The chat template {refused}: {message}.": "对话模板{refused}：{message}。",
    "refuses these messages": "拒绝了这些消息",
    "cannot be rendered": "无法渲染",
    "The chat template computed for more than {seconds} s; it was stopped.": (
        "对话模板处理这些消息的计算时间超过 {seconds} 秒，已被终止。"
    ),
    "The chat template writes far more than it may; it was stopped.": "对话模板写出的内容远超限制，已被终止。",
    "The chat template crashed its process, twice.": "渲染对话模板的进程两次崩溃。",
    "The process that renders the chat template was stopped or got no processor time, twice; this machine may be too busy. Try again.": (
        "渲染对话模板的进程两次被挂起或分不到处理器时间；本机可能过于繁忙，请重试。"
    ),
    # a server as one who answers: flows/chat_remote.py
    "The connection to {place} broke: {reason}.": "与 {place} 的连接中断：{reason}。",
    "{place} does not answer as a server of models does: {reason}.": "{place} 的应答不像模型服务器：{reason}。",
    "{place} lists no models at {path}/v1/models; is it a server of models?": (
        "{place} 在 {path}/v1/models 没有列出模型；请确认它是模型服务器。"
    ),
    "The server has several models; say which with `--name`: {named}.": "服务器上有多个模型；请用 `--name` 指明：{named}。",
    "The server has no model `{name}`; it has {named}.": "服务器上没有模型 `{name}`；现有：{named}。",
    "The model `{name}` has no chat template, so it knows no conversations; ask the server's /v1/completions, or use `touchstone complete`"
    " and `touchstone generate` where its folder is.": (
        "模型 `{name}` 没有对话模板，不会对话；请改用服务器的 /v1/completions，或在模型所在的机器上用 `touchstone complete` 和"
        " `touchstone generate`。"
    ),
    "{place} cannot be reached: {reason}; is the server running there?": "无法连接 {place}：{reason}；请确认服务器已在该处启动。",
    "The server wants an API key; put yours into the environment variable TOUCHSTONE_API_KEY.": (
        "服务器需要 API 密钥；请把密钥放入环境变量 TOUCHSTONE_API_KEY。"
    ),
    "The server refuses ({status}): {said}": "服务器拒绝了请求（{status}）：{said}",
    "`{address}` is no address; write one as http://host:port.": "`{address}` 不是地址；请写成 http://主机:端口。",
    "An address is http://host:port, with nothing secret in it; an API key goes into TOUCHSTONE_API_KEY.": (
        "地址的形式是 http://主机:端口，不要包含密码等敏感信息；API 密钥请放入 TOUCHSTONE_API_KEY。"
    ),
    "TOUCHSTONE_API_KEY holds characters that no key has; set it to the key alone.": (
        "TOUCHSTONE_API_KEY 含有密钥中不会有的字符；请只放密钥本身。"
    ),
    "The server sent a line that is too long.": "服务器发来的一行过长。",
    "The server sent an event that is no JSON object.": "服务器发来的事件不是 JSON 对象。",
    "The server broke off: {said}": "服务器中断了回答：{said}",
    "The connection ended before the answer did.": "回答还没有完，连接就断了。",
    "it took too long": "等待超时",
    # why a file is not read: text/read.py
    "empty": "空文件",
    "hidden": "隐藏文件",
    "a link to a folder": "指向文件夹的链接",
    "a link to nothing": "失效的链接",
    "not a regular file": "不是普通文件",
    "it has no suffix": "没有后缀",
    "suffix `{suffix}` is not known": "不支持的后缀 `{suffix}`",
    "the same file as {path}": "与 {path} 是同一个文件",
    "the same file as another": "与另一个文件相同",
    "{n} redirects": "{n} 个重定向页面",
    "{n} pages outside the article namespace": "{n} 个不属于条目的页面",
    "compressed parquet, which packs itself: decompress it first": "压缩过的 parquet；它本身已压缩，请先解压",
    "a .json file is not text: write one object a line and name it .jsonl": "`.json` 文件不是文本；请每行写一个对象，并命名为 .jsonl",
    # files, and what fits much: last
    "{path}: no such file.": "{path}：没有这个文件。",
    "{path}: must be a regular file.": "{path}：须为普通文件。",
    "{path}: cannot be opened: {reason}.": "{path}：无法打开：{reason}。",
    "{path}: {told}.": "{path}：{told}。",
}
"""Messages of our own code."""
