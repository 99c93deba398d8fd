// Fetches the status every ten seconds and draws the data of the last hour. All texts go into the page as text, never as HTML.

const byId = (id) => document.getElementById(id);
const EVERY_MS = 10_000;
const BARS = 60;
const SHORTEST_SECONDS = 300;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 130;
const LEFT = 34;
const TOP = 8;
const BOTTOM = 18;
const SERIES = ["a", "b", "c", "d"];
const ERROR_SERIES = ["d", "b", "c", "e", "a"];
const ERRORS = {
  quota_exhausted: "quota used up",
  upstream_timeout: "Amplitude too slow",
  upstream_unavailable: "Amplitude down",
  upstream_rejected: "credentials rejected",
  upstream_invalid: "invalid answer",
  not_available: "nothing pushed or exported",
};

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const maximum = (numbers) => Math.max(0, ...numbers.filter((number) => number !== null));
const latest = (numbers) => numbers.findLast((number) => number !== null);
const count = (number) => number.toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const milliseconds = (number) => (number < 10 ? `${number.toFixed(1)}\u00a0ms` : `${count(Math.round(number))}\u00a0ms`);

function roundUp(number) {
  if (number <= 2) return 2;
  const unit = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 4, 6, 8, 10].map((step) => step * unit).find((step) => step >= number);
}

