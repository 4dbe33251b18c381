// The databases of the server: create, delete, purge.

import { Problem } from '../app/load.js';
import { setQuery, place } from '../app/router.js';
import { databases, isReadOnly, loadCollections, loadServer } from '../app/server.js';
import { callServer, choose, database } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Dialog, confirm } from '../parts/dialog.js';
import { Field } from '../parts/field.js';
import { Badge, Head } from '../parts/small.js';
import { Table, hiddenLabel } from '../parts/table.js';
import { say, sayError } from '../parts/toast.js';

const pathOf = (/** @type {string} */ name) => `/api/databases/${encodeURIComponent(name)}`;

/** @param {string} name */
async function remove(name) {
  const isSure = await confirm({ title: `Delete ${name}`, text: 'The database goes out of service. Its file and those of its records move to the folder deleted/ of the data directory.', action: 'Delete', name });
  if (!isSure) return;
  await callServer('DELETE', pathOf(name));
  if (database.value === name) choose('default');
  await loadServer();
  say(`Database ${name} deleted.`);
}

/** @param {string} name */
async function purge(name) {
  const isSure = await confirm({ title: `Purge ${name}`, text: 'Tables of deleted collections, columns of deleted fields and their files are removed for good.', action: 'Purge', name });
  if (!isSure) return;
  const { collections, fields, files } = await callServer('POST', `${pathOf(name)}/purge`);
  say(`Removed for good: ${collections} collections, ${fields} fields, ${files} files.`);
}

/** @param {string} name */
async function use(name) {
  choose(name);
  await loadCollections();
}

export function Databases() {
  const act = (/** @type {(name: string) => Promise<void>} */ action, /** @type {string} */ name) => () => action(name).catch(sayError);
  const columns = [
    { label: 'Name', cell: (/** @type {any} */ { name }) => name },
    { label: 'State', cell: (/** @type {any} */ { name }) => name === database.value && html`<${Badge} state="active">shown</${Badge}>` },
    { label: hiddenLabel('Actions'), cell: (/** @type {any} */ { name }) => html`<div class="row is-end">
      <button class="button" disabled=${name === database.value} onClick=${act(use, name)}>Show</button>
      ${!isReadOnly() && html`<button class="button" onClick=${act(purge, name)}>Purge...</button>
      <button class="button is-danger" disabled=${name === 'default'} onClick=${act(remove, name)}>Delete...</button>`}</div>` },
  ];
  return html`<${Head} title="Databases">${!isReadOnly() && html`<button class="button is-main" onClick=${() => setQuery({ new: 1 })}>New database</button>`}</${Head}>
    <p class="soft">Each database is a file of its own, with its own collections and accounts. Requests name it in their path: <code>/db/NAME/api/...</code></p>
    <${Table} label="Databases" columns=${columns} rows=${databases.value} keyOf=${(/** @type {any} */ it) => it.name} />
    ${place.value.query.get('new') && html`<${NewDatabase} />`}`;
}

function NewDatabase() {
  const [name, setName] = useState('');
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const close = () => setQuery({ new: null });
  const create = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await callServer('POST', '/api/databases', { body: { name } });
      await loadServer();
      say(`Database ${name} created.`);
      close();
    } catch (failure) {
      setError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="new-database">Create</button>`;
  return html`<${Dialog} title="New database" onClose=${close} foot=${foot}><form id="new-database" class="stack" onSubmit=${create}>
    <${Field} label="Name" value=${name} onInput=${setName} required hint="1 to 64 of a-z, 0-9, _ and -." problem=${error?.fields?.name} autofocus />
    <${Problem} error=${error} /></form></${Dialog}>`;
}
