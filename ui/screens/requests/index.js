// The requests of a span by route: how many, how fast, how many errors; and the last ones.

import { duration, number } from '../../app/format.js';
import { Loaded, useLoad } from '../../app/load.js';
import { address, place, setQuery } from '../../app/router.js';
import { SPANS, loadStats, spanOf, total, weighted } from '../../app/stats.js';
import { html } from '../../app/view.js';
import { Empty, Head, Tabs } from '../../parts/small.js';
import { Table } from '../../parts/table.js';
import { Log } from './log.js';

/** One row for each route. @param {any[]} rows */
function byRoute(rows) {
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const row of rows) groups.set(row.route, [...(groups.get(row.route) ?? []), row]);
  return [...groups].map(([route, group]) => ({
    route, count: total(group, 'count'), errors4xx: total(group, 'errors4xx'), errors5xx: total(group, 'errors5xx'),
    meanMs: weighted(group, 'meanMs'), p50Ms: weighted(group, 'p50Ms'), p99Ms: Math.max(...group.map((row) => row.p99Ms)), maxMs: Math.max(...group.map((row) => row.maxMs)),
  }));
}

/** @param {any[]} rows @param {string} sort */
function sorted(rows, sort) {
  const [name, sign] = sort.startsWith('-') ? [sort.slice(1), -1] : [sort, 1];
  return rows.sort((a, b) => sign * (a[name] < b[name] ? -1 : a[name] > b[name] ? 1 : 0));
}

/** @param {{path: string[]}} props */
export function Requests({ path: [tab] }) {
  const tabs = [['By route', ['requests'], !tab], ['Last requests', ['requests', 'log'], tab === 'log']]
    .map(([label, path, isCurrent]) => ({ label: /** @type {string} */ (label), href: address(/** @type {string[]} */ (path)), isCurrent: /** @type {boolean} */ (isCurrent) }));
  return html`<${Head} title="Requests and logs" /><${Tabs} tabs=${tabs} label="Views of requests" />${tab === 'log' ? html`<${Log} />` : html`<${ByRoute} />`}`;
}

function ByRoute() {
  const { query } = place.value;
  const [span, sort] = [query.get('span') ?? 'hour', query.get('sort') ?? '-count'];
  const load = useLoad((signal) => loadStats(span, signal), [span]);
  const numeric = (/** @type {string} */ label, /** @type {string} */ name, /** @type {(value: any) => any} */ format) => ({ label, sort: name, kind: /** @type {const} */ ('number'), cell: (/** @type {any} */ row) => format(row[name]) });
  const columns = [
    { label: 'Route', sort: 'route', cell: (/** @type {any} */ row) => html`<code>${row.route}</code>` },
    numeric('Requests', 'count', number), numeric('4xx', 'errors4xx', number), numeric('5xx', 'errors5xx', number),
    numeric('Mean', 'meanMs', duration), numeric('Median', 'p50Ms', duration), numeric('p99', 'p99Ms', duration), numeric('Slowest', 'maxMs', duration),
  ];
  return html`<div class="row" role="group" aria-label="Span">${SPANS.map(({ name, label }) => html`<button class=${`button ${spanOf(span).name === name ? 'is-main' : ''}`} aria-pressed=${String(spanOf(span).name === name)}
        onClick=${() => setQuery({ span: name }, { replace: true })}>${label}</button>`)}</div>
    <${Loaded} load=${load}>${(/** @type {any} */ data) => {
      const rows = sorted(byRoute(data.requests), sort);
      return rows.length === 0 ? html`<${Empty} title="No requests in this span." />`
        : html`<${Table} label="Requests by route" columns=${columns} rows=${rows} keyOf=${(/** @type {any} */ row) => row.route} sort=${sort} onSort=${(/** @type {string} */ next) => setQuery({ sort: next }, { replace: true })} />`;
    }}</${Loaded}>
    <p class="soft small">Percentiles are estimates.</p>`;
}
