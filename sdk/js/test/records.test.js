import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { VskiClient, filter, ignoredFields, likeText } from 'vski';
import { OPEN, POSTS, Server, refused } from './support/server.js';

/** @type {Server} */ let server;
let admin, client, posts;
before(async () => {
  server = await Server.start();
  admin = await server.admin();
  const { fields, ...rest } = POSTS;
  await admin.settings.collections.create({ ...rest, fields: fields.filter((it) => it.type !== 'relation') });
  await admin.settings.collections.update('posts', { fields });
  client = new VskiClient(server.url);
  posts = client.collection('posts');
});

test('a record is created, read, changed and deleted', async () => {
  const post = await posts.create({ title: 'one', views: 1 });
  assert.equal(post.collectionName, 'posts');
  assert.deepEqual(await posts.getOne(post.id), post);
  const changed = await posts.update(post.id, { 'views+': 2, 'tags+': 'a' });
  assert.deepEqual([changed.views, changed.tags], [3, ['a']]);
  await posts.delete(post.id);
  await assert.rejects(posts.getOne(post.id), refused('not_found'));
});

test('an error names the fields, the request and its status', async () => {
  await assert.rejects(posts.create({ titel: 'x' }), (error) => {
    assert.equal(error.status, 400);
    assert.equal(error.code, 'invalid');
    assert.equal(error.fields.title.code, 'validation_required');
    assert.match(error.requestId, /\S/);
    return true;
  });
});

test('a name that is no field is passed over, and named', async () => {
  const post = await posts.create({ title: 'x', titel: 'y' });
  assert.deepEqual([post.titel, ignoredFields(post)], [undefined, ['titel']]);
  assert.deepEqual(ignoredFields(await posts.getOne(post.id)), []);
});

test('a change with ifMatch is refused if the record has changed since', async () => {
  const post = await posts.create({ title: 'tagged' });
  const changed = await posts.update(post.id, { views: 1 }, { ifMatch: post });
  await assert.rejects(posts.update(post.id, { views: 2 }, { ifMatch: post }), refused('changed'));
  await assert.rejects(posts.delete(post.id, { ifMatch: post }), refused(412));
  const [listed] = (await posts.getList({ filter: filter`id = ${post.id}` })).items;
  await assert.rejects(posts.delete(post.id, { ifMatch: listed }), refused('invalid'));
  await posts.delete(post.id, { ifMatch: changed });
});

test('lists have pages, a sort, a filter, fields and expansions', async () => {
  const parent = await posts.create({ title: 'list parent' });
  await posts.bulkCreate([1, 2, 3].map((views) => ({ title: 'list', views, parent: parent.id })));
  const query = { filter: filter`title = ${'list'}`, sort: ['-views'], perPage: 2 };
  const page = await posts.getList({ ...query, expand: ['parent'] });
  assert.deepEqual([page.totalItems, page.totalPages, page.items.map((it) => it.views)], [3, 2, [3, 2]]);
  assert.equal(page.items[0].expand.parent.title, 'list parent');
  const some = await posts.getList({ ...query, page: 2, fields: ['id', 'views'], skipTotal: true });
  assert.deepEqual([some.totalItems, Object.keys(some.items[0]).sort()], [-1, ['id', 'views']]);
  assert.equal((await posts.getFirst(query.filter, { sort: 'views' })).views, 1);
  await assert.rejects(posts.getFirst(filter`title = ${'none'}`), refused(404));
  await assert.rejects(posts.getList({ filter: 'nonsense = ' }), refused('invalid'));
});

test('iterate reads every record once, in pages', async () => {
  await posts.bulkCreate(Array.from({ length: 25 }, (_, views) => ({ title: 'many', views })));
  const views = [];
  for await (const post of posts.iterate({ filter: filter`title = ${'many'}`, perPage: 10, fields: ['views', 'id'] })) {
    views.push(post.views);
    if (views.length === 5) await posts.delete(post.id);
  }
  assert.deepEqual(views.sort((a, b) => a - b), Array.from({ length: 25 }, (_, number) => number));
  const sorted = await posts.getFullList({ filter: 'title = "many"', sort: '-views', perPage: 7 });
  assert.equal(sorted.length, 24);
  assert.ok(sorted.every((it, at) => at === 0 || it.views < sorted[at - 1].views));
});

