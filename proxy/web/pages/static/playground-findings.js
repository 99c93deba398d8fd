// Shows the findings below the message. Each has a button to its place, and a button for its fix if there is one.

import { byId, button, element } from "./dom.js";
import { hasReplacement } from "./editor.js";

export function lineButton(line, pressed) {
  const node = button("line", `line ${line}`, pressed);
  node.setAttribute("aria-label", `show line ${line} in the message`);
  return node;
}

function item(finding, editor) {
  const node = element("li", finding.level === "note" ? "notice" : "notice warn");
  node.dataset.rule = finding.rule;
  node.append(
    lineButton(finding.line, () => editor.goToFinding(finding)),
    element("p", "", finding.problem),
    element("p", "fix", `→ ${finding.fix}`),
  );
  if (hasReplacement(finding)) {
    const fix = () => {
      editor.fix(finding);
      node.remove();
    };
    node.append(button("line apply", "Fix it", fix));
  }
  return node;
}

export function showFindings(findings, editor) {
  editor.showFindings(findings);
  const list = element("ul", "findings", ...findings.map((finding) => item(finding, editor)));
  byId("findings").replaceChildren(...(findings.length ? [list] : []));
}
