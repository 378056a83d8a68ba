// The ledger of who was told and given what, to judge a take-over by what its clients saw.
//
// The rule: from the moment a newcomer's CONNECT is seen to be answered, nothing that the displaced session begins is
// acknowledged to it or reaches anybody, and nothing that anybody begins is given to it. Everything happens in one
// process, so that one counter orders it: what the counter puts later did come later, and no clock has to be trusted.

/** A session of a place that may have one only. */
class Account {
  answered = Infinity;
  /** When it was itself told to go, or its transport closed. */
  ended = Infinity;
  wasTold = false;
  winner = null;
  /** The latest beginning of anything of its own that was acknowledged, or that reached anybody. */
  acknowledged = 0;
  reached = 0;
  /** The latest beginning of anything that it was given. */
  given = 0;

  constructor(place, device, sent) {
    Object.assign(this, { place, device, sent });
  }
}

export class Ledger {
  /** How often each limit was put to the test. */
  published = 0;
  acknowledged = 0;
  delivered = 0;
  #now = 0;
  #begun = [];
  #places = new Map();

  /** Opens the account of a session whose CONNECT is about to be sent. */
  open(place, device) {
    this.#now += 1;
    const account = new Account(place, device, this.#now);
    if (!this.#places.has(place)) this.#places.set(place, []);
    this.#places.get(place).push(account);
    return account;
  }

  answered(account) {
    this.#now += 1;
    account.answered = this.#now;
  }

  /** It was evicted; `by` is what the event says about the winner. */
  told(account, by) {
    this.#now += 1;
    account.ended = Math.min(account.ended, this.#now);
    account.wasTold = true;
    account.winner = by?.device ?? null;
  }

  closed(account) {
    this.#now += 1;
    account.ended = Math.min(account.ended, this.#now);
  }

  /** Something of the session's begins now; the number it gets travels as its data. */
  begin(account) {
    this.#now += 1;
    this.#begun.push({ account, at: this.#now });
    return this.#begun.length - 1;
  }

  /** What has this number was acknowledged as done. */
  acknowledge(number) {
    const { account, at } = this.#begun[number];
    this.acknowledged += 1;
    account.acknowledged = Math.max(account.acknowledged, at);
  }

  /** What has this number was given to the session. */
  deliver(number, receiver) {
    const { account, at } = this.#begun[number];
    this.delivered += 1;
    account.reached = Math.max(account.reached, at);
    receiver.given = Math.max(receiver.given, at);
  }

  /** Keeps the account of a bare client, which publishes by `publish` below. */
  follow(visitor, place) {
    visitor.once('connecting', () => (visitor.account = this.open(place, visitor.auth.device)));
    visitor.once('connect', () => this.answered(visitor.account));
    visitor.once('close', () => visitor.account && this.closed(visitor.account));
    visitor.on('event', (name, data) => {
      if (name === 'message') this.deliver(data, visitor.account);
      if (name === 'evicted') this.told(visitor.account, data.by);
    });
  }

  /**
   * The same for an official client that has not connected yet, with an account for each of its sessions. It gets a
   * `request` like a bare one's, which is silent while it is not connected.
   */
  followSocket(socket, place) {
    // Right before CONNECT is sent, the first time and every other.
    socket.io.on('open', () => (socket.account = this.open(place, socket.auth.device)));
    socket.on('connect', () => this.answered(socket.account));
    socket.on('disconnect', () => this.closed(socket.account));
    socket.on('message', (data) => this.deliver(data, socket.account));
    socket.on('evicted', ({ by }) => this.told(socket.account, by));
    socket.request = (event, argument, then) => socket.connected && socket.emit(event, argument, then);
  }

  publish(visitor, room) {
    this.published += 1;
    const number = this.begin(visitor.account);
    visitor.request('publish', { room, data: number }, ({ ok }) => ok && this.acknowledge(number));
  }

  /** A question that changes nothing for anybody; its answer is an acknowledgement as good as any. */
  heartbeat(visitor) {
    const number = this.begin(visitor.account);
    visitor.request('heartbeat', null, ({ ok }) => ok && this.acknowledge(number));
  }

  /** The accounts of a place, in the order in which their CONNECTs were sent. */
  accounts(place) {
    return this.#places.get(place) ?? [];
  }

  /**
   * From when on the session had to be silent: the answer to whoever it says displaced it, or to anybody who asked for
   * its place once it had it, or its own goodbye, whatever came first.
   */
  #silentFrom(account) {
    let from = account.wasTold ? account.ended : Infinity;
    for (const other of this.accounts(account.place)) {
      const isWinner = account.winner !== null && other.device === account.winner;
      if (other !== account && (isWinner || other.sent > account.answered)) from = Math.min(from, other.answered);
    }
    return from;
  }

  /** Every breach of the rule, as a sentence. */
  violations() {
    const found = [];
    for (const account of [...this.#places.values()].flat()) {
      const from = this.#silentFrom(account);
      const who = `${account.place}, device ${account.device}, silent from ${from}`;
      if (account.acknowledged > from) found.push(`${who}: acknowledged what it began at ${account.acknowledged}`);
      if (account.reached > from) found.push(`${who}: what it began at ${account.reached} reached somebody`);
      if (account.given > from) found.push(`${who}: was given what began at ${account.given}`);
    }
    return found;
  }
}
