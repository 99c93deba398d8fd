// Bundles the editor and the licences of its libraries into the folder of the first argument.

import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const folder = process.argv[2] ?? "../static/vendor";
const { metafile } = await build({
  entryPoints: ["editor.js"],
  outfile: `${folder}/editor.js`,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  metafile: true,
  legalComments: "none",
  banner: { js: "// CodeMirror and its libraries. The licences are in editor-licences.txt." },
});

const inputs = Object.keys(metafile.inputs);
const libraries = new Set(inputs.map((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
const licences = [...libraries].sort().map(async (name) => {
  const { version } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  return `${name} ${version}\n\n${(await readFile(`node_modules/${name}/LICENSE`, "utf8")).trim()}\n`;
});
await writeFile(`${folder}/editor-licences.txt`, (await Promise.all(licences)).join(`\n${"-".repeat(80)}\n\n`));
