"use strict";
// What the page says, in English and Chinese, and how it writes figures and the names of tokens.

const SAY = {
  en: {
    chat: "Chat", completion: "Completion", classify: "Classify", send: "Send", stop: "Stop", retry: "Retry", copy: "Copy",
    copied: "Copied", clear: "Clear", prompt: "Your text", log: "Conversation", settings: "Settings", token: "One token",
    system: "System message", controls: "Sampling", temperature: "Temperature", topP: "Top p", topK: "Top k (0 = off)",
    maxTokens: "Most new tokens", seed: "Seed (empty = any)", stopText: "Stop at these texts, one a line (\\n is a line break)",
    coloured: "Colour tokens by their probability", hint: "Enter sends · Shift+Enter: new line · Esc stops",
    legend: "How likely the model found each token; point at one, or tap it, to see what else it might have written", user: "You",
    assistant: "Model", key: "API key", keySend: "Use it", askChat: "Say something", askCompletion: "A text to go on from",
    askClassify: "A text to classify", ok: "ready", asking: "asking the server", loading: "the model is being loaded",
    dead: "the engine is being started again", draining: "the server is ending and takes no more requests",
    away: "The server does not answer.",
    calibrated: "Calibrated: the calibrated figure of a token says how often such tokens are right. Of those at 70 %, about seven in ten are.",
    uncalibrated: "Not calibrated: these are the model's own figures, and they may be too sure or not sure enough.",
    probability: "Probability", confidence: "Calibrated", noConfidence: "not calibrated", others: "Likeliest here",
    parts: "Written by several tokens", goOn: "Choose one to go on from here with it.", tokens: "tokens", oneToken: "1 token",
    stopped: "stopped", broken: "broken off", length: "cut off at the token limit",
    cutOff: "The answer broke off: the server closed the connection.", mean: "mean calibrated confidence", sure: "calibrated confidence",
    value: "value", light: "Light", dark: "Dark", auto: "Auto", theme: "Colours: ",
    cannot: "This model does not write text, so there is no chat and no completion here. It can: ", can_loglikelihood: "score texts",
    can_rolling: "score long texts", can_encode: "turn texts into vectors", can_classify: "classify texts", can_tag: "tag words",
    can_span: "find answers in a text", can_fill_mask: "fill gaps in a text",
  },
  zh: {
    chat: "对话", completion: "续写", classify: "分类", send: "发送", stop: "停止", retry: "重试", copy: "复制", copied: "已复制",
    clear: "清空", prompt: "你的文本", log: "对话内容", settings: "设置", token: "一个词元", system: "系统消息", controls: "采样设置",
    temperature: "温度", topP: "Top p", topK: "Top k（0 为关）", maxTokens: "最多新词元", seed: "随机种子（空为任意）",
    stopText: "遇到这些文本就停，一行一个（\\n 表示换行）", coloured: "按概率给词元上色", hint: "回车发送 · Shift+回车换行 · Esc 停止",
    legend: "模型认为每个词元有多大可能；指向或轻触一个词元，看它本来还可能写什么", user: "你", assistant: "模型", key: "API 密钥",
    keySend: "使用", askChat: "说点什么", askCompletion: "要续写的文本", askClassify: "要分类的文本", ok: "就绪", asking: "正在询问服务器",
    loading: "正在加载模型", dead: "引擎正在重新启动", draining: "服务器即将关闭，不再接受请求", away: "服务器没有回应。",
    calibrated: "已校准：词元的“校准后”数字表示这样的词元有多常是对的。标为 70 % 的，大约十个里有七个对。",
    uncalibrated: "未校准：这些是模型自己的数字，可能过于自信，也可能不够自信。", probability: "概率", confidence: "校准后",
    noConfidence: "未校准", others: "此处最可能的词元", parts: "由几个词元合成", goOn: "选一个，就从这里接着它写下去。", tokens: "个词元",
    oneToken: "1 个词元", stopped: "已停止", broken: "中途断开", length: "已达词元上限", cutOff: "回答中途断开：服务器关闭了连接。",
    mean: "校准后平均置信度", sure: "校准后的置信度", value: "数值", light: "浅色", dark: "深色", auto: "自动", theme: "配色：",
    cannot: "这个模型不会写文本，所以这里没有对话和续写。它能：", can_loglikelihood: "给文本打分", can_rolling: "给长文本打分",
    can_encode: "把文本变成向量", can_classify: "给文本分类", can_tag: "给词打标记", can_span: "在文中找答案",
    can_fill_mask: "填补文中的空缺",
  },
};

const LEVELS = [[0.01, "< 1 %"], [0.05, "1–5 %"], [0.2, "5–20 %"], [0.5, "20–50 %"], [0.9, "50–90 %"], [Infinity, "> 90 %"]];
const MAX_NAME = 60;  // characters of a token in its tip
// what would show as nothing, move the cursor, or turn the direction of the line
const ODD = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0001}-\u{e007f}]+)/u;

function codes(text) {
  const named = [...text.slice(0, 8)].map((c) => "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0"));
  return named.join(" ") + (text.length > 8 ? " …" : "");
}

function nameOf(token) {
  const short = token.length > MAX_NAME ? token.slice(0, MAX_NAME) + "…" : token;
  const spaced = short.replaceAll("\n", "\\n").replaceAll("\t", "\\t").replaceAll(" ", "␣");
  return spaced.split(ODD).map((part, place) => (place % 2 ? codes(part) : part)).join("");
}

function percent(p) {
  if (p >= 0.9995) return "100 %";
  if (p < 0.0001) return "< 0.01 %";
  return (100 * p).toFixed(p >= 0.01 ? 1 : 2) + " %";
}

const level = (p) => LEVELS.findIndex(([top]) => p < top);