// Draws the frame of a chart: its description for screen readers, grid lines and the time axis.
// Returns the SVG element and a function that converts a value to a y coordinate.
function chart(id, words, data, top) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words });
  const high = HEIGHT - BOTTOM - TOP;
  const y = (value) => TOP + high - (value / top) * high;
  for (const value of [0, top / 2, top]) {
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }));
    if (value || top) svg.append(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  svg.append(
    shape("text", { x: LEFT, y: HEIGHT - 3 }, `${duration(data.span)} ago`),
    shape("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
  );
  byId(id).replaceChildren(svg);
  return { svg, y };
}

const short = (value) => (value >= 1000 ? `${value / 1000}k` : String(value));
const across = (data, at) => LEFT + (1 - (data.until - at) / data.span) * (WIDTH - LEFT);

function lines(id, words, data, series, { limit } = {}) {
  const top = roundUp(maximum(series.flat()));
  const { svg, y } = chart(id, words, data, top);
  if (limit <= top) svg.append(shape("line", { class: "limit", x1: LEFT, x2: WIDTH, y1: y(limit), y2: y(limit) }));
  series.forEach((values, number) => {
    // A missing value leaves a gap in the line. The round end of the line shows a single value as a dot.
    let path = "";
    let pen = false;
    let last = null;
    values.forEach((value, index) => {
      if (value === null) {
        pen = false;
        return;
      }
      last = { cx: across(data, data.hour.at[index]).toFixed(1), cy: y(value).toFixed(1) };
      path += pen ? `L${last.cx} ${last.cy}` : `M${last.cx} ${last.cy}h0.01`;
      pen = true;
    });
    const colour = series.length > 1 && number ? "c" : "a";
    svg.append(shape("path", { class: `line ${colour}`, d: path }));
    // A dot at the last value shows the first minutes, and a value that has just changed.
    if (last) svg.append(shape("circle", { class: `last ${colour}`, ...last, r: 3.5 }));
  });
}

function bars(id, words, data, series, colours = SERIES) {
  // A bar has at least one step of the data.
  const seconds = Math.max(data.span / BARS, data.step_seconds);
  const number = Math.ceil(data.span / seconds);
  const bins = series.map(() => new Array(number).fill(0));
  data.hour.at.forEach((at, index) => {
    const bin = number - 1 - Math.floor((data.until - at) / seconds);
    if (bin >= 0 && bin < number) series.forEach((values, row) => (bins[row][bin] += values[index]));
  });
  const totals = bins[0]?.map((value, bin) => sum(bins.map((values) => values[bin]))) ?? [];
  const { svg, y } = chart(id, words, data, roundUp(maximum(totals)));
  const wide = (WIDTH - LEFT) / number;
  for (let bin = 0; bin < number; bin += 1) {
    let below = 0;
    bins.forEach((values, index) => {
      if (!values[bin]) return;
      const [from, to] = [y(below), y(below + values[bin])];
      const box = { x: LEFT + bin * wide + 0.5, y: to, width: wide - 1, height: from - to };
      svg.append(shape("rect", { class: `bar ${colours[index]}`, ...box }));
      below += values[bin];
    });
  }
}

function showFindings(findings) {
  const notices = findings.map((finding) => {
    const notice = element("section", `notice ${finding.level}`, element("h2", "", finding.what));
    notice.dataset.level = finding.level;
    notice.append(element("p", "", finding.meaning));
    if (finding.fix) notice.append(element("p", "fix", `→ ${finding.fix}`));
    return notice;
  });
  // Without this check, a screen reader would read the same findings every ten seconds.
  const section = byId("findings");
  const update = element("div", "", ...notices);
  if (update.textContent !== section.textContent) section.replaceChildren(...notices);
}

function showQuota(data) {
  const { quota_calls_used: used, quota_calls_limit: limit, quota_calls_left: left, redis_gone, quota_closed } = data.now;
  byId("quota-now").textContent = count(used);
  let rest = `, ${count(left)} left this minute`;
  if (redis_gone && left) rest = `, about ${count(left)} left while Redis is unavailable`;
  else if (redis_gone) rest = ". No call is sent now, because Redis is unavailable";
  else if (quota_closed) rest = ". No call is sent now";
  byId("quota-of").textContent = `of ${plural(limit, "call")} used${rest}`;
  const part = Math.min(1, limit ? used / limit : 0);
  byId("quota-meter").setAttribute("aria-label", `${Math.round(part * 100)} % of the quota used`);
  byId("quota-meter").replaceChildren(
    shape("rect", { class: "all", width: 300, height: 10 }),
    shape("rect", { class: part > 0.9 ? "part bad" : "part", width: 300 * part, height: 10 }),
  );
  const all = data.hour.quota_used;
  lines("quota", `Calls in a minute: at most ${maximum(all)} of ${limit}`, data, [all], { limit });
}

function showAnswers(data) {
  const { hit, stale, fetched, missing } = data.hour.answers;
  const [cached, all] = [sum(hit) + sum(stale), sum(hit) + sum(stale) + sum(fetched) + sum(missing)];
  const share = all ? `${Math.round((100 * cached) / all)} %` : "–";
  byId("answers-now").textContent = share;
  const warmed = sum(data.hour.background);
  byId("answers-of").textContent =
    (all ? `of ${plural(all, "answer")} in the last hour` : "no answers in the last hour") +
    (warmed ? `, not counting ${plural(warmed, "background request")} of warm` : "");
  bars("answers", `From the cache: ${share} of ${all} answers`, data, [hit, stale, fetched, missing]);
}

function showTimes(id, title, data, times) {
  const now = latest(times.median);
  byId(`${id}-now`).textContent = now === undefined ? "–" : milliseconds(now);
  byId(`${id}-of`).textContent =
    now === undefined ? ", no data in the last hour" : `, p95 ${milliseconds(latest(times.p95))}`;
  lines(id, `${title}: p95 at most ${milliseconds(maximum(times.p95))}`, data, [times.median, times.p95]);
}

function showErrors(data) {
  const { errors } = data.hour;
  const words = Object.keys(errors);
  byId("errors-now").textContent = count(sum(Object.values(errors).flat()));
  const missing = words.map((word) => `${ERRORS[word] ?? word} ${sum(errors[word])}`).join(", ");
  bars("errors", `Answers with missing data: ${missing || "none"}`, data, Object.values(errors), ERROR_SERIES);
  const legend = words.map((word, index) => element("li", ERROR_SERIES[index], ERRORS[word] ?? word));
  byId("errors-legend").replaceChildren(...legend);
}

function duration(seconds) {
  if (seconds < 90) return plural(Math.max(0, Math.round(seconds)), "second");
  return seconds < 3570 ? plural(Math.round(seconds / 60), "minute") : plural(Math.round(seconds / 3600), "hour");
}

function showSnapshots(snapshots) {
  const now = Date.now() / 1000;
  const items = snapshots.map(({ cohort_id, members, as_of, expires_at }) => {
    const left = expires_at - now;
    const item = element("li", "", element("strong", "", cohort_id), `: ${plural(members, "member")}, ${duration(now - as_of)} old `);
    // A tenth of the lifetime is enough time to run the download again.
    const level = left <= 0 ? "bad" : left < (expires_at - as_of) / 10 ? "warn" : "good";
    item.append(element("span", `badge ${level}`, left <= 0 ? "expired" : `expires in ${duration(left)}`));
    return item;
  });
  byId("snapshots-card").hidden = items.length === 0;
  byId("snapshots").replaceChildren(...items);
}

const ago = (at, now) => (at === null ? "none since the start" : `${duration(now - at)} ago`);
const clockTime = (at) => new Date(at * 1000).toLocaleTimeString();
const byWord = (numbers) =>
  Object.entries(numbers)
    .map(([word, number]) => `${word.replaceAll("_", " ")} ${count(number)}`)
    .join(", ") || "none";

// Shows a badge, pairs of a name and a text, and a longer text.
function showDirection(id, level, badge, facts, text) {
  const rows = facts.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value)));
  const parts = [element("p", "", element("span", `badge ${level}`, badge)), element("dl", "facts", ...rows)];
  if (text) parts.push(element("p", "soft caption", text));
  byId(id).replaceChildren(...parts);
}

