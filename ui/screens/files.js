// What the files of records use, and which of them need attention.

import { bytes, number, plural } from '../app/format.js';
import { Loaded, useLoad } from '../app/load.js';
import { Link, address } from '../app/router.js';
import { call, database } from '../app/session.js';
import { html } from '../app/view.js';
import { Badge, Empty, Head, Time } from '../parts/small.js';
import { Table } from '../parts/table.js';

export function Files() {
  const load = useLoad((signal) => call('GET', '/api/files', { signal }), [database.value]);
  return html`<${Head} title="Files" crumbs=${`Database ${database.value}`} />
    <${Loaded} load=${load}>${(/** @type {any} */ data) => html`<${Use} items=${data.items} /><${Damaged} data=${data} /><${Orphans} orphans=${data.orphans} />`}</${Loaded}>`;
}

/** @param {{items: any[]}} props */
function Use({ items }) {
  if (items.length === 0) return html`<${Empty} title="No files yet."><p>Records hold files in fields of the type file: add one to a collection.</p></${Empty}>`;
  const total = (/** @type {'files' | 'bytes'} */ name) => items.reduce((sum, item) => sum + item[name], 0);
  const columns = [
    { label: 'Collection', cell: (/** @type {any} */ it) => (it.collection ? html`<${Link} href=${address(['records', it.collection])}>${it.collection}</${Link}>` : html`<span class="soft">deleted (${it.collectionId}); a purge of the database removes its files</span>`) },
    { label: 'Files', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => number(it.files) },
    { label: 'Size', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => bytes(it.bytes) },
    { label: 'Share', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => `${Math.round((100 * it.bytes) / Math.max(total('bytes'), 1))} %` },
  ];
  return html`<p>${plural(total('files'), 'file')}, ${bytes(total('bytes'))}.</p><${Table} label="Use by collection" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.collectionId} />`;
}

/** @param {{data: any}} props */
function Damaged({ data }) {
  const { damaged, checkedFiles } = data;
  const columns = [{ label: 'File', cell: (/** @type {any} */ it) => html`<code>${it.path}</code>` }, { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state="damaged">${it.state}</${Badge}>` }];
  return html`<section class="stack"><h2>Damaged files</h2>
    <p class="soft">The server rereads all stored files in about a month and compares them with their hashes: ${plural(checkedFiles, 'file')} since its start.</p>
    ${damaged.count === 0 ? html`<p><${Badge} state="active">none found</${Badge}></p>`
      : html`<div class="notice is-bad">${plural(damaged.count, 'file is', 'files are')} damaged or missing. Put them back from a backup; a replica fetches them from its master by itself.</div>
        <${Table} label="Damaged files" columns=${columns} rows=${damaged.items} keyOf=${(/** @type {any} */ it) => it.path} />`}</section>`;
}

/** @param {{orphans: any}} props */
function Orphans({ orphans }) {
  const columns = [{ label: 'File', cell: (/** @type {any} */ it) => html`<code>${it.path}</code>` }, { label: 'Found', cell: (/** @type {any} */ it) => html`<${Time} at=${it.found} />` }];
  return html`<section class="stack"><h2>Files without a record</h2>
    <p class="soft">A crash can leave a file that no record names. A sweep, daily and at the start, finds such files and deletes them a day later.</p>
    ${orphans.count === 0 ? html`<p><${Badge} state="active">none found</${Badge}></p>`
      : html`<p>${plural(orphans.count, 'file')}.</p><${Table} label="Files without a record" columns=${columns} rows=${orphans.items} keyOf=${(/** @type {any} */ it) => it.path} />`}</section>`;
}
