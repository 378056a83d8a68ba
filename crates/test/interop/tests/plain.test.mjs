// The plain protocol of `/ws` in both formats: the handshake, every operation, what closes a connection, and that its
// clients are the equals of Socket.IO's.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, test } from '../lib/test.mjs';
import { ask, connect, inbox, MESSAGE_PACK, once, POLLING, refused, WEBSOCKET } from '../lib/client.mjs';
import { enter, JSON_FORMAT, MSGPACK_FORMAT, open } from '../lib/plain.mjs';
import { startRedis } from '../lib/redis.mjs';
import { stageOf } from '../lib/stage.mjs';
import { startEmitter, startStock } from '../lib/stock.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { pause, until } from '../lib/wait.mjs';
import { request, tcp } from '../lib/wire.mjs';

const OPTIONS = { skip: TIDEGATE_ONLY };
const FORMATS = { JSON: [JSON_FORMAT], MessagePack: [MSGPACK_FORMAT] };
const SECRET = 'a secret of more than thirty-two bytes, for this test only';
const BYTES = Buffer.from([0, 1, 2, 254, 255]);

function token(claims) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

/** What a reply refuses with, or `ok`. */
const outcome = ({ ok, error }) => (ok ? 'ok' : error.code);

/** The next event of that name. */
async function named(plain, name) {
  for (;;) {
    const message = await plain.next(`event ${name}`);
    if (message.event === name) return message;
  }
}

const code = (ended) => `${ended.code} ${ended.reason.split(':')[0]}`;

describe('the handshake of the plain protocol', OPTIONS, () => {
  test('the first known subprotocol is chosen, and none means JSON', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    for (const [formats, chosen] of [
      [[], ''],
      [[JSON_FORMAT], JSON_FORMAT],
      [['soap', MSGPACK_FORMAT, JSON_FORMAT], MSGPACK_FORMAT],
    ]) {
      const plain = await open(stage, url, { formats });
      assert.equal(plain.socket.protocol, chosen);
    }
    const bare = await enter(stage, url, { user: 'ann' }, { formats: [] });
    assert.equal(bare.connected.user, 'ann');
    const refused = await open(stage, url, { formats: ['soap'] });
    assert.equal(refused.status, 400);
    assert.match(refused.body, /"bad_request".*tidegate\.v1\.json/);
  });

  test('what is no upgrade, no handshake or of a strange origin is refused before there is a WebSocket', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage, { settings: { server: { allowed_origins: ['https://app.example'] } } });
    const plainGet = await request(`${url}/ws`);
    assert.deepEqual([plainGet.status, plainGet.headers.upgrade], [426, 'websocket']);
    assert.equal((await request(`${url}/ws`, { method: 'POST', body: '{}' })).status, 426);
    const headers = { connection: 'upgrade', upgrade: 'websocket' };
    const keyless = await request(`${url}/ws`, { headers });
    assert.deepEqual([keyless.status, keyless.headers['sec-websocket-version'], plainGet.headers['sec-websocket-version']], [400, '13', '13']);
    const whole = { 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', 'sec-websocket-version': '13' };
    for (const [more, method] of [[{ upgrade: 'websocket' }], [{ ...headers, 'content-length': '2' }], [headers, 'PUT']]) {
      assert.equal((await request(`${url}/ws`, { method, headers: { ...whole, ...more }, body: more['content-length'] && '{}' })).status, 426, JSON.stringify(more));
    }
    const old = await tcp(stage, Number(new URL(url).port));
    old.socket.write('GET /ws HTTP/1.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n');
    await old.closed();
    assert.match(old.received, /^HTTP\/1\.[01] 426 /);
    assert.equal((await open(stage, url, { headers: { origin: 'https://evil.example' } })).status, 403);
    for (const origin of ['https://app.example', url]) assert.equal((await enter(stage, url, {}, { headers: { origin } })).connected.op, 'connected');
  });

  test('a node that is full or drains answers 503', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage, { settings: { server: { connections_max: 1 }, drain: { timeout_ms: 3_000 } } });
    const first = await enter(stage, node.url, {});
    assert.equal((await open(stage, node.url)).status, 503);
    first.send({ op: 'close' });
    assert.equal(code(await first.ended()), '1000 ');
    const second = await until('the place is free', async () => {
      const plain = await open(stage, node.url);
      return plain.status ? null : plain;
    });
    second.send({ op: 'connect' });
    await second.next();
    node.signal('SIGTERM');
    assert.equal(code(await second.ended()), '1012 draining');
    await node.exited();
  });
});

