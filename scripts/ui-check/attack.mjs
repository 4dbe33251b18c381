// What others write is text in the dashboard, whoever wrote it; credentials of others get nothing; no other page frames it.

import assert from 'node:assert/strict';
import { createHmac, hkdfSync } from 'node:crypto';
import { createServer } from 'node:http';
import { apiOf, SECRET } from './server.mjs';

const EVIL = '<img src=x onerror=alert(1)>"\'><script>alert(2)</script>';
/** What only an admin may call, as far as the dashboard uses it. */
const ADMIN_PATHS = ['/api/admins', '/api/keys', '/api/settings', '/api/settings/options', '/api/files', '/api/backups', '/api/logs', '/api/cron', '/api/webhooks', '/api/webhooks/logs', '/api/webhooks/secret'];

/**
 * @param {(storage: Record<string, string>, options?: {isQuiet?: boolean}) => Promise<import('playwright-core').Page>} open
 * @param {string} session of the admin
 * @param {string} url
 * @param {(text: string) => void} report
 */
export async function attack(open, session, url, report) {
  const { token } = JSON.parse(session);
  const api = apiOf(url, token);
  const places = await plant(url, api, token);
  const page = await open({ 'vski-dashboard': session });
  for (const [path, wanted] of places) {
    await page.goto(`${url}/_/${path}`);
    await page.waitForFunction((text) => [document.body.innerText, ...[...document.querySelectorAll('input, textarea')].map((it) => /** @type {any} */ (it).value)].join('\n').includes(text), wanted)
      .catch(() => report(`${path} does not show ${wanted}`));
    if (await page.locator('img[src="x"], script:not([src])').count() > 0) report(`stored content is markup at ${path}`);
  }
  await page.close();
  console.log(`ok  stored HTML is text in ${places.length} places`);
  await refuseOthers(open, url, api);
  console.log('ok  a user, keys of each scope and a replica get nothing of an admin');
  await frameAndFetch(open, url, token);
  console.log('ok  another origin can neither frame nor read it');
}

