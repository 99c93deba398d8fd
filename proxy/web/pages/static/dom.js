// Short names for the DOM. All texts go into the page as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

export function button(className, words, pressed) {
  const node = element("button", className, words);
  node.type = "button";
  node.addEventListener("click", pressed);
  return node;
}

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
