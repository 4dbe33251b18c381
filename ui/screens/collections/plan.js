// What a change of a definition does, in sentences.

/** @typedef {{text: string, isLoss?: boolean}} Step */

/** The name by which a field is recognised after a change. @param {any} field */
const keyOf = (field) => field.id ?? field.name;

/** @param {any[]} before @param {any[]} after @returns {Step[]} */
function fieldSteps(before, after) {
  const old = new Map(before.map((field) => [keyOf(field), field]));
  const kept = new Set(after.map(keyOf));
  const steps = after.flatMap((field) => {
    const was = old.get(keyOf(field));
    if (!was) return [{ text: `Adds the field ${field.name} (${field.type}).` }];
    if (JSON.stringify(was) === JSON.stringify(field)) return [];
    const changed = [...new Set([...Object.keys(was), ...Object.keys(field)])].filter((name) => JSON.stringify(was[name]) !== JSON.stringify(field[name]));
    return [{ text: `Changes ${changed.join(', ')} of the field ${was.name}.` }];
  });
  const dropped = before.filter((field) => !kept.has(keyOf(field)));
  return [...dropped.map((field) => ({ text: `Removes the field ${field.name}: clients no longer see its values.`, isLoss: true })), ...steps];
}

/** @param {any} rule */
const admits = (rule) => (rule === null || rule === undefined ? 'admins only' : rule === '' ? 'everyone' : rule);

/** @param {any} before @param {any} after @returns {Step[]} */
export function planOf(before, after) {
  /** @type {Step[]} */
  const steps = fieldSteps(before.fields, after.fields);
  for (const [name, value] of Object.entries(after)) {
    if (name === 'fields' || JSON.stringify(value) === JSON.stringify(before[name])) continue;
    if (name.endsWith('Rule')) steps.push({ text: `${name} admits: ${admits(value)} (before: ${admits(before[name])}).` });
    else if (name === 'indexes') steps.push({ text: 'Builds or drops indexes. Building one reads the whole table, while writes wait.' });
    else steps.push({ text: `Changes ${name}.` });
  }
  return steps;
}
