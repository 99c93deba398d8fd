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

const through = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());

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
    return new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw")));
  } catch {
    return null; // the link is cut off
  }
}

export function removeFragment() {
  if (location.hash) history.replaceState(null, "", location.pathname);
}
