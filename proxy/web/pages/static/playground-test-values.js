// Fields for test values of the names that only Braze knows.

import { byId, element } from "./dom.js";

const ITEMS = '[{"id": "12", "title": "Boots"}]';
const OBJECT = '{"city": "Lisbon"}';
const EXAMPLES = {
  catalog_items: ITEMS,
  catalog_selection_items: ITEMS,
  context: OBJECT,
  canvas_entry_properties: OBJECT,
  api_trigger_properties: OBJECT,
};

let values = {};
let shown = "";

// Returns the texts of the fields by name, for the session.
export const testTexts = () => values;

export function restoreTestValues(stored) {
  values = stored ?? {};
}

// Returns the test values by name. A text that is not JSON is the value itself.
export const testValues = () =>
  Object.fromEntries(Object.entries(values).map(([name, text]) => [name, valueOf(text)]));

function valueOf(text) {
  try {
    const value = JSON.parse(text);
    // A long number would lose digits.
    return Number.isInteger(value) && !Number.isSafeInteger(value) ? text : value;
  } catch {
    return text;
  }
}

function field(name, changed) {
  const label = element("label", "", element("code", "", name));
  const input = element("input");
  input.id = `value-${name}`;
  label.htmlFor = input.id;
  input.value = values[name] ?? "";
  const example = name.includes("$") ? undefined : EXAMPLES[name.split(".")[0]];
  if (example) input.placeholder = example;
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
