// What is left of nodes that died, and of a Redis that forgot everything: nothing, and everything.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { ask, connect, inbox, POLLING, upgraded, WEBSOCKET } from '../lib/client.mjs';
import { Visitor, visit } from '../lib/visitor.mjs';
import { pause, until } from '../lib/wait.mjs';

const CONFIG = '[namespaces."/"]\npresence = true\n';
const SETTINGS = { cluster: { pulse_interval_ms: 100, fence_after_ms: 800 }, sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 } };

const SESSIONS = 1_000;
const ROOMS = 50;

/** How long Redis stays frozen: for longer than the lease. */
const FROZEN_MS = 3_000;

const SETTLED_WITHIN_MS = 30_000;

const isReady = async (node) => (await node.status('/readyz')).status === 200;
const idOf = (node) => node.ready[0].node;
const start = (stage, redis, count, settings = SETTINGS) => Promise.all(Array.from({ length: count }, () => startTidegate(stage, { redis, config: CONFIG, settings })));

/** Everything in Redis, as text by key. */
async function dump(look) {
  const read = { hash: 'HGETALL', set: 'SMEMBERS', zset: 'ZRANGEBYSCORE', list: 'LRANGE', string: 'GET' };
  const found = new Map();
  for (const key of await look.keys('*')) {
    const kind = await look.type(key);
    const rest = kind === 'zset' ? ['-inf', '+inf'] : kind === 'list' ? ['0', '-1'] : [];
    if (kind !== 'none') found.set(key, JSON.stringify(await look.sendCommand([read[kind], key, ...rest])));
  }
  return found;
}

/** The keys that hold `word`, in their name or value. */
const naming = (dumped, word) => [...dumped].filter(([key, value]) => key.includes(word) || value.includes(word)).map(([key]) => key);

/** The presence events that a client is given, as `event user room`. */
function announcements(socket) {
  const told = [];
  for (const event of ['presence_join', 'presence_leave']) socket.on(event, ({ user, room }) => told.push(`${event} ${user} ${room}`));
  return told;
}

async function users(socket, room) {
  const answer = await ask(socket, 'presence', { room });
  assert.equal(answer.ok, true, JSON.stringify(answer));
  return answer.users.map(({ user }) => user).sort();
}

