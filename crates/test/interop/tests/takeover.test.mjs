// A user who is there twice: which session stays, what the other one is told, and that it does not come back.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { ask, client, connect, connected, inbox, MESSAGE_PACK, POLLING, refused, WEBSOCKET } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';

/** A namespace for each policy. */
const CONFIG = `
[namespaces."/"]
[namespaces."/other"]
[namespaces."/single"]
sessions.policy = "single"
[namespaces."/two"]
sessions.policy = "max:2"
[namespaces."/any"]
sessions.policy = "unlimited"
[namespaces."/keep"]
sessions.on_duplicate = "reject"
[namespaces."/keep-two"]
sessions.policy = "max:2"
sessions.on_duplicate = "reject"
`;

const RACERS = 100;

/** Far beyond the fence and everything else a take-over waits for. */
const SETTLED_WITHIN_MS = 20_000;

const idOf = (node, index) => node.ready.find((line) => JSON.stringify(line).includes(`:${node.ports[index]}"`)).node;

async function processes(stage) {
  const redis = await startRedis(stage);
  const nodes = await Promise.all([startTidegate(stage, { redis, config: CONFIG }), startTidegate(stage, { redis, config: CONFIG })]);
  return { redis, urls: nodes.map(({ url }) => url), admins: nodes.map(({ admin }) => admin), ids: nodes.map((node) => idOf(node, 0)), nodes };
}

async function oneProcess(stage) {
  const node = await startTidegate(stage, { nodes: 2, config: CONFIG });
  return { urls: node.urls, admins: node.admins, ids: [idOf(node, 0), idOf(node, 1)] };
}

/** Everything that tells of a client's end, from its creation on. */
function watched(socket) {
  const seen = { evicted: inbox(socket, 'evicted'), disconnected: inbox(socket, 'disconnect'), connects: 0 };
  socket.on('connect', () => (seen.connects += 1));
  return Object.assign(socket, { seen });
}

const enter = async (stage, url, auth, options = {}) => connected(watched(client(stage, url, { auth, ...options })), SETTLED_WITHIN_MS);

/** Waits until `socket` was evicted, and checks how it learnt of it. Returns the event's payload. */
async function assertEvicted(socket) {
  const [payload] = await socket.seen.evicted.next('evicted');
  const [reason] = await socket.seen.disconnected.next('disconnect');
  assert.equal(reason, 'io server disconnect');
  assert.equal(socket.connected, false);
  assert.equal(socket.active, false, 'it does not try to come back');
  assert.equal(socket.seen.evicted.waiting, 0, 'it was told once');
  return payload;
}

async function assertStays(socket) {
  assert.equal((await ask(socket, 'heartbeat')).ok, true);
  assert.equal(socket.seen.evicted.waiting + socket.seen.disconnected.waiting, 0);
}

const KINDS = { 'a default client': {}, polling: POLLING, websocket: WEBSOCKET, MessagePack: MESSAGE_PACK };

