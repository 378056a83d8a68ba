// The client port over TLS: official clients on every transport, the plain protocol, slow readers, who is turned away,
// and what is said of files that cannot be used.

import assert from 'node:assert/strict';
import { once as emitted } from 'node:events';
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { describe, test } from '../lib/test.mjs';
import { ask, client, connect, connected, inbox, MESSAGE_PACK, once, POLLING, refused, transport, upgraded, WEBSOCKET } from '../lib/client.mjs';
import { enter, JSON_FORMAT, MSGPACK_FORMAT } from '../lib/plain.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { configFile, run, startTidegate } from '../lib/tidegate.mjs';
import { certificate, TLS, TRUSTING } from '../lib/tls.mjs';
import { limited, until } from '../lib/wait.mjs';
import { request, tcp } from '../lib/wire.mjs';

const OPTIONS = { skip: TIDEGATE_ONLY };

/** Within a record of TLS, in several, and more than a socket holds. */
const SIZES = [0, 1, 16_384, 20_000, 300_000];

const secure = (stage, settings = {}, more = {}) => startTidegate(stage, { settings: { ...settings, server: { tls: TLS, ...settings.server } }, ...more });

/** One HTTPS request: `{ status, headers }`. */
function securely(url, { headers = {}, ...options } = {}) {
  const answered = new Promise((resolve, reject) => {
    const sent = https.request(url, { ...TRUSTING, headers, agent: false, ...options }, (response) => {
      response.resume();
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers }));
    });
    sent.on('error', reject);
    sent.end();
  });
  return limited(`${url} is answered`, answered);
}

