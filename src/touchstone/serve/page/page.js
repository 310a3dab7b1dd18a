"use strict";
// The page of `touchstone serve`: asks the API as any client does. What a model writes is only ever shown as text.

const SAY = {
  en: {
    chat: "Chat", completion: "Completion", classify: "Classify", send: "Send", stop: "Stop", retry: "Retry", copy: "Copy", copied: "Copied",
    clear: "Clear", prompt: "Text", system: "System message", controls: "Sampling", temperature: "Temperature", topP: "Top p", topK: "Top k (0 = off)",
    maxTokens: "Most new tokens", seed: "Seed", stopText: "Stop at this text", coloured: "Colour tokens by their probability",
    hint: "Enter sends, Shift+Enter makes a line, Esc stops", legend: "How likely the model found each token", user: "You", assistant: "Model",
    key: "API key", keySend: "Use it", askChat: "Say something", askCompletion: "Text to go on from", askClassify: "Text to classify",
    ok: "ready", loading: "the model is being loaded", dead: "the engine is being started again", draining: "the server is ending", away: "the server does not answer",
    calibrated: "This model is calibrated: the second figure of a token is how often such a token is right.",
    uncalibrated: "These are the model's own figures; they have not been calibrated.",
    probability: "probability", confidence: "calibrated", goOn: "go on from here with", cannot: "This model cannot write. It can: ", stopped: "stopped", tokens: "tokens",
    light: "Light", dark: "Dark", auto: "Auto", seedWas: "seed", length: "cut at the most tokens", meanConfidence: "mean calibrated confidence",
  },
  zh: {
    chat: "对话", completion: "续写", classify: "分类", send: "发送", stop: "停止", retry: "重来", copy: "复制", copied: "已复制",
    clear: "清空", prompt: "文本", system: "系统消息", controls: "采样设置", temperature: "温度", topP: "Top p", topK: "Top k（0 为关）",
    maxTokens: "最多新词元", seed: "随机种子", stopText: "遇到此文本即停", coloured: "按概率给词元上色",
    hint: "回车发送，Shift+回车换行，Esc 停止", legend: "模型认为每个词元有多大可能", user: "你", assistant: "模型",
    key: "API 密钥", keySend: "使用", askChat: "说点什么", askCompletion: "要续写的文本", askClassify: "要分类的文本",
    ok: "就绪", loading: "正在加载模型", dead: "引擎正在重新启动", draining: "服务即将结束", away: "服务没有回应",
    calibrated: "此模型经过校准：词元的第二个数字表示这样的词元有多大比例是对的。",
    uncalibrated: "这些是模型自己的数字，未经校准。",
    probability: "概率", confidence: "校准后", goOn: "从这里改为", cannot: "此模型不能写作。它能：", stopped: "已停止", tokens: "个词元",
    light: "浅色", dark: "深色", auto: "自动", seedWas: "种子", length: "已达词元上限", meanConfidence: "校准后平均置信度",
  },
};
const LEVELS = [[0.01, "< 1 %"], [0.05, "1–5 %"], [0.2, "5–20 %"], [0.5, "20–50 %"], [0.9, "50–90 %"], [Infinity, "> 90 %"]];
const N_TOP = 5;
const THEMES = ["auto", "light", "dark"];

const $ = (id) => document.getElementById(id);
const state = { lang: navigator.language.startsWith("zh") ? "zh" : "en", theme: "auto", key: "", model: null, tab: "", turns: [], aborter: null, last: null, health: "loading" };
const say = (key) => SAY[state.lang][key] ?? key;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function visible(text) {  // what would show as nothing, or turn the direction of the line, in a place of its own
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.01 ? (100 * p).toFixed(1) + " %" : p >= 0.0001 ? (100 * p).toFixed(2) + " %" : "< 0.01 %");
const level = (p) => LEVELS.findIndex(([top]) => p < top);

// ---- words, theme

function speak() {
  document.documentElement.lang = state.lang;
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  $("language").textContent = state.lang === "en" ? "中文" : "English";
  $("theme").textContent = say(state.theme);
  $("scale").replaceChildren(...LEVELS.map(([, label], place) => make("li", "p" + place, label)));
  $("calibration").textContent = state.model ? say(state.model.calibrated ? "calibrated" : "uncalibrated") : "";
  showHealth();
  if (state.tab) $("prompt").placeholder = say({ chat: "askChat", completion: "askCompletion", classify: "askClassify" }[state.tab]);
}

