// The default parser and MessagePack share rooms, and every value arrives as it would from stock servers.
//
// The judge is a stock cluster: two servers for each parser, joined by the Redis adapter, so that each value crosses
// the adapter's wire between two processes' worth of state, as it does inside Tidegate.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { startSubject, IS_STOCK, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startStock } from '../lib/stock.mjs';
import { startRedis } from '../lib/redis.mjs';
import { ask, connect, inbox, MESSAGE_PACK, POLLING, WEBSOCKET } from '../lib/client.mjs';

const DEFAULT = {};
const PARSERS = { default: DEFAULT, msgpack: MESSAGE_PACK };

const bytes = (length) => Buffer.from(Array.from({ length }, (_, i) => i % 251));
const nested = (depth) => (depth === 0 ? 'bottom' : { list: [nested(depth - 1)], depth });

/** Name and value of everything that is sent. Names are what a failure shows. */
const VALUES = {
  null: null,
  true: true,
  false: false,
  zero: 0,
  'negative zero': -0,
  'smallest int widths': [127, 128, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296],
  'smallest negative widths': [-1, -32, -33, -128, -129, -32_768, -32_769, -2_147_483_648, -2_147_483_649],
  'largest safe integers': [Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER],
  'beyond safe integers': [2 ** 53, 2 ** 60, -(2 ** 60), 1e21, 1e300, 5e-324],
  fractions: [0.5, -1.5, 0.1, 1 / 3, Number.MAX_VALUE, Number.EPSILON],
  'not numbers': [NaN, Infinity, -Infinity],
  'empty string': '',
  'string widths': ['a'.repeat(31), 'b'.repeat(32), 'c'.repeat(255), 'd'.repeat(256), 'e'.repeat(65_535), 'f'.repeat(65_536)],
  unicode: 'ÄÖ \u0000 \u001e \u2028 日本語 😀 \ud83d\udc69\u200d\ud83d\udcbb',
  'lone surrogates': ['\ud800', 'a\udfffb', '\udc00\ud800'],
  quotes: '"\\/\b\f\n\r\t\u007f<script>',
  'empty array': [],
  'empty map': {},
  'long array': Array.from({ length: 70_000 }, (_, i) => i % 7),
  'wide map': Object.fromEntries(Array.from({ length: 70_000 / 100 }, (_, i) => [`key ${i}`, i])),
  'odd keys': { '': 1, 0: 'zero', 'with "quotes"': 2, 日本: 3, 'a.b': 4 },
  'deep nesting': nested(20),
  'undefined in an array': [1, undefined, 3],
  'undefined in a map': { kept: 1, gone: undefined, deep: { gone: undefined } },
  'undefined itself': undefined,
  date: new Date(1_700_000_000_123),
  'whole second date': new Date(1_700_000_000_000),
  'epoch date': new Date(0),
  'date before the epoch': new Date(-1),
  'distant dates': [new Date(2 ** 34 * 1_000), new Date(2 ** 34 * 1_000 + 7), new Date(8.64e15), new Date(-8.64e15)],
  'dates inside': { at: new Date(1_234_567_890_001), list: [new Date(5)] },
  'date text': '2023-11-14T22:13:20.123Z',
  'empty bytes': Buffer.alloc(0),
  'one byte': bytes(1),
  'eight bytes': bytes(8),
  'byte widths': [bytes(255), bytes(256), bytes(65_535), bytes(65_536)],
  'bytes inside': { a: bytes(3), list: [bytes(4), { deep: bytes(5) }], n: 1 },
  'ten byte values': Array.from({ length: 10 }, (_, i) => bytes(i)),
  'typed array': new Uint8Array([1, 2, 3]),
  'array buffer': new Uint8Array([9, 8, 7, 6, 5, 4, 3, 2]).buffer,
  'wide typed array': new Uint16Array([1, 256, 65_535]),
  'view of a part': bytes(40).subarray(10, 20),
  'placeholder look-alike': { _placeholder: true, num: 0 },
  'placeholder look-alike beside bytes': { bytes: bytes(3), odd: { _placeholder: false, num: 0 } },
  'something with toJSON': { toJSON: () => ({ told: true }) },
  'map with a type': { type: 2, data: ['x'], nsp: '/' },
};

/**
 * What the stock adapter's encoder corrupts on its way between two stock servers: numbers beyond 64 bits become
 * others, lone surrogates become other characters. Numbers must arrive as they were sent; a lone surrogate, which no
 * UTF-8 can carry, arrives as the replacement character. A MessagePack client corrupts them itself before it sends.
 */
