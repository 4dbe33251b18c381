// Cron jobs: when each runs next, its history, run now.

import { duration } from '../app/format.js';
import { Loaded, Problem, useLoad } from '../app/load.js';
import { Link, address, go, place, setQuery } from '../app/router.js';
import { databases, isReadOnly } from '../app/server.js';
import { callServer } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Code } from '../parts/code.js';
import { Dialog, confirm } from '../parts/dialog.js';
import { Check, Field } from '../parts/field.js';
import { Badge, Empty, Facts, Head, Time } from '../parts/small.js';
import { Table } from '../parts/table.js';
import { say, sayError } from '../parts/toast.js';

const TYPES = [{ value: 'sql', label: 'Run SQL' }, { value: 'http', label: 'Call a URL' }, { value: 'workflow', label: 'Start a workflow' }];
const pathOf = (/** @type {string} */ id) => `/api/cron/${encodeURIComponent(id)}`;

/** @param {any} job */
const targetOf = (job) => ({ sql: `SQL in ${job.database}`, http: `${job.method} ${job.url}`, workflow: `workflow ${job.workflow}` })[/** @type {'sql'} */ (job.type)];

/** @param {any} job */
const stateOf = (job) => (job.isRunning ? 'running' : job.active ? 'active' : 'off');

/** @param {{path: string[]}} props */
export function Jobs({ path: [name] }) {
  return name ? html`<${Job} name=${name} />` : html`<${List} />`;
}

function List() {
  const load = useLoad((signal) => callServer('GET', '/api/cron', { signal }), [], { everyMs: 5000 });
  const columns = [
    { label: 'Name', cell: (/** @type {any} */ it) => html`<${Link} href=${address(['jobs', it.name])}>${it.name}</${Link}>` },
    { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state=${stateOf(it)} />` },
    { label: 'Schedule', cell: (/** @type {any} */ it) => html`<code>${it.schedule}</code> <span class="soft">${it.timeZone || 'UTC'}</span>` },
    { label: 'Does', cell: targetOf },
    { label: 'Next', cell: (/** @type {any} */ it) => html`<${Time} at=${it.next} />` },
    { label: 'Last', cell: (/** @type {any} */ it) => it.last && html`<${Badge} state=${it.last.status} /> <${Time} at=${it.last.started ?? it.last.due} />` },
  ];
  return html`<${Head} title="Jobs">${!isReadOnly() && html`<button class="button is-main" onClick=${() => setQuery({ edit: 'new' })}>New job</button>`}</${Head}>
    <${Loaded} load=${load}>${(/** @type {any} */ { items }) => (items.length === 0
      ? html`<${Empty} title="No jobs yet."><p>A job runs SQL, calls a URL or starts a workflow on a schedule. A missed time is made up for once; a job never overlaps itself.</p></${Empty}>`
      : html`<${Table} label="Jobs" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} />`)}</${Loaded}>
    ${place.value.query.get('edit') && html`<${Edit} onDone=${load.reload} />`}`;
}

/** @param {{name: string}} props */
function Job({ name }) {
  const load = useLoad((signal) => callServer('GET', pathOf(name), { signal }), [name], { everyMs: 3000 });
  const runs = useLoad((signal) => callServer('GET', `${pathOf(name)}/runs`, { query: { perPage: 50 }, signal }), [name], { everyMs: 3000 });
  const run = () => callServer('POST', `${pathOf(name)}/run`).then(() => {
    say(`Job ${name} runs now.`);
    load.reload();
    runs.reload();
  }, sayError);
  const remove = async () => {
    const isSure = await confirm({ title: `Delete ${name}`, text: 'The job and its history are deleted. A running run is not ended.', action: 'Delete', name });
    if (isSure) await callServer('DELETE', pathOf(name)).then(() => go(address(['jobs'])), sayError);
  };
  const columns = [
    { label: 'Status', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.status} />` },
    { label: 'Due', cell: (/** @type {any} */ it) => (it.due ? html`<${Time} at=${it.due} />` : 'by hand') },
    { label: 'Started', cell: (/** @type {any} */ it) => it.started && html`<${Time} at=${it.started} />` },
    { label: 'Took', cell: (/** @type {any} */ it) => it.ended && it.started && duration(new Date(it.ended).getTime() - new Date(it.started).getTime()) },
    { label: 'Message', cell: (/** @type {any} */ it) => it.message },
  ];
  return html`<${Head} title=${name} crumbs=${html`<${Link} href=${address(['jobs'])}>Jobs</${Link}>`}>
      <button class="button" onClick=${run}>Run now</button>
      ${!isReadOnly() && html`<button class="button" onClick=${() => setQuery({ edit: name })}>Edit</button><button class="button is-danger" onClick=${remove}>Delete...</button>`}
    </${Head}>
    <${Loaded} load=${load}>${(/** @type {any} */ job) => html`
      <div class="card"><${Facts} rows=${[['State', html`<${Badge} state=${stateOf(job)} />`], ['Schedule', html`<code>${job.schedule}</code>, ${job.timeZone || 'UTC'}`], ['Next', html`<${Time} at=${job.next} />`], ['Does', targetOf(job)]]} /></div>
      ${job.sql && html`<${Code} text=${job.sql} label="SQL" />`}
      ${place.value.query.get('edit') && html`<${Edit} job=${job} onDone=${load.reload} />`}`}</${Loaded}>
    <h2>History</h2>
    <${Loaded} load=${runs}>${(/** @type {any} */ { items }) => (items.length === 0 ? html`<${Empty} title="It has not run on this server yet." />` : html`<${Table} label="Runs" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} />`)}</${Loaded}>`;
}

