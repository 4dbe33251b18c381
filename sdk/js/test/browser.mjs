// The client as a page loads it, /sdk.js, in Chromium. Usage: node browser.mjs FOLDER_WITH_PLAYWRIGHT_CORE
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';
import { OPEN, POSTS, Server } from './support/server.js';

const { chromium } = createRequire(join(process.argv[2], 'x.js'))('playwright-core');

test('a page loads /sdk.js and uses everything that is special to browsers', async () => {
  const server = await Server.start();
  const admin = await server.admin();
  await admin.settings.collections.create({ name: 'posts', ...OPEN, fields: POSTS.fields.slice(0, 5) });
  await admin.settings.collections.create({ name: '_users', type: 'auth', ...OPEN, fields: [] });
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  try {
    const page = await browser.newPage();
    const problems = [];
    page.on('pageerror', (error) => problems.push(error.message));
    await page.goto(`${server.url}/`);
    const result = await page.evaluate(async () => {
      const { VskiClient, LocalStore, filter } = await import('/sdk.js');
      const client = new VskiClient(undefined, { store: new LocalStore() });
      await client.auth.register({ email: 'b@example.com', password: 'password-1' });
      await client.auth.login('b@example.com', 'password-1');
      const again = new VskiClient(location.origin, { store: new LocalStore() });
      const posts = client.collection('posts');
      const shown = [];
      const list = posts.live({ filter: filter`public = ${true}`, sort: 'title' }, (items) => shown.push(items.map((it) => it.title).join(' ')));
      await list.ready;
      const progress = [];
      const file = new File([new Uint8Array(2_000_000)], 'big.bin');
      const post = await posts.create({ title: 'b', public: true, doc: file }, { onProgress: (it) => progress.push(it.sent) });
      await posts.create({ title: 'a', public: true });
      for (let tries = 0; shown.at(-1) !== 'a b' && tries < 200; tries++) await new Promise((resolve) => setTimeout(resolve, 20));
      const controller = new AbortController();
      const aborted = await posts.create({ title: 'c', doc: file }, { signal: controller.signal, onProgress: () => controller.abort() })
        .catch((error) => error.code);
      const refused = await posts.create({}).catch((error) => `${error.name} ${error.status} ${Object.keys(error.fields)}`);
      list.stop();
      const { size } = await client.files.download(post, post.doc);
      return { shown: shown.at(-1), progress: progress.at(-1) >= 2_000_000, aborted, refused, size, stored: (await again.auth.me()).email };
    });
    assert.deepEqual(result, {
      shown: 'a b', progress: true, aborted: 'aborted', refused: 'VskiError 400 title', size: 2_000_000, stored: 'b@example.com',
    });
    assert.deepEqual(problems, []);
    console.log(`chromium ${browser.version()}: ok`);
  } finally {
    await browser.close();
  }
});

test('/sdk.js exports what the package does, and is cached as documented', async () => {
  const server = await Server.start();
  const first = await fetch(`${server.url}/sdk.js`);
  const code = await first.text();
  const served = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  const own = await import('vski');
  assert.deepEqual(Object.keys(served).sort(), Object.keys(own).sort());
  assert.equal(first.headers.get('Cache-Control'), 'no-cache');
  assert.equal(first.headers.get('Content-Encoding'), 'gzip');
  const again = await fetch(`${server.url}/sdk.js`, { headers: { 'If-None-Match': first.headers.get('ETag') } });
  assert.equal(again.status, 304);
  const version = first.headers && /vski (\S+),/.exec(code)[1];
  assert.match((await fetch(`${server.url}/sdk.js?v=${version}`)).headers.get('Cache-Control'), /immutable/);
  assert.equal((await fetch(`${server.url}/sdk.js?v=0.0.1`)).headers.get('Cache-Control'), 'no-cache');
});
