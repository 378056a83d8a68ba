// The examples of the README, run as they stand there, apart from the port.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';

const README = new URL('../../../../README.md', import.meta.url);

/** The fenced examples in JavaScript that can be run by themselves. */
async function examples() {
  const text = await readFile(README, 'utf8');
  return [...text.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code).filter((code) => code.includes('http://127.0.0.1:8080'));
}

/** Runs an example as it stands there, apart from the port; gives what it prints. */
async function printed(stage, example) {
  const node = await startTidegate(stage);
  // Beside the tests, so that it finds socket.io-client.
  const file = new URL(`readme-${process.pid}.mjs`, import.meta.url);
  await writeFile(file, example.replaceAll('http://127.0.0.1:8080', node.url));
  stage.defer(() => rm(file, { force: true }));
  return (await promisify(execFile)(process.execPath, [file.pathname], { timeout: 20_000 })).stdout;
}

test('the first example of the README does what it says', { skip: TIDEGATE_ONLY }, async (t) => {
  const [example] = await examples();
  assert.ok(example.trim().split('\n').length <= 15, 'it is short enough to paste');
  assert.equal(await printed(stageOf(t), example), 'published: true\nann says hello in lobby\n');
});

test('the example of durable messages does what it says', { skip: TIDEGATE_ONLY }, async (t) => {
  const [, example, ...more] = await examples();
  assert.equal(more.length, 0, 'every example is run');
  assert.ok(example.trim().split('\n').length <= 30, 'it shows the whole of it in 30 lines');
  assert.equal(await printed(stageOf(t), example), 'sent: stored\nann wrote: call me\n1 had waited\nann wrote: never mind\n');
});
