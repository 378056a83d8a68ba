// One line of a client's log: what came, or what became of what was asked.

import { element } from './element.js';
import { shown } from './value.js';

/** What a message says: its kind, its text, and where it is from. */
function told(message) {
  switch (message.op) {
    case 'event':
      return { kind: message.event, text: message.args.map(shown).join(', '), from: message.meta };
    case 'offline':
      return { kind: `${message.event} (waited)`, text: shown(message.data), from: { from: message.from, ts: message.sent_at } };
    case 'offline_end':
      return { kind: 'backlog', text: `${message.count} had waited` };
    default:
      return { kind: message.op, text: [message.reason, message.by && `by device ${message.by.device} on ${message.by.node}`].filter(Boolean).join(', ') };
  }
}

function origin({ from, room, node, ts } = {}) {
  const parts = [from && `from ${from}`, room && `in ${room}`, node && `by ${node}`, ts && `sent ${time(new Date(ts))}`];
  return parts.filter(Boolean).join(', ');
}

const clock = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });

function time(date) {
  return clock.format(date);
}

function line(kind, text, from, ...more) {
  const children = [
    element('span', { className: 'kind', 'data-kind': kind }, String(kind)),
    element('span', { className: 'what' }, text),
    element('time', { className: 'when' }, time(new Date())),
  ];
  if (from) children.push(element('span', { className: 'from' }, from));
  return element('li', {}, ...children, ...more);
}

/** A line for a message. With `acknowledge`, which tells whether it could be said, it has a button for that. */
export function messageLine(message, acknowledge) {
  const { kind, text, from } = told(message);
  if (acknowledge === undefined) return line(kind, text, origin(from));
  const button = element('button', { type: 'button', className: 'quiet', on: { click: () => taken() } }, 'Acknowledge');
  // Whoever pressed it by keyboard keeps the focus, which a disabled button could not have.
  const taken = () => {
    if (button.ariaDisabled === 'true') return;
    const isTaken = acknowledge();
    button.textContent = isTaken ? 'Acknowledged' : 'Not connected: it comes again';
    if (isTaken) button.ariaDisabled = 'true';
  };
  return line(kind, text, origin(from), button);
}

/** A line for the answer to something that was asked, or for what went wrong. */
export function noteLine(kind, text) {
  return line(kind, text, '');
}
