"use strict";
// Text of a model, token by token: how likely each was, and what else might have stood there. Only ever nodes of text, never markup.

const MAX_ODD = 4000;  // marked places of one text; a text with more is marked once

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** The text as it is, each unseen character in a place of its own that tells its code; what is copied is the text alone. */
function addText(node, text) {
  const parts = text.split(ODD);
  const marked = parts.length > MAX_ODD ? ["", text] : parts;
  marked.forEach((part, place) => {
    if (place % 2 === 0) return part && node.append(part);
    node.append(make("span", "odd", part));
    node.lastChild.dataset.code = marked === parts ? codes(part) : "U+…";
  });
  return node;
}

// ---- what the API tells

function chatTokens(logprobs) {
  const tops = (token) => token.top_logprobs.map((top) => [top.token, top.logprob]);
  return (logprobs?.content ?? []).map((token) => ({ name: token.token, logprob: token.logprob, tops: tops(token) }));
}

function completionTokens(logprobs) {
  const { tokens = [], token_logprobs: found, top_logprobs: tops } = logprobs ?? {};
  return tokens.map((name, i) => ({ name, logprob: found[i], tops: Object.entries(tops?.[i] ?? {}) }));
}

// ---- what is shown

/** Show a piece of text, token by token where the tokens are the text, else as one group; returns the tokens whose text is to come. */
function addPiece(turn, prompt, text, tokens) {
  let at = 0, next = 0;
  while (next < tokens.length && at < text.length && text.startsWith(tokens[next].name, at)) {
    addToken(turn, prompt, tokens[next].name, [tokens[next]]);
    at += tokens[next++].name.length;
  }
  const rest = tokens.slice(next);
  follow();
  if (at === text.length) return rest;
  addToken(turn, prompt, text.slice(at), rest);
  return [];
}

function addToken(turn, prompt, text, tokens) {
  const p = Math.exp(tokens.reduce((sum, token) => sum + (token.logprob ?? 0), 0));
  const span = addText(make("span", tokens.length ? "token p" + level(p) : ""), text);
  if (tokens.length) {
    span.tabIndex = turn.said ? -1 : 0;  // one stop of the tab key an answer; arrows go on from there
    span.told = { tokens, p, before: prompt.length + turn.said.length, turn, prompt };
  }
  turn.said += text;
  turn.shown.append(span);
}

// ---- one token and what else it might have been

function showTip(span) {
  clearTimeout(state.hiding);
  if (span.classList.contains("shown")) return;
  hideTip();
  span.classList.add("shown");
  const { tokens, p } = span.told;
  const tip = $("tip");
  const figures = make("dl");
  const add = (name, figure) => figures.append(make("dt", "", name), make("dd", "", figure));
  add(say("probability"), percent(p));
  const known = tokens.filter((token) => token.confidence !== undefined);
  if (tokens.length === 1 && known.length) add(say("confidence"), percent(known[0].confidence));
  else if (!state.model.calibrated) add(say("confidence"), say("noConfidence"));
  tip.replaceChildren(figures, make("h3", "", say(tokens.length === 1 ? "others" : "parts")), choicesOf(span));
  if (tip.querySelector("button")) tip.append(make("p", "help", say("goOn")));
  tip.hidden = false;
  const box = span.getClientRects()[0];
  const isBelow = box.bottom + tip.offsetHeight + 8 < innerHeight || box.top < tip.offsetHeight + 8;
  const mostLeft = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.setProperty("left", Math.max(8, Math.min(box.left, mostLeft)) + scrollX + "px");
  tip.style.setProperty("top", (isBelow ? box.bottom + 2 : box.top - tip.offsetHeight - 2) + scrollY + "px");
}

/** Of one token the likeliest at its place; of several the tokens themselves. */
function choicesOf(span) {
  const { tokens, before, prompt, turn } = span.told;
  const list = make("ol");
  const [first] = tokens;
  const own = first.tops.some(([name]) => name === first.name) ? [] : [[first.name, first.logprob]];
  const shown = tokens.length > 1 ? tokens.map((token) => [token.name, token.logprob]) : [...own, ...first.tops];
  for (const [name, logprob] of shown) {
    const isOwn = tokens.length === 1 && name === first.name;
    const item = make("li", isOwn ? "own" : "");
    const parts = [make("code", "", nameOf(name)), make("span", "", percent(Math.exp(logprob)))];
    const mayGoOn = state.tab === "completion" && tokens.length === 1 && !isOwn && !/^(bytes|token_id):/.test(name);
    if (mayGoOn) {
      const button = make("button");
      button.type = "button";
      button.append(...parts);
      button.addEventListener("click", () => goOn((prompt + turn.said).slice(0, before) + name));
      item.append(button);
    } else item.append(...parts);
    list.append(item);
  }
  return list;
}

async function goOn(text) {
  state.aborter?.abort();
  await state.running;
  $("prompt").value = text;
  focusPrompt();
  send(text);
}

function hideTip() {
  clearTimeout(state.hiding);
  $("tip").hidden = true;
  document.querySelector(".token.shown")?.classList.remove("shown");
}

/** Make it the one token of its answer that the tab key stops at. */
function makeStop(token) {
  for (const other of token.parentNode.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  token.tabIndex = 0;
}

/** Arrows go from token to token, Enter to the alternatives. */
function onTokenKey(event) {
  const token = event.target.closest(".token");
  if (!token) return;
  const steps = {
    ArrowRight: token.nextElementSibling,
    ArrowLeft: token.previousElementSibling,
    Home: token.parentNode.querySelector(".token"),
    End: token.parentNode.lastElementChild,
  };
  if (event.key in steps) {
    event.preventDefault();
    if (steps[event.key]?.classList.contains("token")) steps[event.key].focus();
  } else if (event.key === "Enter") {
    event.preventDefault();
    showTip(token);
    $("tip").querySelector("button")?.focus();
  }
}
