// The definition of a collection: fields, rules, indexes, and the whole as JSON. A save shows first what it will do.

import { Problem } from '../../app/load.js';
import { Link, address, go, place } from '../../app/router.js';
import { isReadOnly, loadCollections } from '../../app/server.js';
import { call } from '../../app/session.js';
import { html, useState } from '../../app/view.js';
import { confirm } from '../../parts/dialog.js';
import { Field } from '../../parts/field.js';
import { Head, Tabs } from '../../parts/small.js';
import { say, sayError } from '../../parts/toast.js';
import { ApiCalls } from './api.js';
import { Fields } from './fields.js';
import { planOf } from './plan.js';
import { Rules } from './rules.js';
import { TryAs } from './try-as.js';

/** The tabs; a view has its statement in place of fields and indexes. @param {any} collection */
const tabsOf = ({ type }) => TABS.filter(([name]) => (type === 'view' ? name !== 'fields' && name !== 'indexes' : name !== 'query'));
const TABS = [['query', 'Query'], ['fields', 'Fields'], ['rules', 'Rules'], ['indexes', 'Indexes'], ['try', 'Try it as'], ['api', 'API'], ['json', 'JSON']];
/** Attributes that the server sets. */
const OWN = ['id', 'type', 'created', 'updated', 'schema', 'system'];

/** The attributes that a person can change. @param {any} collection */
const editable = (collection) => Object.fromEntries(Object.entries(collection).filter(([name]) => !OWN.includes(name)));

/** The attributes that differ. @param {any} before @param {any} after */
function changesOf(before, after) {
  return Object.fromEntries(Object.entries(after).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
}

/** @param {{collection: any}} props */
export function Definition({ collection }) {
  const tab = place.value.query.get('tab') ?? tabsOf(collection)[0][0];
  const [draft, setDraft] = useState(() => editable(collection));
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const changes = changesOf(collection, draft);
  const isDirty = Object.keys(changes).length > 0;
  const path = `/api/collections/${encodeURIComponent(collection.name)}`;
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setDraft({ ...draft, [name]: value });
  const save = async () => {
    const plan = planOf(collection, draft);
    const isSure = await confirm({
      title: `Change ${collection.name}`, action: 'Apply', danger: plan.some(({ isLoss }) => isLoss), name: plan.some(({ isLoss }) => isLoss) ? collection.name : undefined,
      text: html`<ul>${plan.map(({ text, isLoss }) => html`<li class=${isLoss ? 'problem' : ''}>${text}</li>`)}</ul>`,
    });
    if (!isSure) return;
    try {
      await call('PATCH', path, { body: changes });
      await loadCollections();
      say('Definition changed.');
    } catch (failure) {
      setError(failure);
    }
  };
  const remove = async () => {
    const isSure = await confirm({ title: `Delete ${collection.name}`, text: 'The collection and its records disappear. Its table stays in the database until the database is purged.', action: 'Delete', name: collection.name });
    if (!isSure) return;
    await call('DELETE', path).then(async () => {
      await loadCollections();
      go(address(['collections']));
    }, sayError);
  };
  const tabs = tabsOf(collection).map(([name, label]) => ({ label, isCurrent: tab === name, href: address(['collections', collection.name], { tab: name }) }));
  return html`<${Head} title=${collection.name} crumbs=${html`<${Link} href=${address(['collections'])}>Collections</${Link}> / ${collection.type}`}>
      <${Link} class="button" href=${address(['records', collection.name])}>Records</${Link}>
      ${!isReadOnly() && html`<button class="button is-danger" onClick=${remove}>Delete</button>
        <button class="button" disabled=${!isDirty} onClick=${() => setDraft(editable(collection))}>Reset</button>
        <button class="button is-main" disabled=${!isDirty} onClick=${save}>Save...</button>`}
    </${Head}>
    <${Tabs} tabs=${tabs} label="Parts of the definition" />
    <${Problem} error=${error} />
    ${tab === 'query' && html`<${Field} label="SELECT" value=${draft.viewQuery} onInput=${set('viewQuery')} rows=${10} mono problem=${error?.fields?.viewQuery} hint=${`Its columns: ${collection.fields.map((/** @type {any} */ it) => it.name).join(', ')}.`} />`}
    ${tab === 'fields' && html`<${Fields} fields=${draft.fields} onInput=${set('fields')} before=${collection.fields} errors=${error?.fields} />`}
    ${tab === 'rules' && html`<${Rules} draft=${draft} set=${set} collection=${collection} errors=${error?.fields} />`}
    ${tab === 'indexes' && html`<${Indexes} indexes=${draft.indexes ?? []} onInput=${set('indexes')} problem=${error?.fields?.indexes} collection=${collection} />`}
    ${tab === 'try' && html`<${TryAs} collection=${collection} />`}
    ${tab === 'api' && html`<${ApiCalls} collection=${collection} />`}
    ${tab === 'json' && html`<${AsJson} draft=${draft} onInput=${setDraft} />`}`;
}

/** @param {any} index @param {string} table */
function indexText(index, table) {
  if (typeof index === 'string') return index;
  const fields = index.fields.map((/** @type {string} */ name) => (name.startsWith('-') ? `${name.slice(1)} DESC` : name)).join(', ');
  return `CREATE ${index.unique ? 'UNIQUE ' : ''}INDEX ${index.name} ON ${table} (${fields})`;
}

/** @param {any} props */
function Indexes({ indexes, onInput, problem, collection }) {
  const [text, setText] = useState(indexes.map((/** @type {any} */ it) => indexText(it, collection.name)).join('\n'));
  const input = (/** @type {string} */ next) => {
    setText(next);
    onInput(next.split('\n').map((line) => line.trim()).filter(Boolean));
  };
  return html`<${Field} label="Indexes" value=${text} onInput=${input} rows=${8} mono problem=${problem} hint="One statement in a line. An index makes filters and sorts by its columns fast, and each write a little slower." />`;
}

/** @param {any} props */
function AsJson({ draft, onInput }) {
  const [text, setText] = useState(JSON.stringify(draft, null, 2));
  const [problem, setProblem] = useState(/** @type {any} */ (undefined));
  const input = (/** @type {string} */ next) => {
    setText(next);
    try {
      onInput(JSON.parse(next));
      setProblem(undefined);
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<${Field} label="Definition" value=${text} onInput=${input} rows=${30} mono problem=${problem} />`;
}
