// The options in force and where each comes from; a test mail and a test of the bucket.

import { Loaded, Problem, useLoad } from '../app/load.js';
import { address, place, setQuery } from '../app/router.js';
import { admin, callServer } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Code } from '../parts/code.js';
import { Check, Field } from '../parts/field.js';
import { Badge, Head, Tabs } from '../parts/small.js';
import { Table } from '../parts/table.js';
import { say } from '../parts/toast.js';

const SOURCES = { flag: 'a flag of vski serve', environment: 'the environment', file: 'the file of ENV_FILE', default: 'the default' };

/** @param {{path: string[]}} props */
export function Settings({ path: [tab = 'options'] }) {
  const tabs = [['options', 'Options'], ['mail', 'Mail'], ['storage', 'Storage']].map(([name, label]) => ({ label, isCurrent: tab === name, href: address(['settings', name]) }));
  const load = useLoad((signal) => callServer('GET', '/api/settings/options', { signal }), []);
  return html`<${Head} title="Settings" />
    <${Tabs} tabs=${tabs} label="Groups of settings" />
    <${Loaded} load=${load}>${(/** @type {any} */ { items }) => (tab === 'mail' ? html`<${Mail} items=${items} />` : tab === 'storage' ? html`<${Storage} items=${items} />` : html`<${Options} items=${items} />`)}</${Loaded}>`;
}

/** @param {{items: any[]}} props */
function Options({ items }) {
  const { query } = place.value;
  const [text, isGiven] = [query.get('search') ?? '', query.get('given') === '1'];
  const wanted = text.toLowerCase();
  const shown = items.filter((it) => (!isGiven || it.source !== 'default') && `${it.name} ${it.help}`.toLowerCase().includes(wanted));
  return html`<p class="soft">Options are variables of the environment of the server, lines of the file that <code>ENV_FILE</code> names, or flags of <code>vski serve</code>. A change takes effect at the next start.</p>
    <div class="row"><input type="search" aria-label="Search" placeholder="Search" value=${text} onInput=${(/** @type {any} */ event) => setQuery({ search: event.target.value }, { replace: true })} class="narrow" />
      <${Check} label="Only what is not the default" value=${isGiven} onInput=${(/** @type {boolean} */ is) => setQuery({ given: is ? 1 : null }, { replace: true })} /></div>
    <${OptionTable} items=${shown} />`;
}

/** @param {{items: any[]}} props */
function OptionTable({ items }) {
  const valueOf = (/** @type {any} */ it) => {
    if (it.value === null) return html`<span class="soft">${it.source === 'default' ? 'not set' : 'set, not shown'}</span>`;
    return it.value === '' ? html`<span class="soft">not set</span>` : html`<code>${it.value}</code>`;
  };
  const columns = [
    { label: 'Option', cell: (/** @type {any} */ it) => html`<code title=${`accepts ${it.accepts}`}>${it.name}</code>` },
    { label: 'Value', cell: valueOf },
    { label: 'Comes from', cell: (/** @type {any} */ it) => (it.source === 'default' ? html`<span class="soft">the default</span>` : html`<${Badge} state="active">${SOURCES[/** @type {'flag'} */ (it.source)]}</${Badge}>`) },
    { label: 'Meaning', cell: (/** @type {any} */ it) => html`<span title=${it.help}>${it.help}</span>` },
  ];
  return html`<${Table} label="Options" columns=${columns} rows=${items} keyOf=${(/** @type {any} */ it) => it.name} />`;
}

/** @param {any[]} items @param {string} name */
const isSet = (items, name) => items.some((it) => it.name === name && it.source !== 'default');

/** @param {{items: any[]}} props */
function Mail({ items }) {
  const [email, setEmail] = useState(admin.value?.email ?? '');
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const send = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setError(undefined);
    await callServer('POST', '/api/settings/test/email', { body: { email } }).then(() => say('The mail is queued; the log of the server says what became of it.'), setError);
  };
  return html`<${OptionTable} items=${items.filter(({ name }) => ['SMTP_URL', 'MAIL_FROM', 'PUBLIC_URL'].includes(name))} />
    ${isSet(items, 'SMTP_URL') ? html`<form class="card stack" onSubmit=${send}><h2>Send a test mail</h2>
        <${Field} label="To" type="email" value=${email} onInput=${setEmail} required problem=${error?.fields?.email} />
        <div><button class="button is-main">Send</button></div><${Problem} error=${error} /></form>`
      : html`<section class="card stack"><h2>No mail server is set</h2><p>The links of mails go to the log. To send them, start the server with:</p>
        <${Code} text=${'SMTP_URL=smtps://USER:PASSWORD@mail.example.com\nMAIL_FROM="My App <app@example.com>"'} label="Variables" /></section>`}`;
}

/** @param {{items: any[]}} props */
function Storage({ items }) {
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const isBucket = items.some(({ name, value }) => name === 'STORAGE' && value === 's3');
  const test = async () => {
    setError(undefined);
    await callServer('POST', '/api/settings/test/s3', { body: {} }).then(() => say('The bucket can be used.'), setError);
  };
  return html`<${OptionTable} items=${items.filter(({ name }) => name === 'STORAGE' || name.startsWith('S3_') || ['DATA_DIR', 'RESERVE_MB', 'MAX_BODY_MB'].includes(name))} />
    <section class="card stack">${isBucket ? html`<p>Files of records are in a bucket.</p><div><button class="button is-main" onClick=${test}>Test the bucket</button></div><${Problem} error=${error} />`
      : html`<p>Files of records are in the data directory. With <code>STORAGE=s3</code> and the <code>S3_</code> options they are in a bucket.</p>`}</section>`;
}
