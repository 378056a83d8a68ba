// Who is in a room and which users are here: asked on any node, and told to a room as users come and go.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { startPeer } from '../lib/peer.mjs';
import { ask, connect, inbox, MESSAGE_PACK, POLLING, WEBSOCKET } from '../lib/client.mjs';
import { until, WITHIN_MS } from '../lib/wait.mjs';

const CONFIG = `
[namespaces."/"]
presence = true
[namespaces."/quiet"]
`;

/** A lease that is over soon, with the fence and the pulse that go with it. */
const SHORT_LEASE = { cluster: { pulse_interval_ms: 100, fence_after_ms: 500 }, sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 } };

const REAPED_WITHIN_MS = 15_000;

async function processes(stage) {
  const redis = await startRedis(stage);
  const nodes = await Promise.all([1, 2].map(() => startTidegate(stage, { redis, config: CONFIG, settings: SHORT_LEASE })));
  return { redis, nodes, urls: nodes.map(({ url }) => url) };
}

async function oneProcess(stage) {
  const node = await startTidegate(stage, { nodes: 2, config: CONFIG });
  return { urls: node.urls };
}

/** A client that keeps what presence and `message` tell it, in one list. */
async function enter(stage, url, auth, options = WEBSOCKET) {
  const socket = await connect(stage, url, { auth, ...options });
  socket.told = inbox(socket, 'none');
  for (const event of ['presence_join', 'presence_leave', 'message']) socket.on(event, (payload) => socket.told.push([event, payload]));
  return socket;
}

/** The next thing told must be `event` about `user`. */
async function assertTold(socket, event, user, room = 'r', within = WITHIN_MS) {
  const [name, payload] = await socket.told.next(`${event} of ${user}`, within);
  assert.deepEqual([name, payload.user, payload.room], [event, user, room]);
  assert.deepEqual(Object.keys(payload).sort(), ['room', 'ts', 'user']);
  assert.ok(Math.abs(payload.ts - Date.now()) < 60_000, `${payload.ts} is a time in milliseconds`);
}

/** What was told before a message that is published now: nothing. */
async function assertNothingTold(publisher, members, room = 'r') {
  assert.equal((await ask(publisher, 'publish', { room, data: 'marker', echo: true })).ok, true);
  for (const member of members) assert.deepEqual(await member.told.next('the marker'), ['message', 'marker']);
}

const join = async (socket, room = 'r') => assert.deepEqual(await ask(socket, 'join', room), { ok: true });

/** The answer to `presence`, in an order of its own. */
async function present(socket, question) {
  const { ok, users, error } = await ask(socket, 'presence', question);
  assert.equal(ok, true, JSON.stringify(error));
  const sorted = users.map(({ user, devices, ...rest }) => ({ user, devices: [...devices].sort(), ...rest }));
  return sorted.sort((a, b) => (a.user < b.user ? -1 : 1));
}

