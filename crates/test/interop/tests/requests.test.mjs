// What a stock Node server, and the emitter, ask the cluster: who is there, in which rooms, to come and to go, and to
// acknowledge. Tidegate's clients are found and moved like the Node server's own, and its call never waits for nobody.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import { describe, test } from '../lib/test.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { IS_STOCK, startSubject, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { startEmitter } from '../lib/stock.mjs';
import { startPeer } from '../lib/peer.mjs';
import { ask, connect, connected, inbox, MESSAGE_PACK, POLLING, WEBSOCKET } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';

const BYTES = Buffer.from([0, 1, 127, 128, 255]);

/** A lease that is over soon, with the fence and the pulse that go with it. */
const SHORT_LEASE = { cluster: { pulse_interval_ms: 100, fence_after_ms: 500 }, sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 } };

const REAPED_WITHIN_MS = 15_000;

/** How soon a request must be answered, and how often it may be tried: what a busy machine adds does not count. */
const ANSWERED_WITHIN_MS = 100;
const TRIES = 20;

/** What clients send with their handshake and nobody else is to see. */
const HUSH = 'hush';
const ADDRESS = '203.0.113.7';
const HANDSHAKE = {
  extraHeaders: { cookie: `sid=${HUSH}-cookie`, authorization: `Bearer ${HUSH}-header`, 'x-forwarded-for': ADDRESS },
  query: { key: `${HUSH}-query` },
};
const auth = (user) => ({ user, device: 'phone', token: `${HUSH}-token` });

const sorted = (values) => [...values].sort();
const idsOf = (sockets) => sorted(sockets.map(({ id }) => id));

/** What rejected with nobody there to see it, in this whole file. */
const unhandled = [];
process.on('unhandledRejection', (reason) => unhandled.push(reason));
after(() => assert.deepEqual(unhandled, []));

/** How many servers a request in `namespace` would be waited for. */
async function listeners(look, namespace = '/') {
  const [, count] = await look.sendCommand(['PUBSUB', 'NUMSUB', `socket.io-request#${namespace}#`]);
  return Number(count);
}

/** Everything a client is told of its end. */
function watched(socket) {
  return Object.assign(socket, { evictions: inbox(socket, 'evicted'), drops: inbox(socket, 'disconnect') });
}

/** The server ended the session of this client, which stays away. A node says why, a Node server does not. */
async function assertEnded(socket, byNode = !IS_STOCK) {
  assert.deepEqual((await socket.drops.next('disconnect'))[0], 'io server disconnect');
  assert.equal(socket.active, false, 'it does not come back');
  assert.deepEqual(socket.evictions.drain(), byNode ? [[{ reason: 'kicked' }]] : []);
}

async function assertStays(socket) {
  assert.equal((await ask(socket, 'heartbeat')).ok, true);
  assert.equal(socket.evictions.waiting + socket.drops.waiting, 0);
}

