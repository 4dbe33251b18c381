// Short messages that leave by themselves; errors stay until they are dismissed.

import { html, signal } from '../app/view.js';

const SHOWN_MS = 5000;
const MOST = 4;

/** @type {import('../vendor/signals.js').Signal} */
const toasts = signal([]);
let last = 0;

/** @param {string} text @param {'good' | 'bad' | 'warn' | ''} [kind] */
export function say(text, kind = 'good') {
  const id = ++last;
  toasts.value = [...toasts.value, { id, text, kind }].slice(-MOST);
  if (kind !== 'bad') setTimeout(() => dismiss(id), SHOWN_MS);
}

/** Says why something failed. @param {any} error */
export function sayError(error) {
  const fields = Object.entries(error.fields ?? {}).map(([name, field]) => `${name}: ${field.message}`);
  say([error.message, ...fields].join(' '), 'bad');
}

/** @param {number} id */
function dismiss(id) {
  toasts.value = toasts.value.filter((/** @type {any} */ toast) => toast.id !== id);
}

export function Toasts() {
  return html`<div class="toasts" aria-live="polite">
    ${toasts.value.map((/** @type {any} */ { id, text, kind }) => html`<div key=${id} class=${`notice is-${kind}`}>
      <div>${text}</div><button class="button is-quiet" onClick=${() => dismiss(id)} aria-label="Dismiss">✕</button>
    </div>`)}
  </div>`;
}
