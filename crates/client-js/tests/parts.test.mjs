// The parts by themselves, and the form of the sources.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { backoffMs } from '../src/backoff.js';
import { freshId } from '../src/identity.js';
import { encodePacket, PacketReader, PacketType } from '../src/packet.js';
import { Pulse } from '../src/pulse.js';
import { Siding } from '../src/siding.js';
import { pause, until } from './lib/wait.mjs';

const SOURCES = new URL('../src/', import.meta.url);

test('backoff: doubles up to its maximum, and jitters around it', () => {
  const steps = { delayMs: 1_000, delayMaxMs: 5_000, jitter: 0 };
  assert.deepEqual([1, 2, 3, 4, 5, 1e9].map((attempt) => backoffMs(steps, attempt)), [1_000, 2_000, 4_000, 5_000, 5_000, 5_000]);
  const jittered = { ...steps, jitter: 0.5 };
  assert.deepEqual([0, 0.5, 1].map((random) => backoffMs(jittered, 1, () => random)), [500, 1_000, 1_500]);
  assert.deepEqual([0, 0.5, 1].map((random) => backoffMs(jittered, 9, () => random)), [2_500, 5_000, 5_000]);
  assert.equal(backoffMs({ delayMs: 0, delayMaxMs: 0, jitter: 1 }, 5_000), 0);
});

test('ids: unlike each other, with and without crypto', (t) => {
  const ids = Array.from({ length: 100 }, freshId);
  const crypto = Object.getOwnPropertyDescriptor(globalThis, 'crypto');
  Object.defineProperty(globalThis, 'crypto', { value: undefined, configurable: true });
  t.after(() => crypto && Object.defineProperty(globalThis, 'crypto', crypto));
  ids.push(...Array.from({ length: 100 }, freshId));
  assert.equal(new Set(ids).size, 200);
  for (const id of ids) assert.match(id, /^[0-9a-f-]{32,36}$/);
});

test('packets: there and back', () => {
  const reader = new PacketReader();
  const { text, attachments } = encodePacket({ type: PacketType.ACK, namespace: '/a', id: 7, data: [{ $binary: 'AQ==' }, { x: [{ $binary: 'Ag==' }] }] });
  assert.equal(text, '62-/a,7[{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]}]');
  assert.equal(reader.text(text), null);
  assert.equal(reader.attachment(attachments[0]), null);
  const read = reader.attachment(attachments[1]);
  assert.deepEqual(read, { type: PacketType.ACK, namespace: '/a', id: 7, data: [new Uint8Array([1]), { x: [new Uint8Array([2])] }] });
  for (const each of ['', '7', '42', '5["e"]', '51001-["e"]', '2{']) assert.throws(() => new PacketReader().text(each.replace(/^42$/, 'x')), SyntaxError, each);
});

test('pulse: an alarm in a process that has slept asks once more before it gives up', async () => {
  let pings = 0;
  let isDead = false;
  const now = Date.now;
  const pulse = new Pulse({ everyMs: 60_000, withinMs: 10, ping: () => (pings += 1), dead: () => (isDead = true) });
  pulse.check();
  Date.now = () => now() + 3_600_000;
  try {
    await until('it asked again', () => pings === 2);
    assert.equal(isDead, false);
    await until('it gave up', () => isDead);
    assert.equal(pings, 2);
    pulse.check();
    pulse.heard();
    await pause(30);
    assert.equal(pings, 3);
  } finally {
    Date.now = now;
    pulse.stop();
  }
});

test('siding: one at a time, with growing pauses, until it has had its time', async () => {
  const sent = [];
  const siding = new Siding({ send: ({ asked }) => sent.push([asked, performance.now()]), pauses: { delayMs: 20, delayMaxMs: 80, jitter: 0 }, forMs: 300 });
  const entries = [1, 2, 3].map((asked) => ({ asked }));
  assert.equal(siding.take(entries[2]), false, 'nobody is there to be overtaken');
  const from = performance.now();
  assert.equal(siding.refused(entries[1]), true);
  assert.equal(siding.take(entries[2]), true);
  assert.equal(siding.refused(entries[0]), true, 'its refusal came later');
  let isKept = true;
  for (let turn = 1; isKept && turn < 20; turn += 1) {
    await until('it is repeated', () => sent.length === turn);
    isKept = siding.refused(entries[0]);
  }
  assert.ok(sent.every(([asked]) => asked === 1));
  const pauses = sent.map(([, at], index) => at - (index === 0 ? from : sent[index - 1][1]));
  for (const [index, least] of [20, 40, 80, 80].entries()) assert.ok(pauses[index] >= least - 2, `pause ${index} of ${pauses[index]} ms`);
  assert.ok(sent.at(-1)[1] - from >= 290, 'it has been repeated for long enough');
  const count = sent.length;
  siding.done(entries[0]);
  assert.equal(sent[count][0], 2, 'the next one at once');
  siding.done(entries[2]);
  siding.done(entries[1]);
  siding.refused({ asked: 4 });
  siding.stop();
  await pause(50);
  assert.equal(sent.length, count + 1);
});

test('sources: can be put together into one script', () => {
  const owners = new Map();
  const seen = [];
  const visit = (name, above) => {
    assert.ok(!above.includes(name), `${name} imports itself by way of ${above}`);
    if (seen.includes(name)) return;
    seen.push(name);
    const source = readFileSync(new URL(name, SOURCES), 'utf8');
    for (const line of source.split('\n').filter((each) => /^\s*(import|export)\b/.test(each))) {
      const [, imported] = /^(?:import|export) \{ [\w, ]+ \} from '\.\/([\w.]+)';$/.exec(line) ?? [];
      if (imported === undefined) assert.match(line, /^export (class|function|async function|const) \w+/, `${name}: ${line}`);
      else if (line.startsWith('export')) assert.equal(name, 'index.js');
      if (imported !== undefined) visit(imported, [...above, name]);
    }
    assert.doesNotMatch(source, /\bimport\(|\bimport\.meta|export default/, name);
    for (const [, declared] of source.matchAll(/^(?:export )?(?:async )?(?:class|function|const|let|var) (\w+)/gm)) {
      assert.ok(!owners.has(declared), `${declared} is in ${owners.get(declared)} and in ${name}`);
      owners.set(declared, name);
    }
    assert.ok(source.split('\n').length <= 400, `${name} is long`);
  };
  visit('index.js', []);
  assert.deepEqual([...seen].sort(), readdirSync(SOURCES).sort(), 'each is reached');
});
