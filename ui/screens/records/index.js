// The records of a collection: a grid, a page at a time, with sort and filter in the address.

import { cellText, plural } from '../../app/format.js';
import { Problem, useLoad } from '../../app/load.js';
import { Link, address, place, setQuery } from '../../app/router.js';
import { collections, isReadOnly } from '../../app/server.js';
import { call, database } from '../../app/session.js';
import { html, useEffect, useState } from '../../app/view.js';
import { confirm } from '../../parts/dialog.js';
import { Empty, Head, Time } from '../../parts/small.js';
import { Table } from '../../parts/table.js';
import { say, sayError } from '../../parts/toast.js';
import { Editor } from './editor.js';
import { FilterInput, filterOf } from './filter-input.js';
import { labelOf, nameField } from './label.js';

const PER_PAGE = 50;
const COLUMNS_MOST = 8;

/** @param {{field: any, record: any}} props */
function Cell({ field, record }) {
  const value = record[field.name];
  if (field.type === 'bool') return value ? 'yes' : 'no';
  if (field.type === 'relation' && record.expand?.[field.name]) {
    const other = collections.value.find((it) => it.id === field.collectionId);
    return [record.expand[field.name]].flat().map((related) => labelOf(related, other && nameField(other))).join(', ');
  }
  if (field.type === 'file' && value && value.length > 0) return plural([value].flat().length, 'file');
  if (field.type === 'autodate' || field.type === 'datetime') return value ? html`<${Time} at=${value} />` : '';
  return cellText(value);
}

/** The end of a long id: ids made at about the same time begin alike. @param {string} id */
const shortId = (id) => (id.length > 20 ? `...${id.slice(-8)}` : id);

/** @param {any} collection */
function columnsOf(collection) {
  const fields = collection.fields.filter((/** @type {any} */ field) => !['password', 'vector'].includes(field.type) && !['id', 'created', 'updated', 'tokenKey', 'emailVisibility'].includes(field.name));
  const columns = fields.slice(0, COLUMNS_MOST).map((/** @type {any} */ field) => ({
    label: field.name, sort: field.name, kind: field.type === 'number' ? 'number' : '',
    cell: (/** @type {any} */ record) => html`<${Cell} field=${field} record=${record} />`,
  }));
  const updated = { label: 'updated', sort: 'updated', cell: (/** @type {any} */ record) => html`<${Time} at=${record.updated} />` };
  return [{ label: 'id', sort: 'id', cell: (/** @type {any} */ record) => html`<code title=${record.id}>${shortId(record.id)}</code>` }, ...columns, updated];
}

/** The order without a choice of the reader: the newest first, found without an index. @param {any} collection */
const newestFirst = (collection) => (collection.type === 'view' ? '' : '-@rowid');

/** The relations to show by the names of their records. @param {any} collection */
const relationsOf = (collection) => collection.fields.filter((/** @type {any} */ field) => field.type === 'relation').map((/** @type {any} */ field) => field.name).join(',');

/** @param {{path: string[]}} props */
export function Records({ path: [name] }) {
  const collection = collections.value.find((it) => it.name === name);
  if (!collection) return html`<${Empty} title=${`There is no collection ${name} in ${database.value}.`} />`;
  return html`<${Grid} key=${collection.id} collection=${collection} />`;
}

/** Deletes the selected records, or none. @param {any} collection @param {string[]} ids */
async function deleteMany(collection, ids) {
  const what = plural(ids.length, 'record');
  const isSure = await confirm({ title: `Delete ${what}`, text: `The selected records of ${collection.name} and their files are deleted for good.`, action: `Delete ${what}`, name: collection.name });
  if (!isSure) return false;
  await call('DELETE', `/api/collections/${encodeURIComponent(collection.name)}/records`, { body: { ids } });
  say(`${what} deleted.`);
  return true;
}

