// What the reader wishes, kept in this browser; the key only until the tab is closed. Of the memory, nothing (which
// leaves it to the server) unless the reader chose it.

const usual = {
  temperature: "0.8", top_p: "0.95", top_k: "50", repetition_penalty: "1.1", max_tokens: "120", seed: "",
  psyche_id: "0", psyche_ego: "0", psyche_superego: "0",
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
export function heedServer({ memory, namespace }) {
  const { memory: mode, namespace: name } = document.getElementById("wishes").elements;
  const most = [...mode.options].findIndex((option) => option.value === memory);
  for (const [place, option] of [...mode.options].entries()) option.disabled = place > most;
  if (mode.selectedOptions[0].disabled) mode.value = settings.memory = "";
  name.placeholder = namespace ?? "";
}

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
