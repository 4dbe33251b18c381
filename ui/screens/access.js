// Admins and API keys.

import { Loaded, Problem, useLoad } from '../app/load.js';
import { address, place, setQuery } from '../app/router.js';
import { isReadOnly } from '../app/server.js';
import { admin, callServer } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Code } from '../parts/code.js';
import { Dialog, confirm } from '../parts/dialog.js';
import { Check, Field } from '../parts/field.js';
import { Badge, Empty, Head, Tabs, Time } from '../parts/small.js';
import { Table, hiddenLabel } from '../parts/table.js';
import { say, sayError } from '../parts/toast.js';

/** @type {[string, string][]} */
const SCOPES = [
  ['read', 'Read records, hidden fields included'],
  ['write', 'Create, change and delete records'],
  ['collections', 'Create and change definitions'],
  ['databases', 'Create and delete databases'],
  ['service', 'Run workflows, read metrics'],
];

/** @param {{path: string[]}} props */
export function Access({ path: [tab = 'admins'] }) {
  const tabs = [['admins', 'Admins'], ['keys', 'API keys']].map(([name, label]) => ({ label, isCurrent: tab === name, href: address(['access', name]) }));
  const isNew = place.value.query.get('new');
  return html`<${Head} title="Admins and keys">
      ${!isReadOnly() && html`<button class="button is-main" onClick=${() => setQuery({ new: 1 })}>${tab === 'keys' ? 'New key' : 'New admin'}</button>`}
    </${Head}>
    <${Tabs} tabs=${tabs} label="Kinds of access" />
    ${tab === 'keys' ? html`<${Keys} isNew=${isNew} />` : html`<${Admins} isNew=${isNew} />`}`;
}

const close = () => setQuery({ new: null });

/** @param {{isNew: string | null}} props */
function Admins({ isNew }) {
  const load = useLoad((signal) => callServer('GET', '/api/admins', { signal }), []);
  const remove = async (/** @type {any} */ it) => {
    const isSure = await confirm({ title: `Delete ${it.email}`, text: 'The admin can no longer sign in; the tokens of the admin end at once.', action: 'Delete', name: it.email });
    if (!isSure) return;
    await callServer('DELETE', `/api/admins/${it.id}`);
    load.reload();
  };
  const columns = [
    { label: 'Address', cell: (/** @type {any} */ it) => html`${it.email} ${it.id === admin.value?.id && html`<${Badge} state="active">you</${Badge}>`}` },
    { label: 'Created', cell: (/** @type {any} */ it) => html`<${Time} at=${it.created} />` },
    { label: hiddenLabel('Actions'), cell: (/** @type {any} */ it) => !isReadOnly() && html`<div class="row is-end"><button class="button is-danger" onClick=${() => remove(it).catch(sayError)}>Delete...</button></div>` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items }) => html`<${Table} label="Admins" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} />`}</${Loaded}>
    ${isNew && html`<${NewAdmin} onDone=${load.reload} />`}`;
}

/** @param {{onDone: () => void}} props */
function NewAdmin({ onDone }) {
  const [values, setValues] = useState({ email: '', password: '' });
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const create = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await callServer('POST', '/api/admins', { body: values });
      say(`Admin ${values.email} created.`);
      onDone();
      close();
    } catch (failure) {
      setError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="new-admin">Create</button>`;
  return html`<${Dialog} title="New admin" onClose=${close} foot=${foot}><form id="new-admin" class="stack" onSubmit=${create}>
    <${Field} label="E-mail address" type="email" value=${values.email} onInput=${(/** @type {string} */ email) => setValues({ ...values, email })} required problem=${error?.fields?.email} />
    <${Field} label="Password" type="password" value=${values.password} onInput=${(/** @type {string} */ password) => setValues({ ...values, password })} required hint="At least 8 characters." autocomplete="new-password" problem=${error?.fields?.password} />
    <${Problem} error=${error} /></form></${Dialog}>`;
}

