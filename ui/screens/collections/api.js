// The calls of a collection with its own fields, in three languages, and the answer of a list to try.

import { place, setQuery } from '../../app/router.js';
import { call, database } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { Code, Json } from '../../parts/code.js';
import { sayError } from '../../parts/toast.js';

const LANGUAGES = [['curl', 'curl'], ['js', 'JavaScript'], ['python', 'Python']];
const SAMPLES = { number: 42, bool: true, select: null, json: { any: 'JSON' }, date: '2026-01-31', datetime: '2026-01-31T12:00:00.000Z', email: 'ada@example.com', url: 'https://example.com', geoPoint: { lon: 13.4, lat: 52.5 } };
const SKIPPED = ['id', 'created', 'updated', 'tokenKey', 'emailVisibility', 'verified'];

/** A body that the collection accepts. @param {any} collection */
function sample(collection) {
  const fields = collection.fields.filter((/** @type {any} */ field) => !SKIPPED.includes(field.name) && !['file', 'relation', 'autodate', 'vector'].includes(field.type));
  const body = Object.fromEntries(fields.slice(0, 6).map((/** @type {any} */ field) => [field.name, field.type === 'select' ? field.values?.[0] : SAMPLES[/** @type {'bool'} */ (field.type)] ?? 'text']));
  if (collection.type !== 'auth') return body;
  return { ...body, email: 'ada@example.com', password: 'a long password', passwordConfirm: 'a long password' };
}

/** @typedef {{title: string, method: string, path: string, js: string, body?: any}} Example */

/** @param {any} collection @returns {Example[]} */
function examples(collection) {
  const { name, type } = collection;
  const base = `/api/collections/${name}`;
  const records = `${base}/records`;
  const js = `client.collection('${name}')`;
  const body = sample(collection);
  const text = JSON.stringify(body, null, 2);
  const read = [
    { title: 'List', method: 'GET', path: `${records}?sort=-created&perPage=20`, js: `const { items } = await ${js}.getList({ sort: '-created', perPage: 20 });` },
    { title: 'View', method: 'GET', path: `${records}/RECORD_ID`, js: `const record = await ${js}.getOne('RECORD_ID');` },
  ];
  if (type === 'view') return read;
  const write = [
    { title: 'Create', method: 'POST', path: records, body, js: `const record = await ${js}.create(${text});` },
    { title: 'Update', method: 'PATCH', path: `${records}/RECORD_ID`, body, js: `await ${js}.update('RECORD_ID', ${text});` },
    { title: 'Delete', method: 'DELETE', path: `${records}/RECORD_ID`, js: `await ${js}.delete('RECORD_ID');` },
  ];
  const signIn = { identity: 'ada@example.com', password: 'a long password' };
  const auth = type === 'auth' ? [{ title: 'Sign in', method: 'POST', path: `${base}/auth-with-password`, body: signIn, js: `await ${js}.auth.login('ada@example.com', 'a long password');` }] : [];
  return [...auth, ...read, ...write, { title: 'Changes as they happen', method: '', path: '', js: `const stop = await ${js}.subscribe('*', ({ action, record }) => console.log(action, record));` }];
}

/** @param {string} path */
const addressOf = (path) => location.origin + (database.value === 'default' ? '' : `/db/${database.value}`) + path;

/** @param {Example} example @param {string} language */
function textOf({ method, path, body, js }, language) {
  const target = addressOf(path);
  const json = body && JSON.stringify(body, null, 2);
  if (language === 'js') {
    const client = database.value === 'default' ? 'const client = new VskiClient' : `const client = new VskiClient('${location.origin}').db('${database.value}');`;
    return `import { VskiClient } from '${location.origin}/sdk.js';\n\n${database.value === 'default' ? `${client}('${location.origin}');` : client}\n${js}`;
  }
  if (!method) return 'See sockets.md: a WebSocket at /api/realtime.';
  if (language === 'curl') {
    const parts = [`curl ${method === 'GET' ? '' : `-X ${method} `}'${target}'`, '-H "Authorization: Bearer $TOKEN"', json && '-H "Content-Type: application/json"', json && `-d '${json.replaceAll("'", "'\\''")}'`];
    return parts.filter(Boolean).join(' \\\n  ');
  }
  const value = json && `\n    json=${json.replaceAll('true', 'True').replaceAll('false', 'False').replaceAll('null', 'None').split('\n').join('\n    ')},`;
  return `import requests\n\nanswer = requests.${method.toLowerCase()}(\n    "${target}",\n    headers={"Authorization": f"Bearer {token}"},${value ?? ''}\n)\nanswer.raise_for_status()`;
}

/** @param {{collection: any}} props */
export function ApiCalls({ collection }) {
  const language = place.value.query.get('language') ?? 'curl';
  const [answer, setAnswer] = useState(/** @type {any} */ (undefined));
  const attempt = () => call('GET', `/api/collections/${encodeURIComponent(collection.name)}/records`, { query: { perPage: 2 } }).then(setAnswer, sayError);
  return html`<div class="row" role="group" aria-label="Language">${LANGUAGES.map(([name, label]) => html`<button class=${`button ${language === name ? 'is-main' : ''}`} key=${name} aria-pressed=${String(language === name)}
      onClick=${() => setQuery({ language: name }, { replace: true })}>${label}</button>`)}</div>
    ${examples(collection).map((example) => html`<section class="stack" key=${example.title}><h2>${example.title}</h2><${Code} text=${textOf(example, language)} label=${example.title} /></section>`)}
    <div><button class="button" onClick=${attempt}>Try the list as an admin</button></div>
    ${answer && html`<${Json} value=${answer} label="Answer" />`}`;
}
