// Pictures of the screens for docs/dashboard.md: small, of an application with some data.

import { ADMIN, apiOf } from './server.mjs';

/** Name, address, theme, width. @type {[string, string, string, number][]} */
const SHOTS = [
  ['records', 'records/articles', 'light', 1000], ['rules', 'collections/articles?tab=rules', 'light', 1000], ['run', 'workflows/runs/RUN', 'dark', 1000],
  ['sql', `sql?q=${encodeURIComponent('SELECT author, count(*) AS articles, sum(views) AS views\nFROM articles GROUP BY author ORDER BY views DESC')}`, 'light', 1000], ['phone', 'records/articles', 'dark', 390],
];

/** A run with steps, one of which is tried again. @param {string} url @param {any} api */
async function runWorkflow(url, api) {
  const { VskiClient } = await import('./sdk/js/src/index.js');
  const { WorkflowWorker, registerWorkflow, workflow } = await import('./sdk/js/src/worker/index.js');
  const client = new VskiClient(url);
  await client.admins.login(ADMIN.email, ADMIN.password);
  const take = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));
  registerWorkflow(workflow('publish').run(async (/** @type {any} */ ctx) => {
    await ctx.step('check the text', () => take(180));
    await Promise.all(['make pictures', 'translate', 'index'].map((name, at) => ctx.step(name, () => take(220 + at * 130))));
    await ctx.step('send to readers', async (/** @type {any} */ { attempt }) => {
      await take(120);
      if (attempt < 2) throw new Error('the mail server is busy');
    });
    await ctx.step('archive', () => take(90));
    return 'published';
  }));
  const worker = new WorkflowWorker(client, { name: 'press-1' });
  await worker.startAll();
  const { runId } = (await api('POST', '/api/workflow/runs', { workflow: 'publish', input: [{ article: 'Rules by example' }], attributes: { author: 'ada' } })).data;
  for (let status = ''; status !== 'completed'; await take(100)) ({ status } = (await api('GET', `/api/workflow/runs/${runId}`)).data);
  await worker.stop();
  return runId;
}

/** @param {any} open @param {string} session @param {{url: string}} server @param {string} folder */
export async function takeShots(open, session, server, folder) {
  const api = apiOf(server.url, JSON.parse(session).token);
  await api('POST', '/api/collections', { name: 'articles', listRule: 'public = true', viewRule: 'public = true', createRule: "@request.auth.id != ''", updateRule: 'author = @request.auth.id', fields: [{ name: 'title', type: 'text' }, { name: 'author', type: 'text' }, { name: 'views', type: 'number' }, { name: 'public', type: 'bool' }, { name: 'tags', type: 'select', values: ['news', 'guide', 'release'], maxSelect: 2 }] });
  const titles = ['How replicas follow a master', 'A year of releases', 'Rules by example', 'Files on S3', 'Workflows that wait for people', 'Backups, and how to test them', 'Filters for every day', 'Realtime in ten lines'];
  for (const [at, title] of titles.entries()) await api('POST', '/api/collections/articles/records', { title, author: ['ada', 'grace', 'alan'][at % 3], views: (at + 3) * 137, public: at % 4 !== 0, tags: [['news', 'guide', 'release'][at % 3]] });
  const runId = await runWorkflow(server.url, api);
  for (const [name, path, theme, width] of SHOTS) {
    const page = await open({ 'vski-dashboard': session, 'vski-theme': theme });
    await page.setViewportSize({ width, height: 620 });
    await page.goto(`${server.url}/_/${path.replace('RUN', runId)}`);
    await page.waitForLoadState('networkidle');
    if (name === 'sql') await page.getByRole('button', { name: 'Run' }).click().then(() => page.getByText('Query plan').waitFor());
    await page.screenshot({ path: `${folder}/${name}.png` });
    await page.close();
  }
}