describe('a client port over TLS', OPTIONS, () => {
  for (const [parser, dialect] of Object.entries({ default: {}, MessagePack: MESSAGE_PACK })) {
    test(`official clients talk on every transport with the ${parser} parser`, async (t) => {
      const stage = stageOf(t);
      const { urls } = await secure(stage, {}, { nodes: 2 });
      const members = [];
      for (const [i, transports] of [{}, POLLING, WEBSOCKET].entries()) {
        members.push(await connect(stage, urls[i % 2], { ...TRUSTING, ...dialect, ...transports }));
      }
      await upgraded(members[0]);
      assert.deepEqual(members.map(transport), ['websocket', 'polling', 'websocket']);
      const heard = members.map((member) => inbox(member));
      for (const member of members) assert.equal((await ask(member, 'join', 'r')).ok, true);
      for (const size of SIZES) {
        const data = { text: 'x'.repeat(size), bytes: Buffer.alloc(size, 7) };
        for (const member of members) {
          assert.equal((await ask(member, 'publish', { room: 'r', data, echo: true })).ok, true);
          for (const each of heard) assert.deepEqual((await each.next())[0], data);
        }
      }
    });
  }

  test('plain clients in both formats meet them', async (t) => {
    const stage = stageOf(t);
    const { url } = await secure(stage);
    const official = await connect(stage, url, { ...TRUSTING, ...WEBSOCKET });
    await ask(official, 'join', 'r');
    for (const format of [JSON_FORMAT, MSGPACK_FORMAT]) {
      const plain = await enter(stage, url, { user: 'ann', device: format }, { ...TRUSTING, formats: [format] });
      const heard = once(official, 'message');
      assert.equal((await plain.ask({ op: 'publish', room: 'r', data: 'x'.repeat(50_000) })).ok, true);
      assert.equal((await heard)[0].length, 50_000);
      plain.send({ op: 'close' });
      assert.equal((await plain.ended()).code, 1000);
    }
  });

  test('a client whose node drains hears it, and comes back to the next one', async (t) => {
    const stage = stageOf(t);
    const first = await secure(stage);
    const plain = await enter(stage, first.url, { user: 'bob' }, TRUSTING);
    const socket = client(stage, first.url, { ...TRUSTING, ...WEBSOCKET, reconnectionDelay: 50 });
    await connected(socket);
    const lost = once(socket, 'disconnect');
    await first.stop();
    assert.equal((await lost)[0], 'transport close');
    assert.equal((await plain.ended()).code, 1012);
    await secure(stage, {}, { port: first.port });
    await connected(socket);
  });

  test('a slow reader is closed when its outbox is full, and others get everything', async (t) => {
    const stage = stageOf(t);
    const node = await secure(stage, { engine: { payload_bytes_max: 100_000 }, limits: { outbox_bytes_max: 262_144 } });
    const [publisher, quick] = [await connect(stage, node.url, { ...TRUSTING, ...WEBSOCKET }), await connect(stage, node.url, { ...TRUSTING, ...WEBSOCKET })];
    const heard = inbox(quick);
    await ask(quick, 'join', 'r');
    const slow = await enter(stage, node.url, { user: 'slow' }, TRUSTING);
    assert.equal((await slow.ask({ op: 'join', room: 'r' })).ok, true);
    slow.socket.pause();
    const data = 'x'.repeat(50_000);
    let sent = 0;
    await until(
      'the slow one is closed',
      async () => {
        assert.equal((await ask(publisher, 'publish', { room: 'r', data: { sent, data } })).ok, true);
        sent += 1;
        return (await node.disconnects('slow consumer')) === 1;
      },
      15_000,
    );
    for (let i = 0; i < sent; i += 1) assert.equal((await heard.next())[0].sent, i);
    // What had left is whole, in order, and ends with the reason.
    slow.socket.resume();
    assert.equal((await slow.ended()).code, 4413);
    assert.equal(await node.metric('tidegate_outbox_bytes'), 0);
  });

  test('HTTP/1.1 is what is spoken inside, over TLS 1.2 or 1.3', async (t) => {
    const stage = stageOf(t);
    const { url, port } = await secure(stage);
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const socket = tls.connect({ port, host: '127.0.0.1', ...TRUSTING, ALPNProtocols: ['h2', 'http/1.1'], minVersion: version, maxVersion: version });
      stage.defer(() => socket.destroy());
      await limited('TLS connects', emitted(socket, 'secureConnect'));
      assert.deepEqual([socket.alpnProtocol, socket.getProtocol(), socket.authorized], ['http/1.1', version, true]);
    }
    assert.equal((await securely(`${url}/socket.io/?EIO=4&transport=polling`)).status, 200);
  });

  test('pages of its own came over https', async (t) => {
    const stage = stageOf(t);
    const { url } = await secure(stage, { server: { allowed_origins: [] } });
    const asked = async (origin) => (await securely(`${url}/socket.io/?EIO=4&transport=polling`, { headers: { origin } })).status;
    assert.deepEqual([await asked(url), await asked(url.replace('https', 'http')), await asked('https://evil.example')], [200, 403, 403]);
  });

  test('whoever speaks something else is turned away and counted, and whoever trusts somebody else goes away', async (t) => {
    const stage = stageOf(t);
    const node = await secure(stage);
    const clear = await tcp(stage, node.port);
    clear.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await clear.closed();
    assert.doesNotMatch(clear.received, /HTTP/);
    await assert.rejects(request(node.url.replace('https', 'http')));
    const error = await refused(stage, node.url, WEBSOCKET);
    assert.equal(error.type, 'TransportError');
    await until('all are counted', async () => (await node.metric('tidegate_handshakes_refused_total', { reason: 'tls' })) === 3);
    // Nobody is disturbed, and nothing is said about it.
    assert.equal((await ask(await connect(stage, node.url, TRUSTING), 'heartbeat', null)).ok, true);
    assert.doesNotMatch(node.log, /"WARN"|"ERROR"/);
  });
});

