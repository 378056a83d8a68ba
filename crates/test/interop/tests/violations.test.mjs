// What breaks the rules of Engine.IO or Socket.IO closes that connection, with its reason counted, and nothing else.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { Encoder } from 'socket.io-msgpack-parser';
import { describe, test } from '../lib/test.mjs';
import { Stage } from '../lib/stage.mjs';
import { IS_STOCK, startSubject } from '../lib/subject.mjs';
import { startStock } from '../lib/stock.mjs';
import { MESSAGE_PACK } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';
import { answers, connectFrames, openFrames, Polling } from '../lib/wire.mjs';

const PLACEHOLDER = '{"_placeholder":true,"num":0}';
const FORCED = 'forced close';
const PARSE = 'parse error';

/** Frames sent by a client that has joined `/`, and the reason the server counts. */
const CLOSING = {
  'a second CONNECT': [['40'], FORCED],
  'a second CONNECT with a payload': [['40{"token":"x"}'], FORCED],
  'CONNECT with an array': [['40/other,[1]'], FORCED],
  'CONNECT with a string': [['40/other,"x"'], FORCED],
  'CONNECT with broken JSON': [['40/other,{"a":'], FORCED],
  'no attachments announced': [['450-["x"]'], FORCED],
  'eleven attachments': [['4511-["x"]'], FORCED],
  'attachments without a dash': [['451["x"]'], FORCED],
  'attachments that are no number': [['45a-["x"]'], FORCED],
  'text while attachments are awaited': [[`451-["x",${PLACEHOLDER}]`, '42["y"]'], FORCED],
  'binary nobody awaits': [[Buffer.from([1, 2, 3])], FORCED],
  'binary after its packet is complete': [[`451-["heartbeat",${PLACEHOLDER}]`, Buffer.from([1]), Buffer.from([2])], FORCED],
  'a placeholder out of range': [['451-["x",{"_placeholder":true,"num":1}]', Buffer.from([1])], FORCED],
  'a negative placeholder': [['451-["x",{"_placeholder":true,"num":-1}]', Buffer.from([1])], FORCED],
  'a placeholder without a number': [['451-["x",{"_placeholder":true,"num":"splice"}]', Buffer.from([1])], FORCED],
  'CONNECT_ERROR from a client': [['44{"message":"x"}'], FORCED],
  'DISCONNECT with a payload': [['41{"a":1}'], FORCED],
  'EVENT without elements': [['42[]'], FORCED],
  'EVENT that is a map': [['42{"a":1}'], FORCED],
  'EVENT that is a string': [['42"x"'], FORCED],
  'EVENT whose name is null': [['42[null]'], FORCED],
  'EVENT whose name is a map': [['42[{"a":1}]'], FORCED],
  'EVENT with letters before its payload': [['42abc["x"]'], FORCED],
  'EVENT with broken JSON': [['42["x"'], FORCED],
  'EVENT with something after its payload': [['42["x"]["y"]'], FORCED],
  'ACK that is a map': [['431{"a":1}'], FORCED],
  'EVENT in a namespace not joined': [['42/elsewhere,["x"]'], FORCED],
  'ACK in a namespace not joined': [['43/elsewhere,1["x"]'], FORCED],
  'DISCONNECT in a namespace not joined': [['41/elsewhere,'], FORCED],
  'an unknown Socket.IO type': [['47'], FORCED],
  'a Socket.IO type that is no digit': [['4x'], FORCED],
  'an empty message': [['4'], FORCED],
  'an empty frame': [[''], PARSE],
  'an unknown Engine.IO type': [['9'], PARSE],
  'an Engine.IO type that is no digit': [['hello'], PARSE],
  'a ping from a client': [['2'], 'transport error'],
};
for (const name of ['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener']) {
  CLOSING[`EVENT with the reserved name ${name}`] = [[`42["${name}"]`], FORCED];
}

/** Frames that are odd and change nothing. */
const IGNORED = {
  'an unasked pong': ['3'],
  'an unasked upgrade': ['5'],
  'a noop': ['6'],
  'an ACK nobody waits for': ['4399["x"]'],
  'an EVENT without a payload': ['42'],
  'an EVENT nobody handles': ['42["whatever",{"a":[1,2,3]}]'],
  'an EVENT whose name is a number': ['42[7,"x"]'],
  'an EVENT with white space': ['42[ "whatever" , 1 ] '],
  'a placeholder look-alike without attachments': [`42["whatever",${PLACEHOLDER}]`],
  'ten attachments': ['4510-["whatever"]', ...Array.from({ length: 10 }, () => Buffer.from([1]))],
};

/** First frames of a client that has joined nothing. */
const CLOSING_FIRST = {
  'EVENT before CONNECT': ['42["x"]'],
  'ACK before CONNECT': ['431["x"]'],
  'DISCONNECT before CONNECT': ['41'],
  'CONNECT with a number': ['40[1]'],
  'CONNECT with null': ['40null'],
  'an attachment before CONNECT': [`451-["x",${PLACEHOLDER}]`, Buffer.from([1])],
};

/** Engine.IO bodies posted to a polling session, and whether they are Engine.IO at all. */
const CLOSING_POSTS = {
  'an unknown type': '9',
  'an empty packet between two': '427["heartbeat"]\x1e\x1e427["heartbeat"]',
  'a Socket.IO violation': '42[]',
  'a ping': '2',
};

const packet = (fields) => new Encoder().encode(fields)[0];

