// Clients that are late, greedy or careless: each loses what is its own fault, and nothing else.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';

import { test } from '../lib/test.mjs';
import { connect, WEBSOCKET } from '../lib/client.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { until } from '../lib/wait.mjs';
import { answers, connectFrames, openFrames, Polling, SEPARATOR } from '../lib/wire.mjs';

const OPTIONS = { skip: TIDEGATE_ONLY };
const SECRET = 'a secret of more than thirty-two bytes, for this test only';

function token(claims) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

test('what was on its way to an expired namespace costs nobody the transport', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const namespaces = '[namespaces."/"]\n[namespaces."/b"]\n';
  const subject = await startTidegate(stage, { dev: false, config: `auth.jwt.secret = "${SECRET}"\n${namespaces}` });
  const now = Math.floor(Date.now() / 1000);
  const grants = { sub: 'ann', tidegate: { namespaces: ['*'] } };
  const frames = await openFrames(stage, subject.url);
  frames.send(`40/b,${JSON.stringify({ token: token({ ...grants, exp: now + 600 }) })}`);
  assert.match(await frames.next(), /^40\/b,/);
  frames.send(`40${JSON.stringify({ token: token({ ...grants, exp: now - 2 }) })}`);
  assert.match(await frames.next(), /^40\{/);
  assert.equal(await frames.next('evicted', 8_000), '42["evicted",{"reason":"expired"}]');
  assert.equal(await frames.next(), '41');
  // Sent, as it were, before the client heard.
  frames.send('420["heartbeat"]');
  frames.send('430[]');
  frames.send('41');
  frames.send('42/b,1["heartbeat"]');
  assert.match(await frames.next('the answer in the other namespace'), /^43\/b,1\[\{"ok":true/);
});

test('a prompt pong is followed by the next ping after one interval, not after the timeout', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const subject = await startTidegate(stage, { settings: { engine: { ping_interval_ms: 200, ping_timeout_ms: 10_000 } } });
  const frames = await connectFrames(stage, subject.url);
  for (let i = 0; i < 4; i += 1) {
    assert.equal(await frames.next('a ping', 5_000), '2');
    frames.send('3');
  }
});

test('a violation in the middle of a POST is answered at once', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const subject = await startTidegate(stage);
  const session = await Polling.connect(subject.url);
  const { status } = await session.post(['3', '42/not-joined,["x"]', '3', '3'].join(SEPARATOR), { within: 5_000 });
  assert.equal(status, 200);
  assert.equal((await session.poll()).body, `6${SEPARATOR}1`);
});

test('a connection has at most 64 namespaces', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const subject = await startTidegate(stage);
  const frames = await openFrames(stage, subject.url);
  for (let i = 0; i < 64; i += 1) {
    frames.send(`40/n${i},`);
    assert.match(await frames.next(), /^40\/n/);
  }
  frames.send('40/one-more,');
  assert.match(await frames.next(), /^44\/one-more,\{"message":".*64.*","data":\{"code":"too_large"\}\}$/);
  frames.send('42/n7,7["heartbeat"]');
  assert.match(await frames.next(), /^43\/n7,7\[\{"ok":true/);
});

test('a drain that its pace would outlast ends in time, and tells every client', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const settings = { drain: { timeout_ms: 2_000, connections_per_second: 2 } };
  const subject = await startTidegate(stage, { settings });
  const sockets = await Promise.all(Array.from({ length: 20 }, () => connect(stage, subject.url, { ...WEBSOCKET, reconnection: false })));
  const reasons = [];
  for (const socket of sockets) socket.on('disconnect', (reason) => reasons.push(reason));
  subject.signal('SIGTERM');
  assert.deepEqual(await subject.exited(4_500), { code: 0, signal: null });
  await until('all are told', () => reasons.length === sockets.length);
  assert.deepEqual(new Set(reasons), new Set(['transport close']));
  assert.match(subject.log, /"finished":true/);
  assert.match(subject.log, /drain\.connections_per_second is too slow for drain\.timeout_ms/);
});

test('many answers to one burst arrive whole and in order', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const subject = await startTidegate(stage);
  const frames = await connectFrames(stage, subject.url);
  for (let i = 0; i < 1_000; i += 1) frames.send(`42${i}["heartbeat"]`);
  for (let i = 0; i < 1_000; i += 1) assert.ok((await frames.next()).startsWith(`43${i}[`), `answer ${i}`);
  assert.ok(await answers(frames));
});
