// One run: its state, its steps as a timeline, its events, and what can be done with it.

import { dateTime, duration } from '../../app/format.js';
import { Loaded, useLoad } from '../../app/load.js';
import { Link, address, go, place, setQuery } from '../../app/router.js';
import { callServer } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Json } from '../../parts/code.js';
import { Dialog, confirm } from '../../parts/dialog.js';
import { Field } from '../../parts/field.js';
import { Badge, Facts, Head, Tabs, Time } from '../../parts/small.js';
import { Table } from '../../parts/table.js';
import { say, sayError } from '../../parts/toast.js';
import { Timeline } from './timeline.js';

const REFRESH_MS = 2000;
const EVENTS = 200;
const ENDED = ['completed', 'failed', 'cancelled'];

/** @param {{id: string}} props */
export function Run({ id }) {
  const path = `/api/workflow/runs/${encodeURIComponent(id)}`;
  const [hasEnded, setEnded] = useState(false);
  const everyMs = hasEnded ? undefined : REFRESH_MS;
  const load = useLoad(async (signal) => {
    const run = await callServer('GET', path, { signal });
    setEnded(ENDED.includes(run.status));
    return run;
  }, [id], { everyMs });
  const steps = useLoad((signal) => callServer('GET', `${path}/steps`, { signal }), [id], { everyMs });
  const act = (/** @type {string} */ action, /** @type {any} */ body, /** @type {string} */ text) => callServer('POST', `${path}/${action}`, { body }).then((answer) => {
    say(text);
    if (answer?.forkedFrom) go(address(['workflows', 'runs', answer.runId]));
    setEnded(false);
    load.reload();
    steps.reload();
  }, sayError);
  const cancel = async () => {
    if (await confirm({ title: `Cancel ${id}`, text: 'The run and its children end at once. What its steps have done stays.', action: 'Cancel the run' })) await act('cancel', {}, 'Run cancelled.');
  };
  const fork = (/** @type {any} */ step) => act('fork', step ? { fromStep: step.stepId } : {}, 'A new run has started.');
  const tab = place.value.query.get('tab') ?? 'steps';
  const tabs = [['steps', 'Steps'], ['events', 'Events'], ['data', 'Input and output']].map(([name, label]) => ({ label, isCurrent: tab === name, href: address(['workflows', 'runs', id], { tab: name }) }));
  return html`<${Loaded} load=${load}>${(/** @type {any} */ run) => html`
    <${Head} title=${run.workflow} crumbs=${html`<${Link} href=${address(['workflows'])}>Workflows</${Link}> / <code>${id}</code>`}>
      ${!ENDED.includes(run.status) && html`<button class="button" onClick=${() => setQuery({ deliver: 1 })}>Deliver to a hook</button><button class="button is-danger" onClick=${cancel}>Cancel...</button>`}
      ${(run.status === 'failed' || run.state === 'paused') && html`<button class="button" onClick=${() => act('retry', {}, 'The run continues.')}>Retry</button>`}
      <button class="button" onClick=${() => fork(null)}>Start again</button>
    </${Head}>
    <div class="card"><${Facts} rows=${[
      ['Status', html`<${Badge} state=${run.status} /> ${run.state && html`<${Badge} state=${run.state} />`}`],
      ['Reason', run.reason], ['Worker', run.worker], ['Wakes', run.wakesAt && html`<${Time} at=${run.wakesAt} />`], ['Version', run.version], ['Parent', run.parent && html`<${Link} href=${address(['workflows', 'runs', run.parent])}>${run.parent}</${Link}>`],
      ['Created', html`${dateTime(run.createdAt)} (<${Time} at=${run.createdAt} />)`], ['Took', run.completedAt && duration(new Date(run.completedAt).getTime() - new Date(run.createdAt).getTime())],
      ['Attributes', run.attributes && Object.keys(run.attributes).length > 0 && Object.entries(run.attributes).map(([name, value]) => html`<div key=${name}><code>${name}</code> = ${String(value)}</div>`)],
    ]} /></div>
    ${run.error && html`<section class="notice is-bad stack"><h2>${run.error.name ?? 'Error'}</h2><div>${run.error.message ?? ''}</div>${run.error.stack && html`<pre class="code">${run.error.stack}</pre>`}</section>`}
    <${Tabs} tabs=${tabs} label="Parts of the run" />
    ${tab === 'steps' && html`<${Loaded} load=${steps}>${(/** @type {any} */ { items, next }) => html`<${Timeline} run=${run} steps=${items} onFork=${fork} />${next && html`<p class="soft">Only the first ${items.length} steps are shown.</p>`}`}</${Loaded}>`}
    ${tab === 'events' && html`<${Events} path=${path} everyMs=${everyMs} />`}
    ${tab === 'data' && html`<h2>Input</h2><${Json} value=${run.input} label="Input" />${run.output !== undefined && html`<h2>Output</h2><${Json} value=${run.output} label="Output" />`}`}
    ${place.value.query.get('deliver') && html`<${Deliver} path=${path} onDone=${load.reload} />`}`}</${Loaded}>`;
}

