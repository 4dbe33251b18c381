// Calls the methods of PocketBase's JavaScript client, with the same assertions for any server.
//
//   node methods.mjs URL NAME    the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is a server of vski or PocketBase without the collections below, NAME is `vski` or
// `pocketbase`. `only` names what one of them refuses on purpose; docs/from-pocketbase.md says why.
import assert from 'node:assert/strict';
import { EventSource } from 'eventsource';
import PocketBase, { ClientResponseError, getTokenPayload, isTokenExpired } from 'pocketbase';

globalThis.EventSource = EventSource;

const [url, server] = process.argv.slice(2);
const { ADMIN_EMAIL, ADMIN_PASSWORD } = process.env;
const PASSWORD = 'correct horse';
const admin = new PocketBase(url);
const ann = new PocketBase(url);
let steps = 0;

function same(actual, expected, what) {
    steps += 1;
    assert.deepEqual(actual, expected, what);
}

async function refused(promise, status, field, code) {
    const error = await promise.then((value) => assert.fail(`got ${JSON.stringify(value)}`), (it) => it);
    if (!(error instanceof ClientResponseError)) throw error;
    same(error.status, status, `${error.message} ${JSON.stringify(error.response)}`);
    if (field) same(error.response.data[field]?.code, code, JSON.stringify(error.response));
    return error;
}

