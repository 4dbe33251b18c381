import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { VskiClient } from 'vski';
import { OPEN, POSTS, Server, refused, until } from './support/server.js';

/** @type {Server} */ let server;
let admin;
before(async () => {
  server = await Server.start();
  admin = await server.admin();
  const fields = POSTS.fields.slice(0, 3);
  await admin.settings.collections.create({ name: 'posts', ...OPEN, fields });
  await admin.settings.collections.create({ name: 'closed', fields });
});

test('a subscriber gets every change, and none after it has ended', async () => {
  const client = new VskiClient(server.url);
  const posts = client.collection('posts');
  const events = [];
  const stop = posts.subscribe((event) => events.push(event), { filter: 'public = true' });
  await stop.ready;
  const post = await posts.create({ title: 'a', public: true });
  await posts.create({ title: 'hidden' });
  await posts.update(post.id, { title: 'b' });
  await posts.delete(post.id);
  await until('three events', () => events.length === 3);
  assert.deepEqual(events.map((it) => it.action), ['create', 'update', 'delete']);
  assert.equal(events[1].record.title, 'b');
  stop();
  await posts.create({ title: 'late', public: true });
  await pause(100);
  assert.equal(events.length, 3);
  client.close();
});

test('a refused subscription says why', async () => {
  const client = new VskiClient(server.url);
  const errors = [];
  for (const [collection, options, status] of [['closed', {}, 403], ['none', {}, 404], ['posts', { filter: 'x =' }, 400]]) {
    const stop = client.collection(collection).subscribe(() => {}, { ...options, onError: (error) => errors.push(error.status) });
    await assert.rejects(stop.ready, refused(status));
  }
  assert.deepEqual(errors, [403, 404, 400]);
  client.close();
});

test('one record alone can be followed', async () => {
  const client = new VskiClient(server.url);
  const posts = client.collection('posts');
  const [one, other] = await posts.bulkCreate([{ title: 'one' }, { title: 'other' }]);
  const seen = [];
  await posts.subscribe((event) => seen.push(event.record.title), { id: one.id, fields: ['title'] }).ready;
  await posts.update(other.id, { title: 'other 2' });
  await posts.update(one.id, { title: 'one 2' });
  await until('the event', () => seen.length === 1);
  assert.deepEqual(seen, ['one 2']);
  client.close();
});

test('signing in and out changes what a subscriber sees', async () => {
  const client = new VskiClient(server.url);
  const seen = [];
  await client.collection('posts').subscribe(() => {}).ready; // opens the connection
  client.setToken(admin.auth.token);
  const ended = new Promise((resolve) => {
    client.collection('closed').subscribe((event) => seen.push(event.record.title), { onError: resolve }).ready.catch(() => {});
  });
  await until('an event as admin', async () => {
    await admin.collection('closed').create({ title: 'x' });
    return seen.length > 0;
  });
  client.setToken();
  assert.ok([401, 403].includes((await ended).status));
  client.close();
});

test('after a broken connection no change is missing', async () => {
  const sockets = [];
  const { platformWebSocket } = await import('../src/websocket-node.js');
  const Platform = platformWebSocket();
  class Recorder extends Platform { constructor(url) { super(url); sockets.push(this); } }
  const client = new VskiClient(server.url, { WebSocket: Recorder });
  const posts = client.collection('posts');
  const titles = [];
  let resyncs = 0;
  await posts.subscribe((event) => titles.push(event.record.title), { onResync: () => resyncs++ }).ready;
  await posts.create({ title: '1' });
  await until('the first', () => titles.length === 1);
  sockets[0].close();
  await posts.create({ title: '2' });
  await posts.create({ title: '3' });
  await until('the rest', () => titles.length === 3);
  assert.deepEqual([titles, resyncs, sockets.length], [['1', '2', '3'], 0, 2]);
  client.close();
});

test('after a kill of the server subscribers reconnect, and are told to read again', async () => {
  const client = new VskiClient(server.url);
  const posts = client.collection('posts');
  const titles = [];
  let resyncs = 0;
  await posts.subscribe((event) => titles.push(event.record.title), { onResync: () => resyncs++ }).ready;
  await server.kill();
  await assert.rejects(posts.create({ title: 'lost' }, { timeout: 500 }), (error) => ['network', 'timeout'].includes(error.code));
  await server.restart();
  await until('resync', () => resyncs === 1);
  await posts.create({ title: 'after the kill' });
  await until('the event', () => titles.includes('after the kill'));
  client.close();
});

test('a client that starts before the server connects when it is there', async () => {
  await server.kill();
  const client = new VskiClient(server.url);
  const stop = client.collection('posts').subscribe(() => {});
  await pause(300);
  await server.restart();
  await stop.ready;
  client.close();
});

test('a database of its own has a socket of its own', async () => {
  await admin.settings.databases.create('shop');
  const shop = admin.db('shop');
  await shop.settings.collections.create({ name: 'goods', ...OPEN, fields: [{ name: 'name', type: 'text' }] });
  const seen = [];
  await shop.collection('goods').subscribe((event) => seen.push(event.record.name)).ready;
  await shop.collection('goods').create({ name: 'lamp' });
  await until('the event', () => seen.length === 1);
  admin.close();
});
