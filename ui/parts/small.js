// Badges, times, empty states, tabs, facts.

import { ago, dateTime } from '../app/format.js';
import { Link } from '../app/router.js';
import { html } from '../app/view.js';

const KINDS = {
  good: ['completed', 'success', 'current', 'active', 'connected', 'on'],
  bad: ['failed', 'failing', 'damaged', 'lost', 'error'],
  warn: ['paused', 'blocked', 'behind', 'loading', 'skipped', 'cancelled', 'retrying'],
  live: ['running', 'leased', 'ready', 'pending'],
};

/** A state in its colour. @param {{state: string, children?: any}} props */
export function Badge({ state, children }) {
  const kind = Object.entries(KINDS).find(([, states]) => states.includes(state))?.[0] ?? '';
  return html`<span class=${`badge ${kind && `is-${kind}`}`}>${children ?? state}</span>`;
}

/** A time as a distance, with the exact one in the reader's zone and in UTC in the title. @param {{at: string | null | undefined}} props */
export function Time({ at }) {
  if (!at) return html`<span class="soft">never</span>`;
  return html`<time datetime=${at} title=${`${dateTime(at)}\n${at} UTC`}>${ago(at)}</time>`;
}

/** @param {{title: string, children?: any}} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

/** @param {{tabs: {label: string, href: string, isCurrent: boolean}[], label: string}} props */
export function Tabs({ tabs, label }) {
  return html`<nav class="tabs" aria-label=${label}>
    ${tabs.map((tab) => html`<${Link} href=${tab.href} aria-current=${tab.isCurrent ? 'page' : undefined}>${tab.label}</${Link}>`)}
  </nav>`;
}

/** @param {{rows: [string, any][]}} props */
export function Facts({ rows }) {
  return html`<table class="facts"><tbody>
    ${rows.filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false).map(([name, value]) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}
  </tbody></table>`;
}

/** @param {{title: any, crumbs?: any, children?: any}} props */
export function Head({ title, crumbs, children }) {
  return html`<div class="head"><div class="grow">${crumbs && html`<div class="crumbs">${crumbs}</div>`}<h1>${title}</h1></div>${children}</div>`;
}