function paint() {
  const dark = state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

// ---- the server

async function call(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (state.key) headers.Authorization = "Bearer " + state.key;
  const response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  if (response.status === 401) { $("key").hidden = false; $("key-field").focus(); }
  if (!response.ok) {
    let told = response.statusText;
    try { told = (await response.json()).error.message; } catch { /* no JSON: the status says it */ }
    throw new Error(told);
  }
  return response;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.startsWith("data: ") ? part.slice(6) : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

async function watchHealth() {
  let health = "away";
  try { health = (await (await fetch("/health")).json()).status; } catch { /* stays away */ }
  const was = state.health;
  state.health = health;
  showHealth();
  if (health === "ok" && (was !== "ok" || !state.model)) await meet();
  setTimeout(watchHealth, health === "ok" ? 5000 : 1000);
}

function showHealth() {
  $("state").textContent = say(state.health);
  $("state").className = "state " + (state.health === "ok" ? "ok" : "bad");
  $("send").disabled = state.health !== "ok" || state.aborter !== null || !state.tab;
}

async function meet() {
  try {
    state.model = (await (await call("/v1/models")).json()).data[0];
  } catch (error) { return problem(error); }
  $("key").hidden = true;
  problem(null);
  const able = state.model.can;
  const tabs = { chat: able.includes("generate") && state.model.chat, completion: able.includes("generate"), classify: able.includes("classify") };
  $("model").textContent = state.model.id;
  document.title = state.model.id + " · Touchstone";
  for (const name of Object.keys(tabs)) $("tab-" + name).hidden = !tabs[name];
  const first = Object.keys(tabs).find((name) => tabs[name]);
  $("tabs").hidden = !first;
  if (!first) return problem(new Error(say("cannot") + able.join(", ")));
  choose(tabs[state.tab] ? state.tab : first);
}

// ---- turns

function choose(tab) {
  if (state.aborter) state.aborter.abort();
  if (state.tab !== tab) clear();
  state.tab = tab;
  for (const name of ["chat", "completion", "classify"]) {
    const isThis = name === tab;
    $("tab-" + name).setAttribute("aria-selected", String(isThis));
    $("tab-" + name).tabIndex = isThis ? 0 : -1;
  }
  $("pane").setAttribute("aria-labelledby", "tab-" + tab);
  $("system-box").hidden = tab !== "chat";
  $("controls").hidden = $("legend").hidden = tab === "classify";
  speak();
}

function clear() {
  state.turns = [];
  state.last = null;
  $("log").replaceChildren();
  $("retry").disabled = $("copy").disabled = true;
  hideTip();
}

function addTurn(role, text) {
  const box = make("section", "turn " + role);
  const title = make("h2", "", say(role));
  title.dataset.say = role;
  const shown = make("p", "text");
  box.append(title, shown);
  if (text !== undefined) shown.append(make("span", role === "assistant" ? "given" : "", text));
  $("log").append(box);
  $("log").scrollTop = $("log").scrollHeight;
  return { box, shown };
}

function sampling() {
  const found = { temperature: Number($("temperature").value), top_p: Number($("top_p").value), max_tokens: Number($("max_tokens").value) };
  if (Number($("top_k").value) > 0) found.top_k = Number($("top_k").value);
  if ($("seed").value !== "") found.seed = Number($("seed").value);
  if ($("stop_text").value) found.stop = [$("stop_text").value];
  return found;
}

async function send(text) {
  if (state.aborter || state.health !== "ok" || !state.tab || !text.trim()) return;
  problem(null);
  hideTip();
  state.last = text;
  if (state.tab === "classify") return run(() => classify(text));
  if (state.tab === "completion") return run(() => complete(text));
  state.turns.push({ role: "user", content: text });
  addTurn("user", text);
  $("prompt").value = "";
  return run(() => answer());
}

async function run(work) {
  state.aborter = new AbortController();
  $("stop").disabled = false;
  showHealth();
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") problem(error);
  } finally {
    state.aborter = null;
    $("stop").disabled = true;
    $("retry").disabled = state.last === null;
    $("copy").disabled = !$("log").querySelector(".turn");
    showHealth();
  }
}

async function complete(text) {
  if ($("log").childElementCount) $("log").replaceChildren();
  const turn = addTurn("assistant", text);
  const body = { model: state.model.id, prompt: text, stream: true, logprobs: N_TOP, ...sampling() };
  await write(turn, text, await call("/v1/completions", body, state.aborter.signal), (choice) => ({ text: choice.text, tokens: completionTokens(choice.logprobs) }));
}

async function answer() {
  const turn = addTurn("assistant");
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...state.turns];
  const body = { model: state.model.id, messages, stream: true, logprobs: true, top_logprobs: N_TOP, ...sampling() };
  try {
    await write(turn, "", await call("/v1/chat/completions", body, state.aborter.signal), (choice) => ({ text: choice.delta.content ?? "", tokens: chatTokens(choice.logprobs) }));
  } finally {
    if (turn.said) state.turns.push({ role: "assistant", content: turn.said });
    else turn.box.remove();
  }
}

