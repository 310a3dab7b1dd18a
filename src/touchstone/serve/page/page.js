"use strict";
// The page of `touchstone serve`: it asks the API as any client does. What a model writes is only ever shown as text.

const TABS = ["chat", "completion", "classify"];
const THEMES = ["auto", "light", "dark"];
const N_TOP = 5;

const $ = (id) => document.getElementById(id);
const state = {
  lang: /^zh\b/i.test(navigator.language) ? "zh" : "en", theme: "auto", health: "asking", model: null, key: "",
  tab: "", turns: [], last: null, kept: {}, aborter: null, running: null, hiding: 0, isAtEnd: true, top: 0, frame: 0,
};
const say = (key) => SAY[state.lang][key] ?? key;

// ---- words and colours

function speak() {
  document.documentElement.lang = state.lang === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", say(node.dataset.label));
  for (const node of document.querySelectorAll(".facts")) node.textContent = node.told();
  $("language").textContent = state.lang === "en" ? "中文" : "English";
  $("language").lang = state.lang === "en" ? "zh-Hans" : "en";
  $("theme").textContent = say(state.theme);
  $("theme").setAttribute("aria-label", say("theme") + say(state.theme));
  if (state.tab) $("prompt").placeholder = say({ chat: "askChat", completion: "askCompletion", classify: "askClassify" }[state.tab]);
  if (state.model) {
    $("calibration").textContent = say(state.model.calibrated ? "calibrated" : "uncalibrated");
    const can = state.model.can.map((name) => say("can_" + name));
    $("note").textContent = say("cannot") + can.join(state.lang === "zh" ? "、" : ", ") + (state.lang === "zh" ? "。" : ".");
  }
  hideTip();
  showHealth();
}

function paint() {
  if (state.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = state.theme;
}

// ---- the server

async function call(path, body) {
  const headers = {};
  if (state.key) headers.Authorization = "Bearer " + state.key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const asked = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body), signal: state.aborter?.signal };
  const response = await fetch(path, asked);
  if (response.ok) return response;
  if (response.status === 401) { $("key").hidden = false; $("key-field").focus(); }
  let told = response.status + " " + response.statusText;
  try { told = (await response.json()).error.message; } catch { /* not our server's JSON: the status has to say it */ }
  throw new Error(told);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error(say("cutOff"));
    held.push(value);
    if (!value.includes("\n")) continue;  // amid an event: JSON has no bare line break
    const parts = held.join("").split("\n\n");
    held = [parts.pop()];
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

async function watchHealth() {
  let health = "away";
  try { health = (await (await fetch("health")).json()).status; } catch { /* it stays away */ }
  const was = state.health;
  state.health = health;
  showHealth();
  if (health === "ok" && $("key").hidden && (was !== "ok" || !state.model)) await meet();
  setTimeout(watchHealth, health === "ok" ? 5000 : 1000);
}

function showHealth() {
  $("state").textContent = say(state.health);
  $("state").className = "state " + ({ ok: "ok", asking: "" }[state.health] ?? "bad");
  $("send").disabled = state.health !== "ok" || state.aborter !== null || !state.tab || !$("key").hidden;
  $("stop").disabled = state.aborter === null;
  $("retry").disabled = state.last === null || $("send").disabled;
  $("copy").disabled = !$("log").querySelector(".text");
}

async function meet() {
  const wasAsked = !$("key").hidden;
  try {
    state.model = (await (await call("v1/models")).json()).data[0];
  } catch (error) { return problem(error); }
  $("key").hidden = true;
  problem(null);
  const { id, can, chat, max_model_len: most } = state.model;
  const writes = can.includes("generate");
  const open = { chat: writes && chat, completion: writes, classify: can.includes("classify") };
  $("model").textContent = id;
  document.title = id + " · Touchstone";
  if (most) { $("max_tokens").max = most; $("max_tokens").value = Math.min($("max_tokens").value, most); }
  for (const name of TABS) $("tab-" + name).hidden = !open[name];
  const first = TABS.find((name) => open[name]);
  $("tabs").hidden = $("pane").hidden = !first;
  $("note").hidden = writes;
  if (first) choose(open[state.tab] ? state.tab : first);
  else speak();
  if (first && (wasAsked || document.activeElement === document.body)) focusPrompt();
}

function problem(error) {
  const told = $("problem");
  if ($("pane").hidden) $("key").after(told);
  else $("ask").before(told);
  told.hidden = !error;
  told.textContent = !error ? "" : error instanceof TypeError ? say("away") : error.message;
}

// ---- turns

