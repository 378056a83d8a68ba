// The Engine.IO handshake, its refusals, and who may ask: errors of HTTP and WebSocket, CORS, Origin.

import assert from 'node:assert/strict';
import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { startSubject, IS_STOCK, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { address, connectFrames, openFrames, Polling, request, upgrade } from '../lib/wire.mjs';
import { client, WEBSOCKET } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';

const KEYS = ['maxPayload', 'pingInterval', 'pingTimeout', 'sid', 'upgrades'];
const APP = 'https://app.example';

/** An error of section "errors": JSON over polling. */
function assertRefused(answer, status, code, message) {
  assert.equal(answer.status, status, answer.body);
  assert.match(answer.headers['content-type'], /^application\/json/);
  assert.deepEqual(JSON.parse(answer.body), { code, message });
}

/** A refused WebSocket: 400 whatever the reason, the bare message as text. */
function assertNotUpgraded(answer, message) {
  assert.equal(answer.frames, undefined, 'the WebSocket was let in');
  assert.equal(answer.status, 400);
  assert.equal(answer.headers.connection, 'close');
  assert.match(answer.headers['content-type'], /^text\/html/);
  assert.equal(answer.body, message);
}

test('polling handshake: exact keys, defaults and headers', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const answer = await request(address(subject.url, { transport: 'polling' }));
  assert.equal(answer.status, 200);
  assert.match(answer.headers['content-type'], /^text\/plain; charset=utf-8$/i);
  assert.equal(answer.headers['cache-control'], 'no-store');
  assert.equal(Number(answer.headers['content-length']), answer.body.length);
  assert.equal(answer.body[0], '0');
  const opened = JSON.parse(answer.body.slice(1));
  assert.deepEqual(Object.keys(opened).sort(), KEYS);
  // For load balancers: the node that the sid ends with.
  if (!IS_STOCK) assert.equal(answer.headers['x-tidegate-node'], opened.sid.slice(20));
  const { sid, ...rest } = opened;
  assert.deepEqual(rest, { upgrades: ['websocket'], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 1_000_000 });
  assert.match(sid, /^[A-Za-z0-9_.~-]{16,}$/, 'needs no escaping in a query and holds enough randomness');
});

test('websocket handshake: no upgrades are left', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const { opened } = await openFrames(stage, subject.url);
  assert.deepEqual(Object.keys(opened).sort(), KEYS);
  assert.deepEqual(opened.upgrades, []);
});

test('settings show in the handshake', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { engine: { ping_interval_ms: 12_000, ping_timeout_ms: 7_000, payload_bytes_max: 65_536 } } });
  const { opened } = await Polling.open(subject.url);
  assert.deepEqual([opened.pingInterval, opened.pingTimeout, opened.maxPayload], [12_000, 7_000, 65_536]);
});

test('ids: unlike each other, and the Engine.IO id names the node', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { nodeId: 'node-7a' });
  const sids = new Set();
  for (let i = 0; i < 20; i += 1) {
    const { sid } = await Polling.open(subject.url);
    assert.ok(sid.includes('node-7a'), sid);
    assert.ok(sid.length >= 'node-7a'.length + 16, '96 random bits are 16 characters');
    sids.add(sid);
  }
  assert.equal(sids.size, 20);
});

test('a path below the configured one is served, one without the slash is not', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  assert.equal((await request(address(subject.url, { transport: 'polling' }, '/socket.io/anything'))).status, 200);
  assert.equal((await request(address(subject.url, { transport: 'polling' }, '/socket.io'))).status, 404);
  assert.equal((await request(`${subject.url}/elsewhere`)).status, 404);
});

