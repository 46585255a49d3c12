// Tokens as tinted text, their weights as words and as a table. Whatever a model says becomes text, never markup.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)}%`;
export const spoken = (name) => name.replaceAll("_", "-");
// A blank that would not show as a table's cell.
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "…";

// The expert of the largest weight, and how far it stands above an even share: 0 to 1.
export function carrier(weights) {
  const shares = Object.values(weights);
  const most = Math.max(...shares);
  const even = 1 / shares.length;
  return { slot: shares.indexOf(most) % 6, above: shares.length > 1 ? Math.max(0, (most - even) / (1 - even)) : 1 };
}

export function inWords(weights) {
  return Object.entries(weights).sort((a, b) => b[1] - a[1]).map(([name, share]) => `${spoken(name)} ${percent(share)}`).join(", ");
}

// What the model's parts tell of a whole answer.
export function told(figures) {
  return Object.entries(figures).map(([name, value]) => `${spoken(name).replaceAll("-", " ")} ${value.toFixed(2)}`).join(", ");
}

// Whether there is anything to tell apart: a chat model with a body of its own is one stream.
export const mixed = (weights) => Object.keys(weights).length > 1;

export function tokenSpan({ text, weights }) {
  if (!mixed(weights)) return make("span", {}, text);
  const { slot, above } = carrier(weights);
  const span = make("span", { class: `token e${slot}` });
  span.style.setProperty("--share", (0.1 + 0.45 * above).toFixed(3));
  span.textContent = text;
  span.weights = weights;
  return span;
}

export function legend(experts) {
  if (experts.length < 2) return [];
  return experts.map((name, slot) => make("span", { class: `sample e${slot % 6}` }, spoken(name)));
}

// How much each expert was trusted over a whole answer, as a bar of parts.
export function bar(tokens) {
  const names = Object.keys(tokens[0].weights);
  const means = names.map((name) => tokens.reduce((sum, token) => sum + token.weights[name], 0) / tokens.length);
  const words = inWords(Object.fromEntries(names.map((name, slot) => [name, means[slot]])));
  const whole = make("div", { class: "bar", role: "img", "aria-label": `Trusted on average: ${words}` });
  whole.title = words;
  means.forEach((mean, slot) => {
    const part = make("span", { class: `part e${slot % 6}` });
    part.style.setProperty("flex-grow", mean.toFixed(4));
    whole.append(part);
  });
  return whole;
}

// The same as a table, made when it is opened: an answer may be long.
export function details(tokens) {
  const names = Object.keys(tokens[0].weights);
  const box = make("details", {}, make("summary", {}, "Weights of each word"));
  box.addEventListener("toggle", () => {
    if (!box.open || box.querySelector("table")) return;
    const head = make("tr", {}, ...["token", ...names.map(spoken)].map((name) => make("th", { scope: "col" }, name)));
    const rows = tokens.map(({ text, weights }) => {
      const { slot } = carrier(weights);
      const cells = names.map((name, n) => make("td", n === slot ? { class: `most e${slot}` } : {}, percent(weights[name])));
      return make("tr", {}, make("th", { scope: "row" }, visible(text)), ...cells);
    });
    const caption = make("caption", { class: "unseen" }, "How much each expert was trusted with each token");
    const table = make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
    box.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Weights of each word" }, table));
  });
  return box;
}
