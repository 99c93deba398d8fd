// The message editor. It is in a shadow root, where CodeMirror uses style sheets that the Content-Security-Policy allows.

import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { forEachDiagnostic, lintKeymap, setDiagnostics } from "@codemirror/lint";
import { EditorState, Prec } from "@codemirror/state";
import { drawSelection, EditorView, keymap, lineNumbers } from "@codemirror/view";
import { liquid } from "./liquid.js";
import { ranges } from "./positions.js";
import { theme } from "./theme.js";

// Creates the editor in `host`. `changed` is called after each edit, and `submitted` when Ctrl+Enter is pressed.
export function createEditor(host, { text, label, changed, submitted }) {
  const root = host.attachShadow({ mode: "open" });
  const submit = { key: "Mod-Enter", run: () => (submitted(), true) };
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        history(),
        drawSelection(),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": label, spellcheck: "false", autocapitalize: "none" }),
        EditorView.updateListener.of((update) => update.docChanged && changed()),
        Prec.highest(keymap.of([submit])),
        keymap.of([...defaultKeymap, ...historyKeymap, ...lintKeymap]),
        liquid,
        theme,
      ],
    }),
  });
  const select = (from, to) => {
    view.focus();
    view.dispatch({ selection: { anchor: from, head: to }, effects: EditorView.scrollIntoView(from, { y: "center" }) });
  };

  function replace(finding, from, to) {
    view.dispatch({ changes: { from, to, insert: finding.replacement }, userEvent: "input.fix" });
    view.focus();
  }

  function diagnostic(finding, range) {
    return {
      ...range,
      severity: finding.level === "note" ? "info" : "warning",
      message: `${finding.problem}\n→ ${finding.fix}`,
      finding,
      actions: hasReplacement(finding)
        ? [{ name: "Fix", apply: (_, from, to) => replace(finding, from, to) }]
        : [],
    };
  }

  // Returns the current place of a finding. Edits since the rendering move it, or remove it.
  function place(finding) {
    let found = null;
    forEachDiagnostic(view.state, (shown, from, to) => {
      if (shown.finding === finding) found = { from, to };
    });
    return found;
  }

  return {
    text: () => view.state.doc.toString(),
    focus: () => view.focus(),
    select: () => select(0, view.state.doc.length),
    // Replaces the message. Undo restores the previous message.
    load(message) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: message }, selection: { anchor: 0 } });
      view.focus();
    },
    insert(words) {
      view.dispatch(view.state.replaceSelection(words), { scrollIntoView: true, userEvent: "input" });
      view.focus();
    },
    goToLine(number) {
      const line = view.state.doc.line(Math.min(number, view.state.doc.lines));
      select(line.from, line.to);
    },
    showFindings(findings) {
      const found = ranges(view.state.doc, findings);
      const diagnostics = findings.map((finding, index) => diagnostic(finding, found[index]));
      view.dispatch(setDiagnostics(view.state, diagnostics));
    },
    goToFinding(finding) {
      const { from, to } = place(finding) ?? ranges(view.state.doc, [finding])[0];
      select(from, to);
    },
    fix(finding) {
      const found = place(finding);
      if (found) replace(finding, found.from, found.to);
    },
  };
}

export const hasReplacement = (finding) => typeof finding.replacement === "string";
