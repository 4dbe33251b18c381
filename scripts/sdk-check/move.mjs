// An application that moves from PocketBase, and the program that checks it before and after.
//
//   node move.mjs URL build    creates the application in an empty PocketBase
//   node move.mjs URL NAME     checks it; NAME (`pocketbase` or `vski`) is only printed
//
// The environment has ADMIN_EMAIL and ADMIN_PASSWORD. The checks leave the data as it was.
import assert from 'node:assert/strict';
import { EventSource } from 'eventsource';
import PocketBase, { ClientResponseError } from 'pocketbase';

globalThis.EventSource = EventSource;

const [url, what] = process.argv.slice(2);
const { ADMIN_EMAIL, ADMIN_PASSWORD } = process.env;
const PASSWORD = 'an old password';
const ids = (list) => list.map((it) => it.id).sort();
let steps = 0;

function same(actual, expected) {
    steps += 1;
    assert.deepEqual(actual, expected);
}

async function refused(promise, status) {
    const error = await promise.then((value) => assert.fail(JSON.stringify(value)), (it) => it);
    if (!(error instanceof ClientResponseError)) throw error;
    same(error.status, status);
}

async function signIn(name) {
    const client = new PocketBase(url);
    client.autoCancellation(false);
    const { record } = await client.collection('users').authWithPassword(`${name}@example.com`, PASSWORD);
    return { client, record };
}

async function superuser() {
    const client = new PocketBase(url);
    client.autoCancellation(false);
    await client.collection('_superusers').authWithPassword(ADMIN_EMAIL, ADMIN_PASSWORD);
    return client;
}

async function build() {
    const admin = await superuser();
    const users = await admin.collections.getOne('users');
    await admin.collections.update('users', { listRule: '@request.auth.id != ""', viewRule: '@request.auth.id != ""' });
    const text = { name: 'title', type: 'text', required: true };
    const times = [
        { name: 'created', type: 'autodate', onCreate: true, onUpdate: false },
        { name: 'updated', type: 'autodate', onCreate: true, onUpdate: true },
    ];
    const link = (name, collection, more) => ({ name, type: 'relation', collectionId: collection.id, maxSelect: 1, ...more });
    const teams = await admin.collections.create({ name: 'teams', type: 'base', fields: [
        text, link('members', users, { maxSelect: 99 }), ...times,
    ] });
    const projects = await admin.collections.create({ name: 'projects', type: 'base', fields: [
        text, link('team', teams, { required: true, cascadeDelete: true }), { name: 'cover', type: 'file', maxSelect: 1 },
        { name: 'budget', type: 'number' }, { name: 'state', type: 'select', values: ['open', 'done'], maxSelect: 1 }, ...times,
    ], indexes: ['CREATE UNIQUE INDEX idx_projects_title ON projects (team, title)'] });
    const tasks = await admin.collections.create({ name: 'tasks', type: 'base', fields: [
        text, link('project', projects, { required: true, cascadeDelete: true }), link('assignee', users),
        { name: 'papers', type: 'file', maxSelect: 5, protected: true }, { name: 'done', type: 'bool' },
        { name: 'notes', type: 'json' }, { name: 'place', type: 'geoPoint' }, ...times,
    ] });
    const member = '@request.auth.id != "" && project.team.members.id ?= @request.auth.id';
    await admin.collections.update(tasks.id, { listRule: `${member} || assignee = @request.auth.id`,
        viewRule: `${member} || assignee = @request.auth.id`, createRule: member, updateRule: member, deleteRule: member });
    const projectRule = '@request.auth.id != "" && (team.members.id ?= @request.auth.id || tasks_via_project.assignee ?= @request.auth.id)';
    await admin.collections.update(projects.id, { listRule: projectRule, viewRule: projectRule });
    const teamRule = '@request.auth.id != "" && (members.id ?= @request.auth.id || projects_via_team.tasks_via_project.assignee ?= @request.auth.id)';
    await admin.collections.update(teams.id, { listRule: teamRule, viewRule: teamRule });
    await admin.collections.create({ name: 'progress', type: 'view', listRule: '@request.auth.id != ""', viewRule: '',
        viewQuery: 'SELECT p.id, p.title, p.team, count(t.id) AS tasks, sum(t.done) AS done FROM projects p LEFT JOIN tasks t ON t.project = p.id GROUP BY p.id' });

    for (const [id, name, verified] of [['annannannannann', 'ann', true], ['benbenbenbenben', 'ben', false], ['cleocleocleocle', 'cleo', true]]) {
        await admin.collection('users').create({ id, name, email: `${name}@example.com`, password: PASSWORD,
            passwordConfirm: PASSWORD, verified, emailVisibility: name === 'ann' });
    }
    await admin.collection('_externalAuths').create({ collectionRef: users.id, recordRef: 'cleocleocleocle', provider: 'google', providerId: 'g-1' });
    const make = (collection, record) => admin.collection(collection).create(record);
    await make('teams', { id: 'teamaaaaaaaaaaa', title: 'A', members: ['annannannannann'] });
    await make('teams', { id: 'teambbbbbbbbbbb', title: 'B', members: ['cleocleocleocle', 'annannannannann'] });
    await make('teams', { id: 'teamccccccccccc', title: 'C', members: [] });
    await make('projects', { id: 'projectaaaaaaaa', title: 'First', team: 'teamaaaaaaaaaaa', budget: 10.5, state: 'open',
        cover: new File(['a cover'], 'cover.txt') });
    await make('projects', { id: 'projectbbbbbbbb', title: 'Second', team: 'teambbbbbbbbbbb' });
    await make('projects', { id: 'projectcccccccc', title: 'Third', team: 'teamccccccccccc' });
    await make('tasks', { id: 'taskaaaaaaaaaaa', title: 'Write', project: 'projectaaaaaaaa', assignee: 'benbenbenbenben', done: true,
        notes: { deep: [1, 'x'] }, place: { lon: 13.4, lat: 52.5 }, papers: [new File(['one'], 'one.txt'), new File(['two'], 'two.txt')] });
    await make('tasks', { id: 'taskbbbbbbbbbbb', title: 'Read', project: 'projectbbbbbbbb', assignee: 'cleocleocleocle' });
    await make('tasks', { id: 'taskccccccccccc', title: 'Rest', project: 'projectcccccccc' });
}

