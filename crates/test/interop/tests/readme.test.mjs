// The first client of the README, run as it stands there, apart from the port.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';

const README = new URL('../../../../README.md', import.meta.url);

test('the first example of the README does what it says', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const text = await readFile(README, 'utf8');
  const example = /```js\n(.*?)```/s.exec(text)?.[1];
  assert.ok(example?.includes('http://127.0.0.1:8080'), 'the README holds the example');
  assert.ok(example.trim().split('\n').length <= 15, 'it is short enough to paste');

  const node = await startTidegate(stage);
  // Beside the tests, so that it finds socket.io-client.
  const file = new URL(`readme-${process.pid}.mjs`, import.meta.url);
  await writeFile(file, example.replaceAll('http://127.0.0.1:8080', node.url));
  stage.defer(() => rm(file, { force: true }));
  const { stdout } = await promisify(execFile)(process.execPath, [file.pathname], { timeout: 20_000 });
  assert.equal(stdout, 'published: true\nann says hello in lobby\n');
});
