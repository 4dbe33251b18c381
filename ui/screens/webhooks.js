// Webhooks and their calls.

import { number } from '../app/format.js';
import { Loaded, Problem, useLoad } from '../app/load.js';
import { address, place, setQuery } from '../app/router.js';
import { collections, isReadOnly } from '../app/server.js';
import { call } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Json } from '../parts/code.js';
import { Dialog, confirm } from '../parts/dialog.js';
import { Check, Field } from '../parts/field.js';
import { Badge, Empty, Facts, Head, Tabs, Time } from '../parts/small.js';
import { Table } from '../parts/table.js';
import { say, sayError } from '../parts/toast.js';

const PER_PAGE = 50;

/** @param {{path: string[]}} props */
export function Webhooks({ path: [tab = 'webhooks'] }) {
  const tabs = [['webhooks', 'Webhooks'], ['calls', 'Calls']].map(([name, label]) => ({ label, isCurrent: tab === name, href: address(name === 'calls' ? ['webhooks', 'calls'] : ['webhooks']) }));
  return html`<${Head} title="Webhooks">${tab !== 'calls' && !isReadOnly() && html`<button class="button is-main" onClick=${() => setQuery({ edit: 'new' })}>New webhook</button>`}</${Head}>
    <${Tabs} tabs=${tabs} label="Webhooks and calls" />
    ${tab === 'calls' ? html`<${Calls} />` : html`<${List} />`}`;
}

