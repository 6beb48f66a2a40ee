// Builds dist/esm and dist/cjs, each with its types.

import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
rmSync('dist', { recursive: true, force: true });
for (const [kind, type, module, resolution] of [['esm', 'module', 'Node16', 'Node16'], ['cjs', 'commonjs', 'CommonJS', 'Node10']]) {
  mkdirSync(`dist/${kind}`, { recursive: true });
  writeFileSync(`dist/${kind}/package.json`, `${JSON.stringify({ type, sideEffects: false })}\n`);
  const options = ['--outDir', `dist/${kind}`, '--module', module, '--moduleResolution', resolution];
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', ...options], { stdio: 'inherit' });
}
