// Compiles the interfaces to abi/*.json and the example and test contracts to *.bin.
// Run in an empty folder with `npm install solc@0.8.37`: node /path/to/contracts/compile.mjs
import { createRequire } from "node:module";
import { readFileSync, writeFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const solc = createRequire(join(process.cwd(), "index.js"))("solc");
const root = dirname(fileURLToPath(import.meta.url));
const files = ["", "examples/", "tests/"].flatMap((folder) =>
  readdirSync(join(root, folder)).filter((name) => name.endsWith(".sol")).map((name) => folder + name));
const input = {
  language: "Solidity",
  sources: Object.fromEntries(files.map((name) => [name, { content: readFileSync(join(root, name), "utf8") }])),
  settings: {
    evmVersion: "osaka",
    optimizer: { enabled: true, runs: 200 },
    metadata: { appendCBOR: false, bytecodeHash: "none" },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const errors = (output.errors ?? []).filter((e) => e.severity === "error");
if (errors.length) throw new Error(errors.map((e) => e.formattedMessage).join("\n"));
const write = (path, text) => { writeFileSync(join(root, path), text); console.log(path); };
for (const [file, contracts] of Object.entries(output.contracts)) {
  for (const [name, { abi, evm }] of Object.entries(contracts)) {
    if (name === "LemmaAddresses" || name === "Ephemeral") continue;
    if (!file.startsWith("tests/")) write(`abi/${name}.json`, JSON.stringify(abi, null, 2) + "\n");
    const code = evm.bytecode.object;
    if (code) write(file.replace(/\.sol$/, ".bin"), code + "\n");
  }
}
