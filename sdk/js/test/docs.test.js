import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Server } from './support/server.js';

test('the first page of the manual works by copy and paste', async () => {
  const server = await Server.start();
  const manual = readFileSync(new URL('../../../docs/sdk-js.md', import.meta.url), 'utf8');
  const code = manual.match(/<<'JS'\n(.*?)\nJS\n/s)[1];
  const file = join(server.folder, 'first.mjs');
  const client = new URL('../src/index.js', import.meta.url).href;
  writeFileSync(file, code.replace('./vski.mjs', client).replace('http://127.0.0.1:3000', server.url));
  for (const round of [1, 2]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: 20_000 });
    assert.deepEqual([status, stderr], [0, '']);
    assert.equal(stdout.match(/title: 'Hello'/g).length, round);
  }
});
