import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { VskiClient, filter } from 'vski';
import { comparison } from '../src/order.js';
import { OPEN, POSTS, Server, refused, until } from './support/server.js';

/** @type {Server} */ let server;
let client, posts;
before(async () => {
  server = await Server.start();
  const admin = await server.admin();
  await admin.settings.collections.create({ name: 'posts', ...OPEN, fields: POSTS.fields.slice(0, 3) });
  await admin.settings.collections.create({ name: 'closed', fields: POSTS.fields.slice(0, 1) });
  client = new VskiClient(server.url);
  posts = client.collection('posts');
});

/** A live list and the titles that it has told last. */
async function live(options) {
  const it = { titles: null, calls: 0 };
  it.list = posts.live(options, (items) => {
    it.titles = items.map((item) => item.title).join(' ');
    it.calls++;
  });
  await it.list.ready;
  it.is = (titles) => until(`"${titles}" is shown, not "${it.titles}"`, () => it.titles === titles, 15_000)
    .catch(() => assert.equal(it.titles, titles));
  return it;
}

const inGroup = (views) => ({ filter: filter`views = ${views}`, sort: ['title'] });

test('a live list follows changes, in its order', async () => {
  const [b] = await posts.bulkCreate([{ title: 'b', views: 1 }, { title: 'd', views: 1 }]);
  const it = await live(inGroup(1));
  await it.is('b d');
  await posts.create({ title: 'c', views: 1 });
  await it.is('b c d');
  await posts.update(b.id, { title: 'e' });
  await it.is('c d e');
  await posts.create({ title: 'of another group', views: 99 });
  await posts.delete(b.id);
  await it.is('c d');
  it.list.stop();
});

test('a record that ceases to match leaves the list, and can return', async () => {
  const [a] = await posts.bulkCreate([{ title: 'a', views: 2 }, { title: 'b', views: 2 }]);
  const it = await live(inGroup(2));
  await it.is('a b');
  await posts.update(a.id, { views: 3 });
  await it.is('b');
  await posts.update(a.id, { views: 2 });
  await it.is('a b');
  it.list.stop();
});

test('a limit shows the first ones, and fills up again', async () => {
  const made = await posts.bulkCreate(['b', 'c', 'd', 'e'].map((title) => ({ title, views: 4 })));
  const it = await live({ ...inGroup(4), limit: 3 });
  await it.is('b c d');
  await posts.create({ title: 'a', views: 4 });
  await it.is('a b c');
  await posts.delete(made[0].id);
  await it.is('a c d');
  await posts.update(made[1].id, { title: 'z' });
  await it.is('a d e');
  it.list.stop();
});

test('a list without a sort keeps the order of creation', async () => {
  await posts.bulkCreate(['z', 'y'].map((title) => ({ title, views: 5 })));
  const it = await live({ filter: 'views = 5' });
  await it.is('z y');
  const outside = await posts.create({ title: 'x', views: 0 });
  await posts.create({ title: 'w', views: 5 });
  await it.is('z y w');
  await posts.update(outside.id, { views: 5 });
  await it.is('z y x w');
  it.list.stop();
});

test('a kill of the server in between loses nothing', async () => {
  const it = await live(inGroup(6));
  await posts.create({ title: 'a', views: 6 });
  await it.is('a');
  await server.kill();
  await server.restart();
  await posts.create({ title: 'b', views: 6 });
  await it.is('a b');
  it.list.stop();
});

test('changes while the list is read are not lost', async () => {
  for (let round = 0; round < 5; round++) {
    const views = 100 + round;
    const writes = Array.from({ length: 20 }, (_, number) => posts.create({ title: String(number).padStart(2, '0'), views }));
    const it = await live(inGroup(views));
    await Promise.all(writes);
    await it.is(Array.from({ length: 20 }, (_, number) => String(number).padStart(2, '0')).join(' '));
    it.list.stop();
  }
});

test('many random changes leave the list as the server has it', async () => {
  const it = await live({ filter: 'views >= 1000 && views < 2000', sort: ['-views', 'title'], limit: 8 });
  const made = await posts.bulkCreate(Array.from({ length: 12 }, (_, number) => ({ title: `r${number}`, views: 1000 + number })));
  await Promise.all(made.map(async ({ id }, index) => {
    for (let round = 0; round < 6; round++) {
      const views = 1000 + ((index * 7919 + round * 104_729) % 1500);
      await posts.update(id, { views });
    }
    if (index % 5 === 0) await posts.delete(id);
  }));
  const wanted = await posts.getList({ filter: 'views >= 1000 && views < 2000', sort: ['-views', 'title'], perPage: 8 });
  await it.is(wanted.items.map((item) => item.title).join(' '));
  it.list.stop();
});

test('a list that may not be read says so', async () => {
  const errors = [];
  const list = client.collection('closed').live({ onError: (error) => errors.push(error.status) }, () => {});
  await assert.rejects(list.ready, refused(403));
  assert.deepEqual(errors, [403]);
  const bad = posts.live({ sort: /** @type {any} */ ('nonsense'), onError: (error) => errors.push(error.status) }, () => {});
  await assert.rejects(bad.ready, refused(400));
  assert.deepEqual(errors, [403, 400]);
  client.close();
});

test('the order of records is that of the server', () => {
  const compare = comparison(['-a', 'b']);
  const records = [{ id: '1', a: null, b: 'x' }, { id: '2', a: 2, b: 'y' }, { id: '3', a: 2, b: 'x' }, { id: '4', a: true, b: '' }];
  assert.deepEqual(records.sort(compare).map((it) => it.id), ['3', '2', '4', '1']);
  assert.equal(comparison(['author.name']), undefined);
  assert.equal(comparison([]), undefined);
});
