// What the reader wishes, kept in this browser; the key only until the tab is closed. Of the memory, nothing (which
// leaves it to the server) unless the reader chose it.

import { make, spoken } from "./tint.js";

const usual = {
  temperature: "0.8", top_p: "0.95", top_k: "50", repetition_penalty: "1.1", max_tokens: "120", seed: "",
  mode: "chat", system: "", memory: "", namespace: "", theme: "auto", tint: "on", key: "",
};
const NAME = "nano_think";

function kept() {
  try {
    return { ...JSON.parse(localStorage.getItem(NAME) ?? "{}"), key: sessionStorage.getItem(NAME) ?? "" };
  } catch {
    return {};
  }
}

export const settings = { ...usual, ...kept() };

function keep() {
  const { key, ...rest } = settings;
  try {
    localStorage.setItem(NAME, JSON.stringify(rest));
    sessionStorage.setItem(NAME, key);
  } catch {
    // A browser that keeps nothing still talks.
  }
}

function show() {
  document.documentElement.dataset.theme = settings.theme;
  document.documentElement.dataset.tint = settings.tint;
}

// What the server does with a memory where nobody says, and the most that it allows.
export function heedServer({ memory, namespace, psyche = [] }) {
  document.getElementById("psyche").hidden = psyche.length === 0;
  document.getElementById("dials").replaceChildren(...psyche.map(dial));
  const { memory: mode, namespace: name } = document.getElementById("wishes").elements;
  const most = [...mode.options].findIndex((option) => option.value === memory);
  for (const [place, option] of [...mode.options].entries()) option.disabled = place > most;
  if (mode.selectedOptions[0].disabled) mode.value = settings.memory = "";
  name.placeholder = namespace ?? "";
}

const signed = (number) => (number > 0 ? `+${number}` : `${number}`).replace("-", "−");

// How far a mode is turned up, and its slider.
function dial(name) {
  const key = `psyche_${name}`;
  const slider = make("input", { name: key, type: "range", min: -8, max: 8, step: 0.5, value: settings[key] ?? 0 });
  const told = make("output", {}, signed(Number(slider.value)));
  slider.addEventListener("input", () => { told.textContent = signed(Number(slider.value)); });
  return make("label", { class: "dial" }, make("span", {}, spoken(name)), told, slider);
}

// What is asked of each mode; nothing where there are none.
export const steering = (psyche = []) => Object.fromEntries(psyche.map((name) => [name, Number(settings[`psyche_${name}`] ?? 0)]));

export const namespace = () => settings.namespace || document.getElementById("wishes").elements.namespace.placeholder;

// `changed` is called when another key was given.
export function watchSettings(changed) {
  const form = document.getElementById("wishes");
  for (const field of form.elements) if (field.name) field.value = settings[field.name];
  form.addEventListener("change", ({ target }) => {
    if (!target.checkValidity()) {
      target.reportValidity();
      return;
    }
    settings[target.name] = target.value;
    keep();
    show();
    if (target.name === "key") changed();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
