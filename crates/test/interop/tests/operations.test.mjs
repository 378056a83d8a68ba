// What a client may ask the gateway for, and the code it gets when it may not.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { IS_STOCK, startSubject, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { ask, connect, inbox, MESSAGE_PACK, POLLING, WEBSOCKET } from '../lib/client.mjs';

const RESERVED = ['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener'];
const OWN = ['evicted', 'offline_message', 'offline_message_ack', 'presence_join', 'presence_leave'];

/** The ack is a refusal with exactly this code, and its message says what is meant. */
function assertRefused(ack, code, naming = /\S/) {
  assert.deepEqual(Object.keys(ack).sort(), ['error', 'ok'], JSON.stringify(ack));
  assert.equal(ack.ok, false);
  assert.deepEqual(Object.keys(ack.error).sort(), ['code', 'message']);
  assert.equal(ack.error.code, code, ack.error.message);
  assert.match(ack.error.message, naming);
}

/** Sends a last message through the room and checks that nothing came before it. */
async function assertNothingElse(publisher, room, heard) {
  await ask(publisher, 'publish', { room, data: 'fence', echo: true });
  assert.deepEqual((await heard.next('the fence'))[0], 'fence');
}

describe('rooms', () => {
  const stage = new Stage();
  let subject;
  let a;
  let b;
  before(async () => {
    subject = await startSubject(stage);
    [a, b] = await Promise.all([connect(stage, subject.url, { ...WEBSOCKET, auth: { user: 'ann' } }), connect(stage, subject.url, WEBSOCKET)]);
  });
  after(() => stage.close());

  test('join by name or by map, publish, leave', async () => {
    const heard = inbox(b, 'news');
    assert.equal((await ask(b, 'join', 'by-name')).ok, true);
    assert.equal((await ask(b, 'join', { room: 'by-map' })).ok, true);
    for (const room of ['by-name', 'by-map']) {
      const ack = await ask(a, 'publish', { room, event: 'news', data: { room } });
      assert.equal(ack.ok, true);
      const args = await heard.next();
      assert.equal(args.length, 2);
      assert.deepEqual(args[0], { room });
      assert.equal(args[1].id, ack.id);
      assert.equal(args[1].room, room);
    }
    assert.equal((await ask(b, 'leave', { room: 'by-name' })).ok, true);
    assert.equal((await ask(b, 'leave', 'never joined')).ok, true);
    await ask(a, 'publish', { room: 'by-name', event: 'news', data: 'lost' });
    await ask(a, 'publish', { room: 'by-map', event: 'news', data: 'found' });
    assert.equal((await heard.next())[0], 'found');
    b.off('news');
  });

  test('joining twice delivers once; leaving once is enough', async () => {
    const heard = inbox(b, 'twice');
    await Promise.all([ask(b, 'join', 'two'), ask(b, 'join', 'two')]);
    await ask(a, 'publish', { room: 'two', event: 'twice', data: 1 });
    await ask(a, 'publish', { room: 'two', event: 'twice', data: 2 });
    assert.equal((await heard.next())[0], 1);
    assert.equal((await heard.next())[0], 2);
    await ask(b, 'leave', 'two');
    await ask(a, 'publish', { room: 'two', event: 'twice', data: 3 });
    await ask(b, 'heartbeat');
    assert.equal(heard.waiting, 0);
  });

  test('the event is message unless named, and meta says from whom', async () => {
    const heard = inbox(b);
    await ask(b, 'join', 'meta');
    const before = Date.now();
    const { id } = await ask(a, 'publish', { room: 'meta', data: null });
    const [data, meta] = await heard.next();
    assert.equal(data, null);
    assert.deepEqual(Object.keys(meta).sort(), ['from', 'id', 'node', 'room', 'ts']);
    assert.equal(meta.id, id);
    assert.equal(meta.room, 'meta');
    assert.equal(meta.from, 'ann');
    assert.equal(typeof meta.node, 'string');
    assert.ok(Number.isInteger(meta.ts) && meta.ts >= before && meta.ts <= Date.now(), `${meta.ts}`);
    b.off('message');
  });

  test('an anonymous publisher is null', async () => {
    const heard = inbox(a);
    await ask(a, 'join', 'anonymous');
    await ask(b, 'publish', { room: 'anonymous', data: 1 });
    assert.equal((await heard.next())[1].from, null);
    a.off('message');
  });

  test('the sender is left out unless it asks for an echo', async () => {
    const heard = inbox(a);
    await ask(a, 'join', 'echo');
    await ask(a, 'publish', { room: 'echo', data: 'no' });
    await ask(a, 'publish', { room: 'echo', data: 'also no', echo: false });
    await ask(a, 'publish', { room: 'echo', data: 'yes', echo: true });
    assert.equal((await heard.next())[0], 'yes');
    a.off('message');
  });

  test('one need not be a member to publish, and an empty room is fine', async () => {
    const ack = await ask(a, 'publish', { room: 'nobody is here', data: 1 });
    assert.equal(ack.ok, true);
    assert.equal(typeof ack.id, 'string');
    assert.ok(ack.id.length > 0);
  });

  test('broadcast reaches everyone in the namespace and nobody outside it', async () => {
    const chat = a.io.socket('/chat');
    const heard = Object.fromEntries(Object.entries({ a, b, chat }).map(([name, socket]) => [name, inbox(socket)]));
    await ask(chat, 'heartbeat');
    const { ok, id } = await ask(a, 'broadcast', { data: 'all' });
    assert.equal(ok, true);
    const [data, meta] = await heard.b.next();
    assert.equal(data, 'all');
    assert.equal(meta.id, id);
    assert.equal(meta.room, undefined);
    assert.equal(meta.from, 'ann');
    await ask(a, 'broadcast', { data: 'echoed', echo: true, event: 'message' });
    // Of everybody who is to hear it: what comes late would be taken for the next test's.
    for (const socket of [heard.a, heard.b]) assert.equal((await socket.next())[0], 'echoed');
    await ask(chat, 'heartbeat');
    assert.equal(heard.chat.waiting, 0);
    chat.disconnect();
    for (const socket of [a, b]) socket.off('message');
  });

  test('volatile reaches a reader that keeps up', async () => {
    const heard = inbox(b);
    await ask(b, 'join', 'v');
    assert.equal((await ask(a, 'publish', { room: 'v', data: 1, volatile: true })).ok, true);
    assert.equal((await heard.next())[0], 1);
    b.off('message');
  });

  test('everything works without an acknowledgement callback', async () => {
    const heard = inbox(b);
    b.emit('join', 'quiet');
    await ask(b, 'heartbeat');
    a.emit('publish', { room: 'quiet', data: 'x' });
    assert.equal((await heard.next())[0], 'x');
    b.emit('leave', 'quiet');
    await ask(b, 'heartbeat');
    a.emit('publish', { room: 'quiet', data: 'y' });
    a.emit('join', 5);
    a.emit('unknown thing', 1, 2, 3);
    await ask(a, 'heartbeat');
    await ask(b, 'heartbeat');
    assert.equal(heard.waiting, 0);
    b.off('message');
  });

  test('heartbeat takes anything and answers with the time', async () => {
    for (const args of [[], [null], [1], ['x', 'y'], [{ deep: [Buffer.from([1])] }]]) {
      const ack = await ask(a, 'heartbeat', ...args);
      assert.deepEqual(Object.keys(ack).sort(), ['ok', 'ts']);
      assert.equal(ack.ok, true);
      assert.ok(Math.abs(ack.ts - Date.now()) < 5_000);
    }
  });

  test('two namespaces with the same room do not mix', async () => {
    const left = a.io.socket('/left');
    const right = b.io.socket('/right');
    const [atLeft, atRight] = [inbox(left), inbox(right)];
    await Promise.all([ask(left, 'join', 'room'), ask(right, 'join', 'room')]);
    await ask(left, 'publish', { room: 'room', data: 'left', echo: true });
    await ask(right, 'publish', { room: 'room', data: 'right', echo: true });
    assert.equal((await atLeft.next())[0], 'left');
    assert.equal((await atRight.next())[0], 'right');
    assert.equal(atLeft.waiting + atRight.waiting, 0);
    left.disconnect();
    right.disconnect();
  });
});

