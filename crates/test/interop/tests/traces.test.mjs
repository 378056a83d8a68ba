// Spans by OTLP over HTTP, as a collector is sent them.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { test } from '../lib/test.mjs';
import { ask, connect, inbox, WEBSOCKET } from '../lib/client.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { until } from '../lib/wait.mjs';

const OPTIONS = { skip: TIDEGATE_ONLY };

/** The fields of one protobuf message: `[number, value]`, a value being a BigInt or bytes. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let [value, shift] = [0n, 0n];
    for (;;) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
      shift += 7n;
    }
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const kind = tag & 7;
    let value;
    if (kind === 0) value = varint();
    else if (kind === 1) [value, at] = [bytes.readBigUInt64LE(at), at + 8];
    else if (kind === 2) {
      const length = Number(varint());
      [value, at] = [bytes.subarray(at, at + length), at + length];
    } else if (kind === 5) [value, at] = [BigInt(bytes.readUInt32LE(at)), at + 4];
    else throw new Error(`wire type ${kind}`);
    yield [tag >> 3, value];
  }
}

const all = (bytes, number) => [...fields(bytes)].filter(([found]) => found === number).map(([, value]) => value);

/** The attributes of a span or a resource, at field `number`. */
function attributes(bytes, number) {
  return Object.fromEntries(
    all(bytes, number).map((pair) => {
      const [[kind, value]] = fields(all(pair, 2)[0]);
      return [all(pair, 1)[0].toString(), kind === 1 ? value.toString() : kind === 2 ? value !== 0n : Number(value)];
    }),
  );
}

/** Field numbers are those of opentelemetry/proto/trace/v1/trace.proto. */
function spansOf(request) {
  return all(request, 1).flatMap((resource) =>
    all(resource, 2).flatMap((scope) =>
      all(scope, 2).map((span) => ({
        resource: attributes(all(resource, 1)[0], 1),
        trace: all(span, 1)[0].toString('hex'),
        id: all(span, 2)[0].toString('hex'),
        parent: all(span, 4)[0]?.toString('hex') ?? '',
        name: all(span, 5)[0].toString(),
        took: all(span, 8)[0] - all(span, 7)[0],
        about: attributes(span, 9),
        status: all(span, 15).map((status) => ({ code: Number(all(status, 3)[0] ?? 0n), message: all(status, 2)[0]?.toString() }))[0],
      })),
    ),
  );
}

async function collector(stage, answer = 200) {
  const spans = [];
  const requests = [];
  const server = createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      requests.push({ method: request.method, url: request.url, type: request.headers['content-type'] });
      if (answer === 200) spans.push(...spansOf(Buffer.concat(chunks)));
      response.writeHead(answer, { 'content-type': 'application/x-protobuf' }).end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stage.defer(() => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  }));
  return { spans, requests, url: `http://127.0.0.1:${server.address().port}` };
}

test('a publish and its fan-outs on all nodes are one trace; connects and sends have their own', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const collected = await collector(stage);
  const subject = await startTidegate(stage, { nodes: 2, settings: { log: { otlp_endpoint: collected.url } } });
  const ann = await connect(stage, subject.urls[0], { ...WEBSOCKET, auth: { user: 'ann' } });
  const bob = await connect(stage, subject.urls[1], { ...WEBSOCKET, auth: { user: 'bob' } });
  for (const socket of [ann, bob]) assert.equal((await ask(socket, 'join', 'secret room')).ok, true);
  const heard = inbox(bob);
  const published = await ask(ann, 'publish', { room: 'secret room', data: 'secret word', echo: true });
  await heard.next();
  const sent = await ask(ann, 'send', { to: 'bob', data: 'secret word' });
  const refused = await ask(ann, 'send', { to: 'bob', data: 'x'.repeat(70_000) });
  assert.deepEqual([published.ok, sent.ok, refused.ok], [true, true, false]);

  const { spans } = collected;
  const named = (name) => spans.filter((span) => span.name === name);
  await until('all are collected', () => named('fanout').length === 2 && named('connect').length === 2 && named('send').length === 1, 10_000);
  assert.equal(spans.length, 6, JSON.stringify(spans.map(({ name }) => name)));
  const [publish] = named('publish');
  assert.deepEqual(publish.resource['service.name'], 'tidegate');
  assert.deepEqual([publish.parent, publish.about['tidegate.message'], publish.about['tidegate.namespace']], ['', published.id, '/']);
  for (const fanout of named('fanout')) {
    assert.deepEqual([fanout.trace, fanout.parent, fanout.about['tidegate.receivers']], [publish.trace, publish.id, 1]);
  }
  assert.equal(new Set(named('fanout').map(({ about }) => about['tidegate.node'])).size, 2);
  assert.equal(new Set(spans.map(({ trace }) => trace)).size, 4);
  const [send] = named('send');
  assert.deepEqual([send.about['tidegate.message'], send.about['tidegate.status']], [sent.id, 'stored']);
  for (const connected of named('connect')) {
    assert.deepEqual([connected.about['tidegate.transport'], connected.about['tidegate.anonymous']], ['websocket', false]);
  }
  for (const span of spans) {
    assert.ok(span.took >= 0n && span.took < 10_000_000_000n, `${span.name} took ${span.took} ns`);
    assert.equal(span.status?.code ?? 0, 0);
  }
  assert.doesNotMatch(JSON.stringify(spans, (_, value) => (typeof value === 'bigint' ? Number(value) : value)), /secret|ann|bob/);
  for (const { method, url, type } of collected.requests) {
    assert.deepEqual([method, url, type], ['POST', '/v1/traces', 'application/x-protobuf']);
  }

  // What the last seconds brought is not forgotten.
  const before = named('publish').length;
  assert.equal((await ask(ann, 'publish', { room: 'secret room', data: 1 })).ok, true);
  await subject.stop();
  assert.equal(named('publish').length, before + 1);
});

test('a collector that is away or refuses is told of once, and disturbs nobody', OPTIONS, async (t) => {
  const stage = stageOf(t);
  const refusing = await collector(stage, 503);
  const subject = await startTidegate(stage, { settings: { log: { otlp_endpoint: refusing.url, format: 'json' } } });
  const socket = await connect(stage, subject.url, WEBSOCKET);
  const publish = async () => assert.equal((await ask(socket, 'publish', { room: 'r', data: 1 })).ok, true);
  await publish();
  await until('spans are refused', () => refusing.requests.length >= 1, 10_000);
  await publish();
  await until('and again', () => refusing.requests.length >= 2, 10_000);
  const told = () => subject.log.split('\n').filter((line) => line.includes('the collector does not take spans')).length;
  await until('it is told', () => told() === 1);
  await publish();
  await subject.stop();
  assert.equal(told(), 1);
});
