// Official clients, each closed with its stage.

import { io } from 'socket.io-client';
import * as msgpack from 'socket.io-msgpack-parser';
import { Inbox, limited, WITHIN_MS } from './wait.mjs';

/** The options that make a client speak MessagePack. */
export const MESSAGE_PACK = { parser: msgpack.default ?? msgpack };
export const POLLING = { transports: ['polling'] };
export const WEBSOCKET = { transports: ['websocket'] };

/** A client that has not connected yet. Each one has a transport of its own, shared by `socket.io.socket(namespace)`. */
export function client(stage, url, options = {}) {
  const socket = io(url, { forceNew: true, ...options });
  // The transport closes with the last of its namespaces; while one is left, it would reconnect for ever.
  stage.defer(() => Object.values(socket.io.nsps).forEach((each) => each.disconnect()));
  return socket;
}

/** Resolves when `socket` is connected, rejects with its first `connect_error`. */
export function connected(socket, within = WITHIN_MS) {
  if (socket.connected) return Promise.resolve(socket);
  const settled = new Promise((resolve, reject) => {
    socket.once('connect', () => resolve(socket));
    socket.once('connect_error', reject);
  });
  return limited('the client connects', settled, within);
}

/** A connected client. */
export async function connect(stage, url, options = {}) {
  return connected(client(stage, url, options));
}

/** The error a client is refused with. */
export async function refused(stage, url, options = {}) {
  const socket = client(stage, url, { reconnection: false, ...options });
  const settled = new Promise((resolve, reject) => {
    socket.once('connect_error', resolve);
    socket.once('connect', () => reject(new Error('the client was let in')));
  });
  return limited('the client is refused', settled);
}

/** Emits and gives the single acknowledgement argument. */
export function ask(socket, event, ...args) {
  return socket.timeout(WITHIN_MS).emitWithAck(event, ...args);
}

/** Every later occurrence of `event`, as its array of arguments. */
export function inbox(socket, event = 'message') {
  const items = new Inbox();
  socket.on(event, (...args) => items.push(args));
  return items;
}

/** The next occurrence of `event`, as its array of arguments. */
export function once(socket, event, within = WITHIN_MS) {
  return limited(`event ${event}`, new Promise((resolve) => socket.once(event, (...args) => resolve(args))), within);
}

/** The name of the transport in use. */
export const transport = (socket) => socket.io.engine.transport.name;

/** Resolves when the client's transport is a WebSocket. */
export async function upgraded(socket, within = WITHIN_MS) {
  const { engine } = socket.io;
  if (engine.transport.name === 'websocket') return;
  await limited('the client upgrades', new Promise((resolve) => engine.once('upgrade', resolve)), within);
}