const chatTokens = (logprobs) => (logprobs?.content ?? []).map((token) => ({ name: token.token, logprob: token.logprob, tops: token.top_logprobs.map((top) => [top.token, top.logprob]) }));
const completionTokens = (logprobs) => (logprobs?.tokens ?? []).map((name, i) => ({ name, logprob: logprobs.token_logprobs[i], tops: Object.entries(logprobs.top_logprobs[i] ?? {}) }));

async function write(turn, prompt, response, read) {
  const spans = [];  // one a token, in order, for the confidences that come at the end
  let waiting = [], said = "", reason = "stopped", confidence = null;
  try {
    for await (const piece of events(response)) {
      if (piece.error) throw new Error(piece.error.message);
      for (const choice of piece.choices) {
        const { text, tokens } = read(choice);
        waiting.push(...tokens);
        if (text) {
          addPiece(turn, prompt + said, text, waiting, spans);
          turn.said = said += text;
          waiting = [];
        }
        if (choice.finish_reason) { reason = choice.finish_reason; confidence = choice.confidence ?? null; }
      }
    }
  } finally {
    spans.push(...waiting.map(() => null));
    finish(turn, spans, reason, confidence);
  }
}

function addPiece(turn, before, text, tokens, spans) {
  const isOne = tokens.map((token) => token.name).join("") === text;  // else what is shown and what was written do not line up by token
  const groups = isOne ? tokens.map((token) => [token.name, [token]]) : [[text, tokens]];
  let done = before;
  for (const [shown, group] of groups) {
    const p = Math.exp(group.reduce((sum, token) => sum + (token.logprob ?? 0), 0));
    const span = make("span", "token p" + level(p), visible(shown));
    span.tabIndex = 0;
    span.setAttribute("role", "button");
    span.told = { group, before: done, p };
    for (const token of group) spans.push(span.told);
    done += shown;
    turn.shown.append(span);
  }
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 80) log.scrollTop = log.scrollHeight;
}

function finish(turn, spans, reason, confidence) {
  const facts = [spans.length + " " + say("tokens")];
  if (reason !== "stop") facts.push(say(reason));
  if (confidence) {
    confidence.value.forEach((value, i) => { if (spans[i]) (spans[i].confidences ??= []).push(value); });
    const mean = confidence.value.reduce((a, b) => a + b, 0) / Math.max(1, confidence.value.length);
    facts.push(say("meanConfidence") + " " + percent(mean));
  }
  turn.box.append(make("p", "facts", facts.join(" · ")));
}

async function classify(text) {
  if ($("log").childElementCount) $("log").replaceChildren();
  const found = (await (await call("/v1/classify", { model: state.model.id, input: text }, state.aborter.signal)).json()).data[0];
  const turn = addTurn("user", text);
  const bars = make("div", "bars");
  found.labels.map((label, i) => [label, found.probabilities[i]]).sort((a, b) => b[1] - a[1]).forEach(([label, p]) => {
    const bar = make("i");
    bar.style.setProperty("width", (100 * p).toFixed(1) + "%");
    bars.append(make("code", "", visible(label)), bar, make("span", "", percent(p)));
  });
  turn.box.append(bars);
  if (found.confidence) turn.box.append(make("p", "facts", say("confidence") + " " + percent(found.confidence.value[0])));
}