test('polling refusals: status, code and message', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const ask = (parameters, options) => request(address(subject.url, parameters), options);
  const polling = { transport: 'polling' };

  assertRefused(await ask({}), 400, 0, 'Transport unknown');
  assertRefused(await ask({ transport: 'carrier-pigeon' }), 400, 0, 'Transport unknown');
  assertRefused(await ask({ transport: 'carrier-pigeon', EIO: '3' }), 400, 0, 'Transport unknown');
  assertRefused(await ask({ ...polling, sid: 'nobody' }), 400, 1, 'Session ID unknown');
  assertRefused(await ask({ ...polling, sid: 'nobody' }, { method: 'POST', body: '40' }), 400, 1, 'Session ID unknown');
  assertRefused(await ask(polling, { method: 'POST', body: '40' }), 400, 2, 'Bad handshake method');
  assertRefused(await ask(polling, { method: 'PUT' }), 400, 2, 'Bad handshake method');
  assertRefused(await ask(polling, { method: 'DELETE' }), 400, 2, 'Bad handshake method');
  assertRefused(await ask({ transport: 'websocket' }), 400, 3, 'Bad request');
  assertRefused(await ask({ ...polling, EIO: '3' }), 400, 5, 'Unsupported protocol version');
  assertRefused(await ask({ ...polling, EIO: null }), 400, 5, 'Unsupported protocol version');
  assertRefused(await ask({ ...polling, EIO: '5' }), 400, 5, 'Unsupported protocol version');
});

test('EIO other than the session’s is a bad request, and the session lives', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const session = await Polling.connect(subject.url);
  assertRefused(await request(address(subject.url, { transport: 'polling', sid: session.sid, EIO: '3' })), 400, 3, 'Bad request');
  assert.equal((await session.post('427["heartbeat"]')).body, 'ok');
  assert.match((await session.poll()).body, /^437\[\{"ok":true/);
});

test('another method on a live session', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const session = await Polling.connect(subject.url);
  for (const method of ['PUT', 'DELETE', 'PATCH']) {
    const { status } = await request(session.url, { method });
    assert.ok([405, 500].includes(status), `${method} answered ${status}`);
  }
});

test('websocket refusals: 400 and the bare message, before any 101', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  assertNotUpgraded(await upgrade(stage, subject.url, { transport: 'carrier-pigeon' }), 'Transport unknown');
  assertNotUpgraded(await upgrade(stage, subject.url, { transport: null }), 'Transport unknown');
  assertNotUpgraded(await upgrade(stage, subject.url, { sid: 'nobody' }), 'Session ID unknown');
  if (!IS_STOCK) assertNotUpgraded(await upgrade(stage, subject.url, { EIO: '3' }), 'Unsupported protocol version');
});

test('a WebSocket handshake without its key is refused', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const answer = await request(address(subject.url, { transport: 'websocket' }), {
    headers: { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13' },
  });
  assert.equal(answer.status, 400);
});

test('no Origin is always served; the same host is, another is not', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { server: { allowed_origins: [] } }, dev: false, config: '[auth]\nmode = "none"\n' });
  assert.equal((await request(address(subject.url, { transport: 'polling' }))).status, 200);
  const own = { headers: { origin: subject.url } };
  assert.equal((await request(address(subject.url, { transport: 'polling' }), own)).status, 200);
  await connectFrames(stage, subject.url, own);
  for (const origin of [APP, 'null', `http://127.0.0.1:${subject.port + 7}`, `${subject.url}.evil.example`]) {
    const headers = { origin };
    assertRefused(await request(address(subject.url, { transport: 'polling' }), { headers }), 403, 4, 'Forbidden');
    assertNotUpgraded(await upgrade(stage, subject.url, {}, { headers }), 'Forbidden');
  }
});