function List() {
  const load = useLoad((signal) => call('GET', '/api/webhooks', { signal }), []);
  const edited = place.value.query.get('edit');
  const columns = [
    { label: 'Name', cell: (/** @type {any} */ it) => it.name },
    { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.error ? 'error' : it.active ? 'active' : 'off'} />` },
    { label: 'For', cell: (/** @type {any} */ it) => (it.collection === null ? 'by hand' : `${it.collection === '*' ? 'all collections' : it.collection}: ${[it.actions].flat().join(', ')}`) },
    { label: 'Target', cell: (/** @type {any} */ it) => html`<code>${it.workflow ? `workflow ${it.workflow}` : `${it.method} ${it.url}`}</code>` },
    { label: 'Changed', cell: (/** @type {any} */ it) => html`<${Time} at=${it.updated} />` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items }) => html`
    ${items.length === 0
      ? html`<${Empty} title="No webhooks yet."><p>A webhook calls a URL, or starts a workflow, when a record is created, changed or deleted. A call that belongs to a write is stored with it and made at least once.</p></${Empty}>`
      : html`<${Table} label="Webhooks" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} onOpen=${(/** @type {any} */ it) => setQuery({ edit: it.id })} />`}
    ${edited && html`<${Edit} key=${edited} webhook=${items.find((/** @type {any} */ it) => it.id === edited)} onDone=${load.reload} />`}`}</${Loaded}>`;
}

const ACTIONS = ['create', 'update', 'delete'];
const METHODS = ['POST', 'PUT', 'PATCH', 'DELETE', 'GET'];

/** @param {any} webhook */
function inputsOf(webhook) {
  const actions = webhook ? (webhook.actions === '*' ? ACTIONS : [webhook.actions].flat()) : ACTIONS;
  return {
    name: webhook?.name ?? '', active: webhook?.active ?? true, collection: webhook?.collection ?? '', actions, target: webhook?.workflow ? 'workflow' : 'url',
    url: webhook?.url ?? '', workflow: webhook?.workflow ?? '', method: webhook?.method ?? 'POST', retryLimit: String(webhook?.retryLimit ?? 5),
    headers: Object.entries(webhook?.headers ?? {}).map(([name, value]) => `${name}: ${value}`).join('\n'),
  };
}

/** @param {ReturnType<typeof inputsOf>} values */
function bodyOf({ target, url, workflow, method, headers, actions, collection, retryLimit, ...rest }) {
  const lines = headers.split('\n').filter((line) => line.includes(':'));
  const pairs = lines.map((line) => [line.slice(0, line.indexOf(':')).trim(), line.slice(line.indexOf(':') + 1).trim()]);
  const call = target === 'url' ? { url, method, headers: Object.fromEntries(pairs) } : { workflow };
  return { ...rest, collection: collection || null, actions: actions.length === ACTIONS.length ? '*' : actions, retryLimit: Number(retryLimit), ...call };
}

/** @param {{webhook: any, onDone: () => void}} props */
function Edit({ webhook, onDone }) {
  const [values, setValues] = useState(() => inputsOf(webhook));
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const close = () => setQuery({ edit: null });
  const path = webhook ? `/api/webhooks/${webhook.id}` : '/api/webhooks';
  const end = (/** @type {string} */ text) => {
    say(text);
    onDone();
    close();
  };
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    await call(webhook ? 'PATCH' : 'POST', path, { body: bodyOf(values) }).then(() => end('Webhook saved.'), setError);
  };
  const remove = async () => {
    const isSure = await confirm({ title: `Delete ${webhook.name}`, text: 'Changes no longer cause calls. Pending calls are still made.', action: 'Delete', name: webhook.name });
    if (isSure) await call('DELETE', path).then(() => end('Webhook deleted.'), sayError);
  };
  const test = () => call('POST', `${path}/call`, { body: { test: true } }).then(({ id }) => say(`Call ${id} is queued.`), sayError);
  const foot = !isReadOnly() && html`${webhook && html`<button class="button is-danger" onClick=${remove}>Delete...</button><button class="button" onClick=${test}>Call it now</button>`}
    <button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="webhook">Save</button>`;
  return html`<${Dialog} side title=${webhook?.name ?? 'New webhook'} onClose=${close} foot=${foot}><form id="webhook" class="stack" onSubmit=${save}>
    ${webhook?.error && html`<div class="notice is-bad">${webhook.error}</div>`}
    <${Field} label="Name" value=${values.name} onInput=${set('name')} required problem=${error?.fields?.name} />
    <${Check} label="Active: changes cause calls" value=${values.active} onInput=${set('active')} />
    <${Field} label="Collection" value=${values.collection} onInput=${set('collection')} options=${[{ value: '', label: 'None: called by hand' }, { value: '*', label: 'All collections' }, ...collections.value.map(({ name }) => ({ value: name, label: name }))]} problem=${error?.fields?.collection} />
    <fieldset class="field"><legend>Actions</legend>${ACTIONS.map((action) => html`<${Check} key=${action} label=${action} value=${values.actions.includes(action)} onInput=${(/** @type {boolean} */ is) => set('actions')(ACTIONS.filter((it) => (it === action ? is : values.actions.includes(it))))} />`)}</fieldset>
    <${Field} label="Target" value=${values.target} onInput=${set('target')} options=${[{ value: 'url', label: 'Call a URL' }, { value: 'workflow', label: 'Start a workflow' }]} />
    ${values.target === 'url' ? html`<${Field} label="URL" type="url" value=${values.url} onInput=${set('url')} required problem=${error?.fields?.url} />
      <${Field} label="Method" value=${values.method} onInput=${set('method')} options=${METHODS} problem=${error?.fields?.method} />
      <${Field} label="Headers" value=${values.headers} onInput=${set('headers')} rows=${3} mono hint="One in a line, Name: value. *** keeps the stored value." problem=${error?.fields?.headers} />`
      : html`<${Field} label="Workflow" value=${values.workflow} onInput=${set('workflow')} required problem=${error?.fields?.workflow} />`}
    <${Field} label="Retries" type="number" min="1" max="100" value=${values.retryLimit} onInput=${set('retryLimit')} problem=${error?.fields?.retryLimit} />
    <${Problem} error=${error} /></form></${Dialog}>`;
}

