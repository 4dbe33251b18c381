// One record: an input for each field, files, the raw JSON. Saving sends only what changed, and only if the record has not
// changed meanwhile.

import { dateTime } from '../../app/format.js';
import { Loaded, Problem, useLoad } from '../../app/load.js';
import { client, database } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Code, Json } from '../../parts/code.js';
import { Dialog, confirm } from '../../parts/dialog.js';
import { Facts } from '../../parts/small.js';
import { say, sayError } from '../../parts/toast.js';
import { Account } from './account.js';
import { FieldInput, isEditable, valueOf } from './field-input.js';

/**
 * @param {{collection: any, id: string | null, canWrite: boolean, onClose: () => void, onSaved: () => void}} props
 */
export function Editor({ collection, id, canWrite, onClose, onSaved }) {
  const [view, setView] = useState('fields');
  const records = client.db(database.value).collection(collection.name);
  const load = useLoad(async (signal) => /** @type {any} */ (id ? await records.getOne(id, { signal }) : {}), [collection.name, id]);
  if (load.data === undefined) {
    return html`<${Dialog} side title=${id ?? 'New record'} onClose=${onClose}><${Loaded} load=${load}>${() => null}</${Loaded}></${Dialog}>`;
  }
  return html`<${Form} key=${load.data.updated} collection=${collection} records=${records} record=${load.data} canWrite=${canWrite} view=${view} setView=${setView} onClose=${onClose} onSaved=${onSaved} reload=${load.reload} />`;
}

/** The changed values as the API takes them. @param {any} collection @param {any} record @param {Record<string, any>} edited */
function changesOf(collection, record, edited) {
  /** @type {Record<string, any>} */
  const changes = {};
  /** @type {Record<string, {message: string}>} */
  const problems = {};
  for (const [name, input] of Object.entries(edited)) {
    const field = collection.fields.find((/** @type {any} */ it) => it.name === name) ?? { name, type: 'text' };
    try {
      const value = valueOf(field, input);
      if (JSON.stringify(value) !== JSON.stringify(record[name])) changes[name] = value;
    } catch (error) {
      problems[name] = { message: /** @type {Error} */ (error).message };
    }
  }
  return { changes, problems };
}

/** @param {any} props */
function Form({ collection, records, record, canWrite, view, setView, onClose, onSaved, reload }) {
  const isNew = !record.id;
  const [edited, setEdited] = useState(/** @type {Record<string, any>} */ ({}));
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const [progress, setProgress] = useState(/** @type {number | null} */ (null));
  const fields = collection.fields.filter((/** @type {any} */ field) => isEditable(field, isNew));
  const isDirty = Object.keys(edited).length > 0;
  const close = async () => {
    const isSure = !isDirty || await confirm({ title: 'Discard the changes?', text: 'The changed fields have not been saved.', action: 'Discard' });
    if (isSure) onClose();
  };
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { changes, problems } = changesOf(collection, record, edited);
    if (Object.keys(problems).length > 0) return setError({ message: 'Some values cannot be read.', fields: problems });
    const onProgress = (/** @type {{sent: number, total: number}} */ { sent, total }) => setProgress(total ? sent / total : null);
    const hasFiles = Object.values(changes).flat().some((value) => value instanceof File);
    const options = hasFiles ? { onProgress } : {};
    try {
      if (isNew) await records.create(changes, options);
      else await records.update(record.id, changes, { ...options, ifMatch: record });
      say(isNew ? 'Record created.' : 'Record saved.');
      onSaved();
      onClose();
    } catch (failure) {
      const isChanged = /** @type {any} */ (failure).code === 'changed';
      setError(isChanged ? { message: 'The record has been changed by another client since it was opened. Load it again; your changes are lost then.', reload: true } : failure);
    }
    return setProgress(null);
  };
  const remove = async () => {
    const isSure = await confirm({ title: `Delete ${record.id}`, text: 'The record and its files are deleted for good.', action: 'Delete' });
    if (!isSure) return;
    await records.delete(record.id).then(() => {
      say('Record deleted.');
      onSaved();
      onClose();
    }, sayError);
  };
  const foot = canWrite && html`
    ${!isNew && html`<button class="button is-danger" onClick=${remove}>Delete</button>`}
    <button class="button" onClick=${close}>Cancel</button>
    <button class="button is-main" form="record" disabled=${!isDirty && !isNew || progress !== null}>${progress === null ? 'Save' : `Sending ${Math.round(progress * 100)} %`}</button>`;
  const toggle = (/** @type {string} */ name, /** @type {string} */ label) => html`<button class="button is-quiet" aria-pressed=${String(view === name)} onClick=${() => setView(view === name ? 'fields' : name)}>${label}</button>`;
  const toggles = !isNew && html`${collection.type === 'auth' && toggle('account', 'Account')}${toggle('json', 'JSON')}`;
  return html`<${Dialog} side title=${isNew ? `New record of ${collection.name}` : record.id} onClose=${close} foot=${view !== 'account' && foot} actions=${toggles}>
    <${Problem} error=${error} retry=${error?.reload ? reload : undefined} />
    ${view === 'json' ? html`<${Json} value=${record} />` : view === 'account' ? html`<${Account} collection=${collection} record=${record} canWrite=${canWrite} onChanged=${() => { onSaved(); reload(); }} />` : html`<form id="record" class="stack" onSubmit=${save}>
      ${isNew && html`<${FieldInput} field=${{ name: 'id', type: 'text', hint: 'Left empty, the server makes one.' }} value=${edited.id ?? ''} onInput=${(/** @type {any} */ value) => setEdited({ ...edited, id: value })} problem=${error?.fields?.id} />`}
      ${fields.map((/** @type {any} */ field) => html`<${FieldInput} key=${field.name} field=${field} record=${record} collection=${collection}
        value=${edited[field.name] ?? record[field.name]} onInput=${(/** @type {any} */ value) => setEdited({ ...edited, [field.name]: value })}
        problem=${error?.fields?.[field.name]} disabled=${!canWrite} />`)}
    </form>`}
    ${!isNew && view === 'fields' && html`<${Facts} rows=${[['Created', dateTime(record.created)], ['Updated', dateTime(record.updated)]]} />
      <details><summary>Request</summary><${Code} text=${`curl ${location.origin}${database.value === 'default' ? '' : `/db/${database.value}`}/api/collections/${collection.name}/records/${record.id} -H "Authorization: Bearer $TOKEN"`} /></details>`}
  </${Dialog}>`;
}
