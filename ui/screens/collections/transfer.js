// Definitions as a file: those of the database out, those of another one, or of PocketBase, in.

import { plural } from '../../app/format.js';
import { Problem } from '../../app/load.js';
import { setQuery } from '../../app/router.js';
import { collections, loadCollections } from '../../app/server.js';
import { call, database } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Dialog, confirm } from '../../parts/dialog.js';
import { download } from '../../parts/download.js';
import { Check, Field } from '../../parts/field.js';
import { say } from '../../parts/toast.js';

/** Saves all definitions; without records. */
export const exportAll = () => download(`${database.value}-collections.json`, 'application/json', JSON.stringify(collections.value, null, 2));

/** The definitions in a text: a list, or an object that has one. @param {string} text @returns {any[]} */
function read(text) {
  const value = JSON.parse(text);
  const list = Array.isArray(value) ? value : value?.collections ?? [value];
  if (!list.every((/** @type {any} */ it) => typeof it?.name === 'string')) throw new Error('Must be a list of definitions, each with a name.');
  return list;
}

/** What an import does, by the names in the database. @param {any[]} list @param {boolean} deletes */
function planOf(list, deletes) {
  const isKnown = (/** @type {any} */ it) => collections.value.some(({ id, name }) => id === it.id || name === it.name);
  const names = (/** @type {any[]} */ them) => them.map(({ name }) => name).join(', ');
  const gone = deletes ? collections.value.filter((it) => !list.some(({ id, name }) => id === it.id || name === it.name)) : [];
  return [['Creates', list.filter((it) => !isKnown(it))], ['Changes', list.filter(isKnown)], ['Deletes', gone]]
    .filter(([, them]) => them.length > 0).map(([verb, them]) => `${verb} ${names(/** @type {any[]} */ (them))}.`);
}

export function Import() {
  const [text, setText] = useState('');
  const [deletes, setDeletes] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const close = () => setQuery({ import: null });
  const take = async (/** @type {any} */ event) => setText(await event.target.files[0]?.text() ?? '');
  const run = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      const list = read(text);
      const steps = planOf(list, deletes);
      const isSure = await confirm({ title: `Import ${plural(list.length, 'collection')}`, action: 'Import', danger: deletes, name: deletes ? database.value : undefined, text: html`<ul>${steps.map((step) => html`<li>${step}</li>`)}</ul>` });
      if (!isSure) return;
      await call('PUT', '/api/collections/import', { body: { collections: list, deleteMissing: deletes } });
      await loadCollections();
      say(`${plural(list.length, 'collection')} imported.`);
      close();
    } catch (failure) {
      setError(failure);
    }
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="import" disabled=${text.trim() === ''}>Import...</button>`;
  return html`<${Dialog} side title="Import definitions" onClose=${close} foot=${foot}><form id="import" class="stack" onSubmit=${run}>
    <p class="soft">The export of another database or of PocketBase. Records are not part of it; all collections are imported, or none.</p>
    <label class="field"><span class="label">File</span><input type="file" accept=".json,application/json" onChange=${take} /></label>
    <${Field} label="Definitions (JSON)" value=${text} onInput=${setText} rows=${14} mono />
    <${Check} label="Delete collections and fields that are not in it" value=${deletes} onInput=${setDeletes} />
    <${Problem} error=${error} /></form></${Dialog}>`;
}