describe('a certificate that is renewed', OPTIONS, () => {
  /** The name in the certificate that the next handshake is shown. */
  async function shown(stage, port) {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
    stage.defer(() => socket.destroy());
    await limited('TLS connects', emitted(socket, 'secureConnect'));
    return socket.getPeerCertificate().subject.CN;
  }

  test('is shown to whoever comes next, and nobody is disturbed', async (t) => {
    const stage = stageOf(t);
    // As Kubernetes mounts a Secret: the files are links into a directory that is itself a link, which is exchanged.
    const home = await mkdtemp(join(tmpdir(), 'tidegate-tls-'));
    stage.defer(() => rm(home, { recursive: true, force: true }));
    let version = 0;
    const show = async (cert, key) => {
      version += 1;
      await mkdir(join(home, `v${version}`));
      await writeFile(join(home, `v${version}`, 'tls.crt'), cert);
      await writeFile(join(home, `v${version}`, 'tls.key'), key);
      await symlink(`v${version}`, join(home, 'next'));
      await rename(join(home, 'next'), join(home, 'data'));
    };
    const [first, firstKey, second, secondKey] = await Promise.all(['server.pem', 'server.key', 'renewed.pem', 'renewed.key'].map((name) => readFile(certificate(name))));
    await show(first, firstKey);
    for (const name of ['tls.crt', 'tls.key']) await symlink(join('data', name), join(home, name));
    const node = await secure(stage, { server: { tls: { cert: join(home, 'tls.crt'), key: join(home, 'tls.key') } } });
    const early = await connect(stage, node.url, { ...TRUSTING, ...WEBSOCKET });
    const renewals = (result) => node.metric('tidegate_tls_renewals_total', { result });
    assert.equal(await shown(stage, node.port), 'localhost');

    // A certificate without its key is not used, and is told once.
    await show(second, firstKey);
    await until('it is found to be of no use', async () => (await renewals('failed')) === 1, 15_000);
    assert.equal(await shown(stage, node.port), 'localhost');
    await until('it is told', () => /server\.tls\.key is not the key of the first certificate/.test(node.log));

    await show(second, secondKey);
    await until('it is shown', async () => (await shown(stage, node.port)) === 'renewed', 10_000);
    await until('it is counted', async () => (await renewals('ok')) === 1);
    assert.equal(await renewals('failed'), 1);
    const late = await connect(stage, node.url, { ca: second, ...WEBSOCKET });
    await ask(late, 'join', 'r');
    const heard = once(late, 'message');
    assert.equal((await ask(early, 'publish', { room: 'r', data: 'still here' })).ok, true);
    assert.equal((await heard)[0], 'still here');
    assert.doesNotMatch(node.log, /BEGIN/);
  });
});

describe('files for TLS that cannot be used', OPTIONS, () => {
  test('each is named with what is wrong, by check and by serve', async (t) => {
    const stage = stageOf(t);
    for (const [cert, key, wanted] of [
      ['server.pem', undefined, /server\.tls\.key: must be set/],
      [undefined, 'server.key', /server\.tls\.cert: must be set/],
      ['nowhere.pem', 'server.key', /server\.tls\.cert = .*must name a file that can be read/],
      ['server.pem', 'other.key', /server\.tls\.key = .*is not the key of the first certificate/],
      ['server.pem', 'encrypted.key', /server\.tls\.key = .*passphrase/],
      ['server.key', 'server.key', /server\.tls\.cert = .*holds no certificate/],
    ]) {
      const line = (name, file) => (file ? `tls.${name} = '${certificate(file)}'\n` : '');
      const config = await configFile(stage, `auth.mode = "none"\n[server]\n${line('cert', cert)}${line('key', key)}`);
      for (const command of ['check', 'serve']) {
        const { code, stdout, stderr } = await run([command, '--config', config]);
        assert.equal(code, 64, stderr);
        assert.match(stderr, wanted);
        assert.doesNotMatch(stdout + stderr, /-----BEGIN|MIGH/);
      }
    }
    const config = await configFile(stage, `auth.mode = "none"\n[server]\ntls.cert = '${TLS.cert}'\ntls.key = '${TLS.key}'\n`);
    assert.equal((await run(['check', '--config', config])).code, 0);
  });
});
