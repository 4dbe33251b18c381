// Is everything well? A list of what needs a person, then curves.

import { ago, bytes, duration, number, plural } from '../app/format.js';
import { Loaded, useLoad } from '../app/load.js';
import { Link, address, place, setQuery } from '../app/router.js';
import { collections } from '../app/server.js';
import { call, callServer, client } from '../app/session.js';
import { SPANS, loadStats, points, spanOf, total, weighted } from '../app/stats.js';
import { html, useMemo } from '../app/view.js';
import { Chart } from '../parts/chart.js';
import { Code } from '../parts/code.js';
import { Empty, Head } from '../parts/small.js';

const REFRESH_MS = 15_000;
/** Seconds without contact after which a replica is worth a look. */
const SILENT_SECONDS = 120;

/** A value of the server's metrics, the sum of all rows with the name. @param {string} text @param {string} name */
function metric(text, name) {
  const rows = text.split('\n').filter((line) => line.startsWith(name) && ' {'.includes(line[name.length]));
  return rows.length > 0 ? rows.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0) : null;
}

/** @param {AbortSignal} signal */
async function load(signal) {
  const failedCalls = { query: { status: 'failed', perPage: 1 }, signal };
  const [status, queue, jobs, calls, answer] = await Promise.all([
    callServer('GET', '/api/replica/status', { signal }),
    callServer('GET', '/api/workflow/queue', { signal }),
    callServer('GET', '/api/cron', { signal }),
    call('GET', '/api/webhooks/logs', failedCalls),
    client.transport.send('GET', '/metrics', { stream: true }, { signal }),
  ]);
  return { status, queue, jobs: jobs.items, failedCalls: calls.totalItems, metrics: await answer.response.text() };
}

/** What needs a person: a sentence and where to look. @param {any} data @returns {{text: string, href: string}[]} */
function concerns({ status, queue, jobs, failedCalls }) {
  /** @type {{text: string, href: string}[]} */
  const found = [];
  const add = (/** @type {string} */ text, /** @type {string[]} */ path, query = {}) => found.push({ text, href: address(path, query) });
  if (status.damagedFiles.length > 0) add(`${plural(status.damagedFiles.length, 'file is', 'files are')} damaged.`, ['replication']);
  for (const replica of status.replicas ?? []) {
    if (replica.secondsSinceSeen > SILENT_SECONDS) add(`Replica ${replica.id} was last seen ${ago(replica.lastSeen)}.`, ['replication']);
  }
  if (status.replica?.error) add(`This replica cannot follow its master: ${status.replica.error}`, ['replication']);
  for (const row of queue.items) {
    if (row.ready > 0 && !row.hasWorker) add(`${plural(row.ready, 'run')} of ${row.workflow} ${row.ready === 1 ? 'has' : 'have'} no worker.`, ['workflows', 'queue']);
    if (row.paused > 0) add(`${plural(row.paused, 'run')} of ${row.workflow} ${row.paused === 1 ? 'is' : 'are'} paused.`, ['workflows'], { workflow: row.workflow });
  }
  if (queue.deadLetters > 0) add(`${plural(queue.deadLetters, 'run')} lost one worker after the other.`, ['workflows'], { status: 'failed' });
  if (failedCalls > 0) add(`${plural(failedCalls, 'webhook call')} failed for good.`, ['webhooks', 'calls'], { status: 'failed' });
  for (const job of jobs) {
    if (job.last?.status === 'failed') add(`Job ${job.name} failed ${ago(job.last.ended ?? job.last.started)}.`, ['jobs', job.name]);
  }
  return found;
}

/** @param {{label: string, value: any, note?: any}} props */
const Stat = ({ label, value, note }) => html`<div class="card stat"><span class="soft small">${label}</span><span class="value">${value}</span>${note && html`<span class="soft small">${note}</span>`}</div>`;

