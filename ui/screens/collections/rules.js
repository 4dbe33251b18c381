// The rules of a collection, each with what it means in words.

import { html } from '../../app/view.js';
import { Check, Field } from '../../parts/field.js';

/** @type {[string, string, string][]} */
const RULES = [
  ['listRule', 'List', 'see records in lists'],
  ['viewRule', 'View', 'see one record, its files and its changes'],
  ['createRule', 'Create', 'create records; the rule is checked against the new record'],
  ['updateRule', 'Update', 'change records'],
  ['deleteRule', 'Delete', 'delete records'],
];
const AUTH_RULES = /** @type {[string, string, string][]} */ ([['manageRule', 'Manage', 'see the addresses of all accounts and change them']]);

/** @param {string | null | undefined} rule @param {string} what */
function meaning(rule, what) {
  if (rule === null || rule === undefined) return `Only admins and API keys can ${what}.`;
  if (rule.trim() === '') return `Everyone, also without signing in, can ${what}.`;
  const parts = [];
  if (/@request\.auth\.id\s*!=\s*(''|"")/.test(rule)) parts.push('the caller has to be signed in');
  for (const [, field] of rule.matchAll(/(\w+)\s*\??=\s*@request\.auth\.id/g)) parts.push(`${field} has to be the caller`);
  const who = /@request\.auth/.test(rule) ? 'Callers' : 'Everyone, also without signing in,';
  return `${who} can ${what} if the condition holds for the record${parts.length > 0 ? `: ${parts.join('; ')}` : ''}.`;
}

/** @param {{draft: any, set: (name: string) => (value: any) => void, collection: any, errors: any}} props */
export function Rules({ draft, set, collection, errors }) {
  const rules = collection.type === 'auth' ? [...RULES, ...AUTH_RULES] : collection.type === 'view' ? RULES.slice(0, 2) : RULES;
  return html`<div class="stack is-wide">
    <p class="soft">A rule is a filter: it can name fields of the record, <code>@request.auth</code> for the caller and <code>@request.body</code> for what is sent.</p>
    ${rules.map(([name, label, what]) => {
      const rule = draft[name];
      const isClosed = rule === null || rule === undefined;
      return html`<section class="card stack" key=${name}>
        <div class="row"><h2>${label}</h2><span class="push"></span><${Check} label="Admins only" value=${isClosed} onInput=${(/** @type {boolean} */ is) => set(name)(is ? null : '')} /></div>
        ${!isClosed && html`<${Field} label=${name} value=${rule} onInput=${set(name)} mono rows=${rule.length > 90 ? 3 : undefined} placeholder="empty: everyone" problem=${errors?.[name]} />`}
        <p class="small soft">${meaning(rule, what)}</p>
      </section>`;
    })}
  </div>`;
}