describe('a node that dies', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test(`with ${SESSIONS} sessions: one of the others clears up after it, and each user is announced to have gone once`, async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const look = await redis.client(stage);
    const [dying, ...staying] = await start(stage, redis, 3);
    const watchers = await Promise.all(staying.map(({ url }, i) => connect(stage, url, { ...WEBSOCKET, auth: { user: `watcher ${i}` } })));
    for (const watcher of watchers) await Promise.all(Array.from({ length: ROOMS }, (_, r) => ask(watcher, 'join', `room ${r}`)));
    const before = await dump(look);
    const told = watchers.map(announcements);
    const expected = Array.from({ length: SESSIONS }, (_, i) => `user ${i} room ${i % ROOMS}`);
    for (let i = 0; i < SESSIONS; i += 100) {
      const arrivals = Array.from({ length: 100 }, async (_, n) => {
        const visitor = await visit(stage, dying.url, { user: `user ${i + n}` }, { within: SETTLED_WITHIN_MS });
        assert.equal((await visitor.ask('join', `room ${(i + n) % ROOMS}`, SETTLED_WITHIN_MS)).ok, true);
      });
      await Promise.all(arrivals);
    }
    for (const each of told) await until('all are announced', () => each.length === SESSIONS, SETTLED_WITHIN_MS);
    assert.ok(naming(await dump(look), idOf(dying)).length > SESSIONS, 'there is something to clear up');

    await dying.kill();
    const killed = performance.now();
    for (const each of told) await until('all are announced to have gone', () => each.length >= 2 * SESSIONS, SETTLED_WITHIN_MS);
    const reaped = async (what) => (await Promise.all(staying.map((node) => node.metric('tidegate_reaped_total', { what })))).reduce((a, b) => a + b);
    await until('taken over', async () => (await reaped('nodes')) === 1, SETTLED_WITHIN_MS);
    t.diagnostic(`cleared up ${((performance.now() - killed) / 1_000).toFixed(1)} s after the kill, with a lease of ${SETTINGS.sessions.lease_ttl_ms / 1_000} s`);
    assert.equal(await reaped('sessions'), SESSIONS);

    // What is published now comes after every announcement.
    for (const [i, watcher] of watchers.entries()) {
      const heard = inbox(watcher);
      assert.equal((await ask(watchers[1 - i], 'publish', { room: 'room 0', data: 'marker' })).ok, true);
      await heard.next('the marker');
    }
    for (const each of told) {
      assert.deepEqual(each.filter((line) => line.startsWith('presence_join ')).map((line) => line.slice(14)).sort(), [...expected].sort());
      assert.deepEqual(each.filter((line) => line.startsWith('presence_leave ')).map((line) => line.slice(15)).sort(), [...expected].sort());
    }
    const after = await dump(look);
    assert.deepEqual([...after.keys()].filter((key) => !before.has(key)), []);
    assert.deepEqual(naming(after, idOf(dying)).filter((key) => key !== 'tidegate:nodes'), [], 'only the list of nodes remembers it');
    assert.equal(naming(after, 'user ').length, 0);
  });

  test('its users are let in elsewhere long before its lease ends', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const look = await redis.client(stage);
    const [dying, staying] = await start(stage, redis, 2, { sessions: { lease_ttl_ms: 60_000, lease_renew_ms: 500 } });
    await visit(stage, dying.url, { user: 'ann' });
    await dying.kill();
    const ann = await visit(stage, staying.url, { user: 'ann' }, { within: SETTLED_WITHIN_MS });
    assert.equal(await look.exists(`tidegate:{node:${idOf(dying)}}:lease`), 1);
    assert.equal((await ann.ask('heartbeat', null)).ok, true);
    const took = await staying.metric('tidegate_takeovers_total', { outcome: 'fenced' });
    assert.equal(took, 1, 'the dead node could not confirm');
  });

  test('the next process of its name serves its users, and nothing of the first is left', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const look = await redis.client(stage);
    const [watching] = await start(stage, redis, 1);
    const watcher = await connect(stage, watching.url, { ...WEBSOCKET, auth: { user: 'watcher' } });
    await ask(watcher, 'join', 'r');
    const first = await startTidegate(stage, { redis, config: CONFIG, settings: SETTINGS, nodeId: 'same' });
    for (const user of ['ann', 'bob']) await (await visit(stage, first.url, { user })).ask('join', 'r');
    await first.kill();
    const second = await startTidegate(stage, { redis, config: CONFIG, settings: SETTINGS, nodeId: 'same' });
    const ann = await visit(stage, second.url, { user: 'ann' }, { within: SETTLED_WITHIN_MS });
    assert.equal((await ann.ask('join', 'r')).ok, true);
    await until('bob has gone', async () => (await users(watcher, 'r')).join() === 'ann,watcher', SETTLED_WITHIN_MS);
    await until('nothing names bob', async () => naming(await dump(look), 'bob').length === 0, SETTLED_WITHIN_MS);
    assert.equal((await ann.ask('heartbeat', null)).ok, true);
  });
});

test('a node that stops in good order leaves nothing behind', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage);
  const look = await redis.client(stage);
  const [leaving, staying] = await start(stage, redis, 2);
  const watcher = await connect(stage, staying.url, { ...WEBSOCKET, auth: { user: 'watcher' } });
  await ask(watcher, 'join', 'r');
  const told = announcements(watcher);
  for (let i = 0; i < 20; i += 1) {
    const options = i % 2 === 0 ? WEBSOCKET : POLLING;
    const socket = await connect(stage, leaving.url, { ...options, reconnection: false, auth: { user: `user ${i}` } });
    await ask(socket, 'join', 'r');
  }
  await until('all are there', () => told.length === 20);
  leaving.signal('SIGTERM');
  assert.deepEqual(await leaving.exited(), { code: 0, signal: null });
  const after = await dump(look);
  assert.deepEqual(naming(after, idOf(leaving)), []);
  assert.deepEqual(naming(after, 'user '), []);
  await until('all are announced to have gone', () => told.length === 40);
  assert.equal(new Set(told).size, 40, 'each once');
});

