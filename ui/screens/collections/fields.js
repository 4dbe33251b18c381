// The fields of a definition: one row each, with the options of its type.

import { collections } from '../../app/server.js';
import { html, useState } from '../../app/view.js';
import { Check, Field } from '../../parts/field.js';
import { Badge } from '../../parts/small.js';

const TYPES = ['text', 'editor', 'number', 'bool', 'email', 'url', 'date', 'datetime', 'select', 'json', 'file', 'relation', 'geoPoint', 'autodate'];

/** The options of each type: name, label, how it is typed. @type {Record<string, [string, string, 'number' | 'text' | 'list' | 'bool' | 'collection'][]>} */
const OPTIONS = {
  text: [['min', 'Least characters', 'number'], ['max', 'Most characters', 'number'], ['pattern', 'Pattern', 'text']],
  editor: [['maxSize', 'Most bytes', 'number']],
  number: [['min', 'Least', 'number'], ['max', 'Most', 'number'], ['onlyInt', 'Whole numbers only', 'bool']],
  email: [['onlyDomains', 'Only these domains', 'list'], ['exceptDomains', 'Not these domains', 'list']],
  url: [['onlyDomains', 'Only these domains', 'list'], ['exceptDomains', 'Not these domains', 'list']],
  date: [['min', 'Earliest', 'text'], ['max', 'Latest', 'text']],
  datetime: [['min', 'Earliest', 'text'], ['max', 'Latest', 'text']],
  select: [['values', 'Values', 'list'], ['maxSelect', 'Most values', 'number']],
  json: [['maxSize', 'Most bytes', 'number']],
  file: [['maxSelect', 'Most files', 'number'], ['maxSize', 'Most bytes of a file', 'number'], ['mimeTypes', 'Media types', 'list'], ['protected', 'Only for callers that may view the record', 'bool']],
  autodate: [['onCreate', 'Set when the record is created', 'bool'], ['onUpdate', 'Set when it is changed', 'bool']],
  relation: [['collectionId', 'Collection', 'collection'], ['maxSelect', 'Most records', 'number'], ['cascadeDelete', 'Delete with the related record', 'bool']],
};

/** @param {{fields: any[], onInput: (fields: any[]) => void, before: any[], errors: any}} props */
export function Fields({ fields, onInput, before, errors }) {
  const [open, setOpen] = useState(-1);
  const change = (/** @type {number} */ index, /** @type {any} */ field) => onInput(fields.map((it, at) => (at === index ? field : it)));
  const remove = (/** @type {number} */ index) => onInput(fields.filter((_, at) => at !== index));
  const move = (/** @type {number} */ index, /** @type {number} */ step) => {
    const next = [...fields];
    next.splice(index + step, 0, ...next.splice(index, 1));
    onInput(next);
  };
  const add = () => {
    // The times of a record stay last.
    const last = fields.findLastIndex(({ type }) => type !== 'autodate') + 1;
    onInput(fields.toSpliced(last, 0, { name: '', type: 'text' }));
    setOpen(last);
  };
  const known = new Set(before.map(({ name }) => name));
  return html`<div class="stack">
    ${fields.map((field, index) => html`<section class="card stack" key=${index} aria-label=${`Field ${field.name}`}>
      <div class="row">
        <strong>${field.name || 'New field'}</strong><span class="soft">${field.type}</span>
        ${field.required && html`<${Badge} state="required" />`}${field.unique && html`<${Badge} state="unique" />`}${field.hidden && html`<${Badge} state="hidden" />`}${field.system && html`<${Badge} state="system" />`}
        <span class="push"></span>
        <button class="button is-quiet" disabled=${index === 0} aria-label=${`Move ${field.name} up`} onClick=${() => move(index, -1)}>↑</button>
        <button class="button is-quiet" disabled=${index === fields.length - 1} aria-label=${`Move ${field.name} down`} onClick=${() => move(index, 1)}>↓</button>
        <button class="button is-quiet" aria-expanded=${String(open === index)} onClick=${() => setOpen(open === index ? -1 : index)}>${open === index ? 'Close' : 'Edit'}</button>
        ${!field.system && html`<button class="button is-quiet" aria-label=${`Remove ${field.name}`} onClick=${() => remove(index)}>✕</button>`}
      </div>
      ${open === index && html`<${FieldOptions} field=${field} isNew=${!known.has(field.name)} onInput=${(/** @type {any} */ next) => change(index, next)} errors=${errors} />`}
    </section>`)}
    <div><button class="button" onClick=${add}>Add a field</button></div>
  </div>`;
}

/** The value of an option for its input, and back. */
const show = { number: String, text: String, list: (/** @type {any} */ value) => value.join(', '), bool: Boolean, collection: String };
const read = {
  number: (/** @type {string} */ text) => (text.trim() === '' || Number.isNaN(Number(text)) ? undefined : Number(text)),
  text: (/** @type {string} */ text) => text || undefined,
  list: (/** @type {string} */ text) => text.split(',').map((item) => item.trim()).filter(Boolean),
  bool: (/** @type {boolean} */ value) => value || undefined,
  collection: (/** @type {string} */ text) => text || undefined,
};

/** @param {any} props */
function FieldOptions({ field, isNew, onInput, errors }) {
  const set = (/** @type {string} */ name, /** @type {any} */ value) => onInput({ ...field, [name]: value });
  const problem = (/** @type {string} */ name) => errors?.[`fields.${field.name}.${name}`];
  const option = (/** @type {[string, string, 'number' | 'text' | 'list' | 'bool' | 'collection']} */ [name, label, kind]) => {
    const onChange = (/** @type {any} */ value) => set(name, read[kind](/** @type {never} */ (value)));
    if (kind === 'bool') return html`<${Check} key=${name} label=${label} value=${field[name] === true} onInput=${onChange} />`;
    const value = field[name] === undefined || field[name] === null ? '' : show[kind](field[name]);
    const options = kind === 'collection' ? [{ value: '', label: 'Choose' }, ...collections.value.map((it) => ({ value: it.id, label: it.name }))] : undefined;
    return html`<${Field} key=${name} label=${label} value=${value} onInput=${onChange} options=${options} problem=${problem(name)} />`;
  };
  return html`<div class="columns">
    <${Field} label="Name" value=${field.name} onInput=${(/** @type {string} */ name) => set('name', name)} disabled=${!isNew} problem=${problem('name')} />
    <${Field} label="Type" value=${field.type} onInput=${(/** @type {string} */ type) => onInput({ name: field.name, type, ...(type === 'autodate' && { onCreate: true }) })} options=${TYPES.includes(field.type) ? TYPES : [...TYPES, field.type]} disabled=${!isNew} />
    ${(OPTIONS[field.type] ?? []).map(option)}
    <${Check} label="Required" value=${field.required === true} onInput=${(/** @type {boolean} */ is) => set('required', is)} />
    <${Check} label="Unique" value=${field.unique === true} onInput=${(/** @type {boolean} */ is) => set('unique', is)} />
    <${Check} label="Hidden from everyone but admins and keys" value=${field.hidden === true} onInput=${(/** @type {boolean} */ is) => set('hidden', is)} />
  </div>`;
}
