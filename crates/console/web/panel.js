// One client: who it is, where it connects, what it says and what it hears.

import { element, form, labelled, tick } from './element.js';
import { messageLine, noteLine } from './entry.js';
import { Fail } from './fail.js';
import { Socket } from './socket.js';
import { shown, typed } from './value.js';

/** A developer's server may be away for long. */
const RECONNECT = { ...Socket.RECONNECT_PATIENT, attempts: Infinity };

const LINES_MAX = 200;

/** So near to its end, in pixels, whoever reads a log wants to see what comes. */
const END_PX = 40;

let opened = 0;

const FAILURES = {
  [Fail.UNSUPPORTED]: 'WebSocket is not supported here',
  [Fail.UNREACHABLE]: 'cannot connect',
  [Fail.REFUSED]: 'refused',
  [Fail.HEARTBEAT]: 'heartbeat lost',
  [Fail.CLOSED]: 'closed by the server',
  [Fail.UNEXPECTED]: 'unexpected',
};

function input(value, name) {
  return element('input', { type: 'text', value, name, autocomplete: 'off', spellcheck: false });
}

function choice(options) {
  return element('select', {}, ...options.map(([value, text]) => element('option', { value }, text)));
}

export class Panel {
  #socket = null;
  #rooms = new Set();
  /** Lines that the next frame shows, the oldest given up if there are too many. */
  #waiting = [];
  #frame = 0;
  #again;
  #title = element('h3', { id: `panel-${(opened += 1)}` });
  #removal;
  #state = element('span', { className: 'pill' });
  #note = element('p', { className: 'note', role: 'status' });
  #chips = element('ul', { className: 'chips' });
  #log = element('ul', { className: 'log', role: 'log', 'aria-label': 'What this client heard', tabIndex: 0 });
  #fields;
  #ack = tick('Acknowledge by itself', false);
  #echo = tick('To myself, too', true);
  #connect = element('button', { type: 'submit' }, 'Connect');
  #talk;

  /** `again(who)` opens another client of the same user. */
  constructor({ nodes, user, device, node, again, gone }) {
    this.#again = again;
    this.#fields = {
      user: input(user, 'user'),
      device: input(device, 'device'),
      node: choice(nodes.map(({ client, name }) => [client, name])),
      over: choice([['websocket', 'WebSocket'], ['polling', 'Long-polling']]),
      room: input('lobby', 'room'),
      to: input('bob', 'to'),
      say: input('hello', 'data'),
      letter: input('call me', 'message'),
    };
    this.#fields.node.selectedIndex = node;
    this.#talk = element('div', {}, this.#roomsPart(), this.#publishPart(), this.#durablePart());
    this.#removal = element('button', { type: 'button', className: 'quiet', on: { click: () => this.#remove(gone) } }, '×');
    const twin = element('button', { type: 'button', className: 'quiet', on: { click: () => this.#twin() } }, 'Same user again');
    const { user: userField, device: deviceField, node: nodeField, over } = this.#fields;
    const who = form(
      () => this.#toggle(),
      element('div', { className: 'row' }, labelled('User', userField), labelled('Device', deviceField)),
      element('div', { className: 'row' }, labelled('Node', nodeField), labelled('Over', over)),
      element('div', { className: 'row' }, this.#connect, twin),
    );
    this.root = element('article', { className: 'panel', 'aria-labelledby': this.#title.id }, element('div', { className: 'bar' }, this.#title, this.#state, this.#removal), who, this.#note, this.#talk, this.#log);
    this.#name();
    this.#show('closed');
  }

  open() {
    const { user, device, node, over } = this.#fields;
    this.#name();
    const auth = user.value ? { user: user.value, device: device.value || undefined } : {};
    this.#socket = new Socket(`${node.value}/ws`, {
      auth,
      transport: over.value,
      // What was chosen is what is seen.
      fallback: false,
      reconnect: RECONNECT,
      success: (connected) => this.#connected(connected),
      fail: (failure) => this.#failed(failure),
      onMessage: (message, acknowledge) => this.#hear(message, acknowledge),
      onStatus: (status, detail) => this.#status(status, detail),
      onLost: (lost) => this.#lost(lost),
    });
    this.#show('connecting');
  }

  #roomsPart() {
    const { room } = this.#fields;
    const join = element('button', { type: 'submit' }, 'Join');
    const act = () => {
      // By the time of the answer it may say something else.
      const name = room.value;
      this.#ask('join', (socket) => socket.join(name), () => {
        this.#rooms.add(name);
        this.#drawRooms();
      });
    };
    return element('fieldset', {}, element('legend', {}, 'Rooms'), form(act, element('div', { className: 'row' }, labelled('Room', room), join)), this.#chips);
  }

  #publishPart() {
    const { room, say } = this.#fields;
    const publish = element('button', { type: 'submit' }, 'Publish');
    const act = () => this.#ask('publish', (socket) => socket.publish(room.value, typed(say.value), { echo: this.#echo.box.checked }));
    return element('fieldset', {}, element('legend', {}, 'To the room'), form(act, element('div', { className: 'row' }, labelled('Text or JSON', say), publish), this.#echo.label));
  }

  #durablePart() {
    const { to, letter } = this.#fields;
    const send = element('button', { type: 'submit' }, 'Send');
    const act = () => {
      const name = to.value;
      this.#ask('send', (socket) => socket.send(name, typed(letter.value), { event: 'note' }), ({ status }) => this.#write(() => noteLine('sent', `to ${name}: ${status}`)));
    };
    const ready = () => this.#ask('online', (socket) => socket.online());
    const online = element('button', { type: 'button', className: 'quiet', on: { click: ready } }, 'I am ready');
    return element(
      'fieldset',
      {},
      element('legend', {}, 'Durable messages'),
      form(act, element('div', { className: 'row' }, labelled('To user', to), labelled('Text or JSON', letter), send)),
      element('div', { className: 'row' }, online, this.#ack.label),
    );
  }

  #toggle() {
    if (this.#socket === null) {
      this.open();
      return;
    }
    this.#socket.close();
    this.#socket = null;
    this.#forgetRooms();
    this.#show('closed');
    this.#note.textContent = 'Away. What is sent to this user waits.';
  }

  #twin() {
    const { user, device, node } = this.#fields;
    this.#again({ user: user.value, device: device.value, node: node.selectedIndex });
  }

