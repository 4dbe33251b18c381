// The collections of a database, and the definition of each.

import { plural } from '../../app/format.js';
import { Link, address, place, setQuery } from '../../app/router.js';
import { collections, isReadOnly } from '../../app/server.js';
import { database } from '../../app/session.js';
import { html } from '../../app/view.js';
import { Badge, Empty, Head, Time } from '../../parts/small.js';
import { Table } from '../../parts/table.js';
import { Definition } from './definition.js';
import { NewCollection } from './new.js';
import { Import, exportAll } from './transfer.js';

/** @param {any} rule */
const ruleWord = (rule) => (rule === null || rule === undefined ? 'admins' : rule === '' ? 'everyone' : 'by rule');

/** @param {{path: string[]}} props */
export function Collections({ path: [name] }) {
  if (name) {
    const collection = collections.value.find((it) => it.name === name);
    return collection
      ? html`<${Definition} key=${collection.id + collection.updated} collection=${collection} />`
      : html`<${Empty} title=${`There is no collection ${name} in ${database.value}.`} />`;
  }
  const rule = (/** @type {string} */ label, /** @type {string} */ attribute) => ({ label, cell: (/** @type {any} */ it) => html`<${Badge} state=${ruleWord(it[attribute])} />` });
  const columns = [
    { label: 'Name', cell: (/** @type {any} */ it) => html`<${Link} href=${address(['collections', it.name])}>${it.name}</${Link}>` },
    { label: 'Type', cell: (/** @type {any} */ it) => it.type },
    { label: 'Fields', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => it.fields.length },
    rule('List', 'listRule'), rule('View', 'viewRule'), rule('Create', 'createRule'), rule('Update', 'updateRule'), rule('Delete', 'deleteRule'),
    { label: 'Changed', cell: (/** @type {any} */ it) => html`<${Time} at=${it.updated} />` },
  ];
  return html`<${Head} title="Collections" crumbs=${`Database ${database.value}, ${plural(collections.value.length, 'collection')}`}>
      ${collections.value.length > 0 && html`<button class="button" onClick=${exportAll}>Export</button>`}
      ${!isReadOnly() && html`<button class="button" onClick=${() => setQuery({ import: 1 })}>Import...</button><button class="button is-main" onClick=${() => setQuery({ new: 1 })}>New collection</button>`}
    </${Head}>
    ${collections.value.length === 0
      ? html`<${Empty} title="No collections yet."><p>A collection is a table of records. Its rules say who may list, view, create, change and delete them.</p></${Empty}>`
      : html`<${Table} label="Collections" columns=${columns} rows=${collections.value} keyOf=${(/** @type {any} */ it) => it.id} />`}
    ${place.value.query.get('new') && html`<${NewCollection} />`}${place.value.query.get('import') && html`<${Import} />`}`;
}
