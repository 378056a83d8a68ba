// What breaks around a node: Redis dies, freezes, comes back; nodes are told to go or are killed.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { startPeer } from '../lib/peer.mjs';
import { openDoorway } from '../lib/doorway.mjs';
import { ask, client, connect, inbox, once, POLLING, upgraded, WEBSOCKET } from '../lib/client.mjs';
import { address, openFrames, Polling, request } from '../lib/wire.mjs';
import { until } from '../lib/wait.mjs';

const QUICK = { reconnectionDelay: 50, reconnectionDelayMax: 200 };

/** How long a node may take to be ready again once Redis is back: its backoff and a pulse. */
const RECOVERY_MS = 15_000;

const isReady = async (node) => (await node.status('/readyz')).status === 200;

async function assertUnready(node) {
  const { status, body } = await node.status('/readyz');
  assert.equal(status, 503);
  const { reasons } = JSON.parse(body);
  assert.ok(Array.isArray(reasons) && reasons.length > 0, body);
}

describe('redis', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('kill -9 and restart: readiness tells, acknowledged means delivered, traffic flows again', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const nodes = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    const publisher = await connect(stage, nodes[0].url, WEBSOCKET);
    const member = await connect(stage, nodes[1].url, WEBSOCKET);
    const poller = await connect(stage, nodes[1].url, POLLING);
    let drops = 0;
    for (const socket of [publisher, member, poller]) socket.on('disconnect', () => (drops += 1));
    const inboxes = [inbox(member), inbox(poller)];
    await Promise.all([ask(member, 'join', 'r'), ask(poller, 'join', 'r')]);
    await ask(publisher, 'publish', { room: 'r', data: 'before' });
    for (const heard of inboxes) assert.equal((await heard.next())[0], 'before');
    assert.ok(await isReady(nodes[0]));

    await redis.kill();
    for (const node of nodes) await until('readiness is red', async () => !(await isReady(node)));
    await assertUnready(nodes[0]);
    assert.equal((await nodes[0].status('/healthz')).status, 200, 'the process itself lives');
    assert.equal((await request(address(nodes[0].url, { transport: 'polling' }))).status, 503, 'no newcomers while deaf');
    assert.equal((await ask(publisher, 'heartbeat')).ok, true);
    const outage = await Promise.all([1, 2, 3].map((i) => ask(publisher, 'publish', { room: 'r', data: `outage ${i}` })));
    for (const ack of outage) if (!ack.ok) assert.equal(ack.error.code, 'unavailable', ack.error.message);
    const joining = await ask(publisher, 'join', 'during the outage');
    if (!joining.ok) assert.equal(joining.error.code, 'unavailable');

    await redis.start();
    for (const node of nodes) await until('readiness is green', () => isReady(node), RECOVERY_MS);
    assert.deepEqual(await ask(publisher, 'publish', { room: 'r', data: 'after' }).then(({ ok }) => ok), true);
    for (const heard of inboxes) {
      const got = [];
      while (got.at(-1) !== 'after') got.push((await heard.next())[0]);
      const promised = outage.flatMap((ack, i) => (ack.ok ? [`outage ${i + 1}`] : []));
      for (const each of promised) assert.ok(got.includes(each), `${each} was acknowledged`);
      assert.equal(new Set(got).size, got.length, 'nothing came twice');
    }
    assert.equal(drops, 0, 'nobody lost the connection');
    const look = await redis.client(stage);
    assert.ok((await look.sendCommand(['PUBSUB', 'CHANNELS'])).includes('socket.io#/#r#'));
  });

  test('publishes held until Redis is back are sent only once they will be delivered', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis, settings: { redis: { command_timeout_ms: 10_000 } } });
    const publisher = await connect(stage, node.url, WEBSOCKET);
    const member = await connect(stage, node.url, WEBSOCKET);
    const heard = inbox(member);
    await ask(member, 'join', 'r');
    // The command connection and the subscription come back in either order: several rounds see both.
    for (let round = 0; round < 5; round += 1) {
      await redis.kill();
      await until('readiness is red', async () => !(await isReady(node)));
      const acks = Array.from({ length: 20 }, (_, i) => publisher.timeout(RECOVERY_MS).emitWithAck('publish', { room: 'r', data: [round, i] }));
      await redis.start();
      const settled = await Promise.all(acks);
      assert.deepEqual(settled.map(({ ok }) => ok), settled.map(() => true));
      for (let i = 0; i < 20; i += 1) assert.deepEqual((await heard.next(`round ${round}, message ${i}, which was acknowledged`))[0], [round, i]);
      await until('readiness is green', () => isReady(node), RECOVERY_MS);
    }
  });

  test('a frozen server: deaf nodes say so and recover when it thaws', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis });
    const publisher = await connect(stage, node.url, WEBSOCKET);
    const heard = inbox(publisher);
    await ask(publisher, 'join', 'r');
    redis.freeze();
    stage.defer(() => redis.thaw());
    await until('readiness is red', async () => !(await isReady(node)));
    const ack = await ask(publisher, 'publish', { room: 'r', data: 'frozen', echo: true });
    if (!ack.ok) assert.equal(ack.error.code, 'unavailable');
    redis.thaw();
    await until('readiness is green', () => isReady(node), RECOVERY_MS);
    await ask(publisher, 'publish', { room: 'r', data: 'thawed', echo: true });
    await until('traffic flows', async () => (await heard.next())[0] === 'thawed');
  });

  test('its clients are cut off (CLIENT KILL): the subscriptions come back by themselves', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis });
    const publisher = await connect(stage, node.url, WEBSOCKET);
    const member = await connect(stage, node.url, WEBSOCKET);
    const heard = inbox(member);
    await ask(member, 'join', 'r');
    const look = await redis.client(stage);
    for (const kind of ['pubsub', 'normal']) {
      await look.sendCommand(['CLIENT', 'KILL', 'TYPE', kind, 'SKIPME', 'yes']);
      await until('subscribed again', async () => (await look.sendCommand(['PUBSUB', 'CHANNELS'])).includes('socket.io#/#r#'), RECOVERY_MS);
      await until('readiness is green', () => isReady(node), RECOVERY_MS);
      await until(
        'a message arrives',
        async () => {
          await ask(publisher, 'publish', { room: 'r', data: kind });
          return heard.drain().some(([data]) => data === kind);
        },
        RECOVERY_MS,
      );
    }
  });

  test('a Node peer sees nothing odd after the node and Redis were both away', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const first = await startTidegate(stage, { redis });
    await connect(stage, first.url, WEBSOCKET);
    await first.kill();
    const peer = await startPeer(stage, redis);
    const second = await startTidegate(stage, { redis });
    const [guest, member] = [await connect(stage, peer.url, WEBSOCKET), await connect(stage, second.url, WEBSOCKET)];
    const heard = inbox(guest);
    await ask(guest, 'join', 'r');
    await ask(member, 'publish', { room: 'r', data: 'hello' });
    assert.equal((await heard.next())[0], 'hello');
  });
});

