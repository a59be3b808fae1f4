// The chat page: one conversation, kept in memory, streamed from this node's own API.
//
// The conversation is the state; the page only ever appends to it. Text goes into the page as text, never as markup.
"use strict";

/** How often the node is asked what it sees, in milliseconds: often enough that a lost phone is noticed. */
const REFRESH_MS = 4000;
/** A reader this close to the end, in pixels, wants to stay there while the answer grows. */
const NEAR_END_PX = 96;
/** A little less wild than the API's default of 1: small models wander. */
const TEMPERATURE = 0.7;

const $ = (id) => document.getElementById(id);
const log = $("log");
const input = $("input");
const send = $("send");
const picker = $("model");

/** @type {{role: string, content: string}[]} what the next question continues */
const conversation = [];
/** @type {AbortController | null} the answer under way */
let running = null;

/** A failure that the reader should see as it is. */
class Told extends Error {}

/** Makes a sentence of a message: the API's begin small and end without a full stop. */
function sentence(message) {
  const text = String(message).trim();
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

function element(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

// ---- The node and its models ----

async function getJson(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

/** One line about the nodes: who there is, and who is missing. */
function describeNodes(nodes) {
  const lost = nodes.filter((node) => node.liveness === "dead");
  const present = nodes.filter((node) => node.liveness !== "dead");
  const names = present.map((node) => node.name).join(", ");
  const count = present.length === 1 ? "One device" : `${present.length} devices`;
  let line = `${count}: ${names}`;
  if (lost.length > 0) line += ` · not reachable: ${lost.map((node) => node.name).join(", ")}`;
  return line;
}

function showNodes(state, line) {
  $("nodes").dataset.state = state;
  // Only a change is written: a screen reader need not hear the same line again.
  if ($("nodes-text").textContent !== line) $("nodes-text").textContent = line;
}

/** A path is named by its file; the whole of it is the option's title. */
function shortName(model) {
  return model.includes("/") ? model.slice(model.lastIndexOf("/") + 1) : model;
}

function showModels(models) {
  const ids = models.map((model) => model.id);
  const shown = [...picker.options].map((option) => option.value);
  if (ids.join("\n") !== shown.join("\n")) {
    const chosen = picker.value;
    picker.replaceChildren(...ids.map((id) => {
      const option = element("option", "", shortName(id));
      option.value = id;
      option.title = id;
      return option;
    }));
    if (ids.includes(chosen)) picker.value = chosen;
  }
  picker.disabled = ids.length === 0;
  if (ids.length === 0) picker.replaceChildren(element("option", "", "No model"));
  updateControls();
}

async function refresh() {
  try {
    const [state, models] = await Promise.all([getJson("/state"), getJson("/v1/models")]);
    const ill = state.nodes.some((node) => node.liveness !== "alive");
    showNodes(ill ? "ill" : "well", describeNodes(state.nodes));
    showModels(models.data);
  } catch {
    showNodes("ill", "The node does not answer. Is it still running?");
  }
}

async function refreshForever() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

// ---- The conversation ----

function isNearEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_END_PX;
}

function scrollToEnd() {
  window.scrollTo({ top: document.documentElement.scrollHeight });
}

function updateControls() {
  const busy = running !== null;
  send.toggleAttribute("data-busy", busy);
  send.setAttribute("aria-label", busy ? "Stop" : "Send");
  send.disabled = !busy && (input.value.trim() === "" || picker.disabled);
  $("welcome").hidden = log.childElementCount > 0;
  $("new").hidden = log.childElementCount === 0;
  for (const button of document.querySelectorAll("#suggestions button")) button.disabled = picker.disabled;
}

/** Where `field-sizing` is unknown the box is made as high as its text. */
function fitInput() {
  if (CSS.supports("field-sizing", "content")) return;
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

function addMessage(role) {
  const item = element("li", role);
  const text = element("div", "text");
  item.append(element("span", "unseen", role === "user" ? "You: " : "Answer: "), text);
  log.append(item);
  return { item, text };
}

/** The server-sent events of a response, one by one: their names, if they have one, and their data. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      // A block without data is a comment that keeps the connection alive.
      if (lines.length === 0) continue;
      const name = block.split("\n").find((line) => line.startsWith("event:"))?.slice(6).trim();
      yield { name, data: lines.map((line) => line.slice(5).trimStart()).join("\n") };
    }
  }
}

/** Asks for the next answer; calls `onText` for each piece, `onWait` when it has to wait. Returns how it ended and its usage. */
async function answer(signal, onText, onWait) {
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: picker.value,
        messages: conversation,
        temperature: TEMPERATURE,
        stream: true,
        stream_options: { include_usage: true },
        shoal: { status: true },
      }),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Told("The node does not answer. Is it still running?");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Told(sentence(body?.error?.message ?? `the node answered with status ${response.status}`));
  }
  const outcome = { finish: null, usage: null };
  try {
    for await (const { name, data } of events(response)) {
      if (data === "[DONE]") return outcome;
      const chunk = JSON.parse(data);
      if (name === "shoal.status") {
        onWait(waitFor(chunk));
        continue;
      }
      if (chunk.error) throw new Told(sentence(chunk.error.message));
      outcome.usage = chunk.usage ?? outcome.usage;
      const choice = chunk.choices[0];
      if (choice?.delta.content) onText(choice.delta.content);
      outcome.finish = choice?.finish_reason ?? outcome.finish;
    }
  } catch (error) {
    if (signal.aborted || error instanceof Told) throw error;
    throw new Told("The connection to the node broke off, so the answer is not complete.");
  }
  throw new Told("The answer broke off before its end.");
}

