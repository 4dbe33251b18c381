// Calls the methods of PocketBase's JavaScript client, with the same assertions for any server.
//
//   node methods.mjs URL NAME    the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is a server of vski or PocketBase without the collections below, NAME is `vski` or
// `pocketbase`. `only` names what one of them refuses on purpose; docs/from-pocketbase.md says why.
import assert from 'node:assert/strict';
import { EventSource } from 'eventsource';
import PocketBase, { AsyncAuthStore, ClientResponseError, getTokenPayload, isTokenExpired } from 'pocketbase';

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
        const body = { email: 'ann@example.net', password: PASSWORD, passwordConfirm: PASSWORD, name: 'Ann' };
        const made = await people.create(body);
        same([made.name, made.verified], ['Ann', false]);
        await refused(people.create(body), 400, 'email', 'validation_not_unique');
        await refused(people.create({ ...body, email: 'x' }), 400, 'email', 'validation_is_email');
        await refused(people.create({ ...body, passwordConfirm: 'x' }), 400, 'passwordConfirm', 'validation_values_mismatch');
        same((await people.listAuthMethods()).password, { enabled: true, identityFields: ['email'] });
        await refused(people.authWithPassword('ann@example.net', 'wrong'), 400);
        same((await people.authWithPassword('ann@example.net', PASSWORD)).record.id, made.id);
        same(ann.authStore.isSuperuser, false);
        same((await people.authRefresh()).record.email, 'ann@example.net');
        same(await people.requestVerification('ann@example.net'), true);
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
    'realtime: subscribe and unsubscribe, by record, topic and prefix': async () => {
        const notes = ann.collection('notes');
        let arrived;
        const event = new Promise((resolve) => { arrived = resolve; });
        const end = await notes.subscribe('*', arrived);
        const made = await notes.create({ title: 'Event' });
        const got = await event;
        same([got.action, got.record.id], ['create', made.id]);
        same(ann.realtime.isConnected, true);
        await end();
        const seen = [];
        let last;
        const done = new Promise((resolve) => { last = resolve; });
        await notes.subscribe(made.id, (it) => seen.push(`one ${it.action}`), { fields: 'id' });
        await notes.subscribe('*', (it) => {
            seen.push(`all ${it.action} ${it.record.title}`);
            if (it.action === 'delete') last();
        }, { filter: 'title != "hidden"', headers: { 'X-Own': '1' } });
        await notes.create({ title: 'hidden' });
        await notes.update(made.id, { title: 'Changed' });
        await notes.delete(made.id);
        await done;
        same(seen.sort(), ['all delete Changed', 'all update Changed', 'one delete', 'one update']);
        await notes.unsubscribe(made.id);
        await ann.realtime.unsubscribeByPrefix('notes');
        await notes.unsubscribe();
        await ann.realtime.unsubscribe();
    },
    'logs: getList, getOne, getStats, truncate': async () => {
        const list = await admin.logs.getList(1, 5, { filter: 'data.status >= 200', sort: '-created' });
        // PocketBase writes them some seconds later.
        if (server === 'vski') {
            same((await admin.logs.getOne(list.items[0].id)).data.type, 'request');
            same((await admin.logs.getStats()).length > 0, true);
        }
        await refused(admin.logs.getOne('none'), 404);
        await refused(ann.logs.getList(), 403);
        await refused(ann.logs.truncate(), 403);
        same(await admin.logs.truncate(), true);
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
    'backups: create, getFullList, getDownloadURL, upload, restore, delete': async () => {
        const { backups } = admin;
        same((await admin.health.check()).data.canBackup, true);
        same(await backups.create('first.zip'), true);
        await refused(backups.create('first.zip'), 400, 'name', 'validation_backup_name_exists');
        await refused(backups.create('No zip'), 400, 'name', 'validation_match_invalid');
        same(await backups.create(''), true);
        const list = await backups.getFullList();
        same(list.map((it) => it.size > 1000 && it.modified.startsWith('20')), [true, true]);
        same(list[0].key, 'first.zip');
        const url = backups.getDownloadURL(await admin.files.getToken(), 'first.zip');
        const response = await fetch(url);
        same([response.status, response.headers.get('Content-Type')], [200, 'application/zip']);
        const archive = await response.blob();
        same(archive.size, list[0].size);
        same((await fetch(backups.getDownloadURL('x', 'first.zip'))).status, 403);
        same((await fetch(backups.getDownloadURL(await ann.files.getToken(), 'first.zip'))).status, 403);
        same(await backups.upload({ file: new File([archive], 'second.zip') }), true);
        const again = { file: new File([archive], 'second.zip') };
        await refused(backups.upload(again), 400, 'file', 'validation_backup_name_exists');
        await refused(backups.upload({ file: new File(['x'], 'x.txt') }), 400, 'file', 'validation_invalid_mime_type');
        await refused(backups.upload({}), 400, 'file', 'validation_required');
        await refused(backups.restore('none.zip'), 400);
        // PocketBase restarts itself.
        if (server === 'vski') {
            const error = await refused(backups.restore('second.zip'), 400);
            same(error.message.includes('vski restore'), true);
        }
        for (const { key } of await backups.getFullList()) same(await backups.delete(key), true);
        await refused(backups.delete('first.zip'), 400);
        same(await backups.getFullList(), []);
        await refused(ann.backups.getFullList(), 403);
    },
    'collections: getScaffolds, import, dryRunViewQuery, truncate': async () => {
        const { collections } = admin;
        const scaffolds = await collections.getScaffolds();
        same(Object.keys(scaffolds).sort(), ['auth', 'base', 'view']);
        same(scaffolds.base.fields[0].name, 'id');
        const imported = { ...scaffolds.base, id: 'imported0000001', name: 'imported' };
        imported.fields.push({ name: 'title', type: 'text' });
        const view = { ...scaffolds.view, id: 'imported0000002', name: 'titles', viewQuery: 'SELECT id, title FROM imported' };
        // It answers without content.
        await collections.import([imported, view]);
        same((await collections.getOne('imported')).id, 'imported0000001');
        await refused(collections.import([]), 400, 'collections', 'validation_required');
        const bad = await refused(collections.import([{ ...imported, fields: [{ name: 'x', type: 'none' }] }]), 400);
        same(Object.keys(bad.response.data).includes('collections'), true);
        for (const title of ['b', 'a']) await admin.collection('imported').create({ title });
        same((await admin.collection('titles').getFullList({ sort: 'title' })).map((it) => it.title), ['a', 'b']);
        const trial = await collections.dryRunViewQuery('SELECT id, title AS name FROM imported ORDER BY title');
        same(trial.fields.map((it) => it.name), ['id', 'name']);
        same(trial.sample.map((it) => it.name), ['a', 'b']);
        await refused(collections.dryRunViewQuery('SELECT title FROM none'), 400);
        await refused(collections.dryRunViewQuery(''), 400, 'query', 'validation_required');
        same(await collections.truncate('imported'), true);
        same((await admin.collection('imported').getFullList()).length, 0);
        await refused(collections.truncate('titles'), 400);
        await refused(ann.collections.truncate('imported'), 403);
        same(await collections.delete('titles'), true);
        same(await collections.delete('imported'), true);
    },
    'sql.run': async () => {
        const found = await admin.sql.run("SELECT title, 1 AS n, NULL AS empty FROM notes WHERE title = 'Two'");
        same(found.columns.map((it) => it.name), ['title', 'n', 'empty']);
        same(found.rows, [['Two', '1', null]]);
        same(found.affectedRows, 0);
        await refused(admin.sql.run('SELEC'), 400);
        await refused(admin.sql.run(''), 400, 'query', 'validation_required');
        await refused(ann.sql.run('SELECT 1'), 403);
    },
    'OTP, OAuth2 and external log-ins of a collection without them': async () => {
        const people = ann.collection('people');
        // A path that a server does not have is not there for anyone.
        const none = async (promise, status) => {
            const error = await promise.then((it) => assert.fail(JSON.stringify(it)), (it) => it);
            same([status, 404].includes(error.status), true, error.message);
        };
        await none(people.requestOTP('ann@example.net'), 403);
        await none(people.authWithOTP('x', 'y'), 403);
        await none(people.authWithOAuth2Code('google', 'code', 'verifier', 'http://127.0.0.1/x'), 403);
        same((await people.listExternalAuths(ann.authStore.record.id)).length, 0);
        const providers = await admin.collections.getAllOAuth2Providers();
        same(providers.some((it) => it.name === 'google'), true);
        await refused(people.unlinkExternalAuth(ann.authStore.record.id, 'google'), 404);
        await none(admin.settings.generateAppleClientSecret('', '', '', '', 0), 400);
        await refused(people.confirmEmailChange('x', PASSWORD), 400, 'token', server === 'vski' ? 'validation_invalid_token' : 'validation_invalid_token_payload');
    },
    'client: filter, send, beforeSend, afterSend, cancelRequest, autoCancellation, buildURL': async () => {
        const client = new PocketBase(`${url}/`);
        same(client.buildURL('/api/x'), `${url}/api/x`);
        same(client.filter('a = {:a} && b > {:b}', { a: 'it"s', b: 1 }), 'a = "it\\"s" && b > 1');
        client.beforeSend = (at, options) => ({ url: at, options: { ...options, headers: { ...options.headers, 'X-Own': '1' } } });
        client.afterSend = (response, data) => ({ ...data, status: response.status });
        same((await client.send('/api/health', { query: { x: [1, 'y'] } })).status, 200);
        await refused(client.send('/api/none', {}), 404);
        // The second request cancels the first one, which has the same key.
        const [first, second] = await Promise.allSettled([client.health.check(), client.health.check()]);
        same([first.status, first.reason.isAbort, second.status], ['rejected', true, 'fulfilled']);
        client.autoCancellation(false);
        const both = await Promise.allSettled([client.health.check(), client.health.check()]);
        same(both.map((it) => it.status), ['fulfilled', 'fulfilled']);
        client.autoCancellation(true);
        const cancelled = client.send('/api/health', { requestKey: 'mine' });
        client.cancelRequest('mine');
        await refused(cancelled, 0);
        const all = client.health.check();
        client.cancelAllRequests();
        await refused(all, 0);
    },
    'auth stores: onChange, save, clear, AsyncAuthStore': async () => {
        const kept = [];
        const store = new AsyncAuthStore({ save: async (text) => { kept.push(text); }, clear: async () => { kept.push(''); } });
        const client = new PocketBase(url, store);
        let changes = 0;
        const end = store.onChange(() => { changes += 1; });
        await client.collection('people').authWithPassword('ann@example.net', PASSWORD);
        same([store.isValid, store.isSuperuser, changes], [true, false, 1]);
        end();
        store.clear();
        same([store.isValid, store.record, changes], [false, null, 1]);
        await new Promise((resolve) => { setTimeout(resolve); });
        same([kept.length, JSON.parse(kept[0]).record.email, kept[1]], [2, 'ann@example.net', '']);
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