for (const [name, build] of Object.entries({ 'two processes over Redis': processes, 'two nodes in one process': oneProcess })) {
  describe(`take-over: ${name}`, { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
    test('one session a device: the newest wins, on the other node too; the old one is told by whom and stays away', async (t) => {
      const stage = stageOf(t);
      const { urls, ids } = await build(stage);
      for (const [kind, options] of Object.entries(KINDS)) {
        const auth = { user: `ann by ${kind}`, device: 'phone' };
        const [old, tablet] = [await enter(stage, urls[0], auth, options), await enter(stage, urls[0], { ...auth, device: 'tablet' })];
        const heard = inbox(old);
        await ask(old, 'join', kind);
        const before = Date.now();
        const young = await enter(stage, urls[1], auth, options);
        const after = Date.now();
        // The newcomer was answered: what is published from now on is not for the old one.
        await ask(young, 'join', kind);
        await ask(young, 'publish', { room: kind, data: 'for members' });
        const { reason, by } = await assertEvicted(old);
        assert.equal(reason, 'replaced', kind);
        assert.deepEqual({ ...by, ts: 0 }, { device: 'phone', node: ids[1], ts: 0 });
        assert.ok(before <= by.ts && by.ts <= after, `${before} <= ${by.ts} <= ${after}`);
        await assertStays(young);
        await assertStays(tablet);
        assert.equal(heard.waiting, 0);
        // And back again on the node of the first, where everything of it is gone.
        const third = await enter(stage, urls[0], auth, options);
        assert.equal((await assertEvicted(young)).by.node, ids[0]);
        await ask(third, 'join', kind);
        await assertStays(third);
      }
    });

    test('on one and the same node', async (t) => {
      const stage = stageOf(t);
      const { urls, ids } = await build(stage);
      const old = await enter(stage, urls[0], { user: 'ann' });
      const young = await enter(stage, urls[0], { user: 'ann' });
      const { reason, by } = await assertEvicted(old);
      assert.equal(reason, 'replaced');
      assert.equal(by.device, 'default', 'what no device means');
      assert.equal(by.node, ids[0]);
      await assertStays(young);
    });

    test('single, max:2 and unlimited count the devices of a user together', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const devices = ['phone', 'tablet', 'desk', 'phone'];
      const survivors = { '/single': 1, '/two': 2, '/any': 4 };
      for (const [namespace, left] of Object.entries(survivors)) {
        const sockets = [];
        for (const [i, device] of devices.entries()) sockets.push(await enter(stage, urls[i % 2] + namespace, { user: 'ann', device }));
        const gone = sockets.splice(0, devices.length - left);
        for (const [i, socket] of gone.entries()) {
          const { by } = await assertEvicted(socket);
          assert.equal(by.device, devices[i + left], `${namespace}: the oldest goes for whoever was one too many`);
        }
        for (const socket of sockets) await assertStays(socket);
      }
    });

    test('users, namespaces and clients without a user are kept apart', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const auths = [{ user: 'ann' }, { user: 'ANN' }, { user: 'ann ' }, { user: 'ann|' }, { user: '{ann}' }, { user: '%7Bann%7D' }, {}, {}, { device: 'phone' }, { device: 'phone' }];
      const sockets = [];
      for (const [i, auth] of auths.entries()) sockets.push(await enter(stage, urls[i % 2], auth));
      sockets.push(await enter(stage, `${urls[0]}/other`, { user: 'ann' }), await enter(stage, `${urls[1]}/single`, { user: 'ann' }));
      for (const socket of sockets) await assertStays(socket);
    });

    test('the transport stays for the other namespaces on it, which lose nothing', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      for (const options of [WEBSOCKET, POLLING]) {
        const old = await enter(stage, urls[0], { user: 'ann' }, options);
        const beside = watched(old.io.socket('/other', { auth: { user: 'ann' } }));
        await connected(beside);
        const heard = inbox(beside);
        await ask(beside, 'join', 'r');
        const { engine } = old.io;
        const young = await enter(stage, urls[1], { user: 'ann' }, options);
        await assertEvicted(old);
        assert.equal(engine.readyState, 'open');
        assert.equal(old.io.engine, engine);
        await assertStays(beside);
        const publisher = await connect(stage, `${urls[1]}/other`, options);
        await ask(publisher, 'publish', { room: 'r', data: 'beside' });
        assert.equal((await heard.next())[0], 'beside');
        await assertStays(young);
        // With its last namespace it goes.
        await enter(stage, `${urls[1]}/other`, { user: 'ann' }, options);
        await assertEvicted(beside);
        await until('the transport is closed', () => engine.readyState === 'closed');
      }
    });

    test('an evicted client comes back when it is told to, and then it is the newest', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const first = await enter(stage, urls[0], { user: 'ann' });
      const second = await enter(stage, urls[1], { user: 'ann' });
      await assertEvicted(first);
      first.connect();
      await connected(first);
      await assertEvicted(second);
      await assertStays(first);
    });

    test('two tabs with default options do not push each other out for ever', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const auth = { user: 'ann' };
      const quick = { reconnectionDelay: 10, reconnectionDelayMax: 20 };
      const tabs = [await enter(stage, urls[0], auth, quick), await enter(stage, urls[1], auth, quick)];
      await assertEvicted(tabs[0]);
      // Whatever would bring the first one back would do so within a few delays: so much later, the second is there.
      for (let i = 0; i < 20; i += 1) {
        await ask(tabs[1], 'heartbeat');
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await assertStays(tabs[1]);
      assert.equal(tabs[0].seen.connects, 1);
      assert.equal(tabs[1].seen.connects, 1);
    });

    test('reject: the newcomer is refused for as long as the first is there', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      for (const [namespace, holders] of [['/keep', 1], ['/keep-two', 2]]) {
        const held = [];
        for (let i = 0; i < holders; i += 1) held.push(await enter(stage, urls[i] + namespace, { user: 'ann', device: holders === 1 ? 'phone' : `${i}` }));
        for (const url of urls) {
          const failure = await refused(stage, url + namespace, { auth: { user: 'ann', device: 'phone' } });
          assert.equal(failure.data.code, 'duplicate_session');
        }
        for (const socket of held) await assertStays(socket);
        held[0].disconnect();
        await until('there is room for one', async () => {
          const socket = client(stage, urls[1] + namespace, { auth: { user: 'ann', device: 'phone' }, reconnection: false });
          return connected(socket).then(() => true, () => false);
        });
        for (const socket of held.slice(1)) await assertStays(socket);
      }
    });

    test(`${RACERS} racing logins of one user leave one`, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const options = [{}, POLLING, WEBSOCKET, WEBSOCKET, WEBSOCKET];
      const racers = Array.from({ length: RACERS }, (_, i) =>
        watched(client(stage, urls[i % 2], { auth: { user: 'ann' }, reconnection: false, ...options[i % options.length] })),
      );
      await Promise.all(racers.map((racer) => until('each is answered', () => racer.seen.connects === 1, SETTLED_WITHIN_MS)));
      await until('all but one are gone', () => racers.filter(({ connected: is }) => is).length <= 1, SETTLED_WITHIN_MS);
      const left = racers.filter(({ connected: is }) => is);
      assert.equal(left.length, 1);
      for (const racer of racers) if (racer !== left[0]) assert.equal((await assertEvicted(racer)).reason, 'replaced');
      await assertStays(left[0]);
    });

    test('kicked by the HTTP API: one device, or all of a user', async (t) => {
      const stage = stageOf(t);
      const { urls, admins } = await build(stage);
      const auth = { user: 'ann/o’neill' };
      const [phone, tablet, elsewhere] = [
        await enter(stage, urls[0], { ...auth, device: 'phone' }),
        await enter(stage, urls[1], { ...auth, device: 'tablet' }),
        await enter(stage, `${urls[0]}/other`, auth),
      ];
      const other = await enter(stage, urls[1], { user: 'bob' });
      const path = `/api/v1/users/${encodeURIComponent(auth.user)}/sessions`;
      const kick = async (query) => {
        const answer = await fetch(`${admins[1]}${path}${query}`, { method: 'DELETE' });
        assert.equal(answer.status, 200, await answer.clone().text());
        return (await answer.json()).evicted;
      };
      assert.equal(await kick('?device=phone'), 1);
      assert.deepEqual(await assertEvicted(phone), { reason: 'kicked' });
      await assertStays(tablet);
      assert.equal(await kick('?device=phone'), 0);
      const back = await enter(stage, urls[0], { ...auth, device: 'phone' });
      assert.equal(await kick(''), 2);
      for (const socket of [back, tablet]) assert.deepEqual(await assertEvicted(socket), { reason: 'kicked' });
      await assertStays(elsewhere);
      await assertStays(other);
    });
  });
}

test('reject: the sessions of a killed node are in nobody’s way once its lease is over', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage);
  const settings = { cluster: { pulse_interval_ms: 100, fence_after_ms: 500 }, sessions: { lease_ttl_ms: 4_000, lease_renew_ms: 500 } };
  const [dying, staying] = await Promise.all([1, 2].map(() => startTidegate(stage, { redis, config: CONFIG, settings })));
  await enter(stage, `${dying.url}/keep`, { user: 'ann' }, { reconnection: false });
  await dying.kill();
  const failure = await refused(stage, `${staying.url}/keep`, { auth: { user: 'ann' } });
  assert.equal(failure.data.code, 'duplicate_session');
  await until(
    'the place is free',
    async () => {
      const socket = client(stage, `${staying.url}/keep`, { auth: { user: 'ann' }, reconnection: false });
      return connected(socket).then(() => true, ({ data }) => assert.equal(data.code, 'duplicate_session'));
    },
    SETTLED_WITHIN_MS,
  );
});
