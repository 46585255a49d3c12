// The page: what was said, what may be done with it, and the two dialogs.

import { ask, listen, Refused } from "./speech.js";
import { bar, details, inWords, legend, make, mixed, told, tokenSpan } from "./tint.js";
import { forgetButton, showMemory } from "./memory.js";
import { heedServer, settings, steering, watchSettings } from "./settings.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
const words = $("words");

let model = null;
let turns = []; // {role, content, tokens, figures, stopped, done}
let speaking = null; // the AbortController of the answer under way

const say = (text) => { $("status").textContent = text; };
const complain = (error) => { $("alert").textContent = error instanceof Refused ? error.message : error ? `${error}` : ""; };

async function start() {
  watchSettings(connect);
  await connect();
  words.focus();
}

async function connect() {
  try {
    const { data } = await (await ask("/v1/models", { key: settings.key })).json();
    model = data[0];
    heedServer(model);
    complain(null);
    $("model").textContent = `${model.context_window} tokens of context`;
    $("legend").replaceChildren(...legend(model.experts));
  } catch (error) {
    complain(error.status === 401 ? new Refused(401, { message: "This server wants an API key: give it in the settings." }) : error);
  }
}

// What was said.

function draw() {
  $("welcome").hidden = turns.length > 0;
  log.replaceChildren(...turns.map((turn, place) => (turn.role === "user" ? drawUser(turn, place) : drawAnswer(turn, place))));
}

function action(name, label, run) {
  const button = make("button", { type: "button", class: `action ${name}`, "aria-label": label }, name[0].toUpperCase() + name.slice(1));
  button.addEventListener("click", run);
  return button;
}

function drawUser(turn, place) {
  const text = make("p", { class: "text" });
  text.textContent = turn.content;
  const edit = action("edit", "Edit this message and ask again", () => editAt(place));
  return make("li", { class: "user" }, make("h3", { class: "unseen" }, "You"), edit, text);
}

function drawAnswer(turn, place) {
  const text = make("p", { class: "text" }, ...turn.tokens.map(tokenSpan));
  const item = make("li", { class: "answer" }, make("h3", { class: "unseen" }, "Answer"), text);
  if (turn.done) item.append(...below(turn, place));
  return item;
}

function below(turn, place) {
  const actions = make("div", { class: "actions" });
  if (place === turns.length - 1) actions.append(action("regenerate", "Answer again", regenerate));
  if (turn.stopped) actions.append(make("span", { class: "quiet" }, turn.stopped));
  const shown = actions.children.length ? [actions] : [];
  const figures = turn.figures ? [make("p", { class: "figures quiet" }, told(turn.figures))] : [];
  if (!turn.tokens.length || !mixed(turn.tokens[0].weights)) return [...figures, ...shown];
  const readout = make("p", { class: "readout quiet", "aria-hidden": "true" });
  return [make("div", { class: "sum" }, bar(turn.tokens), ...figures, readout), details(turn.tokens), ...shown];
}

log.addEventListener("pointerover", (event) => {
  const readout = event.target.closest(".answer")?.querySelector(".readout");
  if (readout && event.target.weights) readout.textContent = `“${event.target.textContent.trim() || "␣"}”  ${inWords(event.target.weights)}`;
});

// Asking.

function request() {
  const named = { model: model.id, stream: true };
  for (const name of ["memory", "namespace"]) if (settings[name]) named[name] = settings[name];
  for (const name of ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"]) {
    if (settings[name] !== "") named[name] = Number(settings[name]);
  }
  if (model.psyche?.length) named.psyche = steering(model.psyche);
  return named;
}

function messages() {
  const said = turns.slice(0, -1).filter((turn) => turn.content).map(({ role, content }) => ({ role, content }));
  return settings.system ? [{ role: "system", content: settings.system }, ...said] : said;
}

// Where the context is too small for all, the server leaves the oldest out.
function pieces(signal) {
  const options = { key: settings.key, signal };
  const named = { ...request(), truncation: "auto" };
  if (settings.mode === "chat") return listen("/v1/chat/completions", { ...options, body: { ...named, messages: messages() } });
  const said = turns.slice(0, -1).map((turn) => turn.content);
  const prompt = said.pop();
  return listen("/v1/completions", { ...options, body: { ...named, before: said.join(""), prompt } });
}

async function answer() {
  const turn = { role: "assistant", content: "", tokens: [], stopped: "", done: false };
  turns.push(turn);
  speaking = new AbortController();
  showSpeaking(true);
  draw();
  try {
    for await (const piece of pieces(speaking.signal)) {
      take(turn, piece.choices[0]);
      if (piece.warning) complain(new Refused(200, { message: piece.warning }));
    }
    say("Answer finished.");
  } catch (error) {
    turn.stopped = error.name === "AbortError" ? "stopped" : "broken off";
    if (error.name !== "AbortError") complain(error);
    say(`Answer ${turn.stopped}.`);
  }
  turn.done = true;
  speaking = null;
  showSpeaking(false);
  draw();
}

function take(turn, choice) {
  if (!choice) return;
  const text = choice.delta?.content ?? choice.text ?? "";
  turn.content += text;
  turn.figures = choice.means?.figures;
  for (const token of choice.routing) {
    turn.tokens.push(token);
    log.lastElementChild.querySelector(".text").append(tokenSpan(token));
  }
  follow();
}

function follow() {
  const page = document.scrollingElement;
  if (page.scrollHeight - page.scrollTop - page.clientHeight < 160) page.scrollTop = page.scrollHeight;
}

function showSpeaking(now) {
  $("send").hidden = now;
  $("stop").hidden = !now;
  log.setAttribute("aria-busy", now);
  if (!now) return;
  complain(null);
  say("Answering.");
}

async function send(text) {
  if (speaking || !model || !text.trim()) return;
  turns.push({ role: "user", content: text });
  words.value = "";
  grow();
  await answer();
}

async function regenerate() {
  if (speaking) return;
  turns.pop();
  await answer();
  log.querySelector(".regenerate")?.focus();
}

function editAt(place) {
  if (speaking) return;
  words.value = turns[place].content;
  turns = turns.slice(0, place);
  draw();
  grow();
  words.focus();
}

const stop = () => speaking?.abort();

// What keys and buttons do.

function grow() {
  words.style.setProperty("height", "auto");
  words.style.setProperty("height", `${Math.min(words.scrollHeight, 220)}px`);
}

words.addEventListener("input", grow);
words.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(words.value);
});
$("say").addEventListener("submit", (event) => { event.preventDefault(); send(words.value); });
$("stop").addEventListener("click", () => { stop(); words.focus(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop(); });
$("new").addEventListener("click", () => { stop(); turns = []; draw(); say(""); complain(null); words.focus(); });
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("open-memory").addEventListener("click", () => { $("memory").showModal(); showMemory(); });
forgetButton();
start();
