// What is remembered, and its erasure.

import { ask } from "./speech.js";
import { make } from "./tint.js";
import { namespace, settings } from "./settings.js";

const $ = (id) => document.getElementById(id);
const place = () => `/v1/memory/${namespace()}`;

export async function showMemory() {
  $("memory-name").textContent = namespace();
  if (!namespace()) {
    $("memory-state").textContent = "This server remembers only under a name: choose one in the settings.";
    $("documents").replaceChildren();
    $("forget-all").hidden = true;
    return;
  }
  const told = await attempt("GET", place());
  if (!told) return;
  const { documents, entries } = told;
  $("memory-state").textContent = documents.length ? `${entries} entries of ${documents.length} conversations.` : "Nothing is remembered.";
  $("documents").replaceChildren(...documents.map(drawDocument));
  $("forget-all").hidden = documents.length === 0;
}

async function attempt(method, path) {
  try {
    return await (await ask(path, { method, key: settings.key })).json();
  } catch (error) {
    $("memory-state").textContent = error.message;
    return null;
  }
}

function drawDocument({ document: number, text, entries, written }) {
  const words = make("p", { class: "text" });
  words.textContent = text;
  const erase = make("button", { type: "button", class: "danger erase", "aria-label": `Erase conversation ${number}` }, "Erase");
  erase.addEventListener("click", () => forget(`${place()}/${number}`));
  const when = new Date(written).toLocaleString();
  return make("li", {}, words, make("div", { class: "actions" }, erase, make("span", { class: "quiet" }, `${when}, ${entries} entries`)));
}

async function forget(path) {
  if (await attempt("DELETE", path)) {
    await showMemory();
    $("memory").querySelector(".erase, .close").focus();
  }
}

// Erasing everything takes a second click within a few seconds.
export function forgetButton() {
  const button = $("forget-all");
  let timer = null;
  const calm = () => { timer = null; button.textContent = "Erase all"; };
  button.addEventListener("click", () => {
    if (timer === null) {
      button.textContent = "Really erase all?";
      timer = setTimeout(calm, 4000);
      return;
    }
    clearTimeout(timer);
    calm();
    forget(place());
  });
}