/** @param {{job?: any, onDone: () => void}} props */
function Edit({ job, onDone }) {
  const [values, setValues] = useState(() => ({
    name: job?.name ?? '', schedule: job?.schedule ?? '@daily', timeZone: job?.timeZone ?? '', type: job?.type ?? 'sql', active: job?.active ?? true, sql: job?.sql ?? '', database: job?.database ?? 'default',
    url: job?.url ?? '', method: job?.method ?? 'POST', body: job?.body ?? '', workflow: job?.workflow ?? '', input: job?.input === undefined || job?.input === null ? '' : JSON.stringify(job.input),
  }));
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const close = () => setQuery({ edit: null });
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { name, schedule, timeZone, type, active, sql, database, url, method, body, workflow, input } = values;
    try {
      const own = type === 'sql' ? { sql, database } : type === 'http' ? { url, method, ...(body && { body }) } : { workflow, ...(input && { input: JSON.parse(input) }) };
      const saved = await callServer(job ? 'PATCH' : 'POST', job ? pathOf(job.id) : '/api/cron', { body: { name, schedule, timeZone, type, active, ...own } });
      say('Job saved.');
      onDone();
      if (saved.name === job?.name || !job) close();
      else go(address(['jobs', saved.name]));
    } catch (failure) {
      setError(failure);
    }
  };
  const problem = (/** @type {string} */ name) => error?.fields?.[name];
  const zones = ['', ...(Intl.supportedValuesOf?.('timeZone') ?? [])].map((zone) => ({ value: zone, label: zone || 'UTC' }));
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="job">Save</button>`;
  return html`<${Dialog} side title=${job?.name ?? 'New job'} onClose=${close} foot=${foot}><form id="job" class="stack" onSubmit=${save}>
    <${Field} label="Name" value=${values.name} onInput=${set('name')} required problem=${problem('name')} />
    <${Field} label="Schedule" value=${values.schedule} onInput=${set('schedule')} mono required hint="minute hour day month weekday, such as 30 3 * * MON-FRI, or @hourly, @daily, @weekly, @monthly, @yearly" problem=${problem('schedule')} />
    <${Field} label="Time zone" value=${values.timeZone} onInput=${set('timeZone')} options=${zones} problem=${problem('timeZone')} />
    <${Check} label="Active" value=${values.active} onInput=${set('active')} />
    <${Field} label="Type" value=${values.type} onInput=${set('type')} options=${TYPES} />
    ${values.type === 'sql' && html`<${Field} label="Database" value=${values.database} onInput=${set('database')} options=${[...databases.value.map(({ name }) => name), 'stats', 'workflows']} problem=${problem('database')} />
      <${Field} label="SQL" value=${values.sql} onInput=${set('sql')} rows=${8} mono required problem=${problem('sql')} />`}
    ${values.type === 'http' && html`<${Field} label="URL" type="url" value=${values.url} onInput=${set('url')} required problem=${problem('url')} />
      <${Field} label="Method" value=${values.method} onInput=${set('method')} options=${['POST', 'PUT', 'PATCH', 'DELETE', 'GET']} problem=${problem('method')} />
      <${Field} label="Body" value=${values.body} onInput=${set('body')} rows=${4} mono problem=${problem('body')} />`}
    ${values.type === 'workflow' && html`<${Field} label="Workflow" value=${values.workflow} onInput=${set('workflow')} required problem=${problem('workflow')} />
      <${Field} label="Input (JSON)" value=${values.input} onInput=${set('input')} rows=${4} mono problem=${problem('input')} />`}
    <${Problem} error=${error} /></form></${Dialog}>`;
}
