// Master and replicas: what each lacks, and the commands for a change of roles.

import { bytes, duration, number, plural } from '../app/format.js';
import { Loaded, useLoad } from '../app/load.js';
import { callServer } from '../app/session.js';
import { html } from '../app/view.js';
import { Code } from '../parts/code.js';
import { Badge, Empty, Facts, Head, Time } from '../parts/small.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 3000;

/** @param {{files: {path: string, state: string}[]}} props */
function Damaged({ files }) {
  if (files.length === 0) return null;
  const columns = [{ label: 'File', cell: (/** @type {any} */ it) => html`<code>${it.path}</code>` }, { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.state} />` }];
  return html`<section class="stack"><h2>Damaged files</h2><${Table} label="Damaged files" columns=${columns} rows=${files} keyOf=${(/** @type {any} */ it) => it.path} /></section>`;
}

/** How many databases of a replica are not at the master's version. @param {any} status @param {any} replica */
function behind(status, replica) {
  const versions = new Map(status.databases.map((/** @type {any} */ it) => [it.name, it]));
  return replica.databases.filter((/** @type {any} */ it) => {
    const master = /** @type {any} */ (versions.get(it.name));
    return master && (master.version !== it.version || master.epoch !== it.epoch);
  }).length;
}

/** @param {{status: any}} props */
function Master({ status }) {
  const join = `MASTER_URL=${location.origin} REPLICA_MODE=replica JWT_SECRET=... DATA_DIR=/var/lib/vski vski serve`;
  if (status.replicas.length === 0) {
    return html`<${Empty} title="No replica has connected."><p>A replica is a second server that follows this one and answers reads. Start it with the same <code>JWT_SECRET</code>:</p><${Code} text=${join} label="Command" /></${Empty}>`;
  }
  const columns = [
    { label: 'Replica', cell: (/** @type {any} */ it) => html`<strong>${it.id}</strong>${it.publicUrl && html` <a href=${it.publicUrl} rel="noreferrer">${it.publicUrl}</a>`}` },
    { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.connected ? 'connected' : 'lost'}>${it.connected ? 'connected' : 'not connected'}</${Badge}>` },
    { label: 'Last seen', cell: (/** @type {any} */ it) => html`<${Time} at=${it.lastSeen} />` },
    { label: 'Databases', cell: (/** @type {any} */ it) => (behind(status, it) === 0 ? html`<${Badge} state="current">all current</${Badge}>` : html`<${Badge} state="behind">${plural(behind(status, it), 'database')} behind</${Badge}>`) },
    { label: 'Files acknowledged', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => number(it.filesAcknowledged) },
  ];
  return html`<${Table} label="Replicas" columns=${columns} rows=${status.replicas} keyOf=${(/** @type {any} */ it) => it.id} />`;
}

/** @param {{replica: any}} props */
function Replica({ replica }) {
  const { files } = replica;
  const columns = [
    { label: 'Database', cell: (/** @type {any} */ it) => it.name },
    { label: 'State', cell: (/** @type {any} */ it) => html`<${Badge} state=${it.state} />` },
    { label: 'Version', kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ it) => `${number(it.version)} of ${number(it.masterVersion)}` },
    { label: 'Synced', cell: (/** @type {any} */ it) => html`<${Time} at=${it.synced} />` },
    { label: 'Problem', cell: (/** @type {any} */ it) => it.error ?? '' },
  ];
  const rate = files.bytesPerSecond ? `${bytes(files.bytesPerSecond)} a second, ${duration((files.secondsLeft ?? 0) * 1000)} left` : undefined;
  return html`<${Facts} rows=${[
      ['Master', html`<a href=${replica.master} rel="noreferrer">${replica.master}</a>`], ['Connected', replica.connected ? 'yes' : 'no'], ['Behind', replica.secondsBehind === null ? 'not complete yet' : duration(replica.secondsBehind * 1000)],
      ['Problem', replica.error], ['Files', html`<${Badge} state=${files.state} /> ${files.pending > 0 ? `${plural(files.pending, 'file')} to fetch, ${bytes(files.pendingBytes ?? 0)}` : ''}`], ['Transfer', rate],
    ]} />
    <${Table} label="Databases" columns=${columns} rows=${replica.databases} keyOf=${(/** @type {any} */ it) => it.name} />
    <section class="card stack"><h2>Make this server the master</h2><p>First stop the old master for good: two masters would diverge. Then, on this machine:</p><${Code} text="vski replica promote" label="Command" /></section>`;
}

export function Replication() {
  const load = useLoad((signal) => callServer('GET', '/api/replica/status', { signal }), [], { everyMs: REFRESH_MS });
  return html`<${Head} title="Replication" />
    <${Loaded} load=${load}>${(/** @type {any} */ status) => html`<p>This server is a <strong>${status.role}</strong> with the name <code>${status.id}</code>.</p>
      ${status.role === 'replica' ? html`<${Replica} replica=${status.replica} />` : html`<${Master} status=${status} />`}
      <${Damaged} files=${status.damagedFiles} />`}</${Loaded}>`;
}
