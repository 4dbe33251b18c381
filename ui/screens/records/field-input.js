// The input of a field, by its type. Inputs hold what the reader typed; `valueOf` makes the value of it that is sent.

import { html, useState } from '../../app/view.js';
import { Check, Field } from '../../parts/field.js';
import { FileInput } from './file-input.js';
import { RelationInput } from './relation-input.js';

const SET_BY_SERVER = ['id', 'created', 'updated', 'tokenKey'];

/** True if a person can set the field. @param {any} field @param {boolean} isNew */
export function isEditable(field, isNew) {
  return !SET_BY_SERVER.includes(field.name) && field.type !== 'autodate' && (field.name !== 'password' || isNew || field.type === 'password');
}

/** True if the field holds a list. @param {any} field */
export const isList = (field) => ['select', 'file', 'relation'].includes(field.type) && (field.maxSelect ?? 1) > 1;

/** The value to send for what was typed. Throws if it cannot be read. @param {any} field @param {any} input */
export function valueOf(field, input) {
  if (field.type === 'number') {
    if (input === '' || input === null) return null;
    const value = Number(input);
    if (Number.isNaN(value)) throw new Error('Must be a number.');
    return value;
  }
  if (field.type === 'json' || field.type === 'geoPoint') {
    if (typeof input !== 'string') return input;
    if (input.trim() === '') return null;
    try {
      return JSON.parse(input);
    } catch (error) {
      throw new Error(`Must be JSON: ${/** @type {Error} */ (error).message}`);
    }
  }
  return input;
}

/** @param {any} field */
function hintOf(field) {
  const parts = [field.hint, field.required && 'Required.', field.unique && 'Unique.', field.hidden && 'Hidden from clients.'];
  if (field.min !== undefined && field.min !== null && field.min !== 0) parts.push(`At least ${field.min}.`);
  if (field.max !== undefined && field.max !== null && field.max !== 0) parts.push(`At most ${field.max}.`);
  return parts.filter(Boolean).join(' ');
}

/** @param {any} field */
const labelOf = (field) => field.name;

/** @param {any} props */
export function FieldInput({ field, value, onInput, problem, disabled = false, record, collection }) {
  const shared = { label: labelOf(field), hint: hintOf(field), problem, disabled, onInput };
  switch (field.type) {
    case 'bool':
      return html`<${Check} label=${field.name} value=${value === true} onInput=${onInput} disabled=${disabled} />`;
    case 'number':
      return html`<${Field} ...${shared} value=${value ?? ''} inputmode="decimal" />`;
    case 'editor':
      return html`<${Field} ...${shared} value=${value} rows=${8} />`;
    case 'json':
      return html`<${Field} ...${shared} value=${typeof value === 'string' ? value : value === undefined ? '' : JSON.stringify(value, null, 2)} rows=${6} mono />`;
    case 'geoPoint':
      return html`<${GeoInput} ...${shared} value=${value} />`;
    case 'date':
    case 'datetime':
      return html`<${Field} ...${shared} value=${value ?? ''} placeholder="2026-01-31T12:00:00.000Z" hint=${[shared.hint, 'UTC.'].filter(Boolean).join(' ')} />`;
    case 'select':
      return html`<${SelectInput} ...${shared} field=${field} value=${value} />`;
    case 'relation':
      return html`<${RelationInput} ...${shared} field=${field} value=${value} />`;
    case 'file':
      return html`<${FileInput} ...${shared} field=${field} value=${value} record=${record} collection=${collection} />`;
    case 'password':
      return html`<${Field} ...${shared} type="password" value=${value ?? ''} autocomplete="new-password" />`;
    case 'email':
      return html`<${Field} ...${shared} type="email" value=${value} />`;
    default:
      return html`<${Field} ...${shared} value=${value} rows=${String(value ?? '').length > 80 || String(value ?? '').includes('\n') ? 4 : undefined} />`;
  }
}

/** @param {any} props */
function SelectInput({ field, value, onInput, label, hint, problem, disabled }) {
  const values = field.values ?? [];
  if (!isList(field)) return html`<${Field} label=${label} hint=${hint} problem=${problem} disabled=${disabled} value=${value ?? ''} onInput=${onInput} options=${['', ...values]} />`;
  const chosen = value ?? [];
  const toggle = (/** @type {string} */ item) => (/** @type {boolean} */ is) => onInput(values.filter((/** @type {string} */ it) => (it === item ? is : chosen.includes(it))));
  return html`<fieldset class="field"><legend>${label}</legend>${values.map((/** @type {string} */ item) => html`<${Check} key=${item} label=${item} value=${chosen.includes(item)} onInput=${toggle(item)} disabled=${disabled} />`)}
    ${problem && html`<div class="problem">${problem.message}</div>`}${hint && html`<div class="hint">${hint}</div>`}</fieldset>`;
}

/** @param {any} props */
function GeoInput({ value, onInput, label, hint, problem, disabled }) {
  const [point, setPoint] = useState(value ?? { lon: 0, lat: 0 });
  const set = (/** @type {string} */ name) => (/** @type {string} */ text) => {
    const next = { ...point, [name]: text };
    setPoint(next);
    onInput({ lon: Number(next.lon), lat: Number(next.lat) });
  };
  return html`<fieldset class="field"><legend>${label}</legend><div class="columns">
    <${Field} label="Longitude" value=${point.lon} onInput=${set('lon')} inputmode="decimal" disabled=${disabled} />
    <${Field} label="Latitude" value=${point.lat} onInput=${set('lat')} inputmode="decimal" disabled=${disabled} /></div>
    ${problem && html`<div class="problem">${problem.message}</div>`}${hint && html`<div class="hint">${hint}</div>`}</fieldset>`;
}
