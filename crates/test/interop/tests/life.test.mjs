// A transport's life: heartbeat, upgrade, payload limits, and every way it ends.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { IS_STOCK, startSubject, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { ask, client, connect, inbox, POLLING, WEBSOCKET } from '../lib/client.mjs';
import { pause, until } from '../lib/wait.mjs';
import { answers, connectFrames, openFrames, Polling, SEPARATOR, tcp, upgrade } from '../lib/wire.mjs';

const INTERVAL = 300;
const TIMEOUT = 200;
const FAST = { settings: { engine: { ping_interval_ms: INTERVAL, ping_timeout_ms: TIMEOUT } } };

/** Timers may fire this much before the clock of this process says so. */
const EARLY = 15;

async function isGone(session) {
  const { status, body } = await session.poll();
  return status === 400 && JSON.parse(body).code === 1;
}

describe('heartbeat', { concurrency: 4 }, () => {
  test('websocket: a ping every interval, and pongs keep it alive', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const frames = await connectFrames(stage, subject.url);
    for (let i = 0; i < 5; i += 1) {
      assert.equal(await frames.next('a ping', INTERVAL + 1_000), '2');
      frames.send('3');
    }
    assert.ok(await answers(frames));
  });

  test('websocket: silence ends it with ping timeout', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const frames = await connectFrames(stage, subject.url);
    const since = performance.now();
    assert.equal(await frames.next('a ping'), '2');
    await frames.ended();
    assert.ok(performance.now() - since >= INTERVAL + TIMEOUT - 100, 'not before its time');
    await until('counted', async () => (await subject.disconnects('ping timeout')) === 1);
  });

  test('polling: gone exactly after interval and timeout', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const session = await Polling.open(subject.url);
    await pause(INTERVAL + TIMEOUT);
    const { status } = await session.poll();
    assert.equal(status, 400);
  });

  test('polling: a ping is queued while no poll is pending', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const session = await Polling.open(subject.url);
    await pause(INTERVAL + 50);
    assert.equal((await session.poll()).body, '2');
    assert.equal((await session.post('3')).body, 'ok');
    assert.equal((await session.poll()).body, '2', 'the next interval');
    assert.equal((await session.post('3')).body, 'ok');
  });

  test('one other packet while a pong is owed extends the timeout once', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const frames = await connectFrames(stage, subject.url);
    assert.equal(await frames.next('a ping'), '2');
    await pause(TIMEOUT / 2);
    const extended = performance.now();
    frames.send('42["heartbeat"]');
    await frames.ended();
    assert.ok(performance.now() - extended >= TIMEOUT - EARLY, 'a whole timeout after the packet');
  });

  test('packets without a pong do not keep a connection for ever', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const frames = await connectFrames(stage, subject.url);
    let over = false;
    const ended = frames.ended().finally(() => (over = true));
    while (!over) {
      frames.send('42["heartbeat"]');
      await pause(50);
    }
    await ended;
  });

  test('official clients stay connected through many heartbeats', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, FAST);
    const sockets = await Promise.all([{}, POLLING, WEBSOCKET].map((options) => connect(stage, subject.url, options)));
    let drops = 0;
    for (const socket of sockets) socket.on('disconnect', () => (drops += 1));
    await pause(5 * (INTERVAL + TIMEOUT));
    for (const socket of sockets) assert.equal((await ask(socket, 'heartbeat')).ok, true);
    assert.equal(drops, 0);
  });
});