test('listed origins: CORS headers and preflight', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { server: { allowed_origins: [APP, 'https://other.example'] } } });
  const headers = { origin: APP };
  for (const origin of [APP, 'https://other.example']) {
    const answer = await request(address(subject.url, { transport: 'polling' }), { headers: { origin } });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['access-control-allow-origin'], origin);
    assert.equal(answer.headers['access-control-allow-credentials'], 'true');
    assert.match(answer.headers.vary ?? '', /origin/i);
  }

  const session = await Polling.connect(subject.url, '/', { headers });
  const posted = await session.post('427["heartbeat"]');
  assert.equal(posted.headers['access-control-allow-origin'], APP);
  assert.equal((await session.poll()).headers['access-control-allow-origin'], APP);

  const preflight = await request(session.url, {
    method: 'OPTIONS',
    headers: { ...headers, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type, x-custom' },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.body, '');
  assert.equal(preflight.headers['access-control-allow-origin'], APP);
  const methods = preflight.headers['access-control-allow-methods'].split(/,\s*/);
  assert.ok(methods.includes('GET') && methods.includes('POST'), methods.join());
  assert.match(preflight.headers['access-control-allow-headers'], /content-type/i);

  const frames = await connectFrames(stage, subject.url, { headers });
  assert.equal(typeof frames.id, 'string');
});

test('unlisted origins are refused on every request, WebSocket and sid requests too', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { server: { allowed_origins: [APP] } } });
  const headers = { origin: 'https://evil.example' };
  const handshake = await request(address(subject.url, { transport: 'polling' }), { headers });
  assertRefused(handshake, 403, 4, 'Forbidden');
  assert.equal(handshake.headers['access-control-allow-origin'], undefined);
  assertNotUpgraded(await upgrade(stage, subject.url, {}, { headers }), 'Forbidden');

  const session = await Polling.connect(subject.url, '/', { headers: { origin: APP } });
  assertRefused(await request(session.url, { headers }), 403, 4, 'Forbidden');
  assertRefused(await request(session.url, { method: 'POST', body: '427["heartbeat"]', headers }), 403, 4, 'Forbidden');
  assertNotUpgraded(await upgrade(stage, subject.url, { sid: session.sid }, { headers }), 'Forbidden');
  assert.equal((await session.post('427["heartbeat"]')).body, 'ok', 'the session is not hurt by strangers');
  assert.match((await session.poll()).body, /^437\[/);
});

for (const [key, what] of [['server.connections_max', 'connections_max'], ['limits.connections_per_ip_max', 'connections_per_ip_max']]) {
  test(`${what}: one more is answered 503, and room comes back`, { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const [section, name] = key.split('.');
    const subject = await startSubject(stage, { settings: { [section]: { [name]: 2 } } });
    const first = await connectFrames(stage, subject.url);
    await Polling.connect(subject.url);
    assert.equal((await request(address(subject.url, { transport: 'polling' }))).status, 503);
    assert.equal((await upgrade(stage, subject.url)).status, 503);
    first.socket.close();
    const back = await until('a place is free again', async () => {
      const answer = await upgrade(stage, subject.url);
      if (answer.frames === undefined) assert.equal(answer.status, 503);
      return answer.frames;
    });
    assert.match(await back.next(), /^0\{/);
  });
}

test('a client refused with 503 comes back by itself', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { server: { connections_max: 1 } } });
  const first = await connectFrames(stage, subject.url);
  const waiting = client(stage, subject.url, { ...WEBSOCKET, reconnectionDelay: 50, reconnectionDelayMax: 100 });
  let refusals = 0;
  waiting.on('connect_error', () => (refusals += 1));
  await until('it was refused twice', () => refusals >= 2);
  assert.equal(waiting.active, true, 'it keeps trying');
  first.socket.close();
  await until('it is let in', () => waiting.connected);
});

test('connections_per_ip_max counts the address a trusted proxy names, and nobody else’s word', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const limits = { limits: { connections_per_ip_max: 1 } };
  const from = (address) => ({ headers: { 'x-forwarded-for': address } });
  const trusting = await startSubject(stage, { settings: { ...limits, server: { trusted_proxies: ['127.0.0.0/8'] } } });
  const open = async (subject, options) => (await request(address(subject.url, { transport: 'polling' }), options)).status;
  assert.equal(await open(trusting, from('203.0.113.1')), 200);
  assert.equal(await open(trusting, from('203.0.113.2')), 200);
  assert.equal(await open(trusting, from('203.0.113.1')), 503);
  assert.equal(await open(trusting, from('198.51.100.9, 203.0.113.2')), 503, 'the last untrusted hop counts, not what the client wrote before it');
  assert.equal(await open(trusting, from('203.0.113.3, 127.0.0.5')), 200, 'trusted hops are skipped');

  const wary = await startSubject(stage, { settings: limits });
  assert.equal(await open(wary, from('203.0.113.1')), 200);
  assert.equal(await open(wary, from('203.0.113.2')), 503);
});
