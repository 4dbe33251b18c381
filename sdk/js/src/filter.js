// Filters: a tagged template that escapes values, so that text of a user stays text.

/** @typedef {string | number | bigint | boolean | Date | null | undefined} FilterValue */

/** @param {unknown} value @returns {string} */
function literal(value) {
  if (value === null || value === undefined) return 'null';
  if (value instanceof Date) return `'${value.toISOString()}'`;
  if (Array.isArray(value)) {
    if (value.length === 0) throw new TypeError('A list in a filter cannot be empty.');
    return `(${value.map(literal).join(', ')})`;
  }
  switch (typeof value) {
    case 'string': return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
    case 'bigint': case 'boolean': return String(value);
    case 'number': if (Number.isFinite(value)) return String(value);
  }
  throw new TypeError(`A filter cannot contain ${typeof value === 'number' ? value : 'a ' + typeof value}.`);
}

/**
 * A filter whose values are escaped: filter`title = ${title} && views > ${10}`. A list gives `(1, 2)`, for `IN`; a Date
 * gives its time. For a pattern of `~`, escape `%` with `likeText`.
 * @param {TemplateStringsArray} parts
 * @param {(FilterValue | readonly FilterValue[])[]} values
 * @returns {string}
 */
export function filter(parts, ...values) {
  return parts.reduce((text, part, index) => text + literal(values[index - 1]) + part);
}

/**
 * Text for `~` in which `%` and `\` stand for themselves: filter`title ~ ${likeText(input)}`.
 * @param {string} text
 */
export function likeText(text) {
  return text.replaceAll('\\', '\\\\').replaceAll('%', '\\%').replaceAll('_', '\\_');
}