describe('upgrade', { concurrency: 4 }, () => {
  /** A polling session in `/` and a WebSocket that carries its sid. */
  async function probing(stage, subject) {
    const session = await Polling.connect(subject.url);
    const { frames } = await upgrade(stage, subject.url, { sid: session.sid });
    return { session, frames };
  }

  test('probe, noop, upgrade: the session moves with what was under way', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const speaker = await connect(stage, subject.url, WEBSOCKET);
    const { session, frames } = await probing(stage, subject);
    await session.post('420["join","r"]');
    assert.match((await session.poll()).body, /^430\[/);

    const pending = session.poll();
    frames.send('2probe');
    assert.equal(await frames.next('the probe answer'), '3probe');
    assert.equal((await pending).body, '6', 'the pending poll is let go');
    assert.equal((await session.post('421["heartbeat"]')).body, 'ok', 'posts still work while probing');
    await ask(speaker, 'publish', { room: 'r', data: 'between' });
    frames.send('5');
    const [ack, between] = [await frames.next(), await frames.next()];
    assert.match(ack, /^431\[\{"ok":true/);
    assert.match(between, /^42\["message","between",/);
    assert.ok(await answers(frames));

    const stale = await session.poll();
    assert.equal(stale.status, 400);
    assert.deepEqual(JSON.parse(stale.body), { code: 3, message: 'Bad request' });
    const second = await upgrade(stage, subject.url, { sid: session.sid });
    if (second.frames) await second.frames.ended();
    else assert.equal(second.status, 400);
    assert.ok(await answers(frames), 'the session is not hurt by a second WebSocket');
  });

  test('a poll that comes while probing is answered on the next tick', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const { session, frames } = await probing(stage, subject);
    frames.send('2probe');
    assert.equal(await frames.next(), '3probe');
    assert.equal((await session.poll({ within: 1_000 })).body, '6');
    frames.send('5');
    assert.ok(await answers(frames));
  });

  for (const [name, frame] of Object.entries({ 'a message': '42["x"]', 'another ping': '2other', binary: Buffer.from([1]) })) {
    test(`${name} first: the WebSocket is closed, the polling session lives`, async (t) => {
      const stage = stageOf(t);
      const subject = await startSubject(stage);
      const { session, frames } = await probing(stage, subject);
      frames.send(frame);
      await frames.ended();
      assert.equal((await session.post('421["heartbeat"]')).body, 'ok');
      assert.match((await session.poll()).body, /^431\[/);
    });
  }

  test('a WebSocket that goes away while probing leaves the session alone', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const { session, frames } = await probing(stage, subject);
    frames.send('2probe');
    await frames.next();
    frames.socket.terminate();
    await session.post('421["heartbeat"]');
    await until('the acknowledgement comes by polling', async () => (await session.poll()).body.includes('431['));
    const again = await upgrade(stage, subject.url, { sid: session.sid });
    again.frames.send('2probe');
    assert.equal(await again.frames.next(), '3probe', 'it may try again');
    again.frames.send('5');
    assert.ok(await answers(again.frames));
  });

  test('no upgrade in time: the WebSocket is closed, the session lives', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { upgrade_timeout_ms: 500 } } });
    const { session, frames } = await probing(stage, subject);
    frames.send('2probe');
    assert.equal(await frames.next(), '3probe');
    await frames.ended();
    await session.post('421["heartbeat"]');
    await until('the acknowledgement comes by polling', async () => (await session.poll()).body.includes('431['));
  });

  test('a second WebSocket while the first is probing is closed', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const { session, frames } = await probing(stage, subject);
    frames.send('2probe');
    assert.equal(await frames.next(), '3probe');
    const second = await upgrade(stage, subject.url, { sid: session.sid });
    if (second.frames) await second.frames.ended();
    else assert.equal(second.status, 400);
    frames.send('5');
    assert.ok(await answers(frames));
  });
});

