// SQL that reads: one SELECT over the collections of the database, its rows, its plan, and the rows as a file.

import { cellText, duration, plural } from '../app/format.js';
import { Problem } from '../app/load.js';
import { place, setQuery } from '../app/router.js';
import { collections } from '../app/server.js';
import { call, database } from '../app/session.js';
import { html, useEffect, useState } from '../app/view.js';
import { Empty, Head } from '../parts/small.js';
import { Table } from '../parts/table.js';
import { csvOf, download } from '../parts/download.js';

const KEY = 'vski-sql';
const KEPT = 20;
const SHOWN = 500;

/** The last statements of this browser. @returns {string[]} */
function history() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? '[]');
  } catch {
    return [];
  }
}

/** @param {string} sql */
const remember = (sql) => localStorage.setItem(KEY, JSON.stringify([sql, ...history().filter((it) => it !== sql)].slice(0, KEPT)));

/** @param {string} name */
const example = (name) => `SELECT * FROM ${name} ORDER BY created DESC LIMIT 100`;

/** What a statement can read. @param {any[]} fields */
const columnsOf = (fields) => fields.filter(({ name, type }) => type !== 'password' && name !== 'tokenKey').map(({ name }) => name).join(', ');

export function Sql() {
  const asked = place.value.query.get('q') ?? '';
  const [text, setText] = useState(asked);
  const [state, setState] = useState(/** @type {{answer?: any, error?: any, isRunning?: boolean}} */ ({}));
  useEffect(() => setText(asked), [asked]);
  const run = async (/** @type {boolean} */ explain) => {
    setState({ isRunning: true });
    setQuery({ q: text }, { replace: true });
    try {
      const answer = await call('POST', '/api/sql', { body: { sql: text, explain } });
      remember(text);
      setState({ answer: { ...answer, isPlan: explain } });
    } catch (error) {
      setState({ error });
    }
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    void run(false);
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter') submit(event);
  };
  return html`<${Head} title="SQL" crumbs=${`Database ${database.value}`} />
    <form class="stack" onSubmit=${submit}>
      <label class="visually-hidden" for="sql">Statement</label>
      <textarea id="sql" class="mono" rows="6" value=${text} spellcheck=${false} placeholder="SELECT ..." onInput=${(/** @type {any} */ event) => setText(event.target.value)} onKeyDown=${onKeyDown}></textarea>
      <div class="row">
        <button class="button is-main" disabled=${state.isRunning || text.trim() === ''}>${state.isRunning ? 'Running...' : 'Run'}</button>
        <button type="button" class="button" disabled=${state.isRunning || text.trim() === ''} onClick=${() => run(true)}>Plan only</button>
        <span class="soft small">Ctrl+Enter runs it. It reads; nothing can be changed here.</span>
      </div>
    </form>
    <${Problem} error=${state.error} />
    ${state.answer ? html`<${Answer} answer=${state.answer} />` : !state.error && html`<${Help} onChoose=${setText} />`}`;
}

/** @param {{answer: any}} props */
function Answer({ answer }) {
  const { columns, rows, truncated, ms, plan, isPlan } = answer;
  const name = `${database.value}-query`;
  const objects = () => rows.map((/** @type {any[]} */ row) => Object.fromEntries(columns.map((/** @type {string} */ column, /** @type {number} */ at) => [column, row[at]])));
  const cells = columns.map((/** @type {string} */ label, /** @type {number} */ at) => ({
    label, kind: rows.length > 0 && rows.every((/** @type {any[]} */ row) => row[at] === null || typeof row[at] === 'number') ? 'number' : '',
    cell: (/** @type {any} */ { row }) => (row[at] === null ? html`<span class="soft">null</span>` : cellText(row[at])),
  }));
  return html`${!isPlan && html`<div class="row" role="status"><strong>${plural(rows.length, 'row')}${truncated ? ', and more' : ''}</strong><span class="soft">${duration(ms)}</span><span class="push"></span>
      ${rows.length > 0 && html`<button class="button" onClick=${() => download(`${name}.csv`, 'text/csv', csvOf(columns, rows))}>CSV</button>
      <button class="button" onClick=${() => download(`${name}.json`, 'application/json', JSON.stringify(objects(), null, 2))}>JSON</button>`}</div>
    ${truncated && html`<div class="notice is-warn">The server answers 1,000 rows or 8 MiB. Narrow the statement, or page through it with LIMIT and OFFSET.</div>`}
    ${rows.length === 0 ? html`<${Empty} title="The statement has no rows." />`
      : html`<${Table} label="Rows" columns=${cells} rows=${rows.slice(0, SHOWN).map((/** @type {any[]} */ row, /** @type {number} */ at) => ({ row, at }))} keyOf=${(/** @type {any} */ it) => String(it.at)} />`}
    ${rows.length > SHOWN && html`<p class="soft small">The first ${SHOWN} rows are shown; a download has all ${rows.length}.</p>`}`}
    <details open=${isPlan}><summary>Query plan</summary><${Plan} steps=${plan} /></details>`;
}

/** The steps, indented below what they belong to. @param {{steps: any[]}} props */
function Plan({ steps }) {
  /** @type {Map<number, number>} */
  const depths = new Map();
  const lines = steps.map(({ id, parent, detail }) => {
    const depth = (depths.get(parent) ?? -1) + 1;
    depths.set(id, depth);
    return `${'  '.repeat(depth)}${detail}`;
  });
  const isScan = lines.some((line) => /^\s*SCAN (?!CONSTANT)/.test(line));
  return html`<pre class="code" tabindex="0" role="region" aria-label="Query plan">${lines.join('\n')}</pre>
    <p class="soft small">${isScan ? 'SCAN reads all rows of a table or an index; with many rows, an index on the compared fields helps.' : 'SEARCH uses an index or the primary key.'}</p>`;
}

/** @param {{onChoose: (sql: string) => void}} props */
function Help({ onChoose }) {
  const last = history();
  const open = (/** @type {string} */ sql) => html`<li key=${sql}><button class="button is-quiet" onClick=${() => onChoose(sql)}><code>${sql.length > 110 ? `${sql.slice(0, 110)}...` : sql}</code></button></li>`;
  return html`<div class="stack is-wide">
    ${last.length > 0 && html`<section class="stack"><h2>Last statements</h2><ul class="plain">${last.slice(0, 8).map(open)}</ul></section>`}
    <section class="stack"><h2>Collections</h2>
      <p class="soft">Each collection is a table with its fields as columns. Lists (several values of a select, relation or file) are JSON: <code>json_each</code> reads them.</p>
      <ul class="plain">${collections.value.map(({ name, fields }) => html`<li key=${name}><button class="button is-quiet" onClick=${() => onChoose(example(name))}>${name}</button>
        <span class="soft small">${columnsOf(fields)}</span></li>`)}</ul></section></div>`;
}