describe('nodes', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('SIGTERM: red at once, clients see transport close and come back on the other node, exit 0', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const drain = { drain: { timeout_ms: 3_000 } };
    const [leaving, staying] = await Promise.all([startTidegate(stage, { redis, settings: drain }), startTidegate(stage, { redis })]);
    const doorway = await openDoorway(stage, leaving.port);
    const sockets = await Promise.all([{}, POLLING, WEBSOCKET].map((options) => connect(stage, doorway.url, { ...options, ...QUICK })));
    await upgraded(sockets[0]);
    const publisher = await connect(stage, staying.url, WEBSOCKET);
    const nodeOf = async (socket) => {
      const arrived = once(socket, 'where');
      await ask(socket, 'publish', { room: 'where', event: 'where', data: 0, echo: true });
      return (await arrived)[1].node;
    };
    await Promise.all(sockets.map((socket) => ask(socket, 'join', 'where')));
    const before = await nodeOf(sockets[0]);
    const reasons = sockets.map((socket) => once(socket, 'disconnect', 10_000));

    leaving.signal('SIGTERM');
    await until('readiness is red', async () => (await leaving.status('/readyz').catch(() => ({ status: 503 }))).status === 503);
    for (const [i, [reason]] of (await Promise.all(reasons)).entries()) assert.equal(reason, 'transport close', `client ${i}`);
    // Only now: a poll that went to the other node would be told that its session is unknown.
    doorway.target = staying.port;
    assert.deepEqual(await leaving.exited(), { code: 0, signal: null });
    for (const socket of sockets) {
      await until('back by itself', () => socket.connected, 10_000);
      await ask(socket, 'join', 'where');
    }
    assert.notEqual(await nodeOf(sockets[0]), before);
    const inboxes = sockets.map((socket) => inbox(socket));
    await ask(publisher, 'publish', { room: 'where', data: 'welcome' });
    for (const heard of inboxes) assert.equal((await heard.next())[0], 'welcome');
  });

  test('SIGTERM with a poll pending and with a session that never joined', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    const session = await Polling.connect(subject.url);
    await openFrames(stage, subject.url);
    const pending = session.poll({ within: 10_000 }).catch(() => ({ status: 0 }));
    subject.signal('SIGTERM');
    const { status } = await pending;
    assert.ok([0, 200, 400, 503].includes(status), `${status}`);
    assert.deepEqual(await subject.exited(), { code: 0, signal: null });
  });

  test('SIGTERM between two polls: the next poll still learns of the end', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { settings: { drain: { timeout_ms: 4_000 } } });
    const session = await Polling.connect(subject.url);
    subject.signal('SIGTERM');
    await until('the session was told to go', async () => (await subject.status('/readyz')).status === 503);
    const { status, body } = await session.poll();
    assert.equal(status, 200);
    assert.match(body, /(^|\x1e)1$/);
    assert.deepEqual(await subject.exited(), { code: 0, signal: null });
  });

  test('SIGTERM before an answer was fetched: it comes alone, for clients forget what they wait for at the close', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { settings: { drain: { timeout_ms: 4_000 } } });
    const session = await Polling.connect(subject.url);
    await session.post('421["heartbeat"]');
    subject.signal('SIGTERM');
    await until('its session is over', async () => (await subject.metric('tidegate_sessions')) === 0);
    assert.match((await session.poll()).body, /^431\[\{"ok":true[^\x1e]*$/);
    assert.match((await session.poll()).body, /(^|\x1e)1$/);
    assert.deepEqual(await subject.exited(), { code: 0, signal: null });
  });

  test('while it drains a node takes no newcomers', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { settings: { drain: { timeout_ms: 4_000 } } });
    await Promise.all(Array.from({ length: 8 }, () => connect(stage, subject.url, { ...WEBSOCKET, reconnection: false })));
    subject.signal('SIGTERM');
    await until('readiness is red', async () => (await subject.status('/readyz')).status === 503);
    const answer = await request(address(subject.url, { transport: 'polling' })).catch((failure) => ({ status: failure.code }));
    assert.ok([503, 'ECONNREFUSED', 'ECONNRESET'].includes(answer.status), `${answer.status}`);
    assert.deepEqual(await subject.exited(), { code: 0, signal: null });
  });

  test('a second signal ends it at once', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { settings: { drain: { timeout_ms: 60_000 } } });
    await Promise.all(Array.from({ length: 4 }, () => connect(stage, subject.url, { ...WEBSOCKET, reconnection: false })));
    subject.signal('SIGTERM');
    await until('readiness is red', async () => (await subject.status('/readyz')).status === 503);
    subject.signal('SIGINT');
    await subject.exited(3_000);
  });

  test('kill -9: clients come back elsewhere, and the dead node’s rooms are no burden', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const [dying, staying] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    const doorway = await openDoorway(stage, dying.port);
    const socket = client(stage, doorway.url, QUICK);
    await until('connected', () => socket.connected);
    await ask(socket, 'join', 'r');
    const publisher = await connect(stage, staying.url, WEBSOCKET);
    const gone = once(socket, 'disconnect');
    doorway.target = staying.port;
    await dying.kill();
    assert.ok(['transport close', 'transport error'].includes((await gone)[0]));
    await until('back by itself', () => socket.connected, 10_000);
    const heard = inbox(socket);
    await ask(socket, 'join', 'r');
    await ask(publisher, 'publish', { room: 'r', data: 'again' });
    assert.equal((await heard.next())[0], 'again');
  });
});