/** Stores hostile text wherever the server takes it. Returns addresses, and text that each has to show. */
async function plant(url, api, token) {
  const fields = [
    ...['text', 'editor', 'json'].map((type) => ({ name: `a_${type}`, type })),
    { name: 'a_select', type: 'select', values: [EVIL, 'b'] }, { name: 'a_file', type: 'file', maxSelect: 2 },
  ];
  const made = await api('POST', '/api/collections', { name: 'hostile', fields, listRule: `a_text != "${EVIL.replaceAll('"', '')}"` });
  assert.equal(made.status, 200, JSON.stringify(made.data));
  await api('PATCH', '/api/collections/hostile', { fields: [...made.data.fields, { name: 'a_relation', type: 'relation', collectionId: made.data.id }] });
  const first = (await api('POST', '/api/collections/hostile/records', { a_text: EVIL, a_editor: EVIL, a_json: { [EVIL]: EVIL }, a_select: EVIL })).data;
  const form = new FormData();
  for (const [name, value] of Object.entries({ a_text: EVIL, a_relation: first.id })) form.append(name, value);
  form.append('a_file', new Blob(['x']), '"><img src=x onerror=alert(3)>.txt');
  const second = await (await fetch(`${url}/api/collections/hostile/records`, { method: 'POST', body: form, headers: { Authorization: `Bearer ${token}` } })).json();
  await api('POST', '/api/keys', { name: EVIL, scopes: ['read'] });
  const run = await api('POST', '/api/workflow/runs', { workflow: 'hostile', input: EVIL, attributes: { evil: EVIL.slice(0, 40) } });
  await fetch(`${url}/api/none/${encodeURIComponent(EVIL)}`, { headers: { 'User-Agent': EVIL } });
  await api('POST', '/api/webhooks', { name: EVIL, collection: 'hostile', target: { type: 'workflow', workflow: 'hostile' } });
  const img = '<img src=x onerror=alert(';
  return [
    ['records/hostile', img], [`records/hostile?record=${first.id}`, img], [`records/hostile?record=${second.id}`, second.a_file[0]], [`records/hostile?filter=${encodeURIComponent(`a_text = '${EVIL}`)}`, 'hostile'],
    ['collections/hostile', 'a_text'], ['collections/hostile?tab=rules', 'listRule'], ['collections/hostile?tab=json', img], ['collections/hostile?tab=api', 'curl'], [`sql?q=${encodeURIComponent(`SELECT '${EVIL.replaceAll("'", "''")}'`)}`, 'Run'],
    ['access/keys', img], ['webhooks', 'Webhooks'], ['workflows', 'hostile'], [`workflows/runs/${run.data.runId}`, img], [`workflows/runs/${run.data.runId}?tab=data`, img], ['requests/log?search=onerror', img], [`settings?search=${encodeURIComponent(EVIL)}`, 'Settings'], [encodeURIComponent(EVIL), 'There is no such screen.'],
  ];
}

/** @param {any} open @param {string} url @param {any} api */
async function refuseOthers(open, url, api) {
  const signedIn = (await api('POST', '/api/collections/members/auth-with-password', { identity: 'grace@example.com', password: 'another password' })).data;
  /** @type {[string, Record<string, string>][]} */
  const callers = [['a user', { Authorization: `Bearer ${signedIn.token}` }], ['a replica', { Authorization: `Bearer ${replicaToken()}`, 'X-Replica-Id': 'other' }]];
  for (const scope of ['read', 'write', 'collections', 'databases', 'service']) {
    const { key } = (await api('POST', '/api/keys', { name: `only ${scope}`, scopes: [scope] })).data;
    callers.push([`a key to ${scope}`, { 'X-API-Key': key }]);
  }
  for (const [caller, headers] of callers) {
    for (const path of ADMIN_PATHS) {
      const { status } = await fetch(url + path, { headers });
      assert.ok(status === 401 || status === 403, `${caller} got ${status} from ${path}`);
    }
    const { status } = await fetch(`${url}/api/sql`, { method: 'POST', headers: { ...headers, 'Content-Type': 'application/json' }, body: '{"sql": "SELECT 1"}' });
    assert.ok(status === 401 || status === 403, `${caller} got ${status} from /api/sql`);
  }
  const page = await open({ 'vski-dashboard': JSON.stringify({ token: signedIn.token, user: signedIn.record }) });
  await page.goto(`${url}/_/access`);
  await page.getByRole('alert').or(page.getByLabel('Password')).first().waitFor();
  await page.close();
}

/** A token as a replica has it, made with the secret of the server. */
function replicaToken() {
  const encode = (/** @type {any} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const key = Buffer.from(hkdfSync('sha256', SECRET, '', 'vski replica tokens', 32));
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub: 'other', purpose: 'replica', key: '', exp: Math.floor(Date.now() / 1000) + 300 })}`;
  return `${signed}.${createHmac('sha256', key).update(signed).digest('base64url')}`;
}

/** A page of another origin frames the dashboard and calls the API. @param {any} open @param {string} url @param {string} token */
async function frameAndFetch(open, url, token) {
  const other = createServer((_, answer) => answer.end(`<!doctype html><iframe src="${url}/_/"></iframe>`)).listen(0, '127.0.0.1');
  await new Promise((resolve) => other.once('listening', resolve));
  const page = await open({}, { isQuiet: true });
  await page.goto(`http://127.0.0.1:${/** @type {any} */ (other.address()).port}/`);
  await page.waitForLoadState('networkidle');
  const [, frame] = page.frames();
  assert.ok(!frame || !(await frame.content()).includes('id="app"'), 'another page frames the dashboard');
  const read = await page.evaluate(([address, bearer]) => fetch(`${address}/api/admins`, { headers: { Authorization: `Bearer ${bearer}` } }).then(() => 'read', () => 'refused'), [url, token]);
  assert.equal(read, 'refused');
  await page.close();
  other.close();
}
