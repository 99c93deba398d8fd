// Sends the message to this service. Keeps the answers of the tags, so that typing makes no call.

const MAX_ANSWERS = 20;
const MAX_HELD = 64 * 1024;
const held = new Map();

function keep(answers) {
  for (const answer of answers) {
    const request = JSON.stringify(answer.request);
    held.delete(request); // the newest answer is last
    held.set(request, answer);
  }
}

// Returns the newest answers, within the limits of the service on the size of a request.
function newest() {
  const answers = [];
  let size = 0;
  for (const answer of [...held.values()].reverse().slice(0, MAX_ANSWERS)) {
    size += JSON.stringify(answer).length;
    if (size > MAX_HELD) break;
    answers.push(answer);
  }
  return answers;
}

const failed = (reason) => ({ outcome: "failed", reason, message: "", findings: [], tags: [] });

// Returns the rendering of a message. Without `fetch`, only the kept answers answer the tags.
export async function rendering(message, { fetch: mayFetch }) {
  const body = mayFetch ? message : { ...message, fetch: false, answers: newest() };
  try {
    // An absolute URL: on a page opened as https://name:secret@host, a relative URL would contain the credentials.
    const answer = await fetch(`${location.origin}/playground/render`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const rendered = await answer.json();
    if (!answer.ok) return failed(rendered.detail ?? `the service answered ${answer.status}`);
    if (mayFetch) keep(rendered.answers ?? []);
    return rendered;
  } catch {
    return failed("the service cannot be reached; check that the service is running, and check your connection");
  }
}
