// Imports the collections that a PocketBase has exported, in one call, and compares the result.
//
//   node exports.mjs URL FILE    the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is an empty server of vski. The file is a list of collections, or a page of one.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import PocketBase from 'pocketbase';

const [url, file] = process.argv.slice(2);
const { ADMIN_EMAIL, ADMIN_PASSWORD } = process.env;
const OF_POCKETBASE = ['_superusers', '_externalAuths', '_mfas', '_otps', '_authOrigins'];
const RULES = ['listRule', 'viewRule', 'createRule', 'updateRule', 'deleteRule', 'authRule', 'manageRule'];
// The first versions of PocketBase exported no such fields.
const SYSTEM = ['id', 'created', 'updated'];

const content = JSON.parse(readFileSync(file, 'utf8'));
const all = Array.isArray(content) ? content : content.items;
const admin = new PocketBase(url);
await admin.collection('_superusers').authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
await admin.collections.import(all).catch((error) => {
    console.log(`FAILED  ${basename(file)}: ${JSON.stringify(error.response, null, 1)}`);
    process.exit(1);
});
const own = all.filter((it) => !OF_POCKETBASE.includes(it.name));
const names = (collection) => (collection.fields ?? collection.schema).map((it) => it.name).filter((it) => !SYSTEM.includes(it));
for (const exported of own) {
    const imported = await admin.collections.getOne(exported.name);
    const missing = names(exported).filter((it) => !names(imported).includes(it));
    assert.deepEqual(missing, [], `${exported.name} lacks fields`);
    assert.equal(imported.type, exported.type, exported.name);
    assert.equal(imported.indexes.length, exported.indexes?.length ?? 0, `${exported.name}: indexes`);
    for (const rule of RULES) {
        assert.equal(imported[rule] ?? null, exported[rule] ?? null, `${exported.name}: ${rule}`);
    }
    await admin.collection(exported.name).getList(1, 1);
}
console.log(`ok  ${basename(file)}: ${own.length} collections`);
