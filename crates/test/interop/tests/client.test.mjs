// The project's own JavaScript client in Node against the built binary: what its own tests show with servers that play a
// part, with the real one, which is killed, frozen and full.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import WebSocket from 'ws';
import { Fail, Socket } from '../../../client-js/src/index.js';
import { describe, test } from '../lib/test.mjs';
import { ask, connect, MESSAGE_PACK, WEBSOCKET } from '../lib/client.mjs';
import { openDoorway } from '../lib/doorway.mjs';
import { freePort } from '../lib/ports.mjs';
import { startRedis } from '../lib/redis.mjs';
import { serveOldProxy } from '../lib/site.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { Inbox, limited, pause, until, WITHIN_MS } from '../lib/wait.mjs';

const SECRET = 'a secret of more than thirty-two bytes, for this test only';
const BYTES = new Uint8Array([0, 1, 254, 255]);

function token(claims) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

/** A client that remembers: `connected` and `failed` resolve once, `messages` and `statuses` are queues. */
function client(stage, url, options = {}) {
  const messages = new Inbox();
  const statuses = [];
  let socket;
  const connected = new Inbox();
  const failed = new Promise((resolve) => {
    socket = new Socket(url, {
      WebSocket,
      success: (told) => connected.push(told),
      fail: resolve,
      onMessage: (message, acknowledge) => messages.push({ ...message, acknowledge }),
      onStatus: (status, detail) => statuses.push({ status, ...detail }),
      ...options,
    });
  });
  stage.defer(() => socket.close());
  return { socket, messages, statuses, connected: (within) => connected.next('connected', within), failed: (within = WITHIN_MS) => limited('the client gives up', failed, within) };
}

