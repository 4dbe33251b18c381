import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { VskiClient } from 'vski';
import { OPEN, POSTS, Server, until } from './support/server.js';

/** @type {Server} */ let master;
/** @type {Server} */ let replica;
before(async () => {
  master = await Server.start();
  const admin = await master.admin();
  await admin.settings.collections.create({ name: 'posts', ...OPEN, fields: POSTS.fields.slice(0, 5) });
  replica = await Server.start({ REPLICA_MODE: 'replica', MASTER_URL: master.url, REPLICA_ID: 'near' });
  await until('the replica has everything', async () => (await fetch(`${replica.url}/api/health?maxSecondsBehind=60`)).ok);
});

/** A client of both, and the methods and servers of its requests. */
function routed(url = master.url, replicas = [replica.url]) {
  const log = [];
  const fetcher = (input, init) => {
    log.push(`${init.method ?? 'GET'} ${new URL(input).origin === replica.url ? 'replica' : 'master'}`);
    return fetch(input, init);
  };
  return { log, client: new VskiClient(url, { replicas, fetch: fetcher }) };
}

/** Waits until the client reads from the replica: the master may answer first. */
async function near(client) {
  await until('the replica is nearest', async () => {
    const url = await client.nearest();
    if (url === replica.url) return true;
    client.transport.replicas.fail(url);
    return false;
  });
}

test('reads go to the replica and contain the writes that went to the master', async () => {
  const { client, log } = routed();
  await near(client);
  log.length = 0;
  const posts = client.collection('posts');
  for (let round = 0; round < 20; round++) {
    const { id } = await posts.create({ title: `round ${round}` });
    assert.equal((await posts.getOne(id)).title, `round ${round}`);
    assert.equal(client.replicaId, log.at(-1) === 'GET replica' ? 'near' : '');
  }
  assert.equal(log.filter((it) => it === 'POST master').length, 20);
  assert.ok(log.filter((it) => it === 'GET replica').length >= 20);
  assert.equal(log.includes('POST replica'), false);
});

test('a fresh read goes to the master', async () => {
  const { client, log } = routed();
  await near(client);
  log.length = 0;
  await client.collection('posts').getList({ fresh: true });
  assert.deepEqual(log, ['GET master']);
});

test('a client of a replica alone finds the master for its writes', async () => {
  const { client, log } = routed(replica.url, []);
  const made = await client.collection('posts').create({ title: 'by the replica' });
  assert.deepEqual(log, ['POST replica', 'POST master']);
  await client.collection('posts').create({ title: 'now directly' });
  assert.equal(log.at(-1), 'POST master');
  assert.equal((await client.collection('posts').getOne(made.id)).title, 'by the replica');
});

test('files are read from the replica', async () => {
  const { client, log } = routed();
  const made = await client.collection('posts').create({ title: 'file', doc: new File(['content'], 'f.txt') });
  await near(client);
  log.length = 0;
  assert.equal(await (await client.files.download(made, made.doc)).text(), 'content');
  assert.equal(log[0], 'GET replica');
});

test('live lists and subscriptions are served by the master', async () => {
  const { client } = routed();
  await near(client);
  let titles = [];
  const list = client.collection('posts').live({ filter: 'views = 7' }, (items) => (titles = items.map((it) => it.title)));
  await list.ready;
  await client.collection('posts').create({ title: 'live', views: 7 });
  await until('the record', () => titles.length === 1);
  client.close();
});

test('a replica that does not have the write yet is passed over', async () => {
  const { client, log } = routed();
  await near(client);
  const posts = client.collection('posts');
  const { id } = await posts.create({ title: 'first' });
  await posts.getOne(id);
  // A version of the future: the replica waits for it in vain, then names the master.
  const versions = client.transport.replicas;
  const later = versions.versions('default').replace(/\d+$/, (number) => String(Number(number) + 1000));
  versions.note(new Headers({ 'X-Vski-Version': later }));
  log.length = 0;
  assert.equal((await posts.getOne(id)).title, 'first');
  assert.deepEqual(log, ['GET replica', 'GET master']);
});

test('without the replica the master answers', async () => {
  const { client, log } = routed();
  await near(client);
  await replica.kill();
  log.length = 0;
  assert.ok((await client.collection('posts').getList()).totalItems > 0);
  assert.deepEqual(log, ['GET replica', 'GET master']);
  assert.equal(client.replicaId, '');
});