/** @param {{path: string, everyMs: number | undefined}} props */
function Events({ path, everyMs }) {
  const after = place.value.query.get('after') ?? '';
  const [open, setOpen] = useState(/** @type {any} */ (null));
  const load = useLoad((signal) => callServer('GET', `${path}/events`, { query: { after, limit: EVENTS }, signal }), [path, after], { everyMs });
  const columns = [
    { label: 'Event', cell: (/** @type {any} */ it) => html`<code>${it.type}</code>` }, { label: 'About', cell: (/** @type {any} */ it) => html`<code>${it.correlationId ?? ''}</code>` },
    { label: 'At', cell: (/** @type {any} */ it) => html`<${Time} at=${it.createdAt} />` }, { label: 'Data', cell: (/** @type {any} */ it) => html`<code>${JSON.stringify(it.data ?? {}).slice(0, 120)}</code>` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items, next }) => html`<${Table} label="Events" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => String(it.eventId)} onOpen=${setOpen} />
    <div class="row"><button class="button" disabled=${!after} onClick=${() => setQuery({ after: null })}>First</button><button class="button" disabled=${!next} onClick=${() => setQuery({ after: next })}>More</button></div>
    ${open && html`<${Dialog} side title=${open.type} onClose=${() => setOpen(null)}><${Json} value=${open} label="Event" /></${Dialog}>`}`}</${Loaded}>`;
}

/** @param {{path: string, onDone: () => void}} props */
function Deliver({ path, onDone }) {
  const close = () => setQuery({ deliver: null });
  const load = useLoad((signal) => callServer('GET', `${path}/events`, { signal }), [path]);
  const [token, setToken] = useState('');
  const [payload, setPayload] = useState('{}');
  const tokens = (load.data?.items ?? []).filter((/** @type {any} */ it) => it.type.includes('hook') && it.data?.token).map((/** @type {any} */ it) => it.data.token);
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await callServer('POST', `/api/workflow/hooks/${encodeURIComponent(token || tokens[0] || '')}`, { body: JSON.parse(payload) });
      say('Delivered.');
      onDone();
      close();
    } catch (failure) {
      sayError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="deliver">Deliver</button>`;
  return html`<${Dialog} title="Deliver to a hook" onClose=${close} foot=${foot}><form id="deliver" class="stack" onSubmit=${send}>
    <${Field} label="Token of the hook" value=${token || tokens[0] || ''} onInput=${setToken} mono required hint=${tokens.length === 0 ? 'The run has no hook that waits.' : ''} />
    <${Field} label="Payload (JSON)" value=${payload} onInput=${setPayload} rows=${6} mono /></form></${Dialog}>`;
}