/** @param {{collection: any}} props */
function Grid({ collection }) {
  const { query } = place.value;
  const text = query.get('filter') ?? '';
  const [filter, sort, page] = [filterOf(collection, text), query.get('sort') ?? newestFirst(collection), Number(query.get('page') ?? 1)];
  const open = query.get('record');
  const [selected, setSelected] = useState(/** @type {Set<string>} */ (new Set()));
  const records = `/api/collections/${encodeURIComponent(collection.name)}/records`;
  const load = useLoad((signal) => call('GET', records, { query: { filter, sort, page, perPage: PER_PAGE, skipTotal: true, expand: relationsOf(collection) }, signal }), [records, filter, sort, page]);
  const count = useLoad((signal) => call('GET', records, { query: { filter, perPage: 1, fields: 'id' }, signal }), [records, filter]);
  useEffect(() => setSelected(new Set()), [filter, sort, page]);
  const items = load.data?.items ?? [];
  const reload = () => {
    load.reload();
    count.reload();
  };
  const toggle = (/** @type {string} */ id) => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    setSelected(next);
  };
  const canWrite = !isReadOnly() && collection.type !== 'view';
  const box = {
    label: html`<input type="checkbox" aria-label="Select all of this page" checked=${items.length > 0 && selected.size === items.length}
      onChange=${(/** @type {any} */ event) => setSelected(new Set(event.target.checked ? items.map((/** @type {any} */ item) => item.id) : []))} />`,
    kind: /** @type {const} */ ('tight'),
    cell: (/** @type {any} */ record) => html`<input type="checkbox" aria-label=${`Select ${record.id}`} checked=${selected.has(record.id)} onChange=${() => toggle(record.id)} />`,
  };
  const remove = () => deleteMany(collection, [...selected]).then((isDone) => {
    if (isDone) {
      setSelected(new Set());
      reload();
    }
  }, sayError);
  const total = count.data?.totalItems;
  return html`<${Head} title=${collection.name} crumbs=${`${collection.type} collection`}>
      <${Link} class="button" href=${address(['collections', collection.name])}>Definition</${Link}>
      ${canWrite && html`<button class="button is-main" onClick=${() => setQuery({ record: 'new' })}>New record</button>`}
    </${Head}>
    <${FilterInput} key=${text} collection=${collection} value=${text} onApply=${(/** @type {string} */ next) => setQuery({ filter: next, page: null })} error=${filter && load.error} />
    ${!filter && html`<${Problem} error=${load.error} retry=${reload} />`}
    ${selected.size > 0 && canWrite && html`<div class="row" role="status"><strong>${selected.size} selected</strong><button class="button is-danger" onClick=${remove}>Delete</button></div>`}
    ${load.data && items.length === 0
      ? html`<${Empty} title=${filter ? 'No record matches the filter.' : page > 1 ? 'This page has no records.' : `${collection.name} has no records yet.`}>
          ${!filter && page === 1 && canWrite && html`<p class="soft">Create one here, or send a POST to <code>${records}</code>.</p>`}</${Empty}>`
      : html`<${Table} label=${`Records of ${collection.name}`} columns=${canWrite ? [box, ...columnsOf(collection)] : columnsOf(collection)} rows=${items} keyOf=${(/** @type {any} */ it) => it.id}
          sort=${sort} onSort=${(/** @type {string} */ next) => setQuery({ sort: next, page: null })} onOpen=${(/** @type {any} */ it) => setQuery({ record: it.id })}
          isSelected=${(/** @type {any} */ it) => selected.has(it.id)} />`}
    <div class="row">
      <button class="button" disabled=${page <= 1} onClick=${() => setQuery({ page: page - 1 })}>Previous</button>
      <span class="soft">Page ${page}${total !== undefined && ` of ${Math.max(1, Math.ceil(total / PER_PAGE))}, ${plural(total, 'record')}`}</span>
      <button class="button" disabled=${items.length < PER_PAGE} onClick=${() => setQuery({ page: page + 1 })}>Next</button>
    </div>
    ${open && html`<${Editor} key=${open} collection=${collection} id=${open === 'new' ? null : open} canWrite=${canWrite} onClose=${() => setQuery({ record: null })} onSaved=${reload} />`}`;
}
