// Bodies: JSON, or a form if a value is a file.

/** @param {unknown} value */
const isFile = (value) => typeof Blob !== 'undefined' && value instanceof Blob;

/** @param {unknown} value @returns {boolean} */
const hasFile = (value) => isFile(value) || (Array.isArray(value) && value.some(isFile));

/**
 * Moves the values with files of an object into a form, under a prefix; returns the others.
 * @param {Record<string, any>} data
 * @param {FormData} form
 * @param {string} [prefix]
 */
export function takeFiles(data, form, prefix = '') {
  /** @type {Record<string, any>} */
  const rest = {};
  for (const [name, value] of Object.entries(data)) {
    if (!hasFile(value)) rest[name] = value;
    else for (const item of Array.isArray(value) ? value : [value]) form.append(prefix + name, item);
  }
  return rest;
}

/**
 * The body of a record: a form if it has files, else JSON.
 * @param {any} data
 * @returns {FormData | object}
 */
export function recordBody(data) {
  if (data instanceof FormData || !Object.values(data).some(hasFile)) return data;
  const form = new FormData();
  form.append('@jsonPayload', JSON.stringify(takeFiles(data, form)));
  return form;
}
