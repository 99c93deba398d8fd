// Sends the message to this service. Keeps the answers of the tags, so that typing makes no call.

const MAX_ANSWERS = 20;
const TRIES = 4;
const TRY_AGAIN_MS = 700;
const held = new Map();

function keep(answers) {
  for (const answer of answers) {
    const request = JSON.stringify(answer.request);
    held.delete(request); // the newest answer is last
    held.set(request, answer);
  }
}

const bytes = (value) => new Blob([JSON.stringify(value)]).size;

// Returns the newest answers that fit into a request beside the message.
function newest(message, maxBytes) {
  const answers = [];
  let size = bytes(message) + 1024;
  for (const answer of [...held.values()].reverse().slice(0, MAX_ANSWERS)) {
    size += bytes(answer);
    if (size <= maxBytes) answers.push(answer);
  }
  return answers;
}

const failed = (reason) => ({ outcome: "failed", reason, message: "", findings: [], tags: [] });

async function once(body) {
  try {
    // An absolute URL: on a page opened as https://name:secret@host, a relative URL would contain the credentials.
    const answer = await fetch(`${location.origin}/playground/render`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const rendered = await answer.json();
    if (!answer.ok) return failed(rendered.detail ?? `the service answered ${answer.status}`);
    return rendered;
  } catch {
    return failed("the service cannot be reached; check that the service is running, and check your connection");
  }
}

// Returns the rendering of a message. Without `fetch`, tags get only the stored answers.
// Tries again if the service is rendering other messages. `busy` is the reason that the service gives in this case.
// `maxBytes` is the service's limit on a request.
export async function rendering(message, { fetch: mayFetch, busy, maxBytes }) {
  const body = mayFetch ? message : { ...message, fetch: false, answers: newest(message, maxBytes) };
  let rendered = await once(body);
  for (let tries = 1; tries < TRIES && rendered.reason === busy; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    rendered = await once(body);
  }
  if (mayFetch) keep(rendered.answers ?? []);
  return rendered;
}
