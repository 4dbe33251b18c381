// Workflows: runs by state, workflow and time; queues and workers; one run as a timeline.

import { number } from '../../app/format.js';
import { Loaded, Problem, useLoad } from '../../app/load.js';
import { Link, address, go, place, setQuery } from '../../app/router.js';
import { callServer } from '../../app/session.js';
import { html, useEffect, useState } from '../../app/view.js';
import { Dialog, confirm } from '../../parts/dialog.js';
import { Field } from '../../parts/field.js';
import { Badge, Empty, Head, Tabs, Time } from '../../parts/small.js';
import { Table, hiddenLabel } from '../../parts/table.js';
import { say, sayError } from '../../parts/toast.js';
import { Run } from './run.js';

const LIMIT = 50;
const REFRESH_MS = 4000;
const STATUSES = ['pending', 'running', 'completed', 'failed', 'cancelled'];

/** @param {{path: string[]}} props */
export function Workflows({ path: [part, id] }) {
  if (part === 'runs' && id) return html`<${Run} id=${id} />`;
  const tabs = [['Runs', ['workflows'], !part], ['Queue', ['workflows', 'queue'], part === 'queue'], ['Workers', ['workflows', 'workers'], part === 'workers']]
    .map(([label, path, isCurrent]) => ({ label: /** @type {string} */ (label), href: address(/** @type {string[]} */ (path)), isCurrent: /** @type {boolean} */ (isCurrent) }));
  return html`<${Head} title="Workflows"><button class="button is-main" onClick=${() => setQuery({ start: 1 })}>Start a run</button></${Head}>
    <${Tabs} tabs=${tabs} label="Views of workflows" />
    ${part === 'queue' ? html`<${Queue} />` : part === 'workers' ? html`<${Workers} />` : html`<${Runs} />`}
    ${place.value.query.get('start') && html`<${Start} />`}`;
}

