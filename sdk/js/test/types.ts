// Compiled, never run: a line after "@ts-expect-error" must not compile, all others must.
import { VskiClient, filter } from 'vski';
import { WorkflowWorker, step, workflow } from 'vski/worker';
import type { RealtimeEvent, RecordData } from 'vski';

interface Post {
  title: string;
  views: number;
  tags: string[];
  state: 'draft' | 'public';
  published?: boolean;
  cover?: string;
}
interface Account {
  email: string;
  name: string;
}
interface Schema {
  posts: Post;
  _users: Account;
}

const client = new VskiClient<Schema>('http://localhost:3000');
const posts = client.collection('posts');
const own = new VskiClient('http://localhost:3000').collection<Post>('posts');
const any = new VskiClient('http://localhost:3000').collection('posts');

// @ts-expect-error no such collection
client.collection('post');
client.collection<Post>('archive');

await posts.create({ title: 'a', state: 'draft', cover: new Blob(['x']) });
await own.create({ title: 'a' });
await any.create({ whatever: 1 });
// @ts-expect-error a misspelt field
await posts.create({ titel: 'a' });
// @ts-expect-error a misspelt field
await own.create({ titel: 'a' });
// @ts-expect-error the wrong type
await posts.create({ views: 'many' });
// @ts-expect-error not one of the values
await posts.create({ state: 'drafty' });
// @ts-expect-error a number is no file
await posts.create({ views: new Blob(['x']) });

await posts.update('id', { 'views+': 1, 'tags-': 'old', '+tags': ['first'] });
// @ts-expect-error a text has no modifier
await posts.update('id', { 'title+': 'x' });
// @ts-expect-error a misspelt field with a modifier
await posts.update('id', { 'view+': 1 });
await posts.update('id', { title: 'b' }, { ifMatch: await posts.getOne('id') });
// @ts-expect-error a misspelt option
await posts.update('id', { title: 'b' }, { ifmatch: 'x' });
// @ts-expect-error a misspelt field
await posts.upsert({ id: 'x', titel: 'a' });
// @ts-expect-error a misspelt field
await posts.bulkUpdate(['id'], { titel: 'a' });

const post: RecordData<Post> = await posts.getOne('id', { expand: 'author' });
const views: number = post.views + post['views'];
const author: string = post.expand?.author.name;
// @ts-expect-error a misspelt field of an answer
post.titel;

const page = await posts.getList({ sort: ['-created', 'title'], filter: filter`title = ${'a'}`, perPage: 5 });
const total: number = page.totalItems;
await posts.getList({ sort: '-author.name' });
// @ts-expect-error a misspelt field in the sort
await posts.getList({ sort: '-titel' });
// @ts-expect-error a misspelt option
await posts.getList({ perpage: 5 });

const some = await posts.getOne('id', { fields: ['id', 'title'] });
const title: string = some.title;
// @ts-expect-error a field that was not asked for
some.views;
// @ts-expect-error a misspelt field
await posts.getOne('id', { fields: ['titel'] });

for await (const each of posts.iterate({ sort: 'title' })) each.title.toUpperCase();
posts.subscribe((event: RealtimeEvent<Post>) => event.record.title);
// @ts-expect-error a misspelt field of an event
posts.subscribe((event) => event.record.titel);
// @ts-expect-error a misspelt option
posts.subscribe(() => {}, { filters: '' });
const list = posts.live({ sort: '-created' }, (items) => items[0].title);
list.items[0].views.toFixed();
// @ts-expect-error a misspelt field in the sort of a live list
posts.live({ sort: '-titel' }, () => {});

await client.auth.register({ email: 'a@example.com', password: 'secret123', name: 'Ann' });
// @ts-expect-error a misspelt field of an account
await client.auth.register({ email: 'a@example.com', password: 'secret123', nam: 'Ann' });
client.auth.user?.name.toUpperCase();

await client.workflow.trigger('order', [1], { idempotencyKey: 'k', runAt: new Date() });
// @ts-expect-error a misspelt input
await client.workflow.trigger('order', [1], { idempotencykey: 'k' });
// @ts-expect-error an unknown status
await client.workflow.list({ status: 'done' });
await client.keys.create({ name: 'k', scopes: ['read'] });
// @ts-expect-error an unknown scope
await client.keys.create({ name: 'k', scopes: ['reads'] });
await client.settings.collections.create({ name: 'posts', fields: [{ name: 'title', type: 'text' }], listRule: '' });
// @ts-expect-error a misspelt attribute
await client.settings.collections.create({ name: 'posts', listrule: '' });
await client.cron.create({ name: 'n', schedule: '@daily', type: 'sql', sql: 'SELECT 1' });
// @ts-expect-error a misspelt attribute
await client.webhooks.create({ name: 'n', urls: 'https://x.example' });

const batch = client.batch();
batch.collection<Post>('posts').create({ title: 'a' });
// @ts-expect-error a misspelt field in a batch
batch.collection<Post>('posts').create({ titel: 'a' });
// @ts-expect-error a filter takes no objects
filter`title = ${{ a: 1 }}`;

const order = workflow('order').run(async (ctx, [item]: [{ id: number }]) => {
  const charge = step('charge', (it: { id: number }) => ({ charged: it.id }));
  // @ts-expect-error a misspelt input
  await charge({ ids: 1 });
  // @ts-expect-error a misspelt option
  await ctx.step('x', () => 1, { retry: 5 });
  // @ts-expect-error a misspelt field of a result
  (await charge(item)).charge;
  return (await charge(item)).charged + (await ctx.step('one', () => 1));
});
await new WorkflowWorker(client, { credit: 5 }).start(order);
// @ts-expect-error a misspelt option
new WorkflowWorker(client, { credits: 5 });

export { author, title, total, views };
