// Shows each Connected Content tag: in a closed disclosure its URL, the source and cost of its data, and its answer.

import { byId, element, plural } from "./dom.js";
import { lineButton } from "./playground-findings.js";

const ERRORS = {
  quota_exhausted: "quota used up",
  upstream_timeout: "Amplitude did not answer in time",
  upstream_unavailable: "Amplitude is down or cannot be reached",
  upstream_rejected: "Amplitude rejects the credentials",
  upstream_invalid: "invalid answer from Amplitude",
  not_available: "nothing was pushed or exported about this user",
};
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

// Returns Cache-Status and Age in words, such as "from the cache, 2 minutes old".
function source(tag, makesCalls) {
  if (!tag.cache_status) return "no data was requested";
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

function facts(tag, { fetched, makesCalls }) {
  if (tag.needs_render) return ["Not called yet. Press Render to call this service."];
  if (tag.status === null) return ["Not called: the URL is not a data route of this service."];
  if (!fetched) return ["Answer from the last rendering, no call."];
  const calls = tag.calls ? `${plural(tag.calls, "call")} to Amplitude` : "no call";
  const words = source(tag, makesCalls);
  const sentence = `${words[0].toUpperCase()}${words.slice(1)}, ${calls}, ${tag.ms} ms.`;
  return tag.exposure ? [sentence, `${tag.exposure}.`] : [sentence];
}

function call(tag, editor, context) {
  const summary = element("summary", "", element("code", "", tag.saved_as ?? tag.called ?? "tag"));
  if (tag.saved_as && tag.called) summary.append(" from ", element("code", "", tag.called));
  if (tag.needs_render) summary.append(" ", element("span", "badge warn", "press Render"));
  else if (tag.status === null) summary.append(" ", element("span", "badge warn", "not called"));
  else if (tag.status !== 200) summary.append(" ", element("span", "badge bad", `status ${tag.status}`));
  const card = element("details", "call", summary, ...facts(tag, context).map((fact) => element("p", "", fact)));
  card.append(
    element("p", "url", `${tag.method} ${tag.url} `, lineButton(tag.line, () => editor.goToLine(tag.line))),
  );
  if (tag.status !== null) {
    const body = typeof tag.json === "string" ? tag.json : JSON.stringify(tag.json, null, 2);
    const json = element("pre", "wrap", body);
    json.tabIndex = 0;
    card.append(json);
  }
  return card;
}

// `fetched`: whether the rendering could make calls. `makesCalls`: whether the service uses the User Profile API.
export function showTags(tags, editor, context) {
  const list = byId("tags");
  const open = [...list.querySelectorAll("details")].map((card) => card.open);
  const cards = tags.map((tag) => call(tag, editor, context));
  cards.forEach((card, index) => (card.open = open[index] ?? false));
  list.replaceChildren(...cards);
}
