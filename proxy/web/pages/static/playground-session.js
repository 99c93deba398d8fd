// Stores message and user in this browser tab, and writes messages into links. Links have no user id.

const KEY = "playground";

export function restored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // the browser forbids the storage, or another script stored the value
  }
}

export function store(state) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    // the browser forbids the storage, or it is full
  }
}

const PREFIX = "#message=";

const MAX_MESSAGE_BYTES = 1024 * 1024; // more than the service accepts

// Returns the bytes that a stream makes of `bytes`. Throws above `most` bytes, because a short link can hold gigabytes.
async function through(bytes, stream, most = Infinity) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const chunks = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    if (size > most) {
      await reader.cancel();
      throw new RangeError("the message of the link is too long");
    }
    chunks.push(part.value);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

// Returns a link to the page with a message. The message is in the fragment, which browsers do not send.
export async function linkTo(message) {
  const bytes = await through(new TextEncoder().encode(message), new CompressionStream("deflate-raw"));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const fragment = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.origin}${location.pathname}${PREFIX}${fragment}`;
}

// Returns the message of the page's link, or null.
export async function linkedMessage() {
  if (!location.hash.startsWith(PREFIX)) return null;
  try {
    const binary = atob(location.hash.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    return new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw"), MAX_MESSAGE_BYTES));
  } catch {
    return null; // the link is cut off, or its message is too long
  }
}

export function removeFragment() {
  if (location.hash) history.replaceState(null, "", location.pathname);
}
