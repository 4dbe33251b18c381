// The counted minutes of the server as curves.

import { callServer } from './session.js';

/** The spans that a reader can choose. @type {{name: string, label: string, ms: number, by: 'minute' | 'hour'}[]} */
export const SPANS = [
  { name: 'hour', label: 'Hour', ms: 3_600_000, by: 'minute' },
  { name: 'day', label: 'Day', ms: 86_400_000, by: 'minute' },
  { name: 'week', label: 'Week', ms: 7 * 86_400_000, by: 'hour' },
  { name: 'month', label: 'Month', ms: 30 * 86_400_000, by: 'hour' },
];

const STEP_MS = { minute: 60_000, hour: 3_600_000 };
const POINTS_MOST = 300;

/** @param {string | null} name */
export const spanOf = (name) => SPANS.find((span) => span.name === name) ?? SPANS[0];

/** The rows of a span. @param {string | null} name @param {AbortSignal} signal */
export async function loadStats(name, signal) {
  const span = spanOf(name);
  const to = Date.now();
  const query = { from: new Date(to - span.ms).toISOString(), to: new Date(to).toISOString(), by: span.by };
  return { span, to, ...(await callServer('GET', '/api/stats', { query, signal })) };
}

/**
 * Adds the rows of each point of time, so that no more than 300 points remain. Points without rows are 0.
 * @param {{span: typeof SPANS[0], to: number}} stats
 * @param {any[]} rows
 * @param {Record<string, (rows: any[]) => number | null>} measures
 */
export function points({ span, to }, rows, measures) {
  const step = STEP_MS[span.by];
  const size = step * Math.ceil(span.ms / step / POINTS_MOST);
  const first = Math.floor((to - span.ms) / size);
  const count = Math.floor(to / size) - first + 1;
  const groups = Array.from({ length: count }, () => /** @type {any[]} */ ([]));
  for (const row of rows) groups[Math.floor(new Date(row.time).getTime() / size) - first]?.push(row);
  const times = groups.map((_, index) => ((first + index) * size) / 1000);
  const values = Object.entries(measures).map(([name, measure]) => [name, groups.map(measure)]);
  return { times, seconds: size / 1000, ...Object.fromEntries(values) };
}

/** @param {any[]} rows @param {string} name */
export const total = (rows, name) => rows.reduce((sum, row) => sum + row[name], 0);

/** The mean of a duration, weighted with the number of requests; null without any. @param {any[]} rows @param {string} name */
export function weighted(rows, name) {
  const count = total(rows, 'count');
  return count ? rows.reduce((sum, row) => sum + row[name] * row.count, 0) / count : null;
}
