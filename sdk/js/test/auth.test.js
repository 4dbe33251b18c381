import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { MemoryStore, VskiClient } from 'vski';
import { OPEN, Server, refused, until } from './support/server.js';

/** @type {Server} */ let server;
let admin;
before(async () => {
  server = await Server.start({ TOKEN_HOURS: '1' });
  admin = await server.admin();
  const rules = { ...OPEN, updateRule: 'id = @request.auth.id' };
  const fields = [{ name: 'name', type: 'text' }];
  await admin.settings.collections.create({ name: '_users', type: 'auth', ...rules, fields });
  await admin.settings.collections.create({ name: 'members', type: 'auth', ...rules, fields });
});

const account = (name) => ({ email: `${name}@example.com`, password: 'password-1', passwordConfirm: 'password-1' });

test('an account registers, signs in, and out', async () => {
  const client = new VskiClient(server.url);
  const seen = [];
  const stop = client.auth.onChange((session) => seen.push(session?.user.email ?? null));
  await client.auth.register(account('ann'));
  assert.equal(client.auth.isSignedIn, false);
  const { token, user } = await client.auth.login('ann@example.com', 'password-1');
  assert.equal(user.email, 'ann@example.com');
  assert.equal(client.auth.token, token);
  assert.equal((await client.auth.me()).id, user.id);
  await client.auth.logout();
  stop();
  await assert.rejects(client.auth.me(), refused('unauthenticated'));
  assert.deepEqual(seen, ['ann@example.com', null]);
  assert.equal((await client.auth.methods()).password.enabled, true);
});

test('a wrong password is refused and keeps the session', async () => {
  const client = new VskiClient(server.url);
  await client.auth.register(account('bob'));
  await client.auth.login('bob@example.com', 'password-1');
  await assert.rejects(client.auth.login('bob@example.com', 'wrong'), refused('unauthenticated'));
  assert.equal(client.auth.isSignedIn, true);
  await assert.rejects(client.auth.register(account('bob')), refused('invalid'));
});

test('an account changes its password, and its other sessions end', async () => {
  const [client, other] = [new VskiClient(server.url), new VskiClient(server.url)];
  await client.auth.register(account('carl'));
  for (const it of [client, other]) await it.auth.login('carl@example.com', 'password-1');
  await assert.rejects(client.auth.changePassword({ oldPassword: 'no', password: 'password-2' }), refused(400));
  await client.auth.changePassword({ oldPassword: 'password-1', password: 'password-2' });
  assert.equal((await client.auth.me()).email, 'carl@example.com');
  await assert.rejects(other.auth.me(), refused('unauthenticated'));
  assert.equal(other.auth.session, null, 'a token that cannot be renewed ends the session');
});

test('the links of mails verify, reset and change the address', async () => {
  const client = new VskiClient(server.url);
  await client.auth.register(account('dora'));
  await client.auth.requestVerification('dora@example.com');
  await client.auth.confirmVerification(await server.mailed());
  await client.auth.login('dora@example.com', 'password-1');
  assert.equal((await client.auth.me()).verified, true);
  await client.auth.requestPasswordReset('dora@example.com');
  const reset = await server.mailed();
  await assert.rejects(client.auth.confirmPasswordReset('nonsense', 'password-2'), refused(400));
  await client.auth.confirmPasswordReset(reset, 'password-2');
  await client.auth.login('dora@example.com', 'password-2');
  await client.auth.requestEmailChange('dora@example.org');
  await client.auth.confirmEmailChange(await server.mailed(), 'password-2');
  await client.auth.login('dora@example.org', 'password-2');
});