const CORRECTED = {
  'beyond safe integers': VALUES['beyond safe integers'],
  fractions: VALUES.fractions,
  'lone surrogates': VALUES['lone surrogates'].map((text) => Buffer.from(text).toString()),
};

/** What each receiver got, `results[from][to][name]`. */
async function exchange(publishers, members) {
  const inboxes = {};
  for (const [to, member] of Object.entries(members)) {
    inboxes[to] = inbox(member);
    await ask(member, 'join', 'values');
  }
  const results = {};
  for (const [from, publisher] of Object.entries(publishers)) {
    results[from] = {};
    for (const to of Object.keys(members)) results[from][to] = {};
    for (const [name, data] of Object.entries(VALUES)) {
      publisher.emit('publish', { room: 'values', data });
      for (const to of Object.keys(members)) {
        const [got] = await inboxes[to].next(`${name}, from ${from} to ${to}`);
        results[from][to][name] = got;
      }
    }
  }
  return results;
}

async function throughStock(stage) {
  const redis = await startRedis(stage);
  const publishers = {};
  const members = {};
  for (const [name, options] of Object.entries(PARSERS)) {
    const [near, far] = [await startStock(stage, { ...options, redis }), await startStock(stage, { ...options, redis })];
    publishers[name] = await connect(stage, near.url, { ...options, ...WEBSOCKET });
    members[name] = await connect(stage, far.url, { ...options, ...WEBSOCKET });
  }
  return exchange(publishers, members);
}

async function throughTidegate(stage, transport) {
  const subject = await startSubject(stage);
  const publishers = {};
  const members = {};
  for (const [name, options] of Object.entries(PARSERS)) {
    publishers[name] = await connect(stage, subject.url, { ...options, ...transport });
    members[name] = await connect(stage, subject.url, { ...options, ...transport });
  }
  return exchange(publishers, members);
}

describe('values cross as they do through stock servers', () => {
  const stage = new Stage();
  const results = {};
  before(async () => {
    results.stock = await throughStock(stage);
    const subject = IS_STOCK ? throughStock : throughTidegate;
    results.websocket = await subject(stage, WEBSOCKET);
    results.polling = await subject(stage, POLLING);
  });
  after(() => stage.close());

  for (const from of Object.keys(PARSERS)) {
    for (const to of Object.keys(PARSERS)) {
      for (const transport of ['websocket', 'polling']) {
        test(`${from} to ${to} over ${transport}`, async (t) => {
          for (const name of Object.keys(VALUES)) {
            await t.test(name, () => {
              const corrected = !IS_STOCK && from === 'default' && Object.hasOwn(CORRECTED, name);
              assert.deepStrictEqual(results[transport][from][to][name], corrected ? CORRECTED[name] : results.stock[from][to][name]);
            });
          }
        });
      }
    }
  }

  test('the judge itself: dates, bytes and undefined are what the contract says', () => {
    const { msgpack, default: text } = results.stock;
    assert.deepStrictEqual(msgpack.msgpack.date, VALUES.date);
    assert.deepStrictEqual(msgpack.default.date, VALUES.date.toISOString());
    assert.deepStrictEqual(text.msgpack.date, VALUES.date.toISOString());
    assert.deepStrictEqual(msgpack.default['bytes inside'], VALUES['bytes inside']);
    assert.deepStrictEqual(text.msgpack['bytes inside'], VALUES['bytes inside']);
    assert.deepStrictEqual(msgpack.msgpack['undefined in an array'], [1, null, 3]);
    assert.deepStrictEqual(msgpack.default['not numbers'], [null, null, null]);
    assert.deepStrictEqual(msgpack.msgpack['not numbers'], [NaN, Infinity, -Infinity]);
  });
});

for (const [name, options] of Object.entries(PARSERS)) {
  test(`${name}: acknowledgements, refusals and namespaces`, { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    for (const transport of [{}, POLLING, WEBSOCKET]) {
      const root = await connect(stage, subject.url, { ...options, ...transport });
      const chat = root.io.socket('/chat');
      const heard = inbox(chat);
      assert.equal((await ask(chat, 'join', 'r')).ok, true);
      assert.equal((await ask(root, 'join', 7)).error.code, 'bad_request');
      assert.equal((await ask(chat, 'whatever', { any: 'thing' })).error.code, 'no_handler');
      const news = inbox(chat, 'news');
      const { ok, id } = await ask(chat, 'publish', { room: 'r', event: 'news', data: 1, echo: true });
      assert.equal(ok, true);
      assert.equal(typeof id, 'string');
      assert.equal((await news.next())[1].id, id);
      await ask(chat, 'publish', { room: 'r', data: 'last', echo: true });
      assert.equal((await heard.next())[0], 'last');
    }
  });
}
