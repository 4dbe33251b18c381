// The archives of this server: make one, take it away, bring one back, delete it. Restoring is a command, which is shown.

import { bytes, dateTime } from '../app/format.js';
import { Loaded, Problem, useLoad } from '../app/load.js';
import { place, setQuery } from '../app/router.js';
import { callServer, client } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Code } from '../parts/code.js';
import { Dialog, confirm } from '../parts/dialog.js';
import { Field } from '../parts/field.js';
import { Empty, Head, Time } from '../parts/small.js';
import { Table, hiddenLabel } from '../parts/table.js';
import { say, sayError } from '../parts/toast.js';

const pathOf = (/** @type {string} */ key) => `/api/backups/${encodeURIComponent(key)}`;
const restoreCommand = (/** @type {string} */ key) => `vski restore DATA_DIR/backups/${key} --replace`;
const close = () => setQuery({ new: null, restore: null });

/** Opens an archive with a token for files, which lives for minutes. @param {string} key */
async function fetchArchive(key) {
  const { token } = await callServer('POST', '/api/files/token');
  globalThis.open(`${pathOf(key)}?token=${encodeURIComponent(token)}`, '_blank', 'noopener');
}

/** @param {string} key @param {() => void} onDone */
async function remove(key, onDone) {
  const isSure = await confirm({ title: `Delete ${key}`, text: 'The archive is deleted for good.', action: 'Delete', name: key });
  if (!isSure) return;
  await callServer('DELETE', pathOf(key));
  say(`${key} deleted.`);
  onDone();
}

export function Backups() {
  const load = useLoad((signal) => callServer('GET', '/api/backups', { signal }), []);
  const [progress, setProgress] = useState(/** @type {number | null} */ (null));
  const upload = async (/** @type {File | undefined} */ file) => {
    if (!file) return;
    const form = new FormData();
    form.append('file', file);
    setProgress(0);
    const onProgress = (/** @type {{sent: number, total: number}} */ { sent, total }) => setProgress(total ? sent / total : 0);
    await client.transport.json('POST', '/api/backups/upload', { body: form, onProgress }, { timeout: 0, retries: 0 }).then(() => say(`${file.name} received.`), sayError);
    setProgress(null);
    load.reload();
  };
  const columns = [
    { label: 'Archive', cell: (/** @type {any} */ it) => html`<code>${it.key}</code>` },
    { label: 'Made', cell: (/** @type {any} */ it) => html`${dateTime(it.modified)} (<${Time} at=${it.modified} />)` },
    { label: 'Size', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => bytes(it.size) },
    { label: hiddenLabel('Actions'), cell: (/** @type {any} */ it) => html`<div class="row is-end"><button class="button" onClick=${() => fetchArchive(it.key).catch(sayError)}>Download</button>
      <button class="button" onClick=${() => setQuery({ restore: it.key })}>Restore...</button><button class="button is-danger" onClick=${() => remove(it.key, load.reload).catch(sayError)}>Delete...</button></div>` },
  ];
  const { query } = place.value;
  const restore = query.get('restore');
  return html`<${Head} title="Backups">
      <label class="button">${progress === null ? 'Upload...' : `Sending ${Math.round(progress * 100)} %`}<input class="visually-hidden" type="file" accept=".zip" disabled=${progress !== null} onChange=${(/** @type {any} */ event) => upload(event.target.files[0])} /></label>
      <button class="button is-main" onClick=${() => setQuery({ new: 1 })}>New backup</button></${Head}>
    <p class="soft">An archive has all databases, files and secrets of this server, and lies in <code>DATA_DIR/backups</code>, on the same disk: download it, or copy that folder elsewhere.</p>
    <${Loaded} load=${load}>${(/** @type {any[]} */ items) => (items.length === 0
      ? html`<${Empty} title="No backups yet."><p>Make one here, or by a timer of the system with <code>vski backup DIR</code>, which copies only what has changed.</p></${Empty}>`
      : html`<${Table} label="Backups" columns=${columns} rows=${[...items].sort((a, b) => (a.modified < b.modified ? 1 : -1))} keyOf=${(/** @type {any} */ it) => it.key} />`)}</${Loaded}>
    ${query.get('new') && html`<${NewBackup} onDone=${load.reload} />`}
    ${restore && html`<${Dialog} title=${`Restore ${restore}`} onClose=${close}><p>A running server has the databases open, so an archive is put back by a command. Stop the server, then on its machine:</p>
      <${Code} text=${restoreCommand(restore)} label="Command" /><p class="soft">The archive is checked before anything is replaced; what was there is kept beside it.</p></${Dialog}>`}`;
}

/** @param {{onDone: () => void}} props */
function NewBackup({ onDone }) {
  const [name, setName] = useState('');
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const [isWriting, setWriting] = useState(false);
  const create = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setWriting(true);
    setError(undefined);
    try {
      await client.transport.json('POST', '/api/backups', { body: name ? { name } : {} }, { timeout: 0, retries: 0 });
      say('The backup is on disk.');
      onDone();
      close();
    } catch (failure) {
      setError(failure);
    }
    setWriting(false);
  };
  const foot = html`<button class="button" onClick=${close}>Cancel</button><button class="button is-main" form="new-backup" disabled=${isWriting}>${isWriting ? 'Writing...' : 'Back up'}</button>`;
  return html`<${Dialog} title="New backup" onClose=${close} foot=${foot}><form id="new-backup" class="stack" onSubmit=${create}>
    <${Field} label="Name" value=${name} onInput=${setName} placeholder="before_update.zip" hint="Empty: the time of the backup." problem=${error?.fields?.name} autofocus />
    <p class="soft">Clients are served meanwhile. It takes as long as writing all data once.</p><${Problem} error=${error} /></form></${Dialog}>`;
}