for (const [name, build] of Object.entries({ 'two processes over Redis': processes, 'two nodes in one process': oneProcess })) {
  describe(`presence: ${name}`, { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
    test('a room hears of each user once, when the first device comes and when the last one goes', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const members = [await enter(stage, urls[0], { user: 'cat' }), await enter(stage, urls[1], { user: 'dan' }, POLLING), await enter(stage, urls[1], {}, MESSAGE_PACK)];
      await join(members[0]);
      await join(members[1]);
      await assertTold(members[0], 'presence_join', 'dan');
      await join(members[2]);
      await assertNothingTold(members[2], members);

      const phone = await enter(stage, urls[0], { user: 'ann', device: 'phone' });
      const tablet = await enter(stage, urls[1], { user: 'ann', device: 'tablet' });
      await join(phone);
      for (const member of members) await assertTold(member, 'presence_join', 'ann');
      await join(phone);
      await join(tablet);
      await join(phone, 'another room');
      await assertNothingTold(members[0], [...members, phone, tablet]);

      // One device leaves, comes again on the other node, is cut off: as long as another is there, nobody is told.
      await ask(phone, 'leave', 'r');
      await until('one device is left', async () => (await present(members[0], { room: 'r' })).find(({ user }) => user === 'ann').devices.length === 1);
      await join(phone);
      tablet.io.engine.transport.ws.terminate();
      tablet.disconnect();
      await until('one device is left', async () => (await present(members[0], { room: 'r' })).find(({ user }) => user === 'ann').devices.length === 1);
      await assertNothingTold(members[0], [...members, phone]);
      phone.disconnect();
      for (const member of members) await assertTold(member, 'presence_leave', 'ann');
      await assertNothingTold(members[0], members);
    });

    test('presence { room } and presence { users } are the same on every node', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const anns = [await enter(stage, urls[0], { user: 'ann', device: 'phone' }), await enter(stage, urls[1], { user: 'ann', device: 'tablet' })];
      const [bob, nobody] = [await enter(stage, urls[1], { user: 'bob' }), await enter(stage, urls[0], {})];
      const askers = [anns[0], bob, nobody];
      const rooms = ['r', 'r%|{}#é😀', ' '];
      for (const room of rooms) {
        for (const asker of askers) assert.deepEqual(await present(asker, { room }), []);
        for (const socket of [...anns, bob, nobody]) await join(socket, room);
        const ann = { user: 'ann', devices: ['phone', 'tablet'] };
        for (const asker of askers) assert.deepEqual(await present(asker, { room }), [ann, { user: 'bob', devices: ['default'] }]);
      }
      const users = ['bob', 'ann', 'nobody', 'ann'];
      for (const asker of askers) assert.deepEqual((await present(asker, { users })).filter(({ devices }) => devices.length > 0), [{ user: 'ann', devices: ['phone', 'tablet'] }, { user: 'bob', devices: ['default'] }]);
      assert.deepEqual(await present(bob, { users: [] }), []);

      anns[0].disconnect();
      await ask(bob, 'leave', 'r');
      await until('both are seen to have gone', async () => {
        const there = await present(nobody, { room: 'r' });
        return there.length === 1 && there[0].user === 'ann' && there[0].devices.join() === 'tablet';
      });
      // A session's end is written down after the ends of its stays.
      await until('the phone is gone', async () => (await present(nobody, { users: ['ann'] }))[0].devices.join() === 'tablet');
      assert.deepEqual(await present(nobody, { users: ['bob'] }), [{ user: 'bob', devices: ['default'] }], 'here, if not in the room');
    });

    test('a user who is taken over leaves the room with the old session and comes with the new one', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const member = await enter(stage, urls[0], { user: 'cat' });
      await join(member);
      const old = await enter(stage, urls[0], { user: 'ann' });
      await join(old);
      await assertTold(member, 'presence_join', 'ann');
      const young = await enter(stage, urls[1], { user: 'ann' });
      await assertTold(member, 'presence_leave', 'ann');
      await join(young);
      await assertTold(member, 'presence_join', 'ann');
      await assertNothingTold(member, [member, young]);
      assert.deepEqual(await present(member, { room: 'r' }), [{ user: 'ann', devices: ['default'] }, { user: 'cat', devices: ['default'] }]);
    });

    test('where it is off: not_enabled, and nobody is told anything', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const [ann, bob] = [await enter(stage, `${urls[0]}/quiet`, { user: 'ann' }), await enter(stage, `${urls[1]}/quiet`, { user: 'bob' })];
      await join(ann);
      await join(bob);
      await ask(bob, 'leave', 'r');
      for (const question of [{ room: 'r' }, { users: ['ann'] }]) assert.equal((await ask(ann, 'presence', question)).error.code, 'not_enabled');
      await assertNothingTold(bob, [ann]);
    });

    test('bad questions', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const ann = await enter(stage, urls[0], { user: 'ann' });
      for (const question of [null, 'r', {}, { room: 1 }, { room: '' }, { users: 'ann' }, { users: [1] }, { room: 'r', users: ['ann'] }]) {
        assert.equal((await ask(ann, 'presence', question)).error?.code, 'bad_request', JSON.stringify(question));
      }
    });
  });
}