/** @param {{isNew: string | null}} props */
function Keys({ isNew }) {
  const load = useLoad((signal) => callServer('GET', '/api/keys', { signal }), []);
  const remove = async (/** @type {any} */ it) => {
    const isSure = await confirm({ title: `Delete the key ${it.name}`, text: 'Programs that use it are refused at once.', action: 'Delete', name: it.name });
    if (!isSure) return;
    await callServer('DELETE', `/api/keys/${it.id}`);
    load.reload();
  };
  const limits = (/** @type {any} */ it) => [...(it.databases ?? []).map((/** @type {string} */ name) => `database ${name}`), ...(it.collections ?? [])].join(', ');
  const columns = [
    { label: 'Name', cell: (/** @type {any} */ it) => it.name },
    { label: 'Scopes', cell: (/** @type {any} */ it) => html`<div class="row">${it.scopes.map((/** @type {string} */ scope) => html`<${Badge} key=${scope} state=${scope} />`)}</div>` },
    { label: 'Only for', cell: limits },
    { label: 'Last used', cell: (/** @type {any} */ it) => html`<${Time} at=${it.lastUsed} />` },
    { label: 'Expires', cell: (/** @type {any} */ it) => html`<${Time} at=${it.expires} />` },
    { label: hiddenLabel('Actions'), cell: (/** @type {any} */ it) => !isReadOnly() && html`<div class="row is-end"><button class="button is-danger" onClick=${() => remove(it).catch(sayError)}>Delete...</button></div>` },
  ];
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { items }) => (items.length === 0
    ? html`<${Empty} title="No API keys yet."><p>A key lets a program in, within its scopes, without signing in.</p></${Empty}>`
    : html`<${Table} label="API keys" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.id} />`)}</${Loaded}>
    ${isNew && html`<${NewKey} onDone=${load.reload} />`}`;
}

/** @param {{onDone: () => void}} props */
function NewKey({ onDone }) {
  const [values, setValues] = useState({ name: '', scopes: ['read'], databases: '', collections: '', expires: '' });
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const [key, setKey] = useState('');
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const names = (/** @type {string} */ text) => text.split(',').map((it) => it.trim()).filter(Boolean);
  const create = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { name, scopes, databases, collections, expires } = values;
    const body = {
      name, scopes, ...(databases && { databases: names(databases) }), ...(collections && { collections: names(collections) }),
      ...(expires && { expires: new Date(expires).toISOString() }),
    };
    try {
      setKey((await callServer('POST', '/api/keys', { body })).key);
      onDone();
    } catch (failure) {
      setError(failure);
    }
  };
  if (key) {
    return html`<${Dialog} title="The key is made" onClose=${close} foot=${html`<button class="button is-main" onClick=${close}>Done</button>`}>
      <p>It is shown once: the server keeps only a hash of it.</p><${Code} text=${key} label="Key" />
      <${Code} text=${`curl ${location.origin}/api/collections/NAME/records -H "X-API-Key: ${key}"`} label="Request" /></${Dialog}>`;
  }
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="new-key">Create</button>`;
  return html`<${Dialog} title="New API key" onClose=${close} foot=${foot}><form id="new-key" class="stack" onSubmit=${create}>
    <${Field} label="Name" value=${values.name} onInput=${set('name')} required problem=${error?.fields?.name} />
    <fieldset class="field"><legend>Scopes</legend>${SCOPES.map(([scope, label]) => html`<${Check} key=${scope} label=${html`<strong>${scope}</strong> ${label}`} value=${values.scopes.includes(scope)}
      onInput=${(/** @type {boolean} */ is) => set('scopes')(SCOPES.map(([it]) => it).filter((it) => (it === scope ? is : values.scopes.includes(it))))} />`)}</fieldset>
    <${Field} label="Only these databases" value=${values.databases} onInput=${set('databases')} hint="Names, separated by commas; empty: all." />
    <${Field} label="Only these collections" value=${values.collections} onInput=${set('collections')} hint="Names, separated by commas; empty: all." />
    <${Field} label="Expires" type="datetime-local" value=${values.expires} onInput=${set('expires')} hint="Empty: never." />
    <${Problem} error=${error} /></form></${Dialog}>`;
}
