// What an application does with PocketBase's JavaScript client, done against a vski server.
//
//   node check.mjs URL LOG     the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is a server without collections, LOG the file that its log goes to: the server has no
// mail server, so the links of its mails stand there. Each group is one line of output. The groups
// build on each other, so the first that fails ends the run with exit code 1.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import PocketBase, { ClientResponseError } from 'pocketbase';

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
        same(wrong.response, unknown.response, 'nobody learns which accounts there are');
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

    'accounts: see and change oneself, nobody else': async () => {
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
        // What was read may be sent back.
        same((await posts.update(made.id, { ...made, title: 'One' })).title, 'One');
        const chosen = await posts.create({ id: 'chosen000000001', title: 'Chosen', owner: ids.ann });
        same(chosen.id, 'chosen000000001');
        await refused(posts.create({ id: chosen.id, title: 'Again', owner: ids.ann }), 400, 'id');
        same(await posts.delete(chosen.id), true);
        await refused(posts.getOne(chosen.id), 404);
        await refused(posts.delete(chosen.id), 404);
        await refused(posts.create({ owner: ids.ann, tags: ['pink'] }), 400, 'title');
        await refused(posts.create({ title: 'x', owner: ids.ann, author: 'nobody' }), 400, 'author');
        await refused(posts.create({ title: 'x', owner: ids.ann, nothing: 1 }), 400, 'nothing');
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

        // Who is somebody there is nobody here, and the other way round.
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
        // A stream of requests that nobody waits for does the server no harm.
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