/** MessagePack packets sent by a client that has joined `/`. */
const CLOSING_PACKED = {
  'no MessagePack at all': [Buffer.from([0xc1])],
  'a packet cut short': [packet({ type: 2, nsp: '/', data: ['x'] }).subarray(0, -1)],
  'text to a MessagePack session': ['42["x"]'],
  'an unknown type': [packet({ type: 7, nsp: '/', data: ['x'] })],
  'a type of the default parser': [packet({ type: 5, nsp: '/', data: ['x'] })],
  'a type that is a string': [packet({ type: '2', nsp: '/', data: ['x'] })],
  'a namespace that is a number': [packet({ type: 2, nsp: 1, data: ['x'] })],
  'no namespace': [packet({ type: 2, data: ['x'] })],
  'an id that is a string': [packet({ type: 2, nsp: '/', data: ['x'], id: '1' })],
  'EVENT that is a map': [packet({ type: 2, nsp: '/', data: { a: 1 } })],
  'ACK that is a map': [packet({ type: 3, nsp: '/', data: { a: 1 }, id: 1 })],
  'CONNECT with an array': [packet({ type: 0, nsp: '/other', data: [1] })],
  'DISCONNECT with a payload': [packet({ type: 1, nsp: '/', data: {} })],
  'CONNECT_ERROR from a client': [packet({ type: 4, nsp: '/', data: { message: 'x' } })],
  'EVENT in a namespace not joined': [packet({ type: 2, nsp: '/elsewhere', data: ['x'] })],
  'a second CONNECT': [packet({ type: 0, nsp: '/' })],
  'a packet that is an array': [Buffer.from([0x93, 0x02, 0xa1, 0x2f, 0x90])],
};

describe('violations', () => {
  const stage = new Stage();
  let subject;
  let bystander;
  before(async () => {
    subject = await startSubject(stage);
    bystander = await connectFrames(stage, subject.url);
  });
  after(async () => {
    try {
      assert.ok(await answers(bystander), 'another connection on the node was never touched');
    } finally {
      await stage.close();
    }
  });

  for (const [name, [sent, reason]] of Object.entries(CLOSING)) {
    test(`closes: ${name}`, async () => {
      const before = await subject.disconnects(reason);
      const frames = await connectFrames(stage, subject.url);
      for (const frame of sent) frames.send(frame);
      await frames.ended();
      await until(`counted as ${reason}`, async () => (await subject.disconnects(reason)) === before + 1, 1_000);
    });
  }

  for (const [name, sent] of Object.entries(IGNORED)) {
    test(`ignored: ${name}`, async () => {
      const frames = await connectFrames(stage, subject.url);
      for (const frame of sent) frames.send(frame);
      assert.ok(await answers(frames));
    });
  }

  for (const [name, sent] of Object.entries(CLOSING_FIRST)) {
    test(`closes: ${name}`, async () => {
      const frames = await openFrames(stage, subject.url);
      for (const frame of sent) frames.send(frame);
      await frames.ended();
    });
  }

  test('a hundred levels of nesting pass; a hundred thousand end that connection at most', async () => {
    const nested = (depth) => `427["heartbeat",${'['.repeat(depth)}${']'.repeat(depth)}]`;
    const frames = await connectFrames(stage, subject.url);
    frames.send(nested(100));
    await frames.startingWith('437');
    for (const bomb of [nested(100_000), `42["heartbeat",${'['.repeat(100_000)}`, `42["heartbeat",${'{"a":'.repeat(50_000)}`]) {
      const other = await connectFrames(stage, subject.url);
      other.send(bomb);
      other.send('40');
      await other.ended();
    }
    assert.ok(await answers(frames));
  });

  test('a namespace name of ten thousand characters harms nobody', async () => {
    const frames = await connectFrames(stage, subject.url);
    frames.send(`40/${'n'.repeat(10_000)},`);
    frames.send(`42/${'m'.repeat(10_000)},["x"]`);
    await frames.ended();
  });

  for (const [name, body] of Object.entries(CLOSING_POSTS)) {
    test(`closes a polling session: ${name}`, async () => {
      const session = await Polling.connect(subject.url);
      const pending = session.poll().catch(() => null);
      await session.post(body).catch(() => null);
      await pending;
      await until('the session is gone', async () => {
        const again = await session.poll({ within: 2_000 });
        return again.status === 400 && JSON.parse(again.body || '{}').code === 1;
      });
    });
  }
});

describe('violations of MessagePack sessions', () => {
  const stage = new Stage();
  let subject;
  before(async () => {
    subject = await (IS_STOCK ? startStock(stage, MESSAGE_PACK) : startSubject(stage));
  });
  after(() => stage.close());

  async function packed() {
    const frames = await openFrames(stage, subject.url);
    frames.send(packet({ type: 0, nsp: '/' }));
    assert.ok(Buffer.isBuffer(await frames.next('the answer to CONNECT')));
    return frames;
  }

  for (const [name, sent] of Object.entries(CLOSING_PACKED)) {
    test(`closes: ${name}`, async () => {
      const frames = await packed();
      for (const frame of sent) frames.send(frame);
      await frames.ended();
    });
  }

  test('unknown keys and an unknown ACK are ignored', async () => {
    const frames = await packed();
    frames.send(packet({ type: 2, nsp: '/', data: ['whatever'], options: { compress: true }, later: [1] }));
    frames.send(packet({ type: 3, nsp: '/', data: [], id: 99 }));
    frames.send(packet({ type: 2, nsp: '/', data: ['heartbeat'], id: 5 }));
    assert.ok(Buffer.isBuffer(await frames.next('the acknowledgement')));
  });
});
