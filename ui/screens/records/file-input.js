// The files of a field: the stored ones with a link, new ones by choosing or dropping.

import { bytes } from '../../app/format.js';
import { client, database } from '../../app/session.js';
import { html, useId, useState } from '../../app/view.js';
import { isList } from './field-input.js';
import { sayError } from '../../parts/toast.js';

/** Opens a stored file. A protected one needs a token, which lives for minutes. @param {any} collection @param {any} record @param {any} field @param {string} name */
async function open(collection, record, field, name) {
  const { token } = field.protected ? await client.transport.json('POST', '/api/files/token', { database: database.value }) : { token: '' };
  const prefix = database.value === 'default' ? '' : `/db/${encodeURIComponent(database.value)}`;
  const path = [collection.name, record.id, name].map(encodeURIComponent).join('/');
  globalThis.open(`${prefix}/api/files/${path}${token && `?token=${token}`}`, '_blank', 'noopener');
}

/** @param {any} props */
export function FileInput({ field, value, onInput, label, hint, problem, disabled, record, collection }) {
  const id = useId();
  const [isOver, setOver] = useState(false);
  /** @type {(string | File)[]} */
  const files = value ? [value].flat() : [];
  const set = (/** @type {(string | File)[]} */ next) => onInput(isList(field) ? next : next.at(-1) ?? '');
  const add = (/** @type {FileList | null} */ list) => list && set(isList(field) ? [...files, ...list] : [...list]);
  const onDrop = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(false);
    if (!disabled) add(event.dataTransfer?.files ?? null);
  };
  return html`<div class=${`field drop ${isOver ? 'is-over' : ''}`} onDragOver=${(/** @type {Event} */ event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${onDrop}>
    <label for=${id}>${label}</label>
    ${files.map((file) => html`<div class="row" key=${typeof file === 'string' ? file : file.name}>
      ${typeof file === 'string' ? html`<button type="button" class="button is-quiet" onClick=${() => open(collection, record, field, file).catch(sayError)}>${file}</button>` : html`<span>${file.name}, ${bytes(file.size)}, new</span>`}
      ${!disabled && html`<button type="button" class="button is-quiet" aria-label=${`Remove ${typeof file === 'string' ? file : file.name}`} onClick=${() => set(files.filter((it) => it !== file))}>✕</button>`}
    </div>`)}
    ${!disabled && html`<input id=${id} type="file" multiple=${isList(field)} accept=${(field.mimeTypes ?? []).join(',')} onChange=${(/** @type {any} */ event) => add(event.target.files)} />`}
    ${problem && html`<div class="problem">${problem.message}</div>`}
    <div class="hint">${[hint, !disabled && 'Files can be dropped here.'].filter(Boolean).join(' ')}</div>
  </div>`;
}
