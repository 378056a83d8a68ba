// Stock parts: a Node Socket.IO server (the reference that proves a test, and the peer on the same Redis), and the
// Redis emitter. The server carries a few lines of application code that act like Tidegate's operations, as a user
// of stock Socket.IO would write them.

import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import { Server } from 'socket.io';
import { createAdapter } from '@socket.io/redis-adapter';
import { Emitter } from '@socket.io/redis-emitter';
import { createClient } from 'redis';
import { freePort } from './ports.mjs';
import { limited } from './wait.mjs';

const roomOf = (argument) => (typeof argument === 'string' ? argument : argument.room);
const nothing = () => {};

/** The last argument when it is an acknowledgement callback. */
const ackOf = (args) => (typeof args.at(-1) === 'function' ? args.at(-1) : nothing);

function operations(socket, count) {
  const from = socket.handshake.auth.user ?? null;
  const meta = (room) => ({ id: randomUUID(), ...(room === undefined ? {} : { room }), from, node: 'stock', ts: Date.now() });
  const known = {
    async join(argument, ack = nothing) {
      await socket.join(roomOf(argument));
      ack({ ok: true });
    },
    async leave(argument, ack = nothing) {
      await socket.leave(roomOf(argument));
      ack({ ok: true });
    },
    publish({ room, event = 'message', data, echo }, ack = nothing) {
      const about = meta(room);
      (echo ? socket.nsp.to(room) : socket.to(room)).emit(event, data, about);
      ack({ ok: true, id: about.id });
    },
    broadcast({ event = 'message', data, echo }, ack = nothing) {
      const about = meta();
      (echo ? socket.nsp : socket.broadcast).emit(event, data, about);
      ack({ ok: true, id: about.id });
    },
    heartbeat(...args) {
      ackOf(args)({ ok: true, ts: Date.now() });
    },
  };
  for (const [event, act] of Object.entries(known)) socket.on(event, act);
  socket.onAny((event, ...args) => {
    if (!Object.hasOwn(known, event)) ackOf(args)({ ok: false, error: { code: 'no_handler', message: `no handler for ${event}` } });
  });
  socket.on('disconnect', (reason) => count(reason));
}

/** Tidegate's setting names as the options of the stock server. */
function options({ engine = {}, server = {} }, parser) {
  const found = {
    serveClient: false,
    path: engine.path,
    pingInterval: engine.ping_interval_ms,
    pingTimeout: engine.ping_timeout_ms,
    connectTimeout: engine.connect_timeout_ms,
    upgradeTimeout: engine.upgrade_timeout_ms,
    maxHttpBufferSize: engine.payload_bytes_max,
    transports: engine.transports,
    parser,
    cors: server.allowed_origins ? { origin: server.allowed_origins, credentials: true } : { origin: true, credentials: true },
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

/** Closes after pending commands are answered (the adapter sends some as it closes), or at once when the link is down. */
async function release(client) {
  if (client.isReady) await limited('the Redis client closes', client.close());
  else client.destroy();
}

/** A pair of Redis clients; whatever goes wrong with them is kept in `errors`. */
async function redisPair(stage, url, errors) {
  const pub = createClient({ url });
  const sub = pub.duplicate();
  for (const [name, client] of Object.entries({ pub, sub })) {
    client.on('error', (failure) => errors.push(`${name}: ${failure.message}`));
    await client.connect();
    stage.defer(() => release(client));
  }
  return { pub, sub };
}

/** A stock server in this process. With `redis` it uses the classic Redis adapter, with the options in `adapter`. */
export async function startStock(stage, { settings = {}, parser, redis, adapter, port } = {}) {
  const errors = [];
  const reasons = new Map();
  // What is not Socket.IO's is answered 404; without a listener Node would leave it hanging.
  const web = createServer((_, response) => response.writeHead(404).end());
  const io = new Server(web, options(settings, parser));
  let pub;
  if (redis) {
    const pair = await redisPair(stage, redis.url ?? redis, errors);
    pub = pair.pub;
    io.adapter(createAdapter(pair.pub, pair.sub, adapter));
  }
  const count = (reason) => reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  const watch = (namespace) => namespace.adapter.on('error', (failure) => errors.push(`adapter ${namespace.name}: ${failure?.message}`));
  watch(io.of('/'));
  io.on('new_namespace', watch);
  io.on('connection', (socket) => operations(socket, count));
  io.of(/^\/.+$/).on('connection', (socket) => operations(socket, count));

  const base = port ?? (await freePort());
  await new Promise((resolve, reject) => {
    web.once('error', reject);
    web.listen(base, '127.0.0.1', resolve);
  });
  let stopped = false;
  const stop = async () => {
    if (stopped) return;
    stopped = true;
    // With the Redis adapter, closing ends subscriptions by commands; the clients are destroyed after it.
    const closed = io.close();
    web.closeAllConnections();
    await limited('the stock server closes', closed);
  };
  stage.defer(stop);
  return {
    kind: 'stock',
    io,
    pub,
    errors,
    port: base,
    url: `http://127.0.0.1:${base}`,
    urls: [`http://127.0.0.1:${base}`],
    stop,
    disconnects: async (reason) => reasons.get(reason) ?? 0,
  };
}

/** The stock emitter on its own Redis client. */
export async function startEmitter(stage, redis) {
  const errors = [];
  const client = createClient({ url: redis.url });
  client.on('error', (failure) => errors.push(failure.message));
  await client.connect();
  stage.defer(() => release(client));
  return { emitter: new Emitter(client), errors };
}