test('values in a filter stay values', async () => {
  for (const title of [`it's`, 'a\\', '"quoted"', "' || id != '", '100%', 'line\nbreak', '\\\'']) {
    await posts.create({ title });
    const found = await posts.getFullList({ filter: filter`title = ${title}` });
    assert.deepEqual(found.map((it) => it.title), [title]);
  }
  const like = await posts.getFullList({ filter: filter`title ~ ${likeText('100%')}` });
  assert.deepEqual(like.map((it) => it.title), ['100%']);
  const listed = await posts.getFullList({ filter: filter`title IN ${['it\'s', '100%']} && created < ${new Date(Date.now() + 60_000)}` });
  assert.equal(listed.length, 2);
  assert.throws(() => filter`a = ${NaN}`, TypeError);
  assert.throws(() => filter`a = ${[]}`, TypeError);
});

test('upsert creates and then changes', async () => {
  assert.equal((await posts.upsert({ id: 'fixed', title: 'first' })).title, 'first');
  assert.equal((await posts.upsert({ id: 'fixed', title: 'second' })).title, 'second');
  await assert.rejects(posts.upsert({ id: 'other', title: '' }), (error) => error.fields.title.code === 'validation_required');
  await posts.bulkUpsert([{ id: 'fixed', title: 'third' }, { id: 'fixed2', title: 'new' }]);
  assert.equal((await posts.getOne('fixed')).title, 'third');
});

test('bulk changes are all or nothing', async () => {
  const made = await posts.bulkCreate([{ title: 'bulk' }, { title: 'bulk' }]);
  const ids = made.map((it) => it.id);
  assert.deepEqual((await posts.bulkUpdate(ids, { views: 9 })).map((it) => it.views), [9, 9]);
  await assert.rejects(posts.bulkCreate([{ title: 'bulk' }, { title: '' }]), (error) => error.fields['requests.1.title'].code === 'validation_required' && 'requests.1' in error.fields);
  await posts.bulkDelete(ids);
  assert.equal((await posts.getList({ filter: 'title = "bulk"' })).totalItems, 0);
});

test('a batch changes several collections at once, with files', async () => {
  await admin.settings.collections.create({ name: 'notes', ...OPEN, fields: [{ name: 'text', type: 'text' }] });
  const batch = client.batch();
  batch.collection('posts').create({ id: 'batched', title: 'batch', doc: new File(['content'], 'a.txt') });
  batch.collection('notes').upsert({ id: 'note', text: 'hello' });
  batch.collection('posts').update('batched', { views: 5 });
  const answers = await batch.send();
  assert.deepEqual(answers.map((it) => it.status), [200, 200, 200]);
  assert.match((await posts.getOne('batched')).doc, /\.txt$/);
  const bad = client.batch();
  bad.collection('notes').delete('note');
  bad.collection('posts').create({ title: '' });
  await assert.rejects(bad.send(), (error) => 'requests.1.title' in error.fields);
  assert.equal((await client.collection('notes').getOne('note')).text, 'hello');
});

test('records of another database are apart', async () => {
  await admin.settings.databases.create('shop');
  const shop = admin.db('shop');
  await shop.settings.collections.create({ name: 'goods', ...OPEN, fields: [{ name: 'name', type: 'text' }] });
  const made = await shop.collection('goods').create({ name: 'lamp' });
  assert.equal((await client.db('shop').collection('goods').getOne(made.id)).name, 'lamp');
  await assert.rejects(admin.collection('goods').getOne(made.id), refused(404));
  assert.ok((await admin.settings.databases.list()).some((it) => it.name === 'shop'));
  await admin.settings.databases.delete('shop');
});

test('a name cannot leave its place in the path', () => {
  assert.throws(() => client.collection('..'), TypeError);
  assert.throws(() => client.collection(''), TypeError);
  assert.equal(client.collection('a/b').path, '/api/collections/a%2Fb/records');
});