describe('requests of a Node server and an emitter', () => {
  const stage = new Stage();
  let redis;
  let look;
  let peer;
  let subjects;
  let emitter;
  let emitterErrors;

  before(async () => {
    redis = await startRedis(stage);
    look = await redis.client(stage);
    peer = await startPeer(stage, redis);
    peer.io.of('/chat');
    ({ emitter, errors: emitterErrors } = await startEmitter(stage, redis));
    subjects = await Promise.all([1, 2].map(() => startSubject(stage, { redis, settings: SHORT_LEASE })));
  });
  after(async () => {
    assert.deepEqual(emitterErrors, []);
    await stage.close();
  });

  /**
   * Clients of a test, in rooms of its own: `a` and `b` on one node each, `c` polls, `guest` is at the Node server, and
   * `chat` is in another namespace on the transport of `a`, in the rooms of `a`.
   */
  async function enter(t) {
    const own = stageOf(t);
    const [one, two, three] = ['one', 'two', 'three'].map((room) => `${t.name} ${room}`);
    const found = {
      a: await connect(own, subjects[0].url, { ...WEBSOCKET, ...HANDSHAKE, auth: auth('ann') }),
      b: await connect(own, subjects[1].url, { ...WEBSOCKET, ...(IS_STOCK ? {} : MESSAGE_PACK), ...HANDSHAKE, auth: auth('bob') }),
      c: await connect(own, subjects[1].url, { ...POLLING, ...HANDSHAKE, auth: auth('cat') }),
      guest: await connect(own, peer.url, WEBSOCKET),
    };
    found.chat = found.a.io.socket('/chat', { auth: auth('ann') });
    await connected(found.chat);
    const rooms = { a: [one], b: [one, two], c: [two], guest: [one], chat: [one] };
    for (const [name, socket] of Object.entries(found)) {
      watched(socket);
      socket.heard = inbox(socket, 'news');
      for (const room of rooms[name]) await ask(socket, 'join', room);
    }
    // Those of the test before may be about to go.
    const inRoot = idsOf([found.a, found.b, found.c, found.guest]);
    await until('everybody, and nobody else, is found', async () => {
      // Stock servers subscribe at their own pace, and for ever; a node for half a second longer than it has sessions.
      const inChat = await listeners(look, '/chat');
      if ((await listeners(look)) < 3 || (IS_STOCK ? inChat < 2 : inChat !== 2)) return false;
      return idsOf(await peer.io.fetchSockets()).join() === inRoot.join();
    });
    return { ...found, one, two, three };
  }

  /** The sockets in `room`, by their own account. */
  const members = async (room) => idsOf(await peer.io.in(room).fetchSockets());

  test('fetchSockets: by namespace, room and socket id, with exceptions', async (t) => {
    const { a, b, c, guest, chat, one, two } = await enter(t);
    const { io } = peer;
    const cases = [
      [io, [a, b, c, guest]],
      [io.in(one), [a, b, guest]],
      [io.in(one).in(two), [a, b, c, guest]],
      [io.in(one).except(two), [a, guest]],
      [io.except(one), [c]],
      [io.except([one, two]), []],
      [io.in(one).except(a.id), [b, guest]],
      [io.in(a.id), [a]],
      [io.in([b.id, c.id]), [b, c]],
      [io.in('nobody is here'), []],
      [io.of('/chat').in(one), [chat]],
    ];
    for (const [i, [selection, expected]] of cases.entries()) {
      assert.deepEqual(idsOf(await selection.fetchSockets()), idsOf(expected), `case ${i}`);
    }
    const rooms = new Map((await io.fetchSockets()).map(({ id, rooms: of }) => [id, sorted(of)]));
    assert.deepEqual(rooms.get(a.id), sorted([a.id, one]));
    assert.deepEqual(rooms.get(b.id), sorted([b.id, one, two]));
  });

  test('fetchSockets tells who a client is, and nothing it sent', { skip: TIDEGATE_ONLY }, async (t) => {
    const { a, b, c } = await enter(t);
    // Also what goes over the bus, whatever the Node server makes of it.
    const overheard = [];
    const ear = await redis.client(stage);
    await ear.pSubscribe('*', (payload) => overheard.push(payload.toString('latin1')), true);
    const before = Date.now();
    const sockets = new Map((await peer.io.fetchSockets()).map((socket) => [socket.id, socket]));
    for (const [socket, user, { ready }] of [[a, 'ann', subjects[0]], [b, 'bob', subjects[1]], [c, 'cat', subjects[1]]]) {
      const { handshake, data } = sockets.get(socket.id);
      assert.deepEqual(data, { user, device: 'phone', node: ready[0].node });
      const { time, issued, ...rest } = handshake;
      assert.deepEqual(rest, { headers: {}, address: '', xdomain: false, secure: false, url: '', query: {}, auth: {} });
      assert.ok(issued > before - 60_000 && issued <= Date.now(), `${issued} is when it connected`);
      assert.ok(Math.abs(Date.parse(time) - issued) < 1_000, `${time} is when it connected`);
    }
    const answers = () => overheard.filter((payload) => payload.includes(a.id) || payload.includes(b.id));
    await until('the answers of two nodes are overheard', () => answers().length === 2);
    for (const payload of overheard) for (const secret of [HUSH, ADDRESS, '127.0.0.1']) assert.ok(!payload.includes(secret), payload);
  });

  test('allRooms', async (t) => {
    const { a, b, c, guest, chat, one, two, three } = await enter(t);
    const found = await peer.io.of('/').adapter.allRooms();
    assert.ok(found instanceof Set);
    for (const room of [one, two, a.id, b.id, c.id, guest.id]) assert.ok(found.has(room), room);
    assert.ok(!found.has(three));
    assert.ok(!found.has(chat.id), 'of another namespace');
    const inChat = await peer.io.of('/chat').adapter.allRooms();
    assert.deepEqual([one, two, chat.id, a.id].map((room) => inChat.has(room)), [true, false, true, false]);
  });

  for (const [kind, source] of Object.entries({ 'a Node server': () => peer.io, 'the emitter': () => emitter })) {
    test(`socketsJoin and socketsLeave of ${kind}`, async (t) => {
      const { a, b, c, guest, chat, one, two, three } = await enter(t);
      const more = [three, `${three} more`];
      const everyone = [a, b, c, guest, chat];
      /** Exactly `expected` get what is published to `room`; whoever is not a member hears the end of it later. */
      const assertReaches = async (room, expected) => {
        peer.io.to(room).emit('news', room);
        peer.io.emit('news', 'fence');
        peer.io.of('/chat').to(room).emit('news', room);
        peer.io.of('/chat').emit('news', 'fence');
        for (const socket of everyone) {
          const got = [];
          for (let next; next !== 'fence'; ) got.push(([next] = await socket.heard.next('the fence')) && next);
          assert.deepEqual(got, expected.includes(socket) ? [room, 'fence'] : ['fence']);
        }
      };

      source().in(one).except(two).socketsJoin(more);
      // Only who knows that the join was carried out, as by an answer to what was asked later, may count on it.
      for (const room of more) await until('they have joined', async () => (await members(room)).join() === idsOf([a, guest]).join());
      for (const room of more) await assertReaches(room, [a, guest]);
      source().in([b.id, c.id]).socketsJoin(three);
      await until('they have joined', async () => (await members(three)).join() === idsOf([a, b, c, guest]).join());
      await assertReaches(three, [a, b, c, guest]);
      await assertReaches(more[1], [a, guest]);

      // What they were in is left alone, and what other clients publish finds them, too.
      const heard = inbox(b);
      assert.equal((await ask(c, 'publish', { room: three, data: 'by a client' })).ok, true);
      assert.equal((await heard.next())[0], 'by a client');
      assert.deepEqual(await members(one), idsOf([a, b, guest]));

      source().in(three).except(c.id).socketsLeave([three, one]);
      await until('they have left', async () => (await members(three)).join() === c.id);
      await until('they have left', async () => (await members(one)).length === 0);
      await assertReaches(three, [c]);
      await assertReaches(one, [chat]);
      source().socketsLeave(two);
      await until('they have left', async () => (await members(two)).length === 0);
      for (const socket of everyone) await assertStays(socket);
    });

    test(`disconnectSockets of ${kind}`, async (t) => {
      const { a, b, c, guest, chat, one, two } = await enter(t);
      const engineOf = ({ io }) => io.engine;
      const beside = watched(c.io.socket('/chat', { auth: auth('cat') }));
      await connected(beside);

      source().in(one).except(two).disconnectSockets();
      await assertEnded(a);
      await assertEnded(guest, false);
      for (const socket of [b, c, chat, beside]) await assertStays(socket);
      assert.equal(engineOf(a).readyState, 'open', 'the transport stays for the other namespace');

      source().in(two).disconnectSockets(true);
      const engines = [b, c].map(engineOf);
      for (const socket of [b, c, beside]) await assertEnded(socket);
      for (const engine of engines) await until('the transport is closed', () => engine.readyState === 'closed');
      await assertStays(chat);
      await until('nobody is left', async () => (await peer.io.fetchSockets()).length === 0);

      source().of('/chat').in(chat.id).disconnectSockets(false);
      await assertEnded(chat);
    });
  }

  test('what comes after socketsJoin or socketsLeave on the bus finds it done', { skip: TIDEGATE_ONLY }, async (t) => {
    const { a, b, c, two, three } = await enter(t);
    const own = [a, b, c].map(({ id }) => id);
    for (let i = 0; i < 10; i += 1) {
      const room = `${three} ${i}`;
      peer.io.in(own).socketsJoin(room);
      assert.deepEqual(await members(room), sorted(own));
      // Who is found in the room is reached there.
      peer.io.to(room).emit('news', i);
      for (const socket of [a, b, c]) assert.deepEqual(await socket.heard.next(), [i]);
      peer.io.in(own).socketsLeave([room, two]);
      assert.deepEqual(await members(room), []);
    }
  });

  test('serverSideEmit', { skip: TIDEGATE_ONLY }, async (t) => {
    const { a, b, c, chat } = await enter(t);
    const events = [];
    for (const socket of [a, b, c, chat]) socket.onAny((event) => events.push(event));
    assert.equal(peer.io.serverSideEmit('are you there', 1, { two: [3] }), true);
    emitter.serverSideEmit('are you there', 1);
    assert.deepEqual(await peer.io.serverSideEmitWithAck('are you there', 1, 'two'), [null, null], 'one answer a node');
    assert.deepEqual(await peer.io.of('/chat').serverSideEmitWithAck('are you there'), [null], 'of the node with a session there');
    for (const socket of [a, b, c, chat]) await assertStays(socket);
    assert.deepEqual(events, [], 'it is nothing for clients');
  });

  test('emitWithAck: everybody’s acknowledgement, whatever it holds', async (t) => {
    const { a, b, c, guest, chat, one, two } = await enter(t);
    const within = (...rooms) => peer.io.timeout(1_000).to(rooms);
    const answer = { a: BYTES, b: { deep: [BYTES, 1.5, null] }, c: 'é😀', guest: 42 };
    for (const [name, socket] of Object.entries({ a, b, c, guest })) {
      socket.on('question', (...args) => {
        const reply = args.pop();
        reply(args.length === 1 ? answer[name] : args);
      });
    }
    chat.on('question', () => assert.fail('of another namespace'));
    const tagged = (values) => sorted(values.map((value) => JSON.stringify(value)));
    assert.deepEqual(tagged(await within(one).emitWithAck('question', 1)), tagged([answer.a, answer.b, answer.guest]));
    assert.deepEqual(tagged(await within(one, two).emitWithAck('question', 1)), tagged(Object.values(answer)), 'once each');
    assert.deepEqual(tagged(await within(two).except(one).emitWithAck('question', 1)), tagged([answer.c]));
    const replies = await within(a.id).emitWithAck('question', 1);
    assert.ok(Buffer.isBuffer(replies[0]), 'bytes are bytes');
    assert.deepEqual(replies, [BYTES]);
    assert.deepEqual(await within(b.id).emitWithAck('question', 1), [answer.b]);
    // What is asked arrives as it was sent.
    const asked = [{ n: 2 ** 40, text: 'é' }, BYTES, [BYTES]];
    assert.deepEqual(await within(two).emitWithAck('question', ...asked), [asked, asked]);
    assert.deepEqual(await within('nobody is here').emitWithAck('question', 1), []);
    const callbacks = await new Promise((resolve) => within(one).emit('question', 1, (failure, found) => resolve([failure, found.length])));
    assert.deepEqual(callbacks, [null, 3]);
    assert.equal((await peer.io.of('/chat').timeout(300).to('nobody is here').emitWithAck('question', 1)).length, 0);
  });

  test('emitWithAck: whoever never acknowledges, or goes away, is what is missing', async (t) => {
    const { a, b, c, guest, one, two } = await enter(t);
    for (const [name, socket] of Object.entries({ b, guest })) socket.on('question', (reply) => reply(name));
    let asked = 0;
    a.on('question', () => (asked += 1));
    c.on('question', () => c.disconnect());
    const failure = await peer.io.timeout(300).to([one, two]).emitWithAck('question').then(() => assert.fail('all have answered'), (error) => error);
    assert.match(failure.message, /timed out/);
    assert.deepEqual(sorted(failure.responses), ['b', 'guest']);
    assert.equal(asked, 1);
    for (const socket of [a, b, guest]) await assertStays(socket);
  });

  test(`each is answered within ${ANSWERED_WITHIN_MS} ms`, async (t) => {
    const { a, b, c, one, two, three } = await enter(t);
    for (const socket of [a, b, c]) socket.on('question', (reply) => reply(1));
    const calls = {
      fetchSockets: () => peer.io.in(one).except(two).fetchSockets(),
      allRooms: () => peer.io.of('/').adapter.allRooms(),
      'socketsJoin and socketsLeave': async () => {
        peer.io.in([a.id, b.id, c.id]).socketsJoin(three);
        peer.io.in([a.id, b.id, c.id]).socketsLeave(three);
        await peer.io.in(three).fetchSockets();
      },
      ...(IS_STOCK ? {} : { 'serverSideEmit with an acknowledgement': () => peer.io.serverSideEmitWithAck('are you there') }),
      emitWithAck: () => peer.io.timeout(1_000).to([a.id, b.id, c.id]).emitWithAck('question'),
      'emitWithAck to nobody': () => peer.io.timeout(1_000).to('nobody is here').emitWithAck('question'),
    };
    for (const [name, call] of Object.entries(calls)) {
      let best = Infinity;
      for (let tried = 0; tried < TRIES && best >= ANSWERED_WITHIN_MS; tried += 1) {
        const begun = performance.now();
        await call();
        best = Math.min(best, performance.now() - begun);
      }
      assert.ok(best < ANSWERED_WITHIN_MS, `${name}: ${best} ms at best`);
    }
  });
});