function failureText({ failed_at, failure }, event) {
  if (failed_at === null) return "";
  return `Last failure: ${failure ?? `search the log of this machine for ${event}`}`;
}

function delivery({ accepted_at, failed_at }) {
  if (failed_at !== null && failed_at > (accepted_at ?? 0)) return ["warn", "the last attempt failed"];
  return accepted_at === null ? ["", "nothing sent since the start"] : ["good", "working"];
}

function showEventStream(stream, now) {
  let [level, badge] = delivery(stream);
  if (stream.paused_until !== null) [level, badge] = ["warn", `paused until ${clockTime(stream.paused_until)}`];
  if (stream.refused) [level, badge] = ["bad", "Braze refuses the API key"];
  const facts = [
    ["Last sent", ago(stream.accepted_at, now)],
    ["Last failure", ago(stream.failed_at, now)],
    ["Waiting", plural(stream.waiting, "object")],
    ["Last hour", byWord(stream.outcomes)],
  ];
  showDirection("event-stream", level, badge, facts, failureText(stream, "forwarding_failed"));
}

function showCurrents(currents, now) {
  const [level, badge] = currents.rejected ? ["bad", "Amplitude rejects the API key"] : delivery(currents);
  const facts = [
    ["Last relayed", ago(currents.accepted_at, now)],
    ["Last failure", ago(currents.failed_at, now)],
    ["Last hour", byWord(currents.outcomes)],
  ];
  showDirection("currents", level, badge, facts, failureText(currents, "currents_not_relayed"));
}

function showSync({ last, runs }, now) {
  if (last === null) {
    showDirection("sync", "", "no run recorded", [], "The result of python -m proxy sync appears here.");
    return;
  }
  const level = { complete: "good", incomplete: "warn", failed: "bad" }[last.result];
  const { users_sent: sent, users_unchanged: unchanged, users_failed: failed } = last;
  const facts = [
    ["Last run", ago(last.ended_at, now)],
    ["Users", `${count(sent)} sent, ${count(unchanged)} unchanged, ${count(failed)} failed`],
    ["Sent", `${plural(last.values, "value")} in ${plural(last.requests, "request")}`],
    ["All runs", byWord(runs)],
  ];
  showDirection("sync", level, last.result, facts, last.error && `Error: ${last.error}`);
}

function showDirections({ event_stream, currents, sync }) {
  const now = Date.now() / 1000;
  byId("directions").hidden = !(event_stream || currents || sync);
  byId("event-stream-card").hidden = !event_stream;
  byId("currents-card").hidden = !currents;
  byId("sync-card").hidden = !sync;
  if (event_stream) showEventStream(event_stream, now);
  if (currents) showCurrents(currents, now);
  if (sync) showSync(sync, now);
}

function showCallers(callers) {
  const items = callers.map(({ name, scope }) => element("li", "badge", `${name}: ${scope}`));
  byId("callers").replaceChildren(...items);
}

function show(data) {
  data.until = Math.max(Date.now() / 1000, ...data.hour.at.slice(-1));
  // The charts begin at the oldest data, so that the first minutes after a start are readable.
  const began = data.hour.at[0] ?? data.until;
  data.span = Math.min(data.kept_seconds, Math.max(SHORTEST_SECONDS, data.until - began + data.step_seconds));
  showFindings(data.findings);
  for (const card of document.querySelectorAll(".needs-profile-api")) card.hidden = !data.profile_api;
  byId("profile-api-off").hidden = data.profile_api;
  showQuota(data);
  showAnswers(data);
  showTimes("answer", "Response time", data, data.hour.answer_ms);
  showTimes("call", "Amplitude's response time", data, data.hour.call_ms);
  const waiting = data.now.backlog_users;
  byId("backlog-now").textContent = count(waiting);
  byId("backlog-of").textContent = waiting === 1 ? "user waiting" : "users waiting";
  lines("backlog", `Users waiting: at most ${maximum(data.hour.backlog)}`, data, [data.hour.backlog]);
  showErrors(data);
  showDirections(data.directions);
  showSnapshots(data.snapshots);
  showCallers(data.callers);
}

async function update() {
  const badge = byId("updated");
  try {
    // On a page opened as https://name:secret@host, the browser rejects a relative URL.
    const answer = await fetch(new URL("/status.json", location.origin), { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    badge.textContent = `updated at ${new Date().toLocaleTimeString()}`;
    badge.className = "badge good";
  } catch (error) {
    badge.textContent = `update failed: ${error.message}`;
    badge.className = "badge bad";
  }
}

update();
setInterval(update, EVERY_MS);
