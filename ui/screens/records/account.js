// What an admin can do with an account: password, address, sessions, and a token to act as it.

import { Loaded, Problem, useLoad } from '../../app/load.js';
import { call, database } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Code } from '../../parts/code.js';
import { confirm } from '../../parts/dialog.js';
import { Field } from '../../parts/field.js';
import { Badge, Facts, Time } from '../../parts/small.js';
import { say, sayError } from '../../parts/toast.js';

const DURATIONS = [{ value: '900', label: '15 minutes' }, { value: '3600', label: '1 hour' }, { value: '86400', label: '1 day' }];

/** @param {{collection: any, record: any, canWrite: boolean, onChanged: () => void}} props */
export function Account({ collection, record, canWrite, onChanged }) {
  const base = `/api/collections/${encodeURIComponent(collection.name)}`;
  const change = (/** @type {any} */ body, /** @type {string} */ text) => call('PATCH', `${base}/records/${record.id}`, { body }).then(() => {
    say(text);
    onChanged();
  });
  const mail = (/** @type {string} */ action) => call('POST', `${base}/${action}`, { body: { email: record.email } }).then(() => say(`A mail to ${record.email} is queued.`), sayError);
  const endSessions = async () => {
    const isSure = await confirm({ title: 'End all sessions', text: 'All tokens of the account end at once; it has to sign in again everywhere. The links of mails that were sent end too.', action: 'End all sessions' });
    // An address that is set anew, even to itself, ends the tokens.
    if (isSure) await change({ email: record.email }, 'All sessions have ended.').catch(sayError);
  };
  return html`<${Facts} rows=${[['Address', html`${record.email} ${record.verified ? html`<${Badge} state="active">verified</${Badge}>` : html`<${Badge} state="paused">not verified</${Badge}>`}`]]} />
    ${canWrite && html`<section class="stack"><h3>Address</h3><div class="row">
        <button class="button" onClick=${() => change({ verified: !record.verified }, record.verified ? 'The address counts as not verified.' : 'The address counts as verified.').catch(sayError)}>${record.verified ? 'Mark as not verified' : 'Mark as verified'}</button>
        ${!record.verified && html`<button class="button" onClick=${() => mail('request-verification')}>Send a mail to verify it</button>`}</div></section>
      <${NewPassword} change=${change} onMail=${() => mail('request-password-reset')} />
      <section class="stack"><h3>Sessions</h3><p class="soft">Tokens are valid until they expire; the server keeps no list of them.</p>
        <div><button class="button is-danger" onClick=${endSessions}>End all sessions...</button></div></section>`}
    <${Providers} record=${record} canWrite=${canWrite} />
    <${Impersonate} collection=${collection} record=${record} base=${base} />`;
}

/** The providers with which the account signs in. @param {{record: any, canWrite: boolean}} props */
function Providers({ record, canWrite }) {
  const path = '/api/collections/_externalAuths/records';
  const load = useLoad((signal) => call('GET', path, { query: { filter: `recordRef = "${record.id}"` }, signal }), [record.id]);
  const remove = async (/** @type {any} */ it) => {
    const isSure = await confirm({ title: `Remove ${it.provider}`, text: 'The account can no longer sign in with this provider, until it links it again.', action: 'Remove' });
    if (!isSure) return;
    await call('DELETE', `${path}/${encodeURIComponent(it.id)}`);
    say(`${it.provider} removed.`);
    load.reload();
  };
  return html`<section class="stack"><h3>Providers</h3><${Loaded} load=${load}>${(/** @type {any} */ { items }) => (items.length === 0
    ? html`<p class="soft">The account signs in with no provider.</p>`
    : items.map((/** @type {any} */ it) => html`<div class="row" key=${it.id}><strong>${it.provider}</strong><code>${it.providerId}</code><span class="soft small">linked <${Time} at=${it.created} /></span><span class="push"></span>
      ${canWrite && html`<button class="button is-danger" onClick=${() => remove(it).catch(sayError)}>Remove...</button>`}</div>`))}</${Loaded}></section>`;
}

/** @param {{change: (body: any, text: string) => Promise<void>, onMail: () => void}} props */
function NewPassword({ change, onMail }) {
  const [password, setPassword] = useState('');
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const set = (/** @type {Event} */ event) => {
    event.preventDefault();
    setError(undefined);
    void change({ password, passwordConfirm: password }, 'The password is set; all sessions have ended.').then(() => setPassword(''), setError);
  };
  return html`<form class="stack" onSubmit=${set}><h3>Password</h3>
    <${Field} label="New password" type="password" value=${password} onInput=${setPassword} required autocomplete="new-password" hint="All sessions of the account end." problem=${error?.fields?.password} />
    ${error && !error.fields?.password && html`<${Problem} error=${error} />`}
    <div class="row"><button class="button">Set the password</button><button type="button" class="button" onClick=${onMail}>Send a mail to choose one</button></div></form>`;
}

/** @param {{collection: any, record: any, base: string}} props */
function Impersonate({ collection, record, base }) {
  const [duration, setDuration] = useState('900');
  const [token, setToken] = useState('');
  const make = () => call('POST', `${base}/impersonate/${record.id}`, { body: { duration: Number(duration) } }).then((answer) => setToken(answer.token), sayError);
  const prefix = database.value === 'default' ? '' : `/db/${database.value}`;
  return html`<section class="stack"><h3>Act as this account</h3><p class="soft">A token with the rights of the account, for support. It cannot be renewed. To see what the rules show it, use Try it as on the definition of a collection.</p>
    <div class="row is-low"><div><${Field} label="Valid for" value=${duration} onInput=${setDuration} options=${DURATIONS} /></div><button class="button" onClick=${make}>Make a token</button></div>
    ${token && html`<${Code} text=${token} label="Token" /><${Code} text=${`curl ${location.origin}${prefix}${base}/records/${record.id} -H "Authorization: Bearer ${token}"`} label=${`Request as ${collection.name}`} />`}</section>`;
}
