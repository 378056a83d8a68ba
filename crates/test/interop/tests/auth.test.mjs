// Who may come in, what they may do, and when it ends.

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, test } from '../lib/test.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { configFile, run, startTidegate } from '../lib/tidegate.mjs';
import { ask, client, connect, connected, inbox, MESSAGE_PACK, once, POLLING, refused, WEBSOCKET } from '../lib/client.mjs';
import { pause, until } from '../lib/wait.mjs';
import { connectFrames, openFrames } from '../lib/wire.mjs';

const SECRET = 'a-secret-of-at-least-thirty-two-bytes';
const CONFIG = `[auth]
mode = "jwt"
[auth.jwt]
secret = "${SECRET}"
[namespaces."/"]
[namespaces."/chat"]
[namespaces."/team-*"]
`;

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const now = () => Math.floor(Date.now() / 1_000);

/** A token by hand, for what `tidegate token` would not write. */
function sign(claims, { secret = SECRET, header = { alg: 'HS256', typ: 'JWT' } } = {}) {
  const text = `${encoded(header)}.${encoded(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const ALL = { namespaces: ['*'], join: ['*'], publish: ['*'], send: ['*'] };
const claims = (tidegate = ALL, rest = {}) => ({ sub: 'ann', exp: now() + 600, tidegate, ...rest });
const withToken = (token, options = WEBSOCKET) => ({ ...options, auth: { token } });

function assertRefusal(error, code) {
  assert.equal(error.data?.code, code, `${error.message} ${JSON.stringify(error.data)}`);
  assert.match(error.message, /\S/);
  assert.deepEqual(Object.keys(error.data), ['code']);
}

async function assertForbidden(asked, code = 'forbidden') {
  const ack = await asked;
  assert.equal(ack.ok, false, JSON.stringify(ack));
  assert.equal(ack.error.code, code);
}

describe('tokens', { skip: TIDEGATE_ONLY }, () => {
  const stage = new Stage();
  let subject;
  let config;
  before(async () => {
    subject = await startTidegate(stage, { dev: false, config: CONFIG });
    config = await configFile(stage, CONFIG);
  });
  after(() => stage.close());

  async function issue(...args) {
    const { code, stdout, stderr } = await run(['token', '--config', config, ...args]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n?$/, 'nothing but the token');
    return stdout.trim();
  }

  test('one made by tidegate token lets its user in with its grants', async () => {
    const token = await issue('--sub', 'ann', '--ttl', '1h', '--namespace', '/', '--namespace', '/chat', '--join', 'room:*', '--publish', 'room:1', '--publish', 'news');
    const socket = await connect(stage, subject.url, withToken(token));
    assert.equal((await ask(socket, 'join', 'room:1')).ok, true);
    assert.equal((await ask(socket, 'join', 'room:')).ok, true);
    await assertForbidden(ask(socket, 'join', 'news'));
    await assertForbidden(ask(socket, 'join', 'xroom:1'));
    assert.equal((await ask(socket, 'publish', { room: 'room:1', data: 1 })).ok, true);
    assert.equal((await ask(socket, 'publish', { room: 'news', data: 1 })).ok, true);
    await assertForbidden(ask(socket, 'publish', { room: 'room:2', data: 1 }));
    await assertForbidden(ask(socket, 'broadcast', { data: 1 }));
    assert.equal((await ask(socket, 'leave', 'news')).ok, true, 'leave needs no grant');
    assert.equal((await ask(socket, 'heartbeat')).ok, true);
    const chat = socket.io.socket('/chat', { auth: { token } });
    await connected(chat);
    const team = socket.io.socket('/team-a', { auth: { token } });
    await assert.rejects(connected(team), (error) => error.data?.code === 'forbidden');
    assert.equal(socket.connected && chat.connected, true, 'one refusal does not hurt the others');
  });

  for (const [name, options] of Object.entries({ polling: POLLING, websocket: WEBSOCKET, msgpack: { ...WEBSOCKET, ...MESSAGE_PACK } })) {
    test(`${name}: refusals carry their code, and the client does not try again`, async () => {
      const cases = {
        unauthorized: [
          undefined,
          {},
          { token: '' },
          { token: 'nonsense' },
          { token: 'a.b.c' },
          { token: sign(claims(), { secret: 'another secret of some thirty-two bytes' }) },
          { token: sign(claims(), { header: { alg: 'none' } }) },
          { token: `${encoded({ alg: 'none' })}.${encoded(claims())}.` },
          { token: sign(claims(), { header: { alg: 'HS512' } }) },
          { token: sign({ ...claims(), sub: undefined }) },
          { token: sign({ ...claims(), sub: 7 }) },
          { token: sign({ ...claims(), nbf: now() + 600 }) },
          { token: sign(claims({ join: 'room' })) },
        ],
        token_expired: [{ token: sign(claims(ALL, { exp: now() - 60 })) }],
        forbidden: [{ token: sign(claims({ namespaces: ['/chat'] })) }, { token: sign(claims({ namespaces: [] })) }],
        bad_request: [{ token: 7 }, { token: sign(claims()), device: 7 }, { token: sign(claims()), device: 'd'.repeat(257) }],
      };
      for (const [code, auths] of Object.entries(cases)) {
        for (const auth of auths) {
          const socket = client(stage, subject.url, { ...options, ...(auth && { auth }), reconnectionDelay: 20 });
          let refusals = 0;
          socket.on('connect_error', () => (refusals += 1));
          const [error] = await once(socket, 'connect_error');
          assertRefusal(error, code);
          assert.equal(socket.active, false);
          assert.equal(refusals, 1);
          socket.disconnect();
        }
      }
    });
  }

  test('the leeway of 5 seconds', async () => {
    await connect(stage, subject.url, withToken(sign(claims(ALL, { exp: now() - 2 }))));
    assertRefusal(await refused(stage, subject.url, withToken(sign(claims(ALL, { exp: now() - 8 })))), 'token_expired');
  });

  test('an unknown namespace is Invalid namespace, without data, whoever asks', async () => {
    for (const auth of [{}, { token: sign(claims()) }]) {
      const error = await refused(stage, `${subject.url}/nowhere`, { ...WEBSOCKET, auth });
      assert.equal(error.message, 'Invalid namespace');
      assert.equal(error.data, undefined);
    }
    await connect(stage, `${subject.url}/team-b`, withToken(sign(claims())));
  });

  test('absent lists: only the root namespace, and nothing else', async () => {
    for (const tidegate of [undefined, {}]) {
      const token = sign(claims(tidegate ?? null, tidegate === undefined ? { tidegate: undefined } : {}));
      const socket = await connect(stage, subject.url, withToken(token));
      await assertForbidden(ask(socket, 'join', 'r'));
      await assertForbidden(ask(socket, 'publish', { room: 'r', data: 1 }));
      await assertForbidden(ask(socket, 'broadcast', { data: 1 }));
      assert.equal((await ask(socket, 'heartbeat')).ok, true);
      assertRefusal(await refused(stage, `${subject.url}/chat`, withToken(token)), 'forbidden');
    }
  });

  test('broadcast needs publish on *', async () => {
    const some = await connect(stage, subject.url, withToken(sign(claims({ namespaces: ['/'], publish: ['room*'] }))));
    await assertForbidden(ask(some, 'broadcast', { data: 1 }));
    const all = await connect(stage, subject.url, withToken(sign(claims({ namespaces: ['/'], publish: ['*'] }))));
    assert.equal((await ask(all, 'broadcast', { data: 1 })).ok, true);
  });

  test('the user in meta is the token’s, whatever the payload claims', async () => {
    const member = await connect(stage, subject.url, withToken(sign(claims())));
    const heard = inbox(member);
    await ask(member, 'join', 'who');
    const publisher = await connect(stage, subject.url, { ...WEBSOCKET, auth: { token: sign(claims(ALL, { sub: 'bob' })), user: 'root' } });
    await ask(publisher, 'publish', { room: 'who', data: 1 });
    assert.equal((await heard.next())[1].from, 'bob');
  });

  test('a room of the shape of a socket id needs a grant that names it', async () => {
    const room = 'abcdefghijklmnopqrst';
    const glob = await connect(stage, subject.url, withToken(sign(claims())));
    await assertForbidden(ask(glob, 'join', room));
    await assertForbidden(ask(glob, 'publish', { room, data: 1 }));
    const literal = await connect(stage, subject.url, withToken(sign(claims({ namespaces: ['/'], join: [room], publish: [room] }))));
    assert.equal((await ask(literal, 'join', room)).ok, true);
    assert.equal((await ask(literal, 'publish', { room, data: 1 })).ok, true);
  });

  test('expiry ends the session: evicted, then a disconnect that is final', async () => {
    // The leeway is five seconds: a token that expired two seconds ago is good for two more at least, which is time to connect.
    for (const options of [WEBSOCKET, POLLING, { ...WEBSOCKET, ...MESSAGE_PACK }]) {
      const socket = client(stage, subject.url, { ...withToken(sign(claims(ALL, { exp: now() - 2 })), options), reconnectionDelay: 20 });
      const order = [];
      socket.on('evicted', (about) => order.push(['evicted', about]));
      socket.on('disconnect', (reason) => order.push(['disconnect', reason]));
      await connected(socket);
      await until('the session has ended', () => order.some(([what]) => what === 'disconnect'), 8_000);
      assert.deepEqual(order, [['evicted', { reason: 'expired' }], ['disconnect', 'io server disconnect']]);
      await pause(200);
      assert.equal(socket.connected, false);
      assert.equal(socket.active, false, 'it does not come back by itself');
    }
    assert.ok((await subject.metric('tidegate_evictions_total', { reason: 'expired' })) >= 3);
  });

  test('expiry ends one namespace; the transport goes with the last', async () => {
    const lasting = sign(claims());
    const root = await connect(stage, subject.url, withToken(lasting));
    const chat = root.io.socket('/chat', { auth: { token: sign(claims(ALL, { exp: now() - 2 })) } });
    await connected(chat);
    const [reason] = await once(chat, 'disconnect', 8_000);
    assert.equal(reason, 'io server disconnect');
    assert.equal(root.connected, true);
    assert.equal((await ask(root, 'heartbeat')).ok, true);

    const frames = await openFrames(stage, subject.url);
    frames.send(`40${JSON.stringify({ token: sign(claims(ALL, { exp: now() - 2 })) })}`);
    assert.match(await frames.next(), /^40\{"sid"/);
    assert.equal(await frames.next('evicted', 8_000), '42["evicted",{"reason":"expired"}]');
    assert.equal(await frames.next(), '41');
    await frames.ended();
  });

  test('before CONNECT little is accepted: 5 seconds, 16 KB', async () => {
    const frames = await openFrames(stage, subject.url);
    frames.send(`40${JSON.stringify({ token: 'x'.repeat(20_000) })}`);
    await frames.ended();
    const silent = await openFrames(stage, subject.url);
    await silent.ended(8_000);
  });
});

describe('other ways in', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('default_grants are for tokens without the claim', async (t) => {
    const stage = stageOf(t);
    const config = `[auth]\nmode = "jwt"\ndefault_grants = { namespaces = ["/"], join = ["lobby"], publish = ["lobby"] }\n[auth.jwt]\nsecret = "${SECRET}"\n`;
    const subject = await startTidegate(stage, { dev: false, config });
    const socket = await connect(stage, subject.url, withToken(sign(claims(ALL, { tidegate: undefined }))));
    assert.equal((await ask(socket, 'join', 'lobby')).ok, true);
    await assertForbidden(ask(socket, 'join', 'elsewhere'));
    const own = await connect(stage, subject.url, withToken(sign(claims({ join: ['elsewhere'] }))));
    await assertForbidden(ask(own, 'join', 'lobby'));
    assert.equal((await ask(own, 'join', 'elsewhere')).ok, true);
  });

  test('issuer and audience, when set, must be in the token', async (t) => {
    const stage = stageOf(t);
    const config = `[auth.jwt]\nsecret = "${SECRET}"\nissuer = "https://id.example"\naudience = "tidegate"\n`;
    const subject = await startTidegate(stage, { dev: false, config });
    const good = { iss: 'https://id.example', aud: 'tidegate' };
    await connect(stage, subject.url, withToken(sign(claims(ALL, good))));
    await connect(stage, subject.url, withToken(sign(claims(ALL, { ...good, aud: ['other', 'tidegate'] }))));
    for (const wrong of [{}, { iss: good.iss }, { aud: good.aud }, { ...good, iss: 'https://evil.example' }, { ...good, aud: 'other' }]) {
      assertRefusal(await refused(stage, subject.url, withToken(sign(claims(ALL, wrong)))), 'unauthorized');
    }
  });

  test('--dev: the payload says who it is', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    const [ann, nobody] = [await connect(stage, subject.url, { ...WEBSOCKET, auth: { user: 'ann', device: 'phone' } }), await connect(stage, subject.url, WEBSOCKET)];
    const heard = inbox(nobody);
    await ask(nobody, 'join', 'r');
    await ask(ann, 'publish', { room: 'r', data: 1 });
    assert.equal((await heard.next())[1].from, 'ann');
    for (const auth of [{ user: 7 }, { user: '' }, { user: 'u'.repeat(257) }, { user: 'ann', device: [] }]) {
      assertRefusal(await refused(stage, subject.url, { ...WEBSOCKET, auth }), 'bad_request');
    }
    await connect(stage, `${subject.url}/any/namespace at all`, WEBSOCKET);
  });

  test('without a list of namespaces only the root is open', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { dev: false, config: '[auth]\nmode = "none"\n' });
    await connectFrames(stage, subject.url);
    const error = await refused(stage, `${subject.url}/chat`, WEBSOCKET);
    assert.equal(error.message, 'Invalid namespace');
  });

  test('many namespaces asked for at once by one client are each answered', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { config: '[namespaces."/"]\n[namespaces."/ok-*"]\n' });
    const root = await connect(stage, subject.url, WEBSOCKET);
    const outcomes = await Promise.allSettled(Array.from({ length: 40 }, (_, i) => connected(root.io.socket(i % 2 ? `/ok-${i}` : `/no-${i}`))));
    for (const [i, { status, reason }] of outcomes.entries()) {
      assert.equal(status, i % 2 ? 'fulfilled' : 'rejected');
      if (reason) assert.equal(reason.message, 'Invalid namespace');
    }
  });
});