for (const [name, formats] of Object.entries(FORMATS)) {
  describe(`operations in ${name}`, OPTIONS, () => {
    const as = (stage, url, auth, options = {}) => enter(stage, url, auth, { formats, ...options });

    test('connected tells who one is, and every operation is answered by its id', async (t) => {
      const stage = stageOf(t);
      const { url } = await startTidegate(stage, { config: '[namespaces."/"]\npresence = true\n' });
      const ann = await as(stage, url, { user: 'ann', device: 'd1' });
      assert.deepEqual(Object.keys(ann.connected), ['op', 'session', 'user', 'node', 'heartbeat_ms']);
      assert.deepEqual([ann.connected.user, ann.connected.heartbeat_ms], ['ann', 25_000]);
      const bob = await as(stage, url, { user: 'bob' });
      assert.deepEqual(await ann.ask({ op: 'join', room: 'r', id: 'j' }), { op: 'reply', id: 'j', ok: true });
      assert.deepEqual(await bob.ask({ op: 'join', room: 'r', id: 2.5 }), { op: 'reply', id: 2.5, ok: true });
      const { ts: joined, ...told } = await ann.next().then(({ args: [{ ts, ...rest }], ...event }) => ({ ts, ...event, rest }));
      assert.deepEqual({ ...told, ts: typeof joined }, { op: 'event', event: 'presence_join', rest: { room: 'r', user: 'bob' }, ts: 'number' });
      const { users } = await ann.ask({ op: 'presence', room: 'r' });
      assert.deepEqual(users.map(({ user }) => user).sort(), ['ann', 'bob']);

      const published = await ann.ask({ op: 'publish', room: 'r', data: { n: 1, bytes: BYTES }, event: 'e' });
      assert.deepEqual(Object.keys(published), ['op', 'id', 'ok', 'message']);
      // Word of who came before may come late.
      const heard = await named(bob, 'e');
      const { ts, ...meta } = heard.meta;
      assert.deepEqual({ ...heard, meta }, { op: 'event', event: 'e', args: [{ n: 1, bytes: BYTES }], meta: { id: published.message, room: 'r', from: 'ann', node: ann.connected.node } });
      assert.equal(typeof ts, 'number');
      assert.equal((await bob.ask({ op: 'broadcast', data: 'all', echo: true })).ok, true);
      for (const each of [ann, bob]) {
        const { args, meta: { room } } = await named(each, 'message');
        assert.deepEqual([args, room], [['all'], undefined]);
      }
      assert.equal((await bob.ask({ op: 'leave', room: 'r' })).ok, true);
      await named(ann, 'presence_leave');
      await ann.ask({ op: 'publish', room: 'r', data: 2 });
      assert.equal(typeof (await bob.ask({ op: 'heartbeat' })).ts, 'number');
      assert.equal(bob.inbox.waiting, 0, 'who has left hears nothing');
    });

    test('refusals name the code, and nothing is answered that does not ask', async (t) => {
      const stage = stageOf(t);
      const config = `auth.jwt.secret = "${SECRET}"\n[namespaces."/"]\n[namespaces."/quiet"]\noperations = ["join"]\n`;
      const { url } = await startTidegate(stage, { dev: false, config, settings: { limits: { rooms_per_session_max: 1 } } });
      const grants = { namespaces: ['*'], join: ['room:*'], publish: ['room:*'], send: ['bob'] };
      const auth = { token: token({ sub: 'ann', exp: Date.now() / 1_000 + 600, tidegate: grants }) };
      const ann = await as(stage, url, auth);
      for (const [message, expected] of [
        [{ op: 'join' }, 'bad_request'],
        [{ op: 'join', room: 7 }, 'bad_request'],
        [{ op: 'join', room: 'x'.repeat(257) }, 'bad_request'],
        [{ op: 'join', room: 'other' }, 'forbidden'],
        [{ op: 'join', room: 'room:1' }, 'ok'],
        [{ op: 'join', room: 'room:2' }, 'too_large'],
        [{ op: 'publish', room: 'room:1', event: 'evicted', data: 1 }, 'bad_request'],
        [{ op: 'publish', room: 'room:1', data: Array(11).fill(BYTES) }, 'too_large'],
        [{ op: 'publish', room: 'room:1', data: { bytes: BYTES, odd: { _placeholder: true, num: 99 } } }, 'bad_request'],
        [{ op: 'publish', room: 'room:1', data: { odd: { _placeholder: true, num: 99 } } }, 'ok'],
        [{ op: 'send', to: 'bob', data: { bytes: BYTES, odd: { _placeholder: true, num: 0 } } }, 'bad_request'],
        [{ op: 'broadcast', data: 1 }, 'forbidden'],
        [{ op: 'send', to: 'eve', data: 1 }, 'forbidden'],
        [{ op: 'send', to: 'bob', data: Buffer.alloc(65_537) }, 'too_large'],
        [{ op: 'online', ack: 'perhaps' }, 'bad_request'],
        [{ op: 'presence', room: 'room:1' }, 'not_enabled'],
        [{ op: 'event', event: 'x', args: [1] }, 'no_handler'],
        [{ op: 'event', args: [1] }, 'bad_request'],
        [{ op: 'event', event: 'x', args: 1 }, 'bad_request'],
        [{ op: 'dance' }, 'bad_request'],
        [{ op: 'heartbeat', more: 'fields' }, 'ok'],
      ]) {
        const answer = await ann.ask(message);
        assert.equal(outcome(answer), expected, JSON.stringify(message).slice(0, 80));
        if (!answer.ok) assert.ok(answer.error.message.length > 5);
      }
      for (const op of ['join', 'publish', 'dance', 'event', 'send']) ann.send({ op });
      assert.equal((await ann.ask({ op: 'heartbeat' })).ok, true);
      assert.equal(ann.inbox.waiting, 0);
      const quiet = await as(stage, url, auth, { namespace: '/quiet' });
      assert.equal(outcome(await quiet.ask({ op: 'publish', room: 'room:1' })), 'not_enabled');
      assert.equal(outcome(await quiet.ask({ op: 'join', room: 'room:1' })), 'ok');
    });

    test('durable messages wait, come in order, are settled by their id, and once acknowledged stay away', async (t) => {
      const stage = stageOf(t);
      const { url, admin } = await startTidegate(stage);
      const ann = await as(stage, url, { user: 'ann' });
      // Whoever acknowledges everything may do so: a publication's id is none that waits for it.
      await ann.ask({ op: 'join', room: 'r' });
      const { message: published } = await ann.ask({ op: 'publish', room: 'r' });
      assert.deepEqual(await ann.ask({ op: 'ack', message: published }), { op: 'reply', id: 3, ok: true });
      const sent = [];
      for (let n = 0; n < 3; n += 1) {
        const { message, status } = await ann.ask({ op: 'send', to: 'bob', event: 'note', data: { n, bytes: BYTES }, id: `k${n}` });
        assert.equal(status, 'stored');
        sent.push(message);
      }
      assert.deepEqual(await ann.ask({ op: 'send', to: 'bob', data: 'again', id: 'k1' }), { op: 'reply', id: 'k1', ok: true, message: sent[1], status: 'duplicate' });
      // Numbers correlate, and nothing else.
      for (const status of ['stored', 'stored']) assert.equal((await ann.ask({ op: 'send', to: 'eve', data: 1, id: 1 })).status, status);

      const first = await as(stage, url, { user: 'bob' });
      first.send({ op: 'online' });
      for (let n = 0; n < 3; n += 1) {
        const { sent_at: at, ...offline } = await first.next();
        assert.deepEqual(offline, { op: 'offline', id: sent[n], from: 'ann', event: 'note', data: { n, bytes: BYTES } });
        assert.equal(typeof at, 'number');
      }
      assert.deepEqual(await first.next(), { op: 'offline_end', count: 3 });
      assert.equal((await ann.ask({ op: 'send', to: 'bob', data: 'live' })).status, 'live');
      const live = await first.next();
      assert.deepEqual([live.args, live.meta.from, live.message], [['live'], 'ann', live.meta.id]);
      first.send({ op: 'ack', message: sent[1] });
      first.send({ op: 'ack', message: sent[1] });
      first.send({ op: 'ack', message: '7-7' });
      // The numbers that Socket.IO's acknowledgements have are none of its messages'.
      for (let message = 0; message < 20; message += 1) first.send({ op: 'ack', message });
      assert.equal((await first.ask({ op: 'heartbeat' })).ok, true);
      assert.equal((await first.ask({ op: 'close' })).ok, true);
      assert.deepEqual(await first.ended(), { code: 1000, reason: '' });

      const second = await as(stage, url, { user: 'bob' });
      second.send({ op: 'online', ack: 'each' });
      for (const id of [sent[0], sent[2], live.message]) assert.equal((await second.next()).id, id);
      assert.deepEqual(await second.next(), { op: 'offline_end', count: 3 });
      // A new round, and the acknowledgement of what came in the one before.
      second.send({ op: 'online', ack: 'each' });
      for (let count = 0; count < 3; count += 1) await second.next();
      await second.next();
      for (const id of [sent[0], sent[2], live.message]) second.send({ op: 'ack', message: id });
      assert.equal((await second.ask({ op: 'heartbeat' })).ok, true);
      const left = await fetch(`${admin}/api/v1/users/bob`).then((answer) => answer.json());
      assert.equal(left.offline.count, 0);

      await ann.ask({ op: 'send', to: 'carl', data: 1 });
      const carl = await as(stage, url, { user: 'carl' });
      carl.send({ op: 'online', ack: 'none' });
      assert.equal((await carl.next()).op, 'offline');
      await carl.next();
      await ann.ask({ op: 'send', to: 'carl', data: 2 });
      assert.equal((await carl.next()).message, undefined, 'nothing is to be acknowledged');
      await carl.ask({ op: 'heartbeat' });
      await until('both are settled', async () => (await fetch(`${admin}/api/v1/users/carl`).then((answer) => answer.json())).offline.count === 0);
    });
  });

  describe(`the end of a connection in ${name}`, OPTIONS, () => {
    const as = (stage, url, auth, options = {}) => enter(stage, url, auth, { formats, ...options });
    const isPacked = formats[0] === MSGPACK_FORMAT;

    test('what is no message closes with 4400 and says what is wrong', async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage);
      const cases = isPacked
        ? { nothing: Buffer.from([]), 'the reserved byte': Buffer.from([0xc1]), 'a list': Buffer.from([0x90]), text: '{"op":"join"}', 'no op': Buffer.from([0x80]) }
        : { nothing: '', 'no JSON': 'hello', 'a list': '[]', binary: Buffer.from('{"op":"join"}'), 'no op': '{"room":"x"}', 'an object for an id': '{"op":"join","id":{}}', 'no base64': '{"op":"publish","data":{"$binary":"?"}}' };
      for (const [what, frame] of Object.entries(cases)) {
        const plain = await as(stage, node.url, {});
        plain.socket.send(frame);
        assert.equal(code(await plain.ended()), '4400 bad_request', what);
      }
      assert.equal(await node.disconnects('parse error'), Object.keys(cases).length);
      for (const message of [{ op: 'connect' }, { op: 'ack', message: -1 }, { op: 'ack' }, { op: 'x'.repeat(257) }]) {
        const plain = await as(stage, node.url, {});
        plain.send(message);
        assert.equal(code(await plain.ended()), '4400 bad_request', JSON.stringify(message));
      }
      for (const message of [{ op: 'join', room: 'r' }, { op: 'ack', message: '1-0' }, { op: 'dance' }]) {
        const plain = await open(stage, node.url, { formats });
        plain.send(message);
        assert.deepEqual(await plain.ended(), { code: 4400, reason: 'bad_request: the first message must be connect' });
      }
    });

    test('who may not come in is told by the code, and by a reply if it asked', async (t) => {
      const stage = stageOf(t);
      const config = `auth.jwt.secret = "${SECRET}"\n[namespaces."/"]\n[namespaces."/keep"]\nsessions.on_duplicate = "reject"\n`;
      const { url } = await startTidegate(stage, { dev: false, config });
      const now = Math.floor(Date.now() / 1_000);
      const good = { token: token({ sub: 'ann', exp: now + 600, tidegate: { namespaces: ['/', '/keep'] } }) };
      const narrow = { token: token({ sub: 'ann', exp: now + 600 }) };
      for (const [connectMessage, expected, error] of [
        [{}, 4401, 'unauthorized'],
        [{ auth: { token: 'nonsense' } }, 4401, 'unauthorized'],
        [{ auth: { token: token({ sub: 'ann', exp: now - 60 }) } }, 4401, 'token_expired'],
        [{ auth: narrow, namespace: '/keep' }, 4403, 'forbidden'],
        [{ auth: good, namespace: '/nowhere' }, 4400, 'not_found'],
        [{ auth: good, namespace: 7 }, 4400, 'bad_request'],
        [{ auth: 7 }, 4400, 'bad_request'],
        [{ auth: { token: 7 } }, 4400, 'bad_request'],
      ]) {
        const asking = await open(stage, url, { formats });
        asking.send({ op: 'connect', id: 'c', ...connectMessage });
        if (connectMessage.namespace !== 7) {
          const { ok, id, error: told } = await asking.next(`the refusal ${expected}`);
          assert.deepEqual([ok, id, told.code], [false, 'c', error]);
        }
        const ended = await asking.ended();
        assert.equal(code(ended), `${expected} ${error}`);
        const silent = await open(stage, url, { formats });
        silent.send({ op: 'connect', ...connectMessage });
        assert.deepEqual(await silent.ended(), ended);
        assert.equal(silent.inbox.waiting, 0);
      }
      await as(stage, url, good, { namespace: '/keep' });
      const late = await open(stage, url, { formats });
      late.send({ op: 'connect', auth: good, namespace: '/keep' });
      assert.equal(code(await late.ended()), '4409 duplicate_session');
    });

    test('before a token is shown a message has at most 16 KB', async (t) => {
      const stage = stageOf(t);
      const { url } = await startTidegate(stage, { dev: false, config: `auth.jwt.secret = "${SECRET}"\n` });
      const auth = { token: token({ sub: 'ann', exp: Date.now() / 1_000 + 600, tidegate: { publish: ['*'] } }) };
      const greedy = await open(stage, url, { formats });
      greedy.send({ op: 'connect', auth, more: 'x'.repeat(17_000) });
      assert.equal((await greedy.ended()).code, 1009);
      const known = await as(stage, url, auth);
      assert.equal((await known.ask({ op: 'publish', room: 'r', data: 'x'.repeat(100_000) })).ok, true);
      known.send({ op: 'publish', room: 'r', data: 'x'.repeat(1_000_001) });
      assert.equal((await known.ended()).code, 1009);
    });

    test('an expired token ends the session with 4401, a kick with 4410, a newer session with 4409', async (t) => {
      const stage = stageOf(t);
      const { url, admin } = await startTidegate(stage, { dev: false, config: `auth.jwt.secret = "${SECRET}"\nadmin.api_keys = ["a-key-of-some-length"]\n` });
      const exp = Math.floor(Date.now() / 1_000) - 2;
      const expiring = await as(stage, url, { token: token({ sub: 'ann', exp }) });
      assert.deepEqual(await expiring.next('evicted', 8_000), { op: 'evicted', reason: 'expired' });
      assert.deepEqual(await expiring.ended(), { code: 4401, reason: 'expired' });
      const auth = { token: token({ sub: 'bob', exp: exp + 600 }) };
      const kicked = await as(stage, url, auth);
      await fetch(`${admin}/api/v1/users/bob/sessions`, { method: 'DELETE', headers: { authorization: 'Bearer a-key-of-some-length' } });
      assert.deepEqual(await kicked.next(), { op: 'evicted', reason: 'kicked' });
      assert.deepEqual(await kicked.ended(), { code: 4410, reason: 'kicked' });
      const old = await as(stage, url, auth);
      await as(stage, url, auth);
      assert.equal((await old.next()).reason, 'replaced');
      assert.deepEqual(await old.ended(), { code: 4409, reason: 'replaced' });
    });

    test('silence is 4408, and anything breaks it', async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage, { settings: { engine: { ping_interval_ms: 300, ping_timeout_ms: 200, connect_timeout_ms: 400 } } });
      const silent = await as(stage, node.url, {}, { autoPong: false });
      assert.equal(silent.connected.heartbeat_ms, 300);
      const answering = await as(stage, node.url, {});
      const mute = await open(stage, node.url, { formats });
      assert.deepEqual(await mute.ended(), { code: 4408, reason: 'no connect in time' });
      assert.equal(code(await silent.ended()), '4408 no heartbeat');
      assert.ok(silent.pings >= 1);
      // It comes now, or it would have been silent as long as the silent one.
      const texting = await as(stage, node.url, {}, { autoPong: false });
      for (let beats = 0; beats < 10; beats += 1) {
        texting.send('ping');
        assert.equal(await texting.next(), 'pong');
        await until('the next ping', () => answering.pings > beats);
      }
      assert.equal((await texting.ask({ op: 'heartbeat' })).ok, true);
      assert.equal(await node.disconnects('ping timeout'), 1);
    });

    test('a flood is answered rate_limited, or closed with 4429 if it does not ask', async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage, { settings: { limits: { events_per_second_max: 1, events_burst: 5 } } });
      const asking = await as(stage, node.url, {});
      const answers = [];
      for (let n = 0; n < 20; n += 1) answers.push(outcome(await asking.ask({ op: 'publish', room: 'r' })));
      assert.deepEqual([...new Set(answers)], ['ok', 'rate_limited']);
      assert.equal((await asking.ask({ op: 'heartbeat' })).ok, true, 'signs of life do not count');
      const flooding = await as(stage, node.url, {});
      for (let n = 0; n < 20; n += 1) flooding.send({ op: 'publish', room: 'r' });
      assert.equal(code(await flooding.ended()), '4429 rate_limited');
      assert.equal(await node.metric('tidegate_dropped_total', { reason: 'rate_limited' }), 6);
    });

    test('a flood is found by what is dropped of it, however evenly it comes', async (t) => {
      const stage = stageOf(t);
      const { url } = await startTidegate(stage, { settings: { limits: { events_per_second_max: 200, events_burst: 400 } } });
      const flooding = await as(stage, url, {});
      const timer = setInterval(() => {
        for (let n = 0; n < 10; n += 1) flooding.send({ op: 'publish', room: 'r' });
        flooding.send({ op: 'heartbeat' });
      }, 5);
      stage.defer(() => clearInterval(timer));
      assert.equal(code(await flooding.ended()), '4429 rate_limited');
    });

    test('who does not read is closed as a slow consumer, and others get everything', async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage, { settings: { limits: { outbox_bytes_max: 2_000_000 }, engine: { payload_bytes_max: 1_000_000 } } });
      const slow = await as(stage, node.url, {});
      const quick = await as(stage, node.url, {});
      for (const each of [slow, quick]) await each.ask({ op: 'join', room: 'r' });
      slow.socket.pause();
      const sender = await as(stage, node.url, {});
      let sent = 0;
      await until('the slow one is closed', async () => {
        for (let n = 0; n < 10; n += 1, sent += 1) await sender.ask({ op: 'publish', room: 'r', data: { n: sent, text: 'x'.repeat(100_000) } });
        return (await node.disconnects('slow consumer')) === 1;
      }, 20_000);
      for (let n = 0; n < sent; n += 1) assert.equal((await quick.next()).args[0].n, n);
      slow.socket.resume();
      // What had left before it fell behind, and then the end.
      assert.equal(code(await slow.ended(10_000)), '4413 slow consumer');
    });

    test('broken frames close as the standard says', async (t) => {
      const stage = stageOf(t);
      const { url } = await startTidegate(stage);
      const garbled = await as(stage, url, {});
      // A masked text frame whose one byte is no UTF-8.
      garbled.socket._socket.write(Buffer.from([0x81, 0x81, 0, 0, 0, 0, 0xff]));
      assert.equal((await garbled.ended()).code, 1007);
      const unmasked = await as(stage, url, {});
      unmasked.socket._socket.write(Buffer.from([0x81, 0x01, 0x61]));
      assert.equal((await unmasked.ended()).code, 1002);
      const polite = await as(stage, url, {});
      polite.socket.close(3_000, 'bye');
      assert.equal((await polite.ended()).code, 3_000);
    });
  });
}