/** What an answer waits for, as a sentence; nothing if it goes on. */
function waitFor(status) {
  if (status.state === "healing") return sentence(`Waiting: ${status.why}`);
  if (status.state !== "queued") return "";
  const n = status.position;
  return n === 0 ? "Waiting: next in line." : `Waiting: ${n} ${n === 1 ? "question is" : "questions are"} before this one.`;
}

/** What stands under an answer in small letters. */
function noteFor(outcome, seconds) {
  const n = outcome.usage?.completion_tokens ?? 0;
  const parts = [];
  if (outcome.finish === "length") parts.push("The context is full, so the answer ends here");
  if (n > 0) parts.push(n === 1 ? "1 token" : `${n} tokens`);
  const rate = (n - 1) / seconds;
  if (n > 1 && seconds > 0) parts.push(`${rate.toFixed(rate < 100 ? 1 : 0)} per second`);
  return parts.join(" · ");
}

/** Continues the conversation with an answer. */
async function continueConversation() {
  running = new AbortController();
  const { signal } = running;
  const { item, text } = addMessage("assistant");
  item.classList.add("pending");
  item.setAttribute("aria-busy", "true");
  $("status").textContent = "The answer is on its way.";
  updateControls();
  scrollToEnd();
  let content = "";
  let begun = 0;
  const onText = (piece) => {
    const stay = isNearEnd();
    begun ||= performance.now();
    content += piece;
    text.append(piece);
    if (stay) scrollToEnd();
  };
  const wait = element("p", "note", "");
  const onWait = (told) => {
    wait.textContent = told;
    if (told === "") wait.remove();
    else item.append(wait);
    $("status").textContent = told || "The answer goes on.";
  };
  let failure = null;
  try {
    const outcome = await answer(signal, onText, onWait);
    const note = noteFor(outcome, (performance.now() - begun) / 1000);
    if (note) item.append(element("p", "note", note));
    $("status").textContent = content;
  } catch (error) {
    if (signal.aborted) {
      item.append(element("p", "note", "Stopped"));
      $("status").textContent = "Stopped.";
    } else {
      failure = error instanceof Told ? error.message : sentence(error);
    }
  }
  const stay = isNearEnd();
  wait.remove();
  item.classList.remove("pending");
  item.removeAttribute("aria-busy");
  running = null;
  if (!item.isConnected) {
    // A new chat has begun meanwhile.
  } else if (failure !== null) {
    showFailure(item, failure);
  } else if (content !== "") {
    conversation.push({ role: "assistant", content });
  }
  updateControls();
  if (stay) scrollToEnd();
}

/** Says what went wrong, with a way to ask the same again. */
function showFailure(item, message) {
  const box = element("div", "failure");
  const retry = element("button", "", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => {
    if (running !== null) return;
    item.remove();
    input.focus();
    continueConversation();
  });
  box.append(element("span", "", message), retry);
  item.append(box);
  $("status").textContent = message;
}

function ask(question) {
  if (running !== null || picker.disabled || question.trim() === "") return;
  // A question without an answer, stopped or failed, makes room for the next: templates want the two in turn.
  if (conversation.at(-1)?.role === "user") conversation.pop();
  for (const button of log.querySelectorAll(".failure button")) button.remove();
  conversation.push({ role: "user", content: question.trim() });
  addMessage("user").text.textContent = question.trim();
  continueConversation();
}

// ---- Wiring ----

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running !== null) {
    running.abort();
    return;
  }
  const question = input.value;
  if (question.trim() === "" || picker.disabled) return;
  input.value = "";
  fitInput();
  ask(question);
});

input.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a character, which is not yet a message.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (running === null) $("composer").requestSubmit();
});

input.addEventListener("input", () => {
  fitInput();
  updateControls();
});

$("suggestions").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button !== null) ask(button.textContent);
});

$("new").addEventListener("click", () => {
  running?.abort();
  conversation.length = 0;
  log.replaceChildren();
  updateControls();
  input.focus();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});

if (matchMedia("(pointer: fine)").matches) input.focus();
refreshForever();
