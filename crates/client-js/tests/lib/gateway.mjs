// A server of the plain protocol that does what its test tells it.

import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';
import { Inbox } from './wait.mjs';

/** One connection: everything it said but `ping` and `connect` waits in `messages`. */
export class Visit {
  messages = new Inbox();
  pings = 0;
  isOpen = true;

  constructor(socket, gateway) {
    this.socket = socket;
    this.gateway = gateway;
    socket.on('message', (data) => this.#hear(data.toString()));
    socket.on('error', () => {});
    this.ended = new Promise((resolve) => {
      socket.on('close', (code) => {
        this.isOpen = false;
        resolve(code);
      });
    });
  }

  send(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  close(code, reason) {
    this.socket.close(code, reason);
  }

  /** As a cable that is cut. */
  cut() {
    this.socket.terminate();
  }

  reply(id, fields = {}) {
    this.send({ op: 'reply', id, ok: true, ...fields });
  }

  #hear(text) {
    if (text === 'ping') {
      this.pings += 1;
      if (this.gateway.answersPings) this.send('pong');
      return;
    }
    const message = JSON.parse(text);
    if (message.op !== 'connect') {
      this.messages.push(message);
      const fields = this.gateway.answer?.(message, this);
      if (fields) this.reply(message.id, fields);
      return;
    }
    this.connect = message;
    this.gateway.connect(this, message);
  }
}

/** Lets everybody in, by `connect`, and answers as `answer(message, visit)` says: fields of a reply, or nothing. */
export class Gateway {
  visits = new Inbox();
  count = 0;
  live = 0;
  mostLive = 0;
  answersPings = true;
  answer = () => ({});

  static async start(t, settings = {}) {
    const gateway = Object.assign(new Gateway(), settings);
    t.after(() => gateway.stop());
    await gateway.listen();
    return gateway;
  }

  connect(visit) {
    visit.send({ op: 'connected', session: `s${this.count}`, user: 'ann', node: 'n1', heartbeat_ms: 25_000 });
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  async listen() {
    this.http = createServer((_, response) => response.writeHead(404).end());
    const server = new WebSocketServer({ server: this.http, path: '/ws', handleProtocols: (offered) => [...offered][0] });
    this.server = server;
    server.on('connection', (socket, { url }) => {
      this.count += 1;
      this.live += 1;
      this.mostLive = Math.max(this.live, this.mostLive);
      socket.on('close', () => (this.live -= 1));
      const visit = new Visit(socket, this);
      visit.url = url;
      this.visits.push(visit);
    });
    await new Promise((resolve) => this.http.listen(this.port ?? 0, '127.0.0.1', resolve));
    this.port = this.http.address().port;
  }

  /** Until `listen`, nobody is let in on this port. */
  async stop() {
    for (const socket of this.server.clients) socket.terminate();
    this.server.close();
    const closed = new Promise((resolve) => this.http.close(resolve));
    this.http.closeAllConnections();
    await closed;
  }
}
