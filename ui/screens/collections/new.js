// A new collection: its name, its type and its first fields.

import { Problem } from '../../app/load.js';
import { address, go, setQuery } from '../../app/router.js';
import { loadCollections } from '../../app/server.js';
import { call } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Dialog } from '../../parts/dialog.js';
import { Field } from '../../parts/field.js';
import { say } from '../../parts/toast.js';

const TYPES = [
  { value: 'base', label: 'Records' },
  { value: 'auth', label: 'Accounts: records that sign in' },
  { value: 'view', label: 'View: the rows of a SELECT' },
];

export function NewCollection() {
  const [name, setName] = useState('');
  const [type, setType] = useState('base');
  const [query, setQueryText] = useState('');
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const create = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await call('POST', '/api/collections', { body: { name, type, ...(type === 'view' ? { viewQuery: query } : { fields: type === 'base' ? [{ name: 'title', type: 'text' }] : [] }) } });
      await loadCollections();
      say(`Collection ${name} created. Only admins can use it until its rules admit others.`);
      go(address(['collections', name]));
    } catch (failure) {
      setError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${() => setQuery({ new: null })}>Cancel</button><button class="button is-main" form="new-collection">Create</button>`;
  return html`<${Dialog} title="New collection" onClose=${() => setQuery({ new: null })} foot=${foot}>
    <form id="new-collection" class="stack" onSubmit=${create}>
      <${Field} label="Name" value=${name} onInput=${setName} required pattern="[A-Za-z0-9_]+" hint="Letters, digits and _. It is part of the address." problem=${error?.fields?.name} autofocus />
      <${Field} label="Type" value=${type} onInput=${setType} options=${TYPES} />
      ${type === 'view' && html`<${Field} label="SELECT" value=${query} onInput=${setQueryText} rows=${5} mono required placeholder="SELECT id, title FROM posts" hint="It names its columns, among them id." problem=${error?.fields?.viewQuery} />`}
      <${Problem} error=${error} />
    </form>
  </${Dialog}>`;
}
