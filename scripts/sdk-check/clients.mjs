// Runs the documented examples of refine-pocketbase and typed-pocketbase, the same for any server.
//
//   node clients.mjs URL NAME    the environment has ADMIN_EMAIL and ADMIN_PASSWORD
//
// URL is a server without the collections below; NAME is only printed. The providers of
// refine-pocketbase are called as Refine calls them, without a page.
import assert from 'node:assert/strict';
import { EventSource } from 'eventsource';
import PocketBase from 'pocketbase';
import { authProvider, dataProvider, liveProvider } from 'refine-pocketbase';
import { TypedPocketBase, and, eq, gte, lt, neq, or } from 'typed-pocketbase';

globalThis.EventSource = EventSource;

const [url, server] = process.argv.slice(2);
const { ADMIN_EMAIL, ADMIN_PASSWORD } = process.env;
const PASSWORD = 'correct horse';
const email = 'member@example.com';
const pb = new PocketBase(url);
pb.autoCancellation(false);
const auth = authProvider(pb, { collection: 'members', requestPasswordResetRedirectTo: '/' });
const data = dataProvider(pb);
const posts = [];
let me;

const admin = new PocketBase(url);

async function build() {
    await admin.collection('_superusers').authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
    const open = { listRule: '', viewRule: '', createRule: '', updateRule: '', deleteRule: '' };
    const members = await admin.collections.create({ ...open, name: 'members', type: 'auth', fields: [{ name: 'username', type: 'text' }] });
    await admin.collections.create({ ...open, name: 'posts', type: 'base', fields: [
        { name: 'title', type: 'text', required: true }, { name: 'content', type: 'text' }, { name: 'date', type: 'date' },
        { name: 'published', type: 'bool' }, { name: 'a', type: 'number' },
        { name: 'owner', type: 'relation', collectionId: members.id, maxSelect: 1 },
    ] });
}

async function titles(filters) {
    const pagination = { currentPage: 1, pageSize: 10, mode: 'server' };
    const sorters = [{ field: 'a', order: 'asc' }];
    const list = await data.getList({ resource: 'posts', pagination, sorters, filters });
    return list.data.map((it) => it.title).join(' ');
}

