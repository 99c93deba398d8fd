// Shows a message as HTML in a sandboxed frame. The frame's own policy allows no scripts and nothing from any host.

import { byId } from "./dom.js";

const MARKUP = /<(?:a|b|body|br|center|div|em|h[1-6]|html|i|img|li|ol|p|span|strong|table|td|ul)\b[^<>]*>/i;
const REMOVED = "script, iframe, frame, object, embed, link, base, meta, audio, video, source";
const REMOTE = ["src", "srcset", "background", "poster", "href", "xlink:href", "action", "formaction", "ping"];
const frame = byId("frame");
let message = "";
let wantsHtml = false;

// The frame's policy blocks the content that these functions remove, with an error in the console for each.
// Their patterns also match without an end. Otherwise, their time would grow with the square of the message's length.
const withoutHandlers = (html) => html.replace(/<[a-z][^>]*>?/gi, (tag) => tag.replace(/([\s/"'])on\w+\s*=/gi, "$1data-off="));
const localStyle = (css) => css.replace(/@import[^;]*;?/gi, "").replace(/url\((?!\s*["']?data:)[^)]*\)?/gi, "none");

function clean(parsed) {
  for (const node of parsed.querySelectorAll(REMOVED)) node.remove();
  for (const node of parsed.querySelectorAll("*")) {
    for (const name of node.getAttributeNames()) {
      const value = node.getAttribute(name);
      if (REMOTE.includes(name) && !/^\s*data:image\//i.test(value)) node.removeAttribute(name);
      else if (name === "style") node.setAttribute(name, localStyle(value));
    }
    if (node.localName === "style") node.textContent = localStyle(node.textContent);
  }
  return parsed.documentElement;
}

function write() {
  const page = frame.contentDocument;
  if (!page || page.URL === "about:blank") return;
  // The parser of the frame's window has the policy of the frame, which allows inline styles.
  const parsed = new frame.contentWindow.DOMParser().parseFromString(withoutHandlers(message), "text/html");
  page.replaceChild(page.adoptNode(clean(parsed)), page.documentElement);
}

function show() {
  const isHtml = MARKUP.test(message);
  const asHtml = isHtml && wantsHtml;
  byId("views").hidden = !isHtml;
  byId("html").hidden = !asHtml;
  byId("message").hidden = asHtml;
  byId("as-text").setAttribute("aria-pressed", String(!asHtml));
  byId("as-html").setAttribute("aria-pressed", String(asHtml));
  if (!asHtml) return;
  if (frame.getAttribute("src")) write();
  else frame.src = `${location.origin}/playground/frame`;
}

export function showMessage(text) {
  message = text;
  byId("message").textContent = text;
  show();
}

frame.addEventListener("load", write);
for (const [id, html] of [["as-text", false], ["as-html", true]]) {
  byId(id).addEventListener("click", () => {
    wantsHtml = html;
    show();
  });
}
