// A bare client of the plain protocol that looks like a Visitor to whoever counts what it sees and does; in either format.

import { EventEmitter } from 'node:events';
import { performance } from 'node:perf_hooks';
import notepack from 'notepack.io';
import WebSocket from 'ws';
import { JSON_FORMAT, MSGPACK_FORMAT } from './plain.mjs';
import { limited, WITHIN_MS } from './wait.mjs';

/** From here on a close code says that the server ended the session. */
const ENDED_FROM = 4_400;

/** Emits what a Visitor does. Its `disconnect` is the close that tells why. */
export class Guest extends EventEmitter {
  #socket;
  #isPacked;
  #answers = new Map();
  #asked = 0;

  constructor(stage, url, auth, { isPacked = false } = {}) {
    super();
    this.auth = auth;
    this.#isPacked = isPacked;
    this.#socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, [isPacked ? MSGPACK_FORMAT : JSON_FORMAT], { perMessageDeflate: false });
    stage.defer(() => this.end());
    this.#socket.on('open', () => {
      this.emit('connecting');
      this.connectSentAt = performance.now();
      this.send({ op: 'connect', auth });
    });
    this.#socket.on('message', (data) => this.#read(isPacked ? notepack.decode(data) : JSON.parse(data.toString())));
    this.#socket.on('error', () => {});
    this.#socket.on('close', (code) => {
      if (code >= ENDED_FROM) this.emit(this.id === undefined ? 'refused' : 'disconnect', { message: `closed with ${code}` });
      this.emit('close');
    });
    this.connected = new Promise((resolve, reject) => {
      this.once('connect', () => resolve(this));
      this.once('refused', (payload) => reject(Object.assign(new Error(`refused: ${payload.message}`), payload)));
      this.once('close', () => reject(new Error('the connection was closed before connect was answered')));
    });
    this.connected.catch(() => {});
  }

  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  #read({ op, ...message }) {
    switch (op) {
      case 'connected':
        this.id = message.session;
        return this.emit('connect');
      case 'reply':
        return this.#answered(message);
      case 'event':
        return this.emit('event', message.event, ...message.args, ...(message.meta ? [message.meta] : []), ...this.#acknowledge(message.message));
      case 'offline':
        return this.emit('event', 'offline_message', message, ...this.#acknowledge(message.id));
      case 'offline_end':
        return this.emit('event', 'offline_message_ack', message);
      default:
        return this.emit('event', op, message);
    }
  }

  #acknowledge(message) {
    return message === undefined ? [] : [() => this.send({ op: 'ack', message })];
  }

  #answered({ id, ...answer }) {
    const then = this.#answers.get(id);
    this.#answers.delete(id);
    then?.(answer);
  }

  send(message) {
    if (this.isOpen) this.#socket.send(this.#isPacked ? notepack.encode(message) : JSON.stringify(message));
  }

  /** It has no other namespace to stay in. */
  linger() {}

  /** Asks; `then` is called with the reply, if one ever comes. An `id` of the argument's is that of the question. */
  request(op, argument, then) {
    const id = argument?.id ?? (this.#asked += 1);
    this.#answers.set(id, then);
    this.send({ ...argument, op, id });
  }

  ask(op, argument, within = WITHIN_MS) {
    return limited(`${op} is answered`, new Promise((resolve) => this.request(op, argument, resolve)), within);
  }

  end() {
    this.#socket.terminate();
  }
}
