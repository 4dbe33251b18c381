// Related records: chosen by searching the other collection, shown by their first text.

import { useLoad } from '../../app/load.js';
import { collections } from '../../app/server.js';
import { client, database } from '../../app/session.js';
import { html, useId, useState } from '../../app/view.js';
import { isList } from './field-input.js';
import { labelOf, nameField } from './label.js';

const SHOWN = 20;
/** A string as a literal of the filter language. @param {string} text */
const literal = (text) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;

/** @param {any} props */
export function RelationInput({ field, value, onInput, label, hint, problem, disabled }) {
  const id = useId();
  const [text, setText] = useState('');
  const [isOpen, setOpen] = useState(false);
  const other = collections.value.find((it) => it.id === field.collectionId || it.name === field.collectionId);
  const name = other && nameField(other);
  /** @type {string[]} */
  const chosen = value ? [value].flat() : [];
  const records = other && client.db(database.value).collection(other.name);
  const known = useLoad(async (signal) => {
    if (!records || chosen.length === 0) return [];
    const filter = chosen.slice(0, 100).map((it) => `id = ${literal(it)}`).join(' || ');
    return (await records.getList({ filter, perPage: 100, signal })).items;
  }, [chosen.join()]);
  const found = useLoad(async (signal) => {
    if (!records || !isOpen) return [];
    const filter = text ? [`id ~ ${literal(text)}`, name && `${name} ~ ${literal(text)}`].filter(Boolean).join(' || ') : '';
    return (await records.getList({ filter, perPage: SHOWN, skipTotal: true, signal })).items;
  }, [text, isOpen]);
  const set = (/** @type {string[]} */ ids) => onInput(isList(field) ? ids : ids.at(-1) ?? '');
  const shown = (/** @type {string} */ it) => {
    const record = known.data?.find((/** @type {any} */ other) => other.id === it) ?? found.data?.find((/** @type {any} */ other) => other.id === it);
    return record ? labelOf(record, name) : it;
  };
  return html`<div class="field relation"><label for=${id}>${label}</label>
    <div class="row">${chosen.map((it) => html`<span class="badge is-live" key=${it} title=${it}>${shown(it)}
      ${!disabled && html`<button type="button" class="button is-quiet is-tiny" aria-label=${`Remove ${shown(it)}`} onClick=${() => set(chosen.filter((other) => other !== it))}>✕</button>`}</span>`)}</div>
    ${!disabled && html`<div class="filter"><div class="grow"><input id=${id} type="search" value=${text} placeholder=${`Search ${other?.name ?? 'records'}`} onInput=${(/** @type {any} */ event) => setText(event.target.value)}
      onFocus=${() => setOpen(true)} onBlur=${() => setTimeout(() => setOpen(false), 150)} autocomplete="off" />
      ${isOpen && html`<ul class="offers" aria-label=${`Records of ${other?.name}`}>${(found.data ?? []).filter((/** @type {any} */ it) => !chosen.includes(it.id)).map((/** @type {any} */ it) => html`<li key=${it.id}
        onMouseDown=${(/** @type {Event} */ event) => { event.preventDefault(); set(isList(field) ? [...chosen, it.id] : [it.id]); setText(''); }}>${labelOf(it, name)} <span class="soft small">${it.id}</span></li>`)}</ul>`}</div></div>`}
    ${problem && html`<div class="problem">${problem.message}</div>`}${hint && html`<div class="hint">${hint}</div>`}</div>`;
}