describe('Redis', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  /** Two nodes, a watcher and some visitors on each, all in one room. */
  async function company(stage) {
    const redis = await startRedis(stage);
    const nodes = await start(stage, redis, 2);
    const found = { redis, nodes, watchers: [], visitors: [], drops: [], told: [] };
    for (const [i, { url }] of nodes.entries()) {
      const watcher = await connect(stage, url, { auth: { user: `watcher ${i}` } });
      await upgraded(watcher);
      await ask(watcher, 'join', 'r');
      watcher.on('disconnect', (reason) => found.drops.push(`watcher ${i}: ${reason}`));
      found.watchers.push(watcher);
      found.told.push(announcements(watcher));
      for (let n = 0; n < 45; n += 1) {
        const visitor = new Visitor(stage, url, { user: `user ${i} ${n}` });
        await visitor.connected;
        assert.equal((await visitor.ask('join', 'r')).ok, true);
        for (const event of ['disconnect', 'close']) visitor.on(event, () => found.drops.push(`user ${i} ${n}: ${event}`));
        found.visitors.push(visitor);
      }
    }
    found.engines = found.watchers.map(({ io }) => io.engine);
    found.users = await users(found.watchers[0], 'r');
    assert.equal(found.users.length, 92);
    // Joins are announced behind their answers: what is told from here on is what the test is about.
    const last = 'presence_join user 1 44 r';
    await until('the last to join was announced', () => found.told.every((told) => told.includes(last)));
    for (const told of found.told) told.length = 0;
    return found;
  }

  async function assertUnharmed({ redis, nodes, watchers, visitors, engines, told, drops, users: everybody }, stage) {
    for (const node of nodes) await until('readiness is green', () => isReady(node), SETTLED_WITHIN_MS);
    for (const watcher of watchers) assert.deepEqual(await users(watcher, 'r'), everybody);
    const answer = await ask(watchers[0], 'presence', { users: everybody });
    assert.deepEqual(answer.users.map(({ user }) => user).sort(), everybody);
    // Longer than any lease of before could have lasted: whoever was to be missed would be by now.
    await pause(SETTINGS.sessions.lease_ttl_ms + SETTINGS.sessions.lease_renew_ms);
    for (const visitor of visitors) assert.equal((await visitor.ask('heartbeat', null)).ok, true);
    assert.deepEqual(drops, [], 'nobody lost the connection');
    for (const [i, watcher] of watchers.entries()) assert.equal(watcher.io.engine, engines[i]);
    assert.deepEqual(told, [[], []], 'nobody was announced to have gone, or come');
    // And what is in Redis is what rules: whoever comes again takes the place.
    const look = await redis.client(stage);
    assert.equal((await look.keys('tidegate:*:sessions')).length, everybody.length);
    const displaced = new Promise((resolve) => visitors[0].once('event', (...told_) => resolve(told_)));
    await visit(stage, nodes[1].url, visitors[0].auth);
    const [event, { reason }] = await displaced;
    assert.deepEqual([event, reason], ['evicted', 'replaced']);
  }

  test('killed and started again, empty: every session and every stay is put back, and nobody notices', async (t) => {
    const stage = stageOf(t);
    const found = await company(stage);
    await found.redis.kill();
    for (const node of found.nodes) await until('readiness is red', async () => !(await isReady(node)));
    await found.redis.start();
    await assertUnharmed(found, stage);
    const restored = await Promise.all(found.nodes.map((node) => node.metric('tidegate_sessions_restored_total')));
    assert.equal(restored[0] + restored[1], found.users.length);
  });

  test('frozen for longer than the lease: nobody is taken for dead', async (t) => {
    const stage = stageOf(t);
    const found = await company(stage);
    found.redis.freeze();
    stage.defer(() => found.redis.thaw());
    await pause(FROZEN_MS);
    found.redis.thaw();
    await assertUnharmed(found, stage);
    for (const node of found.nodes) assert.equal(await node.metric('tidegate_reaped_total', { what: 'nodes' }), 0);
  });
});
