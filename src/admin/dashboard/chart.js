// Small charts over time on a canvas: one value for each step of the shown range.

import { arrange, color, h, mark, say, sayName } from './dom.js';
import { span } from './format.js';
import { roundSpan, ticks } from './range.js';

const HUES = 8;
const AXIS = 16; // the height of the line with the times

/**
 * A chart with its title and legend.
 * `format` writes a value. The series are areas on top of each other if `stacked`, otherwise lines. `unit` is the
 * base of round values: 1024 for bytes.
 */
export class Chart {
  constructor(title, format, { stacked = false, height = 120, unit = 1 } = {}) {
    this.title = title;
    this.format = format;
    this.stacked = stacked;
    this.height = height;
    this.unit = unit;
    this.canvas = h('canvas', { role: 'img', class: 'plot' });
    this.tip = h('div', { class: 'tip', hidden: true });
    this.now = h('span', { class: 'value' });
    this.legend = h('ul', { class: 'legend' });
    this.element = h('figure', { class: 'chart' },
      h('figcaption', {}, h('span', {}, title), this.now),
      h('div', { class: 'stage' }, this.canvas, this.tip), this.legend);
    this.series = [];
    this.keys = new Map();
    this.canvas.addEventListener('pointermove', (event) => this.point(event.offsetX));
    this.canvas.addEventListener('pointerleave', () => this.point(null));
    this.canvas.style.height = `${height}px`;
    sizes.observe(this.canvas);
    this.canvas.chart = this;
  }

  /** Takes the series to draw: `{name, series, hue}` each, and which part of them. */
  draw(series, view) {
    this.series = series;
    this.view = view;
    this.paint();
  }

  paint() {
    const { canvas, series, view } = this;
    const [width, height] = [this.width ?? 0, this.height];
    if (!width || !view) return;
    const { end, length } = view;
    const density = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    const pen = canvas.getContext('2d');
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    const floor = height - AXIS;
    const start = end - length + 1;
    const x = (step) => ((step - start) / (length - 1)) * width;
    const totals = new Float64Array(length);
    let top = 0;
    const last = new Map();
    for (let i = 0; i < length; i += 1) {
      let pile = NaN;
      for (const one of series) {
        const value = one.series.at(start + i);
        if (Number.isNaN(value)) continue;
        pile = this.stacked ? (Number.isNaN(pile) ? 0 : pile) + value : Math.max(Number.isNaN(pile) ? 0 : pile, value);
        last.set(one.name, value);
      }
      totals[i] = pile;
      if (pile > top) top = pile;
    }
    const ceiling = round(top || 1, this.unit);
    const y = (value) => floor - (value / ceiling) * (floor - 14);
    this.grid(pen, width, ceiling, y);
    if (this.stacked) this.pile(pen, start, x, y, totals);
    else for (const one of series) this.line(pen, one, start, x, y);
    this.scale(pen, width, floor, ceiling, y, view);
    if (this.at !== undefined && this.at !== null) {
      pen.fillStyle = color('muted');
      pen.fillRect(Math.round(x(start + this.at)), 0, 1, floor);
    }
    // If a status is late, the last step has no value.
    const recent = Number.isNaN(totals[length - 1]) ? totals[length - 2] : totals[length - 1];
    const now = this.stacked ? this.format(recent) : '';
    say(this.now, now);
    const label = `${this.title} over the last ${roundSpan(view.step * length)}: ${this.stacked ? `now ${now}, ` : ''}at most ${this.format(top)}`;
    if (canvas.label !== label) canvas.setAttribute('aria-label', (canvas.label = label));
    this.explain(series);
  }

  grid(pen, width, ceiling, y) {
    pen.lineWidth = 1;
    pen.strokeStyle = color('line');
    pen.beginPath();
    for (const level of [0, ceiling / 2, ceiling]) {
      const at = Math.round(y(level)) + 0.5;
      pen.moveTo(0, at);
      pen.lineTo(width, at);
    }
    pen.stroke();
  }

  /** The values at the grid lines, legible over the series. */
  scale(pen, width, floor, ceiling, y, view) {
    pen.font = `11px ${FONT}`;
    pen.fillStyle = color('muted');
    pen.strokeStyle = color('card');
    pen.lineWidth = 3;
    pen.lineJoin = 'round';
    pen.textBaseline = 'bottom';
    pen.textAlign = 'left';
    for (const level of [ceiling / 2, ceiling]) {
      pen.strokeText(this.format(level), 2, y(level) - 1);
      pen.fillText(this.format(level), 2, y(level) - 1);
    }
    pen.textBaseline = 'top';
    pen.textAlign = 'center';
    for (const ago of ticks(view)) pen.fillText(`−${roundSpan(ago)}`, width - (ago / (view.step * view.length)) * width, floor + 4);
    pen.textAlign = 'right';
    pen.fillText('now', width, floor + 4);
  }