describe('presence', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('grants: join on the room, send to each of the users', async (t) => {
    const stage = stageOf(t);
    const secret = 'a-secret-of-at-least-thirty-two-bytes';
    const config = `[auth]\nmode = "jwt"\n[auth.jwt]\nsecret = "${secret}"\n${CONFIG}`;
    const { url } = await startTidegate(stage, { dev: false, config });
    const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const grants = { namespaces: ['/'], join: ['room:*'], send: ['ann', 'team-*'] };
    const text = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${encoded({ sub: 'ann', exp: Math.floor(Date.now() / 1_000) + 600, tidegate: grants })}`;
    const token = `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
    const ann = await connect(stage, url, { ...WEBSOCKET, auth: { token } });
    assert.deepEqual(await present(ann, { room: 'room:1' }), []);
    assert.deepEqual(await present(ann, { users: ['ann'] }), [{ user: 'ann', devices: ['default'] }]);
    assert.equal((await ask(ann, 'presence', { users: ['ann', 'team-1'] })).ok, true);
    for (const question of [{ room: 'other' }, { users: ['bob'] }, { users: ['ann', 'bob'] }]) {
      assert.equal((await ask(ann, 'presence', question)).error?.code, 'forbidden', JSON.stringify(question));
    }
  });

  test('a killed node: its users are gone once its lease is over, each announced once', async (t) => {
    const stage = stageOf(t);
    const { nodes, urls } = await processes(stage);
    const members = [await enter(stage, urls[0], { user: 'cat' }), await enter(stage, urls[0], { user: 'dan' }, POLLING)];
    await join(members[0]);
    await join(members[1]);
    await assertTold(members[0], 'presence_join', 'dan');
    const users = Array.from({ length: 20 }, (_, i) => `user ${String(i).padStart(2, '0')}`);
    for (const user of users) await join(await enter(stage, urls[1], { user }, { ...WEBSOCKET, reconnection: false }));
    // One who is on both nodes is not gone.
    await join(await enter(stage, urls[1], { user: 'cat', device: 'tablet' }, { ...WEBSOCKET, reconnection: false }));
    for (const member of members) for (const user of users) await assertTold(member, 'presence_join', user);
    await nodes[1].kill();
    for (const member of members) {
      const gone = [];
      for (let i = 0; i < users.length; i += 1) {
        const [event, { user }] = await member.told.next('a user is announced to have gone', REAPED_WITHIN_MS);
        assert.equal(event, 'presence_leave');
        gone.push(user);
      }
      assert.deepEqual(gone.sort(), users);
    }
    await until('nobody of the dead node is left', async () => (await present(members[0], { room: 'r' })).flatMap(({ devices }) => devices).length === 2);
    await assertNothingTold(members[0], members);
    assert.deepEqual((await present(members[1], { users: [...users, 'cat'] })).filter(({ devices }) => devices.length > 0), [{ user: 'cat', devices: ['default'] }]);
  });

  test('sockets of a Node peer hear of users, and are not users', async (t) => {
    const stage = stageOf(t);
    const { redis, urls } = await processes(stage);
    const peer = await startPeer(stage, redis);
    const guest = await enter(stage, peer.url, { user: 'guest' });
    await join(guest);
    const member = await enter(stage, urls[0], { user: 'cat' });
    await join(member);
    await until('the peer carries messages', async () => {
      await ask(member, 'publish', { room: 'r', data: 'warm' });
      return guest.told.drain().some(([, data]) => data === 'warm');
    });
    const ann = await enter(stage, urls[1], { user: 'ann' });
    await join(ann);
    for (const socket of [guest, member]) {
      await until('ann is announced', async () => (await socket.told.next())[0] === 'presence_join');
    }
    assert.deepEqual((await present(ann, { room: 'r' })).map(({ user }) => user), ['ann', 'cat']);
    guest.disconnect();
    ann.disconnect();
    await assertTold(member, 'presence_leave', 'ann');
    await assertNothingTold(member, [member]);
  });
});
