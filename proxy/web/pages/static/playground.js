// The playground: renders when Render is pressed, and while the user types without a call.

import { byId, button, element, plural } from "./dom.js";
import { createEditor } from "./editor.js";
import { showFindings } from "./playground-findings.js";
import { showMessage } from "./playground-html.js";
import { rendering } from "./playground-render.js";
import { linkedMessage, linkTo, removeFragment, restored, store } from "./playground-session.js";
import { showTags } from "./playground-tags.js";
import { restoreTestValues, showTestValues, testTexts, testValues } from "./playground-test-values.js";
import { showValues } from "./playground-values.js";

const TYPING_MS = 400;
const MOST_USERS = 6;
const OUTCOMES = {
  sent: ["sent, needs attention", "warn"],
  aborted: ["aborted", "warn"],
  retried: ["retried later", "warn"],
  refused: ["refused", "bad"],
  failed: ["not rendered", "bad"],
};
const form = byId("form");
const result = byId("result");
const user = byId("user");
const device = byId("device");
const demoUsers = JSON.parse(form.dataset.demoUsers);
const isDemo = demoUsers.length > 0;
const makesCalls = form.dataset.profileApi === "on";
const session = restored();
let users = isDemo ? demoUsers : (session.users ?? []);

user.value = session.user ?? demoUsers[0] ?? "";
device.value = session.device ?? "";
device.closest("details").open = device.value !== "";
restoreTestValues(session.values);

const editor = createEditor(byId("editor"), {
  text: (await linkedMessage()) ?? session.message ?? byId("snippet-1")?.textContent ?? "",
  label: "Message",
  changed: edited,
  submitted: () => form.requestSubmit(),
});

function save() {
  const state = { message: editor.text(), user: user.value, device: device.value, values: testTexts() };
  store(isDemo ? state : { ...state, users });
}

function showChips() {
  const shown = [...byId("chips").querySelectorAll("button")];
  if (shown.map((chip) => chip.textContent).join("\n") === users.join("\n")) {
    // The pressed chip keeps the focus.
    for (const chip of shown) chip.setAttribute("aria-pressed", String(chip.textContent === user.value));
    return;
  }
  const chips = users.map((id) => {
    const chip = button("chip", id, () => {
      user.value = id;
      request(true);
    });
    chip.setAttribute("aria-pressed", String(id === user.value));
    return element("li", "", chip);
  });
  byId("chips").replaceChildren(...chips);
}

function warnOfExposure() {
  const exposes = /\/v1\/recommendations\b|\brec_id=|\bget_recs=true\b/.test(editor.text());
  byId("will-expose").hidden = !exposes || !makesCalls || isDemo;
}

function showOutcome(rendered) {
  const waits = rendered.tags.some((tag) => tag.needs_render);
  let [word, colour] = OUTCOMES[rendered.outcome];
  const problems = rendered.findings.filter(({ level }) => level === "problem").length;
  if (rendered.good) [word, colour] = problems ? [`sent, ${plural(problems, "problem")}`, "warn"] : ["sent", "good"];
  if (waits) [word, colour] = ["press Render", "warn"];
  byId("outcome").textContent = word;
  byId("outcome").className = `badge ${colour}`;
  const reason = waits ? "" : rendered.reason;
  byId("reason").textContent = rendered.outcome === "aborted" ? `aborted: ${reason}` : reason;
  byId("reason").className = `notice ${colour}`;
  byId("reason").hidden = !reason;
  result.classList.toggle("incomplete", waits);
}

function show(rendered, fetched) {
  showOutcome(rendered);
  showMessage(rendered.message);
  // The warning below the message and the card of the tag report exposures. In the demo there are none.
  showFindings(rendered.findings.filter(({ rule }) => rule !== "exposure"), editor);
  showTags(rendered.tags, editor, { fetched, makesCalls });
  showValues(rendered.tags, editor);
  showTestValues(rendered.unknown_values ?? [], edited);
}

// Only one rendering runs at a time. A later request waits, and replaces another that waits.
let running = false;
let waiting = null;
let typing = 0;

async function request(isPressed) {
  clearTimeout(typing);
  if (running) {
    waiting = { isPressed: isPressed || waiting?.isPressed };
    return;
  }
  running = true;
  if (isPressed) {
    remember();
    result.setAttribute("aria-busy", "true");
    byId("outcome").textContent = "rendering …";
  }
  save();
  showChips();
  const message = { template: editor.text(), user_id: user.value, device_id: device.value, values: testValues() };
  const fetched = isPressed || isDemo;
  const rendered = await rendering(message, {
    fetch: fetched,
    busy: form.dataset.busy,
    maxBytes: Number(form.dataset.maxBytes),
  });
  running = false;
  if (!waiting?.isPressed) show(rendered, fetched);
  if (waiting) {
    const next = waiting;
    waiting = null;
    await request(next.isPressed);
  } else {
    result.setAttribute("aria-busy", "false");
    if (isPressed && result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
  }
}

function remember() {
  const id = user.value.trim();
  if (isDemo || !id || users.includes(id)) return;
  users = [id, ...users].slice(0, MOST_USERS);
}

function edited() {
  byId("copied").textContent = "";
  removeFragment();
  warnOfExposure();
  save();
  clearTimeout(typing);
  typing = setTimeout(request, TYPING_MS, false);
}

async function copy(text, failure) {
  try {
    await navigator.clipboard.writeText(text);
    return "copied";
  } catch {
    return failure();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  request(true);
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.defaultPrevented) {
    event.preventDefault();
    form.requestSubmit();
  }
});
for (const field of [user, device]) field.addEventListener("input", edited);

// A button loads the example. Loading on change would replace the message at each step through the list by keyboard.
byId("load").addEventListener("click", () => editor.load(byId(byId("snippet").value).textContent));

byId("copy").addEventListener("click", async () => {
  byId("copied").textContent = await copy(editor.text(), () => {
    editor.select();
    return document.execCommand("copy") ? "copied" : "copy failed; select the text and copy it";
  });
});

byId("share").addEventListener("click", async () => {
  const link = await linkTo(editor.text());
  byId("copied").textContent = await copy(link, () => {
    history.replaceState(null, "", new URL(link).hash);
    return "the link is in the address bar; copy it";
  });
});

addEventListener("hashchange", async () => {
  const message = await linkedMessage();
  if (message !== null) editor.load(message);
});

removeFragment();
warnOfExposure();
request(false);
