// The look of the editor, with the colours and fonts of the page.

import { EditorView } from "@codemirror/view";

const wavy = (colour) => ({
  backgroundImage: "none",
  paddingBottom: "0",
  textDecoration: `underline wavy ${colour}`,
  textDecorationSkipInk: "none",
  textUnderlineOffset: "0.2em",
});

export const theme = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--surface)" },
  "&.cm-focused": { outline: "none" }, // the page outlines the host
  ".cm-scroller": { fontFamily: "var(--mono)", fontSize: "var(--editor-size)", lineHeight: "1.55" },
  ".cm-content": { caretColor: "var(--ink)", padding: "0.5rem 0" },
  ".cm-content, .cm-gutter": { minHeight: "14rem" },
  ".cm-line": { overflowWrap: "anywhere" },
  ".cm-cursor": { borderLeftColor: "var(--ink)", borderLeftWidth: "2px" },
  ".cm-gutters": { color: "var(--ink-soft)", backgroundColor: "var(--sunken)", borderRight: "1px solid var(--line)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    background: "var(--selection)",
  },
  ".cm-lintRange-warning": wavy("var(--warn)"),
  ".cm-lintRange-info": wavy("var(--accent)"),
  ".cm-tooltip, .cm-panels": { color: "var(--ink)", backgroundColor: "var(--surface)", border: "1px solid var(--control-line)" },
  ".cm-tooltip": { maxWidth: "min(30rem, 90vw)", borderRadius: "0.4rem", font: "0.9rem/1.5 var(--sans)" },
  ".cm-diagnostic": { padding: "0.5rem 0.75rem", whiteSpace: "pre-wrap" },
  ".cm-diagnostic-warning": { borderLeft: "4px solid var(--warn)" },
  ".cm-diagnostic-info": { borderLeft: "4px solid var(--accent)" },
  ".cm-diagnosticAction": {
    padding: "0.2rem 0.7rem",
    color: "var(--on-accent)",
    backgroundColor: "var(--accent)",
    font: "inherit",
    fontWeight: "600",
    cursor: "pointer",
  },
});