  pile(pen, start, x, y, totals) {
    const { length } = totals;
    const below = new Float64Array(length);
    for (const one of this.series) {
      pen.fillStyle = hue(one.hue);
      for (let i = 0; i < length; ) {
        if (Number.isNaN(totals[i])) {
          i += 1;
          continue;
        }
        let to = i;
        while (to < length && !Number.isNaN(totals[to])) to += 1;
        pen.beginPath();
        pen.moveTo(x(start + i), y(below[i]));
        for (let j = i; j < to; j += 1) {
          const value = one.series.at(start + j);
          pen.lineTo(x(start + j), y(below[j] + (Number.isNaN(value) ? 0 : value)));
        }
        for (let j = to - 1; j >= i; j -= 1) pen.lineTo(x(start + j), y(below[j]));
        pen.fill();
        for (let j = i; j < to; j += 1) {
          const value = one.series.at(start + j);
          if (!Number.isNaN(value)) below[j] += value;
        }
        i = to;
      }
    }
  }

  line(pen, one, start, x, y) {
    pen.strokeStyle = hue(one.hue);
    pen.lineWidth = 1.75;
    pen.lineJoin = 'round';
    pen.beginPath();
    let down = false;
    for (let i = 0; i < this.view.length; i += 1) {
      const value = one.series.at(start + i);
      if (Number.isNaN(value)) down = false;
      else if (down) pen.lineTo(x(start + i), y(value));
      else {
        pen.moveTo(x(start + i), y(value));
        down = true;
      }
    }
    pen.stroke();
  }

  explain(series) {
    const items = series.map((one) => {
      let item = this.keys.get(one.name);
      if (!item) {
        item = h('li', {}, h('i', { class: 'key' }), h('span', {}), h('b', {}));
        sayName(item.children[1], one.name);
        this.keys.set(one.name, item);
      }
      item.firstChild.style.background = `var(--hue${one.hue % HUES})`;
      const { end, length } = this.view;
      const at = this.at ?? length - 1;
      let value = one.series.at(end - length + 1 + at);
      if (Number.isNaN(value) && this.at == null) value = one.series.at(end - 1);
      say(item.lastChild, this.format(value));
      return item;
    });
    if (this.keys.size > series.length + 20) this.keys.clear();
    arrange(this.legend, items);
  }

  /** Shows the values of the step under the pointer. */
  point(offset) {
    const last = (this.view?.length ?? 1) - 1;
    this.at = offset === null || !this.width || !this.view ? null : Math.max(0, Math.min(last, Math.round((offset / this.width) * last)));
    this.tip.hidden = this.at === null;
    if (this.at !== null) {
      const ago = (last - this.at) * this.view.step;
      say(this.tip, ago === 0 ? 'now' : `${span(ago)} ago`);
      this.tip.style.left = `${Math.min(this.width - 60, Math.max(0, offset - 24))}px`;
    }
    this.paint();
  }
}

/** A line without axes, for a tile or a row of a table. */
export class Spark {
  constructor(name) {
    this.name = name;
    this.canvas = h('canvas', { class: 'spark', role: 'img', 'aria-label': name });
    this.canvas.chart = this;
    sizes.observe(this.canvas);
  }

  draw(series, view, number = 0) {
    Object.assign(this, { series, view, number });
    mark(this.canvas, 'aria-label', `${this.name} over the last ${roundSpan(view.step * view.length)}`);
    this.paint();
  }

  paint() {
    const { canvas, series, view, width, tall } = this;
    if (!width || !series) return;
    const { end, length } = view;
    const density = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * density)) canvas.width = Math.round(width * density);
    if (canvas.height !== Math.round(tall * density)) canvas.height = Math.round(tall * density);
    const pen = canvas.getContext('2d');
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, tall);
    let top = 0;
    for (let i = 0; i < length; i += 1) top = Math.max(top, series.at(end - i) || 0);
    const y = (value) => tall - 1.5 - (top ? value / top : 0) * (tall - 3);
    pen.strokeStyle = hue(this.number);
    pen.lineWidth = 1.5;
    pen.beginPath();
    let down = false;
    for (let i = length - 1; i >= 0; i -= 1) {
      const value = series.at(end - i);
      if (Number.isNaN(value)) {
        down = false;
        continue;
      }
      const x = ((length - 1 - i) / (length - 1)) * width;
      if (down) pen.lineTo(x, y(value));
      else pen.moveTo(x, y(value));
      down = true;
    }
    pen.stroke();
  }
}

const FONT = 'system-ui, sans-serif';
const hue = (number) => color(`hue${number % HUES}`);

// A canvas is measured when its size changes, not when it is drawn.
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const { chart } = entry.target;
    chart.width = entry.contentRect.width;
    chart.tall = entry.contentRect.height;
    chart.paint();
  }
});

/** The smallest of 1, 2, 4, 5, 8, 10, 20 … that is not below `value`, in the largest unit that `value` reaches. */
function round(value, unit) {
  if (unit > 1 && value >= unit) return round(value / unit, unit) * unit;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