// ---- one token and its alternatives

function showTip(span) {
  const { group, before, p, confidences } = span.told;
  const tip = $("tip");
  document.querySelector(".token.shown")?.classList.remove("shown");
  span.classList.add("shown");
  tip.replaceChildren();
  const said = [say("probability") + " " + percent(p)];
  if (confidences) said.push(say("confidence") + " " + percent(Math.max(0, ...confidences)));
  tip.append(make("p", "", said.join(" · ")));
  if (group.length === 1) {
    const list = make("ol");
    for (const [name, logprob] of group[0].tops) {
      const item = make("li", name === group[0].name ? "own" : "");
      const text = make("code", "", visible(JSON.stringify(name).slice(1, -1)).replaceAll(" ", "␣"));
      if (state.tab === "completion" && name !== group[0].name && !/^(bytes|token_id):/.test(name)) {
        const button = make("button");
        button.type = "button";
        button.title = say("goOn") + " " + visible(name);
        button.append(text);
        button.addEventListener("click", () => { $("prompt").value = before + name; send(before + name); });
        item.append(button);
      } else item.append(text);
      item.append(make("span", "", percent(Math.exp(logprob))));
      list.append(item);
    }
    tip.append(list);
  }
  tip.hidden = false;
  const box = span.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8));
  const below = box.bottom + tip.offsetHeight + 8 < innerHeight || box.top < tip.offsetHeight + 8;
  tip.style.setProperty("left", left + scrollX + "px");
  tip.style.setProperty("top", (below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + scrollY + "px");
}

function hideTip() {
  $("tip").hidden = true;
  document.querySelector(".token.shown")?.classList.remove("shown");
}

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

// ---- what people do

$("ask").addEventListener("submit", (event) => { event.preventDefault(); send($("prompt").value); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send($("prompt").value); }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!$("tip").hidden) hideTip();
  else state.aborter?.abort();
});
$("stop").addEventListener("click", () => state.aborter?.abort());
$("retry").addEventListener("click", () => {
  if (state.aborter || state.last === null) return;
  if (state.tab !== "chat") return send(state.last);
  while (state.turns.length && state.turns.at(-1).role === "assistant") { state.turns.pop(); $("log").lastElementChild?.remove(); }
  problem(null);
  hideTip();
  run(() => answer());
});
$("clear").addEventListener("click", () => { state.aborter?.abort(); clear(); problem(null); $("prompt").focus(); });
$("copy").addEventListener("click", async () => {
  const shown = [...$("log").querySelectorAll(".text")].at(-1);
  await navigator.clipboard.writeText(shown?.textContent ?? "");
  $("copy").textContent = say("copied");
  setTimeout(() => { $("copy").textContent = say("copy"); }, 1200);
});
$("key").addEventListener("submit", (event) => { event.preventDefault(); state.key = $("key-field").value.trim(); $("key-field").value = ""; meet(); });
for (const name of ["chat", "completion", "classify"]) $("tab-" + name).addEventListener("click", () => choose(name));
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const shown = [...$("tabs").children].filter((tab) => !tab.hidden);
  const next = shown[(shown.indexOf(document.activeElement) + step + shown.length) % shown.length];
  next.focus();
  next.click();
});
$("language").addEventListener("click", () => { state.lang = state.lang === "en" ? "zh" : "en"; speak(); });
$("theme").addEventListener("click", () => { state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % 3]; paint(); speak(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
$("coloured").addEventListener("change", () => $("log").classList.toggle("plain", !$("coloured").checked));
for (const kind of ["mouseover", "focusin", "click"]) {
  $("log").addEventListener(kind, (event) => { const token = event.target.closest?.(".token"); if (token) showTip(token); });
}
document.addEventListener("click", (event) => { if (!event.target.closest(".token, #tip")) hideTip(); });

paint();
speak();
watchHealth();
