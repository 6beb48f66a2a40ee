// Rules of the package: file sizes, public names, and what no page says before the name is registered.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const root = dirname(dirname(here));
const problems = [];

function* files(directory, endings) {
  if (!existsSync(directory)) return;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (['node_modules', 'dist', '.git', 'target'].includes(entry.name)) continue;
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* files(path, endings);
    else if (endings.some((ending) => entry.name.endsWith(ending))) yield path;
  }
}

for (const directory of [here, join(root, 'examples', 'node')]) {
  for (const path of files(directory, ['.ts', '.mjs', '.js'])) {
    const lines = readFileSync(path, 'utf8').split('\n').length - 1;
    if (lines > 400) problems.push(`${path}: ${lines} lines, more than 400`);
  }
}

const index = readFileSync(join(here, 'src', 'index.ts'), 'utf8');
const names = [...index.matchAll(/export (?:type )?\{([^}]*)\}/g)].flatMap(([, list]) => list.split(',').filter((name) => name.trim() !== ''));
if (names.length > 20) problems.push(`index.ts: ${names.length} public names, more than 20`);

const bare = /(npm|yarn|pnpm|bun) (i|install|add)\b[^\n`]*\bcorral-client\b(?!-)/;
for (const directory of [root, join(root, 'docs'), join(root, 'clients'), join(root, 'examples')]) {
  const pages = directory === root ? readdirSync(root).filter((name) => name.endsWith('.md')).map((name) => join(root, name)) : files(directory, ['.md']);
  for (const page of pages) {
    if (bare.test(readFileSync(page, 'utf8'))) problems.push(`${page}: the name is not registered; install from the tree or a release file`);
  }
}
const lock = readFileSync(join(here, 'package-lock.json'), 'utf8');
if (/"resolved": "http/.test(lock)) problems.push('package-lock.json names the host of a registry');

if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