describe('polling', { concurrency: 4 }, () => {
  test('one body carries several packets both ways', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    const posted = await session.post(['421["heartbeat"]', '422["join","r"]', '423["heartbeat"]'].join(SEPARATOR));
    assert.equal(posted.status, 200);
    assert.equal(posted.body, 'ok');
    assert.match(posted.headers['content-type'], /^text\/html/);
    assert.equal(posted.headers['content-length'], '2');
    const heard = [];
    while (heard.length < 3) heard.push(...(await session.poll()).body.split(SEPARATOR));
    assert.deepEqual(heard.map((each) => each.slice(0, 3)).sort(), ['431', '432', '433']);
  });

  test('binary packets are base64 with a b, both ways', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    await session.post('421["join","r"]');
    await session.poll();
    await session.post(['451-["publish",{"room":"r","echo":true,"data":{"_placeholder":true,"num":0}}]', 'bAQID/w=='].join(SEPARATOR));
    const heard = [];
    while (heard.length < 2) heard.push(...(await session.poll()).body.split(SEPARATOR));
    assert.match(heard[0], /^451-\["message",\{"_placeholder":true,"num":0\},\{/);
    assert.equal(heard[1], 'bAQID/w==');
  });

  test('a POST of the wrong kind is refused and ends the session', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    const posted = await session.post(Buffer.from([4, 1, 2]), { headers: { 'content-type': 'application/octet-stream' } });
    assert.equal(posted.status, 400);
    assert.equal(posted.body, '');
    await until('the session is gone', () => isGone(session));
  });

  test('a POST over the limit: 413, and the session lives', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { payload_bytes_max: 10_000 } } });
    const session = await Polling.connect(subject.url);
    const big = await session.post(`42["whatever","${'x'.repeat(10_000)}"]`);
    assert.equal(big.status, 413);
    assert.equal(big.body, '');
    const fitting = `421["heartbeat","${'x'.repeat(10_000 - 18 - 1)}"]`;
    assert.ok(fitting.length <= 10_000);
    assert.equal((await session.post(fitting)).body, 'ok');
    assert.match((await session.poll()).body, /^431\[/);
  });

  test('a chunked POST over the limit: 413, and the session lives', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { payload_bytes_max: 10_000 } } });
    const session = await Polling.connect(subject.url);
    const bare = await tcp(stage, subject.port);
    const path = session.url.slice(subject.url.length);
    bare.socket.write(`POST ${path} HTTP/1.1\r\nhost: 127.0.0.1:${subject.port}\r\ncontent-type: text/plain;charset=UTF-8\r\ntransfer-encoding: chunked\r\n\r\n`);
    for (let i = 0; i < 12; i += 1) bare.socket.write(`3e8\r\n${'4'.repeat(1_000)}\r\n`);
    await until('the answer', () => bare.received.startsWith('HTTP/1.1 413'));
    assert.equal((await session.post('421["heartbeat"]')).body, 'ok');
    assert.match((await session.poll()).body, /^431\[/);
  });

  test('two polls at once: the second is refused, both the first and the session end', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    const first = session.poll();
    await pause(50);
    const second = await session.poll();
    assert.equal(second.status, 400);
    assert.equal((await first).body, '1');
    await until('the session is gone', () => isGone(session));
    assert.equal(await subject.disconnects('transport error'), 1);
  });

  test('a poll that is given up ends the session', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    const gaveUp = new AbortController();
    const pending = session.poll({ signal: gaveUp.signal });
    await pause(50);
    gaveUp.abort();
    await assert.rejects(pending);
    await until('counted', async () => (await subject.disconnects('transport error')) === 1);
    assert.ok(await isGone(session));
  });

  test('a client that posts a close packet', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const session = await Polling.connect(subject.url);
    const pending = session.poll();
    await pause(50);
    assert.equal((await session.post('1')).body, 'ok');
    assert.equal((await pending).body, '6');
    await until('the session is gone', () => isGone(session));
    assert.equal(await subject.disconnects('transport close'), 1);
  });
});

describe('websocket', { concurrency: 4 }, () => {
  test('a message over the limit: 1009, one of exactly the limit passes', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { payload_bytes_max: 10_000 } } });
    const frames = await connectFrames(stage, subject.url);
    const around = '427["heartbeat",""]';
    frames.send(`427["heartbeat","${'x'.repeat(10_000 - around.length)}"]`);
    await frames.startingWith('437');
    frames.send(`427["heartbeat","${'x'.repeat(10_001 - around.length)}"]`);
    assert.equal((await frames.ended()).code, 1009);
    await until('counted', async () => (await subject.disconnects('transport error')) === 1);
  });

  test('fragments over the limit: 1009', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { payload_bytes_max: 10_000 } } });
    const frames = await connectFrames(stage, subject.url);
    for (let i = 0; i < 6; i += 1) frames.socket.send('x'.repeat(2_000), { fin: false });
    assert.equal((await frames.ended()).code, 1009);
  });

  test('a fragmented message arrives whole', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    const text = '427["heartbeat","é😀"]';
    const bytes = Buffer.from(text);
    for (let i = 0; i < bytes.length; i += 1) frames.socket.send(bytes.subarray(i, i + 1), { binary: false, fin: i === bytes.length - 1 });
    assert.match(await frames.next(), /^437\[/);
  });

  test('pings of the WebSocket protocol are answered between fragments', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    frames.socket.send('427["heart', { fin: false });
    const ponged = new Promise((resolve) => frames.socket.once('pong', (data) => resolve(data.toString())));
    frames.socket.ping('are you there');
    assert.equal(await ponged, 'are you there');
    frames.socket.send('beat"]', { fin: true });
    assert.match(await frames.next(), /^437\[/);
  });

  test('a close frame is answered and counted as transport close', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    frames.socket.close(1000);
    assert.equal((await frames.ended()).code, 1000);
    await until('counted', async () => (await subject.disconnects('transport close')) === 1);
  });

  test('a cut connection is counted', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    frames.socket.terminate();
    const counted = async () => (await subject.disconnects('transport close')) + (await subject.disconnects('transport error'));
    await until('counted', async () => (await counted()) === 1);
  });

  test('an Engine.IO close packet closes at once', { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    frames.send('1');
    await frames.ended(1_000);
    await until('counted', async () => (await subject.disconnects('transport close')) === 1);
  });

  for (const [name, { bytes, code }] of Object.entries({
    'an unmasked frame': { bytes: [0x81, 0x01, 0x33], code: 1002 },
    'a reserved opcode': { bytes: [0x83, 0x81, 0, 0, 0, 0, 0x33], code: 1002 },
    'a reserved bit': { bytes: [0xc1, 0x81, 0, 0, 0, 0, 0x33], code: 1002 },
    'a fragmented ping': { bytes: [0x09, 0x80, 0, 0, 0, 0], code: 1002 },
    'a continuation of nothing': { bytes: [0x80, 0x81, 0, 0, 0, 0, 0x33], code: 1002 },
    'a close with one byte': { bytes: [0x88, 0x81, 0, 0, 0, 0, 0x03], code: 1002 },
    'text that is no UTF-8': { bytes: [0x81, 0x82, 0, 0, 0, 0, 0x34, 0xff], code: 1007 },
  })) {
    test(`${name}: ${code}`, async (t) => {
      const stage = stageOf(t);
      const subject = await startSubject(stage);
      const frames = await connectFrames(stage, subject.url);
      frames.socket._socket.write(Buffer.from(bytes));
      assert.equal((await frames.ended()).code, code);
    });
  }

  test('a frame that claims 2^62 bytes is refused at once', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const frames = await connectFrames(stage, subject.url);
    frames.socket._socket.write(Buffer.from([0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]));
    const { code } = await frames.ended();
    assert.ok([1002, 1009, 1006].includes(code), `${code}`);
  });
});

