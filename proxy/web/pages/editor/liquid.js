// Colours for Braze's Liquid in text or HTML. The names of tokens are those of @lezer/highlight.

import { HighlightStyle, StreamLanguage, syntaxHighlighting } from "@codemirror/language";
import { tags } from "@lezer/highlight";

const WORDS = new Set(["and", "or", "contains", "in", "true", "false", "nil", "null", "blank", "empty"]);

function text(stream, state) {
  if (stream.match(/^\{%-?\s*comment\s*-?%\}/)) {
    state.read = comment;
    return "comment";
  }
  if (stream.match(/^\{%-?/)) {
    state.read = tagName;
    state.inTag = true;
    return "bracket";
  }
  if (stream.match(/^\{\{-?/)) {
    state.read = expression;
    return "bracket";
  }
  if (stream.match("<!--")) {
    state.read = htmlComment;
    return "comment";
  }
  if (stream.match(/^<\/?[a-z][\w:-]*/i) || (state.inHtmlTag && stream.match(/^\/?>/))) {
    state.inHtmlTag = !stream.current().endsWith(">");
    return "tagName";
  }
  if (state.inHtmlTag) {
    if (stream.match(/^[\w:@-]+/)) return "attributeName";
    if (stream.match(/^"[^"{]*"?|^'[^'{]*'?/)) return "string";
    stream.next();
    return null;
  }
  stream.next();
  stream.eatWhile(/[^{<]/);
  return null;
}

const inside = (end) => (stream, state) => {
  if (stream.match(end)) state.read = text;
  else stream.next();
  return "comment";
};
const comment = inside(/^\{%-?\s*endcomment\s*-?%\}/);
const htmlComment = inside("-->");

function tagName(stream, state) {
  if (stream.eatSpace()) return null;
  state.read = expression;
  return stream.match(/^\w+/) ? "keyword" : expression(stream, state);
}

function expression(stream, state) {
  if (stream.eatSpace()) return null;
  if (stream.match(/^-?%\}/) || (!state.inTag && stream.match(/^-?\}\}/))) {
    state.read = text;
    state.inTag = false;
    return "bracket";
  }
  if (stream.match(/^\{\{|^\}\}/)) return "bracket"; // double brackets inside a tag
  if (stream.match(/^https?:\/\/(?:(?!\{\{|%\})\S)*/)) return "link";
  if (stream.match(/^"[^"]*"?|^'[^']*'?/)) return "string";
  if (stream.match(/^-?\d+(?:\.\d+)?\b/)) return "number";
  if (stream.match(/^:[a-z_]+/)) return "propertyName";
  if (stream.match(/^\|\s*\w+/)) return "operator";
  if (stream.match(/^\$\{[^}]*\}/)) return "variableName";
  if (stream.match(/^[a-z_][\w-]*/i)) return WORDS.has(stream.current()) ? "keyword" : "variableName";
  if (stream.match(/^[=!<>]=?|^[&?]/)) return "operator";
  stream.next();
  return null;
}

const language = StreamLanguage.define({
  name: "braze-liquid",
  startState: () => ({ read: text, inTag: false, inHtmlTag: false }),
  copyState: (state) => ({ ...state }),
  token: (stream, state) => state.read(stream, state),
  languageData: { commentTokens: { block: { open: "{% comment %}", close: "{% endcomment %}" } } },
});

// The variables are the colours of the page, so that the editor follows its light and dark scheme.
const colours = HighlightStyle.define([
  { tag: tags.bracket, color: "var(--code-tag)" },
  { tag: tags.keyword, color: "var(--code-tag)", fontWeight: "600" },
  { tag: tags.propertyName, color: "var(--code-tag)" },
  { tag: tags.variableName, color: "var(--code-name)" },
  { tag: [tags.string, tags.number, tags.link], color: "var(--code-string)" },
  { tag: tags.operator, color: "var(--code-tag)" },
  { tag: [tags.tagName, tags.attributeName], color: "var(--ink-soft)" },
  { tag: tags.comment, color: "var(--ink-soft)", fontStyle: "italic" },
]);

export const liquid = [language, syntaxHighlighting(colours)];