describe('bad input', { skip: TIDEGATE_ONLY }, () => {
  for (const [kind, options] of Object.entries({ default: WEBSOCKET, msgpack: { ...WEBSOCKET, ...MESSAGE_PACK }, polling: POLLING })) {
    describe(kind, () => {
      const stage = new Stage();
      let subject;
      let socket;
      let member;
      before(async () => {
        subject = await startSubject(stage);
        [socket, member] = await Promise.all([connect(stage, subject.url, options), connect(stage, subject.url, options)]);
      });
      after(async () => {
        try {
          assert.equal((await ask(socket, 'heartbeat')).ok, true, 'the same connection lived through all of it');
        } finally {
          await stage.close();
        }
      });

      for (const event of ['join', 'leave']) {
        test(`${event}: wrong types name the field`, async () => {
          for (const argument of [undefined, null, 7, true, [], ['room'], {}, { room: null }, { room: 7 }, { room: ['a'] }, { room: {} }, Buffer.from('room')]) {
            assertRefused(await ask(socket, event, argument), 'bad_request', /room/);
          }
          assertRefused(await ask(socket, event), 'bad_request', /room/);
        });

        test(`${event}: names are 1 to 256 bytes`, async () => {
          assertRefused(await ask(socket, event, ''), 'bad_request', /room/);
          assert.equal((await ask(socket, event, 'r'.repeat(256))).ok, true);
          assertRefused(await ask(socket, event, 'r'.repeat(257)), 'bad_request', /room.*256|256.*room/s);
          assertRefused(await ask(socket, event, 'é'.repeat(129)), 'bad_request', /room/);
        });

        test(`${event}: rooms of the shape of a socket id are forbidden`, async () => {
          for (const room of [member.id, socket.id, 'a'.repeat(20), 'A0-_'.repeat(5)]) {
            const ack = await ask(socket, event, room);
            assert.equal(ack.ok, false, `${event} ${room}`);
            assert.equal(ack.error.code, 'forbidden');
          }
          for (const room of ['a'.repeat(19), 'a'.repeat(21), `${'a'.repeat(19)}:`]) {
            assert.equal((await ask(socket, event, room)).ok, true, room);
          }
        });
      }

      test('publish: wrong types name the field', async () => {
        const good = { room: 'r', data: 1 };
        for (const argument of [undefined, null, 7, 'room', [], [good]]) {
          assertRefused(await ask(socket, 'publish', argument), 'bad_request');
        }
        const wrong = {
          room: [undefined, null, 7, '', [], ['r'], {}, 'r'.repeat(257)],
          event: [7, '', true, [], {}, 'e'.repeat(257)],
          echo: ['yes', 1, {}, []],
          volatile: ['no', 0, {}, []],
        };
        for (const [field, values] of Object.entries(wrong)) {
          for (const value of values) {
            assertRefused(await ask(socket, 'publish', { ...good, [field]: value }), 'bad_request', new RegExp(field));
          }
        }
        assertRefused(await ask(socket, 'publish', { data: 1 }), 'bad_request', /room/);
      });

      test('broadcast: wrong types name the field', async () => {
        for (const argument of [undefined, null, 7, 'text', []]) assertRefused(await ask(socket, 'broadcast', argument), 'bad_request');
        for (const [field, value] of Object.entries({ event: 7, echo: 'yes', volatile: 1 })) {
          assertRefused(await ask(socket, 'broadcast', { data: 1, [field]: value }), 'bad_request', new RegExp(field));
        }
      });

      test('publish to a socket id is forbidden', async () => {
        const heard = inbox(member);
        assertRefused(await ask(socket, 'publish', { room: member.id, data: 'psst' }), 'forbidden');
        await ask(member, 'join', 'after');
        await assertNothingElse(member, 'after', heard);
        member.off('message');
      });

      test('reserved event names are refused, and nobody gets them', async () => {
        await ask(member, 'join', 'reserved');
        const heard = inbox(member);
        member.onAny((event) => assert.equal(event, 'message'));
        for (const event of [...RESERVED, ...OWN]) {
          assertRefused(await ask(socket, 'publish', { room: 'reserved', event, data: 1 }), 'bad_request', /event/);
          assertRefused(await ask(socket, 'broadcast', { event, data: 1 }), 'bad_request', /event/);
        }
        await assertNothingElse(member, 'reserved', heard);
        member.offAny();
        member.off('message');
      });

      test('unknown events are answered no_handler', async () => {
        for (const event of ['whatever', 'send message', 'Join', '日本', 'hasOwnProperty', '__proto__']) {
          assertRefused(await ask(socket, event, { any: 'thing' }), 'no_handler');
        }
        socket.emit('whatever without an ack');
      });

      test('missing data is null, as an absent argument is', async () => {
        const heard = inbox(member);
        await ask(member, 'join', 'missing');
        for (const argument of [{ room: 'missing' }, { room: 'missing', data: undefined }, { room: 'missing', data: null }]) {
          assert.equal((await ask(socket, 'publish', argument)).ok, true);
          assert.equal((await heard.next())[0], null);
        }
        member.off('message');
      });
    });
  }

  test('more than ten binary values: too_large', async (t) => {
    // Stock clients of the default parser may send at most ten; MessagePack has no such bound of its own.
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const socket = await connect(stage, subject.url, { ...WEBSOCKET, ...MESSAGE_PACK });
    const member = await connect(stage, subject.url, WEBSOCKET);
    const heard = inbox(member);
    await ask(member, 'join', 'r');
    const data = (count) => Array.from({ length: count }, (_, i) => Buffer.from([i]));
    assertRefused(await ask(socket, 'publish', { room: 'r', data: data(11) }), 'too_large');
    assert.equal((await ask(socket, 'publish', { room: 'r', data: data(10) })).ok, true);
    assert.deepEqual((await heard.next())[0], data(10));
  });

  test('rooms_per_session_max', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const socket = await connect(stage, subject.url, WEBSOCKET);
    for (let i = 0; i < 1_000; i += 100) {
      const acks = await Promise.all(Array.from({ length: 100 }, (_, j) => ask(socket, 'join', `room ${i + j}`)));
      assert.ok(acks.every(({ ok }) => ok === true), `rooms ${i} to ${i + 99}`);
    }
    assertRefused(await ask(socket, 'join', 'one more'), 'too_large', /1000/);
    assert.equal((await ask(socket, 'join', 'room 7')).ok, true, 'a room it is in already');
    assert.equal((await ask(socket, 'leave', 'room 7')).ok, true);
    assert.equal((await ask(socket, 'join', 'one more')).ok, true);
  });

  test('events_per_second_max: rate_limited, heartbeats and acknowledgements do not count', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { limits: { events_per_second_max: 5, events_burst: 10 } } });
    const socket = await connect(stage, subject.url, WEBSOCKET);
    const acks = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(socket, 'publish', { room: 'r', data: i })));
    const passed = acks.filter(({ ok }) => ok).length;
    assert.ok(passed >= 10 && passed < 30, `${passed} passed a burst of 10`);
    for (const refusal of acks.filter(({ ok }) => !ok)) assertRefused(refusal, 'rate_limited');
    for (let i = 0; i < 40; i += 1) assert.equal((await ask(socket, 'heartbeat')).ok, true);

    const dropped = await subject.metric('tidegate_dropped_total');
    for (let i = 0; i < 40; i += 1) socket.emit('publish', { room: 'r', data: i });
    await ask(socket, 'heartbeat');
    assert.ok((await subject.metric('tidegate_dropped_total')) > dropped, 'those without an ack are dropped and counted');
    assert.equal(socket.connected, true);
  });

  test('operations that are off in a namespace: not_enabled or left to the backend', async (t) => {
    const stage = stageOf(t);
    const config = '[namespaces."/"]\n[namespaces."/read"]\noperations = ["join", "leave", "heartbeat"]\n';
    const subject = await startTidegate(stage, { config });
    const root = await connect(stage, subject.url, WEBSOCKET);
    assert.equal((await ask(root, 'publish', { room: 'r', data: 1 })).ok, true);
    const read = root.io.socket('/read');
    assert.equal((await ask(read, 'join', 'r')).ok, true);
    const refusal = await ask(read, 'publish', { room: 'r', data: 1 });
    assert.equal(refusal.ok, false);
    assert.equal(refusal.error.code, 'not_enabled');
  });

  test('metrics count operations by outcome and hold no names of rooms', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const socket = await connect(stage, subject.url, WEBSOCKET);
    await ask(socket, 'join', 'secret-room-name');
    await ask(socket, 'join', 7);
    await ask(socket, 'publish', { room: 'secret-room-name', data: 1, echo: true });
    assert.equal(await subject.metric('tidegate_operations_total', { operation: 'join', code: 'ok' }), 1);
    assert.equal(await subject.metric('tidegate_operations_total', { operation: 'join', code: 'bad_request' }), 1);
    assert.equal(await subject.metric('tidegate_operations_total', { operation: 'publish', code: 'ok' }), 1);
    assert.equal(await subject.metric('tidegate_connections', { transport: 'websocket' }), 1);
    assert.equal(await subject.metric('tidegate_sessions'), 1);
    const { body } = await subject.status('/metrics');
    assert.doesNotMatch(body, /secret-room-name/);
    assert.ok(!body.includes(socket.id));
  });
});

test('a burst from many clients at once is all delivered, in the order of each sender', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const members = await Promise.all(Array.from({ length: 20 }, (_, i) => connect(stage, subject.url, [WEBSOCKET, POLLING, { ...WEBSOCKET, ...(IS_STOCK ? {} : MESSAGE_PACK) }][i % 3])));
  const inboxes = members.map((member) => inbox(member));
  await Promise.all(members.map((member) => ask(member, 'join', 'storm')));
  for (let i = 0; i < 50; i += 1) {
    for (const [from, member] of members.entries()) member.emit('publish', { room: 'storm', data: { from, i }, echo: true });
  }
  for (const heard of inboxes) {
    const next = new Array(members.length).fill(0);
    for (let i = 0; i < 50 * members.length; i += 1) {
      const [{ from, i: number }] = await heard.next('one of the storm', 15_000);
      assert.equal(number, next[from]);
      next[from] += 1;
    }
  }
});
