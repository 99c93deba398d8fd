// Shows the values of each saved variable as a tree. A click inserts the value's Liquid into the message.

import { byId, button, element } from "./dom.js";

const MOST = 50;
const MOST_ENTRIES = 5;
const LONGEST = 80;
const ENVELOPE = ["ok", "found", "error", "stale", "as_of", "user_id", "device_id"];
const known = new Map();
const open = new Set();
let shown = "";

// Returns the Liquid of an entry of a value, or null if Liquid cannot write its name.
function path(parent, key) {
  if (typeof key === "number") return `${parent}[${key}]`;
  if (/^[A-Za-z_][\w-]*$/.test(key)) return `${parent}.${key}`;
  if (/[[\]]|["'].*["']/.test(key)) return null;
  return key.includes("'") ? `${parent}["${key}"]` : `${parent}['${key}']`;
}

const isNested = (value) => value !== null && typeof value === "object";

function preview(value) {
  if (value === null) return "no value";
  const words = Array.isArray(value) ? value.join(", ") || "empty list" : String(value) || "empty text";
  return words.length > LONGEST ? `${words.slice(0, LONGEST)} …` : words;
}

function leaf(liquid, value, editor) {
  const row = button("value", "", () => editor.insert(liquid));
  row.append(element("code", "", liquid), element("span", "soft", ` → ${preview(value)}`));
  return row;
}

function branch(name, entries, editor) {
  const node = element("details", "branch", element("summary", "", element("code", "", name)));
  const fill = () => {
    if (node.childElementCount > 1) return;
    const rows = entries.map(([key, value]) => [path(name, key), value]).filter(([liquid]) => liquid !== null);
    node.append(...rows.slice(0, MOST).map(([liquid, value]) => tree(liquid, value, editor)));
    if (rows.length > MOST) node.append(element("p", "soft", `and ${rows.length - MOST} more in the answer below`));
  };
  node.addEventListener("toggle", () => {
    if (node.open) open.add(name);
    else open.delete(name);
    fill();
  });
  if (open.has(name)) {
    node.open = true;
    fill();
  }
  return node;
}

function tree(name, value, editor) {
  if (Array.isArray(value) && value.some(isNested)) {
    return branch(name, value.slice(0, MOST_ENTRIES).map((entry, index) => [index, entry]), editor);
  }
  if (Array.isArray(value)) return leaf(`{{ ${name} | join: ', ' }}`, value, editor);
  if (!isNested(value)) return leaf(`{{ ${name} }}`, value, editor);
  const rank = ([key]) => ENVELOPE.includes(key);
  const entries = Object.entries(value);
  return branch(name, [...entries.filter((entry) => !rank(entry)), ...entries.filter(rank)], editor);
}

export function showValues(tags, editor) {
  const variables = new Map();
  for (const { saved_as: name, status, json } of tags) {
    if (!name) continue;
    if (!known.has(name)) open.add(name);
    if (status >= 200 && status < 300) known.set(name, json);
    if (isNested(known.get(name))) variables.set(name, known.get(name));
  }
  // An unchanged tree stays, so that it keeps the focus while the user types.
  const all = JSON.stringify([...variables]);
  if (all === shown) return;
  shown = all;
  byId("values").hidden = variables.size === 0;
  byId("tree").replaceChildren(...[...variables].map(([name, value]) => tree(name, value, editor)));
}