function Runs() {
  const { query } = place.value;
  const [workflow, status, attribute, cursor] = ['workflow', 'status', 'attribute', 'cursor'].map((name) => query.get(name) ?? '');
  const [selected, setSelected] = useState(/** @type {Set<string>} */ (new Set()));
  const load = useLoad((signal) => callServer('GET', '/api/workflow/runs', { query: { workflow, status, attribute: attribute ? [attribute] : undefined, cursor, limit: LIMIT }, signal }),
    [workflow, status, attribute, cursor], { everyMs: cursor ? undefined : REFRESH_MS });
  useEffect(() => setSelected(new Set()), [workflow, status, attribute, cursor]);
  const toggle = (/** @type {string} */ id) => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    setSelected(next);
  };
  const bulk = (/** @type {string} */ action) => async () => {
    if (action === 'cancel' && !await confirm({ title: `Cancel ${selected.size} runs`, text: 'The runs and their children end at once.', action: 'Cancel the runs' })) return;
    const { items } = await callServer('POST', `/api/workflow/bulk/${action}`, { body: { ids: [...selected] } });
    const failed = items.filter((/** @type {any} */ it) => it.error);
    say(`${items.length - failed.length} done${failed.length > 0 ? `, ${failed.length} refused: ${failed[0].error.message ?? failed[0].error}` : '.'}`, failed.length > 0 ? 'warn' : 'good');
    setSelected(new Set());
    load.reload();
  };
  const columns = [
    { label: hiddenLabel('Selection'), kind: /** @type {const} */ ('tight'), cell: (/** @type {any} */ it) => html`<input type="checkbox" aria-label=${`Select ${it.runId}`} checked=${selected.has(it.runId)} onChange=${() => toggle(it.runId)} />` },
    { label: 'Run', cell: (/** @type {any} */ it) => html`<${Link} href=${address(['workflows', 'runs', it.runId])}><code>${it.runId}</code></${Link}>` },
    { label: 'Workflow', cell: (/** @type {any} */ it) => html`${it.workflow} ${it.version && html`<span class="soft">${it.version}</span>`}` },
    { label: 'Status', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.status} /> ${it.state && it.state !== 'leased' && html`<${Badge} state=${it.state} />`}` },
    { label: 'Waits for', cell: (/** @type {any} */ it) => (it.wakesAt ? html`<${Time} at=${it.wakesAt} />` : it.worker ? `worker ${it.worker}` : '') },
    { label: 'Created', cell: (/** @type {any} */ it) => html`<${Time} at=${it.createdAt ?? it.created} />` },
  ];
  return html`<form class="row" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <div><${Field} label="Workflow" type="search" value=${workflow} onChange=${(/** @type {any} */ event) => setQuery({ workflow: event.target.value, cursor: null })} onInput=${() => {}} /></div>
      <div><${Field} label="Status" value=${status} onInput=${(/** @type {string} */ it) => setQuery({ status: it, cursor: null })} options=${[{ value: '', label: 'all' }, ...STATUSES]} /></div>
      <div><${Field} label="Attribute" value=${attribute} placeholder="customer=42" onChange=${(/** @type {any} */ event) => setQuery({ attribute: event.target.value, cursor: null })} onInput=${() => {}} /></div>
      <span class="push"></span>
      ${selected.size > 0 && html`<strong>${selected.size} selected</strong><button type="button" class="button" onClick=${() => bulk('retry')().catch(sayError)}>Retry</button><button type="button" class="button is-danger" onClick=${() => bulk('cancel')().catch(sayError)}>Cancel...</button>`}
    </form>
    <${Loaded} load=${load}>${(/** @type {any} */ { items, next }) => html`
      ${items.length === 0 ? html`<${Empty} title="No runs."><p>A run is one execution of a workflow. A worker connects to this server and executes its steps; the server keeps what they return.</p></${Empty}>`
        : html`<${Table} label="Runs" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.runId} onOpen=${(/** @type {any} */ it) => go(address(['workflows', 'runs', it.runId]))} isSelected=${(/** @type {any} */ it) => selected.has(it.runId)} />`}
      <div class="row"><button class="button" disabled=${!cursor} onClick=${() => setQuery({ cursor: null })}>Newest</button><button class="button" disabled=${!next} onClick=${() => setQuery({ cursor: next })}>Older</button></div>`}</${Loaded}>`;
}

function Queue() {
  const load = useLoad((signal) => callServer('GET', '/api/workflow/queue', { signal }), [], { everyMs: REFRESH_MS });
  const count = (/** @type {string} */ label, /** @type {string} */ name) => ({ label, kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => number(it[name]) });
  const columns = [
    { label: 'Workflow', cell: (/** @type {any} */ it) => html`<${Link} href=${address(['workflows'], { workflow: it.workflow })}>${it.workflow}</${Link}>` }, { label: 'Version', cell: (/** @type {any} */ it) => it.version ?? '' },
    count('Unfinished', 'runs'), count('Ready', 'ready'), count('With a worker', 'leased'), count('Waiting', 'waiting'), count('Paused', 'paused'), count('Blocked', 'blocked'),
    { label: 'Oldest ready', cell: (/** @type {any} */ it) => it.oldestReady && html`<${Time} at=${it.oldestReady} />` },
    { label: 'Worker', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.hasWorker ? 'connected' : 'lost'}>${it.hasWorker ? 'connected' : 'none'}</${Badge}>` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items, deadLetters }) => html`
    ${deadLetters > 0 && html`<div class="notice is-warn">${number(deadLetters)} failed runs had lost one worker after the other. <${Link} href=${address(['workflows'], { status: 'failed' })}>Show failed runs</${Link}></div>`}
    ${items.length === 0 ? html`<${Empty} title="No unfinished runs." />` : html`<${Table} label="Queue" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => `${it.workflow} ${it.version}`} />`}`}</${Loaded}>`;
}

function Workers() {
  const load = useLoad((signal) => callServer('GET', '/api/workflow/workers', { signal }), [], { everyMs: REFRESH_MS });
  const columns = [
    { label: 'Worker', cell: (/** @type {any} */ it) => it.worker }, { label: 'Library', cell: (/** @type {any} */ it) => [it.sdk, it.lang].filter(Boolean).join(', ') },
    { label: 'Workflows', cell: (/** @type {any} */ it) => it.workflows.map((/** @type {any} */ w) => w.name ?? w.workflow ?? w).join(', ') },
    { label: 'Jobs', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => number(Array.isArray(it.jobs) ? it.jobs.length : it.jobs) }, { label: 'Free places', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => number(it.credit) },
    { label: 'State', cell: (/** @type {any} */ it) => it.draining && html`<${Badge} state="paused">finishing</${Badge}>` },
    { label: 'Connected', cell: (/** @type {any} */ it) => html`<${Time} at=${it.connected} />` }, { label: 'Last heard', cell: (/** @type {any} */ it) => html`<${Time} at=${it.heard} />` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items }) => (items.length === 0
    ? html`<${Empty} title="No worker is connected."><p>A worker is a program of yours that connects by WebSocket with a service token or an API key and executes the code of workflows.</p></${Empty}>`
    : html`<${Table} label="Workers" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.instance ?? it.worker} />`)}</${Loaded}>`;
}

function Start() {
  const [values, setValues] = useState({ workflow: place.value.query.get('workflow') ?? '', input: '', idempotencyKey: '' });
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const close = () => setQuery({ start: null });
  const start = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { workflow, input, idempotencyKey } = values;
    try {
      const body = { workflow, ...(input && { input: JSON.parse(input) }), ...(idempotencyKey && { idempotencyKey }) };
      const { runId } = await callServer('POST', '/api/workflow/runs', { body });
      go(address(['workflows', 'runs', runId]));
    } catch (failure) {
      setError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="start-run">Start</button>`;
  return html`<${Dialog} title="Start a run" onClose=${close} foot=${foot}><form id="start-run" class="stack" onSubmit=${start}>
    <${Field} label="Workflow" value=${values.workflow} onInput=${set('workflow')} required problem=${error?.fields?.workflow} />
    <${Field} label="Input (JSON)" value=${values.input} onInput=${set('input')} rows=${5} mono problem=${error?.fields?.input} />
    <${Field} label="Idempotency key" value=${values.idempotencyKey} onInput=${set('idempotencyKey')} hint="A second start with the same key answers the first run." />
    <${Problem} error=${error} /></form></${Dialog}>`;
}