const checks = {
    'refine-pocketbase: authProvider': async () => {
        assert.equal((await auth.check()).authenticated, false);
        assert.equal((await auth.register({ email, password: PASSWORD })).success, true);
        assert.equal((await auth.login({ email, password: 'wrong' })).success, false);
        const options = { expand: 'org', headers: { key: 'value' } };
        assert.equal((await auth.login({ email, password: PASSWORD, options })).success, true);
        assert.equal((await auth.check()).authenticated, true);
        me = await auth.getIdentity();
        assert.equal(me.email, email);
        assert.equal((await auth.forgotPassword({ email })).success, true);
        assert.equal((await auth.updatePassword({ token: 'x', password: PASSWORD })).success, false);
    },
    'refine-pocketbase: dataProvider': async () => {
        const resource = 'posts';
        for (const [title, a] of [['One', 1], ['Two', 2], ['Three', 3]]) {
            const date = `202${a}-01-01 00:00:00.000Z`;
            const variables = { title, a, date, owner: me.id, content: a === 1 ? '' : 'c' };
            posts.push((await data.create({ resource, variables })).data);
        }
        for (const [filter, expected] of [
            [{ field: 'a', operator: 'in', value: [1, 3] }, 'One Three'],
            [{ field: 'a', operator: 'nin', value: [1, 3] }, 'Two'],
            [{ field: 'a', operator: 'in', value: [] }, 'One Two Three'],
            [{ field: 'a', operator: 'between', value: [2, 3] }, 'Two Three'],
            [{ field: 'a', operator: 'nbetween', value: [2, 3] }, 'One'],
            [{ field: 'title', operator: 'contains', value: 't' }, 'Two Three'],
            [{ field: 'title', operator: 'startswith', value: 'T' }, 'Two Three'],
            [{ operator: 'or', value: [{ field: 'a', operator: 'gte', value: 3 }, { field: 'title', operator: 'eq', value: 'One' }] }, 'One Three'],
        ]) {
            assert.equal(await titles([filter]), expected, JSON.stringify(filter));
        }
        const meta = { fields: ['id', 'title', 'expand.owner.username'], expand: ['owner'] };
        const list = await data.getList({ resource, meta });
        assert.deepEqual(Object.keys(list.data[0]).sort(), ['expand', 'id', 'title']);
        const [{ id }] = posts;
        const one = await data.getOne({ resource, id, meta: { expand: ['owner'] } });
        assert.equal(one.data.expand.owner.id, me.id);
        assert.equal((await data.update({ resource, id, variables: { title: 'Uno' } })).data.title, 'Uno');
        const wrong = await data.update({ resource, id, variables: { title: '' } }).catch((it) => it);
        assert.deepEqual([wrong.statusCode, wrong.errors], [400, { title: 'Cannot be blank.' }]);
        await assert.rejects(data.getOne({ resource, id: 'none' }));
        const custom = await data.custom({ url: `${data.getApiUrl()}/api/health`, method: 'get' });
        assert.equal(custom.data.code, 200);
    },
    'refine-pocketbase: liveProvider': async () => {
        const live = liveProvider(pb);
        const resource = 'posts';
        const events = [];
        let last;
        const done = new Promise((resolve) => { last = resolve; });
        const subscription = live.subscribe({ channel: 'resources/posts', types: ['*'], params: {}, callback: (event) => {
            events.push(`${event.type} ${event.payload.title}`);
            if (event.type === 'delete') last();
        } });
        await subscription;
        const { data: { id } } = await data.create({ resource, variables: { title: 'Live' } });
        await data.update({ resource, id, variables: { title: 'Lively' } });
        await data.deleteOne({ resource, id });
        await done;
        assert.deepEqual(events, ['create Live', 'update Lively', 'delete Lively']);
        live.unsubscribe(subscription);
        assert.equal((await auth.logout({})).success, true);
    },
    'typed-pocketbase': async () => {
        const db = new TypedPocketBase(url);
        const find = async (options) => (await db.from('posts').getFullList(options)).map((it) => it.title).join(' ');
        const select = { id: true, title: true, content: true, expand: { owner: { username: true } } };
        assert.equal(await find({ select, sort: '-date', filter: neq('content', '') }), 'Three Two');
        assert.equal(await find({ filter: and(['date', '<', '2023-01-01'], ['date', '>=', '2022-01-01']) }), 'Two');
        const either = or(['date', '>=', '2023-01-01'], lt('date', '2022-01-01'));
        assert.equal(await find({ filter: either, sort: ['-date', '+title'] }), 'Three Uno');
        assert.equal(await find({ filter: and(gte('date', '2022-01-01'), false), sort: 'date' }), 'Two Three');
        assert.equal(await find({ filter: eq('owner.username', ''), sort: 'a' }), 'Uno Two Three');
        const one = await db.from('posts').getOne(posts[1].id, { select: { title: true, expand: { owner: { id: true } } } });
        assert.deepEqual([one.title, one.expand.owner.id], ['Two', me.id]);
        const members = await db.from('members').getFullList({ select: { expand: { posts_via_owner: { title: true } } } });
        assert.equal(members[0].expand.posts_via_owner.length, 3);
        assert.equal((await db.from('posts').create({ title: 'Four' }, { select: { title: true } })).title, 'Four');
        const filter = db.from('posts').createFilter(or(eq('content', 'bla'), eq('published', true)));
        assert.equal((await db.from('posts').getList(1, 5, { filter })).totalItems, 0);
        assert.equal(db.from('posts').createSort('+id', '-date'), '+id,-date');
    },
};

await build();
for (const [name, check] of Object.entries(checks)) {
    try {
        await check();
    } catch (error) {
        console.log(`FAILED  ${name}`);
        console.error(error);
        process.exit(1);
    }
    console.log(`ok  ${server}: ${name}`);
}
for (const name of ['posts', 'members']) await admin.collections.delete(name);
process.exit(0);