  #remove(gone) {
    this.#socket?.close();
    this.#socket = null;
    cancelAnimationFrame(this.#frame);
    gone(this);
  }

  async #ask(what, ask, then = () => {}) {
    try {
      then(await ask(this.#socket));
    } catch (error) {
      this.#write(() => noteLine('error', `${what}: ${error.code}: ${error.message}`));
    }
  }

  #connected({ session, node, transport, reconnected }) {
    const where = node === null ? '' : ` on ${node}`;
    this.#note.textContent = `${reconnected ? 'Back' : 'Connected'}${where} over ${transport === 'polling' ? 'long-polling' : 'WebSocket'}, session ${session}.`;
  }

  #failed({ code, message }) {
    this.#socket = null;
    this.#forgetRooms();
    this.#show('failed', FAILURES[code]);
    this.#note.textContent = `Code ${code}: ${message}. It does not come back by itself.`;
  }

  #hear(message, acknowledge) {
    const isDue = message.op === 'offline' || message.message !== undefined;
    if (isDue && this.#ack.box.checked) acknowledge();
    const byHand = isDue && !this.#ack.box.checked ? acknowledge : undefined;
    this.#write(() => messageLine(message, byHand));
  }

  #lost({ op, room, error }) {
    this.#rooms.delete(room);
    this.#drawRooms();
    this.#write(() => noteLine('error', `${op} ${room ?? ''}: ${error.message}`));
  }

  #status(status, detail) {
    if (status === 'waiting') {
      const when = detail.delayMs === null ? 'once there is a network' : `in ${shown(Math.round(detail.delayMs))} ms`;
      this.#note.textContent = `Lost (${detail.reason}). Try ${detail.attempt} ${when}.`;
    }
    if (status !== 'closed') this.#show(status);
  }

  #show(state, text = state) {
    this.#state.dataset.state = state;
    this.#state.textContent = text;
    const isOpen = this.#socket !== null;
    this.#connect.textContent = isOpen ? 'Disconnect' : 'Connect';
    this.#connect.classList.toggle('quiet', isOpen);
    const who = ['user', 'device', 'node', 'over'].map((name) => this.#fields[name]);
    // What is asked while it comes back waits; without a socket there is nobody to ask.
    const what = [...this.#talk.querySelectorAll('button, input')];
    const [off, on] = isOpen ? [who, what] : [what, who];
    // A field that is disabled loses the focus, and with it whoever goes by keyboard their place.
    if (off.includes(document.activeElement)) this.#connect.focus();
    for (const field of on) field.disabled = false;
    for (const field of off) field.disabled = true;
  }

  #name() {
    const { user, device } = this.#fields;
    this.#title.textContent = user.value ? `${user.value} · ${device.value || 'default'}` : 'anonymous';
    this.#removal.setAttribute('aria-label', `Remove ${this.#title.textContent}`);
  }

  #drawRooms() {
    const leave = (room) => this.#ask('leave', (socket) => socket.leave(room), () => {
      const hadFocus = this.#chips.contains(document.activeElement);
      this.#rooms.delete(room);
      this.#drawRooms();
      if (hadFocus) (this.#chips.querySelector('button') ?? this.#fields.room).focus();
    });
    const chip = (room) => element('li', {}, element('button', { type: 'button', className: 'quiet', 'aria-label': `Leave ${room}`, on: { click: () => leave(room) } }, `${room} ×`));
    this.#chips.replaceChildren(...[...this.#rooms].map(chip));
  }

  #forgetRooms() {
    this.#rooms.clear();
    this.#drawRooms();
  }

  /** Shows the line that `make` makes, with all others of this frame: a thousand messages a second are no thousand layouts. */
  #write(make) {
    this.#waiting.push(make);
    if (this.#waiting.length > LINES_MAX) this.#waiting.shift();
    this.#frame ||= requestAnimationFrame(() => this.#drawLines());
  }

  #drawLines() {
    this.#frame = 0;
    const log = this.#log;
    const isFollowed = log.scrollHeight - log.scrollTop - log.clientHeight < END_PX;
    log.append(...this.#waiting.splice(0).map((make) => make()));
    while (log.children.length > LINES_MAX) log.firstElementChild.remove();
    // Whoever reads further up is left there.
    if (isFollowed) log.scrollTop = log.scrollHeight;
  }
}
