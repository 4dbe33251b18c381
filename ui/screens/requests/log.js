// The last requests that the server keeps in memory, with a filter in the address, and each in full.

import { duration, shortTime } from '../../app/format.js';
import { Loaded, useLoad } from '../../app/load.js';
import { place, setQuery } from '../../app/router.js';
import { callServer } from '../../app/session.js';
import { html } from '../../app/view.js';
import { Json } from '../../parts/code.js';
import { Dialog } from '../../parts/dialog.js';
import { Badge, Empty } from '../../parts/small.js';
import { Table } from '../../parts/table.js';

const PER_PAGE = 100;
const REFRESH_MS = 4000;
/** @type {[string, string][]} */
const KINDS = [['', 'all'], ['data.status >= 400', 'refused and failed'], ['data.status >= 500', 'failed'], ['data.execTime > 200', 'slower than 200 ms']];

const kindOf = (/** @type {number} */ status) => (status >= 500 ? 'failed' : status >= 400 ? 'cancelled' : 'success');

export function Log() {
  const { query } = place.value;
  const [kind, text, page, open] = [query.get('kind') ?? '', query.get('search') ?? '', Number(query.get('page') ?? 1), query.get('request')];
  const quoted = text.replaceAll('\\', '\\\\').replaceAll("'", "\\'");
  const search = text && `(data.url ~ '${quoted}' || data.userAgent ~ '${quoted}' || id ~ '${quoted}')`;
  const filter = [kind, search].filter(Boolean).join(' && ');
  const load = useLoad((signal) => callServer('GET', '/api/logs', { query: { filter, page, perPage: PER_PAGE }, signal }), [filter, page], { everyMs: page === 1 && !open ? REFRESH_MS : undefined });
  const columns = [
    { label: 'Time', cell: (/** @type {any} */ it) => html`<time datetime=${it.created} title=${`${it.created} UTC`}>${shortTime(it.created)}</time>` },
    { label: 'Status', cell: (/** @type {any} */ it) => html`<${Badge} state=${kindOf(it.data.status)}>${it.data.status}</${Badge}>` },
    { label: 'Request', cell: (/** @type {any} */ it) => html`<code>${it.data.method} ${it.data.url}</code>` },
    { label: 'Took', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => duration(it.data.execTime) },
    { label: 'Address', cell: (/** @type {any} */ it) => it.data.userIP }, { label: 'Program', cell: (/** @type {any} */ it) => it.data.userAgent },
  ];
  const onSearch = (/** @type {any} */ event) => setQuery({ search: event.target.value.trim(), page: null });
  return html`<form class="row" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <input type="search" class="narrow" aria-label="Search" placeholder="Path, program or request id" value=${text} onChange=${onSearch} />
      <div class="row" role="group" aria-label="Kind">${KINDS.map(([name, label]) => html`<button type="button" key=${label} class="button" aria-pressed=${String(kind === name)} onClick=${() => setQuery({ kind: name, page: null })}>${label}</button>`)}</div></form>
    <${Loaded} load=${load}>${(/** @type {any} */ { items, totalPages }) => html`
      ${items.length === 0 ? html`<${Empty} title="No request." />` : html`<${Table} label="Last requests" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} onOpen=${(/** @type {any} */ it) => setQuery({ request: it.id })} />`}
      <div class="row"><button class="button" disabled=${page <= 1} onClick=${() => setQuery({ page: page - 1 })}>Newer</button><button class="button" disabled=${page >= totalPages} onClick=${() => setQuery({ page: page + 1 })}>Older</button></div>`}</${Loaded}>
    <p class="soft small">The last 1,000 requests since the start of the server, without queries and bodies. Its log has all, under the same id.</p>
    ${open && html`<${One} id=${open} />`}`;
}

/** @param {{id: string}} props */
function One({ id }) {
  const load = useLoad((signal) => callServer('GET', `/api/logs/${encodeURIComponent(id)}`, { signal }), [id]);
  return html`<${Dialog} side title=${`Request ${id}`} onClose=${() => setQuery({ request: null })}><${Loaded} load=${load}>${(/** @type {any} */ it) => html`<${Json} value=${it} label="Request" />`}</${Loaded}></${Dialog}>`;
}
