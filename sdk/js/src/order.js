// The order of records under a sort, as the server has it.

/** @param {any} value */
const key = (value) => (value === undefined ? null : typeof value === 'boolean' ? Number(value) : value);

/** @param {any} a @param {any} b */
function compareValues(a, b) {
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? -1 : 1;
  return a < b ? -1 : 1;
}

/**
 * A comparison for a sort by fields of the records; none for other sorts, which only the server can do.
 * @param {readonly string[]} sort
 * @returns {((a: any, b: any) => number) | undefined}
 */
export function comparison(sort) {
  if (sort.length === 0 || sort.some((name) => /[.@]/.test(name))) return undefined;
  const keys = sort.map((name) => ({ name: name.replace(/^-/, ''), sign: name.startsWith('-') ? -1 : 1 }));
  // Equal records are in the order of their creation, in the direction of the last key.
  const { sign } = /** @type {{sign: number}} */ (keys.at(-1));
  const all = [...keys, { name: 'created', sign }, { name: 'id', sign }];
  return (a, b) => {
    for (const { name, sign } of all) {
      const result = compareValues(key(a[name]), key(b[name]));
      if (result !== 0) return result * sign;
    }
    return 0;
  };
}
