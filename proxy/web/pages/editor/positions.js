// Converts the position of a finding into offsets of the editor.

// Returns the length of the first `count` characters of a text in UTF-16 units. The service counts characters.
const units = (text, count) => Array.from(text).slice(0, count).join("").length;

// Returns `from` and `to` of a finding. A finding without a length is about its whole line.
export function range(doc, { line: number, column, length }) {
  const line = doc.line(Math.min(number, doc.lines));
  if (!length) return { from: line.from, to: line.to };
  const from = line.from + units(line.text, column - 1);
  return { from, to: from + units(doc.sliceString(from), length) };
}
