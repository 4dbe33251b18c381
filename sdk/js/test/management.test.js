import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { before, test } from 'node:test';
import { VskiClient } from 'vski';
import { OPEN, Server, refused, until } from './support/server.js';

/** @type {Server} */ let server;
let admin, stranger;
before(async () => {
  server = await Server.start();
  admin = await server.admin();
  stranger = new VskiClient(server.url);
});

test('definitions of collections', async () => {
  const { collections } = admin.settings;
  const made = await collections.create({ name: 'things', fields: [{ name: 'name', type: 'text', max: 10 }] });
  assert.equal((await collections.get('things')).id, made.id);
  assert.equal((await collections.update('things', { listRule: '' })).listRule, '');
  assert.ok((await collections.list()).some((it) => it.name === 'things'));
  await assert.rejects(collections.create({ name: 'bad name' }), (error) => 'name' in error.fields);
  await assert.rejects(stranger.settings.collections.list(), refused('unauthenticated'));
  await collections.delete('things');
  await assert.rejects(collections.get('things'), refused('not_found'));
});

test('runs are started, found, cancelled and awaited', async () => {
  const { workflow } = admin;
  const started = await workflow.trigger('order', [{ id: 1 }], { idempotencyKey: 'o-1', attributes: { vip: true } });
  assert.deepEqual([started.status, started.isNew], ['pending', true]);
  assert.equal((await workflow.trigger('order', [], { idempotencyKey: 'o-1' })).runId, started.runId);
  assert.deepEqual(await workflow.input(started.runId), [{ id: 1 }]);
  const later = await workflow.trigger('order', 'x', { runAt: new Date(Date.now() + 3_600_000) });
  const found = await workflow.list({ workflow: 'order', attributes: { vip: true } });
  assert.deepEqual(found.items.map((it) => it.runId), [started.runId]);
  const all = [];
  for await (const run of workflow.iterate({ workflow: 'order', limit: 1 })) all.push(run.runId);
  assert.deepEqual(all, [later.runId, started.runId]);
  assert.ok((await workflow.queue()).items.some((it) => it.workflow === 'order'));
  assert.deepEqual([await workflow.workers(), (await workflow.steps(later.runId)).items], [[], []]);
  await assert.rejects(workflow.wait(started.runId, { timeout: 100 }), refused('timeout'));
  const ended = workflow.wait(started.runId);
  await workflow.cancel(started.runId, 'enough');
  assert.deepEqual([(await ended).status, (await ended).reason], ['cancelled', 'enough']);
  assert.ok((await workflow.events(started.runId)).items.length >= 2);
  assert.equal((await workflow.journal(later.runId)).more, false);
  await assert.rejects(workflow.retry(started.runId), refused('conflict'));
  const fork = await workflow.fork(started.runId);
  assert.equal(fork.forkedFrom, started.runId);
  const { items } = await workflow.bulk.cancel({ ids: [fork.runId, later.runId, 'wrun_none'] });
  assert.deepEqual(items.map((it) => it.status ?? 'error'), ['cancelled', 'cancelled', 'error']);
  await assert.rejects(workflow.deliver('no-such-token', {}), refused('not_found'));
  await assert.rejects(workflow.get('wrun_none'), refused('not_found'));
  await assert.rejects(stranger.workflow.trigger('order'), refused('unauthenticated'));
});

test('an event engine writes events', async () => {
  const { runId } = await admin.workflow.trigger('external', []);
  const { eventId } = await admin.workflow.writeEvent(runId, { type: 'run_started' });
  assert.ok(eventId);
});

test('an account starts a run about a record by the rules', async () => {
  await admin.settings.collections.create({ name: 'orders', ...OPEN, executeRule: '', executeWorkflows: ['ship'], fields: [{ name: 'n', type: 'number' }] });
  const order = await stranger.collection('orders').create({ n: 1 });
  const about = { collection: 'orders', record: order.id };
  assert.equal((await stranger.workflow.trigger('ship', [], about)).status, 'pending');
  await assert.rejects(stranger.workflow.trigger('other', [], about), refused('forbidden'));
});

test('webhooks and their log', async () => {
  const bodies = [];
  const receiver = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk) => (text += chunk)).on('end', () => (bodies.push(JSON.parse(text)), response.end()));
  });
  await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  const hook = await admin.webhooks.create({ name: 'hook', url: `http://127.0.0.1:${receiver.address().port}/` });
  const { id } = await admin.webhooks.call(hook.id, { hello: 1 });
  await until('the call', () => bodies.length === 1);
  assert.deepEqual(bodies, [{ hello: 1 }]);
  await until('success in the log', async () => (await admin.webhooks.log(id)).status === 'success');
  assert.equal((await admin.webhooks.logs({ name: 'hook', status: 'success' })).totalItems, 1);
  assert.equal((await admin.webhooks.retry('failed')).count, 0);
  assert.match(await admin.webhooks.secret(), /^whsec_/);
  assert.equal((await admin.webhooks.update(hook.id, { active: false })).active, false);
  assert.equal((await admin.webhooks.get(hook.id)).name, 'hook');
  await assert.rejects(admin.webhooks.create({ name: 'hook', url: 'http://x.example' }), refused('conflict'));
  await admin.webhooks.delete(hook.id);
  assert.deepEqual(await admin.webhooks.list(), []);
  receiver.close();
});

test('jobs', async () => {
  const job = await admin.cron.create({ name: 'tidy', schedule: '@yearly', type: 'sql', sql: 'SELECT 1', database: 'stats' });
  await admin.cron.run('tidy');
  await until('the run', async () => (await admin.cron.runs('tidy')).items[0]?.status === 'success');
  assert.equal((await admin.cron.update(job.id, { schedule: '@daily' })).schedule, '@daily');
  assert.equal((await admin.cron.get('tidy')).id, job.id);
  assert.equal((await admin.cron.list()).length, 1);
  await assert.rejects(admin.cron.create({ name: 'bad', schedule: 'never', type: 'sql', sql: 'SELECT 1' }), (error) => 'schedule' in error.fields);
  await admin.cron.delete('tidy');
});

test('health, statistics, the state of replicas, a purge', async () => {
  assert.equal((await stranger.health()).message, 'API is healthy.');
  assert.ok((await admin.stats({ by: 'total' })).requests.length >= 0);
  assert.equal((await admin.replicaStatus()).role, 'master');
  await admin.settings.databases.create('trash');
  assert.deepEqual(await admin.settings.databases.purge('trash'), { collections: 0, fields: 0, files: 0 });
  await admin.settings.databases.delete('trash');
});
