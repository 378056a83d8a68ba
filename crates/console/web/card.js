// One node: whether it answers, and what its metrics say from second to second.

import { Chart } from './chart.js';
import { element } from './element.js';
import { figures } from './metrics.js';

const LOOK_EVERY_MS = 1_000;
const ANSWER_WITHIN_MS = 3_000;

const count = (value) => value.toFixed(0);
const rate = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} /s`;
const milliseconds = (value) => `${value.toFixed(2)} ms`;

export class Card {
  #admin;
  #before = null;
  #state = element('span', { className: 'pill' }, 'unknown');
  #charts = {
    connections: new Chart('Connections', count),
    deliveries: new Chart('Deliveries', rate),
    pulseMs: new Chart('Pulse', milliseconds),
  };

  constructor({ name, admin }) {
    this.#admin = admin;
    const charts = Object.values(this.#charts).map(({ root }) => root);
    const title = element('div', { className: 'bar' }, element('h3', {}, name), this.#state);
    this.root = element('article', { className: 'card' }, title, element('div', { className: 'charts' }, ...charts));
    this.#look();
  }

  async #look() {
    // A page that nobody sees asks for nothing.
    if (document.visibilityState === 'visible') await this.#ask();
    setTimeout(() => this.#look(), LOOK_EVERY_MS);
  }

  async #ask() {
    try {
      const answer = await fetch(`${this.#admin}/metrics`, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const now = { at: performance.now(), text: await answer.text() };
      for (const [name, value] of Object.entries(figures(now, this.#before))) this.#charts[name].add(value);
      this.#before = now;
      this.#show('up', 'up');
    } catch {
      this.#before = null;
      for (const chart of Object.values(this.#charts)) chart.add(null);
      this.#show('down', 'no answer');
    }
  }

  #show(state, text) {
    this.#state.dataset.state = state;
    this.#state.textContent = text;
  }
}
