// Stock Node servers with the Redis adapter, and the Redis emitter, in one cluster with the subject.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import msgpack from 'notepack.io';
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

/** Until the peer hears the subject and the subject hears the peer, by a room of its own. */
async function meet(peer, member) {
  let arrived = false;
  member.once('meet', () => (arrived = true));
  await ask(member, 'join', 'meeting');
  await until('peer and subject hear each other', () => {
    peer.io.of(member.nsp).to('meeting').emit('meet');
    return arrived;
  });
  await ask(member, 'leave', 'meeting');
}

describe('peer and emitter reach clients of the subject', () => {
  const stage = new Stage();
  let redis;
  let subject;
  let peer;
  let emitter;
  let emitterErrors;
  const sockets = {};
  const heard = {};

  before(async () => {
    redis = await startRedis(stage);
    peer = await startPeer(stage, redis);
    ({ emitter, errors: emitterErrors } = await startEmitter(stage, redis));
    subject = await startSubject(stage, { redis });
    sockets.a = await connect(stage, subject.url, WEBSOCKET);
    sockets.b = await connect(stage, subject.url, POLLING);
    sockets.c = await connect(stage, subject.url, IS_STOCK ? WEBSOCKET : { ...WEBSOCKET, ...MESSAGE_PACK });
    sockets.chat = sockets.a.io.socket('/chat');
    await connected(sockets.chat);
    for (const [name, socket] of Object.entries(sockets)) heard[name] = inbox(socket, 'news');
    await Promise.all([ask(sockets.a, 'join', 'one'), ask(sockets.b, 'join', 'two'), ask(sockets.c, 'join', 'one'), ask(sockets.c, 'join', 'two'), ask(sockets.chat, 'join', 'one')]);
    await meet(peer, sockets.a);
    await meet(peer, sockets.chat);
  });
  after(async () => {
    assert.deepEqual(emitterErrors, []);
    await stage.close();
  });

  /** Sends by `act`, then a fence to everyone, and checks who got what before the fence. */
  async function reaches(names, act, args) {
    act();
    // The fence goes the way of the message, so that it cannot overtake.
    const fence = `fence ${Math.random()}`;
    fences.send(fence);
    for (const name of Object.keys(sockets)) {
      const got = [];
      for (;;) {
        const next = await heard[name].next(`${name}: the fence`);
        if (next[0] === fence) break;
        got.push(next);
      }
      assert.deepEqual(got, names.includes(name) ? [args] : [], name);
    }
  }

  const fences = { send: null };

  for (const [kind, source] of Object.entries({ 'a Node server': () => peer.io, 'the emitter': () => emitter })) {
    describe(kind, () => {
      before(() => {
        fences.send = (fence) => {
          source().of('/').emit('news', fence);
          source().of('/chat').emit('news', fence);
        };
      });

      test('by namespace', async () => {
        await reaches(['a', 'b', 'c'], () => source().emit('news', 1, 'two', { three: [4] }), [1, 'two', { three: [4] }]);
        await reaches(['chat'], () => source().of('/chat').emit('news', 'chat'), ['chat']);
      });

      test('by room', async () => {
        await reaches(['a', 'c'], () => source().to('one').emit('news', 'x'), ['x']);
        await reaches(['b', 'c'], () => source().in('two').emit('news', 'x'), ['x']);
        await reaches(['chat'], () => source().of('/chat').to('one').emit('news', 'x'), ['x']);
        await reaches([], () => source().to('nobody is here').emit('news', 'x'), ['x']);
      });

      test('by several rooms, once each', async () => {
        await reaches(['a', 'b', 'c'], () => source().to(['one', 'two']).emit('news', 'x'), ['x']);
        await reaches(['a', 'b', 'c'], () => source().to('one').to('two').to('three').emit('news', 'x'), ['x']);
      });

      test('with exceptions', async () => {
        await reaches(['b'], () => source().except('one').emit('news', 'x'), ['x']);
        await reaches(['a'], () => source().to('one').except('two').emit('news', 'x'), ['x']);
        await reaches(['c'], () => source().to('one').except(sockets.a.id).emit('news', 'x'), ['x']);
        await reaches([], () => source().except(['one', 'two']).emit('news', 'x'), ['x']);
      });

      test('by socket id', async () => {
        await reaches(['a'], () => source().to(sockets.a.id).emit('news', 'x'), ['x']);
        await reaches(['b'], () => source().to(sockets.b.id).emit('news', 'x'), ['x']);
        await reaches(['a', 'c'], () => source().to([sockets.a.id, sockets.c.id]).emit('news', 'x'), ['x']);
      });

      test('volatile and uncompressed', async () => {
        await reaches(['a', 'c'], () => source().to('one').volatile.emit('news', 'x'), ['x']);
        await reaches(['a', 'c'], () => source().to('one').compress(false).emit('news', 'x'), ['x']);
      });

      test('binary', async () => {
        await reaches(['a', 'b', 'c'], () => source().emit('news', BYTES, { deep: [BYTES] }), [BYTES, { deep: [BYTES] }]);
      });

      test('no arguments, undefined, null, many arguments', async () => {
        await reaches(['b', 'c'], () => source().to('two').emit('news'), []);
        await reaches(['b', 'c'], () => source().to('two').emit('news', undefined, null), [null, null]);
        const many = Array.from({ length: 40 }, (_, i) => i);
        await reaches(['b', 'c'], () => source().to('two').emit('news', ...many), many);
      });

      test('a large message', async () => {
        const data = { text: 'é'.repeat(200_000) };
        await reaches(['b', 'c'], () => source().to('two').emit('news', data), [data]);
      });
    });
  }

  test('dates: text to the default parser, dates to MessagePack', { skip: TIDEGATE_ONLY }, async () => {
    const at = new Date(1_700_000_000_123);
    for (const source of [peer.io, emitter]) {
      source.to(['one', 'two']).emit('news', at);
      assert.deepEqual(await heard.a.next(), [at.toISOString()]);
      assert.deepEqual(await heard.b.next(), [at.toISOString()]);
      assert.deepEqual(await heard.c.next(), [at]);
    }
  });

  test('reserved names and more than ten binary values are dropped and counted', { skip: TIDEGATE_ONLY }, async () => {
    const events = [];
    sockets.a.onAny((event) => events.push(event));
    const dropped = await subject.metric('tidegate_dropped_total');
    for (const event of ['evicted', 'offline_message', 'offline_message_ack', 'presence_join', 'presence_leave']) {
      emitter.to('one').emit(event, {});
    }
    emitter.to('one').emit('news', Array.from({ length: 11 }, () => BYTES));
    emitter.to('one').emit('news', 'fence');
    assert.deepEqual(await heard.a.next(), ['fence']);
    assert.deepEqual(await heard.c.next(), ['fence']);
    assert.deepEqual(events, ['news']);
    sockets.a.offAny();
    assert.ok((await subject.metric('tidegate_dropped_total')) >= dropped + 6);
  });

  test('the subject reaches clients of the peer, with data and meta', async () => {
    const guest = await connect(stage, peer.url, WEBSOCKET);
    const guestInChat = guest.io.socket('/chat');
    await connected(guestInChat);
    const [atGuest, atChat] = [inbox(guest), inbox(guestInChat)];
    await Promise.all([ask(guest, 'join', 'guests'), ask(guestInChat, 'join', 'guests')]);
    const values = [1, 'é😀', null, { deep: [true, 1.5] }, BYTES, { in: [BYTES] }];
    for (const data of values) {
      const { ok, id } = await ask(sockets.b, 'publish', { room: 'guests', data });
      assert.equal(ok, true);
      const [got, meta, ...more] = await atGuest.next();
      assert.deepEqual(got, data);
      assert.equal(meta.id, id);
      assert.equal(meta.room, 'guests');
      assert.equal(more.length, 0);
    }
    await ask(sockets.chat, 'publish', { room: 'guests', event: 'message', data: 'chat' });
    assert.equal((await atChat.next())[0], 'chat');
    await ask(sockets.c, 'broadcast', { data: 'everyone' });
    assert.equal((await atGuest.next())[0], 'everyone');
    await ask(sockets.a, 'publish', { room: 'guests', data: 'volatile', volatile: true });
    assert.equal((await atGuest.next())[0], 'volatile');
    assert.equal(atGuest.waiting + atChat.waiting, 0);
  });

  test('what the subject’s MessagePack clients send arrives at the peer as it should', { skip: TIDEGATE_ONLY }, async () => {
    const guest = await connect(stage, peer.url, WEBSOCKET);
    const atGuest = inbox(guest);
    await ask(guest, 'join', 'packed guests');
    const at = new Date(5);
    const data = { at, gone: undefined, list: [undefined, new Uint8Array([1, 2])], n: 2 ** 40, not: NaN };
    await ask(sockets.c, 'publish', { room: 'packed guests', data });
    assert.deepEqual((await atGuest.next())[0], { at: at.toISOString(), list: [null, Buffer.from([1, 2])], n: 2 ** 40, not: null });
  });

  test('a socket of the peer that broadcasts reaches the subject', async () => {
    const guest = await connect(stage, peer.url, WEBSOCKET);
    const atA = inbox(sockets.a);
    await ask(guest, 'publish', { room: 'one', data: 'from a guest' });
    assert.equal((await atA.next())[0], 'from a guest');
    sockets.a.off('message');
  });

  test('2,000 messages each way, in order', async () => {
    const guest = await connect(stage, peer.url, WEBSOCKET);
    const atGuest = inbox(guest, 'flow');
    const atMember = inbox(sockets.b, 'flow');
    await Promise.all([ask(guest, 'join', 'flow out'), ask(sockets.b, 'join', 'flow in')]);
    for (let i = 0; i < 2_000; i += 1) {
      sockets.a.emit('publish', { room: 'flow out', event: 'flow', data: i });
      peer.io.to('flow in').emit('flow', i);
    }
    for (let i = 0; i < 2_000; i += 1) {
      assert.equal((await atGuest.next(`out ${i}`, 15_000))[0], i);
      assert.equal((await atMember.next(`in ${i}`, 15_000))[0], i);
    }
  });

  test('calls of the peer that ask the cluster count the subject in', async () => {
    const look = await redis.client(stage);
    const [, servers] = await look.sendCommand(['PUBSUB', 'NUMSUB', 'socket.io-request#/#']);
    assert.equal(Number(servers), 2, 'who is asked: the peer and the subject');

    const guest = await connect(stage, peer.url, WEBSOCKET);
    const askers = [guest, sockets.a, sockets.b];
    for (const [i, socket] of askers.entries()) {
      socket.on('question', (answer) => answer(i === 0 ? 'guest' : 'member'));
      await ask(socket, 'join', 'askers');
    }
    const found = (await peer.io.in('askers').fetchSockets()).map(({ id }) => id);
    assert.deepEqual(found.sort(), askers.map(({ id }) => id).sort());
    const replies = await peer.io.to('askers').timeout(4_000).emitWithAck('question');
    assert.deepEqual(replies.sort(), ['guest', 'member', 'member']);
  });
});

