// The filter of a grid: one line, with the fields and operators that fit where the cursor is, and the last filters used.

import { html, useId, useRef, useState } from '../../app/view.js';

const OPERATORS = ['=', '!=', '>', '>=', '<', '<=', '~', '!~', '?=', '?~'];
const WORDS = ['&&', '||', '@now', '@todayStart', 'true', 'false', 'null'];
const KEPT = 8;

/** @param {string} collection */
const key = (collection) => `vski-filters-${collection}`;

/** @param {string} collection @returns {string[]} */
function lastFilters(collection) {
  try {
    return JSON.parse(localStorage.getItem(key(collection)) ?? '[]');
  } catch {
    return [];
  }
}

/** @param {string} collection @param {string} text */
function remember(collection, text) {
  if (!text) return;
  const others = lastFilters(collection).filter((other) => other !== text);
  localStorage.setItem(key(collection), JSON.stringify([text, ...others].slice(0, KEPT)));
}

/** The word before the cursor, and where it begins. @param {string} text @param {number} at */
function wordAt(text, at) {
  const start = text.slice(0, at).search(/[^\s()]*$/);
  return { start, word: text.slice(start, at) };
}

/** What can follow: fields, then an operator, then a value or a connection. @param {any} collection @param {string} before @param {string} word */
function suggestions(collection, before, word) {
  const fields = ['id', 'created', 'updated', ...collection.fields.map((/** @type {any} */ field) => field.name)];
  const previous = before.trim().split(/\s+/).at(-1) ?? '';
  const isAfterField = fields.includes(previous.split('.')[0]);
  const pool = isAfterField ? OPERATORS : [...new Set(fields), ...WORDS];
  return pool.filter((item) => item.toLowerCase().startsWith(word.toLowerCase()) && item !== word).slice(0, 10);
}

const SEARCHED = ['text', 'editor', 'email', 'url', 'select'];
const SEARCHED_MOST = 12;

/** The filter to send: a text without an operator is searched in the text fields. @param {any} collection @param {string} text */
export function filterOf(collection, text) {
  if (text === '' || /[=<>~]/.test(text)) return text;
  const quoted = `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const names = ['id', ...collection.fields.filter((/** @type {any} */ { type, name }) => SEARCHED.includes(type) && name !== 'id').map((/** @type {any} */ { name }) => name)];
  return names.slice(0, SEARCHED_MOST).map((name) => `${name} ~ ${quoted}`).join(' || ');
}

/** @param {{collection: any, value: string, onApply: (text: string) => void, error: any}} props */
export function FilterInput({ collection, value, onApply, error }) {
  const [text, setText] = useState(value);
  const [offered, setOffered] = useState(/** @type {string[]} */ ([]));
  const [at, setAt] = useState(-1);
  const input = useRef(/** @type {any} */ (null));
  const id = useId();
  const offer = () => {
    const cursor = input.current.selectionStart ?? 0;
    const { start, word } = wordAt(input.current.value, cursor);
    setOffered(input.current.value === '' ? lastFilters(collection.name) : suggestions(collection, input.current.value.slice(0, start), word));
    setAt(-1);
  };
  const insert = (/** @type {string} */ item) => {
    const cursor = input.current.selectionStart ?? text.length;
    const { start } = wordAt(text, cursor);
    const next = text === '' ? item : `${text.slice(0, start)}${item} ${text.slice(cursor)}`;
    setText(next);
    setOffered([]);
    input.current.focus();
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    setOffered([]);
    remember(collection.name, text.trim());
    onApply(text.trim());
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === 'Escape') setOffered([]);
    else if (event.key === 'ArrowDown' && offered.length > 0) setAt(Math.min(at + 1, offered.length - 1));
    else if (event.key === 'ArrowUp' && offered.length > 0) setAt(Math.max(at - 1, -1));
    else if ((event.key === 'Enter' || event.key === 'Tab') && offered[at]) insert(offered[at]);
    else return;
    event.preventDefault();
  };
  return html`<form class="stack" role="search" onSubmit=${submit}>
    <div class="row filter">
      <div class="grow">
        <input ref=${input} type="search" class="mono" value=${text} placeholder="A text, or a filter: views > 5 && title ~ 'news'" aria-label="Filter" role="combobox" aria-autocomplete="list"
          aria-expanded=${String(offered.length > 0)} aria-controls=${id} aria-activedescendant=${offered[at] ? `${id}-${at}` : undefined} aria-invalid=${error ? 'true' : undefined}
          onInput=${(/** @type {any} */ event) => { setText(event.target.value); offer(); }} onFocus=${offer} onClick=${offer} onBlur=${() => setTimeout(() => setOffered([]), 150)}
          onKeyDown=${onKeyDown} autocomplete="off" spellcheck=${false} />
        <ul class=${`offers ${offered.length > 0 ? '' : 'is-empty'}`} id=${id} role="listbox" aria-label="Completions">${offered.map((item, index) => html`<li key=${item} id=${`${id}-${index}`} role="option" aria-selected=${String(index === at)}
          onMouseDown=${(/** @type {Event} */ event) => { event.preventDefault(); insert(item); }}><code>${item}</code></li>`)}</ul>
      </div>
      <button class="button">Filter</button>
      ${value && html`<button type="button" class="button is-quiet" onClick=${() => onApply('')}>Clear</button>`}
    </div>
    ${error && html`<div class="problem" role="alert">${error.message}</div>`}
  </form>`;
}