test('accounts of another collection sign in by its name', async () => {
  const client = new VskiClient(server.url);
  const members = client.auth.collection('members');
  await members.register({ ...account('eva'), name: 'Eva' });
  const { user } = await members.login('eva@example.com', 'password-1');
  assert.equal(user.collectionName, 'members');
  await members.refresh();
  assert.equal((await client.auth.me()).name, 'Eva');
  assert.equal((await client.auth.update({ name: 'Eve' })).name, 'Eve');
  assert.equal(client.auth.user.name, 'Eve');
  await assert.rejects(members.login('eva@example.com', 'wrong'), refused('unauthenticated'));
  const { token } = await admin.auth.collection('members').impersonate(user.id, { duration: 60 });
  assert.equal((await new VskiClient(server.url, { token }).auth.me()).id, user.id);
  await assert.rejects(members.impersonate(user.id), refused('forbidden'));
});

test('a session is stored, and an async store works', async () => {
  let kept = null;
  const store = { load: async () => kept, save: async (session) => void (kept = session) };
  const first = new VskiClient(server.url, { store });
  await first.auth.register(account('finn'));
  await first.auth.login('finn@example.com', 'password-1');
  const second = new VskiClient(server.url, { store });
  assert.equal((await second.auth.me()).email, 'finn@example.com');
  await second.auth.logout();
  assert.equal(kept, null);
});

test('a token is renewed before it expires, by one request', async () => {
  const calls = [];
  const fetcher = (url, init) => (calls.push(new URL(url).pathname), fetch(url, init));
  const store = new MemoryStore();
  const client = new VskiClient(server.url, { store, fetch: fetcher });
  await client.auth.register(account('gina'));
  const { token } = await client.auth.login('gina@example.com', 'password-1');
  const hoursAgo = Date.now() - 100 * 3_600_000;
  await client.transport.session.set({ ...client.auth.session, obtained: hoursAgo });
  calls.length = 0;
  await Promise.all([client.auth.me(), client.auth.me(), client.auth.me()]);
  assert.equal(calls.filter((it) => it === '/api/auth/refresh').length, 1);
  assert.ok(client.auth.session.obtained > hoursAgo);
  await client.auth.me();
  assert.equal(calls.filter((it) => it === '/api/auth/refresh').length, 1);
  assert.ok(token && client.auth.token);
  const manual = new VskiClient(server.url, { store, fetch: fetcher, autoRefresh: false });
  await manual.transport.session.set({ ...client.auth.session, obtained: hoursAgo });
  await manual.auth.me();
  assert.equal(calls.filter((it) => it === '/api/auth/refresh').length, 1);
});

test('admins and keys', async () => {
  assert.equal(admin.auth.session.kind, 'admin');
  await admin.auth.refresh();
  const made = await admin.admins.create({ email: 'second@example.com', password: 'password-1' });
  await admin.admins.update(made.id, { email: 'third@example.com' });
  assert.ok((await admin.admins.list()).some((it) => it.email === 'third@example.com'));
  await admin.admins.delete(made.id);
  const { key, id } = await admin.keys.create({ name: 'reader', scopes: ['read'] });
  const reader = new VskiClient(server.url, { token: key });
  assert.ok((await reader.collection('members').getList()).totalItems > 0);
  await assert.rejects(reader.collection('members').create(account('x')), refused('forbidden'));
  assert.ok((await admin.keys.list()).some((it) => it.id === id));
  await admin.keys.delete(id);
  await assert.rejects(reader.collection('members').getList(), refused('unauthenticated'));
  reader.setToken((await admin.keys.serviceToken({ name: 'w' })).token);
  assert.ok(Array.isArray((await reader.workflow.list()).items));
  reader.setToken();
  await assert.rejects(reader.workflow.list(), refused('unauthenticated'));
});

test('no address contains a token', async () => {
  const urls = [];
  const sockets = [];
  class Recorder { constructor(url) { sockets.push(url); } close() {} }
  const client = new VskiClient(server.url, { fetch: (url, init) => (urls.push(String(url)), fetch(url, init)), WebSocket: Recorder });
  await client.auth.register(account('hans'));
  const { token } = await client.auth.login('hans@example.com', 'password-1');
  await client.auth.me();
  await client.collection('members').getList();
  client.collection('members').subscribe(() => {});
  await until('the socket', () => sockets.length > 0);
  client.close();
  for (const url of [...urls, ...sockets]) assert.ok(!url.includes(token), url);
});