function choose(tab) {
  if (state.tab !== tab) {
    state.aborter?.abort();
    problem(null);
    const { turns: said, last: asked } = state;
    if (state.tab) state.kept[state.tab] = { nodes: [...$("log").childNodes], turns: said, last: asked, prompt: $("prompt").value };
    const { nodes = [], turns = [], last = null, prompt = $("prompt").value } = state.kept[tab] ?? {};
    Object.assign(state, { tab, turns, last });
    $("log").replaceChildren(...nodes);
    $("prompt").value = prompt;
  }
  for (const name of TABS) {
    $("tab-" + name).setAttribute("aria-selected", String(name === tab));
    $("tab-" + name).tabIndex = name === tab ? 0 : -1;
  }
  $("pane").setAttribute("aria-labelledby", "tab-" + tab);
  $("system-box").hidden = tab !== "chat";
  $("controls").hidden = $("legend").hidden = tab === "classify";
  speak();
}

function clear() {
  state.aborter?.abort();
  Object.assign(state, { turns: [], last: null });
  $("log").replaceChildren();
  problem(null);
  hideTip();
  showHealth();
  focusPrompt();
}

/** Where that does not bring up a keyboard over half of the page. */
function focusPrompt() {
  if (!matchMedia("(pointer: coarse)").matches) $("prompt").focus();
}

function addTurn(role, text) {
  const box = make("section", "turn " + role);
  const title = make("h2", "", say(role));
  title.dataset.say = role;
  const shown = make("p", "text");
  if (text) shown.append(addText(make("span", role === "assistant" ? "given" : ""), text));
  box.append(title, shown);
  $("log").append(box);
  state.isAtEnd = true;
  follow();
  return { box, shown, said: "" };
}

/** Keep the end in sight, unless the reader has gone up: once a frame, for to measure at each token would lay all of them out again. */
function follow() {
  if (!state.isAtEnd || state.frame) return;
  state.frame = requestAnimationFrame(() => { state.frame = 0; $("log").scrollTop = $("log").scrollHeight; });
}

function onScroll() {
  const { scrollTop, scrollHeight, clientHeight } = $("log");
  state.isAtEnd = scrollHeight - scrollTop - clientHeight < 80 || (state.isAtEnd && scrollTop >= state.top);
  state.top = scrollTop;
}

function addFacts(box, told) {
  const facts = make("p", "facts", told());
  facts.told = told;
  box.append(facts);
}

function sampling() {
  const found = {};
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) if ($(name).value !== "") found[name] = Number($(name).value);
  if (!found.top_k) delete found.top_k;
  const stops = $("stop_text").value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  if (stops.length) found.stop = stops;
  return found;
}

function areBoundsKept() {
  const wrong = $("controls").querySelector("input:invalid");
  if (!wrong || state.tab === "classify") return true;
  $("controls").open = true;
  wrong.reportValidity();
  return false;
}

function send(text) {
  if ($("send").disabled || !text.trim() || !areBoundsKept()) return;
  state.last = text;
  if (state.tab === "classify") return run(() => classify(text));
  if (state.tab === "completion") return run(() => complete(text));
  if (state.turns.at(-1)?.role === "user") { state.turns.pop(); $("log").lastElementChild.remove(); }  // it was never answered
  state.turns.push({ role: "user", content: text });
  addTurn("user", text);
  $("prompt").value = "";
  return run(() => answer(state.turns));
}

function retry() {
  if ($("retry").disabled || !areBoundsKept()) return;
  if (state.tab !== "chat") return send(state.last);
  if (state.turns.at(-1)?.role === "assistant") { state.turns.pop(); $("log").lastElementChild.remove(); }
  run(() => answer(state.turns));
}

function run(work) {
  state.running = (async () => {
    problem(null);
    hideTip();
    const aborter = (state.aborter = new AbortController());
    $("log").setAttribute("aria-busy", "true");
    showHealth();
    try {
      await work();
    } catch (error) {
      if (!aborter.signal.aborted) problem(error);
    } finally {
      state.aborter = null;
      $("log").setAttribute("aria-busy", "false");
      showHealth();
    }
  })();
  return state.running;
}

async function complete(text) {
  $("log").replaceChildren();
  const turn = addTurn("assistant", text);
  const body = { model: state.model.id, prompt: text, stream: true, logprobs: N_TOP, ...sampling() };
  const read = (choice) => ({ text: choice.text, tokens: completionTokens(choice.logprobs) });
  await write(turn, text, "v1/completions", body, read);
}

async function answer(turns) {
  const turn = addTurn("assistant");
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns];
  const body = { model: state.model.id, messages, stream: true, logprobs: true, top_logprobs: N_TOP, ...sampling() };
  try {
    const read = (choice) => ({ text: choice.delta.content ?? "", tokens: chatTokens(choice.logprobs) });
    await write(turn, "", "v1/chat/completions", body, read);
    turns.push({ role: "assistant", content: turn.said });
  } catch (error) {
    if (turn.said) turns.push({ role: "assistant", content: turn.said });
    else turn.box.remove();
    throw error;
  }
}

