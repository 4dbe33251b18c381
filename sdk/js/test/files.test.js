import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { before, test } from 'node:test';
import { VskiClient } from 'vski';
import { OPEN, Server, refused } from './support/server.js';

/** @type {Server} */ let server;
let admin, client, docs;
before(async () => {
  server = await Server.start();
  admin = await server.admin();
  const fields = [
    { name: 'title', type: 'text' },
    { name: 'file', type: 'file', maxSize: 50_000_000 },
    { name: 'several', type: 'file', maxSelect: 5 },
    { name: 'secret', type: 'file', protected: true },
  ];
  await admin.settings.collections.create({ name: 'docs', ...OPEN, viewRule: null, fields });
  client = new VskiClient(server.url);
  docs = admin.collection('docs');
});

const bytes = (length) => new Uint8Array(length).map((_, at) => at % 251);

test('a file is uploaded with its record, and downloaded', async () => {
  const content = bytes(300_000);
  const doc = await docs.create({ title: 'with "quotes"', file: new File([content], 'data.bin') });
  assert.equal(doc.title, 'with "quotes"');
  const progress = [];
  const blob = await client.files.download(doc, doc.file, { onProgress: (it) => progress.push(it) });
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), content);
  assert.deepEqual(progress.at(-1), { received: 300_000, total: 300_000 });
  const part = await client.files.open(doc, doc.file, { range: [10, 19] });
  assert.deepEqual(new Uint8Array(await part.arrayBuffer()), content.slice(10, 20));
  assert.equal((await fetch(client.files.url(doc, doc.file))).status, 200);
  assert.match(client.files.url(doc, doc.file, { download: true }), /\?download=1$/);
  await assert.rejects(client.files.download(doc, 'none.bin'), refused('not_found'));
});

test('several files are added and removed', async () => {
  const doc = await docs.create({ several: [new File(['a'], 'a.txt'), new File(['b'], 'b.txt')] });
  const more = await docs.update(doc.id, { 'several+': new File(['c'], 'c.txt') });
  assert.equal(more.several.length, 3);
  const fewer = await docs.update(doc.id, { 'several-': more.several[0] });
  assert.deepEqual(fewer.several, more.several.slice(1));
  const form = new FormData();
  form.append('title', 'by form');
  assert.equal((await docs.update(doc.id, form)).title, 'by form');
});

test('an upload reports its progress and can be aborted', async () => {
  const seen = [];
  const content = new File([bytes(5_000_000)], 'big.bin');
  const doc = await docs.create({ file: content }, { onProgress: (it) => seen.push(it) });
  assert.ok(seen.length > 2 && seen.at(-1).sent <= seen.at(-1).total && seen.at(-1).total >= 5_000_000);
  assert.ok(seen.every((it, at) => at === 0 || it.sent >= seen[at - 1].sent));
  assert.equal((await client.files.download(doc, doc.file)).size, 5_000_000);
  const controller = new AbortController();
  const before = (await docs.getList()).totalItems;
  const aborted = docs.create({ file: content }, { signal: controller.signal, onProgress: () => controller.abort() });
  await assert.rejects(aborted, refused('aborted'));
  assert.equal((await docs.getList()).totalItems, before);
});

test('a protected file needs credentials, or a token for files', async () => {
  const doc = await docs.create({ secret: new File(['secret'], 's.txt') });
  await assert.rejects(client.files.download(doc, doc.secret), refused(404));
  assert.equal(await (await admin.files.download(doc, doc.secret)).text(), 'secret');
  const link = admin.files.url(doc, doc.secret, { token: await admin.files.token() });
  assert.equal(await (await fetch(link)).text(), 'secret');
  await assert.rejects(client.files.token(), refused('unauthenticated'));
});

test('a download that is cut off continues where it stopped', async () => {
  const content = bytes(400_000);
  const ranges = [];
  const cutter = createServer((request, response) => {
    ranges.push(request.headers.range);
    const from = Number(request.headers.range?.match(/\d+/)[0] ?? 0);
    response.writeHead(from ? 206 : 200, { 'Content-Length': content.length - from });
    if (ranges.length === 3) return response.end(content.subarray(from));
    response.write(content.subarray(from, from + 100_000), () => setTimeout(() => response.destroy(), 20));
  });
  await new Promise((resolve) => cutter.listen(0, '127.0.0.1', resolve));
  const cut = new VskiClient(`http://127.0.0.1:${cutter.address().port}`);
  const blob = await cut.files.download({ id: 'x', collectionName: 'docs' }, 'f.bin');
  cutter.close();
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), content);
  assert.deepEqual(ranges, [undefined, 'bytes=100000-', 'bytes=200000-']);
});
