// A table of rows. Rows that lead somewhere react to a click and to Enter; arrow keys move between them.

import { html } from '../app/view.js';

/**
 * @typedef {object} Column
 * @property {any} label
 * @property {(row: any) => any} cell
 * @property {'number' | 'tight' | ''} [kind]
 * @property {string} [sort] what `sort` gets when the head is pressed
 */

/** A column head that only screen readers need. @param {string} text */
export const hiddenLabel = (text) => html`<span class="visually-hidden">${text}</span>`;

/** @param {KeyboardEvent} event */
function moveFocus(event) {
  const step = event.key === 'ArrowDown' ? 'nextElementSibling' : event.key === 'ArrowUp' ? 'previousElementSibling' : null;
  const row = /** @type {HTMLElement} */ (event.target).closest('tr');
  if (!step || !row || event.target !== row) return;
  event.preventDefault();
  /** @type {HTMLElement | null} */ (row[step])?.focus();
}

/**
 * @param {{label: string, columns: Column[], rows: any[], keyOf: (row: any) => string, onOpen?: (row: any) => void,
 *   sort?: string, onSort?: (sort: string) => void, isSelected?: (row: any) => boolean}} props
 */
export function Table({ label, columns, rows, keyOf, onOpen, sort, onSort, isSelected }) {
  const head = (/** @type {Column} */ column) => {
    if (!column.sort || !onSort) return column.label;
    const direction = sort === column.sort ? 'ascending' : sort === `-${column.sort}` ? 'descending' : 'none';
    const next = direction === 'ascending' ? `-${column.sort}` : column.sort;
    return html`<button class="button is-quiet" onClick=${() => onSort(next)}>${column.label}${{ ascending: ' ↑', descending: ' ↓', none: '' }[direction]}</button>`;
  };
  const directionOf = (/** @type {Column} */ column) => (sort && sort === column.sort ? 'ascending' : sort && sort === `-${column.sort}` ? 'descending' : undefined);
  const isInner = (/** @type {any} */ event) => event.target.closest('a, button, input, label, select') !== null;
  const row = (/** @type {any} */ item) => {
    const open = onOpen && {
      class: 'is-link', tabindex: 0,
      onClick: (/** @type {any} */ event) => !isInner(event) && onOpen(item),
      onKeyDown: (/** @type {KeyboardEvent} */ event) => (event.key === 'Enter' && !isInner(event) ? onOpen(item) : moveFocus(event)),
    };
    return html`<tr key=${keyOf(item)} ...${open || {}} aria-selected=${isSelected ? String(isSelected(item)) : undefined}>
      ${columns.map((column) => html`<td class=${column.kind ?? ''}>${column.cell(item)}</td>`)}</tr>`;
  };
  return html`<div class="grid-scroll" tabindex="0" role="region" aria-label=${label}><table class="grid">
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.kind ?? ''} aria-sort=${directionOf(column)}>${head(column)}</th>`)}</tr></thead>
    <tbody>${rows.map(row)}</tbody>
  </table></div>`;
}
