// The live picture of a pool: clients, the listener and the backends, with connections that move along the lines.

import { describe } from './controls.js';
import { arrange, h, mark, say, svg } from './dom.js';
import { count, percent, rate } from './format.js';
import { sign } from './states.js';
import { keyOf } from './store.js';

/** Below this width the backends are below the listener, in pixels. */
const NARROW = 560;
const ROW = 64; // the height of a backend with the gap after it
const BOX = 52;
const LETTER = 6.6; // about the width of a letter
/** How long a dot takes to arrive, in milliseconds. */
const JOURNEY = 900;
/** The most dots that start in a second; with more connections a dot stands for several. */
const MOST = 30;
const STEPS = [1, 2, 5, 10, 20, 50, 100];
/** The seconds over which shares and rates are shown. */
const LATELY = 3;

const collator = new Intl.Collator('en', { numeric: true });
const still = matchMedia('(prefers-reduced-motion: reduce)');

export class Picture {
  constructor(pool) {
    this.pool = pool;
    this.title = h('figcaption', {});
    this.legend = h('p', { class: 'note' });
    this.lines = svg('g', { class: 'wires' });
    this.dots = svg('g', { class: 'dots', 'aria-hidden': 'true' });
    this.boxes = svg('g', {});
    this.clients = new Box('clients');
    this.listener = new Box('listener');
    this.frame = svg('svg', { role: 'img', class: 'picture' }, this.lines, this.dots, this.boxes);
    this.element = h('figure', { class: 'live', 'data-picture': pool }, this.title, this.frame, this.legend);
    this.backends = new Map();
    this.waiting = []; // dots that start later
    this.moving = [];
    this.each = 1;
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.layout();
    }).observe(this.element);
    still.addEventListener('change', () => this.layout());
  }

  update(store, demo, side) {
    const pool = store.status.pools.find((one) => one.name === this.pool);
    if (!pool) return;
    const listener = store.status.listeners.find((one) => one.pool === this.pool);
    say(this.title, side.algorithm);
    const known = new Map();
    const backends = [...pool.backends].sort((a, b) => collator.compare(a.name, b.name) || collator.compare(a.address, b.address));
    const rates = backends.map((backend) => store.track('backend', keyOf(pool.name, backend)).connections.mean(LATELY));
    const all = rates.reduce((sum, one) => sum + (one || 0), 0);
    backends.forEach((backend, i) => {
      const key = keyOf(pool.name, backend);
      const shown = this.backends.get(key) ?? { box: new Box('backend'), wire: svg('path', {}), number: svg('text', { class: 'number' }), before: null };
      known.set(key, shown);
      const done = demo.backends.find((one) => one.name === backend.name);
      Object.assign(shown, { backend, rate: rates[i], share: all > 0 ? (rates[i] || 0) / all : 0 });
      shown.done = done && describe(done) !== 'runs' ? describe(done) : backend.state === 'up' ? '' : backend.cause;
    });
    const changed = known.size !== this.backends.size || [...known.keys()].some((key) => !this.backends.has(key));
    this.backends = known;
    this.texts = {
      clients: [demo.traffic.clients === 'few' ? '8 clients' : 'clients', `${demo.traffic.rate}/s`],
      listener: ['listener', `${count(listener?.active ?? 0)} open`],
      algorithm: side.algorithm,
      failed: side.failed + side.errors + side.broken,
    };
    if (store.at !== this.at) {
      this.count(pool, store.at - (this.at ?? store.at));
      this.at = store.at;
    }
    if (changed) this.layout();
    else this.write();
  }

  /** Lets the connections since the last status start, spread over the next second. */
  count(pool, seconds) {
    const news = [...this.backends.values()].map((shown) => {
      const { connections, connect_failures: failures } = shown.backend;
      const grown = shown.before ? [Math.max(0, connections - shown.before[0]), Math.max(0, failures - shown.before[1])] : [0, 0];
      shown.before = [connections, failures];
      shown.failing = grown[1];
      return [shown, ...grown];
    });
    const masked = pool.failures_masked;
    this.retried = Math.max(0, masked - (this.masked ?? masked));
    this.masked = masked;
    if (seconds <= 0 || seconds > 5 || still.matches || document.hidden) return;
    const total = news.reduce((sum, [, good, bad]) => sum + good + bad, 0) / seconds;
    this.each = STEPS.find((step) => total / step <= MOST) ?? STEPS.at(-1);
    const now = performance.now();
    for (const [shown, good, bad] of news) {
      for (const [n, failed] of [[good, false], [bad, true]]) {
        const left = `left${failed}`;
        const dots = n / this.each + (shown[left] ?? 0);
        shown[left] = dots % 1;
        for (let i = 0; i < Math.floor(dots); i += 1) this.waiting.push({ shown, failed, start: now + ((i + Math.random()) / Math.floor(dots)) * 1000 });
      }
    }
    this.run();
  }

  /** Moves the dots, once a frame while there are any. */
  run() {
    if (this.running) return;
    this.running = true;
    const step = (now) => {
      this.waiting = this.waiting.filter((dot) => {
        if (dot.start > now) return true;
        dot.element = dot.failed ? svg('text', { class: 'failed' }, '✕') : svg('circle', { r: 4 });
        this.dots.append(dot.element);
        this.moving.push(dot);
        return false;
      });
      this.moving = this.moving.filter((dot) => {
        const part = (now - dot.start) / JOURNEY;
        if (part >= 1 || !dot.shown.wire.isConnected) {
          dot.element.remove();
          return false;
        }
        const { x, y } = dot.shown.wire.getPointAtLength(part * dot.shown.wire.getTotalLength());
        dot.element.setAttribute('transform', `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
        return true;
      });
      if (this.waiting.length + this.moving.length > 0) requestAnimationFrame(step);
      else this.running = false;
    };
    requestAnimationFrame(step);
  }

  /** Places everything for the width of the picture. */
  layout() {
    const { width } = this;
    if (!width || !this.texts) return;
    const rows = [...this.backends.values()];
    const narrow = width < NARROW;
    const head = narrow ? BOX + 28 : 0;
    const height = head + Math.max(rows.length, narrow ? 1 : 2) * ROW;
    mark(this.frame, 'viewBox', `-1 -1 ${width} ${height}`); // the outlines are half outside of their boxes
    this.frame.style.height = `${height}px`;
    const middle = (height - (ROW - BOX)) / 2;
    let wire;
    if (narrow) {
      const half = Math.floor((width - 40) / 2);
      this.clients.place(0, 0, half);
      this.listener.place(width - half, 0, half - 2);
      const [down, bus] = [width - half + 24, 10];
      wire = (y) => `M${half} ${BOX / 2} H${down} V${BOX + 14} H${bus} V${y} H26`;
      rows.forEach(({ box }, i) => box.place(26, head + i * ROW, width - 28));
    } else {
      const box = Math.min(330, Math.round(width * 0.45));
      const [first, second] = [Math.min(124, width * 0.2), Math.min(150, width * 0.2)];
      const from = Math.round(Math.max(first + 24, (width - box) * 0.34));
      this.clients.place(0, middle - BOX / 2, first);
      this.listener.place(from, middle - BOX / 2, second);
      const [out, to] = [from + second, width - box];
      wire = (y) => `M${first} ${middle} H${out} C${(out + to) / 2} ${middle} ${(out + to) / 2} ${y} ${to} ${y}`;
      rows.forEach((shown, i) => shown.box.place(to, i * ROW + (rows.length < 2 ? ROW / 2 : 0), box - 2));
    }
    for (const { box, wire: path, number } of rows) {
      mark(path, 'd', wire(box.y + BOX / 2));
      mark(number, 'x', String(box.x - 6));
      mark(number, 'y', String(box.y + BOX / 2 - 5));
    }
    arrange(this.lines, rows.flatMap(({ wire: path, number }) => [path, number]));
    arrange(this.boxes, [this.clients.element, this.listener.element, ...rows.map(({ box }) => box.element)]);
    this.write();
  }

  write() {
    if (!this.width || !this.texts) return;
    const { clients, listener, failed } = this.texts;
    this.clients.write({ left: clients[0], below: clients[1], alarm: failed > 0 ? `✕ ${count(failed)} failed` : '' });
    this.listener.write({ left: listener[0], below: listener[1], alarm: this.retried > 0 ? `↻ ${count(this.retried)} retried` : '' });
    const rows = [...this.backends.values()];
    for (const { box, backend, share, rate: now, done, failing, number, wire } of rows) {
      const tried = failing > 0 ? `✕ ${count(failing)} refused` : '';
      box.write({
        state: backend.state, left: `${sign(backend.state)} ${backend.name} ${backend.state}`, right: percent(share),
        below: done, corner: `${count(backend.active)} open`, alarm: tried, share,
      });
      say(number, still.matches ? `${rate(now || 0)}/s` : '');
      mark(wire, 'data-state', backend.state);
    }
    mark(this.element, 'data-still', still.matches ? 'true' : null);
    const dot = this.each === 1 ? 'one connection' : `${this.each} connections`;
    say(this.legend, still.matches
      ? 'numbers on the lines: connections per second · ✕ failed attempt · ↻ retried on another backend'
      : `● ${dot} · ✕ failed attempt · ↻ retried on another backend`);
    const told = rows.map(({ backend, share, done }) => `${backend.name} is ${backend.state}${done ? ` (${done})` : ''} with ${percent(share)} of the connections, ${count(backend.active)} open`);
    mark(this.frame, 'aria-label', `Clients send ${clients[1]} to ${this.pool}, which chooses by ${this.texts.algorithm}: ${told.join('; ') || 'there is no backend'}.`);
  }
}

/** A box with up to four texts and the share of its backend. */
class Box {
  constructor(kind) {
    this.outline = svg('rect', { class: 'outline', height: BOX });
    this.bar = svg('rect', { class: 'fill', height: 4 });
    this.texts = Object.fromEntries(['left', 'right', 'below', 'corner'].map((name) => [name, svg('text', { class: name })]));
    this.element = svg('g', { class: `box ${kind}` }, this.outline, this.bar, ...Object.values(this.texts));
  }

  place(x, y, width) {
    Object.assign(this, { x, y, width });
    mark(this.element, 'transform', `translate(${x} ${y})`);
    mark(this.outline, 'width', String(width));
    const at = { left: [10, 20], below: [10, 39], right: [width - 10, 20], corner: [width - 10, 39] };
    for (const [name, [left, top]] of Object.entries(at)) {
      mark(this.texts[name], 'x', String(left));
      mark(this.texts[name], 'y', String(top));
    }
    mark(this.bar, 'x', '0');
    mark(this.bar, 'y', String(BOX - 4));
  }

  write({ state = null, left, right = '', below = '', corner = '', alarm = '', share = 0 }) {
    mark(this.element, 'data-state', state);
    say(this.texts.right, right);
    say(this.texts.corner, corner);
    const room = (other) => this.width - 24 - other.length * LETTER;
    say(this.texts.left, cut(left, room(right)));
    // If there is room for only one text, a failure is more important than an action.
    say(this.texts.below, cut(alarm || below, room(corner)));
    mark(this.texts.below, 'class', alarm ? 'below alarm' : 'below');
    mark(this.bar, 'width', String(Math.round(share * this.width)));
    mark(this.outline, 'rx', { up: '9', joining: '26', down: '0', ejected: '0' }[state] ?? '9');
  }
}

/** A text that is cut in the middle if it is wider than `room` pixels. */
function cut(text, room) {
  const most = Math.max(3, Math.floor(room / LETTER));
  if (text.length <= most) return text;
  const head = Math.ceil((most - 1) * 0.7);
  return `${text.slice(0, head)}…${text.slice(text.length - (most - 1 - head))}`;
}
