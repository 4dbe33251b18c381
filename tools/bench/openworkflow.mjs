// Four steps, and latency, with OpenWorkflow on SQLite: in one process, as it is meant to be used. Prints JSON.
//   node openworkflow.mjs DATABASE PACKAGE RUNS SAMPLES PAUSE_MS
import { pathToFileURL } from "node:url";
import { setTimeout as pause } from "node:timers/promises";

const [database, folder, runs, samples, pauseMs] = process.argv.slice(2);
const { OpenWorkflow } = await import(pathToFileURL(`${folder}/dist/index.js`));
const { BackendSqlite } = await import(pathToFileURL(`${folder}/dist/sqlite.js`));

const backend = BackendSqlite.connect(database);
const ow = new OpenWorkflow({ backend });
let left = 0, finished, started;
const four = ow.defineWorkflow({ name: "four" }, async ({ step }) => {
  for (let i = 0; i < 4; i++) await step.run({ name: `s${i}` }, async () => ({ state: "ok", amount: 42 }));
  return { state: "ok", amount: 42 };
});
const one = ow.defineWorkflow({ name: "one" }, async ({ step }) => {
  await step.run({ name: "s" }, async () => started(performance.now()));
});
const worker = ow.newWorker({ concurrency: 100 });
await worker.start();
const begun = performance.now();
const handles = [];
for (let i = 0; i < Number(runs); i++) handles.push(await four.run({ id: i }));
for (;;) {
  const counts = await backend.countWorkflowRuns();
  if (counts.completed === Number(runs)) break;
  await pause(20);
}
const seconds = (performance.now() - begun) / 1000;
const latencies = [];
for (let i = 0; i < Number(samples); i++) {
  await pause(Number(pauseMs));
  const at = performance.now();
  const first = new Promise((resolve) => { started = resolve; });
  await one.run({ id: i });
  latencies.push((await first) - at);
}
console.log(JSON.stringify({ seconds, latencies }));
process.exit(0);
