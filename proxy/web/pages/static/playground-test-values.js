// Fields for test values of the names that only Braze knows.

import { byId, element } from "./dom.js";

let values = {};
let shown = "";

export const testValues = () => values;

export function restoreTestValues(stored) {
  values = stored ?? {};
}

function field(name, changed) {
  const label = element("label", "", element("code", "", name));
  const input = element("input");
  input.id = `value-${name}`;
  label.htmlFor = input.id;
  input.value = values[name] ?? "";
  input.autocomplete = "off";
  input.addEventListener("input", () => {
    if (input.value) values[name] = input.value;
    else delete values[name];
    changed();
  });
  return element("div", "field", label, input);
}

// `unknown`: the names in the message, with their lines.
export function showTestValues(unknown, changed) {
  const names = [...new Set(unknown.map(({ name }) => name))];
  const all = JSON.stringify(names);
  if (all === shown) return;
  shown = all;
  byId("test-values").hidden = names.length === 0;
  byId("test-values-fields").replaceChildren(...names.map((name) => field(name, changed)));
}
