// A line over the last minute, with the latest figure beside it.

import { element } from './element.js';

const SVG = 'http://www.w3.org/2000/svg';
const POINTS_MAX = 60;
const WIDTH = 120;
const HEIGHT = 40;

function drawn(name) {
  return document.createElementNS(SVG, name);
}

export class Chart {
  #title;
  #format;
  #points = [];
  #line = drawn('polyline');
  #area = drawn('polygon');
  #picture = drawn('svg');
  #figure = element('dd', {}, '–');

  constructor(title, format) {
    this.#title = title;
    this.#format = format;
    this.#picture.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    this.#picture.setAttribute('preserveAspectRatio', 'none');
    this.#picture.setAttribute('role', 'img');
    this.#picture.append(this.#area, this.#line);
    this.#describe('nothing yet');
    this.root = element('div', { className: 'chart' }, element('dl', { style: 'margin:0' }, element('dt', {}, title), this.#figure), this.#picture);
  }

  /** The next figure; null where there is none, which leaves a gap no wider than the figure before. */
  add(value) {
    if (value === null) {
      this.#figure.textContent = '–';
      return;
    }
    this.#points.push(value);
    if (this.#points.length > POINTS_MAX) this.#points.shift();
    this.#figure.textContent = this.#format(value);
    this.#draw();
  }

  #draw() {
    const most = Math.max(...this.#points, Number.MIN_VALUE);
    const step = WIDTH / (POINTS_MAX - 1);
    const first = WIDTH - step * (this.#points.length - 1);
    const points = this.#points.map((value, index) => `${(first + index * step).toFixed(1)},${(HEIGHT - 3 - (value / most) * (HEIGHT - 6)).toFixed(1)}`);
    this.#line.setAttribute('points', points.join(' '));
    this.#area.setAttribute('points', `${first.toFixed(1)},${HEIGHT} ${points.join(' ')} ${WIDTH},${HEIGHT}`);
    this.#describe(`now ${this.#format(this.#points.at(-1))}, at most ${this.#format(most)} in the last minute`);
  }

  #describe(text) {
    this.#picture.setAttribute('aria-label', `${this.#title}: ${text}`);
  }
}