describe('plain clients beside others', OPTIONS, () => {
  test('clients of every kind in one room exchange text and bytes over two nodes', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const [a, b] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    const plain = await Promise.all([enter(stage, a.url, { user: 'json' }), enter(stage, b.url, { user: 'msgpack' }, { formats: [MSGPACK_FORMAT] })]);
    const sockets = await Promise.all([
      connect(stage, a.url, { ...WEBSOCKET, auth: { user: 'default' } }),
      connect(stage, b.url, { ...POLLING, auth: { user: 'polling' } }),
      connect(stage, b.url, { ...WEBSOCKET, ...MESSAGE_PACK, auth: { user: 'packed' } }),
    ]);
    for (const each of plain) assert.equal((await each.ask({ op: 'join', room: 'r' })).ok, true);
    for (const each of sockets) assert.equal((await ask(each, 'join', 'r')).ok, true);
    const heard = sockets.map((socket) => inbox(socket, 'note'));
    const senders = [
      ...plain.map((each) => (data) => each.ask({ op: 'publish', room: 'r', event: 'note', data, echo: true })),
      ...sockets.map((each) => (data) => ask(each, 'publish', { room: 'r', event: 'note', data, echo: true })),
    ];
    const users = ['json', 'msgpack', 'default', 'polling', 'packed'];
    for (const [index, publish] of senders.entries()) {
      for (const data of ['héllo \u{1f30a}', { text: 'and bytes', bytes: BYTES, deep: [{ more: BYTES, none: null, big: 2 ** 40, half: 0.5 }] }, BYTES]) {
        assert.equal((await publish(data)).ok, true);
        for (const each of plain) {
          const { op, event, args, meta } = await each.next();
          assert.deepEqual([op, event, args, meta.from, meta.room], ['event', 'note', [data], users[index], 'r']);
        }
        for (const each of heard) {
          const [got, meta] = await each.next();
          assert.deepEqual([got, meta.from], [data, users[index]]);
        }
      }
    }
  });

  test('a date keeps being one between MessagePack clients, and is text in JSON', async (t) => {
    const stage = stageOf(t);
    const { url } = await startTidegate(stage);
    const date = new Date(1_790_000_000_123);
    const [packed, json] = [await enter(stage, url, {}, { formats: [MSGPACK_FORMAT] }), await enter(stage, url, {})];
    const socket = await connect(stage, url, { ...WEBSOCKET, ...MESSAGE_PACK });
    for (const each of [packed, json]) await each.ask({ op: 'join', room: 'r' });
    await ask(socket, 'join', 'r');
    const heard = inbox(socket, 'message');
    await packed.ask({ op: 'publish', room: 'r', data: { date }, echo: true });
    assert.deepEqual((await packed.next()).args, [{ date }]);
    assert.deepEqual((await json.next()).args, [{ date: date.toISOString() }]);
    assert.deepEqual((await heard.next())[0], { date });
    await ask(socket, 'publish', { room: 'r', data: { date, gone: undefined } });
    assert.deepEqual((await packed.next()).args, [{ date }]);
    assert.deepEqual((await json.next()).args, [{ date: date.toISOString() }]);
  });

  test('what Node servers and emitters send has their arguments and no meta, and they can ask for acknowledgements', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis });
    const peer = await startStock(stage, { redis });
    const { emitter } = await startEmitter(stage, redis);
    const clients = [await enter(stage, node.url, { user: 'ann' }), await enter(stage, node.url, {}, { formats: [MSGPACK_FORMAT] })];
    for (const each of clients) await each.ask({ op: 'join', room: 'r' });
    const values = [1, 'two', { three: BYTES }, null];
    emitter.to('r').emit('many', ...values);
    for (const each of clients) assert.deepEqual(await each.next(), { op: 'event', event: 'many', args: values });
    // What looks like the gateway's word is an argument, if somebody else says it.
    const forged = [{ text: 'hi' }, { id: 'x', room: 'r', from: 'admin', node: 'n', ts: 1 }];
    for (const send of [() => emitter.to('r').emit('forged', ...forged), () => peer.io.to('r').emit('forged', ...forged)]) {
      send();
      for (const each of clients) assert.deepEqual(await each.next(), { op: 'event', event: 'forged', args: forged });
    }
    emitter.to(clients[0].connected.session).emit('own');
    assert.deepEqual(await clients[0].next(), { op: 'event', event: 'own', args: [] });

    const answered = peer.io.timeout(2_000).to('r').emitWithAck('question', 1);
    for (const [index, each] of clients.entries()) {
      const { message, args } = await each.next();
      assert.deepEqual([typeof message, args], ['number', [1]]);
      if (index === 0) {
        each.send({ op: 'ack', message, args: [{ bytes: BYTES }, 2] });
      } else {
        // As a float of 64 bits, as some writers of MessagePack have every number.
        const float = Buffer.alloc(9);
        float[0] = 0xcb;
        float.writeDoubleBE(message, 1);
        each.socket.send(Buffer.concat([Buffer.from('82a26f70a361636ba76d657373616765', 'hex'), float]));
      }
    }
    assert.deepEqual((await answered).sort((one) => (one === null ? 1 : -1)), [{ bytes: BYTES }, null]);

    const sockets = await peer.io.in('r').fetchSockets();
    assert.deepEqual(sockets.map(({ data }) => data.user).sort(), ['ann', undefined]);
    peer.io.in(clients[0].connected.session).disconnectSockets();
    assert.deepEqual(await clients[0].next(), { op: 'evicted', reason: 'kicked' });
    assert.equal((await clients[0].ended()).code, 4410);
  });

  test('a user is one user in both protocols: the newest session wins, and the loser is out', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const [a, b] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    const auth = { user: 'ann', device: 'phone' };
    const watcher = await enter(stage, a.url, { user: 'watcher' });
    await watcher.ask({ op: 'join', room: 'r' });
    const plain = await enter(stage, a.url, auth);
    await plain.ask({ op: 'join', room: 'r' });
    const socket = await connect(stage, b.url, { ...WEBSOCKET, auth });
    // What the displaced one still sends reaches nobody.
    plain.send({ op: 'publish', room: 'r', data: 'from the dead', id: 1 });
    const { reason, by } = await plain.next();
    assert.deepEqual([reason, by.device], ['replaced', 'phone']);
    assert.equal((await plain.ended()).code, 4409);
    assert.deepEqual(plain.inbox.drain(), []);

    const evicted = once(socket, 'evicted');
    const disconnected = once(socket, 'disconnect');
    const back = await enter(stage, a.url, auth, { formats: [MSGPACK_FORMAT] });
    assert.equal((await evicted)[0].reason, 'replaced');
    assert.equal((await disconnected)[0], 'io server disconnect');
    await back.ask({ op: 'publish', room: 'r', data: 'alive' });
    assert.deepEqual((await watcher.next()).args, ['alive']);
    const { sessions } = await fetch(`${b.admin}/api/v1/users/ann`).then((answer) => answer.json());
    assert.deepEqual(sessions.map(({ session, transport }) => [session, transport]), [[back.connected.session, 'websocket']]);
  });

  test('who comes back by itself takes its own place and nobody else’s, in either protocol', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const [a, b] = await Promise.all([startTidegate(stage, { redis }), startTidegate(stage, { redis })]);
    const auth = { user: 'ann', device: 'phone' };
    const first = await enter(stage, a.url, auth);
    // Its line is cut, and nobody has found out.
    const again = await enter(stage, b.url, { ...auth, resumes: first.connected.session });
    assert.equal((await first.ended()).code, 4409);
    // Another one comes while it is away.
    const other = await connect(stage, a.url, { ...WEBSOCKET, auth });
    assert.equal((await again.ended()).code, 4409);
    const late = await open(stage, b.url);
    late.send({ op: 'connect', auth: { ...auth, resumes: again.connected.session }, id: 1 });
    assert.equal((await late.next()).error.code, 'duplicate_session');
    assert.equal(code(await late.ended()), '4409 duplicate_session');
    const refusal = await refused(stage, b.url, { ...WEBSOCKET, auth: { ...auth, resumes: again.connected.session } });
    assert.equal(refusal.data.code, 'duplicate_session');
    assert.equal((await ask(other, 'heartbeat', null)).ok, true);
    // And leaves again.
    other.disconnect();
    await until('the place is free', async () => (await fetch(`${a.admin}/api/v1/users/ann`).then((answer) => answer.json())).sessions.length === 0);
    await enter(stage, b.url, { ...auth, resumes: again.connected.session });
    const odd = await open(stage, b.url);
    odd.send({ op: 'connect', auth: { ...auth, resumes: 7 } });
    assert.equal(code(await odd.ended()), '4400 bad_request');
  });

  test('what follows a join waits for it, and a burst is answered in order', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const { url } = await startTidegate(stage, { redis });
    const plain = await enter(stage, url, {});
    for (let n = 0; n < 50; n += 1) {
      plain.send({ op: 'join', room: `r${n}`, id: `j${n}` });
      plain.send({ op: 'publish', room: `r${n}`, data: n, echo: true });
    }
    plain.send({ op: 'heartbeat', id: 'end' });
    const heard = [];
    const joined = [];
    for (let answer = await plain.next(); answer.id !== 'end' || heard.length < 50; answer = await plain.next()) {
      if (answer.op === 'event') heard.push(answer.args[0]);
      else if (answer.id !== 'end') joined.push(answer.id);
      if (heard.length === 50 && joined.length === 50) break;
    }
    assert.deepEqual(heard, [...Array(50).keys()]);
    assert.deepEqual(joined, [...Array(50).keys()].map((n) => `j${n}`));
  });

  test('while Redis is away connections stay, and what is asked for is unavailable', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis, settings: { redis: { command_timeout_ms: 500 } } });
    const clients = [await enter(stage, node.url, { user: 'ann' }), await enter(stage, node.url, {}, { formats: [MSGPACK_FORMAT] })];
    for (const each of clients) await each.ask({ op: 'join', room: 'r' });
    await redis.kill();
    await until('the node is deaf', async () => (await node.status('/readyz')).status === 503);
    for (const each of clients) assert.equal(outcome(await each.ask({ op: 'publish', room: 'r' })), 'unavailable');
    // Who has a place may have lost it unheard.
    assert.equal(outcome(await clients[0].ask({ op: 'ack', message: '1-1' })), 'unavailable');
    assert.equal(outcome(await clients[1].ask({ op: 'ack', message: '1-1' })), 'ok');
    assert.equal((await open(stage, node.url)).status, 503);
    await redis.start();
    await until('the node hears', async () => (await node.status('/readyz')).status === 200, 20_000);
    for (const each of clients) {
      assert.equal(outcome(await each.ask({ op: 'publish', room: 'r', data: 'back' })), 'ok');
    }
    assert.deepEqual((await clients[0].next()).args, ['back']);
  });

  test('who says connect in time is answered, however long it takes to displace a predecessor', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const settings = { engine: { connect_timeout_ms: 1_000 }, cluster: { pulse_interval_ms: 300, fence_after_ms: 1_500 } };
    const [a, b] = await Promise.all([startTidegate(stage, { redis, settings }), startTidegate(stage, { redis, settings })]);
    const auth = { user: 'ann', device: 'phone' };
    const old = await enter(stage, a.url, auth);
    await a.freeze(stage);
    const young = await open(stage, b.url);
    young.send({ op: 'connect', auth });
    // Beyond its own second, and when the fence is over.
    assert.equal((await young.next('connected', 10_000)).op, 'connected');
    assert.equal((await young.ask({ op: 'heartbeat' })).ok, true);
    a.thaw();
    assert.equal((await old.ended()).code, 4409);
    assert.equal((await young.ask({ op: 'heartbeat' })).ok, true);
  });

  test('a node that stood still reads what was said meanwhile before it takes anybody for silent', async (t) => {
    const stage = stageOf(t);
    // Not for so long that it would not know whether it may let anybody in.
    const settings = { engine: { connect_timeout_ms: 3_000, ping_interval_ms: 1_500, ping_timeout_ms: 1_500 }, cluster: { fence_after_ms: 9_000 } };
    const node = await startTidegate(stage, { settings });
    const beating = await enter(stage, node.url, {});
    const waiting = await open(stage, node.url);
    await node.freeze(stage);
    waiting.send({ op: 'connect' });
    beating.send('ping');
    await pause(5_000);
    beating.send('ping');
    node.thaw();
    assert.equal((await waiting.next('connected')).op, 'connected');
    assert.equal(await beating.next(), 'pong');
    assert.equal((await beating.ask({ op: 'heartbeat' })).ok, true);
  });

  test('a cluster that cannot be asked is 4503, and a session that was lost, too', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const node = await startTidegate(stage, { redis, settings: { redis: { command_timeout_ms: 500 }, cluster: { fence_after_ms: 5_000 }, sessions: { lease_ttl_ms: 6_000, lease_renew_ms: 2_000 } } });
    const waiting = await open(stage, node.url);
    // Not for so long that the node would be deaf, and hold no handshake at all.
    redis.freeze();
    waiting.send({ op: 'connect', auth: { user: 'ann' } });
    assert.equal(code(await waiting.ended()), '4503 unavailable');
    redis.thaw();
  });

  test('what is asked before a goodbye is answered before it', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const { url } = await startTidegate(stage, { redis });
    for (let round = 0; round < 20; round += 1) {
      const plain = await enter(stage, url, { user: 'ann' });
      plain.send({ op: 'join', room: 'r', id: 0 });
      plain.send({ op: 'publish', room: 'r', data: 1, id: 1 });
      plain.send({ op: 'close', id: 2 });
      for (const id of [0, 1, 2]) assert.deepEqual([(await plain.next()).id, id], [id, id]);
      assert.equal((await plain.ended()).code, 1000);
    }
  });

  test('metrics count them as anybody', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const [one, two] = [await enter(stage, node.url, {}), await enter(stage, node.url, {})];
    for (const each of [one, two]) await each.ask({ op: 'join', room: 'r' });
    await one.ask({ op: 'publish', room: 'r', data: 1 });
    await two.next();
    assert.equal(await node.metric('tidegate_connections', { transport: 'websocket' }), 2);
    assert.equal(await node.metric('tidegate_sessions'), 2);
    assert.equal(await node.metric('tidegate_deliveries_total'), 1);
    assert.equal(await node.metric('tidegate_operations_total', { operation: 'join', code: 'ok' }), 2);
    one.send({ op: 'close' });
    await one.ended();
    await until('it is gone', async () => (await node.metric('tidegate_connections', { transport: 'websocket' })) === 1);
    assert.equal(await node.disconnects('client namespace disconnect'), 1);
  });
});
