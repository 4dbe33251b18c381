// The collection as others see it: as an account, or without credentials. The calls are those that they would make.

import { plural } from '../../app/format.js';
import { Problem } from '../../app/load.js';
import { collections } from '../../app/server.js';
import { call, client, database } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Json } from '../../parts/code.js';
import { Field } from '../../parts/field.js';
import { Facts } from '../../parts/small.js';

/** Seconds that the token of the account is valid. */
const SECONDS = 60;

/** A token of an account; none for a caller without credentials. @param {string} realm @param {string} account */
async function tokenOf(realm, account) {
  if (!realm) return '';
  const text = account.replaceAll('\\', '\\\\').replaceAll("'", "\\'");
  const { items } = await call('GET', `/api/collections/${encodeURIComponent(realm)}/records`, { query: { filter: `id = '${text}' || email = '${text}'`, perPage: 1 } });
  if (items.length === 0) throw new Error(`${realm} has no account ${account}.`);
  const path = `/api/collections/${encodeURIComponent(realm)}/impersonate/${items[0].id}`;
  return (await call('POST', path, { body: { duration: SECONDS } })).token;
}

/** @param {{collection: any}} props */
export function TryAs({ collection }) {
  const realms = collections.value.filter(({ type }) => type === 'auth').map(({ name }) => ({ value: name, label: `An account of ${name}` }));
  const [values, setValues] = useState({ realm: '', account: '', record: '' });
  const [result, setResult] = useState(/** @type {any} */ (undefined));
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const attempt = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const records = `/api/collections/${encodeURIComponent(collection.name)}/records`;
    try {
      const token = await tokenOf(values.realm, values.account);
      const get = (/** @type {string} */ path, /** @type {any} */ query) => client.transport.json('GET', path, { database: database.value, query, token, anonymous: token === '' }, { retries: 0 }).catch((/** @type {any} */ error) => error);
      const list = await get(records, { perPage: 5 });
      const record = values.record ? await get(`${records}/${encodeURIComponent(values.record)}`, {}) : undefined;
      setResult({ list, record });
    } catch (error) {
      setResult({ error });
    }
  };
  const answer = (/** @type {any} */ it, /** @type {(it: any) => any} */ show) => (it instanceof Error ? html`<span class="problem">Refused: ${it.message}</span>` : show(it));
  return html`<form class="stack" onSubmit=${attempt}>
      <div class="columns">
        <${Field} label="As" value=${values.realm} onInput=${set('realm')} options=${[{ value: '', label: 'Without credentials' }, ...realms]} />
        ${values.realm && html`<${Field} label="Account" value=${values.account} onInput=${set('account')} required hint="Its id or its e-mail address." />`}
        <${Field} label="Record" value=${values.record} onInput=${set('record')} hint="Optional: the id of a record to view." />
      </div>
      <div><button class="button is-main">Try</button></div>
    </form>
    ${result && html`<${Problem} error=${result.error} />
      ${result.list && html`<${Facts} rows=${[['List', answer(result.list, (it) => `Sees ${plural(it.totalItems, 'record')}.`)], ['View', result.record && answer(result.record, () => 'Sees the record.')]]} />
        ${!(result.list instanceof Error) && html`<h2>First records of the list</h2><${Json} value=${result.list.items} label="Records" />`}
        ${result.record && !(result.record instanceof Error) && html`<h2>The record</h2><${Json} value=${result.record} label="Record" />`}`}`}`;
}
