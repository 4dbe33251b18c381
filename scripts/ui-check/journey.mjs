// From an empty directory to an application with data: every step is made with the dashboard, and checked with the API.

import assert from 'node:assert/strict';
import { ADMIN, apiOf } from './server.mjs';

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
export async function journey(page, server) {
  const step = (/** @type {string} */ text) => console.log(`ok  ${text}`);
  await makeAdmin(page, server);
  step('the first admin');
  const token = await page.evaluate(() => JSON.parse(sessionStorage.getItem('vski-dashboard') ?? '{}').token);
  const api = apiOf(server.url, token);
  await makeCollection(page, server, api);
  step('a collection with fields and rules');
  await makeView(page, server, api);
  step('a view; definitions taken out and in');
  await editRecords(page, server, api);
  step('records: created, refused, changed, filtered, deleted');
  await makeAccount(page, server, api);
  step('an account that signs in');
  await makeKey(page, server);
  step('an API key that works');
  await makeJob(page, server, api);
  step('a job that runs');
  await makeWebhook(page, server, api);
  step('a webhook that is called');
  await startRun(page, server, api);
  step('a workflow run: started, cancelled, started again');
  await makeDatabase(page, server, api);
  step('a database');
  await runSql(page, server);
  step('SQL: run, refused, explained, saved as a file');
  await readSettings(page, server);
  step('settings');
  await makeBackup(page, server, api);
  step('a backup: made, its command shown, deleted');
  await useKeyboard(page, server);
  step('the keyboard');
  await signOutAndIn(page, server);
  step('signing out and in');
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function makeAdmin(page, server) {
  await page.goto(`${server.url}/installer`);
  await page.getByRole('button', { name: 'This server is new' }).click();
  await page.getByLabel('E-mail address').fill(ADMIN.email);
  await page.getByLabel('Password').fill('short');
  await page.getByRole('button', { name: 'Make the admin' }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByLabel('Password').fill(ADMIN.password);
  await page.getByRole('button', { name: 'Make the admin' }).click();
  await page.getByRole('heading', { name: 'Home' }).waitFor();
  await page.getByText('Three steps to the first request').waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeCollection(page, server, api) {
  await page.goto(`${server.url}/_/collections?new=1`);
  await page.getByLabel('Name').fill('posts');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('heading', { name: 'posts' }).waitFor();
  await page.getByRole('button', { name: 'Add a field' }).click();
  await page.getByLabel('Name').fill('views');
  await page.getByLabel('Type').selectOption('number');
  await page.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('link', { name: 'Rules', exact: true }).click();
  await page.getByLabel('Admins only').first().uncheck();
  await page.getByText('Everyone, also without signing in, can see records in lists.').waitFor();
  await page.getByRole('button', { name: 'Save...' }).click();
  await page.getByText('Adds the field views (number).').waitFor();
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.getByText('Definition changed.').waitFor();
  const { data } = await api('GET', '/api/collections/posts');
  assert.equal(data.listRule, '');
  assert.ok(data.fields.some((/** @type {any} */ field) => field.name === 'views' && field.type === 'number'));
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeView(page, server, api) {
  await page.goto(`${server.url}/_/collections?new=1`);
  await page.getByLabel('Name').fill('titles');
  await page.getByLabel('Type').selectOption('view');
  await page.getByLabel('SELECT').fill('SELECT id, title FROM posts');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('heading', { name: 'titles' }).waitFor();
  await page.goto(`${server.url}/_/collections`);
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Export' }).click();
  assert.equal((await download).suggestedFilename(), 'default-collections.json');
  await page.getByRole('button', { name: 'Import...' }).click();
  await page.getByLabel('Definitions (JSON)').fill('[{"name": "notes", "fields": [{"name": "text", "type": "text"}]}]');
  await page.getByRole('dialog').getByRole('button', { name: 'Import...' }).click();
  await page.getByText('Creates notes.').waitFor();
  await page.getByRole('button', { name: 'Import', exact: true }).click();
  await page.getByText('1 collection imported.').waitFor();
  assert.equal((await api('GET', '/api/collections/notes')).status, 200);
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function editRecords(page, server, api) {
  await page.goto(`${server.url}/_/records/posts`);
  await page.getByText('posts has no records yet.').waitFor();
  await page.getByRole('button', { name: 'New record' }).click();
  await page.getByLabel('title').fill('<img src=x onerror=alert(1)>');
  await page.getByLabel('views').fill('many');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Must be a number.').first().waitFor();
  await page.getByLabel('views').fill('41');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Record created.').waitFor();
  const [record] = (await api('GET', '/api/collections/posts/records')).data.items;
  assert.equal(record.views, 41);
  await page.getByRole('cell', { name: '<img src=x onerror=alert(1)>' }).click();
  await page.getByLabel('views').fill('42');
  await api('PATCH', `/api/collections/posts/records/${record.id}`, { title: 'changed elsewhere' });
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('The record has been changed by another client').waitFor();
  await page.getByRole('button', { name: 'Try again' }).click();
  await page.getByText('The record has been changed by another client').waitFor({ state: 'hidden' });
  await page.getByLabel('views').fill('42');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Record saved.').waitFor();
  assert.equal((await api('GET', `/api/collections/posts/records/${record.id}`)).data.views, 42);
  await page.getByLabel('Filter', { exact: true }).fill('viewz > 5');
  await page.getByRole('button', { name: 'Filter' }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByRole('button', { name: 'Clear' }).click();
  await page.getByLabel('Filter', { exact: true }).fill('elsewhere');
  await page.getByRole('button', { name: 'Filter' }).click();
  await page.getByRole('cell', { name: 'changed elsewhere' }).waitFor();
  await page.getByLabel('Filter', { exact: true }).fill('views > 100');
  await page.getByRole('button', { name: 'Filter' }).click();
  await page.getByText('No record matches the filter.').waitFor();
  await page.getByRole('button', { name: 'Clear' }).click();
  await page.getByLabel(`Select ${record.id}`).check();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByRole('dialog').getByRole('textbox').fill('posts');
  await page.getByRole('button', { name: 'Delete 1 record' }).click();
  await page.getByText('posts has no records yet.').waitFor();
  assert.equal((await api('GET', '/api/collections/posts/records')).data.totalItems, 0);
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeAccount(page, server, api) {
  await page.goto(`${server.url}/_/collections?new=1`);
  await page.getByLabel('Name').fill('members');
  await page.getByLabel('Type').selectOption('auth');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('heading', { name: 'members' }).waitFor();
  await page.getByRole('link', { name: 'Records', exact: true }).click();
  await page.getByRole('button', { name: 'New record' }).click();
  await page.getByLabel('email', { exact: true }).fill('grace@example.com');
  await page.getByLabel('password').first().fill('a long password');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Record created.').waitFor();
  const { status } = await api('POST', '/api/collections/members/auth-with-password', { identity: 'grace@example.com', password: 'a long password' });
  assert.equal(status, 200);
  await manageAccount(page, api);
}

/** What an admin does with an account: sessions end, another password, a token to act as it. @param {import('playwright-core').Page} page @param {any} api */
async function manageAccount(page, api) {
  const signIn = (/** @type {string} */ password) => api('POST', '/api/collections/members/auth-with-password', { identity: 'grace@example.com', password });
  const { token } = (await signIn('a long password')).data;
  const refresh = async () => (await fetch(`${new URL(page.url()).origin}/api/collections/members/auth-refresh`, { method: 'POST', headers: { Authorization: `Bearer ${token}` } })).status;
  assert.equal(await refresh(), 200);
  await page.getByRole('cell', { name: 'grace@example.com' }).click();
  await page.getByRole('button', { name: 'Account', exact: true }).click();
  await page.getByRole('button', { name: 'End all sessions...' }).click();
  await page.getByRole('button', { name: 'End all sessions', exact: true }).click();
  await page.getByText('All sessions have ended.').waitFor();
  assert.equal(await refresh(), 401);
  await page.getByRole('button', { name: 'Mark as verified' }).click();
  await page.getByRole('button', { name: 'Mark as not verified' }).waitFor();
  await page.getByLabel('New password').fill('short');
  await page.getByRole('button', { name: 'Set the password' }).click();
  await page.locator('.field .problem').waitFor();
  await page.getByLabel('New password').fill('another password');
  await page.getByRole('button', { name: 'Set the password' }).click();
  await page.getByText('The password is set; all sessions have ended.').waitFor();
  assert.equal((await signIn('another password')).status, 200);
  await page.getByRole('button', { name: 'Make a token' }).click();
  await page.getByRole('region', { name: 'Token' }).waitFor();
  await page.getByRole('button', { name: 'Close' }).click();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function makeKey(page, server) {
  await page.goto(`${server.url}/_/access/keys?new=1`);
  await page.getByLabel('Name').fill('reader');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  const key = (await page.getByRole('region', { name: 'Key', exact: true }).textContent()) ?? '';
  const answer = await fetch(`${server.url}/api/collections/posts/records`, { headers: { 'X-API-Key': key } });
  assert.equal(answer.status, 200);
  await page.getByRole('button', { name: 'Done' }).click();
  await page.getByRole('cell', { name: 'reader', exact: true }).waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeJob(page, server, api) {
  await page.goto(`${server.url}/_/jobs?edit=new`);
  await page.getByLabel('Name').fill('tidy');
  await page.getByLabel('Schedule').fill('61 * * * *');
  await page.getByLabel('SQL', { exact: true }).fill('DELETE FROM posts WHERE views > 1000');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByLabel('Schedule').fill('30 3 * * *');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('link', { name: 'tidy', exact: true }).click();
  await page.getByRole('button', { name: 'Run now' }).click();
  await page.getByRole('cell', { name: 'success' }).first().waitFor();
  assert.equal((await api('GET', '/api/cron/tidy/runs')).data.items[0].status, 'success');
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeWebhook(page, server, api) {
  await page.goto(`${server.url}/_/webhooks?edit=new`);
  await page.getByLabel('Name').fill('index');
  await page.getByLabel('Collection').selectOption('posts');
  await page.getByLabel('Target').selectOption('workflow');
  await page.getByLabel('Workflow').fill('reindex');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Webhook saved.').waitFor();
  await api('POST', '/api/collections/posts/records', { title: '"><script>alert(2)</script>', views: 1 });
  await page.goto(`${server.url}/_/webhooks/calls`);
  await page.getByRole('cell', { name: 'success' }).first().waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function startRun(page, server, api) {
  await page.goto(`${server.url}/_/workflows?start=1`);
  await page.getByRole('dialog').getByLabel('Workflow').fill('order');
  await page.getByLabel('Input (JSON)').fill('{"id": "<b>1</b>"}');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await page.getByRole('heading', { name: 'order' }).waitFor();
  await page.getByRole('button', { name: 'Cancel...' }).click();
  await page.getByRole('button', { name: 'Cancel the run' }).click();
  await page.getByText('cancelled', { exact: true }).first().waitFor();
  await page.getByRole('button', { name: 'Start again' }).click();
  await page.getByText('ready', { exact: true }).first().waitFor();
  const { items } = (await api('GET', '/api/workflow/runs?workflow=order')).data;
  assert.deepEqual(items.map((/** @type {any} */ run) => run.status), ['pending', 'cancelled']);
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeDatabase(page, server, api) {
  await page.goto(`${server.url}/_/databases?new=1`);
  await page.getByLabel('Name').fill('Bad Name');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByLabel('Name').fill('shop');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('cell', { name: 'shop', exact: true }).waitFor();
  await page.getByRole('row', { name: /shop/ }).getByRole('button', { name: 'Show' }).click();
  await page.getByRole('link', { name: 'Collections', exact: true }).click();
  await page.getByText('Database shop, 0 collections').waitFor();
  assert.ok((await api('GET', '/api/databases')).data.some((/** @type {any} */ it) => it.name === 'shop'));
  await page.getByRole('combobox', { name: 'Database' }).selectOption('default');
  await page.getByRole('heading', { name: 'Home' }).waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function runSql(page, server) {
  await page.goto(`${server.url}/_/sql`);
  await page.getByRole('button', { name: 'posts', exact: true }).click();
  await page.getByLabel('Statement').press('Control+Enter');
  await page.getByRole('cell', { name: '"><script>alert(2)</script>' }).waitFor();
  await page.getByText('Query plan').click();
  await page.getByRole('region', { name: 'Query plan' }).getByText('posts').waitFor();
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'CSV' }).click();
  assert.equal((await download).suggestedFilename(), 'default-query.csv');
  await page.getByLabel('Statement').fill('DELETE FROM posts');
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('alert').getByText('The statement must be a SELECT.').waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function readSettings(page, server) {
  await page.goto(`${server.url}/_/settings`);
  await page.getByRole('searchbox', { name: 'Search' }).fill('data_dir');
  await page.getByRole('cell', { name: 'the environment' }).first().waitFor();
  await page.getByRole('link', { name: 'Mail', exact: true }).click();
  await page.getByText('No mail server is set').waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {any} api */
async function makeBackup(page, server, api) {
  await page.goto(`${server.url}/_/backups?new=1`);
  await page.getByLabel('Name').fill('Bad Name');
  await page.getByRole('button', { name: 'Back up' }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByLabel('Name').fill('first.zip');
  await page.getByRole('button', { name: 'Back up' }).click();
  await page.getByRole('cell', { name: 'first.zip' }).waitFor();
  assert.equal((await api('GET', '/api/backups')).data[0].key, 'first.zip');
  await page.getByRole('button', { name: 'Restore...' }).click();
  await page.getByText('vski restore DATA_DIR/backups/first.zip --replace').waitFor();
  await page.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('button', { name: 'Delete...' }).click();
  await page.getByRole('dialog').getByRole('textbox').fill('first.zip');
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByText('No backups yet.').waitFor();
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function useKeyboard(page, server) {
  await page.goto(`${server.url}/_/`);
  await page.getByRole('heading', { name: 'Home' }).waitFor();
  await page.keyboard.press('Control+k');
  await page.getByRole('combobox', { name: 'Go to' }).waitFor();
  await page.keyboard.type('posts');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'posts' }).waitFor();
  await page.keyboard.press('/');
  await page.keyboard.type('views');
  assert.equal(await page.getByLabel('Filter', { exact: true }).inputValue(), 'views');
}

/** @param {import('playwright-core').Page} page @param {{url: string}} server */
async function signOutAndIn(page, server) {
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('E-mail address').fill(ADMIN.email);
  await page.getByLabel('Password').fill('wrong password');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').first().waitFor();
  await page.getByLabel('Password').fill(ADMIN.password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('navigation', { name: 'Main' }).waitFor();
  assert.ok(!page.url().includes('token') && server.url.length > 0);
}
