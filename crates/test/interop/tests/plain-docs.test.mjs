// Does the page of the plain protocol say the truth: every transcript in it is played against a node.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { open } from '../lib/plain.mjs';

const PAGE = new URL('../../../docs/plain-protocol.md', import.meta.url);
const ANYTHING = '…';

/** What stands in the page's blocks, each under its heading. */
function read(page) {
  let heading = '';
  const found = [];
  for (const [, title, lines] of page.matchAll(/^## (.*)|^```ws\n([\s\S]*?)^```/gm)) {
    if (lines === undefined) heading = title;
    else found.push({ heading, lines: lines.trim().split('\n') });
  }
  return found;
}

const transcripts = read(readFileSync(PAGE, 'utf8'));

/** Compares what was told with what the page says; `$name` stands for one value, whatever it is. */
function matches(told, expected, names, path = '') {
  if (expected === ANYTHING) return assert.notEqual(told, undefined, path);
  if (typeof expected === 'string' && expected.startsWith('$')) {
    names[expected] ??= told;
    return assert.equal(told, names[expected], path);
  }
  if (typeof expected === 'string' && expected.endsWith(ANYTHING)) {
    return assert.ok(told.startsWith(expected.slice(0, -1)), `${path}: ${told}`);
  }
  if (expected === null || typeof expected !== 'object') return assert.equal(told, expected, path);
  assert.deepEqual(Object.keys(told ?? {}), Object.keys(expected), path);
  for (const key of Object.keys(expected)) matches(told[key], expected[key], names, `${path}.${key}`);
}

const named = (text, names) => text.replace(/\$\w+/g, (name) => names[name] ?? name);

async function play(stage, url, lines) {
  const clients = {};
  const names = {};
  for (const line of lines) {
    const [, who, direction, what] = /^(\w+) ([<>]) (.*)$/.exec(line) ?? assert.fail(`no line of a transcript: ${line}`);
    clients[who] ??= await open(stage, url);
    const client = clients[who];
    if (direction === '>') {
      client.send(named(what, names));
      continue;
    }
    const [, code, reason] = /^close (\d+)(?: "(.*)")?$/.exec(what) ?? [];
    if (code) {
      const ended = await client.ended();
      matches(ended, { code: Number(code), reason: reason ?? '' }, names, line);
    } else {
      matches(await client.next(line), what === 'pong' ? what : JSON.parse(what), names, line);
    }
  }
  // Nothing that the page leaves out.
  for (const [who, client] of Object.entries(clients)) {
    if (client.inbox.ended === null) matches(await client.ask({ op: 'heartbeat' }), { op: 'reply', id: ANYTHING, ok: true, ts: ANYTHING }, names, who);
    assert.deepEqual(client.inbox.drain(), [], who);
  }
}

test('the page has transcripts', { skip: TIDEGATE_ONLY }, () => assert.ok(transcripts.length >= 7, `${transcripts.length}`));

for (const [index, { heading, lines }] of transcripts.entries()) {
  test(`transcript ${index + 1} (${heading}) is what happens`, { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    await play(stage, url, lines);
  });
}