describe('malformed messages in Redis', { skip: IS_STOCK ? 'they raise errors on stock servers' : false }, () => {
  const stage = new Stage();
  let redis;
  let subject;
  let member;
  let publisher;
  let heard;
  before(async () => {
    redis = await startRedis(stage);
    subject = await startTidegate(stage, { redis });
    [member, publisher] = await Promise.all([connect(stage, subject.url, WEBSOCKET), connect(stage, subject.url, WEBSOCKET)]);
    heard = inbox(member);
    await ask(member, 'join', 'r');
  });
  after(() => stage.close());

  const good = (packet, opts, uid = 'emitter') => Buffer.from(msgpack.encode([uid, packet, opts]));
  const packet = (data, rest = {}) => ({ type: 2, data, nsp: '/', ...rest });
  const options = { rooms: ['r'], except: [], flags: {} };
  const fine = good(packet(['message', 'fine']), options);

  const MALFORMED = {
    nothing: Buffer.alloc(0),
    text: Buffer.from('hello'),
    json: Buffer.from('{"uid":"x"}'),
    'a reserved byte': Buffer.from([0xc1]),
    'a byte too many': Buffer.concat([fine, Buffer.from([0])]),
    'cut short': fine.subarray(0, fine.length - 3),
    'a pair': Buffer.from(msgpack.encode(['emitter', packet(['message', 'x'])])),
    'not an array': Buffer.from(msgpack.encode({ a: 1 })),
    'an array that claims 2^32 elements': Buffer.from([0x93, 0xa1, 0x61, 0xdd, 0xff, 0xff, 0xff, 0xff]),
    'a string that claims 2^32 bytes': Buffer.from([0x93, 0xdb, 0xff, 0xff, 0xff, 0xff, 0x61]),
    'ten thousand levels': Buffer.concat([Buffer.alloc(10_000, 0x91), Buffer.from([0xc0])]),
    'a packet that is nil': good(null, options),
    'a packet without data': good({ type: 2, nsp: '/' }, options),
    'data that is a map': good(packet({ a: 1 }), options),
    'data that is empty': good(packet([]), options),
    'an event name that is nil': good(packet([null, 'x']), options),
    'a packet of another type': good(packet(['message', 'x'], { type: 1 }), options),
    'rooms that are numbers': good(packet(['message', 'x']), { rooms: [1, 2], except: [] }),
    'rooms that are a map': good(packet(['message', 'x']), { rooms: { a: 1 } }),
    'another namespace': good(packet(['message', 'x'], { nsp: '/chat' }), options),
  };
  for (const [name, payload] of Object.entries(MALFORMED)) {
    test(`${name}: not delivered, and the node lives on`, async () => {
      const look = await redis.client(stage);
      for (const channel of ['socket.io#/#r#', 'socket.io#/#', 'socket.io-request#/#', 'socket.io-response#/#']) await look.publish(channel, payload);
      assert.equal((await ask(publisher, 'publish', { room: 'r', data: name })).ok, true);
      assert.equal((await heard.next())[0], name, 'the next message is the first to arrive');
      assert.equal((await subject.status('/readyz')).status, 200);
      assert.equal(member.connected && publisher.connected, true);
    });
  }

  const TOLERATED = {
    'as the emitter writes it': fine,
    'empty options reach everybody': good(packet(['message', 'fine']), {}),
    'null flags and exceptions': good(packet(['message', 'fine']), { rooms: ['r'], except: null, flags: null }),
    'no namespace is the root': good({ type: 2, data: ['message', 'fine'] }, options),
    'unknown keys': good(packet(['message', 'fine'], { id: undefined, later: [1] }), { ...options, later: { a: 1 } }),
    'a uid that is nil': good(packet(['message', 'fine']), options, null),
  };
  for (const [name, payload] of Object.entries(TOLERATED)) {
    test(`tolerated: ${name}`, async () => {
      const look = await redis.client(stage);
      await look.publish('socket.io#/#', payload);
      assert.deepEqual(await heard.next(), ['fine']);
    });
  }
});

test('three kinds of node in one room', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage);
  const peer = await startPeer(stage, redis);
  const packedPeer = await startPeer(stage, redis, MESSAGE_PACK);
  const [one, two] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
  const sockets = await Promise.all([
    connect(stage, peer.url, WEBSOCKET),
    connect(stage, packedPeer.url, { ...WEBSOCKET, ...MESSAGE_PACK }),
    connect(stage, one.url, {}),
    connect(stage, two.url, MESSAGE_PACK),
  ]);
  const inboxes = sockets.map((socket) => inbox(socket));
  await Promise.all(sockets.map((socket) => ask(socket, 'join', 'all')));
  for (const [from, socket] of sockets.entries()) {
    await ask(socket, 'publish', { room: 'all', data: { from, bytes: BYTES } });
    for (const [to, heard] of inboxes.entries()) {
      if (to !== from) assert.deepEqual((await heard.next(`from ${from} to ${to}`))[0], { from, bytes: BYTES });
    }
  }
});