function Calls() {
  const { query } = place.value;
  const [status, source, page] = [query.get('status') ?? '', query.get('source') ?? '', Number(query.get('page') ?? 1)];
  const load = useLoad((signal) => call('GET', '/api/webhooks/logs', { query: { status, source, page, perPage: PER_PAGE }, signal }), [status, source, page], { everyMs: 5000 });
  const opened = query.get('call');
  const retryAll = () => call('POST', '/api/webhooks/logs/retry', { body: { failed: true } }).then(({ count }) => {
    say(`${number(count)} failed calls are due again.`);
    load.reload();
  }, sayError);
  const columns = [
    { label: 'Call', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => it.id },
    { label: 'Status', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.status} />` },
    { label: 'For', cell: (/** @type {any} */ it) => `${it.source} ${it.name ?? ''}` },
    { label: 'Change', cell: (/** @type {any} */ it) => [it.action, it.collection, it.record].filter(Boolean).join(' ') },
    { label: 'Target', cell: (/** @type {any} */ it) => html`<code>${it.target}</code>` },
    { label: 'Attempts', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => it.attempts },
    { label: 'Answer', cell: (/** @type {any} */ it) => it.error ?? it.code ?? '' },
    { label: 'Created', cell: (/** @type {any} */ it) => html`<${Time} at=${it.created} />` },
  ];
  const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string} */ value, /** @type {string[]} */ values) => html`<${Field} label=${label} value=${value} onInput=${(/** @type {string} */ it) => setQuery({ [name]: it, page: null })} options=${[{ value: '', label: 'all' }, ...values.map((it) => ({ value: it, label: it }))]} />`;
  return html`<div class="row"><div>${choice('status', 'Status', status, ['pending', 'success', 'failed'])}</div><div>${choice('source', 'Cause', source, ['trigger', 'webhook', 'cron'])}</div>
      <span class="push"></span>${!isReadOnly() && html`<button class="button" onClick=${retryAll}>Retry all failed</button>`}</div>
    <${Loaded} load=${load}>${(/** @type {any} */ { items, totalItems, totalPages }) => html`
      ${items.length === 0 ? html`<${Empty} title="No calls." />` : html`<${Table} label="Calls" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => String(it.id)} onOpen=${(/** @type {any} */ it) => setQuery({ call: it.id })} />`}
      <div class="row"><button class="button" disabled=${page <= 1} onClick=${() => setQuery({ page: page - 1 })}>Previous</button><span class="soft">Page ${page} of ${Math.max(1, totalPages)}, ${number(totalItems)} calls</span>
        <button class="button" disabled=${page >= totalPages} onClick=${() => setQuery({ page: page + 1 })}>Next</button></div>`}</${Loaded}>
    ${opened && html`<${CallDetails} key=${opened} id=${opened} onDone=${load.reload} />`}`;
}

/** @param {{id: string, onDone: () => void}} props */
function CallDetails({ id, onDone }) {
  const close = () => setQuery({ call: null });
  const load = useLoad((signal) => call('GET', `/api/webhooks/logs/${encodeURIComponent(id)}`, { signal }), [id]);
  const retry = () => call('POST', '/api/webhooks/logs/retry', { body: { ids: [Number(id)] } }).then(() => {
    say('The call is due again.');
    onDone();
    close();
  }, sayError);
  const foot = load.data?.status === 'failed' && !isReadOnly() && html`<button class="button is-main" onClick=${retry}>Retry</button>`;
  return html`<${Dialog} side title=${`Call ${id}`} onClose=${close} foot=${foot}><${Loaded} load=${load}>${(/** @type {any} */ it) => html`
    <${Facts} rows=${[['Status', html`<${Badge} state=${it.status} />`], ['Target', `${it.method ?? ''} ${it.target}`], ['Attempts', it.attempts], ['Next attempt', it.nextAttempt && html`<${Time} at=${it.nextAttempt} />`], ['Code', it.code], ['Error', it.error], ['Created', html`<${Time} at=${it.created} />`]]} />
    ${it.answer && html`<section class="stack"><h3>Answer</h3><${Json} value=${it.answer} label="Answer" /></section>`}
    <section class="stack"><h3>Payload</h3><${Json} value=${it.payload} label="Payload" /></section>`}</${Loaded}></${Dialog}>`;
}
