// Converts the positions of findings into offsets of the editor.

// Returns the offset of each character in UTF-16 units, and the first character of each line.
function places(text) {
  const offsets = [];
  const lines = [0];
  for (let at = 0; at < text.length; at += text.codePointAt(at) > 0xffff ? 2 : 1) {
    offsets.push(at);
    if (text[at] === "\n") lines.push(offsets.length);
  }
  offsets.push(text.length);
  return { offsets, lines };
}

// Returns `from` and `to` of each finding. A finding without a length is about its whole line. The service counts
// characters, so the text is read once for all findings: a message can have 200 findings in a line of 256 KB.
export function ranges(doc, findings) {
  const { offsets, lines } = places(doc.toString());
  const offset = (character) => offsets[Math.min(character, offsets.length - 1)];
  return findings.map(({ line: number, column, length }) => {
    const line = doc.line(Math.min(number, doc.lines));
    if (!length) return { from: line.from, to: line.to };
    const first = lines[line.number - 1] + column - 1;
    return { from: offset(first), to: offset(first + length) };
  });
}