describe('timeouts', { concurrency: 4 }, () => {
  test('no CONNECT in time: the transport is closed', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { connect_timeout_ms: 500 } } });
    const silent = await openFrames(stage, subject.url);
    const polling = await Polling.open(subject.url);
    const joined = await connectFrames(stage, subject.url);
    await silent.ended();
    const { status, body } = await polling.poll();
    assert.ok(status === 400 || body.endsWith('1'), `${status} ${body}`);
    assert.ok(await answers(joined), 'one that joined in time stays');
  });

  test('a request header that dribbles is cut', { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const bare = await tcp(stage, subject.port);
    bare.socket.write('GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n');
    const dribble = setInterval(() => bare.socket.write('x'), 250);
    stage.defer(() => clearInterval(dribble));
    await bare.closed(15_000);
    assert.doesNotMatch(bare.received, /^HTTP\/1.1 200/);
  });

  test('a connection that never says a word is cut', { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const bare = await tcp(stage, subject.port);
    await bare.closed(15_000);
  });

  test('a client that leaves its last namespace keeps its transport', async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage, { settings: { engine: { connect_timeout_ms: 500 } } });
    const frames = await connectFrames(stage, subject.url);
    frames.send('41');
    await pause(800);
    frames.send('40');
    await frames.startingWith('40{');
    assert.ok(await answers(frames));
  });
});

test('a slow reader is closed when its outbox is full, and others get everything', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { engine: { payload_bytes_max: 100_000 }, limits: { outbox_bytes_max: 262_144 } } });
  const publisher = await connect(stage, subject.url, WEBSOCKET);
  const quick = await connect(stage, subject.url, WEBSOCKET);
  const heard = inbox(quick);
  await ask(quick, 'join', 'r');
  const slow = await connectFrames(stage, subject.url);
  slow.send('421["join","r"]');
  await slow.startingWith('431');
  slow.socket.pause();
  const data = 'x'.repeat(50_000);
  let sent = 0;
  await until(
    'the slow one is closed',
    async () => {
      assert.equal((await ask(publisher, 'publish', { room: 'r', data: { sent, data } })).ok, true);
      sent += 1;
      return (await subject.disconnects('slow consumer')) === 1;
    },
    15_000,
  );
  for (let i = 0; i < sent; i += 1) assert.equal((await heard.next())[0].sent, i);
});

test('a client that comes back after a stock reason is let in again', { skip: IS_STOCK }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const socket = client(stage, subject.url, { ...WEBSOCKET, reconnectionDelay: 50 });
  await until('connected', () => socket.connected);
  const old = socket.id;
  socket.io.engine.transport.ws.close();
  await until('connected again', () => socket.connected && socket.id !== old);
});
