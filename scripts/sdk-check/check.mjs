// Uses PocketBase's JavaScript client against a vski server as an application does.
//
//   node check.mjs URL LOG     the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is a server without collections, LOG the file that its log goes to: the server has no
// mail server, so the links of its mails stand there. Each group is one line of output. The groups
// build on each other, so the first that fails ends the run with exit code 1.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { EventSource } from 'eventsource';
import PocketBase, { ClientResponseError } from 'pocketbase';

// Browsers have one.
globalThis.EventSource = EventSource;

const [url, log] = process.argv.slice(2);
const { ADMIN_EMAIL, ADMIN_PASSWORD } = process.env;
const PASSWORD = 'correct horse';

const admin = new PocketBase(url);
const ann = new PocketBase(url);
const bob = new PocketBase(url);
const stranger = new PocketBase(url);

let steps = 0;

/** The one check of a value. */
function same(actual, expected, what) {
    steps += 1;
    assert.deepEqual(actual, expected, what);
}

function holds(condition, what) {
    same(Boolean(condition), true, what);
}

/** Waits for a refusal with this status; returns what the client made of it. */
async function refused(promise, status, field) {
    const error = await promise.then(
        (value) => assert.fail(`expected ${status}, got ${JSON.stringify(value)}`),
        (error) => error,
    );
    if (!(error instanceof ClientResponseError)) throw error;
    same(error.status, status, error.message);
    // `code` is in errors that the client makes itself, when a list that should not be is empty.
    same(error.response.status ?? error.response.code, status, 'the answer has the status, too');
    holds(error.message.length > 0 && error.message !== 'Something went wrong.', 'the message is the server\'s');
    if (field) holds(error.response.data[field]?.code, `${field} is named: ${JSON.stringify(error.response)}`);
    return error;
}

/** Events of a subscription, one after the other: `next` waits for one. */
function inbox() {
    const events = [];
    let wake = () => {};
    return {
        take: (event) => { events.push(event); wake(); },
        async next() {
            const until = Date.now() + 5000;
            while (events.length === 0) {
                assert.ok(Date.now() < until, 'an event within 5 s');
                await Promise.race([new Promise((resolve) => { wake = resolve; }), sleep(100)]);
            }
            const { action, record } = events.shift();
            return [action, record];
        },
        get length() { return events.length; },
    };
}