describe('who is waited for', { skip: TIDEGATE_ONLY, concurrency: 3 }, () => {
  /** Two nodes with a client each, and a Node server that gives up soon. */
  async function begin(t) {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const look = await redis.client(stage);
    const peer = await startPeer(stage, redis, { adapter: { requestsTimeout: 500 } });
    const nodes = await Promise.all([1, 2].map(() => startTidegate(stage, { redis, settings: SHORT_LEASE })));
    await until('the Node server listens', async () => (await listeners(look)) === 1);
    return { stage, redis, look, peer, nodes };
  }

  const outcome = (call) => call.then((value) => ({ value }), ({ message }) => ({ message }));

  test('nodes with a session in the namespace, for as long as they have one', async (t) => {
    const { stage, look, peer, nodes } = await begin(t);
    const a = await connect(stage, nodes[0].url, WEBSOCKET);
    assert.equal(await listeners(look), 2, 'once a client is connected, its node listens');
    const b = await connect(stage, nodes[1].url, WEBSOCKET);
    assert.equal(await listeners(look), 3);
    const chat = await connect(stage, `${nodes[1].url}/chat`, WEBSOCKET);
    assert.equal(await listeners(look, '/chat'), 1);
    assert.deepEqual(idsOf(await peer.io.fetchSockets()), idsOf([a, b]));
    // The Node server itself begins to listen there now.
    peer.io.of('/chat');
    await until('it listens, too', async () => (await listeners(look, '/chat')) === 2);
    assert.deepEqual(idsOf(await peer.io.of('/chat').fetchSockets()), [chat.id]);
    b.disconnect();
    // Who counts it and asks just after it has gone waits in vain, as with any server: nobody asks at that moment here.
    await until('its node listens no more', async () => (await listeners(look)) === 2);
    assert.deepEqual(idsOf(await peer.io.fetchSockets()), [a.id]);
    assert.deepEqual(await peer.io.serverSideEmitWithAck('are you there'), [null]);
  });

  test('a killed node no longer, once its connection is gone', async (t) => {
    const { stage, look, peer, nodes } = await begin(t);
    const a = await connect(stage, nodes[0].url, WEBSOCKET);
    await connect(stage, nodes[1].url, { ...WEBSOCKET, reconnection: false });
    assert.equal(await listeners(look), 3);
    await nodes[1].kill();
    await until('it is not counted', async () => (await listeners(look)) === 2);
    assert.deepEqual(idsOf(await peer.io.fetchSockets()), [a.id]);
    assert.deepEqual(await peer.io.serverSideEmitWithAck('are you there'), [null]);
    assert.deepEqual(await peer.io.timeout(1_000).to('nobody is here').emitWithAck('question'), []);
  });

  test('a frozen node no longer, once it was taken for dead; and again when it is back', async (t) => {
    const { stage, look, peer, nodes } = await begin(t);
    const a = await connect(stage, nodes[0].url, WEBSOCKET);
    const b = await connect(stage, nodes[1].url, { ...WEBSOCKET, reconnectionDelay: 50, auth: { user: 'bob' } });
    const { id: before } = b;
    assert.deepEqual(idsOf(await peer.io.fetchSockets()), idsOf([a, b]));
    await nodes[1].freeze(stage);
    assert.match((await outcome(peer.io.fetchSockets())).message ?? '', /timeout reached/, 'it is waited for');
    await until('the Node server is answered', async () => (await outcome(peer.io.fetchSockets())).value?.map(({ id }) => id).join() === a.id, REAPED_WITHIN_MS);
    assert.equal(await listeners(look), 2);
    assert.deepEqual(await peer.io.serverSideEmitWithAck('are you there'), [null]);

    nodes[1].thaw();
    await until('its client is back', () => b.connected && b.id !== before, REAPED_WITHIN_MS);
    await until('everybody is found', async () => {
      const { value = [] } = await outcome(peer.io.fetchSockets());
      return idsOf(value).join() === idsOf([a, b]).join();
    });
    assert.equal(await listeners(look), 3);
  });
});