const checks = {
    'accounts sign in with their old passwords': async () => {
        const found = [];
        for (const name of ['ann', 'ben', 'cleo', 'ann']) {
            const { record } = await signIn(name);
            found.push([record.id, record.name, record.verified]);
        }
        same(found, [['annannannannann', 'ann', true], ['benbenbenbenben', 'ben', false], ['cleocleocleocle', 'cleo', true],
            ['annannannannann', 'ann', true]]);
        const users = new PocketBase(url).collection('users');
        await refused(users.authWithPassword('ann@example.com', 'another one'), 400);
        await refused(users.authWithPassword('dan@example.com', PASSWORD), 400);
        const { client } = await signIn('cleo');
        const list = await client.collection('users').getFullList({ sort: 'name' });
        same(list.map((it) => it.email), ['ann@example.com', undefined, 'cleo@example.com']);
    },
    'rules through related records and records that name this one': async () => {
        const seen = {};
        for (const name of ['ann', 'ben', 'cleo']) {
            const { client } = await signIn(name);
            const of = async (collection) => ids(await client.collection(collection).getFullList()).map((it) => it.replace(/(.)\1+$/, '-$1'));
            seen[name] = [await of('teams'), await of('projects'), await of('tasks')];
        }
        same(seen, {
            ann: [['team-a', 'team-b'], ['project-a', 'project-b'], ['task-a', 'task-b']],
            ben: [['team-a'], ['project-a'], ['task-a']],
            cleo: [['team-b'], ['project-b'], ['task-b']],
        });
        const nobody = new PocketBase(url);
        same(await nobody.collection('teams').getFullList(), []);
        await refused(nobody.collection('teams').getOne('teamaaaaaaaaaaa'), 404);
        const { client } = await signIn('ben');
        await refused(client.collection('projects').getOne('projectbbbbbbbb'), 404);
        await refused(client.collection('tasks').create({ title: 'x', project: 'projectaaaaaaaa' }), 400);
        await refused(client.collection('projects').create({ title: 'x', team: 'teamaaaaaaaaaaa' }), 403);
    },
    'values, times, expansion, filters and sorting': async () => {
        const { client } = await signIn('ann');
        const task = await client.collection('tasks').getOne('taskaaaaaaaaaaa', { expand: 'project.team,assignee' });
        same([task.title, task.done, task.notes, task.place], ['Write', true, { deep: [1, 'x'] }, { lon: 13.4, lat: 52.5 }]);
        same([task.expand.project.expand.team.title, task.expand.assignee.name], ['A', 'ben']);
        same(Math.abs(Date.now() - new Date(task.created)) < 3600_000, true);
        const team = await client.collection('teams').getOne('teamaaaaaaaaaaa', { expand: 'projects_via_team.tasks_via_project' });
        same(team.expand.projects_via_team[0].expand.tasks_via_project[0].id, 'taskaaaaaaaaaaa');
        const project = await client.collection('projects').getFirstListItem('budget > 10 && state = "open" && tasks_via_project.title ?~ "wri"');
        same([project.id, project.budget], ['projectaaaaaaaa', 10.5]);
        const empty = await client.collection('projects').getOne('projectbbbbbbbb');
        same([empty.budget, empty.state, empty.cover], [0, '', '']);
        const sorted = await client.collection('tasks').getList(1, 1, { sort: '-project.team.title', filter: 'created <= @now' });
        same([sorted.items[0].id, sorted.totalItems], ['taskbbbbbbbbbbb', 2]);
    },
    'files under their names, protected ones with a token': async () => {
        const { client } = await signIn('ann');
        const text = async (record, name, query) => {
            const response = await fetch(client.files.getURL(record, name, query));
            return response.status === 200 ? response.text() : response.status;
        };
        const project = await client.collection('projects').getOne('projectaaaaaaaa');
        same([/^cover_\w{10}\.txt$/.test(project.cover), await text(project, project.cover)], [true, 'a cover']);
        const task = await client.collection('tasks').getOne('taskaaaaaaaaaaa');
        same(await text(task, task.papers[0]), 404);
        const token = await client.files.getToken();
        same([await text(task, task.papers[0], { token }), await text(task, task.papers[1], { token })], ['one', 'two']);
        const { client: cleo } = await signIn('cleo');
        same(await text(task, task.papers[0], { token: await cleo.files.getToken() }), 404);
    },
    'a view': async () => {
        const { client } = await signIn('cleo');
        const rows = await client.collection('progress').getFullList({ sort: 'title', expand: 'team' });
        same(rows.map((it) => [it.id, it.title, it.tasks, it.done]), [
            ['projectaaaaaaaa', 'First', 1, 1], ['projectbbbbbbbb', 'Second', 1, 0], ['projectcccccccc', 'Third', 1, 0],
        ]);
        same((await client.collection('progress').getFirstListItem('tasks > 0 && title = "Third"')).team, 'teamccccccccccc');
        await refused(client.collection('progress').create({ title: 'x' }), 400);
    },
    'records are created, changed, announced and deleted': async () => {
        const { client } = await signIn('ann');
        const tasks = client.collection('tasks');
        const seen = [];
        let last;
        const done = new Promise((resolve) => { last = resolve; });
        await tasks.subscribe('*', (it) => {
            seen.push(it.action);
            if (it.action === 'delete') last();
        });
        const made = await tasks.create({ title: 'New', project: 'projectbbbbbbbb', papers: [new File(['x'], 'x.txt')] });
        same((await tasks.update(made.id, { title: 'Newer', 'papers+': [new File(['y'], 'y.txt')] })).papers.length, 2);
        same(await tasks.delete(made.id), true);
        await done;
        same(seen, ['create', 'update', 'delete']);
        await tasks.unsubscribe();
        await refused(tasks.create({ title: '', project: 'projectbbbbbbbb' }), 400);
        const admin = await superuser();
        await refused(admin.collection('projects').create({ title: 'First', team: 'teamaaaaaaaaaaa' }), 400);
    },
    'superusers and definitions': async () => {
        const admin = await superuser();
        const all = await admin.collections.getFullList();
        const own = all.filter((it) => !it.system).map((it) => `${it.type} ${it.name}`).sort();
        same(own, ['auth users', 'base projects', 'base tasks', 'base teams', 'view progress']);
        const teams = all.find((it) => it.name === 'teams');
        same(teams.listRule.includes('projects_via_team.tasks_via_project.assignee'), true);
        same(ids(await admin.collection('users').getFullList({ filter: 'verified = false' })), ['benbenbenbenben']);
    },
};

if (what === 'build') {
    await build();
    process.exit(0);
}
for (const [name, check] of Object.entries(checks)) {
    steps = 0;
    try {
        await check();
    } catch (error) {
        console.log(`FAILED  ${name}`);
        console.error(error);
        process.exit(1);
    }
    console.log(`ok  ${String(steps).padStart(3)}  ${what}, moved: ${name}`);
}
process.exit(0);