describe('the JavaScript client', { skip: TIDEGATE_ONLY }, () => {
  for (const transport of ['websocket', 'polling']) {
    test(`every operation over ${transport}, beside a client of Socket.IO`, async (t) => {
      const stage = stageOf(t);
      const { url } = await startTidegate(stage, { config: '[namespaces."/"]\npresence = true\n' });
      const { socket, messages, connected } = client(stage, url, { transport, auth: { user: 'ann' } });
      assert.deepEqual([(await connected()).transport, socket.status], [transport, 'connected']);
      const other = await connect(stage, url, { ...WEBSOCKET, auth: { user: 'bob' } });
      await socket.join('r');
      await ask(other, 'join', 'r');
      assert.equal((await messages.next()).event, 'presence_join');
      assert.deepEqual((await socket.presence({ room: 'r' })).users.map(({ user }) => user).sort(), ['ann', 'bob']);
      const heard = new Promise((resolve) => other.once('e', (...args) => resolve(args)));
      const { message } = await socket.publish('r', { text: 'héllo', bytes: BYTES }, { event: 'e' });
      const [data, meta] = await heard;
      assert.deepEqual([data, meta.id, meta.from], [{ text: 'héllo', bytes: Buffer.from(BYTES) }, message, 'ann']);
      await ask(other, 'publish', { room: 'r', event: 'back', data: [Buffer.from(BYTES), 1] });
      const back = await messages.next();
      assert.deepEqual([back.op, back.event, back.args, back.meta.from], ['event', 'back', [[BYTES, 1]], 'bob']);
      await ask(other, 'send', { to: 'ann', event: 'note', data: { bytes: Buffer.from(BYTES) } });
      await socket.online();
      const offline = await messages.next();
      assert.deepEqual([offline.op, offline.from, offline.data], ['offline', 'bob', { bytes: BYTES }]);
      assert.deepEqual((await messages.next()).count, 1);
      offline.acknowledge();
      assert.equal((await ask(other, 'send', { to: 'ann', data: 'live' })).status, 'live');
      const live = await messages.next();
      assert.deepEqual([live.args, live.meta.from], [['live'], 'bob']);
      live.acknowledge();
      assert.equal(typeof (await socket.heartbeat()).ts, 'number');
      await socket.online();
      assert.equal((await messages.next()).count, 0, 'both are settled');
      await assert.rejects(socket.emit('order', 1), { code: 'no_handler' });
      await assert.rejects(socket.join(''), { code: 'bad_request' });
      assert.equal((await socket.send('carl', 1)).status, 'stored');
      await socket.leave('r');
      assert.equal(socket.pending, 0);
    });
  }

  test('a killed server is come back to, with the rooms, the inbox and what was asked meanwhile', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const port = await freePort();
    const node = await startTidegate(stage, { redis, port });
    const other = await startTidegate(stage, { redis });
    const { socket, messages, statuses, connected } = client(stage, node.url, { auth: { user: 'ann' }, reconnect: { ...Socket.RECONNECT_PATIENT, attempts: 30, jitter: 0 } });
    await connected();
    await socket.join('r');
    await socket.online();
    assert.equal((await messages.next()).op, 'offline_end');
    await node.kill();
    await until('it waits', () => socket.status === 'waiting');
    assert.deepEqual([statuses.at(-1).attempt, statuses.at(-1).delayMs], [1, 1_000]);
    const bob = client(stage, other.url, { auth: { user: 'bob' } });
    await bob.socket.join('r');
    // The dead node's session is thought to be ready until its lease is over; the message waits all the same.
    assert.equal((await bob.socket.send('ann', 'missed')).ok, true);
    const asked = [socket.publish('r', 'while away'), socket.send('bob', 'kept')];
    await startTidegate(stage, { redis, port });
    assert.equal((await connected(30_000)).reconnected, true);
    for (const each of await Promise.all(asked)) assert.equal(each.ok, true);
    assert.deepEqual((await bob.messages.next()).args, ['while away']);
    const missed = await messages.next();
    assert.deepEqual([missed.op, missed.data], ['offline', 'missed']);
    missed.acknowledge();
    assert.equal((await messages.next()).count, 1);
    await bob.socket.publish('r', 'in the room again');
    assert.deepEqual((await messages.next()).args, ['in the room again']);
  });

  test('code 2 is said at once where reconnecting is not allowed, and after the last of three tries where it is', async (t) => {
    const stage = stageOf(t);
    const url = `http://127.0.0.1:${await freePort()}`;
    const once = client(stage, url, { allowReconnect: false });
    assert.equal((await once.failed()).code, Fail.UNREACHABLE);
    assert.deepEqual(once.statuses.map(({ status }) => status), ['connecting', 'closed']);
    const patient = client(stage, url);
    assert.equal((await patient.failed(15_000)).code, Fail.UNREACHABLE);
    const waits = patient.statuses.filter(({ status }) => status === 'waiting');
    assert.deepEqual(waits.map(({ attempt, delayMs }) => [attempt, delayMs]), [[1, 1_000], [2, 1_000], [3, 1_000]]);
  });

  test('code 3 for a bad token, and for one that expires', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { dev: false, config: `auth.jwt.secret = "${SECRET}"\n` });
    for (const transport of ['websocket', 'polling']) {
      const exp = Math.floor(Date.now() / 1_000) - 4;
      const bad = await client(stage, url, { transport, auth: { token: 'nonsense' } }).failed();
      assert.deepEqual([bad.code, bad.error.code], [Fail.REFUSED, 'unauthorized'], transport);
      const expiring = client(stage, url, { transport, auth: async () => ({ token: token({ sub: transport, exp: exp + 2 }) }) });
      await expiring.connected();
      assert.equal((await expiring.failed(10_000)).code, Fail.REFUSED, transport);
      assert.equal((await expiring.messages.next()).reason, 'expired');
    }
  });

  test('a token that expires is followed by a fresh one at once, where auth is a function', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { dev: false, config: `auth.jwt.secret = "${SECRET}"\n` });
    for (const transport of ['websocket', 'polling']) {
      const now = Math.floor(Date.now() / 1_000);
      const tidegate = { join: ['*'], publish: ['*'] };
      const tokens = [token({ sub: transport, exp: now - 2, tidegate }), token({ sub: transport, exp: now + 600, tidegate })];
      const { socket, messages, statuses, connected } = client(stage, url, { transport, auth: () => ({ token: tokens.shift() }) });
      await connected();
      await socket.join('r');
      assert.equal((await messages.next('the eviction', 10_000)).reason, 'expired', transport);
      assert.equal((await connected()).reconnected, true);
      assert.deepEqual(statuses.map(({ status }) => status), ['connecting', 'connected', 'connecting', 'connected']);
      await socket.publish('r', 1, { echo: true });
      assert.deepEqual((await messages.next()).args, [1], 'it is in its room');
      socket.close();
    }
  });

  test('code 4 for a server that stands still, unless it may come back', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const times = { heartbeatMs: 200, heartbeatTimeoutMs: 300 };
    const once = client(stage, node.url, { ...times, allowReconnect: false });
    const again = client(stage, node.url, { ...times, connectTimeoutMs: 400, reconnect: { attempts: 100, delayMs: 50, delayMaxMs: 50 } });
    for (const each of [once, again]) await each.connected();
    await node.freeze(stage);
    assert.equal((await once.failed()).code, Fail.HEARTBEAT);
    await until('the other one has tried', () => again.statuses.filter(({ status }) => status === 'waiting').length >= 2);
    node.thaw();
    assert.equal((await again.connected(20_000)).reconnected, true);
    assert.equal((await again.socket.heartbeat()).ok, true);
  });

  test('code 5 for who was displaced or kicked, on either transport, and nobody comes back', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    for (const transport of ['websocket', 'polling']) {
      const auth = { user: transport };
      const first = client(stage, node.url, { transport, auth });
      await first.connected();
      const second = client(stage, node.url, { transport, auth });
      await second.connected();
      const failure = await first.failed();
      assert.deepEqual([failure.code, failure.closeCode, (await first.messages.next()).reason], [Fail.CLOSED, 4409, 'replaced'], transport);
      await fetch(`${node.admin}/api/v1/users/${transport}/sessions`, { method: 'DELETE' });
      assert.deepEqual([(await second.failed()).code, (await second.messages.next()).reason], [Fail.CLOSED, 'kicked'], transport);
      await assert.rejects(second.socket.join('r'), { code: 'closed', fail: Fail.CLOSED });
    }
    await until('nobody is left', async () => (await node.metric('tidegate_sessions')) === 0 && (await node.metric('tidegate_connections')) === 0);
    assert.equal(await node.metric('tidegate_evictions_total'), 4);
  });

  test('who was displaced while its line was cut stays away when that is back', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const [a, b] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    for (const transport of ['websocket', 'polling']) {
      const doorway = await openDoorway(stage, a.port);
      const auth = { user: transport, device: 'laptop' };
      const options = { transport, heartbeatMs: 200, heartbeatTimeoutMs: 200, connectTimeoutMs: 1_000, reconnect: { attempts: Infinity, delayMs: 100, delayMaxMs: 100 } };
      const cut = client(stage, doorway.url, { auth, ...options });
      await cut.connected();
      // Its own session, which its node still has, is in nobody's way.
      doorway.cut();
      await until('it is lost', () => cut.socket.status === 'waiting');
      doorway.heal();
      assert.equal((await cut.connected()).reconnected, true, transport);
      doorway.cut();
      await until('it is lost again', () => cut.socket.status === 'waiting');
      const young = client(stage, b.url, { auth });
      await young.connected();
      doorway.heal();
      const failure = await cut.failed();
      assert.deepEqual([failure.code, failure.error.code], [Fail.CLOSED, 'duplicate_session'], transport);
      assert.equal((await young.socket.heartbeat()).ok, true);
      assert.equal(young.socket.status, 'connected');
    }
  });

  test('code 1000 for what the server takes for no message', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    const odd = client(stage, url, { auth: { user: 7 } });
    assert.equal((await odd.failed()).code, Fail.UNEXPECTED);
    const nowhere = client(stage, url, { namespace: `/${'x'.repeat(300)}` });
    const { code, closeCode } = await nowhere.failed();
    assert.deepEqual([code, closeCode], [Fail.UNEXPECTED, 4400]);
  });

  test('code 1 where there is no WebSocket, unless it may fall back', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    assert.equal((await client(stage, url, { WebSocket: null }).failed()).code, Fail.UNSUPPORTED);
    const fallen = client(stage, url, { WebSocket: null, allowReconnect: false });
    assert.equal((await fallen.connected()).transport, 'polling');
  });

  test('a proxy without WebSockets: polling at once, or with the first failed try if it is to be so', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const proxy = await serveOldProxy(stage, node.url);
    for (const options of [{ allowReconnect: false }, { fallback: 'always' }]) {
      const fallen = client(stage, proxy, { auth: { user: 'ann' }, ...options });
      assert.equal((await fallen.connected()).transport, 'polling');
      assert.equal((await fallen.socket.join('r')).ok, true);
      assert.deepEqual(fallen.statuses.map(({ status }) => status), ['connecting', 'connected']);
      fallen.socket.close();
      await until('the server knows', async () => (await node.metric('tidegate_connections')) === 0);
    }
    const strict = client(stage, proxy, { allowReconnect: false, fallback: false });
    assert.equal((await strict.failed()).code, Fail.UNREACHABLE);
  });

  test('a drained node is left, and come back to', async (t) => {
    const stage = stageOf(t);
    const port = await freePort();
    const node = await startTidegate(stage, { port });
    const { socket, statuses, connected } = client(stage, node.url, { reconnect: { attempts: 20 } });
    await connected();
    await socket.join('r');
    await node.stop();
    await until('it waits', () => statuses.some(({ status, reason }) => status === 'waiting' && /draining/.test(reason)));
    await startTidegate(stage, { port });
    assert.equal((await connected(20_000)).reconnected, true);
  });

  for (const standstillMs of [0, 1_500]) {
    test(`a heartbeat lost over polling leaves no connection at a server that stands still, ${standstillMs} ms longer`, async (t) => {
      const stage = stageOf(t);
      // A goodbye is said for a second. Of a server that wakes later than that, its own pings find out the rest.
      const engine = standstillMs > 0 ? { ping_interval_ms: 1_000, ping_timeout_ms: 1_000 } : {};
      const node = await startTidegate(stage, { settings: { engine } });
      const times = { transport: 'polling', heartbeatMs: 200, heartbeatTimeoutMs: 300 };
      const once = client(stage, node.url, { ...times, allowReconnect: false });
      // Not while it stands still: whoever it lets in afterwards may be gone by then.
      const again = client(stage, node.url, { ...times, reconnect: { delayMs: standstillMs + 1_000 } });
      for (const each of [once, again]) await each.connected();
      await node.freeze(stage);
      assert.equal((await once.failed()).code, Fail.HEARTBEAT);
      await until('the other one waits', () => again.statuses.some(({ status }) => status === 'waiting'));
      await pause(standstillMs);
      node.thaw();
      await again.connected(20_000);
      await until('only the new connection is left', async () => (await node.metric('tidegate_connections')) === 1);
      again.socket.close();
      await until('none is left', async () => (await node.metric('tidegate_connections')) === 0);
    });
  }

  test('close() at any moment of a handshake over polling leaves no connection', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    for (let round = 0; round < 20; round += 1) {
      const { socket } = client(stage, node.url, { transport: 'polling' });
      await pause(round / 2);
      socket.close();
    }
    await pause(200);
    await until('none is left', async () => (await node.metric('tidegate_connections')) === 0);
  });

  test('whoever publishes what looks like a placeholder throws nobody out', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    const polling = client(stage, url, { transport: 'polling', auth: { user: 'ann' } });
    await polling.connected();
    await polling.socket.join('r');
    const forger = await connect(stage, url, { ...WEBSOCKET, ...MESSAGE_PACK });
    const forged = { bytes: Buffer.from(BYTES), odd: { _placeholder: true, num: 99 } };
    const { ok, error } = await ask(forger, 'publish', { room: 'r', event: 'odd', data: forged });
    if (ok) assert.deepEqual((await polling.messages.next()).args, [{ bytes: BYTES, odd: forged.odd }]);
    else assert.equal(error.code, 'bad_request');
    const other = await connect(stage, url, WEBSOCKET);
    await ask(other, 'publish', { room: 'r', event: 'later', data: 1 });
    assert.deepEqual((await polling.messages.next()).args, [1]);
    assert.deepEqual(polling.statuses.map(({ status }) => status), ['connecting', 'connected']);
  });

  test('after close() the server has no connection of it and the process no timer', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const before = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    for (const transport of ['websocket', 'polling']) {
      const { socket, connected } = client(stage, node.url, { transport });
      await connected();
      await socket.join('r');
      socket.close();
      await assert.rejects(socket.join('r'), { code: 'closed' });
    }
    await until('both are gone', async () => (await node.metric('tidegate_connections')) === 0);
    await until('no timer is left', () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length <= before + 1);
  });

  test('a flood of requests under a rate limit is answered in full', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { settings: { limits: { events_per_second_max: 200, events_burst: 400 } } });
    const { socket, connected } = client(stage, url, { auth: { user: 'ann' } });
    // All of them before it is connected, and so waiting.
    const asked = Array.from({ length: 600 }, (_, n) => socket.publish('r', n));
    await connected();
    const answers = await limited('all are answered', Promise.all(asked), 20_000);
    assert.ok(answers.every(({ ok }) => ok));
  });
});