/** @param {{stats: any}} props */
function Curves({ stats }) {
  const curves = useMemo(() => points(stats, stats.requests, {
    perSecond: (rows) => total(rows, 'count'),
    errors: (rows) => total(rows, 'errors4xx') + total(rows, 'errors5xx'),
    p50: (rows) => weighted(rows, 'p50Ms'),
    p99: (rows) => (rows.length > 0 ? Math.max(...rows.map((row) => row.p99Ms)) : null),
  }), [stats]);
  const runs = useMemo(() => points(stats, stats.workflows, {
    completed: (rows) => total(rows, 'completed'),
    failed: (rows) => total(rows, 'failed'),
  }), [stats]);
  const requests = useMemo(() => [
    { label: 'Requests', values: curves.perSecond, color: '--accent' },
    { label: 'Errors', values: curves.errors, color: '--bad' },
  ], [curves]);
  const latency = useMemo(() => [
    { label: 'Median', values: curves.p50, color: '--accent' },
    { label: 'Slowest route, p99', values: curves.p99, color: '--warn' },
  ], [curves]);
  const ended = useMemo(() => [
    { label: 'Completed', values: runs.completed, color: '--good' },
    { label: 'Failed', values: runs.failed, color: '--bad' },
  ], [runs]);
  const every = curves.seconds === 60 ? 'per minute' : `in ${duration(curves.seconds * 1000)}`;
  return html`<div class="stack is-wide">
    <${Chart} label=${`Requests ${every}`} times=${curves.times} series=${requests} format=${number} />
    <${Chart} label="Time to answer" times=${curves.times} series=${latency} format=${duration} />
    ${stats.workflows.length > 0 && html`<${Chart} label=${`Workflow runs that ended ${every}`} times=${runs.times} series=${ended} format=${number} />`}
  </div>`;
}

function Start() {
  const first = `curl ${location.origin}/api/collections -H "Authorization: Bearer $TOKEN" -d '{
  "name": "posts", "listRule": "", "viewRule": "",
  "fields": [{"name": "title", "type": "text", "required": true}]}'`;
  return html`<${Empty} title="Three steps to the first request">
    <p>1. <${Link} href=${address(['collections'], { new: 1 })}>Create a collection</${Link}>: a table of records with rules that say who may do what.</p>
    <p>2. <${Link} href=${address(['access', 'keys'], { new: 1 })}>Create an API key</${Link}> for your program.</p>
    <p>3. Send a request, or create the collection from the command line:</p>
    <${Code} text=${first} label="Request" />
  </${Empty}>`;
}

export function Home() {
  const span = place.value.query.get('span');
  const state = useLoad(load, [], { everyMs: REFRESH_MS });
  const stats = useLoad((signal) => loadStats(span, signal), [span], { everyMs: REFRESH_MS });
  return html`<${Head} title="Home">
      <div class="row" role="group" aria-label="Span of the curves">${SPANS.map(({ name, label }) => html`<button class=${`button ${spanOf(span).name === name ? 'is-main' : ''}`}
        aria-pressed=${String(spanOf(span).name === name)} onClick=${() => setQuery({ span: name }, { replace: true })}>${label}</button>`)}</div>
    </${Head}>
    ${collections.value.filter(({ name }) => !name.startsWith('_')).length === 0 && html`<${Start} />`}
    <${Loaded} load=${state}>${(/** @type {any} */ data) => {
      const found = concerns(data);
      const memory = metric(data.metrics, 'vski_memory_bytes');
      const running = data.queue.items.reduce((/** @type {number} */ sum, /** @type {any} */ row) => sum + row.runs, 0);
      return html`${found.length === 0
        ? html`<div class="notice is-good">Everything is well.</div>`
        : html`<section class="stack" aria-label="Needs attention"><h2>Needs attention</h2>${found.map(({ text, href }) => html`<div key=${text} class="notice is-warn"><${Link} href=${href}>${text}</${Link}></div>`)}</section>`}
        <div class="cards">
          <${Stat} label="Unfinished runs" value=${number(running)} />
          <${Stat} label="Calls to make" value=${number(metric(data.metrics, 'vski_webhook_pending') ?? 0)} />
          <${Stat} label="Subscriptions" value=${number(metric(data.metrics, 'vski_realtime_subscriptions') ?? 0)} />
          ${data.status.role === 'master' && html`<${Stat} label="Replicas" value=${number(data.status.replicas.length)} />`}
          ${memory !== null && html`<${Stat} label="Memory" value=${bytes(memory)} />`}
        </div>`;
    }}</${Loaded}>
    <${Loaded} load=${stats}>${(/** @type {any} */ data) => html`<${Curves} stats=${data} />`}</${Loaded}>`;
}
