// Sends the message to this service and shows what comes back. Everything is put into the page as text, never as HTML.

const byId = (id) => document.getElementById(id);
const form = byId("form");
const editor = byId("template");
const result = byId("result");
let latest = 0;

const OUTCOMES = {
  sent: ["sent", "good"],
  aborted: ["aborted", "warn"],
  retried: ["tried again later", "warn"],
  refused: ["refused", "bad"],
  failed: ["not rendered", "bad"],
};

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function warnOfExposure() {
  const asks = /\/v1\/recommendations\b|\brec_id=|\bget_recs=true\b/.test(editor.value);
  byId("will-expose").hidden = !asks;
}

function goToLine(line) {
  const lines = editor.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  editor.focus();
  editor.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  const height = parseFloat(getComputedStyle(editor).lineHeight);
  editor.scrollTop = Math.max(0, (line - 3) * height);
}

function lineButton(line) {
  const button = element("button", "line", `line ${line}`);
  button.type = "button";
  button.setAttribute("aria-label", `line ${line}: show it in the message`);
  button.addEventListener("click", () => goToLine(line));
  return button;
}

function showFindings(findings) {
  const list = element("ul", "findings");
  for (const finding of findings) {
    const item = element("li", finding.level === "note" ? "notice" : "notice warn");
    item.dataset.rule = finding.rule;
    item.append(
      lineButton(finding.line),
      element("p", "", finding.problem),
      element("p", "fix", `→ ${finding.fix}`),
    );
    list.append(item);
  }
  byId("findings").replaceChildren(...(findings.length ? [list] : []));
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function call(tag) {
  const card = element("article", "call");
  const title = element("h3", "", element("code", "", `${tag.method} ${tag.called ?? ""}`));
  if (tag.saved_as) title.append(" → ", element("code", "", tag.saved_as));
  title.append(lineButton(tag.line));
  card.append(title, element("p", "url", tag.url));
  if (tag.status === null) {
    card.append(element("p", "notice warn", "Not called: this is no data route of this service."));
    return card;
  }
  const facts = element("p", "row");
  facts.append(element("span", tag.status === 200 ? "badge good" : "badge bad", `status ${tag.status}`));
  facts.append(element("span", tag.calls ? "badge warn" : "badge good", `${plural(tag.calls, "call")} to Amplitude`));
  if (tag.cache_status) facts.append(element("span", "badge", `cache ${tag.cache_status}`));
  if (tag.age !== null) facts.append(element("span", "badge", `age ${tag.age} s`));
  facts.append(element("span", "badge", `${tag.ms} ms`));
  card.append(facts);
  if (tag.exposure) {
    card.append(element("p", tag.calls ? "notice warn exposure" : "notice exposure", `Exposure: ${tag.exposure}.`));
  }
  const body = typeof tag.json === "string" ? tag.json : JSON.stringify(tag.json, null, 2);
  const shown = element("pre", "wrap", body);
  shown.tabIndex = 0;
  const details = element("details", "", element("summary", "", "The answer"), shown);
  details.open = true;
  card.append(details);
  return card;
}

function show(rendering) {
  const [word, colour] = OUTCOMES[rendering.outcome];
  byId("outcome").textContent = word;
  byId("outcome").className = `badge ${colour}`;
  byId("reason").textContent = rendering.outcome === "aborted" ? `aborted: ${rendering.reason}` : rendering.reason;
  byId("reason").className = `notice ${colour}`;
  byId("reason").hidden = !rendering.reason;
  byId("message").textContent = rendering.message;
  byId("message").hidden = rendering.outcome !== "sent" && !rendering.message;
  // The tag's own card reports its exposure.
  const exposed = new Set(rendering.tags.filter((tag) => tag.exposure).map((tag) => tag.line));
  showFindings(rendering.findings.filter((finding) => finding.rule !== "exposure" || !exposed.has(finding.line)));
  byId("tags").replaceChildren(...rendering.tags.map(call));
}

function failed(reason) {
  show({ outcome: "failed", reason, message: "", findings: [], tags: [] });
}

async function render() {
  const turn = ++latest;
  result.setAttribute("aria-busy", "true");
  byId("outcome").textContent = "rendering …";
  try {
    // Whole, for a page opened as https://name:secret@host has those in front of every path that is relative.
    const answer = await fetch(`${location.origin}/playground/render`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        template: editor.value,
        user_id: byId("user").value,
        device_id: byId("device").value,
      }),
    });
    const body = await answer.json();
    if (turn !== latest) return;
    if (answer.ok) show(body);
    else failed(body.detail ?? `the service answered ${answer.status}`);
  } catch {
    if (turn === latest) failed("the service cannot be reached: is it running, and are you connected?");
  } finally {
    if (turn === latest) {
      result.setAttribute("aria-busy", "false");
      if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
    }
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  render();
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
});

// By a button and not on change: who goes through the list by keyboard would lose the message at each step.
byId("load").addEventListener("click", () => {
  const text = byId(byId("snippet").value).textContent;
  editor.focus();
  editor.select();
  // So that undo brings back what was there; where a browser no longer can, the text is simply replaced.
  if (!document.execCommand("insertText", false, text)) editor.value = text;
  editor.setSelectionRange(0, 0);
  editor.scrollTop = 0;
  warnOfExposure();
});

byId("copy").addEventListener("click", async () => {
  let copied = true;
  try {
    await navigator.clipboard.writeText(editor.value);
  } catch {
    editor.select();
    copied = document.execCommand("copy");
  }
  byId("copied").textContent = copied ? "copied" : "select the text and copy it yourself";
});

editor.addEventListener("input", () => {
  byId("copied").textContent = "";
  warnOfExposure();
});

warnOfExposure();