const rule = '@request.auth.id != ""';
const checks = {
    'health.check': async () => {
        same((await ann.health.check()).code, 200);
    },
    'authWithPassword, authRefresh and the auth store of a superuser': async () => {
        const su = admin.collection('_superusers');
        const wrong = await refused(su.authWithPassword(ADMIN_EMAIL, 'wrong'), 400);
        same(wrong.response.data, {});
        await refused(su.authWithPassword('', ''), 400, 'identity', 'validation_required');
        const auth = await su.authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
        same(auth.record.collectionName, '_superusers');
        same(admin.authStore.isSuperuser, true);
        same(isTokenExpired(auth.token), false);
        same(getTokenPayload(auth.token).type, 'auth');
        same((await su.authRefresh()).record.email, ADMIN_EMAIL);
        // With and without the word Bearer.
        const headers = { Authorization: `Bearer ${admin.authStore.token}` };
        same((await su.getList(1, 1, { headers })).items.length, 1);
        const store = new PocketBase(url).authStore;
        store.loadFromCookie(admin.authStore.exportToCookie());
        same(store.token, auth.token);
        same((await admin.health.check()).data.realIP.length > 0, true);
    },
    'superusers as records': async () => {
        const su = admin.collection('_superusers');
        const body = { email: 'second@example.com', password: PASSWORD, passwordConfirm: PASSWORD };
        const made = await su.create(body);
        same([made.email, made.verified, made.password], ['second@example.com', true, undefined]);
        await refused(su.create(body), 400, 'email', 'validation_not_unique');
        same((await su.getFirstListItem('email ~ "second"')).id, made.id);
        same((await su.getOne(made.id, { fields: 'email' })), { email: 'second@example.com' });
        same((await su.update(made.id, { email: 'third@example.com' })).email, 'third@example.com');
        const other = await su.impersonate(made.id, 60);
        same(other.authStore.isSuperuser, true);
        same((await other.collection('_superusers').authRefresh()).token, other.authStore.token);
        same(await su.requestPasswordReset('third@example.com'), true);
        same(await su.delete(made.id), true);
        await refused(su.getOne(made.id), 404);
        await refused(ann.collection('_superusers').authRefresh(), 401);
    },
    'collections: create, getOne, getList, getFullList, getFirstListItem, update': async () => {
        await admin.collections.create({ name: 'people', type: 'auth', createRule: '', listRule: rule, viewRule: rule,
            updateRule: 'id = @request.auth.id', fields: [{ name: 'name', type: 'text' }] });
        const people = await admin.collections.getOne('people');
        const notes = await admin.collections.create({ name: 'notes', type: 'base', listRule: rule, viewRule: rule,
            createRule: rule, updateRule: rule, deleteRule: rule, fields: [
                { name: 'title', type: 'text', required: true, max: 10 },
                { name: 'count', type: 'number', max: 5 },
                { name: 'mail', type: 'email' },
                { name: 'tags', type: 'select', values: ['a', 'b'], maxSelect: 2 },
                { name: 'doc', type: 'file', maxSelect: 1, maxSize: 10 },
                { name: 'owner', type: 'relation', collectionId: people.id, maxSelect: 1 },
            ] });
        same((await admin.collections.getOne(notes.id)).name, 'notes');
        same((await admin.collections.getList(1, 1)).items.length, 1);
        const names = (await admin.collections.getFullList()).map((it) => it.name);
        same(names.includes('notes') && names.includes('people'), true);
        same((await admin.collections.update('notes', { listRule: '' })).listRule, '');
        await refused(ann.collections.getFullList(), 401);
    },
    'accounts: create, listAuthMethods, authWithPassword, requests by mail': async () => {
        const people = ann.collection('people');
        const body = { email: 'ann@example.com', password: PASSWORD, passwordConfirm: PASSWORD, name: 'Ann' };
        const made = await people.create(body);
        same([made.name, made.verified], ['Ann', false]);
        await refused(people.create(body), 400, 'email', 'validation_not_unique');
        await refused(people.create({ ...body, email: 'x' }), 400, 'email', 'validation_is_email');
        await refused(people.create({ ...body, passwordConfirm: 'x' }), 400, 'passwordConfirm', 'validation_values_mismatch');
        same((await people.listAuthMethods()).password, { enabled: true, identityFields: ['email'] });
        await refused(people.authWithPassword('ann@example.com', 'wrong'), 400);
        same((await people.authWithPassword('ann@example.com', PASSWORD)).record.id, made.id);
        same(ann.authStore.isSuperuser, false);
        same((await people.authRefresh()).record.email, 'ann@example.com');
        same(await people.requestVerification('ann@example.com'), true);
        same(await people.requestPasswordReset('none@example.com'), true);
        await refused(people.confirmVerification('x'), 400);
        await refused(people.confirmPasswordReset('x', PASSWORD, PASSWORD), 400, 'token', 'validation_invalid_token');
        // PocketBase needs a mail server for that.
        if (server === 'vski') same(await people.requestEmailChange('new@example.com'), true);
        const acting = await admin.collection('people').impersonate(made.id, 60);
        same(acting.authStore.record.id, made.id);
    },
    'records: create, codes of fields, update, getOne, getList, getFirstListItem, getFullList, delete': async () => {
        const notes = ann.collection('notes');
        const made = await notes.create({ title: 'One', count: 1, tags: ['a'], owner: ann.authStore.record.id, nothing: 1 });
        same([made.title, made.count, made.tags, made.nothing], ['One', 1, ['a'], undefined]);
        for (const [field, value, code] of [
            ['title', '', 'validation_required'],
            ['title', 'x'.repeat(11), 'validation_max_text_constraint'],
            ['count', 9, 'validation_max_number_constraint'],
            ['mail', 'x', 'validation_is_email'],
            ['tags', ['z'], 'validation_invalid_value'],
            ['owner', 'aaaaaaaaaaaaaaa', 'validation_missing_rel_records'],
            ['doc', new File(['0123456789ab'], 'a.txt'), 'validation_file_size_limit'],
        ]) {
            await refused(notes.create({ title: 'x', [field]: value }), 400, field, code);
        }
        same((await notes.update(made.id, { 'count+': 1, 'tags+': 'b' })).tags, ['a', 'b']);
        const read = await notes.getOne(made.id, { expand: 'owner', fields: 'title,count,expand.owner.name' });
        same(read, { title: 'One', count: 2, expand: { owner: { name: 'Ann' } } });
        same((await notes.getOne(made.id, { fields: 'title:excerpt(2,true)' })).title, 'On...');
        await refused(notes.update(made.id, { id: 'bbbbbbbbbbbbbbb' }), 400, 'id', 'validation_pk_change');
        same((await notes.getList(1, 5, { filter: ann.filter('title = {:t}', { t: 'One' }), skipTotal: true })).totalItems, -1);
        same((await notes.getFirstListItem('count = 2')).id, made.id);
        same((await notes.getFullList({ sort: '-title' })).length, 1);
        await refused(notes.getFirstListItem('count = 3'), 404);
        same(await notes.delete(made.id), true);
        await refused(notes.getOne(made.id), 404);
    },
    'batch: create, update, upsert, delete, and its errors': async () => {
        if (server === 'pocketbase') await admin.settings.update({ batch: { enabled: true, maxRequests: 50, timeout: 3 } });
        const one = await ann.collection('notes').create({ title: 'One' });
        const batch = ann.createBatch();
        batch.collection('notes').create({ title: 'Two' });
        batch.collection('notes').upsert({ title: 'Three' });
        batch.collection('notes').upsert({ id: 'upserted0000001', title: 'Four' });
        batch.collection('notes').update(one.id, { title: 'Uno' });
        batch.collection('notes').delete(one.id);
        same((await batch.send()).map((it) => it.status), [200, 200, 200, 200, 204]);
        const failing = ann.createBatch();
        failing.collection('notes').create({ title: 'Five' });
        failing.collection('notes').create({ title: '' });
        const error = await refused(failing.send(), 400);
        const failed = error.response.data.requests[1];
        same([failed.code, failed.response.status], ['batch_request_failed', 400]);
        same(failed.response.data.title.code, 'validation_required');
        same((await ann.collection('notes').getFullList()).length, 3);
    },
    'files: getURL and getToken': async () => {
        const note = await ann.collection('notes').create({ title: 'File', doc: new File(['hello'], 'a.txt') });
        const response = await fetch(ann.files.getURL(note, note.doc));
        same(await response.text(), 'hello');
        same((await ann.files.getToken()).split('.').length, 3);
    },
    'realtime: subscribe and unsubscribe': async () => {
        const notes = ann.collection('notes');
        let arrived;
        const event = new Promise((resolve) => { arrived = resolve; });
        const end = await notes.subscribe('*', arrived);
        const made = await notes.create({ title: 'Event' });
        const got = await event;
        same([got.action, got.record.id], ['create', made.id]);
        await end();
        await notes.unsubscribe();
    },
    'logs: getList, getOne, getStats': async () => {
        const list = await admin.logs.getList(1, 5, { filter: 'data.status >= 200', sort: '-created' });
        // PocketBase writes them some seconds later.
        if (server === 'vski') {
            same((await admin.logs.getOne(list.items[0].id)).data.type, 'request');
            same((await admin.logs.getStats()).length > 0, true);
        }
        await refused(admin.logs.getOne('none'), 404);
        await refused(ann.logs.getList(), 403);
    },
    'crons: getFullList, run': async () => {
        same(Array.isArray(await admin.crons.getFullList()), true);
        await refused(admin.crons.run('none'), 404);
    },
    'settings: getAll, update, testS3, testEmail': async () => {
        const all = await admin.settings.getAll();
        same(['meta', 'smtp', 's3', 'backups', 'batch'].filter((it) => !all[it]), []);
        same(JSON.stringify(all).includes('password'), false);
        if (server === 'vski') {
            const error = await refused(admin.settings.update({ smtp: { enabled: true } }), 400);
            same(error.response.data.smtp.message.includes('SMTP_URL'), true);
        }
        await refused(admin.settings.testS3('storage'), 400);
        await refused(admin.settings.testEmail('people', '', 'verification'), 400, 'email', 'validation_required');
    },
    'backups: getFullList': async () => {
        const can = (await admin.health.check()).data.canBackup;
        same(can, server === 'pocketbase');
        if (can) same(Array.isArray(await admin.backups.getFullList()), true);
    },
    'collections: delete': async () => {
        same(await admin.collections.delete('notes'), true);
        same(await admin.collections.delete('people'), true);
        await refused(admin.collections.getOne('notes'), 404);
    },
};

for (const [name, check] of Object.entries(checks)) {
    steps = 0;
    try {
        await check();
    } catch (error) {
        console.log(`FAILED  ${name}`);
        console.error(error);
        process.exit(1);
    }
    console.log(`ok  ${String(steps).padStart(3)}  ${server}: ${name}`);
}
process.exit(0);
