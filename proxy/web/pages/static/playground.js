// Sends the message to this service and shows the answer. All texts go into the page as text, never as HTML.

const byId = (id) => document.getElementById(id);
const form = byId("form");
const editor = byId("template");
const result = byId("result");
const makesCalls = form.dataset.profileApi === "on";
let latestRendering = 0;

const OUTCOMES = {
  sent: ["sent", "good"],
  aborted: ["aborted", "warn"],
  retried: ["retried later", "warn"],
  refused: ["refused", "bad"],
  failed: ["not rendered", "bad"],
};
const ERRORS = {
  quota_exhausted: "quota used up",
  upstream_timeout: "Amplitude did not answer in time",
  upstream_unavailable: "Amplitude is down or cannot be reached",
  upstream_rejected: "Amplitude rejects the credentials",
  upstream_invalid: "invalid answer from Amplitude",
  not_available: "nothing was pushed or exported about this user",
};
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function warnOfExposure() {
  const exposes = /\/v1\/recommendations\b|\brec_id=|\bget_recs=true\b/.test(editor.value);
  byId("will-expose").hidden = !exposes || !makesCalls;
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
  button.setAttribute("aria-label", `show line ${line} in the message`);
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

// Returns Cache-Status and Age in words, such as "from the cache, 2 minutes old".
function source(tag) {
  const [kind, parameter = ""] = tag.cache_status.split("; ");
  const word = parameter.startsWith("detail=") ? parameter.slice("detail=".length) : null;
  const error = ERRORS[word] ?? word;
  const [unit, seconds] = UNITS.find(([, length]) => tag.age >= length) ?? UNITS.at(-1);
  const age = tag.age === null ? "" : `, ${plural(Math.floor(tag.age / seconds), unit)} old`;
  const cached = `from the cache${age}`;
  if (kind === "hit" && parameter.includes("=-")) return `${cached}, ${makesCalls ? "being refreshed" : "no longer fresh"}`;
  if (kind === "hit") return cached;
  if (kind === "fwd=stale" && error) return `${cached}: ${error}`;
  if (kind === "fwd=partial") return `partly from the cache, the rest ${error ? `is missing: ${error}` : "was fetched"}`;
  if (error) return `no data: ${error}`;
  if (parameter === "collapsed") return "from a call that was already in progress";
  if (kind === "fwd=stale") return "fetched again: the cached copy was too old";
  return kind === "fwd=request" ? "fetched again, as the tag requests" : "fetched from Amplitude";
}

function call(tag) {
  const card = element("article", "call");
  const title = element("h3", "", element("code", "", `${tag.method} ${tag.called ?? ""}`));
  if (tag.saved_as) title.append(" → ", element("code", "", tag.saved_as));
  title.append(lineButton(tag.line));
  card.append(title, element("p", "url", tag.url));
  if (tag.status === null) {
    card.append(element("p", "notice warn", "Not called: the URL is not a data route of this service."));
    return card;
  }
  const facts = element("p", "row");
  facts.append(element("span", tag.status === 200 ? "badge good" : "badge bad", `status ${tag.status}`));
  facts.append(element("span", tag.calls ? "badge warn" : "badge good", `${plural(tag.calls, "call")} to Amplitude`));
  if (tag.cache_status) {
    const badge = element("span", "badge", source(tag));
    badge.title = `Cache-Status: ${tag.cache_status}`;
    facts.append(badge);
  }
  facts.append(element("span", "badge", `${tag.ms} ms`));
  card.append(facts);
  if (tag.exposure) {
    card.append(element("p", tag.calls ? "notice warn exposure" : "notice exposure", `Exposure: ${tag.exposure}.`));
  }
  const body = typeof tag.json === "string" ? tag.json : JSON.stringify(tag.json, null, 2);
  const json = element("pre", "wrap", body);
  json.tabIndex = 0;
  const details = element("details", "", element("summary", "", "Answer"), json);
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
  // The card of a tag shows the tag's exposure, so a finding about the same exposure is left out.
  const exposed = new Set(rendering.tags.filter((tag) => tag.exposure).map((tag) => tag.line));
  showFindings(rendering.findings.filter((finding) => finding.rule !== "exposure" || !exposed.has(finding.line)));
  byId("tags").replaceChildren(...rendering.tags.map(call));
}

function failed(reason) {
  show({ outcome: "failed", reason, message: "", findings: [], tags: [] });
}

async function render() {
  const rendering = ++latestRendering;
  result.setAttribute("aria-busy", "true");
  byId("outcome").textContent = "rendering …";
  try {
    // An absolute URL: on a page opened as https://name:secret@host, a relative URL would contain the credentials.
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
    if (rendering !== latestRendering) return;
    if (answer.ok) show(body);
    else failed(body.detail ?? `the service answered ${answer.status}`);
  } catch {
    if (rendering === latestRendering) failed("the service cannot be reached; check that the service is running, and check your connection");
  } finally {
    if (rendering === latestRendering) {
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

// A button loads the example. Loading on change would replace the message at each step through the list by keyboard.
byId("load").addEventListener("click", () => {
  const text = byId(byId("snippet").value).textContent;
  editor.focus();
  editor.select();
  // insertText lets undo restore the previous message. A browser without insertText replaces the text.
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
  byId("copied").textContent = copied ? "copied" : "copy failed; select the text and copy it";
});

editor.addEventListener("input", () => {
  byId("copied").textContent = "";
  warnOfExposure();
});

warnOfExposure();
