// The steps of a run on a common axis of time. Only the rows in view are in the page, so that 5,000 steps are no burden.

import { dateTime, duration } from '../../app/format.js';
import { Link, address } from '../../app/router.js';
import { html, useState } from '../../app/view.js';
import { Json } from '../../parts/code.js';
import { Dialog } from '../../parts/dialog.js';
import { Badge, Empty, Facts } from '../../parts/small.js';

const ROW_PX = 26;
const VIEW_PX = 560;
const MARGIN_ROWS = 10;
const KINDS = { completed: 'is-good', failed: 'is-bad', retrying: 'is-wait', waiting: 'is-wait', sleeping: 'is-wait' };

const ms = (/** @type {string | null | undefined} */ text) => (text ? new Date(text).getTime() : undefined);

/** @param {{run: any, steps: any[], onFork: (step: any) => void}} props */
export function Timeline({ run, steps, onFork }) {
  const [top, setTop] = useState(0);
  const [open, setOpen] = useState(/** @type {any} */ (null));
  if (steps.length === 0) return html`<${Empty} title="No step has started."><p>${run.state === 'ready' ? 'The run waits for a worker that has this workflow.' : ''}</p></${Empty}>`;
  const begin = ms(run.createdAt) ?? Math.min(...steps.map((step) => ms(step.startedAt) ?? Infinity));
  const end = Math.max(ms(run.completedAt) ?? Date.now(), ...steps.map((step) => ms(step.completedAt) ?? 0));
  const width = Math.max(end - begin, 1);
  const first = Math.max(0, Math.floor(top / ROW_PX) - MARGIN_ROWS);
  const shown = steps.slice(first, first + Math.ceil(VIEW_PX / ROW_PX) + 2 * MARGIN_ROWS);
  const row = (/** @type {any} */ step) => {
    const from = ms(step.startedAt) ?? begin;
    const to = ms(step.completedAt) ?? (step.status === 'completed' || step.status === 'failed' ? from : end);
    const place = { left: `${((from - begin) / width) * 100}%`, width: `${Math.max(((to - from) / width) * 100, 0.2)}%` };
    return html`<button type="button" class="button is-quiet name" title=${step.name} onClick=${() => setOpen(step)}>${step.name}</button>
      <div class="track"><div class=${`span ${KINDS[/** @type {'failed'} */ (step.status)] ?? ''}`} style=${place}></div></div>
      <span class="small number soft">${step.attempt > 1 ? `${step.attempt} tries, ` : ''}${step.completedAt ? duration(to - from) : step.status}</span>`;
  };
  return html`<div class="card"><${Scroll} onScroll=${setTop} height=${Math.min(VIEW_PX, steps.length * ROW_PX)}>
      <${Space} height=${first * ROW_PX} />
      <div class="timeline">${shown.map(row)}</div>
      <${Space} height=${Math.max(0, steps.length - first - shown.length) * ROW_PX} /></${Scroll}>
      <div class="row small soft"><span>${dateTime(run.createdAt)}</span><span class="push"></span><span>${duration(width)}</span></div></div>
    ${open && html`<${Dialog} side title=${open.name} onClose=${() => setOpen(null)} foot=${html`<button class="button" onClick=${() => { setOpen(null); onFork(open); }}>New run from this step</button>`}>
      <${Facts} rows=${[['Status', html`<${Badge} state=${open.status} />`], ['Step', html`<code>${open.stepId}</code>`], ['Attempt', open.attempt], ['Started', dateTime(open.startedAt)], ['Completed', dateTime(open.completedAt)], ['Retry after', dateTime(open.retryAfter)],
        ['Child', open.childRunId && html`<${Link} href=${address(['workflows', 'runs', open.childRunId])}>${open.childRunId}</${Link}>`]]} />
      ${open.error && html`<h3>Error</h3><${Json} value=${open.error} label="Error" />`}
      ${open.output !== undefined && html`<h3>Output</h3><${Json} value=${open.output} label="Output" />`}</${Dialog}>`}`;
}

/** @param {any} props */
function Scroll({ height, onScroll, children }) {
  return html`<div class="scroll-y" style=${{ maxHeight: `${height + 8}px` }} tabindex="0" role="region" aria-label="Steps" onScroll=${(/** @type {any} */ event) => onScroll(event.currentTarget.scrollTop)}>${children}</div>`;
}

/** @param {{height: number}} props */
function Space({ height }) {
  return html`<div style=${{ height: `${height}px` }}></div>`;
}
