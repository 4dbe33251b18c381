import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { CancelledError, FatalError, RetryAfterError, StepError, WorkflowWorker, registerWorkflow, step, workflow } from 'vski/worker';
import { Server, until } from './support/server.js';

/** @type {Server} */ let server;
let admin;
const workers = [];
before(async () => {
  server = await Server.start();
  admin = await server.admin();
});
after(() => Promise.all(workers.map((it) => it.stop())));

async function serve(...definitions) {
  definitions.forEach(registerWorkflow);
  const worker = new WorkflowWorker(admin, { name: definitions[0].name, signals: false, graceMs: 500 });
  workers.push(worker);
  await worker.start(definitions[0]);
  return worker;
}

const finish = async (name, input, options) => {
  const { runId } = await admin.workflow.trigger(name, input, options);
  return admin.workflow.wait(runId, { timeout: 20_000 });
};

test('ten lines: two steps, a hook and a sleep', async () => {
  const charge = step('charge', async (order) => ({ charged: order.id }));
  let token;
  const order = workflow('order').run(async (ctx, [input]) => {
    const paid = await charge(input);
    const hook = await ctx.hook({ name: 'approval' });
    await ctx.step('ask', () => void (token = hook.token));
    const { ok } = await hook.payload();
    await ctx.sleep(50);
    return { ...paid, ok, id: ctx.uuid().length };
  });
  await serve(order);
  const { runId } = await admin.workflow.trigger('order', [{ id: 42 }]);
  await until('the hook', () => token);
  await admin.workflow.deliver(token, { ok: true });
  const run = await admin.workflow.wait(runId, { timeout: 20_000 });
  assert.deepEqual([run.status, run.output], ['completed', { charged: 42, ok: true, id: 36 }]);
});

test('a step is tried again, and its last failure is thrown into the workflow', async () => {
  let attempts = 0;
  await serve(workflow('failing').run(async (ctx) => {
    await ctx.step('second time', () => { if (++attempts < 2) throw new RetryAfterError('not yet', 10); });
    const errors = [];
    for (const code of [() => { throw new FatalError('never'); }, () => pause(5000)]) {
      await ctx.step('bad', code, { retries: 0, timeout: 100 }).catch((error) => errors.push([error instanceof StepError, error.kind, error.message]));
    }
    return errors;
  }));
  const run = await finish('failing');
  assert.deepEqual(run.output, [[true, 'fatal', 'never'], [true, 'timeout', 'The step took longer than 100 ms.']]);
  assert.equal(attempts, 2);
});

test('an error of the workflow fails the run', async () => {
  await serve(workflow('broken').run(async () => { throw new FatalError('no'); }));
  const run = await finish('broken');
  assert.deepEqual([run.status, run.error.message], ['failed', 'no']);
});

test('several things at a time take the same course when the code runs again', async () => {
  const calls = [];
  await serve(workflow('parallel').run(async (ctx) => {
    const one = async (item) => {
      await ctx.step('fetch', () => pause((5 - item) * 20));
      const saved = await ctx.step('save', () => (calls.push(item), item));
      await ctx.sleep(30 * item);
      return ctx.step('check', () => saved);
    };
    return Promise.all([1, 2, 3, 4].map(one));
  }));
  const run = await finish('parallel');
  assert.deepEqual(run.output, [1, 2, 3, 4]);
  assert.deepEqual(calls.sort(), [1, 2, 3, 4], 'no step was executed twice');
});

test('children, with a hook and steps beside them', async () => {
  const child = workflow('child').run(async (ctx, number) => ctx.step('double', () => number * 2));
  await serve(child);
  await serve(workflow('parent').run(async (ctx, numbers) => {
    const hook = await ctx.hook();
    const doubled = Promise.all(numbers.map((it) => ctx.child('child', it)));
    const steps = Promise.all(numbers.map((it) => ctx.step('own', () => it)));
    await ctx.emit(hook.token, 'from within');
    return [await doubled, await steps, await hook.payload(), ctx.random() < 1];
  }));
  const run = await finish('parent', [1, 2, 3]);
  assert.deepEqual(run.output, [[2, 4, 6], [1, 2, 3], 'from within', true]);
});