describe('a drain while Redis takes its time', { skip: TIDEGATE_ONLY }, () => {
  const COMMANDS = { publish: { room: 'r', data: 1 }, broadcast: { data: 1 }, join: 's', send: { to: 'bob', data: 1 }, online: {}, presence: { room: 'r' } };

  test('each client hears what became of what it began, and then comes back elsewhere', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const config = 'auth.mode = "none"\n[namespaces."/"]\npresence = true\n';
    const subject = await startTidegate(stage, { dev: false, config, redis, settings: { cluster: { fence_after_ms: 5_000 }, sessions: { lease_ttl_ms: 10_000 } } });
    const sockets = [];
    for (const [i, event] of Object.keys(COMMANDS).entries()) {
      for (const transport of [WEBSOCKET, POLLING]) {
        const socket = await connect(stage, subject.url, { ...transport, reconnection: false, auth: { user: `ann-${i}`, device: transport.transports[0] } });
        sockets.push({ event, socket, ended: once(socket, 'disconnect', 15_000) });
      }
    }
    const received = () => subject.metric('tidegate_messages_received_total');
    const before = await received();
    redis.freeze();
    let stopping;
    let answered;
    try {
      answered = sockets.map(({ event, socket }) => ask(socket, event, COMMANDS[event]));
      await until('all has arrived', async () => (await received()) === before + sockets.length);
      stopping = subject.stop();
      await until('it drains', async () => (await subject.status('/readyz')).status === 503);
    } finally {
      redis.thaw();
    }
    for (const [i, answer] of answered.entries()) assert.equal((await answer).ok, true, sockets[i].event);
    for (const { ended } of sockets) assert.match((await ended)[0], /^transport (close|error)$/);
    await stopping;
    const log = subject.log.split('\n').filter((line) => line.startsWith('{')).map(JSON.parse);
    const { closed, finished } = log.find(({ message }) => message === 'drained');
    assert.deepEqual([closed, finished], [sockets.length, true]);
  });
});
