// The wire by hand: Engine.IO requests and frames as bytes, for what no official client would ever send.

import http from 'node:http';
import net from 'node:net';
import WebSocket from 'ws';
import { Inbox, limited, WITHIN_MS } from './wait.mjs';

export const SEPARATOR = '\x1e';

/** One HTTP request on a connection of its own: `{ status, headers, body }`. */
export function request(url, { method = 'GET', headers = {}, body, signal, within = WITHIN_MS } = {}) {
  const answered = new Promise((resolve, reject) => {
    const sent = http.request(url, { method, headers, agent: false, signal }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() }));
    });
    sent.on('error', reject);
    sent.end(body);
  });
  answered.catch(() => {});
  return limited(`${method} ${url} is answered`, answered, within);
}

/** The address of an Engine.IO request; a null parameter is left out. */
export function address(base, parameters = {}, path = '/socket.io/') {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ EIO: '4', ...parameters })) {
    if (value !== null) query.set(name, value);
  }
  return `${base}${path}?${query}`;
}

/** A session over HTTP long polling. */
export class Polling {
  constructor(base, opened, headers, path) {
    this.base = base;
    this.opened = opened;
    this.sid = opened.sid;
    this.headers = headers;
    this.path = path;
  }

  static async open(base, { headers = {}, path } = {}) {
    const answer = await request(address(base, { transport: 'polling' }, path), { headers });
    if (answer.status !== 200) throw new Error(`handshake answered ${answer.status} ${answer.body}`);
    return new Polling(base, JSON.parse(answer.body.slice(1)), headers, path);
  }

  /** Opens, and joins a namespace: the socket id is in `id`. */
  static async connect(base, namespace = '/', options = {}) {
    const session = await Polling.open(base, options);
    await session.post(namespace === '/' ? '40' : `40${namespace},`);
    const { body } = await session.poll();
    session.id = JSON.parse(body.slice(body.indexOf('{'))).sid;
    return session;
  }

  get url() {
    return address(this.base, { transport: 'polling', sid: this.sid }, this.path);
  }

  poll(options = {}) {
    return request(this.url, { headers: this.headers, ...options });
  }

  post(body, { headers = {}, ...options } = {}) {
    return request(this.url, { method: 'POST', headers: { 'content-type': 'text/plain;charset=UTF-8', ...this.headers, ...headers }, body, ...options });
  }
}

/** A WebSocket whose frames wait in a queue; text frames are strings, binary ones Buffers. */
export class Frames {
  #ended;

  constructor(socket) {
    this.socket = socket;
    this.inbox = new Inbox();
    socket.on('message', (data, isBinary) => this.inbox.push(isBinary ? data : data.toString()));
    this.#ended = new Promise((resolve) => {
      socket.on('close', (code, reason) => {
        this.inbox.end(`close ${code}`);
        resolve({ code, reason: reason.toString() });
      });
    });
    socket.on('error', () => {});
  }

  send(frame) {
    this.socket.send(frame);
  }

  next(what = 'a frame', within = WITHIN_MS) {
    return this.inbox.next(what, within);
  }

  /** Skips what comes before the first frame that starts with `prefix`. */
  async startingWith(prefix, within = WITHIN_MS) {
    for (;;) {
      const frame = await this.next(`a frame that starts with ${prefix}`, within);
      if (typeof frame === 'string' && frame.startsWith(prefix)) return frame;
    }
  }

  /** `{ code, reason }` of the close. */
  ended(within = WITHIN_MS) {
    return limited('the WebSocket is closed', this.#ended, within);
  }
}

/** Upgrades to a WebSocket, or gives the refusal: `{ frames }` or `{ status, headers, body }`. */
export function upgrade(stage, base, parameters = {}, { headers = {}, path } = {}) {
  const url = address(base.replace('http', 'ws'), { transport: 'websocket', ...parameters }, path);
  const socket = new WebSocket(url, { headers, perMessageDeflate: false });
  stage.defer(() => socket.terminate());
  const frames = new Frames(socket);
  return handshake(socket, { frames });
}

/** `opened` once the WebSocket is, or the refusal: `{ status, headers, body }`. */
export function handshake(socket, opened) {
  const settled = new Promise((resolve, reject) => {
    socket.once('open', () => resolve(opened));
    socket.once('error', reject);
    socket.once('unexpected-response', (_, response) => {
      let body = '';
      response.on('data', (chunk) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    });
  });
  return limited('the WebSocket handshake ends', settled);
}

/** A fresh Engine.IO session on a WebSocket: its frames, with the handshake in `opened`. */
export async function openFrames(stage, base, options = {}) {
  const { frames, status, body } = await upgrade(stage, base, {}, options);
  if (frames === undefined) throw new Error(`handshake answered ${status} ${body}`);
  frames.opened = JSON.parse((await frames.next('the open packet')).slice(1));
  return frames;
}

/** A fresh session that has joined `/`. */
export async function connectFrames(stage, base, options = {}) {
  const frames = await openFrames(stage, base, options);
  frames.send('40');
  frames.id = JSON.parse((await frames.startingWith('40')).slice(2)).sid;
  return frames;
}

/** Whether the session behind `frames` still does its work. */
export async function answers(frames) {
  frames.send('427["heartbeat",null]');
  const reply = JSON.parse((await frames.startingWith('437')).slice(3));
  return reply[0].ok === true;
}

/** A bare TCP connection: what arrived so far is in `received`, the end in `closed()`. */
export async function tcp(stage, port) {
  const socket = net.connect(port, '127.0.0.1');
  stage.defer(() => socket.destroy());
  const bare = { socket, received: '' };
  socket.on('data', (chunk) => (bare.received += chunk.toString('latin1')));
  const ended = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => {});
  bare.closed = (within = WITHIN_MS) => limited('the TCP connection is closed', ended, within);
  await limited('TCP connects', new Promise((resolve) => socket.once('connect', resolve)));
  return bare;
}
