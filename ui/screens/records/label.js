// The words by which people know a record.

import { cellText } from '../../app/format.js';

const TEXTS = ['text', 'email', 'url', 'editor'];

/** The field by which people know a record. @param {any} collection */
export const nameField = (collection) => (collection.fields.find((/** @type {any} */ it) => it.presentable && TEXTS.includes(it.type)) ?? collection.fields.find((/** @type {any} */ it) => TEXTS.includes(it.type) && !['id', 'tokenKey', 'password'].includes(it.name)))?.name;

/** @param {any} record @param {string | undefined} name */
export const labelOf = (record, name) => (name && cellText(record[name])) || record.id;