test('the time and random values are the same when the code runs again', async () => {
  const seen = [];
  await serve(workflow('values').run(async (ctx) => {
    const values = [ctx.random(), ctx.uuid(), (await ctx.now()).toISOString()];
    seen.push(values.join());
    await ctx.setAttributes({ done: true });
    const { runId } = await ctx.trigger('elsewhere', [1], { idempotencyKey: `${ctx.runId}` });
    const hook = await ctx.hook();
    await hook.dispose();
    await ctx.step('after the calls', () => {});
    await ctx.sleep(1);
    ctx.log('awake');
    return [...values, runId];
  }));
  const run = await finish('values');
  assert.deepEqual([run.status, run.attributes], ['completed', { done: true }]);
  assert.equal((await admin.workflow.get(run.output[3])).workflow, 'elsewhere');
  assert.equal((await admin.workflow.list({ workflow: 'elsewhere' })).items.length, 1);
  assert.ok(seen.length >= 1);
  assert.equal(new Set(seen).size, 1);
});

test('a cancelled run sees it as an error, and can clean up', async () => {
  let cleaned;
  let begun = false;
  await serve(workflow('cancelled').run(async (ctx) => {
    try {
      await ctx.step('long', async ({ signal }) => {
        begun = true;
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
      });
    } catch (error) {
      cleaned = error instanceof CancelledError;
      throw error;
    }
  }));
  const { runId } = await admin.workflow.trigger('cancelled');
  await until('the step', () => begun);
  await admin.workflow.cancel(runId, 'enough');
  await until('the clean-up', () => cleaned);
  assert.equal((await admin.workflow.get(runId)).status, 'cancelled');
});

test('changed code pauses the run, and says where it differs', async () => {
  let name = 'first';
  const changing = workflow('changing').run(async (ctx) => {
    await ctx.step(name, () => {});
    await ctx.sleep(200);
    return name;
  });
  await serve(changing);
  const { runId } = await admin.workflow.trigger('changing');
  await until('the sleep', async () => (await admin.workflow.get(runId)).state?.toString().includes('waiting') ?? true);
  await until('the first step', async () => (await admin.workflow.journal(runId)).journal.some((it) => it.key === 'first#0'));
  name = 'other';
  const paused = await until('the pause', async () => {
    const run = await admin.workflow.get(runId);
    return JSON.stringify(run).includes('paused') && run;
  });
  assert.match(JSON.stringify(paused), /Journal: step first#0. Code: step other#0/);
  name = 'first';
  await admin.workflow.retry(runId);
  assert.equal((await admin.workflow.wait(runId, { timeout: 20_000 })).output, 'first');
});

test('a kill of the server in between repeats no recorded step', async () => {
  const counts = { a: 0, b: 0 };
  await serve(workflow('killed').run(async (ctx) => {
    await ctx.step('a', () => void counts.a++);
    await ctx.step('b', async () => {
      counts.b++;
      await server.kill();
    });
    await ctx.sleep(100);
    return ctx.step('c', () => 'through');
  }));
  const { runId } = await admin.workflow.trigger('killed');
  await until('the kill', () => counts.b === 1 && server.process.signalCode);
  await server.restart();
  const run = await admin.workflow.wait(runId, { timeout: 40_000 });
  assert.deepEqual([run.output, counts], ['through', { a: 1, b: 1 }]);
});

test('a large result is reported over HTTP', async () => {
  await serve(workflow('large').run(async (ctx) => (await ctx.step('big', () => 'x'.repeat(1_500_000))).length));
  assert.equal((await finish('large')).output, 1_500_000);
});

test('a worker without the right is refused', async () => {
  const stranger = new (await import('vski')).VskiClient(server.url);
  const worker = new WorkflowWorker(stranger, { signals: false });
  await assert.rejects(worker.start(workflow('x').run(async () => {})), (error) => error.code === 'unauthenticated');
  await assert.rejects(new WorkflowWorker(stranger).start('not registered'), (error) => error.code === 'invalid');
});
