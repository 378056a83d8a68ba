// A server of Engine.IO 4 and Socket.IO 5 over long-polling that does what its test tells it.

import { createServer } from 'node:http';
import { Inbox, pause } from './wait.mjs';

const SEPARATOR = '\x1e';

/** One session: every packet of Socket.IO it sent waits in `packets`, but its CONNECT. */
export class Polled {
  packets = new Inbox();
  #outgoing = [];
  #response = null;

  constructor(sid, poller) {
    this.sid = sid;
    this.poller = poller;
    this.ended = new Promise((resolve) => (this.end = resolve));
  }

  /** Whether a poll waits for something to come. */
  get isHeld() {
    return this.#response !== null;
  }

  send(...packets) {
    this.#outgoing.push(...packets);
    this.#flush();
  }

  /** Answers the poll that waits with `text`, a few bytes at a time, as over a slow line. */
  async trickle(text, pieces, everyMs) {
    const response = this.#response;
    this.#response = null;
    const length = Math.ceil(text.length / pieces);
    for (let at = 0; at < text.length; at += length) {
      response.write(text.slice(at, at + length));
      await pause(everyMs);
    }
    response.end();
  }

  poll(response) {
    this.#response = response;
    response.on('close', () => {
      if (this.#response === response) this.#response = null;
    });
    this.#flush();
  }

  receive(body) {
    for (const packet of body.split(SEPARATOR)) {
      if (packet === '1') {
        this.wasPolled = this.#response !== null;
        this.poller.forget(this);
      } else if (packet.startsWith('40')) {
        this.connect = packet;
        this.poller.connect(this, packet);
      } else if (/^42\d*\["heartbeat",null\]$/.test(packet) && this.poller.answersPings) this.send(`43${packet.slice(2).split('[')[0]}[{"ok":true,"ts":1}]`);
      else this.packets.push(packet);
    }
  }

  #flush() {
    if (this.#response === null || this.#outgoing.length === 0) return;
    const response = this.#response;
    this.#response = null;
    response.end(this.#outgoing.splice(0).join(SEPARATOR));
  }
}

/** Lets everybody in, by `connect`. */
export class Poller {
  visits = new Inbox();
  sessions = new Map();
  count = 0;
  posting = 0;
  mostPosting = 0;
  maxPayload = 100_000;
  answersPings = true;
  /** Packets that were sent to sessions which are gone. */
  strays = [];
  /** Awaited before a session that was opened is told of. */
  opened = () => {};

  static async start(t, settings = {}) {
    const poller = Object.assign(new Poller(), settings);
    t.after(() => poller.stop());
    poller.http = createServer((request, response) => poller.#serve(request, response));
    await new Promise((resolve) => poller.http.listen(0, '127.0.0.1', resolve));
    poller.url = `http://127.0.0.1:${poller.http.address().port}`;
    return poller;
  }

  connect(visit, packet) {
    const namespace = /^40(\/[^,]*,)?/.exec(packet)[1] ?? '';
    visit.send(`40${namespace}{"sid":"socket-${visit.sid}"}`);
  }

  forget(visit) {
    this.sessions.delete(visit.sid);
    visit.end();
  }

  async stop() {
    const closed = new Promise((resolve) => this.http.close(resolve));
    this.http.closeAllConnections();
    await closed;
  }

  async #serve(request, response) {
    const url = new URL(request.url, this.url);
    const { EIO, transport, sid } = Object.fromEntries(url.searchParams);
    const refuse = (status, body) => response.writeHead(status).end(body);
    if (this.refusal !== undefined) return refuse(this.refusal, 'no');
    if (url.pathname !== '/socket.io/' || EIO !== '4' || transport !== 'polling') return refuse(404, 'nothing here');
    if (sid === undefined) {
      this.count += 1;
      const visit = new Polled(`e${this.count}`, this);
      this.sessions.set(visit.sid, visit);
      this.visits.push(visit);
      await this.opened();
      return response.end(`0${JSON.stringify({ sid: visit.sid, upgrades: ['websocket'], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: this.maxPayload })}`);
    }
    const visit = this.sessions.get(sid);
    if (visit === undefined) {
      if (request.method === 'POST') this.strays.push(url.searchParams.get('sid'));
      return refuse(400, '{"code":1,"message":"Session ID unknown"}');
    }
    if (request.method === 'GET') return visit.poll(response);
    this.posting += 1;
    this.mostPosting = Math.max(this.posting, this.mostPosting);
    let body = '';
    for await (const chunk of request.setEncoding('utf8')) body += chunk;
    this.posting -= 1;
    visit.receive(body);
    return response.end('ok');
  }
}