/** The token of the last mail to this address, once it is in the log. */
async function mailed(address, before) {
    for (let tries = 0; tries < 100; tries += 1) {
        const lines = readFileSync(log, 'utf8').split('\n').filter((line) => line.includes(`"${address}"`));
        const tokens = lines.map((line) => /#([\w.-]+)/.exec(line)?.[1]).filter(Boolean);
        const last = tokens.at(-1);
        if (last && last !== before) return last;
        await sleep(50);
    }
    return assert.fail(`no mail to ${address} in the log`);
}

const titles = (list) => list.map((record) => record.title);

/** What a client gets from a link, with no credentials but those in the link. */
async function fetched(link) {
    const response = await fetch(link);
    return { status: response.status, text: await response.text(), headers: response.headers };
}

async function stored(client, record, name, expected) {
    const { status, text } = await fetched(client.files.getURL(record, name));
    same([status, text], [200, expected]);
}

/** That no link leads to a file. */
async function gone(client, record, name) {
    same((await fetched(client.files.getURL(record, name))).status, 404, `${name} is gone`);
}

const ids = {};

const groups = {
    'health': async () => {
        const health = await stranger.health.check();
        same(health.code, 200);
        holds(health.message);
    },

    'superuser: sign in, refresh, sign out': async () => {
        const superusers = admin.collection('_superusers');
        await refused(superusers.authWithPassword(ADMIN_EMAIL, 'not the password'), 400);
        same(admin.authStore.isValid, false);
        const auth = await superusers.authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
        same(auth.record.email, ADMIN_EMAIL);
        same(auth.record.collectionName, '_superusers');
        same(admin.authStore.token, auth.token);
        same([admin.authStore.isValid, admin.authStore.isSuperuser], [true, true]);
        const again = await superusers.authRefresh();
        same(again.record.id, auth.record.id);
        same(admin.authStore.token, again.token);
        const methods = await superusers.listAuthMethods();
        same(methods.password.enabled, true);

        const other = new PocketBase(url);
        await refused(other.collection('_superusers').authRefresh(), 401);
        await other.collection('_superusers').authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD, {
            autoRefreshThreshold: 30 * 60,
        });
        other.authStore.clear();
        same(other.authStore.isValid, false);
        await refused(other.collections.getFullList(), 401);
    },

    'collections: create, read, change, delete': async () => {
        const users = await admin.collections.create({
            name: 'users',
            type: 'auth',
            createRule: '',
            listRule: 'id = @request.auth.id',
            viewRule: 'id = @request.auth.id',
            updateRule: 'id = @request.auth.id',
            deleteRule: 'id = @request.auth.id',
            fields: [{ name: 'name', type: 'text', max: 50 }],
        });
        same([users.type, users.createRule], ['auth', '']);
        const authors = await admin.collections.create({
            name: 'authors',
            type: 'base',
            listRule: '',
            viewRule: '',
            fields: [{ name: 'name', type: 'text', required: true }],
            indexes: ['CREATE UNIQUE INDEX idx_authors_name ON authors (name)'],
        });
        const own = 'owner = @request.auth.id';
        const posts = await admin.collections.create({
            name: 'posts',
            type: 'base',
            listRule: `draft = false || ${own}`,
            viewRule: `draft = false || ${own}`,
            createRule: `@request.auth.id != "" && ${own}`,
            updateRule: own,
            deleteRule: own,
            fields: [
                { name: 'title', type: 'text', required: true },
                { name: 'author', type: 'relation', collectionId: authors.id, maxSelect: 1 },
                { name: 'owner', type: 'relation', collectionId: users.id, maxSelect: 1, cascadeDelete: true },
                { name: 'draft', type: 'bool' },
                { name: 'tags', type: 'select', values: ['red', 'green', 'blue'], maxSelect: 3 },
                { name: 'count', type: 'number' },
                { name: 'at', type: 'datetime' },
                { name: 'more', type: 'json' },
                { name: 'remark', type: 'text', hidden: true },
                { name: 'created', type: 'autodate', onCreate: true },
                { name: 'updated', type: 'autodate', onCreate: true, onUpdate: true },
            ],
        });
        await admin.collections.create({
            name: 'comments',
            type: 'base',
            listRule: 'post.owner = @request.auth.id',
            viewRule: 'post.owner = @request.auth.id',
            createRule: '@request.auth.id != ""',
            fields: [
                { name: 'text', type: 'text', required: true },
                { name: 'post', type: 'relation', collectionId: posts.id, cascadeDelete: true, required: true },
            ],
        });
        await admin.collections.create({
            name: 'ledger',
            type: 'base',
            fields: [{ name: 'text', type: 'text' }],
        });

        same((await admin.collections.getOne('posts')).id, posts.id);
        same((await admin.collections.getOne(posts.id)).name, 'posts');
        await refused(admin.collections.getOne('nothing'), 404);
        const names = ['authors', 'comments', 'ledger', 'posts', 'users'];
        same((await admin.collections.getFullList()).map((it) => it.name).sort(), names);
        const pages = await admin.collections.getFullList({ batch: 2, sort: '-name' });
        same(pages.map((it) => it.name), names.toReversed());
        const page = await admin.collections.getList(2, 2, { sort: 'name' });
        same([page.page, page.perPage, page.totalItems, page.totalPages], [2, 2, 5, 3]);
        same(page.items.map((it) => it.name), ['ledger', 'posts']);

        // A definition goes back as it came, with one field more.
        const changed = await admin.collections.update(authors.id, {
            ...authors,
            fields: [...authors.fields, { name: 'born', type: 'number', onlyInt: true }],
        });
        holds(changed.fields.some((field) => field.name === 'born'));
        await refused(admin.collections.create({ name: 'bad name', type: 'base' }), 400, 'name');
        await refused(admin.collections.update('posts', { listRule: 'nothing = 1' }), 400, 'listRule');
        await admin.collections.create({ name: 'scratch', type: 'base' });
        same(await admin.collections.delete('scratch'), true);
        await refused(admin.collections.getOne('scratch'), 404);
    },

    'accounts: register, sign in, refresh': async () => {
        const users = ann.collection('users');
        const draft = { email: 'ann@example.com', password: PASSWORD, passwordConfirm: PASSWORD, name: 'Ann' };
        await refused(users.create({ ...draft, passwordConfirm: 'another one' }), 400, 'passwordConfirm');
        await refused(users.create({ ...draft, password: 'short', passwordConfirm: 'short' }), 400, 'password');
        await refused(users.create({ ...draft, verified: true }), 400, 'verified');
        const record = await users.create({ ...draft, emailVisibility: true });
        same([record.name, record.verified, record.password], ['Ann', false, undefined]);
        await refused(users.create(draft), 400, 'email');

        const wrong = await refused(users.authWithPassword('ann@example.com', 'not the password'), 400);
        const unknown = await refused(users.authWithPassword('nobody@example.com', 'not the password'), 400);
        same(wrong.response, unknown.response, 'the answer does not reveal which accounts exist');
        same(ann.authStore.isValid, false);
        const auth = await users.authWithPassword('ann@example.com', PASSWORD);
        same([auth.record.id, auth.record.email], [record.id, 'ann@example.com']);
        same([ann.authStore.isValid, ann.authStore.isSuperuser], [true, false]);
        same(ann.authStore.record.collectionName, 'users');
        const again = await users.authRefresh();
        same([again.record.id, ann.authStore.token], [record.id, again.token]);
        const short = await users.authRefresh({ fields: 'token,record.id,record.name' });
        same(short.record, { id: record.id, name: 'Ann' });
        await users.authRefresh();

        const methods = await stranger.collection('users').listAuthMethods();
        same(methods.password, { enabled: true, identityFields: ['email'] });
        same([methods.oauth2.enabled, methods.mfa.enabled, methods.otp.enabled], [false, false, false]);

        await bob.collection('users').create({
            email: 'bob@example.com', password: PASSWORD, passwordConfirm: PASSWORD,
        });
        await bob.collection('users').authWithPassword('bob@example.com', PASSWORD);
        Object.assign(ids, { ann: record.id, bob: bob.authStore.record.id });
    },

    'accounts: see and change only themselves': async () => {
        const users = ann.collection('users');
        same((await users.getOne(ids.ann)).name, 'Ann');
        await refused(users.getOne(ids.bob), 404);
        same((await users.getFullList()).map((it) => it.id), [ids.ann]);
        await users.update(ids.ann, { name: 'Ann B.' });
        same(ann.authStore.record.name, 'Ann B.');
        await refused(users.update(ids.bob, { name: 'not Bob' }), 404);
        await refused(users.update(ids.ann, { verified: true }), 400, 'verified');
        await refused(users.delete(ids.bob), 404);
        same((await stranger.collection('users').getFullList()).length, 0);
    },

    'accounts: mails that verify, reset and move': async () => {
        const users = ann.collection('users');
        same(await users.requestVerification('ann@example.com'), true);
        same(await users.requestVerification('nobody@example.com'), true);
        const verification = await mailed('ann@example.com');
        await refused(users.confirmVerification(`${verification}x`), 400, 'token');
        same(await users.confirmVerification(verification), true);
        same(ann.authStore.record.verified, true, 'the client sees that its own account is verified');
        same((await users.authRefresh()).record.verified, true);

        same(await users.requestPasswordReset('ann@example.com'), true);
        const reset = await mailed('ann@example.com', verification);
        await refused(users.confirmPasswordReset(reset, 'another horse', 'another house'), 400, 'passwordConfirm');
        same(await users.confirmPasswordReset(reset, 'another horse', 'another horse'), true);
        await refused(users.confirmPasswordReset(reset, 'third horse', 'third horse'), 400, 'token');
        await refused(users.authRefresh(), 401);
        await users.authWithPassword('ann@example.com', 'another horse');

        same(await users.requestEmailChange('ann@example.org'), true);
        const move = await mailed('ann@example.org');
        await refused(users.confirmEmailChange(move, 'not the password'), 400, 'password');
        same(await users.confirmEmailChange(move, 'another horse'), true);
        same(ann.authStore.isValid, false, 'the client signs out after a new address');
        await refused(users.authWithPassword('ann@example.com', 'another horse'), 400);
        await users.authWithPassword('ann@example.org', 'another horse');
    },

    'accounts: a new password': async () => {
        const users = ann.collection('users');
        const change = { password: PASSWORD, passwordConfirm: PASSWORD };
        await refused(users.update(ids.ann, change), 400, 'oldPassword');
        await refused(users.update(ids.ann, { ...change, oldPassword: 'not the password' }), 400, 'oldPassword');
        await users.update(ids.ann, { ...change, oldPassword: 'another horse' });
        await refused(users.authRefresh(), 401);
        await refused(users.authWithPassword('ann@example.org', 'another horse'), 400);
        await users.authWithPassword('ann@example.org', PASSWORD);
        same(ann.authStore.isValid, true);
    },

    'records: create, read, change, delete': async () => {
        for (const name of ['Le Guin', 'Lem', "O'Brien \"Quote\" \\ %"]) {
            ids[name] = (await admin.collection('authors').create({ name })).id;
        }
        await refused(admin.collection('authors').create({ name: 'Lem' }), 400, 'name');
        const posts = ann.collection('posts');
        const body = {
            title: 'One', author: ids.Lem, owner: ids.ann, tags: ['red'], count: 1.5,
            at: new Date('2026-01-31T12:00:00Z'), more: { deep: [1, null, 'zwölf 🦀'] },
        };
        const made = await posts.create(body, { expand: 'author' });
        same([made.title, made.tags, made.count, made.draft], ['One', ['red'], 1.5, false]);
        same(made.more, body.more);
        same(new Date(made.at), body.at);
        same(made.expand.author.name, 'Lem');
        same([made.collectionName, made.remark], ['posts', undefined]);
        holds(new Date(made.created) <= new Date());
        same((await posts.getOne(made.id)).id, made.id);
        same((await posts.update(made.id, { title: 'Uno' })).title, 'Uno');
        // Values that were read can be sent back.
        same((await posts.update(made.id, { ...made, title: 'One' })).title, 'One');
        const chosen = await posts.create({ id: 'chosen000000001', title: 'Chosen', owner: ids.ann });
        same(chosen.id, 'chosen000000001');
        await refused(posts.create({ id: chosen.id, title: 'Again', owner: ids.ann }), 400, 'id');
        same(await posts.delete(chosen.id), true);
        await refused(posts.getOne(chosen.id), 404);
        await refused(posts.delete(chosen.id), 404);
        await refused(posts.create({ owner: ids.ann, tags: ['pink'] }), 400, 'title');
        await refused(posts.create({ title: 'x', owner: ids.ann, author: 'nobody' }), 400, 'author');
        const passed = await posts.create({ title: 'x', owner: ids.ann, nothing: 1 });
        same(passed.nothing, undefined, 'a name that is no field is passed over');
        await posts.delete(passed.id);
        ids.one = made.id;
    },

    'records: filter, sort, expand, fields, pages': async () => {
        const posts = ann.collection('posts');
        const odd = "O'Brien \"Quote\" \\ %";
        for (const [title, author, count, day] of [
            ['Two', 'Lem', 2, '02-01'], ['Three', 'Le Guin', 3, '02-02'], ['Four', odd, 4, '02-03'],
        ]) {
            await posts.create({
                title, author: ids[author], owner: ids.ann, count, at: `2026-${day} 08:00:00.000Z`,
                tags: count % 2 ? ['red', 'blue'] : ['green'],
            });
        }
        await ann.collection('comments').create({ text: 'Well', post: ids.one });
        const find = async (filter, values) => titles((await posts.getList(1, 50, {
            filter: ann.filter(filter, values), sort: 'count',
        })).items);
        same(await find('author.name = {:name}', { name: odd }), ['Four']);
        same(await find('title ~ {:part} && count >= {:n}', { part: 'o', n: 2 }), ['Two', 'Four']);
        same(await find('at > {:day}', { day: new Date('2026-02-01T12:00:00Z') }), ['Three', 'Four']);
        same(await find('at = {:day}', { day: new Date('2026-01-31T12:00:00Z') }), ['One']);
        same(await find('draft = {:no} && author != {:none}', { no: false, none: null }),
            ['One', 'Two', 'Three', 'Four']);
        same(await find('tags ?= {:tag}', { tag: 'blue' }), ['Three']);
        same(await find('owner = @request.auth.id && created <= @now'), ['One', 'Two', 'Three', 'Four']);
        await refused(posts.getList(1, 1, { filter: 'title = ' }), 400);
        await refused(posts.getList(1, 1, { filter: 'remark = ""' }), 400);
        await refused(posts.getList(1, 1, { sort: 'nothing' }), 400);

        const list = await posts.getList(1, 2, {
            sort: '-count,+title', expand: 'author,owner', fields: 'id,title,expand.author.name',
        });
        same([list.page, list.perPage, list.totalItems, list.totalPages], [1, 2, 4, 2]);
        same(list.items.map(({ title, expand }) => [title, expand.author.name]), [['Four', odd], ['Three', 'Le Guin']]);
        same(Object.keys(list.items[0]).sort(), ['expand', 'id', 'title']);
        const quick = await posts.getList(1, 2, { skipTotal: true });
        same([quick.totalItems, quick.totalPages, quick.items.length], [-1, -1, 2]);
        same((await posts.getList(9, 2)).items, []);
        same(titles(await posts.getFullList({ batch: 3, sort: 'count' })), ['One', 'Two', 'Three', 'Four']);
        same(titles(await posts.getFullList({ sort: 'created' })), ['One', 'Two', 'Three', 'Four']);
        same((await posts.getFirstListItem('count >= 2', { sort: 'count' })).title, 'Two');
        await refused(posts.getFirstListItem('count > 99'), 404);
        const deep = await ann.collection('comments').getFirstListItem('', { expand: 'post.author' });
        same(deep.expand.post.expand.author.name, 'Lem');
    },

    'records: modifiers of fields': async () => {
        const posts = ann.collection('posts');
        const change = (body) => posts.update(ids.one, body);
        same((await change({ 'tags+': 'blue' })).tags, ['red', 'blue']);
        same((await change({ '+tags': ['green'] })).tags, ['green', 'red', 'blue']);
        same((await change({ 'tags-': ['green', 'red'] })).tags, ['blue']);
        same((await change({ 'count+': 2 })).count, 3.5);
        same((await change({ 'count-': 2.5 })).count, 1);
        await refused(change({ 'title+': 'x' }), 400, 'title');
    },

    'batch: all or nothing': async () => {
        const posts = ann.collection('posts');
        const batch = ann.createBatch();
        batch.collection('posts').create({ title: 'Five', owner: ids.ann, count: 5 }, { expand: 'owner' });
        batch.collection('posts').update(ids.one, { 'count+': 10 }, { fields: 'id,count' });
        batch.collection('posts').upsert({ id: 'upserted0000001', title: 'Six', owner: ids.ann, tags: ['red', 'blue'] });
        batch.collection('posts').upsert({ id: 'upserted0000001', title: 'Six again', tags: [] });
        batch.collection('comments').create({ text: 'On six', post: 'upserted0000001' });
        const two = await posts.getFirstListItem('title = "Two"');
        batch.collection('posts').delete(two.id);
        const results = await batch.send();
        same(results.map((it) => it.status), [200, 200, 200, 200, 200, 204]);
        same(results[0].body.title, 'Five');
        same(results[0].body.expand.owner.id, ids.ann);
        same(results[1].body, { id: ids.one, count: 11 });
        same([results[3].body.title, results[3].body.tags], ['Six again', []]);
        same(titles(await posts.getFullList({ sort: 'title' })), ['Five', 'Four', 'One', 'Six again', 'Three']);

        const failing = ann.createBatch();
        failing.collection('posts').create({ title: 'Seven', owner: ids.ann });
        failing.collection('posts').delete(ids.one);
        failing.collection('posts').create({ owner: ids.ann });
        await refused(failing.send(), 400);
        const foreign = bob.createBatch();
        foreign.collection('posts').create({ title: 'Eight', owner: ids.bob });
        foreign.collection('posts').update(ids.one, { title: 'Mine now' });
        await refused(foreign.send(), 400);
        same((await posts.getFullList()).length, 5);
        same((await posts.getOne(ids.one)).title, 'One');
    },

    'files: upload, append, remove, replace, delete': async () => {
        await admin.collections.create({
            name: 'papers',
            type: 'base',
            listRule: '',
            viewRule: 'owner = @request.auth.id',
            createRule: '@request.auth.id != "" && owner = @request.auth.id',
            updateRule: 'owner = @request.auth.id',
            deleteRule: 'owner = @request.auth.id',
            fields: [
                { name: 'title', type: 'text', required: true },
                { name: 'owner', type: 'relation', collectionId: 'users', maxSelect: 1 },
                { name: 'pages', type: 'number' },
                { name: 'final', type: 'bool' },
                { name: 'tags', type: 'select', values: ['red', 'green', 'blue'], maxSelect: 3 },
                { name: 'more', type: 'json' },
                { name: 'doc', type: 'file', maxSelect: 1, maxSize: 100_000 },
                { name: 'docs', type: 'file', maxSelect: 4 },
                { name: 'picture', type: 'file', maxSelect: 1, mimeTypes: ['image/png', 'image/jpeg'] },
                { name: 'secret', type: 'file', maxSelect: 1, protected: true },
            ],
        });
        const papers = ann.collection('papers');
        const text = (name, content) => new File([content], name, { type: 'text/plain' });

        // The client makes a form of an object as soon as one value of it is a file.
        const made = await papers.create({
            title: 'Zwölf "Häuser" 🏠', owner: ids.ann, pages: 12, final: true, tags: ['red', 'blue'],
            more: { deep: [1, null, 'x'] }, doc: text('Annual Report 2026.TXT', 'the report'),
            docs: [text('one.txt', '1'), text('two.txt', '2')],
        });
        same([made.title, made.pages, made.final, made.tags, made.more],
            ['Zwölf "Häuser" 🏠', 12, true, ['red', 'blue'], { deep: [1, null, 'x'] }], 'values next to files');
        holds(/^annual_report_2026_\w+\.txt$/.test(made.doc), made.doc);
        same(made.docs.map((name) => name.split('_')[0]), ['one', 'two'], 'in the order in which they came');
        same([made.picture, made.secret], ['', '']);
        await stored(ann, made, made.doc, 'the report');
        await stored(ann, made, made.docs[1], '2');
        const { headers } = await fetched(ann.files.getURL(made, made.doc));
        holds(headers.get('content-type').startsWith('text/plain'), headers.get('content-type'));
        holds(headers.get('content-disposition').startsWith('inline'));
        const download = await fetched(ann.files.getURL(made, made.doc, { download: true }));
        holds(download.headers.get('content-disposition').startsWith('attachment'));
        same(download.text, 'the report');
        await gone(ann, made, 'annual_report_2026.txt');

        // Other ways to bring a file: a Blob without a name, a form of one's own.
        const blob = await papers.create({ title: 'Blob', owner: ids.ann, doc: new Blob([new Uint8Array([0, 1, 255])]) });
        const bytes = await (await fetch(ann.files.getURL(blob, blob.doc))).arrayBuffer();
        same([...new Uint8Array(bytes)], [0, 1, 255]);
        const form = new FormData();
        form.append('title', 'Form');
        form.append('owner', ids.ann);
        form.append('pages', '3');
        form.append('docs', text('a.txt', 'a'));
        form.append('docs', text('b.txt', ''));
        const own = await papers.create(form);
        same([own.title, own.pages, own.docs.length], ['Form', 3, 2]);
        await stored(ann, own, own.docs[1], '');

        // More of them and fewer.
        const change = (body) => papers.update(made.id, body);
        const three = await change({ 'docs+': text('three.txt', '3') });
        same([three.docs.slice(0, 2), three.docs.length], [made.docs, 3]);
        const four = await change({ '+docs': [text('zero.txt', '0')], title: 'Twelve' });
        same([four.docs.slice(1), four.title], [three.docs, 'Twelve']);
        await refused(change({ 'docs+': [text('five.txt', '5')] }), 400, 'docs');
        const fewer = await change({ 'docs-': [four.docs[0], made.docs[0]] });
        same(fewer.docs, [made.docs[1], three.docs[2]]);
        await gone(ann, made, made.docs[0]);
        await stored(ann, made, made.docs[1], '2');
        // Files that stay are sent as names, new ones as files.
        const mixed = await change({ docs: [made.docs[1], text('last.txt', 'last')] });
        same([mixed.docs[0], mixed.docs.length], [made.docs[1], 2]);
        await gone(ann, made, three.docs[2]);
        same((await change({ docs: mixed.docs.toReversed() })).docs, mixed.docs.toReversed());
        same((await change({ ...mixed, title: 'What was read may be sent back' })).docs, mixed.docs);
        await refused(change({ docs: ['other.txt'] }), 400, 'docs');

        // Another one in its place, and none.
        const replaced = await change({ doc: text('new.txt', 'new') });
        holds(replaced.doc !== made.doc);
        await stored(ann, made, replaced.doc, 'new');
        await gone(ann, made, made.doc);
        same((await change({ doc: null })).doc, '');
        await gone(ann, made, replaced.doc);
        same((await change({ docs: [] })).docs, []);
        await gone(ann, made, made.docs[1]);

        same(await papers.delete(own.id), true);
        await gone(ann, own, own.docs[0]);
        Object.assign(ids, { paper: made.id });
    },

    'files: what is refused': async () => {
        const papers = ann.collection('papers');
        const tooBig = new Blob([new Uint8Array(100_001)]);
        const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0]);
        const size = await refused(papers.update(ids.paper, { doc: tooBig }), 400, 'doc');
        same(size.response.data.doc.code, 'validation_file_size_limit');
        holds(size.response.data.doc.message.includes('100'), size.response.data.doc.message);
        // The media type that a client gives for a file proves nothing.
        const liar = new File(['<script>'], 'picture.png', { type: 'image/png' });
        const type = await refused(papers.update(ids.paper, { picture: liar }), 400, 'picture');
        same(type.response.data.picture.code, 'validation_invalid_mime_type');
        same(Object.keys(type.response.data), ['picture']);
        const picture = (await papers.update(ids.paper, { picture: new File([png], 'p.png') })).picture;
        same((await fetched(ann.files.getURL({ id: ids.paper, collectionId: 'papers' }, picture))).headers.get('content-type'), 'image/png');

        // A file that is too large is refused while it arrives, before anything else is looked at.
        const early = await refused(papers.create({ owner: ids.ann, doc: tooBig, picture: liar }), 400, 'doc');
        same(Object.keys(early.response.data), ['doc']);
        const both = await refused(papers.create({ owner: ids.ann, picture: liar }), 400, 'title');
        same(Object.keys(both.response.data).sort(), ['picture', 'title'], 'all that is wrong at once');
        await refused(papers.update(ids.paper, { doc: [new Blob(['1']), new Blob(['2'])] }), 400, 'doc');
        await refused(papers.update(ids.paper, { nothing: new Blob(['1']) }), 400, 'nothing');
        await refused(papers.create({ title: 'By Ann?', owner: ids.bob, doc: new Blob(['x']) }), 400);
        await refused(bob.collection('papers').update(ids.paper, { doc: new Blob(['x']) }), 404);
        await refused(stranger.collection('papers').create({ title: 'x', doc: new Blob(['x']) }), 400);
        same((await papers.getFullList()).length, 2, 'nothing came of all that');
        const enormous = new Blob([new Uint8Array(65 << 20)]);
        await refused(papers.update(ids.paper, { docs: enormous }), 413);
        same((await papers.getOne(ids.paper)).docs, []);
    },

    'files: protected ones': async () => {
        const papers = ann.collection('papers');
        const record = await papers.update(ids.paper, {
            secret: new File(['for ann'], 'secret.txt'), docs: new File(['for all'], 'open.txt'),
        });
        await stored(stranger, record, record.docs[0], 'for all');
        same((await fetched(ann.files.getURL(record, record.secret))).status, 404, 'without a token');
        const token = await ann.files.getToken();
        holds(token.length > 20 && token !== ann.authStore.token);
        const link = ann.files.getURL(record, record.secret, { token });
        const { status, text, headers } = await fetched(link);
        same([status, text], [200, 'for ann']);
        holds(!/public/.test(headers.get('cache-control')), headers.get('cache-control'));
        const foreign = await bob.files.getToken();
        same((await fetched(ann.files.getURL(record, record.secret, { token: foreign }))).status, 404, 'the viewRule decides');
        same((await fetched(ann.files.getURL(record, record.secret, { token: await admin.files.getToken() }))).status, 200);
        holds([401, 404].includes((await fetched(`${link.slice(0, -3)}xyz`)).status), 'a wrong token');
        await refused(stranger.files.getToken(), 401);
        // It opens files and nothing else.
        const thief = new PocketBase(url);
        thief.authStore.save(token, ann.authStore.record);
        await refused(thief.collection('papers').update(ids.paper, { title: 'x' }), 401);
        await refused(thief.collection('users').authRefresh(), 401);
    },

    'rules: what others may not see or do': async () => {
        const draft = await ann.collection('posts').create({ title: 'Not yet', owner: ids.ann, draft: true });
        same((await ann.collection('posts').getOne(draft.id)).draft, true);
        for (const other of [bob, stranger]) {
            const posts = other.collection('posts');
            await refused(posts.getOne(draft.id), 404);
            same((await posts.getList(1, 50)).totalItems, 5);
            same((await posts.getFullList({ filter: 'draft = true' })).length, 0);
            await refused(posts.getFirstListItem('title = "Not yet"'), 404);
            await refused(posts.update(ids.one, { title: 'Mine' }), 404);
            await refused(posts.delete(ids.one), 404);
            same((await posts.getOne(ids.one, { expand: 'owner,author' })).expand, { author: (await other.collection('authors').getOne(ids.Lem)) });
            same((await other.collection('comments').getFullList()).length, 0);
            await refused(other.collection('posts').create({ title: 'By Ann?', owner: ids.ann }), 400);
            await refused(other.collection('authors').create({ name: 'New' }), 403);
            await refused(other.collection('ledger').getFullList(), 403);
            await refused(other.collection('nothing').getFullList(), 404);
        }
        await refused(bob.collections.getFullList(), 403);
        await refused(bob.collections.create({ name: 'mine', type: 'base' }), 403);
        await refused(stranger.collections.delete('posts'), 401);
        await refused(stranger.collection('users').authRefresh(), 401);
        await refused(bob.collection('_superusers').authRefresh(), 403);
        // The token and not what a client says of itself decides.
        const liar = new PocketBase(url);
        liar.authStore.save(bob.authStore.token, { ...bob.authStore.record, collectionName: '_superusers' });
        await refused(liar.collection('ledger').getFullList(), 403);
        await admin.collection('ledger').create({ text: 'seen by admins' });
        same((await admin.collection('ledger').getFullList()).length, 1);
        same((await admin.collection('posts').getOne(draft.id)).remark, '');
    },

    'realtime: creates, updates and deletes as they happen': async () => {
        const posts = ann.collection('posts');
        const [mine, theirs, one, all] = [inbox(), inbox(), inbox(), inbox()];
        await posts.subscribe('*', mine.take, { filter: 'title ~ "Live"', expand: 'owner', fields: 'id,title,draft,expand.owner.id' });
        await bob.collection('posts').subscribe('*', theirs.take);
        await admin.collection('posts').subscribe('*', all.take);
        await refused(stranger.collection('posts').subscribe('*', () => {}, { filter: 'nothing = 1' }), 400);
        await stranger.collection('posts').unsubscribe();
        const none = inbox();
        await stranger.collection('ledger').subscribe('*', none.take);
        const entry = await admin.collection('ledger').create({ text: 'for admins' });
        await admin.collection('ledger').delete(entry.id);

        const live = await posts.create({ title: 'Live', owner: ids.ann, draft: true });
        await stranger.collection('posts').subscribe(live.id, one.take);
        const [action, record] = await mine.next();
        same([action, record.id, record.draft, record.created], ['create', live.id, true, undefined]);
        same(record.expand.owner.id, ids.ann);
        same((await all.next())[1].remark, '', 'an admin sees what is hidden');
        await posts.update(live.id, { draft: false, title: 'Live now' });
        same((await mine.next())[1].title, 'Live now');
        for (const seen of [await theirs.next(), await one.next()]) {
            same([seen[0], seen[1].title, seen[1].remark], ['update', 'Live now', undefined], 'it has come into view');
        }
        await posts.update(live.id, { draft: true });
        await posts.update(live.id, { draft: false, title: 'Other' });
        same((await mine.next())[1].draft, true);
        for (const seen of [await theirs.next(), await one.next()]) {
            same(seen[1].title, 'Other', 'nothing of what was out of view');
        }
        await posts.delete(live.id);
        for (const box of [theirs, one]) {
            const [gone, last] = await box.next();
            same([gone, last.id, last.title], ['delete', live.id, 'Other']);
        }
        same([mine.length, none.length], [0, 0], 'its title was another one at last; the ledger is not for strangers');

        // A client that has left gets nothing, and can come back.
        await bob.collection('posts').unsubscribe();
        const again = await posts.create({ title: 'Live again', owner: ids.ann });
        same((await mine.next())[1].id, again.id);
        same(theirs.length, 0);
        await bob.collection('posts').subscribe('*', theirs.take);
        await posts.delete(again.id);
        same((await theirs.next())[0], 'delete');
        for (const client of [ann, bob, admin, stranger]) await client.realtime.unsubscribe();
    },

    'API key in place of a token': async () => {
        const made = await admin.send('/api/keys', {
            method: 'POST',
            body: { name: 'reports', scopes: ['read'], collections: ['ledger'] },
        });
        const bearer = new PocketBase(url);
        bearer.authStore.save(made.key, null);
        const header = new PocketBase(url);
        header.beforeSend = (address, options) => {
            options.headers = { ...options.headers, 'X-API-Key': made.key };
            return { url: address, options };
        };
        for (const client of [bearer, header]) {
            same((await client.collection('ledger').getFullList()).length, 1);
            await refused(client.collection('ledger').create({ text: 'x' }), 403);
            await refused(client.collection('posts').getFullList(), 403);
            await refused(client.collections.getFullList(), 403);
        }
        await admin.send(`/api/keys/${made.id}`, { method: 'DELETE' });
        await refused(bearer.collection('ledger').getFullList(), 401);
    },

    'tenant: a database of its own': async () => {
        await admin.send('/api/databases', { method: 'POST', body: { name: 'shop' } });
        const base = `${url}/db/shop`;
        const owner = new PocketBase(base);
        await owner.collection('_superusers').authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
        same(await owner.collections.getFullList(), []);
        await owner.collections.create({
            name: 'users', type: 'auth', createRule: '', viewRule: 'id = @request.auth.id',
        });
        await owner.collections.create({
            name: 'orders', type: 'base', listRule: '@request.auth.id != ""', createRule: '@request.auth.id != ""',
            viewRule: '@request.auth.id != ""', fields: [{ name: 'title', type: 'text', required: true }],
        });
        const customer = new PocketBase(base);
        const users = customer.collection('users');
        await users.create({ email: 'ann@example.org', password: 'of the shop', passwordConfirm: 'of the shop' });
        await refused(users.authWithPassword('ann@example.org', PASSWORD), 400);
        await users.authWithPassword('ann@example.org', 'of the shop');
        await users.authRefresh();
        await customer.collection('orders').create({ title: 'Tea' });
        const batch = customer.createBatch();
        batch.collection('orders').create({ title: 'Milk' });
        batch.collection('orders').upsert({ id: 'sugar0000000001', title: 'Sugar' });
        same((await batch.send()).map((it) => it.status), [200, 200]);
        same(titles(await customer.collection('orders').getFullList({ sort: 'title' })), ['Milk', 'Sugar', 'Tea']);

        // An account of one database does not exist in the other, and the reverse.
        const visitor = new PocketBase(base);
        visitor.authStore.save(ann.authStore.token, ann.authStore.record);
        await refused(visitor.collection('orders').getFullList(), 401);
        visitor.baseURL = url;
        visitor.authStore.save(customer.authStore.token, customer.authStore.record);
        await refused(visitor.collection('posts').getFullList(), 401);
        await refused(ann.collection('orders').getFullList(), 404);
        await refused(new PocketBase(`${url}/db/nothing`).collection('orders').getFullList(), 404);
        await admin.send('/api/databases/shop', { method: 'DELETE' });
        await refused(customer.collection('orders').getFullList(), 401);
        await refused(owner.collection('orders').getFullList(), 404);
    },

    'auto-cancellation': async () => {
        const posts = ann.collection('posts');
        const results = await Promise.allSettled([1, 2, 3].map(() => posts.getList(1, 10)));
        same(results.map((it) => it.status), ['rejected', 'rejected', 'fulfilled']);
        for (const { reason } of results.slice(0, 2)) {
            holds(reason instanceof ClientResponseError);
            same([reason.isAbort, reason.status], [true, 0]);
        }
        const all = await Promise.all([1, 2, 3].map(() => posts.getList(1, 10, { requestKey: null })));
        same(all.map((it) => it.totalItems), [6, 6, 6]);
        const pending = posts.getList(1, 10, { requestKey: 'mine' });
        ann.cancelRequest('mine');
        const error = await pending.catch((reason) => reason);
        same(error.isAbort, true);
        // A stream of abandoned requests does not harm the server.
        const many = await Promise.allSettled(Array.from({ length: 200 }, () => posts.getFullList({ expand: 'author' })));
        same(many.filter((it) => it.status === 'fulfilled').length, 1);
        same((await stranger.health.check()).code, 200);
    },

    'accounts: an end': async () => {
        same(await ann.collection('users').delete(ids.ann), true);
        same(ann.authStore.isValid, false);
        await refused(ann.collection('users').authWithPassword('ann@example.org', PASSWORD), 400);
        same((await admin.collection('posts').getFullList()).length, 0, 'her posts went along');
        same((await admin.collection('comments').getFullList()).length, 0, 'and their comments');
    },

    'files: in a batch': async () => {
        const papers = admin.collection('papers');
        const old = await papers.create({ title: 'Old', docs: [new File(['old'], 'old.txt')] });
        const batch = admin.createBatch();
        batch.collection('papers').create({ title: 'First', doc: new File(['first'], 'first.txt'), pages: 1 });
        batch.collection('papers').update(old.id, { 'docs+': [new File(['a'], 'a.txt'), new File(['b'], 'b.txt')] });
        batch.collection('papers').upsert({ id: 'upsertedpaper01', title: 'Third', docs: new File(['c'], 'c.txt') });
        batch.collection('papers').create({ title: 'Fourth' });
        const results = await batch.send();
        same(results.map((it) => it.status), [200, 200, 200, 200]);
        const [first, second, third, fourth] = results.map((it) => it.body);
        same([first.pages, second.docs.length, third.docs.length, fourth.doc], [1, 3, 1, '']);
        await stored(admin, first, first.doc, 'first');
        await stored(admin, second, second.docs[0], 'old');
        await stored(admin, second, second.docs[2], 'b');
        await stored(admin, third, third.docs[0], 'c');

        const before = (await papers.getFullList()).length;
        const failing = admin.createBatch();
        failing.collection('papers').create({ title: 'Fifth', doc: new File(['fifth'], 'fifth.txt') });
        failing.collection('papers').update(old.id, { doc: new Blob([new Uint8Array(100_001)]) });
        const failure = await refused(failing.send(), 400);
        same(Object.keys(failure.response.data.requests), ['1']);
        same((await papers.getFullList()).length, before, 'all or nothing');
    },
};

for (const [name, run] of Object.entries(groups)) {
    const before = steps;
    try {
        await run();
    } catch (error) {
        console.log(`FAILED  ${name}`);
        console.error(error instanceof ClientResponseError
            ? `${error.url}: ${error.status} ${error.message} ${JSON.stringify(error.response)}\n${error.stack}`
            : error);
        process.exit(1);
    }
    console.log(`ok  ${String(steps - before).padStart(3)}  ${name}`);
}
console.log(`all ${Object.keys(groups).length} groups passed, ${steps} checks`);
