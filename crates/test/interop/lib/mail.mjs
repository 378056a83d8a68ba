// The ledger of durable messages: what senders were promised, and what recipients saw of it.
//
// The rules: what was acknowledged to its sender is received; what one sender sends to one recipient is received in
// that order, the first time; and nothing is received again once its acknowledgement is known to be settled, which a
// heartbeat that was sent after it and answered says. Everything happens in one process, in one order.

export class Mail {
  promised = 0;
  received = 0;
  repeated = 0;
  confirmed = 0;
  #letters = new Map();
  #streams = new Map();
  #found = [];

  /** What travels as the data of a letter. */
  static name = (sender, number) => `${sender}/${number}`;

  /** `sender` is about to send its letter `number` to `recipient`, for the first time. */
  write(sender, number, recipient) {
    this.#letters.set(Mail.name(sender, number), { sender, number, recipient, promised: false, receipts: 0, confirmed: false });
  }

  /** The letter was acknowledged. */
  promise(name) {
    this.promised += 1;
    this.#letters.get(name).promised = true;
  }

  /** The letter came to somebody. */
  receive(name, recipient) {
    const letter = this.#letters.get(name);
    if (letter === undefined) return this.#found.push(`${recipient} received ${name}, which nobody sent`);
    if (letter.recipient !== recipient) this.#found.push(`${recipient} received ${name}, which is for ${letter.recipient}`);
    if (letter.confirmed) this.#found.push(`${recipient} received ${name} again after its acknowledgement was confirmed`);
    letter.receipts += 1;
    if (letter.receipts > 1) {
      this.repeated += 1;
      return undefined;
    }
    this.received += 1;
    const stream = `${letter.sender} to ${recipient}`;
    const last = this.#streams.get(stream) ?? -1;
    if (letter.number < last) this.#found.push(`${stream}: ${letter.number} came after ${last}`);
    this.#streams.set(stream, Math.max(last, letter.number));
    return undefined;
  }

  /** Its acknowledgement is settled. */
  confirm(name) {
    const letter = this.#letters.get(name);
    if (!letter.confirmed) this.confirmed += 1;
    letter.confirmed = true;
  }

  /** What was promised and has not come. */
  get missing() {
    return [...this.#letters].filter(([, { promised, receipts }]) => promised && receipts === 0).map(([name]) => name);
  }

  /** Every breach of the rules so far, as a sentence. */
  get violations() {
    return this.#found;
  }
}
