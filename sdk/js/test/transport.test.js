import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, test } from 'node:test';
import { VskiClient, VskiError } from 'vski';
import { refused } from './support/server.js';

const open = [];
after(() => open.forEach((it) => (it.closeAllConnections(), it.close())));

/** A server that answers as the test says, and a client of it. */
async function scripted(answer, options) {
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answer(response, requests.length, request);
  });
  open.push(server);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { requests, client: new VskiClient(`http://127.0.0.1:${server.address().port}/`, options) };
}

const answer = (response, status, body = { message: 'No.' }, headers = {}) => {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};
const ours = { 'X-Request-Id': 'r1' };

test('a read is repeated after 429, 503 and a broken connection', async () => {
  const { client, requests } = await scripted((response, count) => {
    if (count === 1) return answer(response, 429, undefined, { 'Retry-After': '0' });
    if (count === 2) return answer(response, 503);
    if (count === 3) return response.destroy();
    return answer(response, 200, { id: 'x' });
  });
  assert.equal((await client.collection('a').getOne('x')).id, 'x');
  assert.equal(requests.length, 4);
});

test('the repeats end, with the last error', async () => {
  const { client, requests } = await scripted((response) => answer(response, 503, { message: 'Full.' }, { 'Retry-After': '0', ...ours }), { retries: 1 });
  await assert.rejects(client.collection('a').getOne('x'), (error) => {
    assert.deepEqual([error.code, error.message, error.retryAfter, error.requestId], ['unavailable', 'Full.', 0, 'r1']);
    return true;
  });
  assert.equal(requests.length, 2);
  await assert.rejects(client.collection('a').getOne('x', { retries: 0 }), refused(503));
  assert.equal(requests.length, 3);
});

test('a write is not repeated after a broken connection, nor after 503 of a proxy', async () => {
  const { client, requests } = await scripted((response, count) => (count === 1 ? response.destroy() : answer(response, 503)));
  await assert.rejects(client.collection('a').create({}), refused('network'));
  await assert.rejects(client.collection('a').create({}), refused('unavailable'));
  assert.equal(requests.length, 2);
});

test('a write that the server itself has refused for now is repeated', async () => {
  const { client, requests } = await scripted((response, count) => (count === 1 ? answer(response, 503, {}, ours) : answer(response, 200, { id: 'x' })));
  assert.equal((await client.collection('a').create({})).id, 'x');
  assert.equal(requests.length, 2);
});

test('a start with an idempotency key is repeated after a broken connection', async () => {
  const { client, requests } = await scripted((response, count) => (count % 2 ? response.destroy() : answer(response, 200, { runId: 'r' })));
  await client.workflow.trigger('w', [], { idempotencyKey: 'k' });
  assert.equal(requests.length, 2);
  await assert.rejects(client.workflow.trigger('w', []), refused('network'));
  assert.equal(requests.length, 3);
});

test('a long Retry-After is an error at once', async () => {
  const { client, requests } = await scripted((response) => answer(response, 429, undefined, { 'Retry-After': '60', ...ours }));
  await assert.rejects(client.collection('a').getOne('x'), (error) => error.code === 'too_many' && error.retryAfter === 60);
  assert.equal(requests.length, 1);
});

test('a call that takes too long ends, also between repeats', async () => {
  const { client } = await scripted(() => {}, { timeout: 100 });
  await assert.rejects(client.collection('a').getOne('x'), refused('timeout'));
  const busy = await scripted((response) => answer(response, 503, undefined, { 'Retry-After': '5' }));
  await assert.rejects(busy.client.collection('a').getOne('x', { timeout: 50 }), refused('timeout'));
});

test('a signal ends a call, also one that has fired before', async () => {
  const { client, requests } = await scripted(() => {});
  const controller = new AbortController();
  const call = client.collection('a').getOne('x', { signal: controller.signal });
  setTimeout(() => controller.abort('enough'), 50);
  await assert.rejects(call, (error) => error instanceof VskiError && error.code === 'aborted' && error.cause === 'enough');
  await assert.rejects(client.collection('a').getOne('x', { signal: AbortSignal.abort() }), refused('aborted'));
  assert.equal(requests.length, 1);
});

test('an answer that is not JSON is an error that says so', async () => {
  const { client } = await scripted((response, count) => {
    response.writeHead(count === 1 ? 200 : 502, { 'Content-Type': 'text/html' });
    response.end('<html>');
  }, { retries: 0 });
  await assert.rejects(client.collection('a').getOne('x'), refused('invalid_answer'));
  await assert.rejects(client.collection('a').getOne('x'), refused(502));
});

test('headers of the client and of the call are sent', async () => {
  const { client, requests } = await scripted((response) => answer(response, 200, {}), { headers: { 'X-One': '1', 'X-Two': '1' }, token: 'KEY' });
  await client.collection('a').getOne('x', { headers: { 'X-Two': '2' } });
  const { headers } = requests[0];
  assert.deepEqual([headers['x-one'], headers['x-two'], headers.authorization], ['1', '2', 'Bearer KEY']);
});

test('a URL may have a path, and parameters are encoded', async () => {
  const { client, requests } = await scripted((response) => answer(response, 200, { items: [] }));
  const under = new VskiClient(`${client.transport.replicas.master}/base/`);
  await under.db('shop').collection('a b').getList({ filter: 'x = "&"', perPage: 3 });
  assert.equal(requests[0].url, '/base/db/shop/api/collections/a%20b/records?filter=x+%3D+%22%26%22&perPage=3');
});