async function write(turn, prompt, path, body, read) {
  const all = [];
  let waiting = [], reason = "broken", confidence = null;
  try {
    for await (const piece of events(await call(path, body))) {
      if (piece.error) throw new Error(piece.error.message);
      for (const choice of piece.choices) {
        const { text, tokens } = read(choice);
        all.push(...tokens);
        waiting.push(...tokens);
        if (text) waiting = addPiece(turn, prompt, text, waiting);
        if (choice.finish_reason) { reason = choice.finish_reason; confidence = choice.confidence ?? null; }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") reason = "stopped";
    throw error;
  } finally {
    confidence?.value.forEach((value, i) => { if (all[i]) all[i].confidence = value; });
    const mean = confidence?.value.length ? confidence.value.reduce((a, b) => a + b) / confidence.value.length : null;
    addFacts(turn.box, () => {
      const facts = [all.length === 1 ? say("oneToken") : all.length + " " + say("tokens")];
      if (reason !== "stop") facts.push(say(reason));
      if (mean !== null) facts.push(say("mean") + " " + percent(mean));
      return facts.join(" · ");
    });
    follow();
  }
}

async function classify(text) {
  const found = (await (await call("v1/classify", { model: state.model.id, input: text })).json()).data[0];
  $("log").replaceChildren();
  const { box } = addTurn("user", text);
  const bars = make("div", "bars");
  (found.labels ?? []).map((label, i) => [label, found.probabilities[i]]).sort((a, b) => b[1] - a[1]).forEach(([label, p]) => {
    const bar = make("i");
    bar.style.setProperty("width", (100 * p).toFixed(1) + "%");
    bars.append(make("code", "", nameOf(label).replaceAll("␣", " ")), bar, make("span", "", percent(p)));
  });
  box.append(bars);
  const { confidence, value } = found;
  addFacts(box, () => [
    ...(value === undefined ? [] : [say("value") + " " + Number(value).toPrecision(4)]),
    confidence ? say("sure") + " " + percent(Math.max(...confidence.value)) : say("noConfidence"),
  ].join(" · "));
}

function onEscape() {
  if (state.aborter) return state.aborter.abort();
  const token = document.querySelector(".token.shown");
  if (token && $("tip").contains(document.activeElement)) token.focus();
  hideTip();
}

async function copy() {
  const shown = [...$("log").querySelectorAll(".text")].at(-1);
  if (navigator.clipboard) await navigator.clipboard.writeText(shown.textContent);
  else {  // without HTTPS, on another machine than this
    getSelection().selectAllChildren(shown);
    document.execCommand("copy");
    getSelection().removeAllRanges();
  }
  $("copy").textContent = say("copied");
  setTimeout(() => { $("copy").textContent = say("copy"); }, 1200);
}

// ---- what people do

$("ask").addEventListener("submit", (event) => { event.preventDefault(); send($("prompt").value); });
$("prompt").addEventListener("keydown", (event) => {
  const isInput = event.isComposing || event.keyCode === 229;  // 229: Safari's Enter that ends an input method
  if (event.key !== "Enter" || event.shiftKey || isInput) return;
  event.preventDefault();
  send($("prompt").value);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") onEscape(); });
$("stop").addEventListener("click", () => state.aborter?.abort());
$("retry").addEventListener("click", retry);
$("clear").addEventListener("click", clear);
$("copy").addEventListener("click", copy);
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key-field").value.trim();
  $("key-field").value = "";
  meet();
});
for (const name of TABS) $("tab-" + name).addEventListener("click", () => choose(name));
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const shown = [...$("tabs").children].filter((tab) => !tab.hidden);
  const next = shown[(shown.indexOf(document.activeElement) + step + shown.length) % shown.length];
  next.focus();
  next.click();
});
$("language").addEventListener("click", () => { state.lang = state.lang === "en" ? "zh" : "en"; speak(); });
$("theme").addEventListener("click", () => { state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length]; paint(); speak(); });
$("coloured").addEventListener("change", () => $("log").classList.toggle("plain", !$("coloured").checked));
for (const kind of ["mouseover", "focusin", "click"]) {
  $("log").addEventListener(kind, (event) => {
    const token = event.target.closest(".token");
    if (!token) return;
    if (kind === "focusin") makeStop(token);
    showTip(token);
  });
}
$("log").addEventListener("keydown", onTokenKey);
$("log").addEventListener("scroll", onScroll);
for (const node of [$("log"), $("tip")]) {
  node.addEventListener("mouseout", () => {
    clearTimeout(state.hiding);
    if (!document.activeElement.closest(".token.shown, #tip")) state.hiding = setTimeout(hideTip, 300);
  });
}
$("tip").addEventListener("mouseover", () => clearTimeout(state.hiding));
document.addEventListener("click", (event) => { if (!event.target.closest(".token, #tip")) hideTip(); });

$("scale").replaceChildren(...LEVELS.map(([, label], place) => make("li", "p" + place, label)));
paint();
speak();
watchHealth();
